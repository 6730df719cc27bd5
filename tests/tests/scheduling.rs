//! How compute threads and instances are shared.

use std::sync::atomic::{AtomicBool, Ordering};

use grid_tests::embedded::{EmbeddedNode, Repository, eventually, infer, y};
use serde_json::json;

#[test]
fn models_share_compute_time_by_weight_however_many_instances_they_have() {
    let repository = Repository::default()
        .with("many", "instances = 4\nweight = 100", "run_us = 3000")
        .with("heavy", "instances = 2\nweight = 300", "run_us = 3000");
    let node = EmbeddedNode::start(repository, "compute = { threads = 1, inline_below = '0us' }");
    let stop = AtomicBool::new(false);
    let share = std::thread::scope(|scope| {
        for (model, x) in [("many", 1.0), ("heavy", 2.0)] {
            for _ in 0..8 {
                let (node, stop) = (&node, &stop);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let response = infer(node.address(), model, &[x], &json!({})).expect("it is answered");
                        assert_eq!(response.status, 200, "{}", response.text());
                    }
                });
            }
        }
        eventually("both wait all the time", || node.script.runs().len() > 20);
        let before = node.script.runs().len();
        eventually("enough has run", || node.script.runs().len() > before + 120);
        stop.store(true, Ordering::Relaxed);
        let runs = node.script.runs();
        let heavy = runs[before..].iter().filter(|run| run[0] == 2.0).count();
        heavy as f64 / (runs.len() - before) as f64
    });
    let idle: Vec<_> = node
        .route("many")
        .lanes
        .iter()
        .filter(|lane| lane.stats().runs == 0)
        .cloned()
        .collect();
    assert!(idle.is_empty(), "every instance has its turns: {idle:?}");
    // By weight it is three quarters; by instances it would be a third, and without weights a half.
    assert!((0.65..0.85).contains(&share), "the heavy model had {share} of the runs");
}

#[test]
fn a_model_that_works_in_steps_is_never_run_on_a_callers_thread() {
    let node = EmbeddedNode::start(Repository::default().with("m", "instances = 1", "steps = 1"), "");
    for x in [1.0, 1.0, 3.0, 1.0, 2.0] {
        let response = node.infer("m", x).unwrap();
        assert_eq!(y(&response), Some(f64::from(x * 2.0)), "{}", response.text());
    }
}

#[test]
fn an_instance_that_was_never_used_does_not_draw_all_requests_to_itself() {
    let node = EmbeddedNode::start(Repository::default().with("m", "instances = 2", "gated = 1"), "");
    let held: Vec<_> = (0..6)
        .map(|index| {
            let request = node.infer_later("m", 1.0);
            eventually("it is accepted", || node.route("m").in_flight() == index + 1);
            request
        })
        .collect();
    let load: Vec<_> = node.route("m").lanes.iter().map(|lane| lane.in_flight()).collect();
    assert_eq!(load, [3, 3]);
    node.script.open_gate();
    for request in held {
        assert_eq!(y(&request.join().unwrap().unwrap()), Some(2.0));
    }
}

#[test]
fn a_request_that_waits_while_its_model_is_replaced_by_one_with_other_limits_is_told_so() {
    let stacking = |rows: usize| format!("instances = 1\n[batching]\nmax_batch_size = {rows}");
    let node = EmbeddedNode::start(
        Repository::default().with("m", &stacking(8), "gated = 1"),
        "http.drain_timeout = '50ms'",
    );
    let running = node.infer_later("m", 1.0);
    eventually("the first runs", || node.script.at_gate() == 1);
    let waiting = node.infer_later_with("m", &[5.0; 8], json!({}));
    eventually("the second waits", || node.route("m").lanes[0].waiting() == 1);
    node.repository.write("m", 1, &stacking(2), "gated = 1");
    node.node.rescan();
    let refused = waiting.join().unwrap().unwrap();
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.text().contains("replaced"), "{}", refused.text());
    node.script.open_gate();
    assert_eq!(y(&running.join().unwrap().unwrap()), Some(2.0));
    assert!(
        node.script.runs().iter().all(|run| run.len() <= 2),
        "{:?}",
        node.script.runs()
    );
}
