//! What of the plan can be done now.

use super::choose::{Pending, Plan};
use super::ledger::{Ledger, NodeIndex, ShardIndex};
use super::{Assignment, Cause, HostedStage, Move, MoveReason, Policy, Stuck, Unplaced, Waiting, WaitingFor};

/// A round in the making. Indices are the ledger's until [`Self::into_assignment`].
pub(super) struct Round {
    pub(super) moves: Vec<Move>,
    waiting: Vec<Waiting>,
    stuck: Vec<Stuck>,
    unplaced: Vec<Unplaced>,
    /// Owners that are not yet, and those that stay for them.
    deferred: Vec<(ShardIndex, NodeIndex, Option<NodeIndex>)>,
}

/// Issues what has room and a loading slot, and sorts the rest into what waits and what is stuck.
pub(super) fn issue(ledger: &mut Ledger, plan: Plan, policy: &Policy) -> Round {
    let mut round = Round {
        moves: vec![],
        waiting: vec![],
        stuck: vec![],
        unplaced: vec![],
        deferred: vec![],
    };
    let mut for_room = vec![];
    for pending in &plan.pending {
        let target = &mut ledger.nodes[pending.to as usize];
        if !pending.now {
            for_room.push(*pending);
        } else if target.loading >= policy.loads_per_node {
            round.wait(pending, WaitingFor::LoadingSlot);
        } else {
            target.loading += 1;
            round.moves.push(Move {
                shard: pending.shard as usize,
                from: pending.from.map(|node| node as usize),
                to: Some(pending.to as usize),
                reason: pending.reason,
            });
        }
    }
    round.moves.extend(plan.released.iter().map(|replica| Move {
        shard: replica.shard as usize,
        from: Some(replica.node as usize),
        to: None,
        reason: replica.reason,
    }));
    for (replica, cause) in plan.stuck {
        round.stuck.push(Stuck {
            shard: replica.shard as usize,
            node: Some(replica.node as usize),
            cause,
        });
    }
    for (shard, missing, cause) in plan.unplaced {
        round.unplaced.push(Unplaced {
            shard: shard as usize,
            missing,
            cause,
        });
    }
    round.sort_out(ledger, for_room);
    round
}

impl Round {
    fn wait(&mut self, pending: &Pending, reason: WaitingFor) {
        self.deferred.push((pending.shard, pending.to, pending.from));
        self.waiting.push(Waiting {
            shard: pending.shard as usize,
            from: pending.from.map(|node| node as usize),
            to: pending.to as usize,
            reason,
        });
    }

    /// Plays all that can leave, round for round. What then finds room waits; what never does is stuck.
    fn sort_out(&mut self, ledger: &Ledger, mut for_room: Vec<Pending>) {
        if for_room.is_empty() {
            return;
        }
        // Signed: a node that shrank has less than nothing.
        let promised = |node: &super::ledger::Node| i128::from(node.memory) - i128::from(node.promised);
        let mut free: Vec<i128> = ledger.nodes.iter().map(promised).collect();
        let bytes = |shard: usize, node: usize| i128::from(ledger.shards[shard].bytes_on(node as NodeIndex));
        for shard in &ledger.shards {
            let leaving = shard.hosted.iter().filter(|copy| copy.stage == HostedStage::Leaving);
            leaving.for_each(|copy| free[copy.node as usize] += i128::from(copy.bytes));
        }
        // What waits for a loading slot gets one in time.
        let leaves = self.moves.iter().map(|step| (step.shard, step.from));
        for (shard, from) in leaves.chain(self.waiting.iter().map(|waiting| (waiting.shard, waiting.from))) {
            if let Some(from) = from {
                free[from] += bytes(shard, from);
            }
        }
        loop {
            let before = for_room.len();
            for_room.retain(|pending| {
                let needed = bytes(pending.shard as usize, pending.to as usize);
                let moves = free[pending.to as usize] >= needed;
                if moves {
                    free[pending.to as usize] -= needed;
                    if let Some(from) = pending.from {
                        free[from as usize] += bytes(pending.shard as usize, from as usize);
                    }
                    self.wait(pending, WaitingFor::Room);
                }
                !moves
            });
            if for_room.len() == before {
                break;
            }
        }
        for pending in for_room {
            let target = &ledger.nodes[pending.to as usize];
            self.deferred.push((pending.shard, pending.to, pending.from));
            self.stuck.push(Stuck {
                shard: pending.shard as usize,
                node: pending.from.map(|node| node as usize),
                cause: Cause::Ring {
                    to: pending.to as usize,
                    needed: ledger.shards[pending.shard as usize].bytes,
                    free: target.memory.saturating_sub(target.promised),
                },
            });
        }
    }

    /// The answer in the problem's indices.
    pub(super) fn into_assignment(mut self, mut ledger: Ledger) -> Assignment {
        for (shard, not_yet, stays) in self.deferred {
            let owners = &mut ledger.shards[shard as usize].owners;
            owners.retain(|owner| *owner != not_yet);
            owners.extend(stays);
        }
        let node = |index: usize| ledger.nodes[index].original;
        let shard = |index: usize| ledger.shards[index].original;
        // What must be done comes before what is good to do, and loads before what only leaves.
        self.moves
            .sort_by_key(|step| (step.reason == MoveReason::Balance, step.to.is_none()));
        for step in &mut self.moves {
            step.shard = shard(step.shard);
            step.from = step.from.map(node);
            step.to = step.to.map(node);
        }
        for waiting in &mut self.waiting {
            waiting.shard = shard(waiting.shard);
            waiting.from = waiting.from.map(node);
            waiting.to = node(waiting.to);
        }
        for stuck in &mut self.stuck {
            stuck.shard = shard(stuck.shard);
            stuck.node = stuck.node.map(node);
            if let Cause::Ring { to, .. } = &mut stuck.cause {
                *to = node(*to);
            }
        }
        for unplaced in &mut self.unplaced {
            unplaced.shard = shard(unplaced.shard);
        }
        let mut owners = vec![vec![]; ledger.shards.len()];
        for shard in &ledger.shards {
            let own = &mut owners[shard.original];
            *own = shard.owners.iter().map(|owner| node(*owner as usize)).collect();
            own.sort_unstable();
        }
        Assignment {
            owners,
            moves: self.moves,
            waiting: self.waiting,
            unplaced: self.unplaced,
            stuck: self.stuck,
        }
    }
}
