//! What ends a node, and what makes it look at its repository again.

use std::thread;
use std::time::Duration;

use grid_tests::embedded::eventually;
use grid_tests::load::{InferRequest, Load};
use grid_tests::process::NodeProcess;
use rustix::process::Signal;

use super::{copy_model, copy_of, models, status, without_onnxruntime};

/// More than any drain or start takes. Nothing is measured against it.
const LONG: Duration = Duration::from_secs(60);

fn state(node: &NodeProcess, model: &str) -> Option<String> {
    let index = node.post("/v2/repository/index", "").ok()?.json().ok()?;
    let entry = index.as_array()?.iter().find(|entry| entry["name"] == model)?;
    entry["state"].as_str().map(str::to_owned)
}

#[test]
fn a_node_that_is_terminated_under_load_answers_every_request_that_was_sent() {
    let mut node = without_onnxruntime(&models(), "http.drain_timeout = '40s'")
        .start()
        .expect("a node");
    let sample = models().join("credit_risk/sample.json");
    let load = Load {
        address: node.address(),
        connections: 8,
        request: InferRequest::from_sample("credit_risk", &sample)
            .expect("a sample")
            .json(),
        warm_up: Duration::ZERO,
        // Ends with the last connection.
        duration: LONG,
    };
    let load = thread::spawn(move || load.run());
    let answered = || {
        let statistics = node.get("/v2/models/credit_risk/stats").ok()?.json().ok()?;
        statistics["model_stats"][0]["inference_stats"]["success"]["count"].as_u64()
    };
    eventually("the load is under way", || answered() > Some(1000));
    node.terminate().expect("a signal");
    eventually("it is not ready any more", || {
        status(&node, "/v2/health/ready") != Some(200)
    });
    let exit = node
        .wait(Duration::from_secs(40))
        .expect("an end within the drain timeout");
    assert_eq!(exit.code(), Some(0), "{}", node.output());
    let report = load.join().expect("no panic").expect("a load");
    assert_eq!(report.errors, 0, "{:?}\n{}", report.first_error, node.output());
    assert_eq!(report.connections_lost, 8, "no new connection was taken at the end");
    assert!(node.output().contains("draining"), "{}", node.output());
}

#[test]
fn an_interrupted_node_drains_too() {
    let mut node = without_onnxruntime(&models(), "").start().expect("a node");
    node.signal(Signal::INT).expect("a signal");
    let exit = node.wait(LONG).expect("its end");
    assert_eq!(exit.code(), Some(0), "{}", node.output());
    assert!(node.output().contains("SIGINT: draining"), "{}", node.output());
}

#[test]
fn a_hang_up_brings_what_is_new_in_the_repository_and_takes_what_is_gone() {
    let repository = copy_of(&["digits", "credit_risk"]);
    let mut node = without_onnxruntime(repository.path(), "").start().expect("a node");
    assert_eq!(status(&node, "/v2/models/digits/ready"), Some(200));
    copy_model("breast_cancer", &repository.path().join("newcomer"));
    std::fs::remove_dir_all(repository.path().join("digits")).expect("a model can be removed");
    assert_eq!(status(&node, "/v2/models/newcomer/ready"), Some(404));
    node.reload().expect("a signal");
    eventually("the new model is served", || {
        state(&node, "newcomer").as_deref() == Some("READY")
    });
    eventually("the removed one is not", || state(&node, "digits").is_none());
    assert_eq!(status(&node, "/v2/models/digits/ready"), Some(404));
    assert_eq!(status(&node, "/v2/models/newcomer/ready"), Some(200));
    assert_eq!(status(&node, "/v2/models/credit_risk/ready"), Some(200));
}

#[test]
fn a_killed_node_starts_again_on_its_port_with_its_data_directory() {
    let data = tempfile::TempDir::new().expect("a temporary directory");
    let repository = copy_of(&["credit_risk"]);
    let more = format!("node.data_dir = '{}'", data.path().join("data").display());
    // An address of its own: nothing else of this machine takes the port in between.
    let command = |listen: &str| without_onnxruntime(repository.path(), &more).env("GRID__HTTP__LISTEN", listen);
    let mut killed = command("127.0.0.77:0").start().expect("a node");
    let address = killed.address();
    // A connection that the killed node leaves behind must not hold the port.
    let _open = std::net::TcpStream::connect(address).expect("a connection");
    let exit = killed.kill().expect("its end");
    assert_eq!(exit.code(), None, "it ended by a signal");
    let node = command(&address.to_string()).start().expect("the node again");
    assert_eq!(node.address(), address);
    assert_eq!(status(&node, "/v2/models/credit_risk/ready"), Some(200));
}
