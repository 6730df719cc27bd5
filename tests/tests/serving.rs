//! How requests are scheduled, stacked and traced, and what is loaded.

use std::io::Write;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use grid_node::actors::ReplicaState;
use grid_tests::embedded::{EmbeddedNode, Repository, eventually, get, infer, infer_request, post, y};
use serde_json::json;
use tracing::span;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

#[test]
fn waiting_requests_are_stacked_up_to_the_largest_batch_and_never_beyond() {
    let manifest = "instances = 1\n[batching]\nmax_batch_size = 4";
    let node = EmbeddedNode::start(Repository::default().with("m", manifest, "gated = 1"), "");
    let first = node.infer_later("m", 1.0);
    eventually("the first request runs", || node.script.at_gate() == 1);
    let rows: [&[f32]; 5] = [&[2.0], &[3.0, 3.5], &[4.0, 4.5, 4.7], &[5.0], &[6.0]];
    let later: Vec<_> = rows
        .iter()
        .enumerate()
        .map(|(index, x)| {
            let request = node.infer_later_with("m", x, json!({}));
            let waiting = || node.route("m").lanes[0].waiting() == index + 1;
            eventually("it waits", waiting);
            request
        })
        .collect();
    node.script.open_gate();
    for (x, request) in rows.iter().zip(later) {
        assert_eq!(y(&request.join().unwrap().unwrap()), Some(f64::from(x[0] * 2.0)));
    }
    first.join().unwrap().unwrap();
    let runs = node.script.runs();
    assert!(runs.iter().all(|run| run.len() <= 4), "{runs:?}");
    // The first two lead; the third does not fit beside them, the fourth does.
    assert_eq!(runs[1..], [vec![2.0, 3.0, 3.5, 5.0], vec![4.0, 4.5, 4.7, 6.0]]);
    let too_large = infer(node.address(), "m", &[0.5; 5], &json!({})).unwrap();
    assert_eq!(too_large.status, 400);
    assert!(too_large.text().contains("at most 4 rows"), "{}", too_large.text());
}

#[test]
fn an_idle_instance_does_not_wait_for_company() {
    let manifest = "instances = 1\n[batching]\nmax_batch_size = 8\nmax_queue_delay = '30s'";
    let node = EmbeddedNode::start(Repository::default().with("m", manifest, ""), "");
    for x in [1.0, 2.0] {
        let response = infer(node.address(), "m", &[x], &json!({"timeout": 20_000_000})).unwrap();
        assert_eq!(y(&response), Some(f64::from(x * 2.0)), "{}", response.text());
    }
}

#[test]
fn urgent_requests_overtake_and_the_rest_keeps_its_order() {
    let node = EmbeddedNode::start(Repository::default().with("m", "instances = 1", "gated = 1"), "");
    let first = node.infer_later("m", 1.0);
    eventually("the first request runs", || node.script.at_gate() == 1);
    let mut later = Vec::new();
    for (x, priority) in [(2.0, 0), (3.0, 9), (4.0, 1), (5.0, 0)] {
        later.push(node.infer_later_with("m", &[x], json!({"priority": priority})));
        eventually("it waits", || node.route("m").lanes[0].waiting() == later.len());
    }
    node.script.open_gate();
    for request in later {
        assert_eq!(request.join().unwrap().unwrap().status, 200);
    }
    first.join().unwrap().unwrap();
    let order: Vec<f32> = node.script.runs().concat();
    assert_eq!(
        order,
        [1.0, 4.0, 3.0, 2.0, 5.0],
        "zero is the model's default, which is the least urgent"
    );
}

#[test]
fn a_model_with_short_runs_does_not_wait_for_one_with_long_ones() {
    let repository =
        Repository::default()
            .with("slow", "instances = 4", "gated = 1")
            .with("quick", "instances = 1", "run_us = 200");
    let node = EmbeddedNode::start(repository, "compute = { threads = 2, inline_below = '0us' }");
    // Once, so that its run time is known: what was never measured may be anything.
    assert_eq!(node.infer("quick", 1.0).unwrap().status, 200);
    let slow: Vec<_> = (0..4).map(|_| node.infer_later("slow", 1.0)).collect();
    eventually("long runs hold threads", || node.script.at_gate() >= 2);
    for x in [2.0, 3.0] {
        let answer = infer(node.address(), "quick", &[x], &json!({"timeout": 20_000_000})).unwrap();
        assert_eq!(y(&answer), Some(f64::from(x * 2.0)), "{}", answer.text());
    }
    node.script.open_gate();
    for request in slow {
        assert_eq!(request.join().unwrap().unwrap().status, 200);
    }
}

#[test]
fn requests_of_a_model_that_works_in_steps_join_and_leave_between_steps() {
    let node = EmbeddedNode::start(
        Repository::default().with("m", "instances = 1", "steps = 1\ngated = 1"),
        "",
    );
    let long = node.infer_later("m", 5.0);
    eventually("the long request is in its first step", || node.script.at_gate() == 1);
    let short = node.infer_later("m", 2.0);
    eventually("the short request waits", || node.route("m").lanes[0].waiting() == 1);
    node.script.open_gate();
    assert_eq!(y(&short.join().unwrap().unwrap()), Some(4.0));
    assert_eq!(y(&long.join().unwrap().unwrap()), Some(10.0));
    let steps = node.script.runs();
    assert_eq!(steps, [vec![5.0], vec![5.0, 2.0], vec![5.0, 2.0], vec![5.0], vec![5.0]]);
}

#[test]
fn a_new_version_takes_over_without_a_request_refused() {
    let node = EmbeddedNode::start(Repository::default().with("m", "instances = 1", ""), "");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let response = node.infer("m", 1.0).unwrap();
                assert_eq!(y(&response), Some(2.0), "{}", response.text());
            }
        });
        for version in 2..5 {
            node.repository.write("m", version, "instances = 1", "run_us = 10");
            assert_eq!(node.node.rescan(), Vec::<String>::new());
            let response = node.infer("m", 1.0).unwrap();
            assert_eq!(response.json().unwrap()["model_version"], version.to_string());
        }
        // A file that changes under its version is loaded again, and the old content serves until then.
        node.repository.write("m", 4, "instances = 3", "run_us = 20");
        node.node.rescan();
        let lanes = node.node.routes().resolve("m", Some("4")).unwrap().lanes.len();
        assert_eq!(lanes, 3);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        client.join().unwrap();
    });
}

#[test]
fn a_model_that_cannot_be_loaded_leaves_the_others_serving_and_is_named() {
    let repository = Repository::default()
        .with("good", "instances = 1", "")
        .with("broken", "instances = 1", "not a script")
        .with("large", "limits = { memory = '1GiB' }", "")
        .with("misspelt", "instanzes = 1", "");
    let node = EmbeddedNode::start(repository, "memory.budget = '64MiB'");
    assert_eq!(y(&node.infer("good", 1.0).unwrap()), Some(2.0));
    let reason = |model: &str| match node.route(model).state.clone() {
        ReplicaState::Failed(reason) => reason,
        other => panic!("{model} is {other:?}"),
    };
    assert!(reason("broken").contains("broken/1/model.onnx: not a valid model: expected `key = number`"));
    assert!(
        reason("large").contains("needs 1073741824 bytes"),
        "{}",
        reason("large")
    );
    let refused = node.infer("broken", 1.0).unwrap();
    assert_eq!(refused.status, 503);
    assert!(refused.text().contains("model.onnx"), "{}", refused.text());
    let unknown = node.infer("misspelt", 1.0).unwrap();
    assert_eq!(unknown.status, 404);
    let load = post(node.address(), "/v2/repository/models/misspelt/load", "").unwrap();
    assert_eq!(load.status, 400);
    assert!(load.text().contains("did you mean `instances`?"), "{}", load.text());
    let index = post(node.address(), "/v2/repository/index", "")
        .unwrap()
        .json()
        .unwrap();
    let states: Vec<_> = index
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["state"].clone())
        .collect();
    assert_eq!(states, ["UNAVAILABLE", "READY", "UNAVAILABLE"]);
}

#[test]
fn a_file_that_loading_cannot_finish_reading_leaves_the_old_version_serving() {
    let node = EmbeddedNode::start(Repository::default().with("m", "instances = 1", ""), "");
    node.repository.write("m", 1, "instances = 1", "garbage");
    let load = post(node.address(), "/v2/repository/models/m/load", "").unwrap();
    assert_eq!(load.status, 400);
    assert!(load.text().contains("garbage"), "{}", load.text());
    assert_eq!(y(&node.infer("m", 1.0).unwrap()), Some(2.0));
}

/// Remembers which span was opened under which.
#[derive(Clone, Default)]
struct Parents(Arc<Mutex<Vec<Opened>>>);

/// A span's name and that of its parent.
type Opened = (String, Option<String>);

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Parents {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        let parent = context.span(id).and_then(|span| Some(span.parent()?.name().to_owned()));
        let name = attributes.metadata().name().to_owned();
        self.0
            .lock()
            .expect("no test panics while it holds this")
            .push((name, parent));
    }
}

/// The one test of this binary that installs a subscriber: it is the process's.
#[test]
fn the_spans_of_a_request_lead_from_the_gateway_through_the_router_to_the_shard() {
    let parents = Parents::default();
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(parents.clone())).unwrap();
    let node = EmbeddedNode::start(Repository::default().with("traced", "instances = 1", ""), "");
    parents.0.lock().unwrap().clear();
    for _ in 0..2 {
        assert_eq!(node.infer("traced", 1.0).unwrap().status, 200);
    }
    let seen = parents.0.lock().unwrap().clone();
    let under = |child: &str, parent: &str| seen.contains(&(child.to_owned(), Some(parent.to_owned())));
    assert!(under("router.dispatch", "request"), "{seen:?}");
    assert!(under("shard.run", "router.dispatch"), "{seen:?}");
}

#[test]
fn metrics_count_outcomes_by_model_and_version() {
    let node = EmbeddedNode::start(Repository::default().with("counted", "instances = 1", ""), "");
    for x in [1.0, 2.0, grid_tests::scripted::FAILS] {
        node.infer("counted", x).unwrap();
    }
    let metrics = get(node.address(), "/metrics").unwrap().text();
    for line in [
        "grid_requests_total{model=\"counted\",version=\"1\",outcome=\"success\"} 2",
        "grid_requests_total{model=\"counted\",version=\"1\",outcome=\"model_failed\"} 1",
        "grid_request_seconds_count{model=\"counted\",version=\"1\"} 3",
        "grid_ready_instances{model=\"counted\",version=\"1\"} 1",
        "grid_in_flight{model=\"counted\",version=\"1\"} 0",
    ] {
        assert!(metrics.contains(line), "{line} in:\n{metrics}");
    }
}

#[test]
fn a_request_whose_client_has_gone_is_counted_as_cancelled() {
    let node = EmbeddedNode::start(Repository::default().with("left", "instances = 1", "gated = 1"), "");
    let mut departing = TcpStream::connect(node.address()).unwrap();
    departing.write_all(&infer_request("left", &[7.0], &json!({}))).unwrap();
    eventually("it runs", || node.script.at_gate() == 1);
    drop(departing);
    let cancelled = "grid_requests_total{model=\"left\",version=\"1\",outcome=\"cancelled\"} 1";
    eventually("its departure is counted", || {
        get(node.address(), "/metrics").unwrap().text().contains(cancelled)
    });
    node.script.open_gate();
}

#[test]
fn a_version_that_is_gone_is_not_left_in_flight_in_the_metrics() {
    let node = EmbeddedNode::start(Repository::default().with("passing", "instances = 1", "gated = 1"), "");
    let request = node.infer_later("passing", 1.0);
    eventually("it runs", || node.script.at_gate() == 1);
    let shows = |in_flight: usize| {
        let line = format!("grid_in_flight{{model=\"passing\",version=\"1\"}} {in_flight}");
        get(node.address(), "/metrics").unwrap().text().contains(&line)
    };
    assert!(shows(1));
    node.script.open_gate();
    assert_eq!(y(&request.join().unwrap().unwrap()), Some(2.0));
    std::fs::remove_dir_all(node.repository.path().join("passing")).unwrap();
    assert_eq!(node.node.rescan(), Vec::<String>::new());
    assert!(shows(0));
}

#[test]
fn a_run_that_hangs_holds_a_stop_up_no_longer_than_the_drain_timeout() {
    let repository = Repository::default().with("m", "instances = 1", "gated = 1");
    let node = EmbeddedNode::start(repository, "http.drain_timeout = '500ms'");
    let hanging = node.infer_later("m", 1.0);
    eventually("it hangs", || node.script.at_gate() == 1);
    // It ends before the gate, which opens by itself after a minute.
    let stopping = std::thread::spawn(move || node.node.stop());
    eventually("the node has stopped", || stopping.is_finished());
    assert_eq!(node.script.at_gate(), 1, "the run still hangs");
    node.script.open_gate();
    drop(hanging);
}
