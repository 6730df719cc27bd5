//! Nodes for the replicas that lack one.

use std::collections::BTreeMap;

use super::keep::Displaced;
use super::ledger::{Ledger, NodeIndex, ShardIndex};
use super::{Cause, MoveReason, Policy, ReplicaCount};

/// A replica that has got a place and is not in memory there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub(super) shard: ShardIndex,
    pub(super) from: Option<NodeIndex>,
    pub(super) to: NodeIndex,
    pub(super) reason: MoveReason,
    /// Whether there is room for it now, or only once something else has left.
    pub(super) now: bool,
}

/// All that must happen, whether it can happen now or not.
#[derive(Default)]
pub(super) struct Plan {
    /// What is to be loaded, the urgent first.
    pub(super) pending: Vec<Pending>,
    /// What leaves without a replacement.
    pub(super) released: Vec<Displaced>,
    /// What should leave and has no other place.
    pub(super) stuck: Vec<(Displaced, Cause)>,
    /// What has no place at all.
    pub(super) unplaced: Vec<(ShardIndex, u32, Cause)>,
    /// How many of a shard's owners only wait for room, and do not serve yet.
    waiting: BTreeMap<ShardIndex, usize>,
}

/// A replica that lacks a node. Sorts by urgency.
#[derive(Clone, Copy)]
struct Lacking {
    /// How many copies live before this one. No shard gets a second one before every shard has one.
    level: u32,
    shard: ShardIndex,
    /// The copy that it replaces.
    replaces: Option<Displaced>,
    /// Whether it stands for one on each node.
    every: bool,
}

/// Chooses, and assigns what it has chosen.
pub(super) fn choose(ledger: &mut Ledger, displaced: Vec<Displaced>, policy: &Policy) -> Plan {
    let mut plan = Plan::default();
    let mut chooser = Chooser {
        ranks: vec![],
        bound: 1.0 + f64::from(policy.evenness) / 1000.0,
        headroom: policy.headroom,
    };
    for lacking in by_urgency(ledger, displaced, &mut plan) {
        let Lacking { shard, replaces, .. } = lacking;
        if lacking.every {
            fill_every_node(ledger, shard, &mut plan);
            continue;
        }
        match chooser.node_for(ledger, shard) {
            Ok((to, now)) => plan.add(ledger, shard, replaces, to, now),
            Err(cause) => {
                // Where every node should have it, those that lack it are counted when they are filled.
                if ledger.shards[shard as usize].replicas != ReplicaCount::EveryNode {
                    plan.unplaced.push((shard, 1, cause));
                }
                if let Some(replica) = replaces {
                    plan.leave_or_stay(ledger, replica, cause);
                }
            }
        }
    }
    merge_unplaced(&mut plan.unplaced);
    plan
}

/// All replicas that lack a node, and into the plan what leaves for nothing.
fn by_urgency(ledger: &Ledger, displaced: Vec<Displaced>, plan: &mut Plan) -> Vec<Lacking> {
    let mut lacking: Vec<Lacking> = vec![];
    let mut displaced = displaced.as_slice();
    for (index, shard) in (0..).zip(&ledger.shards) {
        let (mine, rest) = displaced.split_at(displaced.partition_point(|replica| replica.shard <= index));
        displaced = rest;
        let kept = shard.owners.len();
        let living = (kept + mine.len()) as u32;
        let add = |level, replaces, every| Lacking {
            level,
            shard: index,
            replaces,
            every,
        };
        match shard.replicas {
            ReplicaCount::Exactly(wanted) => {
                // More than there are nodes find no place; that is told without trying each of them.
                let count = (wanted as usize).max(kept);
                let wanted = count.min((ledger.accepting + 1).max(kept));
                if count > wanted {
                    let accepting = ledger.accepting;
                    plan.unplaced
                        .push((index, (count - wanted) as u32, Cause::NoNode { accepting }));
                }
                let missing = wanted - kept;
                // A surplus copy has been found to be one too many already.
                let replaceable = mine.iter().filter(|replica| replica.reason != MoveReason::Surplus);
                let mut replaced = 0;
                for (number, replica) in replaceable.clone().take(missing).enumerate() {
                    lacking.push(add(1.max((kept + number) as u32), Some(*replica), false));
                    replaced += 1;
                }
                plan.released.extend(replaceable.skip(replaced));
                let surplus = mine.iter().filter(|replica| replica.reason == MoveReason::Surplus);
                plan.released.extend(surplus);
                lacking.extend((0..missing - replaced).map(|number| add(living + number as u32, None, false)));
            }
            ReplicaCount::EveryNode => {
                // Only the last copy needs a replacement before it goes: the others have their place on their nodes alone.
                let (replaced, released) = mine.split_at(usize::from(kept == 0).min(mine.len()));
                lacking.extend(replaced.iter().map(|replica| add(1, Some(*replica), false)));
                plan.released.extend(released);
                if living == 0 {
                    lacking.push(add(0, None, false));
                }
                // Behind its first copy, which was queued above at a level that is not higher.
                if kept < ledger.accepting {
                    lacking.push(add(1, None, true));
                }
            }
        }
    }
    // Larger ones first pack better (first fit, decreasing). The sort is stable and the shards are in order.
    lacking.sort_by_key(|lacking| {
        let bytes = ledger.shards[lacking.shard as usize].bytes;
        (lacking.level, std::cmp::Reverse(bytes))
    });
    lacking
}

struct Chooser {
    ranks: Vec<(u64, NodeIndex)>,
    bound: f64,
    headroom: u32,
}

impl Chooser {
    /// The node for a replica, and whether it has room now.
    fn node_for(&mut self, ledger: &Ledger, shard: ShardIndex) -> Result<(NodeIndex, bool), Cause> {
        let shard = &ledger.shards[shard as usize];
        ledger.ring.first_ranks(shard.seed, &mut self.ranks);
        let is_good = |to: NodeIndex| {
            let node = &ledger.nodes[to as usize];
            node.fill(shard.load, 0) <= self.bound
                && node.has_room_now(shard.bytes)
                && node.has_room_in_the_end(shard.bytes)
                && node.keeps_headroom(shard.bytes, self.headroom)
                && ledger.may_go(shard, to)
                && !ledger.zone_is_taken(shard, node.zone, None)
        };
        if let Some((_, node)) = self.ranks.iter().find(|(_, node)| is_good(*node)) {
            return Ok((*node, true));
        }
        // The least bad of all, by what hurts most: waiting, a shared zone, no headroom, load.
        let mut best: Option<((bool, bool, bool), f64, NodeIndex)> = None;
        let mut roomiest: Option<u64> = None;
        for (index, node) in (0..).zip(&ledger.nodes) {
            if !ledger.may_go(shard, index) {
                continue;
            }
            if !node.has_room_in_the_end(shard.bytes) {
                let free = node.memory.saturating_sub(node.assigned);
                roomiest = Some(roomiest.map_or(free, |most| most.max(free)));
                continue;
            }
            let flaws = (
                !node.has_room_now(shard.bytes),
                ledger.zone_is_taken(shard, node.zone, None),
                !node.keeps_headroom(shard.bytes, self.headroom),
            );
            let fill = node.fill(shard.load, 0);
            let is_better = best.is_none_or(|(other, least, _)| (flaws, fill) < (other, least));
            if is_better {
                best = Some((flaws, fill, index));
            }
        }
        match (best, roomiest) {
            (Some(((no_room_now, ..), _, node)), _) => Ok((node, !no_room_now)),
            (None, Some(free)) => Err(Cause::NoRoom {
                needed: shard.bytes,
                free,
            }),
            (None, None) => Err(Cause::NoNode {
                accepting: ledger.accepting,
            }),
        }
    }
}

fn fill_every_node(ledger: &mut Ledger, index: ShardIndex, plan: &mut Plan) {
    let shard = &ledger.shards[index as usize];
    let mut is_taken = vec![false; ledger.nodes.len()];
    let hosted = shard.hosted.iter().map(|copy| &copy.node);
    for node in shard.owners.iter().chain(&shard.avoid).chain(hosted) {
        is_taken[*node as usize] = true;
    }
    let bytes = shard.bytes;
    let mut without_room = 0;
    let mut roomiest = 0;
    for (to, is_taken) in is_taken.into_iter().enumerate() {
        let node = &ledger.nodes[to];
        if !node.accepts || is_taken {
            continue;
        }
        if node.has_room_in_the_end(bytes) {
            let now = node.has_room_now(bytes);
            plan.add(ledger, index, None, to as NodeIndex, now);
        } else {
            without_room += 1;
            roomiest = roomiest.max(node.memory.saturating_sub(node.assigned));
        }
    }
    // A node that gave it up because of its memory lacks it too, though it still hosts it.
    let shrunk = plan.released.iter().filter(|replica| replica.shard == index);
    without_room += shrunk
        .filter(|replica| replica.reason == MoveReason::OverMemory)
        .count() as u32;
    if without_room > 0 {
        let cause = Cause::NoRoom {
            needed: bytes,
            free: roomiest,
        };
        plan.unplaced.push((index, without_room, cause));
    }
}

impl Plan {
    fn add(&mut self, ledger: &mut Ledger, shard: ShardIndex, replaces: Option<Displaced>, to: NodeIndex, now: bool) {
        ledger.assign(shard, to);
        if now {
            ledger.promise(shard, to);
        } else {
            *self.waiting.entry(shard).or_default() += 1;
        }
        self.pending.push(Pending {
            shard,
            from: replaces.map(|replica| replica.node),
            to,
            reason: replaces.map_or(MoveReason::Missing, |replica| replica.reason),
            now,
        });
    }

    /// A copy that has no other place goes if the shard is served without it, and stays if it is the last.
    fn leave_or_stay(&mut self, ledger: &mut Ledger, replica: Displaced, cause: Cause) {
        let owners = &ledger.shards[replica.shard as usize].owners;
        let waiting = self.waiting.get(&replica.shard).copied().unwrap_or(0);
        if owners.len() > waiting {
            self.released.push(replica);
        } else {
            ledger.assign(replica.shard, replica.node);
            self.stuck.push((replica, cause));
        }
    }
}

fn merge_unplaced(unplaced: &mut Vec<(ShardIndex, u32, Cause)>) {
    unplaced.sort_by_key(|(shard, ..)| *shard);
    unplaced.dedup_by(|later, first| {
        let same = later.0 == first.0;
        if same {
            first.1 += later.1;
            // Room is what a person can do something about.
            if matches!(first.2, Cause::NoNode { .. }) {
                first.2 = later.2;
            }
        }
        same
    });
}
