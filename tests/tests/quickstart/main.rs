//! Real processes of the node's binary with real models: what the README's commands do, and what an operator sees of it.

mod admin;
mod answers;
mod larger_models;
mod signals;
mod telemetry;
mod wrong_config;

use std::fs;
use std::path::{Path, PathBuf};

use grid_tests::process::{NodeCommand, NodeProcess};
use grid_tests::repository_root;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_grid-node-under-test");
/// The quickstart's models that any runtime runs.
const NEURAL: [&str; 3] = ["breast_cancer", "credit_risk", "digits"];
/// The one that needs ONNX Runtime.
const FOREST: &str = "credit_forest";

fn models() -> PathBuf {
    repository_root().join("configs/models")
}

/// The config of the README, as it is.
fn quickstart() -> NodeCommand {
    NodeCommand::with_config_file(BINARY, repository_root().join("configs/quickstart.toml"))
}

/// A node with the models of that folder that finds no ONNX Runtime: its data directory is beside its config, which lies
/// in a folder of its own. `more` is more of the config.
fn without_onnxruntime(models: &Path, more: &str) -> NodeCommand {
    let text = format!("models.repository = '{}'\n{more}", models.display());
    NodeCommand::with_config_text(BINARY, text)
        .env_remove("ORT_DYLIB_PATH")
        .env_remove("GRID__NODE__DATA_DIR")
        .env_remove("GRID__RUNTIME__ONNXRUNTIME")
}

fn has_onnxruntime() -> bool {
    repository_root().join(".grid/lib/libonnxruntime.so").exists()
}

/// Says on standard error that a test was not run, since what it needs is not there.
fn skip(test: &str, needs: &str) {
    eprintln!("SKIPPED {test}: `configs/fetch {needs}` fetches what it needs");
}

/// A repository of these of the quickstart's models, to be changed at will.
fn copy_of(names: &[&str]) -> TempDir {
    let folder = TempDir::new().expect("a temporary directory can be made");
    for name in names {
        copy_model(name, &folder.path().join(name));
    }
    folder
}

fn copy_model(name: &str, into: &Path) {
    copy_folder(&models().join(name), into).expect("the quickstart's models can be copied");
}

fn copy_folder(from: &Path, into: &Path) -> std::io::Result<()> {
    fs::create_dir_all(into)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = into.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// The status of `GET path`, or none where no connection is taken.
fn status(node: &NodeProcess, path: &str) -> Option<u16> {
    node.get(path).ok().map(|response| response.status)
}
