//! What is given.

use crate::cluster::NodeName;
use crate::model::ModelId;
pub use crate::model::ReplicaCount;

/// A node that replicas can be placed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacementNode {
    /// Its name.
    pub name: NodeName,
    /// Bytes that its replicas may take together.
    pub memory: u64,
    /// Relative speed in hundredths; 0 counts as 1.
    pub compute: u32,
    /// The failure domain it is in.
    pub zone: String,
    /// Whether it takes and keeps replicas. One that drains, or is about to be given up, does neither.
    pub accepts: bool,
}

/// A shard that is to be placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacementShard {
    /// Which one.
    pub id: ModelId,
    /// Bytes that a new replica is expected to take in memory, at worst.
    pub bytes: u64,
    /// Relative compute load of one replica; 100 is an ordinary one, 0 counts as 1.
    pub load: u32,
    /// How many replicas it is to have.
    pub replicas: ReplicaCount,
    /// Indices of nodes that it must not be on: it failed to load there, or is quarantined.
    pub avoid: Vec<usize>,
}

/// A replica that is in memory, or on its way there or out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hosted {
    /// Index of the shard.
    pub shard: usize,
    /// Index of the node.
    pub node: usize,
    /// Where it stands.
    pub stage: HostedStage,
    /// Bytes that it takes there, which may be more or less than what is expected of a new one.
    pub bytes: u64,
}

/// Where a hosted replica stands. Whatever its stage, it takes its bytes of its node's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostedStage {
    /// It answers.
    Ready,
    /// It is being loaded, and takes a loading slot of its node.
    Loading,
    /// It finishes what it accepted and goes. Placement counts on it no more.
    Leaving,
}

/// What is given.
#[derive(Clone, Copy, Debug)]
pub struct Problem<'a> {
    /// The nodes that are alive, in any order.
    pub nodes: &'a [PlacementNode],
    /// The shards that are deployed, in any order.
    pub shards: &'a [PlacementShard],
    /// What is hosted, in any order.
    pub hosted: &'a [Hosted],
}

/// How eager placement is. Fractions are in thousandths, as integers mean the same on all machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Hosted replicas move for balance only when a node's load is this far from its share.
    pub imbalance: u32,
    /// What moves or is loaded anyway comes this near to the shares.
    pub evenness: u32,
    /// Moves for balance alone that are under way at once in the whole grid.
    pub balance_moves: u32,
    /// Replicas that one node loads at once.
    pub loads_per_node: u32,
    /// A move for balance leaves this much of its target's memory free.
    pub balance_headroom: u32,
    /// Other replicas leave this much free where they can.
    pub headroom: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            // Capacities waver by 5 %, which changes a share by up to 10.5 %. From the 3 % below, that is 14 %.
            imbalance: 150,
            evenness: 30,
            // A move for balance costs a load and gains little: few enough that a grid of ten nodes hardly notices, and
            // enough to relieve one node of a large grid in one or two rounds.
            balance_moves: 64,
            // One that is fetched, one that is read, one that warms up, and one in reserve.
            loads_per_node: 4,
            // A memory budget that falls by 5 % must not force what was placed with room to spare. And a budget that rises
            // by 5 % must not make room for a move for balance where there was none before: 0.9 × 1.05 < 0.95.
            balance_headroom: 100,
            headroom: 50,
        }
    }
}
