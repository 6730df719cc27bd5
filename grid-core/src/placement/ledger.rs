//! The books: nodes and shards in an order that does not depend on the caller's, and what each node has and is given.

use smallvec::SmallVec;

use super::rendezvous::{self, Ring};
use super::{HostedStage, Problem, ReplicaCount};

/// Index of a node, by name order.
pub(super) type NodeIndex = u32;
/// Index of a shard, by id order.
pub(super) type ShardIndex = u32;

pub(super) struct Node {
    /// Its index in the problem.
    pub(super) original: usize,
    pub(super) seed: u64,
    pub(super) memory: u64,
    pub(super) compute: u32,
    pub(super) zone: u32,
    pub(super) accepts: bool,
    /// Bytes of the replicas that it owns in the end.
    pub(super) assigned: u64,
    /// Bytes of all that it hosts now, in whatever stage, and of what is to be loaded on it now.
    pub(super) promised: u64,
    /// Load of the replicas that it owns in the end.
    pub(super) load: u64,
    /// The load that it should have.
    pub(super) share: f64,
    /// Replicas that it loads now, and those that it begins to load in this round.
    pub(super) loading: u32,
}

impl Node {
    /// Load as a fraction of its share, with `more` added and `less` taken away.
    pub(super) fn fill(&self, more: u64, less: u64) -> f64 {
        (self.load + more).saturating_sub(less) as f64 / self.share
    }

    /// Whether so many bytes fit beside all that is and will be there.
    pub(super) fn has_room_now(&self, bytes: u64) -> bool {
        fits(self.promised, bytes, self.memory)
    }

    /// Whether so many bytes fit once all has left that is to leave.
    pub(super) fn has_room_in_the_end(&self, bytes: u64) -> bool {
        fits(self.assigned, bytes, self.memory)
    }

    /// Whether it keeps this much headroom, in thousandths of its memory, with so many bytes more.
    pub(super) fn keeps_headroom(&self, bytes: u64, headroom: u32) -> bool {
        let usable = u128::from(self.memory) * u128::from(1000 - headroom.min(1000)) / 1000;
        u128::from(self.promised) + u128::from(bytes) <= usable
    }
}

fn fits(used: u64, bytes: u64, memory: u64) -> bool {
    used.checked_add(bytes).is_some_and(|sum| sum <= memory)
}

pub(super) struct Shard {
    /// Its index in the problem.
    pub(super) original: usize,
    pub(super) seed: u64,
    /// What a new replica is expected to take.
    pub(super) bytes: u64,
    pub(super) load: u64,
    pub(super) replicas: ReplicaCount,
    pub(super) avoid: SmallVec<[NodeIndex; 2]>,
    /// Sorted by node; one entry a node.
    pub(super) hosted: SmallVec<[Copied; 2]>,
    /// The nodes that own it in the end.
    pub(super) owners: SmallVec<[NodeIndex; 2]>,
}

/// A replica that is somewhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Copied {
    pub(super) node: NodeIndex,
    pub(super) stage: HostedStage,
    pub(super) bytes: u64,
}

impl Shard {
    /// What is of it on a node now.
    pub(super) fn on(&self, node: NodeIndex) -> Option<&Copied> {
        self.hosted.iter().find(|copy| copy.node == node)
    }

    /// What it takes of that node: as much as it does if it is there already, else what is expected.
    pub(super) fn bytes_on(&self, node: NodeIndex) -> u64 {
        self.on(node).map_or(self.bytes, |copy| copy.bytes)
    }
}

pub(super) struct Ledger {
    pub(super) nodes: Vec<Node>,
    pub(super) shards: Vec<Shard>,
    /// The nodes that accept replicas, for ranking.
    pub(super) ring: Ring,
    /// How many these are.
    pub(super) accepting: usize,
}

impl Ledger {
    pub(super) fn new(problem: &Problem<'_>) -> Self {
        let (nodes, node_at) = nodes_by_name(problem);
        let mut shard_order: Vec<usize> = (0..problem.shards.len()).collect();
        shard_order.sort_by(|a, b| problem.shards[*a].id.cmp(&problem.shards[*b].id));
        let mut shard_at = vec![0; shard_order.len()];
        let mut shards: Vec<Shard> = Vec::with_capacity(shard_order.len());
        for (index, original) in shard_order.into_iter().enumerate() {
            shard_at[original] = index;
            let shard = &problem.shards[original];
            let avoid = shard.avoid.iter().filter_map(|node| node_at.get(*node).copied());
            shards.push(Shard {
                original,
                seed: rendezvous::shard_seed(&shard.id),
                bytes: shard.bytes,
                load: u64::from(shard.load.max(1)),
                replicas: shard.replicas,
                avoid: avoid.collect(),
                hosted: SmallVec::new(),
                owners: SmallVec::new(),
            });
        }
        for hosted in problem.hosted {
            if let (Some(&shard), Some(&node)) = (shard_at.get(hosted.shard), node_at.get(hosted.node)) {
                shards[shard].hosted.push(Copied {
                    node,
                    stage: hosted.stage,
                    bytes: hosted.bytes,
                });
            }
        }
        let accepting = || nodes.iter().filter(|node| node.accepts);
        let runners = (0..).zip(&nodes).filter(|(_, node)| node.accepts);
        let mut ledger = Self {
            ring: Ring::new(runners.map(|(index, node)| (index, node.seed, node.compute))),
            accepting: accepting().count(),
            nodes,
            shards,
        };
        for shard in &mut ledger.shards {
            shard.hosted.sort_unstable();
            shard.hosted.dedup_by_key(|copy| copy.node);
            for copy in &shard.hosted {
                let node = &mut ledger.nodes[copy.node as usize];
                node.promised = node.promised.saturating_add(copy.bytes);
                node.loading += u32::from(copy.stage == HostedStage::Loading);
            }
        }
        let wanted = |shard: &Shard| match shard.replicas {
            ReplicaCount::Exactly(count) => u64::from(count).min(ledger.accepting as u64),
            ReplicaCount::EveryNode => ledger.accepting as u64,
        };
        let total = ledger.shards.iter().map(|shard| shard.load * wanted(shard)).sum();
        ledger.share(total);
        ledger
    }

    /// Sets the shares by what nodes have been given. Before, they are by what is wanted; where that does not all fit, every
    /// node would lie under its share for ever.
    pub(super) fn share_what_is_assigned(&mut self) {
        let accepting = self.nodes.iter().filter(|node| node.accepts);
        let total = accepting.map(|node| node.load).sum();
        self.share(total);
    }

    fn share(&mut self, total: u64) {
        let accepting = self.nodes.iter().filter(|node| node.accepts);
        let computes: u64 = accepting.map(|node| u64::from(node.compute)).sum();
        for node in &mut self.nodes {
            // At least 1, for a grid without any load.
            node.share = total.max(1) as f64 * f64::from(node.compute) / computes.max(1) as f64;
        }
    }

    /// Counts a replica as one that its node has in the end.
    pub(super) fn assign(&mut self, shard: ShardIndex, to: NodeIndex) {
        let shard = &mut self.shards[shard as usize];
        shard.owners.push(to);
        let node = &mut self.nodes[to as usize];
        node.assigned = node.assigned.saturating_add(shard.bytes_on(to));
        node.load += shard.load;
    }

    /// The opposite of [`Self::assign`].
    pub(super) fn unassign(&mut self, shard: ShardIndex, from: NodeIndex) {
        let shard = &mut self.shards[shard as usize];
        shard.owners.retain(|owner| *owner != from);
        let node = &mut self.nodes[from as usize];
        node.assigned = node.assigned.saturating_sub(shard.bytes_on(from));
        node.load -= shard.load;
    }

    /// Counts a replica that is to be loaded now.
    pub(super) fn promise(&mut self, shard: ShardIndex, to: NodeIndex) {
        let node = &mut self.nodes[to as usize];
        node.promised = node.promised.saturating_add(self.shards[shard as usize].bytes);
    }

    /// The opposite of [`Self::promise`].
    pub(super) fn break_promise(&mut self, shard: ShardIndex, to: NodeIndex) {
        let node = &mut self.nodes[to as usize];
        node.promised = node.promised.saturating_sub(self.shards[shard as usize].bytes);
    }

    /// Whether the shard could be placed there, room aside.
    pub(super) fn may_go(&self, shard: &Shard, to: NodeIndex) -> bool {
        self.nodes[to as usize].accepts
            && !shard.owners.contains(&to)
            && !shard.avoid.contains(&to)
            && shard.on(to).is_none()
    }

    /// Whether an owner other than `besides` is in that zone.
    pub(super) fn zone_is_taken(&self, shard: &Shard, zone: u32, besides: Option<NodeIndex>) -> bool {
        let others = shard.owners.iter().filter(|owner| Some(**owner) != besides);
        others.into_iter().any(|owner| self.nodes[*owner as usize].zone == zone)
    }

    /// The replicas that nodes have in the end, by node; each list in the order of shards.
    pub(super) fn by_node(&self, which: impl Fn(&Shard, NodeIndex) -> bool) -> Vec<Vec<ShardIndex>> {
        let mut by_node = vec![vec![]; self.nodes.len()];
        for (index, shard) in (0..).zip(&self.shards) {
            for &owner in shard.owners.iter().filter(|owner| which(shard, **owner)) {
                by_node[owner as usize].push(index);
            }
        }
        by_node
    }
}

/// The nodes by name, and where each of the problem's has gone.
fn nodes_by_name(problem: &Problem<'_>) -> (Vec<Node>, Vec<NodeIndex>) {
    let mut order: Vec<usize> = (0..problem.nodes.len()).collect();
    order.sort_by(|a, b| problem.nodes[*a].name.cmp(&problem.nodes[*b].name));
    let mut zones: Vec<&str> = problem.nodes.iter().map(|node| node.zone.as_str()).collect();
    zones.sort_unstable();
    zones.dedup();
    let mut node_at = vec![0; order.len()];
    let nodes = (0..).zip(order).map(|(index, original)| {
        node_at[original] = index;
        let node = &problem.nodes[original];
        Node {
            original,
            seed: rendezvous::node_seed(node.name.as_str()),
            memory: node.memory,
            compute: node.compute.max(1),
            zone: zones.partition_point(|zone| *zone < node.zone.as_str()) as u32,
            accepts: node.accepts,
            assigned: 0,
            promised: 0,
            load: 0,
            share: 1.0,
            loading: 0,
        }
    });
    (nodes.collect(), node_at)
}
