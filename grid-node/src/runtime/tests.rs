//! The promises that both runtimes keep. Those about ONNX Runtime say on stderr when it is not installed.

mod hostile;
mod memory;
mod overhead;
mod samples;
pub(super) mod tiny;
mod types;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use grid_core::model::Dim;
use grid_core::tensor::{Shape, Tensor};

use super::onnxruntime::OnnxRuntime;
use super::rten::Rten;
use super::*;

/// The repository, from the crate.
fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// ONNX Runtime, or `None` and a line on stderr.
fn require_onnxruntime() -> Option<Arc<dyn Runtime>> {
    match OnnxRuntime::find(None, &repository().join(".grid/lib")) {
        Ok(runtime) => Some(Arc::new(runtime)),
        Err(absent) => {
            eprintln!("SKIPPED for onnxruntime: {absent}; `configs/fetch onnxruntime` fetches it");
            None
        }
    }
}

fn runtimes() -> Vec<Arc<dyn Runtime>> {
    let rten: Arc<dyn Runtime> = Arc::new(Rten);
    require_onnxruntime().into_iter().chain([rten]).collect()
}

fn open_with_threads(runtime: &dyn Runtime, path: &Path, threads: usize) -> Result<Arc<dyn Model>, OpenError> {
    let artifact = Artifact {
        path: path.to_owned(),
        format: Format::Onnx,
        bytes: 0,
    };
    let options = OpenOptions {
        threads_per_run: threads,
    };
    runtime.open(&artifact, &options)
}

fn open(runtime: &dyn Runtime, path: &Path) -> Result<Arc<dyn Model>, OpenError> {
    open_with_threads(runtime, path, 1)
}

fn refusal(runtime: &dyn Runtime, path: &Path) -> OpenError {
    match open(runtime, path) {
        Ok(_) => panic!("{} opened {}", runtime.name(), path.display()),
        Err(error) => error,
    }
}

fn instance(model: &dyn Model) -> Box<dyn Instance> {
    model.instance(None).unwrap()
}

/// One request through an instance.
fn run(instance: &mut dyn Instance, inputs: impl IntoIterator<Item = Tensor>) -> Result<Outputs, ModelError> {
    let mut work = [Work {
        id: 0,
        inputs: inputs.into_iter().collect(),
        progress: Progress::Running,
    }];
    instance.step(&mut work);
    match std::mem::replace(&mut work[0].progress, Progress::Running) {
        Progress::Finished(result) => result,
        other => panic!("a tensor model finishes in one step, found {other:?}"),
    }
}

/// An input for the model's first, with that many rows where the number is the request's to choose.
fn example(model: &dyn Model, rows: usize) -> Tensor {
    let size = |dim: &Dim| match dim {
        Dim::Fixed(size) => *size,
        Dim::Dynamic => rows,
    };
    let dims = model.signature().inputs[0].shape.iter().flatten().map(size).collect();
    let shape = Shape(dims);
    let values = vec![0.5f32; shape.elements().unwrap()];
    Tensor::from_values(shape, &values).unwrap()
}

/// A file that is gone when this is.
struct TempFile(PathBuf);

impl TempFile {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let file = format!(
            "grid-{}-{:?}-{name}.onnx",
            std::process::id(),
            std::thread::current().id()
        );
        let path = std::env::temp_dir().join(file);
        std::fs::write(&path, bytes).unwrap();
        Self(path)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
