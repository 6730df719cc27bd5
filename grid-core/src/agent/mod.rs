//! The part of a node that knows the grid: what others say, what is deployed, who hosts what, and what this node does
//! about it. It is the composition of the view, the catalog, placement and hand-off.
//!
//! Sans-IO: the node's actor and the simulations feed it with what happens and carry out its [`Effect`]s. Membership is
//! beside it: who is up, and who said something new, comes in as events.
//!
//! News travel twice: the gossip carries the version of each node's newest snapshot and catalog, at best effort; and now
//! and then an agent compares digests with one other node, which finds whatever the gossip has lost. Content is always
//! pulled, over the mesh.

mod exchange;
mod message;
mod reconcile;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

pub use exchange::COMPARE_EVERY;
pub use message::{Answer, Ask};
pub use reconcile::Situation;

use crate::catalog::{Catalog, Clock, Deployment, Entry, Stamp, StampAhead};
use crate::cluster::{
    Addresses, Capacity, Digest, HostedReplica, NodeId, NodeName, NodeSnapshot, NodeStage, ReplicaStage, View,
};
use crate::handoff::{Failure, Handoff, Intents, Stage};
use crate::model::ModelId;
use crate::placement::Assignment;

/// The time, as everything here gets it.
pub use crate::cluster::Now;

/// What an agent is made with.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// This node, in its present life.
    pub node: NodeId,
    /// Where it is reached.
    pub addresses: Addresses,
    /// Its failure domain.
    pub zone: String,
    /// What it can hold and do.
    pub capacity: Capacity,
    /// How long a node that does not answer is waited for before others take over what it hosts.
    pub grace: Duration,
    /// Whether there are others to look for, so that it does not begin alone at once.
    pub has_seeds: bool,
}

/// Something to do for the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask a node, and hand its answer to [`Agent::answered`], or [`Agent::unanswered`].
    Ask {
        /// Whom.
        to: NodeId,
        /// Where it is.
        at: SocketAddr,
        /// What.
        ask: Ask,
    },
    /// Get this content, load it, and take it into service in the place of what serves; then say
    /// [`Agent::replica_loaded`] or [`Agent::replica_failed`].
    Load {
        /// Which version.
        model: ModelId,
        /// What is deployed of it.
        deployment: Deployment,
        /// Bytes to reserve: what placement counts on, which is the most that any node knows of.
        memory: u64,
    },
    /// Finish what was accepted and free the memory; then say [`Agent::replica_unloaded`].
    Unload {
        /// Which version.
        model: ModelId,
    },
    /// This node has something new to say of itself: gossip carries it.
    Head {
        /// Version of its snapshot.
        version: u64,
        /// Digest of its catalog.
        catalog: Digest,
    },
    /// The catalog has changed: it is kept on disk.
    Keep,
    /// Where requests can go may have changed.
    Routes,
    /// Something that a person should know.
    Notice(Notice),
}

/// Something that a person should know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Notice {
    /// A deployment of another node was not taken.
    #[error("the catalog of node {from} was not taken in part: {error}")]
    Stamp {
        /// Who sent it.
        from: NodeName,
        /// Why not.
        error: StampAhead,
    },
    /// A node sends what no node says.
    #[error("node {from} sends what was not asked for")]
    Nonsense {
        /// Who.
        from: NodeName,
    },
}

/// The agent of one node. See the module's documentation.
#[derive(Debug)]
pub struct Agent {
    options: AgentOptions,
    began: Duration,
    /// The time of the last event.
    now: Duration,
    stage: NodeStage,
    view: View,
    catalog: Catalog,
    clock: Clock,
    handoff: Handoff,
    /// Bytes that each replica of this node takes, once that is known.
    measured: BTreeMap<ModelId, u64>,
    /// Bytes that are reserved for each load that is under way.
    reserved: BTreeMap<ModelId, u64>,
    /// Bytes that contents took when they were last loaded here, whether they still are or not.
    footprints: BTreeMap<ModelId, (Digest, u64)>,
    /// Bytes that contents would have taken that were refused here; for as long as that is remembered.
    refused: BTreeMap<ModelId, (Digest, u64)>,
    /// Bytes that placement counts on for a new replica of each version.
    needs: BTreeMap<ModelId, u64>,
    /// Replicas whose instances all ended too often.
    quarantined: BTreeMap<ModelId, bool>,
    /// Contents on this node's disk.
    artifacts: Vec<Digest>,
    assignment: Assignment,
    intents: Intents,
    /// The nodes that the assignment's indices mean.
    placed_nodes: Vec<NodeName>,
    /// What the assignment was computed from.
    placed_from: Option<Situation>,
    /// When the view last changed in who is there.
    unsettled_since: Duration,
    /// The catalog was changed here, and nothing has been done about it. Not at once, as many changes come together.
    is_stirred: bool,
    exchange: exchange::Exchange,
    effects: VecDeque<Effect>,
}

impl Agent {
    /// An agent that knows only its own node, and what was deployed when it last ran.
    pub fn new(options: AgentOptions, kept: Vec<(ModelId, Entry)>, now: Now) -> Self {
        let own = NodeSnapshot {
            node: options.node.clone(),
            version: 1,
            addresses: options.addresses,
            zone: options.zone.clone(),
            capacity: options.capacity,
            stage: NodeStage::Serving,
            replicas: Vec::new(),
            catalog: Catalog::default().digest(),
            artifacts: Vec::new(),
            footprints: Vec::new(),
        };
        let name = options.node.name.clone();
        let mut agent = Self {
            began: now.monotonic,
            now: now.monotonic,
            stage: NodeStage::Serving,
            view: View::new(own),
            catalog: Catalog::default(),
            clock: Clock::new(name.clone()),
            handoff: Handoff::new(name),
            measured: BTreeMap::new(),
            reserved: BTreeMap::new(),
            footprints: BTreeMap::new(),
            refused: BTreeMap::new(),
            needs: BTreeMap::new(),
            quarantined: BTreeMap::new(),
            artifacts: Vec::new(),
            assignment: Assignment::default(),
            intents: Intents::new(),
            placed_nodes: Vec::new(),
            placed_from: None,
            unsettled_since: now.monotonic,
            is_stirred: false,
            exchange: exchange::Exchange::new(now.monotonic),
            effects: VecDeque::new(),
            options,
        };
        let from = agent.name().clone();
        agent.take_entries(now, &from, kept);
        agent
    }

    /// Its node's name.
    pub fn name(&self) -> &NodeName {
        &self.options.node.name
    }

    /// What it believes of the nodes.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// What is deployed.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Which node should host what, as far as this node knows.
    pub fn assignment(&self) -> &Assignment {
        &self.assignment
    }

    /// The nodes that the assignment's indices mean; those of shards are positions in [`Agent::intents`].
    pub fn placed_nodes(&self) -> &[NodeName] {
        &self.placed_nodes
    }

    /// What should be of each model version.
    pub fn intents(&self) -> &Intents {
        &self.intents
    }

    /// The replicas of this node.
    pub fn handoff(&self) -> &Handoff {
        &self.handoff
    }

    /// What is to be done, in order.
    pub fn poll(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// A repository of this node holds this, in files that were modified at `modified` (milliseconds since 1970). Returns
    /// what is deployed instead, if that is newer.
    pub fn found(&mut self, now: Now, model: ModelId, deployment: Deployment, modified: u64) -> Option<Deployment> {
        let before = self.catalog.get(&model);
        if let Some(before) = before.and_then(|entry| entry.deployment.as_ref())
            && *before == deployment
        {
            return None;
        }
        let stamp = Stamp {
            // Files from the future are taken for new ones.
            wall: modified.min(now.wall),
            counter: 0,
            node: self.name().clone(),
        };
        let entry = Entry {
            stamp,
            deployment: Some(deployment),
        };
        if !self.merge(model.clone(), entry) {
            return self.catalog.get(&model).and_then(|entry| entry.deployment.clone());
        }
        None
    }

    /// Somebody asks that this be deployed, whatever was said before.
    pub fn deploy(&mut self, now: Now, model: ModelId, deployment: Deployment) {
        let stamp = self.clock.stamp(now.wall);
        self.merge(
            model,
            Entry {
                stamp,
                deployment: Some(deployment),
            },
        );
    }

    /// Somebody asks that this be taken back.
    pub fn take_back(&mut self, now: Now, model: ModelId) {
        let is_there = self.catalog.get(&model).is_some_and(|entry| entry.deployment.is_some());
        if is_there {
            let stamp = self.clock.stamp(now.wall);
            self.merge(
                model,
                Entry {
                    stamp,
                    deployment: None,
                },
            );
        }
    }

    fn merge(&mut self, model: ModelId, entry: Entry) -> bool {
        let is_news = self.catalog.merge(model, entry);
        if is_news {
            self.is_stirred = true;
            self.effects.push_back(Effect::Keep);
            self.publish();
        }
        is_news
    }

    /// A load has ended well; the replica takes so many bytes.
    pub fn replica_loaded(&mut self, now: Now, model: &ModelId, content: Digest, bytes: u64) {
        self.measured.insert(model.clone(), bytes);
        self.reserved.remove(model);
        self.footprints.insert(model.clone(), (content, bytes));
        self.refused.remove(model);
        self.handoff.loaded(model, content);
        self.go_on(now);
    }

    /// A load has failed. `took`: the bytes that it was found to take, if there was no room for those.
    pub fn replica_failed(&mut self, now: Now, model: &ModelId, content: Digest, reason: String, took: Option<u64>) {
        self.reserved.remove(model);
        if let Some(took) = took {
            self.refused.insert(model.clone(), (content, took));
        }
        self.handoff.load_failed(now.monotonic, model, content, reason);
        self.go_on(now);
    }

    /// A replica has left the memory.
    pub fn replica_unloaded(&mut self, now: Now, model: &ModelId) {
        self.measured.remove(model);
        self.quarantined.remove(model);
        self.handoff.unloaded(model);
        self.go_on(now);
    }

    /// Whether any instance of a replica answers, or all ended too often.
    pub fn replica_quarantined(&mut self, now: Now, model: &ModelId, quarantined: bool) {
        if self.quarantined.insert(model.clone(), quarantined).unwrap_or(false) != quarantined {
            self.go_on(now);
        }
    }

    /// The contents on this node's disk.
    pub fn artifacts(&mut self, mut artifacts: Vec<Digest>) {
        artifacts.sort();
        artifacts.dedup();
        self.artifacts = artifacts;
        self.publish();
    }

    /// Others had declared this node down: it goes on as a new generation.
    pub fn renew(&mut self, now: Now, node: NodeId) {
        self.options.node = node;
        self.go_on(now);
    }

    /// This node can hold or do more or less than before.
    pub fn set_capacity(&mut self, now: Now, capacity: Capacity) {
        self.options.capacity = capacity;
        self.go_on(now);
    }

    /// This node leaves: others take over what it hosts. It has left what it can when [`Agent::has_left`].
    pub fn leave(&mut self, now: Now) {
        self.stage = NodeStage::Draining;
        self.go_on(now);
    }

    /// Whether everything that others can host has gone to them.
    pub fn has_left(&self) -> bool {
        let me = self.name();
        let waits: BTreeSet<&ModelId> = self.waiting().collect();
        // What has no way out stays, whoever else hosts it.
        let goes = |model: &ModelId| {
            let owners = self.intents.get(model).map(|intent| &intent.owners);
            let others = owners.is_some_and(|owners| !owners.is_empty() && !owners.contains(me));
            others || waits.contains(model)
        };
        let mut replicas = self.handoff.replicas().iter();
        // Before that, the intents are those of a grid in which it stays.
        self.is_settled() && !replicas.any(|(model, replica)| replica.stage != Stage::Absent && goes(model))
    }

    /// Versions with a replica that has a place and cannot be loaded there yet.
    fn waiting(&self) -> impl Iterator<Item = &ModelId> {
        let models: Vec<&ModelId> = self.intents.keys().collect();
        let waiting = self.assignment.waiting.iter();
        waiting.filter_map(move |waiting| models.get(waiting.shard).copied())
    }

    /// What this node says of itself, if that has changed.
    fn publish(&mut self) {
        let footprints = self.seen_footprints();
        let snapshot = |version| NodeSnapshot {
            node: self.options.node.clone(),
            version,
            addresses: self.options.addresses,
            zone: self.options.zone.clone(),
            capacity: self.options.capacity,
            stage: self.stage,
            replicas: self.hosted(),
            catalog: self.catalog.digest(),
            artifacts: self.artifacts.clone(),
            footprints: footprints.clone(),
        };
        let before = self.view.node(self.name()).and_then(|node| node.snapshot.as_ref());
        let version = before.map_or(0, |before| before.version);
        let unchanged = snapshot(version);
        if before == Some(&unchanged) {
            return;
        }
        let version = version + 1;
        let catalog = unchanged.catalog;
        self.view.publish(NodeSnapshot { version, ..unchanged });
        self.effects.push_back(Effect::Head { version, catalog });
        self.effects.push_back(Effect::Routes);
    }

    /// What contents take, as far as this node has seen it. Forgets those that are not deployed any more, and what was
    /// refused as long ago as failures are remembered: a figure that held what serving took in the same moment must not
    /// keep a model out for good.
    fn seen_footprints(&mut self) -> Vec<(Digest, u64)> {
        let catalog = &self.catalog;
        self.footprints.retain(|model, (content, _)| {
            let entry = catalog.get(model).and_then(|entry| entry.deployment.as_ref());
            entry.is_some_and(|deployed| deployed.content == *content)
        });
        let replicas = self.handoff.replicas();
        self.refused.retain(|model, (content, _)| {
            let failed = replicas.get(model).and_then(|replica| replica.failed.as_ref());
            failed.is_some_and(|failure| failure.content == *content)
        });
        let mut all: Vec<_> = self.footprints.values().chain(self.refused.values()).copied().collect();
        // Of two figures for one content, the larger.
        all.sort_by_key(|(content, bytes)| (*content, std::cmp::Reverse(*bytes)));
        all.dedup_by_key(|(content, _)| *content);
        all
    }

    fn hosted(&self) -> Vec<HostedReplica> {
        let hosted = self.handoff.replicas().iter().filter_map(|(model, replica)| {
            let quarantined = self.quarantined.get(model).copied().unwrap_or(false);
            let stage = match replica.stage {
                Stage::Ready if quarantined => ReplicaStage::Quarantined,
                Stage::Ready => ReplicaStage::Ready,
                // It takes its memory until it is gone.
                Stage::Draining { .. } | Stage::Unloading => ReplicaStage::Draining,
                Stage::Absent if replica.loading.is_some() => ReplicaStage::Loading,
                Stage::Absent => {
                    let waits = |failure: &&Failure| failure.again > self.now;
                    ReplicaStage::Failed(replica.failed.as_ref().filter(waits)?.reason.clone())
                }
            };
            Some(HostedReplica {
                model: model.clone(),
                content: replica
                    .content
                    .or(replica.loading)
                    .or(replica.failed.as_ref().map(|failure| failure.content))?,
                stage,
                // While another content comes in its place, both are there.
                bytes: [&self.measured, &self.reserved]
                    .iter()
                    .filter_map(|bytes| bytes.get(model))
                    .fold(0, |sum, bytes| sum.saturating_add(*bytes)),
            })
        });
        hosted.collect()
    }
}
