//! The route table: what this node can send requests to.
//!
//! Put together from what this node hosts, which the shard supervisor writes, and what others host, which the grid actor
//! writes, each as a whole; read by every router and gateway thread without a lock.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use grid_core::InferError;
use grid_core::batching::BatchPolicy;
use grid_core::cluster::Digest;
use grid_core::config::{NodeConfig, nearest};
use grid_core::model::manifest::Manifest;
use grid_core::model::{ModelId, ModelName, Signature, StackAxes, StackKey, TensorSpec, Version};
use grid_core::tensor::Tensor;
use grid_core::wire::call::Interface;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::compute::{Lane, RunStats};
use crate::mesh::Remote;
use crate::telemetry::ModelMetrics;

/// What the configuration and the manifest say about serving one model version.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSettings {
    /// Queue bound and stacking, for each instance.
    pub policy: BatchPolicy,
    /// Share of compute time.
    pub weight: u32,
    /// Time that a request has when it names none.
    pub timeout: Duration,
    /// Longest time that a request may name.
    pub max_timeout: Duration,
    /// Runs measured to be shorter may run on the caller's thread.
    pub inline_below: Duration,
}

impl ModelSettings {
    /// The manifest's words, where it has any, else the node's.
    pub fn new(config: &NodeConfig, manifest: &Manifest) -> Self {
        Self {
            policy: BatchPolicy {
                max_rows: manifest.batching.max_batch_size,
                max_delay: manifest.batching.max_queue_delay,
                bound: manifest.limits.queue.unwrap_or(config.limits.queue),
            },
            weight: manifest.weight,
            timeout: manifest.limits.timeout.unwrap_or(config.limits.timeout),
            max_timeout: config.limits.max_timeout,
            inline_below: config.compute.inline_below,
        }
    }
}

/// Where a replica stands in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicaState {
    /// Being brought into memory.
    Loading,
    /// At least one instance answers.
    Ready,
    /// No instance answers; at least one is about to be started again.
    Restarting,
    /// Finishes what it accepted.
    Draining,
    /// Every instance ended too often.
    Quarantined,
    /// It could not be loaded.
    Failed(String),
    /// Known and not in memory.
    Unloaded,
}

impl ReplicaState {
    /// Name in the repository index.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Loading | Self::Restarting => "LOADING",
            Self::Ready => "READY",
            Self::Draining => "UNLOADING",
            Self::Quarantined | Self::Failed(_) | Self::Unloaded => "UNAVAILABLE",
        }
    }

    /// Why it does not answer; empty when it does.
    pub fn reason(&self) -> &str {
        match self {
            Self::Ready => "",
            Self::Loading => "it is being loaded",
            Self::Restarting => "it ended and is being restarted",
            Self::Draining => "it is being unloaded",
            Self::Quarantined => {
                "it ended too often and is quarantined; it is tried again after a while; a load call tries at once"
            }
            Self::Failed(reason) => reason,
            Self::Unloaded => "it is not loaded",
        }
    }
}

/// One version of a model, as routers and gateways see it.
#[derive(Clone, Debug)]
pub struct VersionRoute {
    /// Which.
    pub id: ModelId,
    /// Where it stands.
    pub state: ReplicaState,
    /// Name of its runtime; empty before it was opened.
    pub runtime: Arc<str>,
    /// What goes in and out; empty before it was opened.
    pub signature: Arc<Signature>,
    /// For each input, what it holds when a request leaves it out: the initial value of a state tensor.
    pub initial: Arc<[Option<Tensor>]>,
    /// The tensors that one run of a sequence hands to the next.
    pub states: Arc<[StateSlot]>,
    /// Along which dimensions requests are stacked; `None` when they run alone.
    pub axes: Option<Arc<StackAxes>>,
    /// How it is served.
    pub settings: Arc<ModelSettings>,
    /// Its manifest.
    pub manifest: Arc<Manifest>,
    /// How many instances it has when all are ready.
    pub instances: usize,
    /// Lanes to the instances that are ready.
    pub lanes: Vec<Arc<Lane>>,
    /// Its replicas on other nodes that are ready.
    pub remotes: Vec<Arc<Remote>>,
    /// What a request for it is put in order and checked for.
    pub interface: Digest,
    /// Whether a request may have outputs before its last ones.
    pub in_parts: bool,
    /// Its metrics.
    pub metrics: Arc<ModelMetrics>,
    /// What does not end with an incarnation.
    pub lasting: Arc<Lasting>,
}

/// A tensor that one run of a sequence hands to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateSlot {
    /// Position of the input that it goes into.
    pub input: usize,
    /// Position of the output that it comes out of.
    pub output: usize,
}

/// Sums and counts of a model version that outlive its instances.
#[derive(Debug, Default)]
pub struct Lasting {
    work: Mutex<WorkDone>,
    /// Requests that wait for an instance to be ready again.
    pub parked: AtomicUsize,
}

/// Every lane is in one of the two, so that sums neither fall nor count anything twice while a generation is replaced.
#[derive(Debug, Default)]
struct WorkDone {
    /// By lanes that are gone.
    gone: RunStats,
    /// Lanes that still may do something: those in the route table, and those that were replaced or crashed and finish
    /// what they have.
    lanes: Vec<Arc<Lane>>,
}

impl Lasting {
    /// A lane that begins to serve.
    pub(super) fn begin(&self, lane: &Arc<Lane>) {
        self.work.lock().lanes.push(Arc::clone(lane));
    }

    /// A lane that was unloaded, and does nothing any more.
    pub(super) fn end(&self, lane: &Arc<Lane>) {
        let mut work = self.work.lock();
        work.gone.merge(&lane.stats());
        work.lanes.retain(|other| !Arc::ptr_eq(other, lane));
    }
}

impl VersionRoute {
    /// What its instances have done, those that are gone included.
    pub fn stats(&self) -> RunStats {
        let work = self.lasting.work.lock();
        let mut stats = work.gone.clone();
        for lane in &work.lanes {
            stats.merge(&lane.stats());
        }
        stats
    }

    /// The shape of an input, without the dimension of its rows where requests are stacked: as Triton's configuration has
    /// it.
    pub fn input_dims(&self, index: usize) -> Vec<i64> {
        let axis = self
            .axes
            .as_ref()
            .and_then(|axes| axes.inputs.get(index).copied().flatten());
        without(self.signature.inputs.get(index), axis)
    }

    /// The same of an output.
    pub fn output_dims(&self, index: usize) -> Vec<i64> {
        let axis = self.axes.as_ref().and_then(|axes| axes.outputs.get(index).copied());
        without(self.signature.outputs.get(index), axis)
    }

    /// What a request of these inputs can be stacked with, and its rows.
    ///
    /// # Errors
    /// When its inputs have different rows, or more than the model's `max_batch_size`.
    pub fn stacking(&self, inputs: &[Tensor]) -> Result<(u64, usize), InferError> {
        let Some(axes) = &self.axes else {
            let rows = inputs.first().and_then(|tensor| tensor.shape().dims().first().copied());
            return Ok((0, rows.unwrap_or(1)));
        };
        let name = |input: usize| &self.signature.inputs[input].name;
        let StackKey { key, rows } = axes.key(inputs).map_err(|uneven| {
            let (input, with) = (name(uneven.input), name(uneven.with));
            InferError::Invalid(format!(
                "input `{input}`: expected {} rows as in `{with}`, found {}",
                uneven.expected, uneven.found
            ))
        })?;
        let max_rows = self.settings.policy.max_rows;
        if rows > max_rows {
            let first = axes.inputs.iter().position(Option::is_some).unwrap_or_default();
            return Err(InferError::Invalid(format!(
                "input `{}`: expected at most {max_rows} rows (the model's max_batch_size), found {rows}",
                name(first)
            )));
        }
        Ok((key, rows))
    }

    /// Whether a request may be answered: at once, or after a restart that is under way.
    pub fn may_serve(&self) -> bool {
        match self.state {
            ReplicaState::Ready | ReplicaState::Restarting => true,
            ReplicaState::Loading
            | ReplicaState::Draining
            | ReplicaState::Quarantined
            | ReplicaState::Failed(_)
            | ReplicaState::Unloaded => false,
        }
    }

    /// Requests accepted and unanswered, those of instances that are being drained included.
    pub fn in_flight(&self) -> usize {
        self.lasting.work.lock().lanes.iter().map(|lane| lane.in_flight()).sum()
    }

    /// The error of a request that finds no instance.
    pub fn not_ready(&self) -> InferError {
        InferError::NotReady {
            model: self.id.to_string(),
            reason: self.state.reason().to_owned(),
        }
    }
}

/// The digest of what requests of a model are put in order and checked for.
pub(crate) fn interface(
    signature: &Signature,
    states: &[StateSlot],
    axes: Option<&StackAxes>,
    policy: &BatchPolicy,
) -> Digest {
    let states: Vec<_> = states.iter().map(|slot| (slot.input, slot.output)).collect();
    let interface = Interface {
        signature,
        states: &states,
        inputs: axes.map(|axes| axes.inputs.as_slice()),
        max_rows: policy.max_rows,
    };
    interface.digest()
}

fn without(spec: Option<&TensorSpec>, axis: Option<usize>) -> Vec<i64> {
    let dims = spec.map(TensorSpec::protocol_shape).unwrap_or_default();
    let kept = dims.into_iter().enumerate().filter(|(index, _)| Some(*index) != axis);
    kept.map(|(_, dim)| dim).collect()
}

/// The versions of one model.
#[derive(Clone, Debug, Default)]
pub struct ModelRoute {
    /// The version that a request gets which names none, if the manifest says so. The manifest's word counts once that
    /// version is in memory; until then what answered before goes on.
    pub default_version: Option<Version>,
    /// All versions that are known.
    pub versions: BTreeMap<Version, Arc<VersionRoute>>,
}

impl ModelRoute {
    /// The version of a request that names none: the manifest's default, else the highest that is ready, else the
    /// highest.
    pub fn preferred(&self) -> Option<&Arc<VersionRoute>> {
        if let Some(version) = self.default_version {
            return self.versions.get(&version);
        }
        let mut descending = self.versions.values().rev();
        descending
            .clone()
            .find(|route| route.state == ReplicaState::Ready)
            .or_else(|| descending.next())
    }
}

/// A model version on other nodes.
#[derive(Clone, Debug)]
pub(crate) struct Elsewhere {
    /// How it would be served if this node had no replica of it.
    pub route: VersionRoute,
    /// The version that a request gets which names none, by its manifest.
    pub default_version: Option<Version>,
}

/// All models. See the module's documentation.
#[derive(Debug)]
pub struct Routes {
    table: ArcSwap<HashMap<ModelName, ModelRoute>>,
    parts: Mutex<Parts>,
    changes: watch::Sender<u64>,
}

/// What the table is put together from.
#[derive(Debug, Default)]
struct Parts {
    here: HashMap<ModelName, ModelRoute>,
    elsewhere: Vec<Elsewhere>,
}

impl Parts {
    fn table(&self) -> HashMap<ModelName, ModelRoute> {
        let mut table = self.here.clone();
        for Elsewhere { route, default_version } in &self.elsewhere {
            let model = table.entry(route.id.name.clone()).or_insert_with(|| ModelRoute {
                default_version: *default_version,
                versions: BTreeMap::new(),
            });
            let here = model.versions.get(&route.id.version);
            let merged = match here.filter(|here| !here.lanes.is_empty() || route.remotes.is_empty()) {
                // Replicas of another content may want other requests.
                Some(here) => VersionRoute {
                    remotes: match here.interface == route.interface {
                        true => route.remotes.clone(),
                        false => Vec::new(),
                    },
                    ..VersionRoute::clone(here)
                },
                None => VersionRoute {
                    metrics: here.map_or_else(|| Arc::clone(&route.metrics), |here| Arc::clone(&here.metrics)),
                    lasting: here.map_or_else(|| Arc::clone(&route.lasting), |here| Arc::clone(&here.lasting)),
                    ..route.clone()
                },
            };
            model.versions.insert(route.id.version, Arc::new(merged));
        }
        table
    }
}

impl Default for Routes {
    fn default() -> Self {
        Self {
            table: ArcSwap::default(),
            parts: Mutex::default(),
            changes: watch::Sender::new(0),
        }
    }
}

impl Routes {
    /// The present table.
    pub fn read(&self) -> Guard<Arc<HashMap<ModelName, ModelRoute>>> {
        self.table.load()
    }

    /// Tells of every change from now on.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Replaces what this node hosts.
    pub(super) fn publish(&self, here: HashMap<ModelName, ModelRoute>) {
        self.change(|parts| parts.here = here);
    }

    /// Replaces what other nodes host.
    pub(crate) fn publish_elsewhere(&self, elsewhere: Vec<Elsewhere>) {
        self.change(|parts| parts.elsewhere = elsewhere);
    }

    fn change(&self, change: impl FnOnce(&mut Parts)) {
        let mut parts = self.parts.lock();
        change(&mut parts);
        self.table.store(Arc::new(parts.table()));
        drop(parts);
        self.changes.send_modify(|change| *change += 1);
    }

    /// What this node itself hosts of a version.
    pub(crate) fn here(&self, id: &ModelId) -> Option<Arc<VersionRoute>> {
        self.parts.lock().here.get(&id.name)?.versions.get(&id.version).cloned()
    }

    /// The present route of a version.
    pub fn find(&self, id: &ModelId) -> Option<Arc<VersionRoute>> {
        self.read().get(&id.name)?.versions.get(&id.version).cloned()
    }

    /// The route of a model and version as a client names them.
    ///
    /// # Errors
    /// [`InferError::NotFound`] when there is no such model or version.
    pub fn resolve(&self, name: &str, version: Option<&str>) -> Result<Arc<VersionRoute>, InferError> {
        let table = self.read();
        let Some(model) = table.get(name) else {
            let known = table.keys().map(ModelName::as_str);
            let hint = nearest(name, known).map_or(String::new(), |near| format!("; did you mean `{near}`?"));
            let name: String = name.chars().take(grid_core::model::MAX_MODEL_NAME).collect();
            return Err(InferError::NotFound(format!("unknown model `{name}`{hint}")));
        };
        let Some(version) = version else {
            return model
                .preferred()
                .cloned()
                .ok_or_else(|| InferError::NotFound(format!("model `{name}` has no version")));
        };
        let found = version
            .parse()
            .ok()
            .and_then(|number: Version| model.versions.get(&number));
        found.cloned().ok_or_else(|| {
            let known: Vec<_> = model.versions.keys().map(Version::to_string).collect();
            let version: String = version.chars().take(20).collect();
            InferError::NotFound(format!(
                "model `{name}` has no version `{version}`; it has {}",
                known.join(", ")
            ))
        })
    }
}
