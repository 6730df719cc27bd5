//! How agents learn from each other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use super::{Agent, Answer, Ask, Effect, Notice};
use crate::catalog::Entry;
use crate::cluster::{Digest, NodeId, NodeName, NodeSnapshot, NodeStage, Now, Standing};
use crate::model::ModelId;

/// How often an agent compares what it believes with one other.
pub const COMPARE_EVERY: Duration = Duration::from_secs(5);

/// When a question counts as unanswered, whoever carries it.
const PATIENCE: Duration = Duration::from_secs(5);

/// When a question that could not be carried is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// Most nodes that one question names.
const MOST_NAMES: usize = 256;

/// What is under way with others.
#[derive(Debug)]
pub(super) struct Exchange {
    compared: Duration,
    /// Whom was asked for what, and until when the same is not asked again.
    pending: BTreeMap<(NodeName, Kind), Duration>,
    /// Nodes whose catalog may differ from this one.
    catalogs: BTreeSet<NodeName>,
    /// Where each node is.
    addresses: BTreeMap<NodeName, SocketAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Compare,
    Snapshots,
    Entries,
}

impl Kind {
    fn of(ask: &Ask) -> Option<Self> {
        match ask {
            Ask::Compare { .. } => Some(Self::Compare),
            Ask::Snapshots(_) => Some(Self::Snapshots),
            Ask::Entries(_) => Some(Self::Entries),
            Ask::Stay { .. } => None,
        }
    }
}

impl Exchange {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            compared: now,
            pending: BTreeMap::new(),
            catalogs: BTreeSet::new(),
            addresses: BTreeMap::new(),
        }
    }

    /// When something is due that is not known to be missing yet.
    pub(super) fn next_compare(&self) -> Duration {
        self.compared + COMPARE_EVERY
    }
}

impl Agent {
    /// Membership says that a node is there.
    pub fn up(&mut self, now: Now, id: NodeId, at: SocketAddr) {
        if id.name == *self.name() {
            return;
        }
        self.exchange.addresses.insert(id.name.clone(), at);
        let before = self.view.changes();
        self.view.up_now(id.clone());
        if self.view.changes() != before {
            self.unsettled_since = now.monotonic;
            // Its catalog is compared at once: it may know what this grid never heard of.
            self.ask_compare(now, &id);
            self.go_on(now);
        }
    }

    /// Membership says that a node is gone.
    pub fn down(&mut self, now: Now, id: &NodeId, left: bool) {
        self.view.down_now(id, now.monotonic, left);
        self.go_on(now);
    }

    /// The gossip says that a node has something new to say.
    pub fn heard(&mut self, now: Now, id: &NodeId, version: u64, catalog: Digest) {
        self.view.heard_of(id, version);
        if catalog != self.catalog.digest() && id.name != *self.name() {
            self.exchange.catalogs.insert(id.name.clone());
        }
        self.go_on(now);
    }

    /// Compares now and then. `entropy` chooses with whom.
    pub(super) fn compare(&mut self, now: Now, entropy: u64) {
        if self.exchange.next_compare() <= now.monotonic {
            self.exchange.compared = now.monotonic;
            let up = self.others();
            if let Some(index) = usize::try_from(entropy).unwrap_or(usize::MAX).checked_rem(up.len()) {
                self.ask_compare(now, &up[index]);
            }
        }
    }

    /// Pulls what is known to be missing, at once: routers count on news that are younger than a drain.
    pub(super) fn pull(&mut self, now: Duration) {
        self.exchange.pending.retain(|_, until| *until > now);
        let behind: Vec<NodeId> = self.view.behind().map(|node| node.id.clone()).collect();
        for id in behind {
            // Whoever says something has it.
            let names = vec![id.name.clone()];
            self.ask(now, &id, Ask::Snapshots(names));
        }
        let catalogs = std::mem::take(&mut self.exchange.catalogs);
        for id in self.others().iter().filter(|id| catalogs.contains(&id.name)) {
            if !self.ask(now, id, Ask::Entries(self.catalog.buckets().to_vec())) {
                self.exchange.catalogs.insert(id.name.clone());
            }
        }
    }

    /// When [`Agent::pull`] can ask again for what is missing still.
    pub(super) fn next_pull(&self) -> Option<Duration> {
        let is_missing = self.view.behind().next().is_some() || !self.exchange.catalogs.is_empty();
        let until = self
            .exchange
            .pending
            .values()
            .copied()
            .filter(|until| *until > self.now);
        until.min().filter(|_| is_missing)
    }

    fn others(&self) -> Vec<NodeId> {
        let others = self
            .view
            .nodes()
            .filter(|node| node.standing == Standing::Up && node.id.name != *self.name());
        others.map(|node| node.id.clone()).collect()
    }

    fn ask_compare(&mut self, now: Now, to: &NodeId) {
        let ask = Ask::Compare {
            view: self.view.digest(),
            catalog: self.catalog.digest(),
        };
        self.ask(now.monotonic, to, ask);
    }

    /// Asks, and says whether it did: not while the same question is under way.
    pub(super) fn ask(&mut self, now: Duration, to: &NodeId, ask: Ask) -> bool {
        let Some(&at) = self.exchange.addresses.get(&to.name) else {
            return false;
        };
        if let Some(kind) = Kind::of(&ask) {
            let place = (to.name.clone(), kind);
            if self.exchange.pending.contains_key(&place) {
                return false;
            }
            self.exchange.pending.insert(place, now + PATIENCE);
        }
        let to = to.clone();
        self.effects.push_back(Effect::Ask { to, at, ask });
        true
    }

    /// What this node answers to another's question.
    pub fn asked(&mut self, now: Now, ask: &Ask) -> Answer {
        match ask {
            Ask::Compare { view, catalog } => Answer::Compared {
                heads: (*view != self.view.digest()).then(|| self.view.heads()),
                catalog_differs: *catalog != self.catalog.digest(),
            },
            Ask::Snapshots(names) => {
                let known = names.iter().take(MOST_NAMES).filter_map(|name| self.view.node(name));
                Answer::Snapshots(known.filter_map(|node| node.snapshot.clone()).collect())
            }
            Ask::Entries(buckets) => Answer::Entries(self.catalog.differing(buckets)),
            Ask::Stay { model, content } => {
                let stays = match self.stage {
                    // One that is quarantined may stay so.
                    NodeStage::Serving if self.quarantined.get(model).copied().unwrap_or(false) => None,
                    NodeStage::Serving => self.handoff.asked(now.monotonic, model, content, &self.intents),
                    NodeStage::Draining => None,
                };
                Answer::Stays(stays.map(|lease| u32::try_from(lease.as_millis()).unwrap_or(u32::MAX)))
            }
        }
    }

    /// An answer to a question that was asked at `asked`.
    pub fn answered(&mut self, now: Now, asked: Duration, from: &NodeId, ask: &Ask, answer: Answer) {
        if let Some(kind) = Kind::of(ask) {
            self.exchange.pending.remove(&(from.name.clone(), kind));
        }
        match (ask, answer) {
            (Ask::Compare { .. }, Answer::Compared { heads, catalog_differs }) => {
                self.compared(now, from, heads.unwrap_or_default());
                if catalog_differs {
                    self.exchange.catalogs.insert(from.name.clone());
                }
            }
            (Ask::Snapshots(names), Answer::Snapshots(snapshots)) => {
                for snapshot in snapshots.into_iter().filter(|snapshot| names.contains(snapshot.name())) {
                    self.learn(snapshot);
                }
            }
            (Ask::Entries(_), Answer::Entries(entries)) => self.take_entries(now, &from.name, entries),
            (Ask::Stay { model, .. }, Answer::Stays(lease)) => {
                let lease = lease.map(|milliseconds| Duration::from_millis(milliseconds.into()));
                self.handoff.word(asked, &from.name, model, lease);
            }
            _ => self.effects.push_back(Effect::Notice(Notice::Nonsense {
                from: from.name.clone(),
            })),
        }
        self.go_on(now);
    }

    /// A question that was not answered: it is asked again in its time.
    pub fn unanswered(&mut self, from: &NodeId, ask: &Ask) {
        if let Some(kind) = Kind::of(ask) {
            self.exchange
                .pending
                .insert((from.name.clone(), kind), self.now + AGAIN);
            if kind == Kind::Entries {
                self.exchange.catalogs.insert(from.name.clone());
            }
        }
    }

    /// Another node knows this of others.
    fn compared(&mut self, now: Now, from: &NodeId, heads: Vec<(NodeId, u64)>) {
        let is_newer = |(id, version): &(NodeId, u64)| {
            let known = self.view.node(&id.name);
            known.is_some_and(|known| {
                let has = known.snapshot.as_ref().map_or(0, |snapshot| snapshot.version);
                known.id == *id && *version > has && id.name != *self.name()
            })
        };
        let newer: Vec<NodeName> = heads
            .iter()
            .filter(|head| is_newer(head))
            .map(|(id, _)| id.name.clone())
            .collect();
        for names in newer.chunks(MOST_NAMES).take(1) {
            self.ask(now.monotonic, from, Ask::Snapshots(names.to_vec()));
        }
    }

    fn learn(&mut self, mut snapshot: NodeSnapshot) {
        // It is searched by halves.
        snapshot.replicas.sort_by(|a, b| a.model.cmp(&b.model));
        snapshot.replicas.dedup_by(|a, b| a.model == b.model);
        let (name, catalog) = (snapshot.name().clone(), snapshot.catalog);
        if self.view.learn(snapshot) {
            if catalog != self.catalog.digest() {
                self.exchange.catalogs.insert(name);
            }
            self.effects.push_back(Effect::Routes);
        }
    }

    pub(super) fn take_entries(&mut self, now: Now, from: &NodeName, entries: Vec<(ModelId, Entry)>) {
        let mut changed = false;
        // One word of it is enough, however many there are.
        let mut ahead = None;
        for (model, entry) in entries {
            match self.clock.observe(&entry.stamp, now.wall) {
                Ok(()) => changed |= self.catalog.merge(model, entry),
                Err(error) => ahead = ahead.or(Some(error)),
            }
        }
        if let Some(error) = ahead {
            let from = from.clone();
            self.effects.push_back(Effect::Notice(Notice::Stamp { from, error }));
        }
        if changed {
            self.effects.push_back(Effect::Keep);
            self.publish();
        }
    }
}
