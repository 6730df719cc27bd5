//! What is decided.

use std::fmt;

/// The owners of each shard, and what is to be done now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// For each shard the nodes that own it once this round's moves are done, sorted. A replica whose replacement has to
    /// wait is an owner until then, even on a node that drains.
    pub owners: Vec<Vec<usize>>,
    /// What is to be loaded or unloaded now, the urgent first.
    pub moves: Vec<Move>,
    /// What has a place but cannot be loaded there yet.
    pub waiting: Vec<Waiting>,
    /// What has no place.
    pub unplaced: Vec<Unplaced>,
    /// Replicas that should be elsewhere and cannot go; they stay and serve.
    pub stuck: Vec<Stuck>,
}

/// A replica is made, unmade, or both in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Index of the shard.
    pub shard: usize,
    /// The node that it leaves once all owners are ready.
    pub from: Option<usize>,
    /// The node that loads it.
    pub to: Option<usize>,
    /// Why.
    pub reason: MoveReason,
}

/// Why a replica moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MoveReason {
    /// The shard has too few replicas.
    Missing,
    /// Its node accepts no more.
    Drain,
    /// It is on a node that it must avoid.
    Avoid,
    /// Its node's memory is smaller than what the node hosts.
    OverMemory,
    /// The shard has too many replicas.
    Surplus,
    /// Its node's load is above its share, or the new node's below.
    Balance,
}

/// A replica that has a place and cannot be loaded there yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Index of the shard.
    pub shard: usize,
    /// The node that it would leave; it serves there until then.
    pub from: Option<usize>,
    /// The node that would load it.
    pub to: usize,
    /// What it waits for.
    pub reason: WaitingFor,
}

/// What a replica waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitingFor {
    /// Its node loads as many as it may already.
    LoadingSlot,
    /// Another replica has to leave its node first, and will.
    Room,
}

/// Replicas that have no place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unplaced {
    /// Index of the shard.
    pub shard: usize,
    /// How many of its replicas.
    pub missing: u32,
    /// Why.
    pub cause: Cause,
}

/// A replica that should leave its node, or one that should be loaded on it, and cannot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// Index of the shard.
    pub shard: usize,
    /// The node that it is on, if it is on one.
    pub node: Option<usize>,
    /// Why.
    pub cause: Cause,
}

/// Why a replica has no place, or cannot go to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Every node that may take it has one already, or is to be avoided.
    NoNode {
        /// Nodes that accept replicas.
        accepting: usize,
    },
    /// It fits nowhere.
    NoRoom {
        /// Bytes that one replica takes.
        needed: u64,
        /// Most bytes that are free on a node that could take it.
        free: u64,
    },
    /// What would have to leave its new node first waits itself for what cannot move.
    Ring {
        /// Index of that node.
        to: usize,
        /// Bytes that the replica takes.
        needed: u64,
        /// Bytes that are free there.
        free: u64,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNode { accepting: 0 } => write!(f, "no node accepts replicas"),
            Self::NoNode { accepting } => write!(
                f,
                "each of the {accepting} nodes that accept replicas has one already or has to be avoided"
            ),
            Self::NoRoom { needed, free } => write!(
                f,
                "a replica needs {needed} bytes, and the node with most room for it has {free} bytes free"
            ),
            Self::Ring { needed, free, .. } => write!(
                f,
                "a replica needs {needed} bytes, its new node has {free} bytes free, and what would have to leave that \
                 node first cannot move either; more memory on any node of the ring, or a smaller model, lets it go on"
            ),
        }
    }
}
