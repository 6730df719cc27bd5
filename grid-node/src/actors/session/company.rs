//! The other nodes of the grid, as sequences need them.

use std::sync::Arc;
use std::time::Duration;

use grid_core::cluster::{Member, NodeId, NodeName};
use grid_core::sequence::Others;
use grid_core::tensor::Buffer;
use grid_core::wire::call::{Call, Reply};
use tokio::sync::watch;

use crate::mesh::{CallError, Peer, Peers};

/// How long another node may take over what is asked of it for a sequence. A link to a frozen one is given up earlier.
const PATIENCE: Duration = Duration::from_secs(2);

/// The other nodes. See the module's documentation.
pub(crate) struct Company {
    pub(crate) peers: Peers,
    /// This node as it was started. Where others took it to be down for a while it goes on as a new generation, and is still
    /// the home of its sequences: what counts there is the process that holds them.
    pub(crate) node: NodeId,
    /// All that are known, this one among them.
    pub(crate) members: watch::Receiver<Arc<Vec<Member>>>,
}

impl Company {
    /// The home of what lives here.
    pub(super) fn own(&self) -> NodeId {
        self.node.clone()
    }

    fn members(&self) -> Arc<Vec<Member>> {
        Arc::clone(&self.members.borrow())
    }

    /// Decides by the other nodes as this one sees them now. Few at a time: they may change from one to the next.
    pub(super) fn judge<T>(&self, decide: impl FnOnce(Others<'_>) -> T) -> T {
        let is_linked = |node: &NodeId| {
            let peer = self.peers.get(&node.name);
            peer.is_some_and(|peer| peer.id == *node && peer.is_linked())
        };
        decide(Others {
            own: &self.node.name,
            members: &self.members(),
            is_linked: &is_linked,
        })
    }

    /// The nodes that are up and reached, this one left out.
    pub(super) fn reached(&self) -> Vec<Arc<Peer>> {
        self.judge(|others| {
            let peers = others.reached().filter_map(|node| self.peers.get(&node.name));
            peers.collect()
        })
    }

    /// Whether that node, in that life, is there and takes copies.
    pub(super) fn is_there(&self, node: &NodeId) -> bool {
        self.judge(|others| others.is_there(node))
    }

    /// Whether that life of that node is over, or nothing is heard of it.
    pub(super) fn is_lost(&self, node: &NodeId) -> bool {
        self.judge(|others| others.is_lost(node))
    }

    /// One call with one reply.
    pub(super) async fn ask(
        &self,
        node: &NodeName,
        call: &Call,
        body: Vec<Buffer>,
    ) -> Result<(Reply, Buffer), CallError> {
        let peer = self.peers.get(node).ok_or(CallError::NoLink)?;
        peer.call(call, body, PATIENCE).await
    }
}
