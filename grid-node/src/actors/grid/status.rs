//! What people are told of the grid, as this node knows it.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime};

use grid_core::cluster::{HostedReplica, NodeName, NodeSnapshot, NodeStage, ReplicaStage, Standing};
use grid_core::handoff::Stage;
use grid_core::model::{ModelId, ReplicaCount};
use grid_core::placement::{MoveReason, WaitingFor};
use serde::Serialize;
use tracing::warn;

use super::GridActor;
use crate::mesh::since_start;

/// Most troubles that are remembered, and for how long.
const TROUBLES: (usize, Duration) = (64, Duration::from_secs(600));

/// What went wrong lately.
#[derive(Default)]
pub(super) struct Troubles(VecDeque<(Duration, SystemTime, String)>);

impl Troubles {
    /// Logs it, unless the same was said a moment ago, and remembers it.
    pub(super) fn note(&mut self, text: String) {
        let (most, keep) = TROUBLES;
        let now = since_start();
        let said = self
            .0
            .iter()
            .any(|(at, _, other)| *other == text && *at + Duration::from_secs(30) > now);
        if !said {
            warn!(trouble = %text, "in the grid");
        }
        self.0.retain(|(at, _, other)| *at + keep > now && *other != text);
        self.0.push_back((now, SystemTime::now(), text));
        while self.0.len() > most {
            self.0.pop_front();
        }
    }
}

/// A grid, as one of its nodes knows it.
#[derive(Clone, Debug, Serialize)]
pub struct GridStatus {
    /// Its name.
    pub grid: String,
    /// The node that tells this.
    pub node: String,
    /// All nodes that it knows.
    pub nodes: Vec<NodeStatus>,
    /// All model versions that are deployed.
    pub shards: Vec<ShardStatus>,
    /// What moves now, and what would.
    pub moves: Vec<Move>,
    /// What went wrong in the last ten minutes.
    pub troubles: Vec<TroubleStatus>,
}

/// A node.
#[derive(Clone, Debug, Serialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Which of its lives.
    pub generation: u64,
    /// `up`, `down`, `left` or `draining`.
    pub state: &'static str,
    /// Seconds since it is down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub down_seconds: Option<u64>,
    /// Where its mesh and gossip are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh: Option<String>,
    /// Where its HTTP is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// Where its gRPC is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<String>,
    /// Its failure domain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// Bytes that its models may take.
    pub memory: u64,
    /// Bytes that they take.
    pub memory_used: u64,
    /// Its relative speed in hundredths of an ordinary compute thread.
    pub compute: u32,
    /// Whether this node has an open link to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linked: Option<bool>,
    /// Replicas on it.
    pub replicas: usize,
}

/// A model version in the grid.
#[derive(Clone, Debug, Serialize)]
pub struct ShardStatus {
    /// Its model.
    pub model: String,
    /// Its version.
    pub version: String,
    /// Digest of its files.
    pub content: String,
    /// How many replicas it should have; absent for one on every node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wanted: Option<u32>,
    /// The nodes that should host it.
    pub owners: Vec<String>,
    /// Those that do.
    pub replicas: Vec<ReplicaStatus>,
    /// Why it has fewer replicas than it should.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A replica.
#[derive(Clone, Debug, Serialize)]
pub struct ReplicaStatus {
    /// Where.
    pub node: String,
    /// `loading`, `ready`, `draining`, `quarantined` or `failed`.
    pub state: &'static str,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Bytes it takes.
    pub bytes: u64,
    /// Requests that it has not answered: all of this node's own replica, and those that this node sent to others.
    pub in_flight: usize,
}

/// A replica that is on its way, or waits for it.
#[derive(Clone, Debug, Serialize)]
pub struct Move {
    /// Its model.
    pub model: String,
    /// Its version.
    pub version: String,
    /// Where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Where it goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// `under way`, `waiting` or `stuck`.
    pub state: &'static str,
    /// Why it moves, or what it waits for.
    pub reason: String,
}

/// Something that went wrong.
#[derive(Clone, Debug, Serialize)]
pub struct TroubleStatus {
    /// Seconds ago.
    pub seconds_ago: u64,
    /// What.
    pub what: String,
}

fn stage(stage: &ReplicaStage) -> (&'static str, Option<String>) {
    match stage {
        ReplicaStage::Loading => ("loading", None),
        ReplicaStage::Ready => ("ready", None),
        ReplicaStage::Draining => ("draining", None),
        ReplicaStage::Quarantined => ("quarantined", None),
        ReplicaStage::Failed(reason) => ("failed", Some(reason.clone())),
    }
}

fn why(reason: MoveReason) -> &'static str {
    match reason {
        MoveReason::Missing => "it has too few replicas",
        MoveReason::Drain => "its node leaves",
        MoveReason::Avoid => "it failed on its node",
        MoveReason::OverMemory => "its node has less memory than it hosts",
        MoveReason::Surplus => "it has too many replicas",
        MoveReason::Balance => "its node has more load than its share",
    }
}

impl GridActor {
    pub(super) fn status(&self) -> GridStatus {
        let now = since_start();
        GridStatus {
            grid: self.config.grid.name.to_string(),
            node: self.agent.name().to_string(),
            nodes: self.nodes(now),
            shards: self.shards(),
            moves: self.moves(),
            troubles: self
                .troubles
                .0
                .iter()
                .rev()
                .map(|(at, _, what)| TroubleStatus {
                    seconds_ago: now.saturating_sub(*at).as_secs(),
                    what: what.clone(),
                })
                .collect(),
        }
    }

    fn nodes(&self, now: Duration) -> Vec<NodeStatus> {
        let status = |node: &grid_core::cluster::KnownNode| {
            let snapshot = node.snapshot.as_ref();
            let takes = |replica: &HostedReplica| !matches!(replica.stage, ReplicaStage::Failed(_));
            let replicas = snapshot.map_or(&[][..], |snapshot| &snapshot.replicas);
            let (state, down_seconds) = match node.standing {
                Standing::Down { since, left } => {
                    let state = if left { "left" } else { "down" };
                    (state, Some(now.saturating_sub(since).as_secs()))
                }
                Standing::Up if snapshot.is_some_and(|snapshot| snapshot.stage == NodeStage::Draining) => {
                    ("draining", None)
                }
                Standing::Up => ("up", None),
            };
            NodeStatus {
                name: node.id.name.to_string(),
                generation: node.id.generation,
                state,
                down_seconds,
                mesh: snapshot.map(|snapshot| snapshot.addresses.mesh.to_string()),
                http: snapshot.and_then(|snapshot| Some(snapshot.addresses.http?.to_string())),
                grpc: snapshot.and_then(|snapshot| Some(snapshot.addresses.grpc?.to_string())),
                zone: snapshot.map(|snapshot| snapshot.zone.clone()).unwrap_or_default(),
                memory: snapshot.map_or(0, |snapshot| snapshot.capacity.memory),
                memory_used: replicas
                    .iter()
                    .filter(|replica| takes(replica))
                    .map(|replica| replica.bytes)
                    .sum(),
                compute: snapshot.map_or(0, |snapshot| snapshot.capacity.compute),
                linked: (node.id.name != *self.agent.name())
                    .then(|| self.peers.get(&node.id.name).is_some_and(|peer| peer.is_linked())),
                replicas: replicas.iter().filter(|replica| takes(replica)).count(),
            }
        };
        self.agent.view().nodes().map(status).collect()
    }

    fn shards(&self) -> Vec<ShardStatus> {
        let mut hosted: BTreeMap<&ModelId, Vec<(&NodeSnapshot, &HostedReplica)>> = BTreeMap::new();
        for snapshot in self.agent.view().up() {
            for replica in &snapshot.replicas {
                hosted.entry(&replica.model).or_default().push((snapshot, replica));
            }
        }
        let deployed = self.agent.catalog().deployments();
        deployed
            .map(|(model, deployment)| {
                let replicas = hosted.get(model).map(Vec::as_slice).unwrap_or_default();
                let owners = self.agent.intents().get(model).map(|intent| intent.owners.as_slice());
                ShardStatus {
                    model: model.name.to_string(),
                    version: model.version.to_string(),
                    content: deployment.content.to_string(),
                    wanted: match deployment.replicas {
                        ReplicaCount::Exactly(count) => Some(count),
                        ReplicaCount::EveryNode => None,
                    },
                    owners: owners.unwrap_or_default().iter().map(NodeName::to_string).collect(),
                    replicas: replicas
                        .iter()
                        .map(|(snapshot, replica)| {
                            let (state, reason) = stage(&replica.stage);
                            ReplicaStatus {
                                node: snapshot.name().to_string(),
                                state,
                                reason,
                                bytes: replica.bytes,
                                in_flight: self.in_flight(model, snapshot.name()),
                            }
                        })
                        .collect(),
                    problem: self.why_not(model),
                }
            })
            .collect()
    }

    fn in_flight(&self, model: &ModelId, node: &NodeName) -> usize {
        let Some(route) = self.routes.find(model) else {
            return 0;
        };
        if node == self.agent.name() {
            return route.in_flight();
        }
        let remote = route.remotes.iter().find(|remote| remote.node() == node);
        remote.map_or(0, |remote| remote.in_flight())
    }

    /// Why a version has fewer replicas than it should.
    pub(super) fn why_not(&self, model: &ModelId) -> Option<String> {
        let shard = self.agent.intents().keys().position(|other| other == model)?;
        let unplaced = self.agent.assignment().unplaced.iter();
        let mut of_it = unplaced.filter(|unplaced| unplaced.shard == shard);
        of_it
            .next()
            .map(|unplaced| format!("{} replicas have no place: {}", unplaced.missing, unplaced.cause))
    }

    fn moves(&self) -> Vec<Move> {
        let assignment = self.agent.assignment();
        let models: Vec<&ModelId> = self.agent.intents().keys().collect();
        let nodes = self.agent.placed_nodes();
        let name = |node: usize| nodes.get(node).map(NodeName::to_string);
        let a_move = |shard: usize, from: Option<usize>, to: Option<usize>, state, reason: String| {
            let model = models.get(shard)?;
            Some(Move {
                model: model.name.to_string(),
                version: model.version.to_string(),
                from: from.and_then(name),
                to: to.and_then(name),
                state,
                reason,
            })
        };
        let issued = assignment.moves.iter().filter_map(|issued| {
            a_move(
                issued.shard,
                issued.from,
                issued.to,
                "under way",
                why(issued.reason).to_owned(),
            )
        });
        let waiting = assignment.waiting.iter().filter_map(|waiting| {
            let reason = match waiting.reason {
                WaitingFor::LoadingSlot => "its new node loads as many as it may already",
                WaitingFor::Room => "another replica has to leave its new node first",
            };
            a_move(
                waiting.shard,
                waiting.from,
                Some(waiting.to),
                "waiting",
                reason.to_owned(),
            )
        });
        let stuck = assignment
            .stuck
            .iter()
            .filter_map(|stuck| a_move(stuck.shard, stuck.node, None, "stuck", stuck.cause.to_string()));
        let own = self.agent.handoff().replicas().iter().filter_map(|(model, replica)| {
            let leaves = matches!(replica.stage, Stage::Draining { .. } | Stage::Unloading);
            leaves.then(|| Move {
                model: model.name.to_string(),
                version: model.version.to_string(),
                from: Some(self.agent.name().to_string()),
                to: None,
                state: "under way",
                reason: "others host it now".to_owned(),
            })
        });
        issued.chain(waiting).chain(stuck).chain(own).collect()
    }
}
