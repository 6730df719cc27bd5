//! Which node hosts which shard.
//!
//! The problem: given are *nodes* (memory, compute weight, zone, whether they accept replicas), *shards* (bytes, load,
//! number of replicas, nodes to avoid) and what is *hosted* now. Find the owners of each shard, and the moves of this
//! round that lead there. There is no coordinator: every node solves the same problem for itself. Wanted:
//!
//! - (A) *memory*: no replica is given to a node in whose memory it does not fit beside what was given to it before. A
//!   node that shrank below what it hosts gets nothing and gives away until it fits;
//! - (B) *make before break*: a new owner has room now, with all that it still hosts. A move whose target has no room
//!   until something else leaves waits, and moves that wait for each other in a ring are reported and never forced. A
//!   shard's last copy is never taken away before another is made;
//! - (C) *spread*: replicas of one shard are on distinct nodes, and in distinct zones where a node there has room;
//! - (D) *same view, same answer*: the order of nodes, shards and replicas in the problem does not matter, nor does the
//!   machine;
//! - (E) *stickiness*: a replica stays where it is unless its node accepts no more, is over its memory, is to be avoided,
//!   or is out of balance by more than [`Policy::imbalance`]. So a node that joins or leaves moves about its share;
//! - (F) *no flapping*: placing again on the result moves nothing, and neither do capacities that waver by 5 %;
//! - (G) *evenness*: where sizes allow, each node's load is near its share by compute weight;
//! - (H) *no floods*: at most [`Policy::loads_per_node`] replicas are loaded on one node at once; those behind wait. Moves
//!   for balance alone are at most [`Policy::balance_moves`] at once, and come after all that must be done;
//! - (I) *honesty*: what does not fit is named with the bytes it needs and those that are free; the rest is served. First
//!   every shard gets one replica, then every shard a second one, and so on, larger shards first.
//!
//! With only one kind of size this is bin packing already, so there is no perfect answer in time. The heuristic:
//!
//! 1. *Keep* what may stay; too many copies of a shard lose the one on the fullest node; a node over its memory gives up
//!    the smallest replica that is enough. (`keep`)
//! 2. *Choose* a node for each replica that lacks one: weighted rendezvous hashing (Thaler and Ravishankar 1998; weights
//!    as in Schindelhauer and Schomaker 2005) ranks the nodes, and the first one is taken that has room and whose load
//!    stays under a bound close to its share (Mirrokni, Thorup and Zadimoghaddam 2018). When all of the first are full,
//!    the least loaded one of all. What is not in memory yet is then evened out for free. (`choose`, `balance`)
//! 3. *Issue* what has room and a free loading slot now; the rest waits or is stuck. (`issue`)
//! 4. *Balance* hosted replicas, only for nodes that are out of balance by more than the threshold. (`balance`)
//!
//! Why (F) holds. A move from node `d` to node `r` is only made when `r` is less loaded after it than `d` was before, so
//! the loads in descending order fall lexicographically, and no sequence of moves comes back to where it was. And there
//! are two thresholds everywhere: what is not in memory yet is evened out until each node is within 3 % of its share, or no
//! weak improvement is left; hosted replicas move only when a node is out by 15 % and a *strong* improvement exists. One
//! node 5 % down and all others 5 % up change a share by 1.05 ÷ 0.95 = 1.105; this moves no node from the inner
//! threshold past the outer one, and makes no strong improvement out of what was not a weak one before.
//!
//! Why (D) holds over machines: hashes and logarithms are computed in integers; loads are compared as `f64`, but only by
//! division, multiplication and comparison, which IEEE 754 rounds in one way everywhere.
//!
//! A replica is not moved for the sake of zones alone: a grid that gets its second zone later is not spread anew.

mod assignment;
mod balance;
mod choose;
mod issue;
mod keep;
mod ledger;
mod problem;
mod rendezvous;
#[cfg(test)]
mod tests;

pub use assignment::{Assignment, Cause, Move, MoveReason, Stuck, Unplaced, Waiting, WaitingFor};
pub use problem::{Hosted, HostedStage, PlacementNode, PlacementShard, Policy, Problem, ReplicaCount};

use ledger::Ledger;

use crate::cluster::NodeName;

/// Which of these nodes something goes to that is no shard, the copy of a sequence, say: the same on every node that asks,
/// spread evenly.
pub fn first_of<'a>(what: &str, nodes: impl Iterator<Item = &'a NodeName>) -> Option<&'a NodeName> {
    rendezvous::first_of(what, nodes)
}

/// The owners of each shard, and the moves of this round. Indices in the answer are those of the problem.
///
/// Names of nodes and ids of shards must be unique; entries of what is hosted that name no node or shard of the problem
/// are ignored.
pub fn place(problem: &Problem<'_>, policy: &Policy) -> Assignment {
    let mut ledger = Ledger::new(problem);
    let displaced = keep::keep(&mut ledger);
    let mut plan = choose::choose(&mut ledger, displaced, policy);
    ledger.share_what_is_assigned();
    balance::refine(&mut ledger, &mut plan.pending, policy);
    let mut round = issue::issue(&mut ledger, plan, policy);
    balance::rebalance(&mut ledger, &mut round, policy);
    round.into_assignment(ledger)
}
