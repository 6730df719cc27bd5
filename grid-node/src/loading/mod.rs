//! Bringing a model version into memory: reserve, open, check, make instances, warm up, measure.
//!
//! All of it runs on the loader thread ([`Loader`]), at lower priority than what serves, one load at a time: so the
//! growth of the process during a load is that load's, but for what serving adds in the same moment.

mod loader;
mod made_up;
mod memory;
mod system;
mod warm_up;

use std::sync::Arc;

use grid_core::model::manifest::Manifest;
use grid_core::model::{ModelId, StackAxes};
use grid_core::tensor::Tensor;
use tracing::{info, warn};

pub(crate) use grid_core::model::made_up::initial_states;
pub use loader::{LoadFailed, Loader};
pub use memory::{HeldMemory, MemoryBudget, Reservation};
pub use system::{
    allocated_bytes, available_cores, bound_kept_memory, compute_threads, memory_limit, return_free_memory,
};

use crate::runtime::{Artifact, Instance, Model, OpenOptions, Runtimes};

/// What to load.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Under which name and version.
    pub id: ModelId,
    /// The file.
    pub artifact: Artifact,
    /// When the last of the version's files was modified: another stamp is another content.
    pub stamp: Option<std::time::SystemTime>,
    /// The model's manifest.
    pub manifest: Arc<Manifest>,
    /// How many instances run side by side.
    pub instances: usize,
    /// Where the manifest stands, for messages.
    pub manifest_file: String,
}

/// A model version in memory. Dropping it returns the memory to the budget; [`Loaded::discard`] to the system as well.
pub struct Loaded {
    /// Makes further instances, for restarts.
    pub model: Arc<dyn Model>,
    /// Name of the runtime.
    pub runtime: &'static str,
    /// For each input, the initial value of the state that it carries, if it carries one.
    pub initial: Vec<Option<Tensor>>,
    /// Along which dimensions requests are stacked; `None` when they run alone.
    pub axes: Option<StackAxes>,
    /// As many as the manifest says.
    pub instances: Vec<Box<dyn Instance>>,
    /// Its part of the budget.
    pub reservation: Reservation,
}

impl Loaded {
    /// Frees it unused. For the loader thread.
    pub fn discard(self) {
        drop(self);
        return_free_memory();
    }
}

/// Why a version was not loaded. All memory has been returned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct NotLoaded {
    /// Which file, and what is wrong.
    pub reason: String,
    /// Bytes that it was found to take, when there was room for what was expected and not for these.
    pub took: Option<u64>,
}

impl From<String> for NotLoaded {
    fn from(reason: String) -> Self {
        Self { reason, took: None }
    }
}

impl Plan {
    /// Along which dimensions requests of this model are stacked; `None` when they run alone.
    fn axes(&self, model: &dyn Model) -> Option<StackAxes> {
        let stacks = self.manifest.batching.max_batch_size > 0;
        // That it can be done was checked when the file was opened.
        stacks.then(|| StackAxes::of(&self.manifest, model.signature()).ok())?
    }

    /// Loads the version, with at least so many bytes reserved for it. Blocks; for the loader thread.
    ///
    /// # Errors
    /// Says which file and what is wrong; all memory has been returned then.
    pub fn load(&self, runtimes: &Runtimes, budget: &MemoryBudget, least: Option<u64>) -> Result<Loaded, NotLoaded> {
        let loaded = self.load_measured(runtimes, budget, least);
        if loaded.is_err() {
            // What the allocator keeps of it would make the next load seem smaller than it is.
            return_free_memory();
        }
        loaded
    }

    fn load_measured(
        &self,
        runtimes: &Runtimes,
        budget: &MemoryBudget,
        least: Option<u64>,
    ) -> Result<Loaded, NotLoaded> {
        // A load that fills what the allocator keeps does not show in the process's growth.
        return_free_memory();
        let before = allocated_bytes();
        let mut reservation = budget
            .reserve(&self.artifact, self.stamp, self.manifest.limits.memory, least)
            .map_err(|error| format!("{}: {}", self.id, error))?;
        let (runtime, model) = self.open(runtimes)?;
        let instances = (0..self.instances)
            .map(|_| self.instance(model.as_ref()))
            .collect::<Result<Vec<_>, _>>()?;
        let grown = allocated_bytes().saturating_sub(before);
        let error = reservation.settle(grown).map_err(|error| NotLoaded {
            reason: format!("{}: after loading it {}", self.id, error),
            took: Some(error.needed),
        })?;
        let labels = [
            ("model", self.id.name.to_string()),
            ("version", self.id.version.to_string()),
        ];
        metrics::gauge!("grid_memory_estimate_error_bytes", &labels).set(error as f64);
        info!(model = %self.id.name, version = self.id.version, runtime, bytes = reservation.bytes(), "loaded");
        Ok(Loaded {
            initial: initial_states(model.signature(), &self.manifest)?,
            axes: self.axes(model.as_ref()),
            model,
            runtime,
            instances,
            reservation,
        })
    }

    /// Opens the file and checks the manifest against it.
    ///
    /// # Errors
    /// Says which file and what is wrong.
    pub fn open(&self, runtimes: &Runtimes) -> Result<(&'static str, Arc<dyn Model>), String> {
        let runtime = runtimes.for_model(self.artifact.format, self.manifest.runtime.as_deref())?;
        let options = OpenOptions {
            threads_per_run: self.manifest.threads_per_run,
        };
        let model = runtime
            .open(&self.artifact, &options)
            .map_err(|error| error.to_string())?;
        self.manifest
            .check(&self.manifest_file, model.signature())
            .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
        Ok((runtime.name(), model))
    }

    /// Makes one instance and warms it up.
    ///
    /// # Errors
    /// When the runtime makes none, or a warm-up that the manifest asks for fails.
    pub fn instance(&self, model: &dyn Model) -> Result<Box<dyn Instance>, String> {
        let mut instance = model
            .instance(self.axes(model).as_ref())
            .map_err(|error| error.to_string())?;
        if let Err(reason) = warm_up::warm_up(instance.as_mut(), model.signature(), &self.manifest) {
            if !self.manifest.warm_ups.is_empty() {
                return Err(format!("{}: warm-up: {reason}", self.id));
            }
            warn!(model = %self.id.name, version = self.id.version, reason, "could not be warmed up unasked");
        }
        Ok(instance)
    }
}
