//! Who is in the grid, and what each node says of itself.
//!
//! Each node publishes one versioned [`NodeSnapshot`] of itself. It has a single writer, so the highest version wins, and
//! nothing of it needs a tombstone. Load is not in it: it would change every digest all the time, and it rides on
//! answers instead.

mod digest;
mod id;
mod key;
mod now;
mod quorum;
mod snapshot;
mod view;

pub use digest::{Digest, InvalidDigest};
pub use id::{GridName, InvalidName, MAX_NODE_NAME, NodeId, NodeName};
pub use key::{ClusterKey, InvalidKey};
pub use now::Now;
pub use quorum::{Member, Quorum};
pub use snapshot::{Addresses, Capacity, HostedReplica, NodeSnapshot, NodeStage, ReplicaStage};
pub use view::{KnownNode, REMEMBERED, Standing, View};
