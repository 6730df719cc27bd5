//! The other nodes of the grid, as sequences need them.

use std::sync::Arc;
use std::time::Duration;

use grid_core::cluster::{Member, NodeId, NodeName, Quorum};
use grid_core::placement;
use grid_core::tensor::Buffer;
use grid_core::wire::call::{Call, Reply};
use tokio::sync::watch;

use super::registry::Key;
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

    pub(super) fn members(&self) -> Arc<Vec<Member>> {
        Arc::clone(&self.members.borrow())
    }

    pub(super) fn quorum(&self) -> Quorum {
        Quorum::of(&self.node.name, self.members().iter())
    }

    /// The nodes that are up and reached, this one left out.
    pub(super) fn reached(&self) -> Vec<Arc<Peer>> {
        let own = self.own();
        let members = self.members();
        let up = members
            .iter()
            .filter(|member| member.up && !member.gone && member.id.name != own.name);
        let peers = up.filter_map(|member| self.peers.get(&member.id.name).filter(|peer| peer.id == member.id));
        peers.filter(|peer| peer.is_linked()).collect()
    }

    /// Whether all that are up are reached.
    pub(super) fn reaches_all(&self) -> bool {
        let up = self.members().iter().filter(|member| member.up && !member.gone).count();
        self.reached().len() + 1 >= up
    }

    /// Whether that node, in that life, is there and takes copies.
    pub(super) fn is_there(&self, node: &NodeId) -> bool {
        let serves = |member: &Member| member.id == *node && member.up && member.serves && !member.gone;
        self.members().iter().any(serves)
            && self
                .peers
                .get(&node.name)
                .is_some_and(|peer| peer.id == *node && peer.is_linked())
    }

    /// Whether that life of that node is over, or nothing is heard of it.
    pub(super) fn is_lost(&self, node: &NodeId) -> bool {
        let members = self.members();
        let known = members.iter().find(|member| member.id.name == node.name);
        known.is_none_or(|member| member.is_lost(node))
    }

    /// Where the copy of a sequence goes.
    pub(super) fn choice(&self, (model, id): &Key) -> Option<NodeId> {
        let own = self.own();
        let members = self.members();
        let there = || {
            let others = members
                .iter()
                .map(|member| &member.id)
                .filter(|node| node.name != own.name);
            others.filter(|node| self.is_there(node))
        };
        let first = placement::first_of(&format!("{model}/{id}"), there().map(|node| &node.name))?;
        there().find(|node| node.name == *first).cloned()
    }

    /// Whether there is nobody else who could hold a copy, or go on with one.
    pub(super) fn is_alone(&self) -> bool {
        let own = &self.node.name;
        let members = self.members();
        let mut others = members.iter().filter(|member| member.id.name != *own && !member.gone);
        !others.any(|member| member.up) && Quorum::of(own, members.iter()).is_reached([own])
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
