//! From what is believed to what is done: placement, hand-off, and the effects of both.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Agent, Effect};
use crate::agent::Ask;
use crate::cluster::{Digest, KnownNode, NodeName, NodeStage, Now, ReplicaStage, Standing};
use crate::handoff::{Action, Intent};
use crate::model::ModelId;
use crate::placement::{Hosted, HostedStage, PlacementNode, PlacementShard, Policy, Problem, place};

/// How long placement waits for news of nodes that have just come, and a node that has seeds for the first of them: what
/// it would do before is mostly undone after.
const SETTLING: Duration = Duration::from_secs(2);

/// What an assignment is computed from, but for the view itself: while these stay, so does the assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Situation {
    changes: u64,
    catalog: Digest,
    given_up: Vec<NodeName>,
}

impl Agent {
    /// Does what is due. To be called at [`Agent::next_wake`]; `entropy` is a random number.
    pub fn tick(&mut self, now: Now, entropy: u64) {
        self.view.forget_old(now.monotonic);
        self.catalog.forget_old(now.wall);
        self.go_on(now);
        self.compare(now, entropy);
    }

    /// When [`Agent::tick`] is due, if nothing happens before.
    pub fn next_wake(&self) -> Duration {
        let grace = self.options.grace;
        let graces = self.view.nodes().filter_map(|node| match node.standing {
            Standing::Down { since, left: false } => Some(since + grace).filter(|end| *end > self.now),
            _ => None,
        });
        let settled = [self.began, self.unsettled_since].map(|since| since + SETTLING);
        let hand_off = self.handoff.next_wake(self.now);
        let all = graces
            .chain(settled.into_iter().filter(|end| *end > self.now))
            .chain(hand_off)
            .chain(self.next_pull())
            .chain(self.is_stirred.then_some(self.now))
            .chain([self.exchange.next_compare()]);
        all.min().unwrap_or(self.now)
    }

    pub(super) fn go_on(&mut self, now: Now) {
        self.now = now.monotonic;
        self.is_stirred = false;
        self.publish();
        if self.is_settled() {
            self.place();
            self.hand_off();
            self.publish();
        }
        self.pull(now.monotonic);
    }

    /// Whether it knows what there is to know of those who are there, or has waited long enough for it.
    pub fn is_settled(&self) -> bool {
        let waits_since = |since: Duration| self.now < since + SETTLING;
        let alone = self.view.up().count() <= 1;
        let waits_for_first = self.options.has_seeds && alone && waits_since(self.began);
        let waits_for_news = self.view.behind().next().is_some() && waits_since(self.unsettled_since);
        !waits_for_first && !waits_for_news
    }

    /// Whether others have taken over from a node, or may.
    fn is_given_up(&self, node: &KnownNode) -> bool {
        match node.standing {
            Standing::Up => false,
            Standing::Down { left: true, .. } => true,
            Standing::Down { since, .. } => since + self.options.grace <= self.now,
        }
    }

    fn place(&mut self) {
        let given_up = self.view.nodes().filter(|node| self.is_given_up(node));
        let situation = Situation {
            changes: self.view.changes(),
            catalog: self.catalog.digest(),
            given_up: given_up.map(|node| node.id.name.clone()).collect(),
        };
        if self.placed_from.as_ref() == Some(&situation) {
            return;
        }
        let there = self.view.nodes().filter(|node| !self.is_given_up(node));
        let snapshots: Vec<_> = there.filter_map(|node| node.snapshot.as_ref()).collect();
        let models: Vec<ModelId> = self.catalog.deployments().map(|(model, _)| model.clone()).collect();
        let index: BTreeMap<&ModelId, usize> = models.iter().zip(0..).collect();
        let mut hosted = Vec::new();
        let mut avoid: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        let mut nodes = Vec::new();
        for (node, snapshot) in snapshots.iter().enumerate() {
            let mut leaving = 0u64;
            for replica in &snapshot.replicas {
                let Some(shard) = index.get(&replica.model).copied() else {
                    // It was taken back, and takes its memory until it is gone.
                    let is_there = !matches!(replica.stage, ReplicaStage::Failed(_));
                    leaving = leaving.saturating_add(if is_there { replica.bytes } else { 0 });
                    continue;
                };
                let stage = match replica.stage {
                    ReplicaStage::Loading => HostedStage::Loading,
                    ReplicaStage::Ready => HostedStage::Ready,
                    ReplicaStage::Draining | ReplicaStage::Quarantined => HostedStage::Leaving,
                    ReplicaStage::Failed(_) => {
                        avoid.entry(shard).or_default().insert(node);
                        continue;
                    }
                };
                hosted.push(Hosted {
                    shard,
                    node,
                    stage,
                    bytes: replica.bytes,
                });
                if replica.stage == ReplicaStage::Quarantined {
                    avoid.entry(shard).or_default().insert(node);
                }
            }
            nodes.push(PlacementNode {
                name: snapshot.name().clone(),
                memory: snapshot.capacity.memory.saturating_sub(leaving),
                compute: snapshot.capacity.compute,
                zone: snapshot.zone.clone(),
                accepts: snapshot.stage == NodeStage::Serving,
            });
        }
        // The most that any node knows of: what is too little is refused somewhere, and what varies from node to node
        // must not make a difference to who is asked.
        let mut footprints: BTreeMap<Digest, u64> = BTreeMap::new();
        for (content, bytes) in snapshots.iter().flat_map(|snapshot| &snapshot.footprints) {
            let most = footprints.entry(*content).or_default();
            *most = (*most).max(*bytes);
        }
        let need =
            |content: &Digest, estimate: u64| footprints.get(content).map_or(estimate, |seen| estimate.max(*seen));
        let shards: Vec<PlacementShard> = self
            .catalog
            .deployments()
            .enumerate()
            .map(|(shard, (model, deployment))| PlacementShard {
                id: model.clone(),
                bytes: need(&deployment.content, deployment.memory),
                load: deployment.weight,
                replicas: deployment.replicas,
                avoid: avoid.remove(&shard).unwrap_or_default().into_iter().collect(),
            })
            .collect();
        let problem = Problem {
            nodes: &nodes,
            shards: &shards,
            hosted: &hosted,
        };
        self.assignment = place(&problem, &Policy::default());
        self.needs = shards.iter().map(|shard| (shard.id.clone(), shard.bytes)).collect();
        let owners = self.assignment.owners.iter();
        self.intents = self
            .catalog
            .deployments()
            .zip(owners)
            .map(|((model, deployment), owners)| {
                let owners = owners.iter().map(|&node| nodes[node].name.clone()).collect();
                let content = deployment.content;
                (model.clone(), Intent { content, owners })
            })
            .collect();
        self.placed_nodes = nodes.into_iter().map(|node| node.name).collect();
        self.placed_from = Some(situation);
    }

    fn hand_off(&mut self) {
        let mut intents = std::borrow::Cow::Borrowed(&self.intents);
        if self.stage == NodeStage::Draining {
            // Who leaves need not wait for the word of owners that are down: others are up, or there is nobody to wait for.
            for intent in intents.to_mut().values_mut() {
                let is_up = |owner: &NodeName| self.view.node(owner).is_some_and(|node| node.standing == Standing::Up);
                intent.owners.retain(is_up);
            }
        }
        for action in self.handoff.step(self.now, &intents) {
            match action {
                Action::Load { model, content } => {
                    let deployed = self.catalog.get(&model).and_then(|entry| entry.deployment.clone());
                    if let Some(deployment) = deployed.filter(|deployed| deployed.content == content) {
                        let memory = self.needs.get(&model).copied().unwrap_or(deployment.memory);
                        self.reserved.insert(model.clone(), memory);
                        self.effects.push_back(Effect::Load {
                            model,
                            deployment,
                            memory,
                        });
                    }
                }
                Action::Ask { owner, model, content } => {
                    let id = self.view.node(&owner).map(|node| node.id.clone());
                    if let Some(id) = id {
                        self.ask(self.now, &id, Ask::Stay { model, content });
                    }
                }
                Action::Unload { model } => self.effects.push_back(Effect::Unload { model }),
            }
        }
    }
}
