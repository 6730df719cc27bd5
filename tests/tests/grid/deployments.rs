//! What is deployed, and what becomes of it when it changes.

use std::time::Duration;

use grid_tests::embedded::{eventually, get};
use grid_tests::grid::{Grid, MODELS, Question, copy_model, question, repository_of};
use grid_tests::repository_root;

use crate::{BINARY, SHARDS, three};

/// Whether no node answers for the model any more, each with 4xx or 503.
fn is_gone(grid: &Grid, model: &str) -> bool {
    let path = format!("/v2/models/{model}/ready");
    let answers = grid.addresses().into_iter().map(|node| get(node, &path));
    answers
        .into_iter()
        .all(|answer| answer.is_ok_and(|answer| answer.status != 200))
}

#[test]
fn a_model_file_that_changed_on_one_node_is_served_by_all() {
    let (full, empty) = (repository_of(&MODELS), repository_of(&[]));
    let mut grid = Grid::new(BINARY);
    grid.plan("a", full.path());
    grid.plan("b", empty.path());
    grid.plan("c", empty.path());
    grid.start_all();
    grid.all_answer(&question("credit_risk"));
    let before = grid.rests();
    let other = repository_root().join("configs/models/breast_cancer");
    copy_model("breast_cancer", &full.path().join("credit_risk"));
    grid.node(0).reload();
    let changed = Question::of("credit_risk", &other);
    grid.all_answer(&changed);
    let after = grid.rests();
    let content = |status: &grid_tests::grid::Status| status.shard("credit_risk").map(|shard| shard.content.clone());
    assert_ne!(content(&before), content(&after));
    grid.all_answer(&changed);
}

#[test]
fn what_is_unloaded_on_one_node_is_unloaded_on_all_and_a_load_brings_it_back() {
    let (grid, _repository) = three();
    grid.nodes()[1].post("/v2/repository/models/digits/unload", "");
    eventually("no node serves it", || is_gone(&grid, "digits"));
    let status = grid.rests();
    assert_eq!(status.shards.len(), SHARDS - 1, "{status:?}");
    grid.all_answer(&question("credit_risk"));
    grid.nodes()[2].post("/v2/repository/models/digits/load", "");
    grid.all_answer(&question("digits"));
    assert_eq!(grid.rests().shards.len(), SHARDS);
}

#[test]
fn a_full_restart_brings_back_what_was_deployed_and_nothing_else() {
    let (mut grid, _repository) = three();
    grid.nodes()[0].post("/v2/repository/models/digits/unload", "");
    eventually("no node serves it", || is_gone(&grid, "digits"));
    let before = grid.rests();
    for place in 0..3 {
        // All at once: nobody is left who remembers.
        grid.node(place).kill();
    }
    grid.start_all();
    for model in ["credit_risk", "breast_cancer"] {
        grid.all_answer(&question(model));
    }
    let after = grid.rests();
    assert_eq!(before.deployed(), after.deployed());
    assert!(
        question("digits")
            .ask(grid.addresses()[1], Duration::from_secs(10))
            .is_err()
    );
}
