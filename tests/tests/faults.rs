//! What crashes, errors, overload and departures cost: the one request that they belong to, and no other.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use grid_core::model::ModelId;
use grid_node::actors::{Crash, FindShard, ReplicaState};
use grid_tests::embedded::{EmbeddedNode, Repository, eventually, infer, infer_request, y};
use grid_tests::scripted::{FAILS, PANICS};
use serde_json::json;

const ONE: &str = "instances = 1";
const STACKING: &str = "instances = 1\n[batching]\nmax_batch_size = 16";
const GATED: &str = "gated = 1";

/// A node whose model `m` has one instance that is busy at the gate with the input 1.
fn busy_node(manifest: &str) -> (EmbeddedNode, std::thread::JoinHandle<()>) {
    let node = EmbeddedNode::start(Repository::default().with("m", manifest, GATED), "");
    let first = node.infer_later("m", 1.0);
    eventually("the first request is at the gate", || node.script.at_gate() == 1);
    let first = std::thread::spawn(move || {
        let response = first.join().expect("it does not panic").expect("it is answered");
        assert_eq!(y(&response), Some(2.0));
    });
    (node, first)
}

fn waiting(node: &EmbeddedNode) -> usize {
    node.route("m").lanes.iter().map(|lane| lane.waiting()).sum()
}

#[test]
fn a_departed_clients_queued_work_is_never_computed() {
    let (node, first) = busy_node(ONE);
    let mut departing = TcpStream::connect(node.address()).unwrap();
    departing.write_all(&infer_request("m", &[7.0], &json!({}))).unwrap();
    eventually("the second request waits", || waiting(&node) == 1);
    drop(departing);
    // The place in flight is given back when the job is dropped, which is when a compute thread finds nobody waiting.
    let third = node.infer_later("m", 3.0);
    eventually("the third request waits too", || waiting(&node) == 2);
    eventually("the departure is noticed", || node.node.requests() == 2);
    node.script.open_gate();
    assert_eq!(y(&third.join().unwrap().unwrap()), Some(6.0));
    first.join().unwrap();
    assert!(!node.script.has_run(7.0), "ran: {:?}", node.script.runs());
}

#[test]
fn a_request_that_fails_or_panics_does_so_alone_and_its_batch_is_answered() {
    for (bad, status, reason) in [(FAILS, 500, "makes it fail"), (PANICS, 500, "makes it panic")] {
        let (node, first) = busy_node(STACKING);
        let inputs = [2.0, 3.0, bad, 4.0, 5.0];
        let requests: Vec<_> = inputs.iter().map(|&x| node.infer_later("m", x)).collect();
        eventually("all wait", || waiting(&node) == inputs.len());
        node.script.open_gate();
        for (x, request) in inputs.iter().zip(requests) {
            let response = request.join().unwrap().unwrap();
            if *x == bad {
                assert_eq!(response.status, status);
                assert!(response.text().contains(reason), "{}", response.text());
            } else {
                assert_eq!(y(&response), Some(f64::from(x * 2.0)), "{}", response.text());
            }
        }
        first.join().unwrap();
        assert!(
            node.script.runs().iter().any(|run| run.len() == inputs.len()),
            "they were one batch: {:?}",
            node.script.runs()
        );
        let after = node.infer("m", 9.0).unwrap();
        assert_eq!(y(&after), Some(18.0), "{}", after.text());
    }
}

#[test]
fn a_model_that_keeps_panicking_is_quarantined_and_a_load_takes_it_back() {
    let repository = Repository::default().with("m", ONE, "");
    let config = "supervision = { max_restarts = 2, backoff = '1ms' }";
    let node = EmbeddedNode::start(repository, config);
    for _ in 0..3 {
        assert_eq!(node.infer("m", PANICS).unwrap().status, 500);
    }
    eventually("it is quarantined", || {
        node.route("m").state == ReplicaState::Quarantined
    });
    let refused = node.infer("m", 1.0).unwrap();
    assert_eq!(refused.status, 503);
    assert!(refused.text().contains("quarantined"), "{}", refused.text());
    let loaded = grid_tests::embedded::post(node.address(), "/v2/repository/models/m/load", "").unwrap();
    assert_eq!(loaded.status, 200, "{}", loaded.text());
    assert_eq!(y(&node.infer("m", 1.0).unwrap()), Some(2.0));
}

#[test]
fn shard_actors_killed_under_load_lose_no_request() {
    let repository = Repository::default().with("m", "instances = 2", "run_us = 100");
    let node = EmbeddedNode::start(repository, "supervision = { max_restarts = 1000, backoff = '1ms' }");
    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let outcomes = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut outcomes = BTreeMap::new();
                    while !stop.load(Ordering::Relaxed) {
                        let response =
                            infer(node.address(), "m", &[3.0], &json!({})).expect("every request is answered");
                        let right = response.status == 200 && y(&response) == Some(6.0);
                        *outcomes.entry((response.status, right)).or_insert(0) += 1;
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    outcomes
                })
            })
            .collect();
        let id = ModelId {
            name: "m".parse().unwrap(),
            version: 1,
        };
        let mut crashes = 0;
        while crashes < 20 {
            let find = FindShard {
                id: id.clone(),
                instance: crashes % 2,
            };
            if let Some(shard) = node.find_shard(find) {
                shard.do_send(Crash);
                crashes += 1;
            }
            let ready = || node.route("m").lanes.len() == 2;
            eventually("both instances are ready again", ready);
            let enough = answered.load(Ordering::Relaxed) + 10;
            eventually("requests go on", || answered.load(Ordering::Relaxed) >= enough);
        }
        stop.store(true, Ordering::Relaxed);
        let mut all: BTreeMap<(u16, bool), u64> = BTreeMap::new();
        for client in clients {
            for (outcome, count) in client.join().unwrap() {
                *all.entry(outcome).or_default() += count;
            }
        }
        all
    });
    assert_eq!(outcomes.keys().collect::<Vec<_>>(), [&(200, true)], "{outcomes:?}");
}

#[test]
fn a_full_queue_refuses_with_retry_after_and_answers_what_it_accepted() {
    let (node, first) = busy_node("instances = 1\n[limits]\nqueue = 3");
    let accepted: Vec<_> = (0..3).map(|_| node.infer_later("m", 2.0)).collect();
    eventually("the queue is full", || waiting(&node) == 3);
    let refused = node.infer("m", 5.0).unwrap();
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.header("retry-after").is_some());
    assert!(refused.text().contains("3 requests wait already"), "{}", refused.text());
    node.script.open_gate();
    for request in accepted {
        assert_eq!(y(&request.join().unwrap().unwrap()), Some(4.0));
    }
    first.join().unwrap();
}

#[test]
fn a_request_whose_deadline_passes_in_the_queue_is_answered_then_and_never_computed() {
    let (node, first) = busy_node(ONE);
    let late = infer(node.address(), "m", &[7.0], &json!({"timeout": 50_000})).unwrap();
    assert_eq!(late.status, 504, "{}", late.text());
    assert!(late.text().contains("50ms"), "{}", late.text());
    node.script.open_gate();
    first.join().unwrap();
    assert_eq!(y(&node.infer("m", 2.0).unwrap()), Some(4.0));
    assert!(!node.script.has_run(7.0));
}

#[test]
fn a_request_that_would_miss_its_deadline_in_the_queue_is_refused_at_once() {
    let repository = Repository::default().with("m", ONE, "run_us = 20000");
    let node = EmbeddedNode::start(repository, "");
    // So that the model's run time is known.
    node.infer("m", 1.0).unwrap();
    let others: Vec<_> = (0..20).map(|_| node.infer_later("m", 2.0)).collect();
    eventually("a queue has formed", || waiting(&node) >= 10);
    let refused = infer(node.address(), "m", &[7.0], &json!({"timeout": 5_000})).unwrap();
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.text().contains("the wait is"), "{}", refused.text());
    for other in others {
        assert_eq!(y(&other.join().unwrap().unwrap()), Some(4.0));
    }
    assert!(!node.script.has_run(7.0));
}

#[test]
fn draining_answers_what_was_accepted_and_refuses_new_connections() {
    let (node, first) = busy_node(ONE);
    let queued = node.infer_later("m", 2.0);
    eventually("the second request waits", || waiting(&node) == 1);
    let (address, script) = (node.address(), node.script.clone());
    let stopping = std::thread::spawn(move || node.node.stop());
    eventually("no new connection is taken", || {
        TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err()
    });
    assert!(!stopping.is_finished(), "it waits for what it accepted");
    script.open_gate();
    assert_eq!(y(&queued.join().unwrap().unwrap()), Some(4.0));
    first.join().unwrap();
    stopping.join().unwrap();
}

#[test]
fn unloading_answers_what_was_accepted_and_names_the_model_to_who_comes_later() {
    let (node, first) = busy_node(ONE);
    let queued = node.infer_later("m", 2.0);
    eventually("the second request waits", || waiting(&node) == 1);
    let address = node.address();
    let unload = std::thread::spawn(move || grid_tests::embedded::post(address, "/v2/repository/models/m/unload", ""));
    eventually("it is draining", || node.route("m").state == ReplicaState::Draining);
    let late = node.infer("m", 5.0).unwrap();
    assert_eq!(late.status, 503);
    assert!(
        late.text().contains("m version 1 is not ready: it is being unloaded"),
        "{}",
        late.text()
    );
    node.script.open_gate();
    assert_eq!(y(&queued.join().unwrap().unwrap()), Some(4.0));
    first.join().unwrap();
    assert_eq!(unload.join().unwrap().unwrap().status, 200);
    assert_eq!(node.route("m").state, ReplicaState::Unloaded);
}
