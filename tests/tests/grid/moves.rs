//! Planned moves under load: none may cost a request.

use grid_tests::grid::{Beds, Callers, Grid, MODELS, ShardStatus, Status};

use crate::{BEDS, CALLERS, PACE, SHARDS, three};

/// Does something while callers call, and says what the grid is like at rest after it.
fn under_load(grid: &mut Grid, does: impl FnOnce(&mut Grid, &Callers)) -> Status {
    let callers = Callers::start(grid.callers(CALLERS, &MODELS));
    callers.go_on(500);
    does(grid, &callers);
    let status = grid.rests();
    callers.go_on(500);
    let report = callers.stop();
    assert_eq!(report.failed, 0, "{report:#?}\n{}", grid.logs());
    assert_eq!(status.shards.len(), SHARDS);
    status
}

#[test]
fn a_node_that_leaves_takes_no_request_with_it() {
    let (mut grid, _repository) = three();
    let status = under_load(&mut grid, |grid, _| grid.node(0).stop());
    assert_eq!(status.node("a").map(|node| node.state.as_str()), Some("left"));
}

#[test]
fn all_nodes_are_restarted_one_after_the_other_and_no_request_or_sequence_is_lost() {
    let (mut grid, _repository) = three();
    // So slow that none ends before all is over: one that begins while its node leaves begins elsewhere, and need not move.
    let beds = Beds::start(grid.addresses(), BEDS, PACE * 20);
    beds.go_on(BEDS as u64);
    under_load(&mut grid, |grid, callers| {
        for place in 0..3 {
            grid.node(place).stop();
            grid.start(place);
            grid.rests();
            callers.go_on(200);
            beds.go_on(BEDS as u64);
        }
    });
    let report = beds.stop();
    assert!(report.wrong.is_empty(), "{report:#?}\n{}", grid.logs());
    // Each was on one of the nodes that left.
    assert!(report.gaps.len() >= BEDS, "{report:?}");
    println!("sequences went on elsewhere after {:?}", report.gaps);
}

#[test]
fn a_fourth_node_joins_under_load() {
    let (mut grid, repository) = three();
    let d = grid.plan("d", repository.path());
    let callers = Callers::start(grid.callers(CALLERS, &MODELS));
    callers.go_on(500);
    grid.start(d);
    let status = grid.rests();
    let hosts = |shard: &ShardStatus| shard.ready().contains("d");
    assert!(status.shards.iter().any(hosts), "it has taken nothing on: {status:?}");
    callers.go_on(500);
    let report = callers.stop();
    assert_eq!(report.failed, 0, "{report:#?}\n{}", grid.logs());
    assert_eq!(status.up().len(), 4);
}

/// The node that has most in memory, and how much.
fn fullest(status: &Status) -> (usize, u64) {
    let used = status.nodes.iter().map(|node| node.memory_used).enumerate();
    used.max_by_key(|(_, used)| *used).expect("a grid has nodes")
}

#[test]
fn a_node_whose_memory_is_halved_hands_over_what_has_no_room() {
    let (mut grid, _repository) = three();
    let (place, used) = fullest(&grid.rests());
    let name = grid.nodes()[place].name().to_owned();
    let status = under_load(&mut grid, |grid, _| {
        let half = format!("{{\"memory\": {}}}", used / 2);
        grid.node(place).post("/v2/grid/capacity", &half);
        let fits = |status: &Status| status.node(&name).is_some_and(|node| node.memory_used <= used / 2);
        grid.until(place, "it has handed over", fits);
    });
    assert_eq!(status.node(&name).map(|node| node.memory), Some(used / 2));
}

#[test]
fn a_changed_budget_is_taken_from_the_config_when_it_is_read_again() {
    let (mut grid, _repository) = three();
    let (place, used) = fullest(&grid.rests());
    let name = grid.nodes()[place].name().to_owned();
    under_load(&mut grid, |grid, _| {
        grid.node(place).plan.memory = Some(used / 2);
        grid.node(place).reload();
        let fits = |status: &Status| {
            let node = status.node(&name);
            node.is_some_and(|node| node.memory == used / 2 && node.memory_used <= used / 2)
        };
        grid.until(place, "it has handed over", fits);
    });
}
