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

use grid_tests::grid::{Grid, MODELS};
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_grid-node-under-test");

/// Connections that infer while something happens.
const CALLERS: usize = 64;

/// Three nodes that have the same repository, at rest.
fn three() -> (Grid, TempDir) {
    let repository = grid_tests::grid::repository_of(&MODELS);
    (Grid::of(BINARY, &["a", "b", "c"], repository.path()), repository)
}
