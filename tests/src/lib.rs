//! What the whole-grid tests and benches stand on: a load generator and nodes as real processes.

pub mod bench;
pub mod embedded;
pub mod grid;
pub mod grpc_code;
pub mod identity;
pub mod load;
pub mod process;
pub mod runtime_alone;
pub mod scripted;
pub mod stream;

use std::path::{Path, PathBuf};

/// The folder of the workspace.
pub fn repository_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The middle one of some figures; of an even number, the upper one of the two in the middle. NaN of none.
pub fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
