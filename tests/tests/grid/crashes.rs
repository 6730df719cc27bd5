//! Nodes that end, or freeze, under load.

use std::thread;
use std::time::{Duration, Instant};

use grid_tests::grid::{Beds, Callers, CallersOptions, MODELS};

use crate::{BEDS, CALLERS, PACE, SHARDS, three};

/// How often nodes are killed: `GRID_KILLS`, or five times.
fn kills() -> usize {
    let text = std::env::var("GRID_KILLS").unwrap_or_else(|_| "5".to_owned());
    text.parse().expect("GRID_KILLS is a number")
}

#[test]
fn no_request_fails_when_nodes_are_killed_and_their_replicas_come_up_elsewhere() {
    let (mut grid, _repository) = three();
    let callers = Callers::start(grid.callers(CALLERS, &MODELS));
    let mut gaps = Vec::new();
    let beds = Beds::start(grid.addresses(), BEDS, PACE);
    for kill in 0..kills() {
        callers.go_on(500);
        beds.go_on(100);
        grid.node(kill % 3).kill();
        callers.go_on(500);
        beds.go_on(100);
        // With the replicas of the killed one on the other two.
        let status = grid.rests();
        assert_eq!(status.shards.len(), SHARDS);
        callers.go_on(500);
        grid.start(kill % 3);
        grid.rests();
        let report = callers.take();
        assert_eq!(report.failed, 0, "at kill {kill}: {report:#?}\n{}", grid.logs());
        let report = beds.take();
        assert!(report.wrong.is_empty(), "at kill {kill}: {report:#?}\n{}", grid.logs());
        println!("kill {kill}: sequences went on elsewhere after {:?}", report.gaps);
        gaps.extend(report.gaps);
    }
    callers.stop().assert_none_failed();
    beds.stop().assert_right();
    assert!(gaps.len() >= kills(), "sequences lived on the killed nodes: {gaps:?}");
}

#[test]
fn a_node_that_freezes_is_routed_around_and_comes_back() {
    let (mut grid, _repository) = three();
    let frozen_for = Duration::from_secs(10);
    let to = |nodes: &[usize], callers, deadline| CallersOptions {
        nodes: nodes.iter().map(|place| grid.addresses()[*place]).collect(),
        deadline,
        ..grid.callers(callers, &MODELS)
    };
    // Callers of the others have no time to wait for the frozen one; its own have.
    let others = Callers::start(to(&[0, 2], CALLERS / 2, frozen_for / 2));
    let own = Callers::start(to(&[1], CALLERS / 8, frozen_for * 3));
    let beds = Beds::start(grid.addresses(), BEDS, PACE);
    beds.go_on(100);
    others.go_on(500);
    own.go_on(100);
    let begun = Instant::now();
    grid.node(1).process().freeze().expect("a signal");
    // The freeze takes its time: that is what is tested.
    while begun.elapsed() < frozen_for {
        thread::sleep(Duration::from_millis(100));
    }
    let during = others.take();
    grid.node(1).process().resume().expect("a signal");
    during.assert_none_failed();
    own.go_on(100);
    others.go_on(500);
    let status = grid.rests();
    assert_eq!(status.shards.len(), SHARDS);
    own.stop().assert_none_failed();
    others.stop().assert_none_failed();
    // Those that were on it went on elsewhere as soon as it was known to be down, and nothing of it counted since.
    let report = beds.stop();
    assert!(report.wrong.is_empty(), "{report:#?}\n{}", grid.logs());
    assert!(!report.gaps.is_empty(), "{report:?}");
    println!("sequences went on elsewhere after {:?}", report.gaps);
}
