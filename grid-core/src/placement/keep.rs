//! What stays where it is.

use super::ledger::{Copied, Ledger, NodeIndex, Shard, ShardIndex};
use super::{HostedStage, MoveReason, ReplicaCount};

/// A hosted replica that must leave its node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Displaced {
    pub(super) shard: ShardIndex,
    pub(super) node: NodeIndex,
    pub(super) reason: MoveReason,
}

/// Assigns what stays; returns the rest, sorted by shard.
pub(super) fn keep(ledger: &mut Ledger) -> Vec<Displaced> {
    let mut displaced = vec![];
    for index in 0..ledger.shards.len() as ShardIndex {
        let hosted = ledger.shards[index as usize].hosted.clone();
        for Copied { node, stage, .. } in hosted {
            if stage == HostedStage::Leaving {
                continue;
            }
            let reason = if !ledger.nodes[node as usize].accepts {
                MoveReason::Drain
            } else if ledger.shards[index as usize].avoid.contains(&node) {
                MoveReason::Avoid
            } else {
                ledger.assign(index, node);
                continue;
            };
            displaced.push(Displaced {
                shard: index,
                node,
                reason,
            });
        }
    }
    drop_surplus(ledger, &mut displaced);
    shrink(ledger, &mut displaced);
    displaced.sort_by_key(|replica| (replica.shard, replica.node));
    displaced
}

/// While a replica moves, there is one copy too many: the old one. Both are judged with all that they have now, and a move
/// goes from a fuller node to one that is less full even after it, so the old copy is the one that goes. No memory of the
/// move is needed. With several moves under way and loads of many sizes it can be the new copy instead, and that load was
/// in vain.
fn drop_surplus(ledger: &mut Ledger, displaced: &mut Vec<Displaced>) {
    for index in 0..ledger.shards.len() as ShardIndex {
        let ReplicaCount::Exactly(wanted) = ledger.shards[index as usize].replicas else {
            continue;
        };
        while ledger.shards[index as usize].owners.len() > wanted as usize {
            let shard = &ledger.shards[index as usize];
            let unwanted = |owner: NodeIndex| {
                let node = &ledger.nodes[owner as usize];
                (
                    node.assigned > node.memory,
                    ledger.zone_is_taken(shard, node.zone, Some(owner)),
                    node.fill(0, 0),
                )
            };
            let owners = shard.owners.iter().map(|owner| (unwanted(*owner), *owner));
            let most = owners.max_by(|(a, a_node), (b, b_node)| {
                let coarse = (a.0, a.1).cmp(&(b.0, b.1));
                coarse.then(a.2.total_cmp(&b.2)).then(a_node.cmp(b_node))
            });
            let Some((_, node)) = most else { break };
            ledger.unassign(index, node);
            displaced.push(Displaced {
                shard: index,
                node,
                reason: MoveReason::Surplus,
            });
        }
    }
}

/// Makes nodes that host more than their memory give up as few replicas as will do.
fn shrink(ledger: &mut Ledger, displaced: &mut Vec<Displaced>) {
    if ledger.nodes.iter().all(|node| node.assigned <= node.memory) {
        return;
    }
    let is_over = |ledger: &Ledger, owner: NodeIndex| {
        let node = &ledger.nodes[owner as usize];
        node.assigned > node.memory
    };
    let hosted = ledger.by_node(|_, owner| is_over(ledger, owner));
    for (node, mut shards) in (0..).zip(hosted) {
        // Those that could go elsewhere first; within them by bytes, and the order of shards decides ties.
        let bytes = |shard: &Shard| (shard.replicas == ReplicaCount::EveryNode, shard.bytes_on(node));
        shards.sort_by_key(|shard| bytes(&ledger.shards[*shard as usize]));
        while is_over(ledger, node) && !shards.is_empty() {
            let excess = ledger.nodes[node as usize].assigned - ledger.nodes[node as usize].memory;
            let movable = shards.partition_point(|shard| !bytes(&ledger.shards[*shard as usize]).0);
            let movable = if movable == 0 { shards.len() } else { movable };
            // The smallest that is enough, else the largest.
            let enough =
                shards[..movable].partition_point(|shard| ledger.shards[*shard as usize].bytes_on(node) < excess);
            let shard = shards.remove(enough.min(movable - 1));
            ledger.unassign(shard, node);
            displaced.push(Displaced {
                shard,
                node,
                reason: MoveReason::OverMemory,
            });
        }
    }
}
