//! Evening out: what is not in memory yet, and with more restraint what is.

use super::choose::Pending;
use super::issue::Round;
use super::ledger::{Ledger, Node, NodeIndex, Shard};
use super::rendezvous::rank;
use super::{HostedStage, Move, MoveReason, Policy, ReplicaCount};

/// A move counts as an improvement if its target is less loaded after it than its source is then, or than its source was
/// before by this factor. For a *strong* improvement both are asked for with [`STRONG`] more, which is above 1.05 ÷ 0.95:
/// capacities that waver by 5 % make no strong improvement out of what was none.
const WEAK: f64 = 1.125;
/// See [`WEAK`].
const STRONG: f64 = 1.125;

/// A replica that may be moved.
#[derive(Clone, Copy)]
struct Item {
    shard: u32,
    /// Which pending one, when it is one.
    pending: usize,
}

/// When and where to.
struct Rules {
    /// A node this far from its share is looked at.
    edge: f64,
    /// It is brought this near.
    target: f64,
    /// Whether the first move of a node has to be a strong improvement.
    reluctant: bool,
    /// Memory that stays free on the target, in thousandths.
    headroom: u32,
    /// Most replicas that a node loads.
    loads: u32,
    /// Most moves.
    budget: u32,
}

/// Evens out what is not in memory yet. It costs nothing, so the inner threshold holds and no budget.
pub(super) fn refine(ledger: &mut Ledger, pending: &mut [Pending], policy: &Policy) {
    let mut movable = vec![vec![]; ledger.nodes.len()];
    for (index, replica) in pending.iter().enumerate() {
        let shard = &ledger.shards[replica.shard as usize];
        if replica.now && shard.replicas != ReplicaCount::EveryNode {
            movable[replica.to as usize].push(Item {
                shard: replica.shard,
                pending: index,
            });
        }
    }
    let evenness = f64::from(policy.evenness) / 1000.0;
    let rules = Rules {
        edge: evenness,
        target: evenness,
        reluctant: false,
        headroom: policy.headroom,
        loads: u32::MAX,
        budget: u32::MAX,
    };
    let mut evening = Evening::new(ledger, movable, rules);
    evening.run(|ledger, item, from, to| {
        ledger.break_promise(item.shard, from);
        pending[item.pending].to = to;
        // It may go on.
        ledger.promise(item.shard, to);
        true
    });
}

/// Moves hosted replicas, if any node is out of balance by more than the outer threshold.
pub(super) fn rebalance(ledger: &mut Ledger, round: &mut Round, policy: &Policy) {
    let under_way: u32 = ledger.nodes.iter().map(|node| node.loading).sum();
    let rules = Rules {
        edge: f64::from(policy.imbalance) / 1000.0,
        target: f64::from(policy.evenness) / 1000.0,
        reluctant: true,
        headroom: policy.balance_headroom,
        loads: policy.loads_per_node,
        budget: policy.balance_moves.saturating_sub(under_way),
    };
    let is_out = |node: &Node| node.accepts && (node.fill(0, 0) - 1.0).abs() > rules.edge;
    if rules.budget == 0 || !ledger.nodes.iter().any(is_out) {
        return;
    }
    let is_ready = |shard: &Shard, owner| shard.on(owner).is_some_and(|copy| copy.stage == HostedStage::Ready);
    let movable = ledger.by_node(|shard, owner| shard.replicas != ReplicaCount::EveryNode && is_ready(shard, owner));
    let items = |shards: Vec<u32>| shards.into_iter().map(|shard| Item { shard, pending: 0 }).collect();
    let mut evening = Evening::new(ledger, movable.into_iter().map(items).collect(), rules);
    evening.run(|ledger, item, from, to| {
        ledger.promise(item.shard, to);
        ledger.nodes[to as usize].loading += 1;
        round.moves.push(Move {
            shard: item.shard as usize,
            from: Some(from as usize),
            to: Some(to as usize),
            reason: MoveReason::Balance,
        });
        false
    });
}

struct Evening<'a> {
    ledger: &'a mut Ledger,
    /// What may move, by the node that it is on.
    movable: Vec<Vec<Item>>,
    rules: Rules,
    /// Bytes of the smallest that may move, or less.
    least_bytes: u64,
}

impl<'a> Evening<'a> {
    fn new(ledger: &'a mut Ledger, movable: Vec<Vec<Item>>, rules: Rules) -> Self {
        let items = movable.iter().flatten();
        let bytes = items.map(|item: &Item| ledger.shards[item.shard as usize].bytes);
        Self {
            least_bytes: bytes.min().unwrap_or(0),
            ledger,
            movable,
            rules,
        }
    }

    fn takes(&self, node: &Node, bytes: u64) -> bool {
        node.loading < self.rules.loads
            && node.has_room_now(bytes)
            && node.has_room_in_the_end(bytes)
            && node.keeps_headroom(bytes, self.rules.headroom)
    }

    /// Moves until no node at the edge can be improved. `moved` keeps the books of a move, and says whether the replica
    /// may move again.
    fn run(&mut self, mut moved: impl FnMut(&mut Ledger, Item, NodeIndex, NodeIndex) -> bool) {
        if self.movable.iter().all(Vec::is_empty) {
            return;
        }
        loop {
            let before = self.rules.budget;
            let mut any = false;
            let mut out: Vec<(f64, NodeIndex)> = (0..)
                .zip(&self.ledger.nodes)
                .filter(|(_, node)| node.accepts)
                .map(|(index, node)| (node.fill(0, 0), index))
                .filter(|(fill, _)| (fill - 1.0).abs() > self.rules.edge)
                .collect();
            // Those with too little first: they take from the fullest anyway.
            out.sort_by(|(a, a_node), (b, b_node)| a.total_cmp(b).then(a_node.cmp(b_node)));
            for (fill, node) in out {
                any |= self.even(node, fill > 1.0, &mut moved);
            }
            if !any || (before < u32::MAX && self.rules.budget == 0) {
                return;
            }
        }
    }

    /// Brings one node as near to its share as can be; says whether anything moved.
    fn even(
        &mut self,
        node: NodeIndex,
        gives: bool,
        moved: &mut impl FnMut(&mut Ledger, Item, NodeIndex, NodeIndex) -> bool,
    ) -> bool {
        let mut strong = self.rules.reluctant;
        // Others that have nothing to take from or to give to: it stays so, as each move makes the next harder. In a grid
        // whose memory is full that is nearly all of them, and asking each pair would take seconds.
        let is_hopeless = |other: &Node| gives && !self.takes(other, self.least_bytes);
        let hopeless: Vec<bool> = self.ledger.nodes.iter().map(is_hopeless).collect();
        let mut exhausted = hopeless.clone();
        exhausted[node as usize] = true;
        if !gives && !self.takes(&self.ledger.nodes[node as usize], self.least_bytes) {
            return false;
        }
        let mut any = false;
        while self.rules.budget > 0 {
            let fill = self.ledger.nodes[node as usize].fill(0, 0);
            let off = if gives { fill - 1.0 } else { 1.0 - fill };
            if off <= self.rules.target {
                break;
            }
            let Some(other) = self.best_other(gives, &exhausted) else {
                break;
            };
            let (from, to) = if gives { (node, other) } else { (other, node) };
            // Were it worth it with the lightest load of all?
            if !self.improves(1, from, to, strong) {
                break;
            }
            let Some(position) = self.best_item(from, to, strong) else {
                exhausted[other as usize] = true;
                continue;
            };
            let item = self.movable[from as usize].remove(position);
            self.ledger.unassign(item.shard, from);
            self.ledger.assign(item.shard, to);
            if moved(self.ledger, item, from, to) {
                self.movable[to as usize].push(item);
            }
            self.rules.budget -= 1;
            any = true;
            if strong {
                strong = false;
                exhausted.copy_from_slice(&hopeless);
                exhausted[node as usize] = true;
            }
        }
        any
    }

    /// The least loaded one to give to, or the fullest one to take from.
    fn best_other(&self, gives: bool, exhausted: &[bool]) -> Option<NodeIndex> {
        let nodes = (0..).zip(&self.ledger.nodes);
        let others = nodes.filter(|(index, node)| node.accepts && !exhausted[*index as usize]);
        let mut best: Option<(f64, NodeIndex)> = None;
        for (index, node) in others {
            if !gives && self.movable[index as usize].is_empty() {
                continue;
            }
            let fill = if gives { node.fill(0, 0) } else { -node.fill(0, 0) };
            if best.is_none_or(|(least, _)| fill < least) {
                best = Some((fill, index));
            }
        }
        best.map(|(_, index)| index)
    }

    /// Of what may go from one node to the other, the one that ranks the other highest.
    fn best_item(&self, from: NodeIndex, to: NodeIndex, strong: bool) -> Option<usize> {
        let ledger = &*self.ledger;
        let (source, target) = (&ledger.nodes[from as usize], &ledger.nodes[to as usize]);
        let may_move = |item: &Item| {
            let shard = &ledger.shards[item.shard as usize];
            self.improves(shard.load, from, to, strong)
                && self.takes(target, shard.bytes)
                && ledger.may_go(shard, to)
                && (!ledger.zone_is_taken(shard, target.zone, Some(from))
                    || ledger.zone_is_taken(shard, source.zone, Some(from)))
        };
        let items = self.movable[from as usize].iter().enumerate();
        let candidates = items.filter(|(_, item)| may_move(item));
        let rank = |item: &Item| rank(ledger.shards[item.shard as usize].seed, target.seed, target.compute);
        let best = candidates.min_by_key(|(_, item)| (rank(item), item.shard));
        best.map(|(position, _)| position)
    }

    fn improves(&self, load: u64, from: NodeIndex, to: NodeIndex, strong: bool) -> bool {
        let (source, target) = (&self.ledger.nodes[from as usize], &self.ledger.nodes[to as usize]);
        let after = target.fill(load, 0) * if strong { STRONG } else { 1.0 };
        after <= source.fill(0, load) || after * WEAK <= source.fill(0, 0)
    }
}
