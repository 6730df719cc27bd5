//! What nodes say to each other: links to peers, what this node answers on them, and replicas on other nodes.
//!
//! Each node opens a link of its own to each other node, and answers on those that others opened. Links live on threads of
//! their own, each with a router, so that a request that comes over the mesh reaches its lane without another hop.

mod listener;
mod peers;
mod remote;
mod serve;

use std::sync::LazyLock;
use std::time::Duration;

pub(crate) use listener::{Mesh, MeshOptions};
pub(crate) use peers::{CallError, Peer, Peers, PeersOptions};
pub use remote::Remote;
pub(crate) use remote::{RemoteAnswer, RemoteOutcome};
pub(crate) use serve::{Answerer, GridCalls};
use tokio::time::Instant;

/// Since when this process counts the time of decisions that are handed it.
fn start() -> Instant {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    *START
}

/// Time since this process first asked, for decisions that are handed the time.
pub(crate) fn since_start() -> Duration {
    start().elapsed()
}
