//! Grids of real processes: what callers, operators and whoever pulls a cable see of them.

mod client;
mod client_sequences;
mod commands;
mod crashes;
mod deployments;
mod moves;
mod partition;
mod sequences;
mod serving;
mod troubles;

use std::time::Duration;

use grid_tests::grid::{Grid, MODELS};
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_grid-node-under-test");

/// Connections that infer while something happens.
const CALLERS: usize = 64;

/// Sequences that are under way meanwhile, and the time between an output and the next message of each.
const BEDS: usize = 16;
const PACE: Duration = Duration::from_millis(50);

/// The models of [`three`]: those that callers ask, and the one of the sequences.
const SHARDS: usize = MODELS.len() + 1;

/// Three nodes that have the same repository, at rest.
fn three() -> (Grid, TempDir) {
    let repository = grid_tests::grid::repository_of(&MODELS);
    grid_tests::grid::copy_model("vitals", &repository.path().join("vitals"));
    (Grid::of(BINARY, &["a", "b", "c"], repository.path()), repository)
}
