//! Who answers for what.

use std::collections::BTreeSet;

use grid_tests::grid::{Grid, MODELS, question, repository_of};

use crate::{BINARY, SHARDS, three};

#[test]
fn any_node_answers_for_any_model_and_each_has_its_replicas() {
    let (grid, _repository) = three();
    for model in MODELS {
        grid.all_answer(&question(model));
    }
    for node in grid.nodes() {
        let status = node.status().unwrap();
        assert_eq!(status.deployed().len(), SHARDS, "{status:?}");
        assert!(status.shards.iter().all(|shard| shard.ready().len() == 2), "{status:?}");
    }
}

#[test]
fn what_only_one_nodes_repository_holds_is_fetched_by_others_and_served_by_all() {
    let (full, empty) = (repository_of(&MODELS), repository_of(&[]));
    let mut grid = Grid::new(BINARY);
    grid.plan("a", full.path());
    grid.plan("b", empty.path());
    grid.plan("c", empty.path());
    grid.start_all();
    // The others are at rest, with nothing, until they hear of it.
    grid.all_answer(&question(MODELS[0]));
    let status = grid.rests();
    assert_eq!(status.shards.len(), MODELS.len());
    for model in MODELS {
        grid.all_answer(&question(model));
    }
    let hosts: BTreeSet<&str> = status.shards.iter().flat_map(|shard| shard.ready()).collect();
    assert!(hosts.len() > 1, "two replicas are on two nodes: {status:?}");
    for node in grid.nodes()[1..].iter().filter(|node| hosts.contains(node.name())) {
        assert!(node.output().contains("fetching"), "{}", node.output());
    }
}

#[test]
fn what_was_fetched_outlives_the_node_that_it_came_from() {
    let (full, empty) = (repository_of(&MODELS), repository_of(&[]));
    let mut grid = Grid::new(BINARY);
    grid.plan("a", full.path());
    grid.plan("b", empty.path());
    grid.plan("c", empty.path());
    grid.start_all();
    grid.all_answer(&question(MODELS[0]));
    grid.rests();
    grid.node(0).kill();
    let status = grid.rests();
    assert_eq!(status.shards.len(), MODELS.len());
    for model in MODELS {
        grid.all_answer(&question(model));
    }
}
