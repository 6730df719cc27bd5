//! What this node believes of the others.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Digest, Member, NodeId, NodeName, NodeSnapshot, NodeStage};
use crate::wire::codec;

/// A node as this one knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownNode {
    /// Its present life, as far as is known.
    pub id: NodeId,
    /// Whether it is there.
    pub standing: Standing,
    /// The newest that it said of itself and that has arrived here.
    pub snapshot: Option<NodeSnapshot>,
    /// The version of the newest that it said; higher than the snapshot's while that is on its way.
    pub heard_of: u64,
}

/// Whether a node is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// As far as membership knows.
    Up,
    /// It does not answer, or has left.
    Down {
        /// Since when.
        since: Duration,
        /// It said that it goes.
        left: bool,
    },
}

/// How long a node that is down is remembered, for people who want to know where it went.
pub const REMEMBERED: Duration = Duration::from_secs(3600);

/// What one node believes of all. Every change raises [`View::changes`].
#[derive(Clone, Debug)]
pub struct View {
    nodes: BTreeMap<NodeName, KnownNode>,
    changes: u64,
}

impl View {
    /// A view of a node that knows only itself.
    pub fn new(own: NodeSnapshot) -> Self {
        let mut view = Self {
            nodes: BTreeMap::new(),
            changes: 0,
        };
        view.publish(own);
        view
    }

    /// Counts changes: while it stays, so does everything that was derived from the view.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// All nodes, this one and those that are down included.
    pub fn nodes(&self) -> impl Iterator<Item = &KnownNode> {
        self.nodes.values()
    }

    /// One of them.
    pub fn node(&self, name: &NodeName) -> Option<&KnownNode> {
        self.nodes.get(name)
    }

    /// Those that are up, with what they say of themselves.
    pub fn up(&self) -> impl Iterator<Item = &NodeSnapshot> {
        let up = |node: &&KnownNode| node.standing == Standing::Up;
        self.nodes.values().filter(up).filter_map(|node| node.snapshot.as_ref())
    }

    /// All nodes as quorums count them. `is_gone` tells whose processes are provably gone.
    pub fn members(&self, is_gone: impl Fn(&NodeId) -> bool) -> Vec<Member> {
        let member = |node: &KnownNode| {
            let serves = |snapshot: &NodeSnapshot| snapshot.stage == NodeStage::Serving;
            Member {
                id: node.id.clone(),
                up: node.standing == Standing::Up,
                serves: node.snapshot.as_ref().is_some_and(serves),
                gone: matches!(node.standing, Standing::Down { left: true, .. }) || is_gone(&node.id),
            }
        };
        self.nodes.values().map(member).collect()
    }

    /// What this node says of itself.
    pub fn publish(&mut self, own: NodeSnapshot) {
        let known = KnownNode {
            id: own.node.clone(),
            standing: Standing::Up,
            heard_of: own.version,
            snapshot: Some(own.clone()),
        };
        self.nodes.insert(own.node.name, known);
        self.changes += 1;
    }

    /// Membership says that a node is there.
    pub fn up_now(&mut self, id: NodeId) {
        let mut is_new = false;
        let known = self.nodes.entry(id.name.clone()).or_insert_with(|| {
            is_new = true;
            KnownNode {
                id: id.clone(),
                standing: Standing::Up,
                snapshot: None,
                heard_of: 0,
            }
        });
        let is_known = known.id == id && known.standing == Standing::Up;
        if known.id.generation > id.generation || (is_known && !is_new) {
            return;
        }
        if known.id != id {
            (known.id, known.snapshot, known.heard_of) = (id, None, 0);
        }
        known.standing = Standing::Up;
        self.changes += 1;
    }

    /// Membership says that a node is gone.
    pub fn down_now(&mut self, id: &NodeId, now: Duration, left: bool) {
        if let Some(known) = self.nodes.get_mut(&id.name)
            && known.id == *id
            && known.standing == Standing::Up
        {
            known.standing = Standing::Down { since: now, left };
            self.changes += 1;
        }
    }

    /// A node is said to have said something of this version.
    pub fn heard_of(&mut self, id: &NodeId, version: u64) {
        if let Some(known) = self.nodes.get_mut(&id.name).filter(|known| known.id == *id) {
            known.heard_of = known.heard_of.max(version);
        }
    }

    /// Something that a node said of itself has arrived. Returns whether it is news.
    pub fn learn(&mut self, snapshot: NodeSnapshot) -> bool {
        // Who is there is membership's word alone: a snapshot of a node that it does not know may be of one long gone.
        let Some(known) = self.nodes.get_mut(&snapshot.node.name) else {
            return false;
        };
        let is_news = known
            .snapshot
            .as_ref()
            .is_none_or(|before| before.version < snapshot.version);
        if known.id != snapshot.node || !is_news {
            return false;
        }
        known.heard_of = known.heard_of.max(snapshot.version);
        known.snapshot = Some(snapshot);
        self.changes += 1;
        true
    }

    /// Nodes that are up and said something that has not arrived.
    pub fn behind(&self) -> impl Iterator<Item = &KnownNode> {
        let is_behind = |node: &&KnownNode| {
            let has = node.snapshot.as_ref().map_or(0, |snapshot| snapshot.version);
            node.standing == Standing::Up && (node.snapshot.is_none() || has < node.heard_of)
        };
        self.nodes.values().filter(is_behind)
    }

    /// The newest known of each node that is up.
    pub fn heads(&self) -> Vec<(NodeId, u64)> {
        self.up()
            .map(|snapshot| (snapshot.node.clone(), snapshot.version))
            .collect()
    }

    /// What tells two views apart.
    pub fn digest(&self) -> Digest {
        Digest::of(&codec::encode(&self.heads()))
    }

    /// Forgets nodes that are down for long.
    pub fn forget_old(&mut self, now: Duration) {
        let is_old =
            |node: &KnownNode| matches!(node.standing, Standing::Down { since, .. } if since + REMEMBERED < now);
        self.nodes.retain(|_, node| !is_old(node));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Addresses, Capacity, NodeStage};

    fn id(name: &str, generation: u64) -> NodeId {
        NodeId {
            name: name.parse().unwrap(),
            generation,
        }
    }

    fn snapshot(node: NodeId, version: u64) -> NodeSnapshot {
        NodeSnapshot {
            node,
            version,
            addresses: Addresses {
                mesh: ([127, 0, 0, 1], 1).into(),
                http: None,
                grpc: None,
            },
            zone: String::new(),
            capacity: Capacity {
                memory: 0,
                compute: 100,
            },
            stage: NodeStage::Serving,
            replicas: Vec::new(),
            catalog: Digest([0; 32]),
            artifacts: Vec::new(),
            footprints: Vec::new(),
        }
    }

    #[test]
    fn the_newest_snapshot_of_the_present_life_wins_in_whatever_order_they_come() {
        let mut view = View::new(snapshot(id("a", 1), 1));
        assert!(!view.learn(snapshot(id("b", 1), 1)), "membership has not named it");
        let before = view.changes();
        view.up_now(id("b", 1));
        assert_ne!(view.changes(), before, "a node that was never there before is a change");
        assert_eq!(view.behind().count(), 1);
        assert!(view.learn(snapshot(id("b", 1), 5)));
        assert!(!view.learn(snapshot(id("b", 1), 4)));
        view.heard_of(&id("b", 1), 6);
        assert_eq!(view.behind().count(), 1);
        view.up_now(id("b", 2));
        assert!(!view.learn(snapshot(id("b", 1), 7)), "that life is over");
        assert!(view.learn(snapshot(id("b", 2), 1)));
        view.up_now(id("b", 1));
        assert_eq!(view.heads(), [(id("a", 1), 1), (id("b", 2), 1)]);
    }

    #[test]
    fn a_node_that_is_down_is_not_among_those_up_and_is_forgotten_in_the_end() {
        let mut view = View::new(snapshot(id("a", 1), 1));
        view.up_now(id("b", 1));
        view.learn(snapshot(id("b", 1), 1));
        let seen = view.changes();
        view.down_now(&id("b", 0), Duration::ZERO, false);
        assert_eq!(view.changes(), seen, "an earlier life");
        view.down_now(&id("b", 1), Duration::ZERO, false);
        assert_eq!(view.up().count(), 1);
        view.forget_old(REMEMBERED);
        assert!(view.node(&"b".parse().unwrap()).is_some());
        view.forget_old(REMEMBERED + Duration::from_secs(1));
        assert!(view.node(&"b".parse().unwrap()).is_none());
    }
}
