//! Who is up, and the newest that was heard of each.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use foca::OwnedNotification;

use super::packet::{Identity, Item};
use super::{Head, MembershipEffect, Peer};
use crate::cluster::{NodeId, NodeName};

/// Heads kept of names that are not up, on top of twice as many as are: news may come before the node does.
const SPARE_HEADS: usize = 1024;

/// Who is up, and the newest that was heard of each.
#[derive(Default)]
pub(super) struct Roster {
    up: BTreeMap<NodeName, Peer>,
    heads: BTreeMap<NodeName, (NodeId, Head)>,
    /// Who of those that are up has said farewell.
    leaving: BTreeSet<NodeName>,
}

impl Roster {
    pub(super) fn get(&self, name: &NodeName) -> Option<&Peer> {
        self.up.get(name)
    }

    pub(super) fn len(&self) -> usize {
        self.up.len()
    }

    pub(super) fn nth(&self, index: usize) -> Option<&Peer> {
        self.up.values().nth(index)
    }

    /// Those whose names come after this one, in order.
    pub(super) fn after(&self, name: Option<&NodeName>) -> impl Iterator<Item = &Peer> {
        let start = name.map_or(Bound::Unbounded, Bound::Excluded);
        self.up
            .range::<NodeName, _>((start, Bound::Unbounded))
            .map(|(_, peer)| peer)
    }

    /// Whether this was not known. Then it is from now on.
    pub(super) fn learn(&mut self, item: &Item) -> bool {
        match item {
            Item::Head { node, head } => {
                let age = (node.generation, head.version);
                let room = self.heads.len() < 2 * self.up.len() + SPARE_HEADS;
                let news = match self.heads.get(&node.name) {
                    Some((known, newest)) => age > (known.generation, newest.version),
                    None => room,
                };
                if news {
                    self.heads.insert(node.name.clone(), (node.clone(), *head));
                }
                news
            }
            Item::Left { node } => {
                let is_up = self.up.get(&node.name).is_some_and(|peer| peer.id == *node);
                is_up && self.leaving.insert(node.name.clone())
            }
        }
    }

    /// Tells what foca says in our words.
    pub(super) fn follow(&mut self, said: Vec<OwnedNotification<Identity>>, effects: &mut VecDeque<MembershipEffect>) {
        let mut said = said.into_iter().peekable();
        while let Some(one) = said.next() {
            match one {
                OwnedNotification::MemberUp(Identity(peer)) => self.rise(peer, effects),
                OwnedNotification::MemberDown(Identity(peer)) => self.fall(&peer, effects),
                OwnedNotification::Rename(Identity(before), after) => {
                    let was_up = self.up.get(&before.id.name) == Some(&before);
                    self.fall(&before, effects);
                    // Between two that are both up, the change of name is all that foca says.
                    let falls = OwnedNotification::MemberDown(after.clone());
                    if was_up && said.peek() != Some(&falls) {
                        self.rise(after.0, effects);
                    }
                }
                _ => {}
            }
        }
    }

    fn rise(&mut self, peer: Peer, effects: &mut VecDeque<MembershipEffect>) {
        self.up.insert(peer.id.name.clone(), peer.clone());
        effects.push_back(MembershipEffect::Up(peer));
    }

    fn fall(&mut self, peer: &Peer, effects: &mut VecDeque<MembershipEffect>) {
        let name = &peer.id.name;
        if self.up.get(name) != Some(peer) {
            return;
        }
        self.up.remove(name);
        if self.heads.get(name).is_some_and(|(node, _)| *node == peer.id) {
            self.heads.remove(name);
        }
        effects.push_back(MembershipEffect::Down {
            node: peer.id.clone(),
            left: self.leaving.remove(name),
        });
    }
}
