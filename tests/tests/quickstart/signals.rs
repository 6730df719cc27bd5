//! What ends a node, and what makes it look at its repository again.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use grid_tests::embedded::eventually;
use grid_tests::load::{InferRequest, Load, http_request};
use grid_tests::process::NodeProcess;
use rustix::process::Signal;
use serde_json::json;

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
fn a_node_that_is_terminated_while_it_loads_does_not_load_to_the_end_first() {
    let repository = copy_of(&["breast_cancer"]);
    // Hours of warming up.
    let warm_up = "[[warm_up]]\nrows = 65536\ncount = 1000\n".repeat(50);
    let manifest = format!("instances = 100\n{warm_up}");
    std::fs::write(repository.path().join("breast_cancer/model.toml"), manifest).expect("a file can be written");
    let live = http_request("GET", "/v2/health/live", &[("Connection", "close")], b"");
    let mut node = without_onnxruntime(repository.path(), "")
        .ready_when(live)
        .start()
        .expect("a node");
    eventually("it loads", || {
        let index = node.post("/v2/repository/index", "").expect("an answer").text();
        index.contains("LOADING")
    });
    // A rescan waits behind the load, and holds nothing up either.
    node.reload().expect("a signal");
    node.terminate().expect("a signal");
    let exit = node.wait(LONG).expect("its end");
    assert_eq!(exit.code(), Some(0), "{}", node.output());
}

#[test]
fn a_drain_waits_for_who_reads_a_large_answer_slowly() {
    const ROWS: usize = 400_000;
    let mut node = without_onnxruntime(&models(), "").start().expect("a node");
    // Zeros, sent raw; the answer is JSON of many megabytes, more than sockets hold.
    let raw = ROWS * 30 * size_of::<f32>();
    let input = json!({"name": "measurements", "datatype": "FP32", "shape": [ROWS, 30],
        "parameters": {"binary_data_size": raw}});
    let header = json!({ "inputs": [input] }).to_string();
    let length = header.len().to_string();
    let mut body = header.into_bytes();
    body.resize(body.len() + raw, 0);
    let headers = [("Inference-Header-Content-Length", length.as_str())];
    let mut client = TcpStream::connect(node.address()).expect("a connection");
    client
        .write_all(&http_request("POST", "/v2/models/breast_cancer/infer", &headers, &body))
        .expect("a node that reads");
    let mut answer = vec![0; 4096];
    client.read_exact(&mut answer).expect("the beginning of the answer");
    node.terminate().expect("a signal");
    node.wait(Duration::from_secs(2)).expect_err("it waits for its reader");
    client.read_to_end(&mut answer).expect("the rest of the answer");
    let text = String::from_utf8(answer).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let promised = format!("content-length: {}", body.len());
    assert!(head.to_ascii_lowercase().contains(&promised), "{head}\n{}", body.len());
    let exit = node.wait(LONG).expect("its end");
    assert_eq!(exit.code(), Some(0), "{}", node.output());
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
    let _open = TcpStream::connect(address).expect("a connection");
    let exit = killed.kill().expect("its end");
    assert_eq!(exit.code(), None, "it ended by a signal");
    let node = command(&address.to_string()).start().expect("the node again");
    assert_eq!(node.address(), address);
    assert_eq!(status(&node, "/v2/models/credit_risk/ready"), Some(200));
}
