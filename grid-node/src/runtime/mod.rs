//! What runs models.
//!
//! The grid schedules *requests*, a runtime computes them; between the two stand three traits:
//!
//! - [`Runtime`]: a back end that opens artifacts of some format (ONNX Runtime, rten).
//! - [`Model`]: an opened artifact: its signature, and a factory of instances that may share its weights.
//! - [`Instance`]: what one compute thread at a time drives, *step by step*, over the requests that are resident in it.
//!
//! The step is what lets one trait fit them all. A tensor model finishes every resident request in one step. A language
//! model keeps requests resident over many steps, each at its own position with its own cache, and the scheduler adds
//! new ones between steps (iteration-level batching, Orca, OSDI'22). A table finishes look-ups in one step without
//! stacking anything. Tensor models do not implement [`Instance`] themselves: they implement [`TensorModel`], and
//! [`Stacked`] turns that into an instance which stacks compatible requests.

mod checks;
mod choice;
mod onnx_file;
pub mod onnxruntime;
pub mod rten;
mod stacked;
mod thread_starter;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use grid_core::model::{Signature, StackAxes};
use grid_core::tensor::Tensor;
use smallvec::SmallVec;

pub use choice::Runtimes;
pub use stacked::Stacked;

/// Input tensors in the order of the signature.
pub type Inputs = SmallVec<[Tensor; 2]>;
/// Output tensors in the order of the signature.
pub type Outputs = SmallVec<[Tensor; 2]>;

/// A file that a runtime can open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// Where it lies.
    pub path: PathBuf,
    /// What it is.
    pub format: Format,
    /// Size on disk in bytes, external data included.
    pub bytes: u64,
}

/// File formats of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// `model.onnx`.
    Onnx,
}

/// Choices that hold for one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// Threads that one run may use, the caller's included; 1 computes on the caller's thread alone.
    pub threads_per_run: usize,
}

/// Why an artifact could not be opened. The message names the file and the reason.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be read.
    #[error("{path}: {reason}", path = .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The file is not a valid model.
    #[error("{path}: not a valid model: {reason}", path = .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What the runtime said.
        reason: String,
    },
    /// The runtime cannot run something that the model uses.
    #[error("{path}: {what} cannot be run by {runtime}; {help}", path = .path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The runtime.
        runtime: &'static str,
        /// What it lacks: "operator ai.onnx.ml.TreeEnsembleClassifier", say.
        what: String,
        /// The command or setting that would help.
        help: String,
    },
}

/// A back end. Opening runs on a loader thread; it may block and take long.
pub trait Runtime: Send + Sync {
    /// Name in configs, logs and metadata: `onnxruntime`, `rten`.
    fn name(&self) -> &'static str;

    /// Version of the library.
    fn version(&self) -> String;

    /// Opens an artifact.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    fn open(&self, artifact: &Artifact, options: &OpenOptions) -> Result<Arc<dyn Model>, OpenError>;
}

/// An opened artifact.
pub trait Model: Send + Sync {
    /// Inputs and outputs, derived from the file.
    fn signature(&self) -> &Signature;

    /// Makes an instance, sharing weights with its siblings where the runtime can. Runs on a loader thread. `axes` says
    /// along which dimensions requests are stacked that it is given together; without it they are given one by one, but
    /// to an instance that stacks nothing.
    ///
    /// # Errors
    /// When the runtime refuses, for want of memory say.
    fn instance(&self, axes: Option<&StackAxes>) -> Result<Box<dyn Instance>, OpenError>;
}

/// The model ran and could not compute this input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ModelError(pub String);

/// One request resident in an instance.
#[derive(Debug)]
pub struct Work {
    /// Tells it apart from every other request that this instance was or will be given: by it an instance finds what it
    /// keeps for the request, a cache say.
    pub id: u64,
    /// What it brought.
    pub inputs: Inputs,
    /// How far it is. Set by [`Instance::step`].
    pub progress: Progress,
}

/// How far a resident request is after a step.
#[derive(Debug)]
pub enum Progress {
    /// Not finished; it stays resident, and nothing is to be told.
    Running,
    /// Not finished; these outputs go to the caller now (a token, say), and it stays resident.
    Emitted(Outputs),
    /// Finished: the last outputs, or why there are none. It leaves.
    Finished(Result<Outputs, ModelError>),
}

/// What a compute thread drives. It is never shared: one thread has it at a time.
pub trait Instance: Send {
    /// Most requests that may be resident at once, where the instance keeps something for each.
    fn slots(&self) -> usize {
        usize::MAX
    }

    /// Whether every step finishes every request. Only such an instance may be run on the thread of a caller, who cannot
    /// wait for a second step.
    fn finishes_in_one_step(&self) -> bool {
        false
    }

    /// Advances every request in `work` by one step and sets its progress.
    ///
    /// A request that is not in the list any more was finished or cancelled; what an instance keeps for requests that are
    /// gone it may drop.
    ///
    /// A panic is caught by the caller, which then ends this incarnation of the instance; `step` may be called again
    /// before that for the requests of the same list, fewer at a time, to find the one that panics.
    fn step(&mut self, work: &mut [Work]);
}

/// A model that maps its inputs to its outputs in one run.
pub trait TensorModel: Send {
    /// Runs once. Inputs and outputs stand in the order of the signature.
    ///
    /// # Errors
    /// When the runtime refuses this input.
    fn run(&mut self, inputs: &[Tensor]) -> Result<Outputs, ModelError>;
}
