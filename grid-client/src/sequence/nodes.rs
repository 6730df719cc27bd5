//! Which node a message of a sequence goes to.
//!
//! The one that holds the sequence, as long as it answers. Then all others in turn, those that host the model first: which
//! of them takes the sequence over is not known here.

use std::sync::Arc;

use grid_core::cluster::NodeName;
use grid_core::model::ModelId;

use crate::client::{Found, GridClient};
use crate::link::Link;

/// What a node said that does not have the sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum No {
    /// It has never heard of it.
    Unknown,
    /// It serves no sequences over the mesh.
    Refused,
    /// It could not be reached, or cannot take it now.
    Busy,
}

/// The nodes of one sequence.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    home: Option<NodeName>,
    /// Who did not take the message, in this round.
    passed: Vec<(NodeName, No)>,
}

impl Nodes {
    /// That node answered: the sequence is there.
    pub(super) fn found(&mut self, node: NodeName) {
        self.home = Some(node);
        self.passed.clear();
    }

    /// That node did not take it.
    pub(super) fn pass(&mut self, node: NodeName, no: No) {
        self.passed.retain(|(passed, _)| *passed != node);
        self.passed.push((node, no));
    }

    /// All nodes get another chance.
    pub(super) fn next_round(&mut self) {
        self.passed.clear();
    }

    /// Whether all nodes that are up said that, in this round.
    pub(super) fn all_said(&self, client: &GridClient, no: No) -> bool {
        let Some(topology) = client.core().topology() else {
            return false;
        };
        let said = |node: &NodeName| self.passed.iter().any(|(passed, what)| passed == node && *what == no);
        !topology.nodes.is_empty() && topology.nodes.iter().all(|node| said(node.name()))
    }

    /// The next node to try, with the link to it. None when all that are linked were tried. A sequence that no node has
    /// heard of (`starts`) goes to those that host its model alone.
    pub(super) fn next(&self, client: &GridClient, model: &ModelId, starts: bool) -> Option<(NodeName, Link)> {
        let core = client.core();
        let mut hosts = match core.find(&model.name, Some(model.version)) {
            Found::Route(route) => route.hosts.clone(),
            Found::Waiting(_) => Vec::new(),
        };
        let unknown = hosts
            .iter()
            .filter_map(|host| host.replica.service())
            .max()
            .unwrap_or_default();
        hosts.sort_by_cached_key(|host| host.replica.cost(unknown));
        let topology = core.topology().filter(|_| !starts);
        let others = topology
            .iter()
            .flat_map(|topology| &topology.nodes)
            .map(|node| node.name().clone());
        let hosts = hosts.iter().map(|host| host.replica.node().clone());
        let candidates = self.home.clone().into_iter().chain(hosts).chain(others);
        let untried = candidates.filter(|node| self.passed.iter().all(|(passed, _)| passed != node));
        let mut linked = untried.filter_map(|node| {
            let link = core.peer(&node).as_ref().and_then(|peer: &Arc<_>| peer.link())?;
            Some((node, link))
        });
        linked.next()
    }
}
