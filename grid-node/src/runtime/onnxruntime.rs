//! ONNX Runtime, loaded while the node starts, if it is there.
//!
//! Choices, and what each is for:
//!
//! - **One session a model, shared by its instances.** `ort` takes `&mut Session` to run, because some execution providers
//!   (CUDA, say) are not thread safe. The grid uses the CPU provider alone, for which ONNX Runtime guarantees that
//!   threads may run one session at the same time. Weights are thus held once, however many instances a model has.
//! - **No pool for `threads_per_run = 1`**: the run stays on the caller's thread. More than that gets threads of the
//!   session's own, without spinning, started at normal priority. Not ONNX Runtime's global pool: its size is one number
//!   for the process, so that a model that asked for two threads would get as many as the widest.
//! - **The arena stays on, memory patterns are off.** The arena belongs to the session and is returned with it, and without it
//!   a small convolutional network took a tenth to a half longer (fresh pages for each activation). Memory patterns
//!   remember a plan for *every shape ever seen*, so a client could grow a node by sending ever new shapes; beside the
//!   arena they save nothing that could be measured.

mod call;
mod library;
mod session;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ort::environment::Environment;

pub use library::Absent;

use super::{Artifact, Model, OpenError, OpenOptions, Runtime};

/// ONNX Runtime, found and loaded.
#[derive(Clone, Debug)]
pub struct OnnxRuntime {
    path: PathBuf,
    version: String,
    environment: Environment,
}

impl OnnxRuntime {
    /// Looks for the library in the environment's `ORT_DYLIB_PATH`, then at the configured path, then in `lib_dir`, and loads
    /// it. A place that was named and does not hold a working library is an error; it is not passed over.
    ///
    /// A process has one ONNX Runtime: once a library is loaded, a later call returns that one, whatever it finds.
    ///
    /// # Errors
    /// Says where it looked, or what is wrong with the library that it found.
    pub fn find(configured: Option<&Path>, lib_dir: &Path) -> Result<Self, Absent> {
        library::find(
            std::env::var_os("ORT_DYLIB_PATH").as_deref().map(Path::new),
            configured,
            lib_dir,
        )
    }

    /// Where the library was found.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Runtime for OnnxRuntime {
    fn name(&self) -> &'static str {
        "onnxruntime"
    }

    fn version(&self) -> String {
        self.version.clone()
    }

    fn open(&self, artifact: &Artifact, options: &OpenOptions) -> Result<Arc<dyn Model>, OpenError> {
        let model = session::OnnxModel::open(&self.environment, &artifact.path, options.threads_per_run)?;
        Ok(Arc::new(model))
    }
}
