//! What a node says of itself.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{Digest, NodeId, NodeName};
use crate::model::ModelId;

/// What one node says of itself. Only the node itself writes it; of two, the one with the higher
/// `(generation, version)` is the newer one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSnapshot {
    /// The node, in its present life.
    pub node: NodeId,
    /// Raised with every change.
    pub version: u64,
    /// Where it is reached.
    pub addresses: Addresses,
    /// The failure domain it is in; replicas of one shard are spread over zones. Empty when there is only one.
    pub zone: String,
    /// What it can hold and do.
    pub capacity: Capacity,
    /// Where it stands.
    pub stage: NodeStage,
    /// The replicas it hosts, sorted by model, one entry each.
    pub replicas: Vec<HostedReplica>,
    /// Digest of its catalog: a node with another one asks for the difference.
    pub catalog: Digest,
    /// Contents that it can send to others, sorted: those of its replicas, and more that lie on its disk.
    pub artifacts: Vec<Digest>,
    /// Bytes that contents were found to take when they were loaded on this node, or would have taken when there was no
    /// room for them; of contents that are deployed, in memory or not, sorted. Estimates fail, and this is what the
    /// others learn from it.
    pub footprints: Vec<(Digest, u64)>,
}

impl NodeSnapshot {
    /// The node's name.
    pub fn name(&self) -> &NodeName {
        &self.node.name
    }

    /// Orders snapshots of one node: the higher is the newer.
    pub fn age(&self) -> (u64, u64) {
        (self.node.generation, self.version)
    }

    /// What it hosts of a model version.
    pub fn replica(&self, model: &ModelId) -> Option<&HostedReplica> {
        let found = self.replicas.binary_search_by(|replica| replica.model.cmp(model));
        found.ok().map(|index| &self.replicas[index])
    }
}

/// Where a node is reached by others. What is not there is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// Gossip (UDP) and mesh (TCP): one port for both.
    pub mesh: SocketAddr,
    /// HTTP and WebSocket.
    pub http: Option<SocketAddr>,
    /// gRPC.
    pub grpc: Option<SocketAddr>,
}

/// What a node can hold and do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Bytes that its replicas may take together.
    pub memory: u64,
    /// Relative speed in hundredths: 100 is one compute thread of an ordinary node.
    pub compute: u32,
}

/// Where a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeStage {
    /// It takes replicas and requests.
    Serving,
    /// It leaves: it takes nothing new, and its replicas move away.
    Draining,
}

/// A replica as its node tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostedReplica {
    /// Which model version.
    pub model: ModelId,
    /// Which content of it.
    pub content: Digest,
    /// Where it stands.
    pub stage: ReplicaStage,
    /// Bytes it takes, or will take, of its node's memory.
    pub bytes: u64,
}

/// Where a replica stands in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplicaStage {
    /// Being fetched or brought into memory.
    Loading,
    /// It answers.
    Ready,
    /// It finishes what it accepted, and what still comes from those who have not heard.
    Draining,
    /// It ended too often; placement counts it as lost.
    Quarantined,
    /// It could not be loaded on this node, for this reason.
    Failed(String),
}
