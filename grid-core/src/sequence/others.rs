//! The other nodes of the grid, as sequences need them.

use super::SequenceId;
use crate::cluster::{Member, NodeId, NodeName, Quorum};
use crate::model::ModelName;
use crate::placement;

/// All nodes as one of them sees them. Cheap to make: it only borrows.
#[derive(Clone, Copy)]
pub struct Others<'a> {
    /// Who sees them.
    pub own: &'a NodeName,
    /// All that are known; this one may be among them.
    pub members: &'a [Member],
    /// Whether that life of a node is linked to.
    pub is_linked: &'a dyn Fn(&NodeId) -> bool,
}

impl std::fmt::Debug for Others<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Others({:?})", self.members)
    }
}

impl<'a> Others<'a> {
    /// Those whose word counts.
    pub fn quorum(&self) -> Quorum {
        Quorum::of(self.own, self.members)
    }

    /// Those that are up and linked to.
    pub fn reached(&self) -> impl Iterator<Item = &'a NodeId> {
        let (own, is_linked) = (self.own, self.is_linked);
        let up = self.members.iter().filter(|member| member.up && !member.gone);
        let ids = up.map(|member| &member.id);
        ids.filter(move |id| id.name != *own && is_linked(id))
    }

    /// Whether all that are up are linked to.
    pub fn reaches_all(&self) -> bool {
        let up = self.members.iter().filter(|member| member.up && !member.gone).count();
        self.reached().count() + 1 >= up
    }

    /// Whether that node, in that life, is there and takes copies.
    pub fn is_there(&self, node: &NodeId) -> bool {
        let serves = |member: &Member| member.id == *node && member.up && member.serves && !member.gone;
        self.members.iter().any(serves) && (self.is_linked)(node)
    }

    /// Whether that life of that node is over, or nothing is heard of it.
    pub fn is_lost(&self, node: &NodeId) -> bool {
        let known = self.members.iter().find(|member| member.id.name == node.name);
        known.is_none_or(|member| member.is_lost(node))
    }

    /// Where the copy of a sequence goes.
    pub fn choice(&self, model: &ModelName, id: &SequenceId) -> Option<&'a NodeId> {
        let there = || {
            let others = self.members.iter().map(|member| &member.id);
            others.filter(|node| node.name != *self.own && self.is_there(node))
        };
        let first = placement::first_of(&format!("{model}/{id}"), there().map(|node| &node.name))?;
        there().find(|node| node.name == *first)
    }

    /// Whether there is nobody else who could hold a copy, or go on with one.
    pub fn is_alone(&self) -> bool {
        let mut others = self
            .members
            .iter()
            .filter(|member| member.id.name != *self.own && !member.gone);
        !others.any(|member| member.up) && self.quorum().is_reached([self.own])
    }
}
