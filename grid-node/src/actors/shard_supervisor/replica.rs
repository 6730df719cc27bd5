//! What the supervisor knows of one model version.

use std::sync::Arc;

use actix::Addr;
use grid_core::cluster::Digest;
use grid_core::config::NodeConfig;
use grid_core::model::{Signature, StackAxes};
use grid_core::supervision::RestartHistory;
use grid_core::tensor::Tensor;

use crate::actors::routes::{Lasting, ModelSettings, ReplicaState, StateSlot, VersionRoute};
use crate::actors::shard::ShardActor;
use crate::compute::{Lane, LaneOptions};
use crate::loading::{Plan, Reservation};
use crate::runtime::{Instance, Model};
use crate::telemetry::ModelMetrics;

/// A model version on this node.
pub(super) struct Replica {
    pub(super) plan: Arc<Plan>,
    pub(super) settings: Arc<ModelSettings>,
    pub(super) metrics: Arc<ModelMetrics>,
    pub(super) lasting: Arc<Lasting>,
    pub(super) generation: u64,
    pub(super) loaded: Option<InMemory>,
    /// Set while no instance decides the state.
    pub(super) standing: ReplicaState,
}

pub(super) struct InMemory {
    pub(super) model: Arc<dyn Model>,
    pub(super) runtime: &'static str,
    pub(super) initial: Arc<[Option<Tensor>]>,
    pub(super) states: Arc<[StateSlot]>,
    pub(super) axes: Option<Arc<StackAxes>>,
    pub(super) signature: Arc<Signature>,
    pub(super) interface: Digest,
    pub(super) instances: Vec<Child>,
    pub(super) reservation: Reservation,
}

#[derive(Default)]
pub(super) struct Child {
    pub(super) incarnation: u64,
    pub(super) live: Option<(Addr<ShardActor>, Arc<Lane>)>,
    pub(super) history: RestartHistory,
    pub(super) quarantined: bool,
}

impl Replica {
    pub(super) fn new(plan: Arc<Plan>, config: &NodeConfig, standing: ReplicaState) -> Self {
        Self {
            settings: Arc::new(ModelSettings::new(config, &plan.manifest)),
            metrics: Arc::new(ModelMetrics::new(&plan.id)),
            lasting: Arc::default(),
            generation: 0,
            loaded: None,
            standing,
            plan,
        }
    }

    pub(super) fn state(&self) -> ReplicaState {
        let Some(loaded) = &self.loaded else {
            return self.standing.clone();
        };
        if loaded.instances.iter().any(|child| child.live.is_some()) {
            ReplicaState::Ready
        } else if loaded.instances.iter().all(|child| child.quarantined) {
            ReplicaState::Quarantined
        } else {
            ReplicaState::Restarting
        }
    }

    pub(super) fn has_quarantined(&self) -> bool {
        let mut children = self.loaded.iter().flat_map(|loaded| &loaded.instances);
        children.any(|child| child.quarantined)
    }

    /// What the lane to an instance of this version is made with.
    pub(super) fn lane_options(&self, instance: &dyn Instance) -> LaneOptions {
        LaneOptions {
            model: self.plan.id.clone(),
            policy: self.settings.policy,
            weight: self.settings.weight,
            slots: instance.slots(),
            in_steps: !instance.finishes_in_one_step(),
            inline_below: self.settings.inline_below,
            metrics: Arc::clone(&self.metrics),
        }
    }

    pub(super) fn route(&self) -> VersionRoute {
        let loaded = self.loaded.as_ref();
        let nothing = || Arc::new([]) as Arc<[_]>;
        let lanes = loaded.map_or_else(Vec::new, InMemory::lanes);
        VersionRoute {
            id: self.plan.id.clone(),
            state: self.state(),
            runtime: loaded.map_or("", |loaded| loaded.runtime).into(),
            signature: loaded.map_or_else(Default::default, |loaded| Arc::clone(&loaded.signature)),
            initial: loaded.map_or_else(nothing, |loaded| Arc::clone(&loaded.initial)),
            states: loaded.map_or_else(|| Arc::new([]) as Arc<[_]>, |loaded| Arc::clone(&loaded.states)),
            axes: loaded.and_then(|loaded| loaded.axes.clone()),
            settings: Arc::clone(&self.settings),
            manifest: Arc::clone(&self.plan.manifest),
            instances: self.plan.instances,
            in_parts: lanes.first().is_some_and(|lane| lane.in_steps()),
            lanes,
            remotes: Vec::new(),
            interface: loaded.map_or(Digest([0; 32]), |loaded| loaded.interface),
            metrics: Arc::clone(&self.metrics),
            lasting: Arc::clone(&self.lasting),
        }
    }
}

impl InMemory {
    pub(super) fn lanes(&self) -> Vec<Arc<Lane>> {
        self.instances
            .iter()
            .filter_map(|child| child.live.as_ref().map(|(_, lane)| Arc::clone(lane)))
            .collect()
    }
}
