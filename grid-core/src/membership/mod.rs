//! Who is in the grid: nodes find each other by gossip, and notice when one is gone.
//!
//! The problem: without any node that is special, every node keeps a list of the others. Wanted:
//!
//! - (A) a node that joins through one other is soon known to all, and knows all;
//! - (B) a node that crashed is soon known to be down by all, at a cost for each node that does not grow with the grid;
//! - (C) a node that is well is not declared down because the one that watches it is unwell (`self_doubt`);
//! - (D) what was declared down never comes back: a node that was, and lives, goes on as a new generation;
//! - (E) parts of the grid that were cut off from each other find together again;
//! - (F) who has another key, another grid name or another protocol has no effect, and is told of;
//! - (G) nothing that comes in a datagram panics, or makes a node keep more than a bounded amount.
//!
//! It is SWIM (Das, Gupta, Motivala 2002) as `foca` has it. What is ours is around it: sealed datagrams (`seal`), what
//! foca gets to see of them (`packet`), self-doubt, the list for newcomers, and nodes that claim one name. A
//! [`Membership`] does no I/O: datagrams and readings of the clocks come in, [`MembershipEffect`]s go out.

mod options;
mod pace;
mod packet;
mod roster;
mod seal;
mod self_doubt;
mod swim;
#[cfg(test)]
mod tests;
mod timers;
mod trouble;

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use options::MembershipOptions;
pub use swim::Swim;
pub use trouble::Trouble;

use crate::cluster::{Digest, NodeId, Now};

/// Largest datagram that is sent or read, in bytes: it fits the frames of all usual networks.
pub const MAX_DATAGRAM: usize = 1400;

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Peer {
    /// Which node, and which of its lives.
    pub id: NodeId,
    /// Where its gossip (UDP) and its mesh (TCP) are reached.
    pub mesh: SocketAddr,
}

/// What a node says of itself in few enough bytes to ride on the gossip: who has an older snapshot or another catalog
/// asks for the difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The version of its snapshot.
    pub version: u64,
    /// The digest of its catalog.
    pub catalog: Digest,
}

/// What a [`Membership`] wants done, or has found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembershipEffect {
    /// Send this datagram. It may get lost.
    Send {
        /// To where.
        to: SocketAddr,
        /// The datagram.
        bytes: Vec<u8>,
    },
    /// This node is there.
    Up(Peer),
    /// This node, which was there, is gone: this life of it does not come back. That is a guess unless it `left`.
    Down {
        /// Which.
        node: NodeId,
        /// It said so itself. False also when its word got lost.
        left: bool,
    },
    /// This node has a newer head than any it had before. Of a node that comes up, a head may be missing until its
    /// next.
    Head {
        /// Which node.
        node: NodeId,
        /// Its head.
        head: Head,
    },
    /// Others had declared us down, so we go on under this higher generation, which is to be persisted: a generation is
    /// never used twice.
    Renewed(NodeId),
    /// Something that a person should know of; each at most once in a while, however often it occurs.
    Trouble(Trouble),
}

/// Keeps the list of nodes. Time and datagrams come in by its methods, and after each call [`poll`](Self::poll) gives
/// what is to be done, until `None`.
pub trait Membership {
    /// A datagram came. After a freeze, those that wait should be handed in before the next [`tick`](Self::tick).
    fn datagram(&mut self, now: Now, from: SocketAddr, bytes: &[u8]);

    /// Runs what is due. To be called at [`next_wake`](Self::next_wake); earlier does no harm, and later makes the node
    /// doubt itself.
    fn tick(&mut self, now: Now);

    /// When [`tick`](Self::tick) is to be called, in monotonic time. `None`: not before something else happens. Every
    /// other call may change it.
    fn next_wake(&self) -> Option<Duration>;

    /// Asks the nodes at these addresses to take us in. Any of this may get lost, so it is called again and again, with
    /// the names resolved anew, until there are peers; and now and then after that, so that two halves of a grid, each
    /// of which has declared the other down, find each other again. Our own address may be among them.
    fn join(&mut self, now: Now, seeds: &[SocketAddr]);

    /// Says farewell. After that nothing more happens here.
    fn leave(&mut self, now: Now);

    /// What we say of ourselves from now on. It is spread to all.
    fn set_head(&mut self, now: Now, head: Head);

    /// The next effect of what has happened.
    fn poll(&mut self) -> Option<MembershipEffect>;
}
