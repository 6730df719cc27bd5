//! How a node comes from what it hosts to what it should host, without a moment in which nobody hosts a model.
//!
//! The problem: each node computes from its own view which nodes should host a model version. Views differ for a while,
//! so two nodes may each believe that the other one takes over; words are late or lost; loads fail. Wanted:
//!
//! - (A) make before break: while no node fails, a version that one node serves goes on being served, whatever the nodes
//!   believe;
//! - (B) a replica that is not wanted here ends, once those that should host it do;
//! - (C) what still comes from who has not heard is served: a replica drains before it ends;
//! - (D) a load that failed is tried again, ever more slowly, and does not touch what serves.
//!
//! The means is a *word*: a node that wants to let a replica go asks each owner, over the mesh, whether it is ready and
//! will stay. An owner that says so has given a lease: it lets its own replica go only after the lease has ended, whatever it
//! comes to believe meanwhile. A node that wants to let go gives no word. So of two that believe the other one stays,
//! neither is told so, and both stay. The one who asks counts the lease from when it asked, the one who gives from when
//! it answered, which is later.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cluster::{Digest, NodeName};
use crate::model::ModelId;

/// How long a word holds. Long against a round trip, short against the patience of who waits for a node to leave.
pub const LEASE: Duration = Duration::from_secs(5);

/// How often an owner is asked that has not given its word, or whose word grows old.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// How long a replica goes on serving after it said that it drains: longer than news take to every router. Who sends
/// later is told that it is no owner any more, and sends elsewhere.
pub const STALENESS: Duration = Duration::from_secs(3);

/// Waits between loads that fail: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// What should be of a model version that is deployed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Its content.
    pub content: Digest,
    /// The nodes that should host it. None: nowhere is room, and whoever hosts it goes on.
    pub owners: Vec<NodeName>,
}

/// What should be of all that is deployed. What is not in it was taken back.
pub type Intents = BTreeMap<ModelId, Intent>;

/// A replica of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// The content that serves; `None` before the first was loaded.
    pub content: Option<Digest>,
    /// Where it stands.
    pub stage: Stage,
    /// A content that is being loaded, in the place of the other.
    pub loading: Option<Digest>,
    /// The last load that failed.
    pub failed: Option<Failure>,
    /// Until when this node has promised to keep it.
    promised: Duration,
    /// The words of others: until when each holds, and when it was last asked.
    words: BTreeMap<NodeName, Word>,
}

/// A load that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The content.
    pub content: Digest,
    /// What was wrong.
    pub reason: String,
    /// When it is tried again.
    pub again: Duration,
    attempts: u32,
}

/// Where a replica stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nothing serves yet.
    Absent,
    /// It serves.
    Ready,
    /// It serves what comes, and tells everybody that nothing should.
    Draining {
        /// Since when.
        since: Duration,
    },
    /// It is being taken out of memory.
    Unloading,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Word {
    until: Option<Duration>,
    asked: Option<Duration>,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Fetch this content, load it, and take it into service in the place of what serves; then say
    /// [`Handoff::loaded`] or [`Handoff::load_failed`].
    Load {
        /// Which version.
        model: ModelId,
        /// Which content of it.
        content: Digest,
    },
    /// Ask a node whether it is ready and will stay; then say [`Handoff::word`].
    Ask {
        /// Whom.
        owner: NodeName,
        /// Which version.
        model: ModelId,
        /// Which content of it.
        content: Digest,
    },
    /// Finish what was accepted and free the memory; then say [`Handoff::unloaded`].
    Unload {
        /// Which version.
        model: ModelId,
    },
}

/// The replicas of one node. See the module's documentation.
#[derive(Clone, Debug)]
pub struct Handoff {
    me: NodeName,
    replicas: BTreeMap<ModelId, Replica>,
}

impl Handoff {
    /// A node that hosts nothing.
    pub fn new(me: NodeName) -> Self {
        Self {
            me,
            replicas: BTreeMap::new(),
        }
    }

    /// What this node hosts, or tries to.
    pub fn replicas(&self) -> &BTreeMap<ModelId, Replica> {
        &self.replicas
    }

    /// What is to be done now, and changes of stage. To be called after every change and at [`Handoff::next_wake`].
    pub fn step(&mut self, now: Duration, intents: &Intents) -> Vec<Action> {
        let mut actions = Vec::new();
        for (model, intent) in intents {
            if intent.owners.contains(&self.me) {
                let replica = self.replicas.entry(model.clone()).or_insert_with(Replica::absent);
                replica.host(now, model, intent, &mut actions);
            }
        }
        for (model, replica) in &mut self.replicas {
            match intents.get(model) {
                Some(intent) if intent.owners.contains(&self.me) => {}
                intent => replica.leave(now, model, intent, &mut actions),
            }
        }
        // What never served and is not loading leaves nothing behind.
        let me = &self.me;
        let is_mine = |model: &ModelId| intents.get(model).is_some_and(|intent| intent.owners.contains(me));
        let is_something =
            |replica: &Replica| replica.stage != Stage::Absent || replica.loading.is_some() || replica.failed.is_some();
        self.replicas
            .retain(|model, replica| is_something(replica) || is_mine(model));
        actions
    }

    /// When the next step is due, if nothing happens before: now and then, while something is under way.
    pub fn next_wake(&self, now: Duration) -> Option<Duration> {
        let of_replica = |replica: &Replica| match replica.stage {
            Stage::Draining { since } => Some(since + STALENESS),
            Stage::Ready if !replica.words.is_empty() => Some(now + ASK_AGAIN),
            _ if replica.loading.is_none() => replica.failed.as_ref().map(|failure| failure.again),
            _ => None,
        };
        // What was due has been done, or waits for a load to end, or is not this node's turn: time changes nothing of it.
        self.replicas
            .values()
            .filter_map(of_replica)
            .filter(|at| *at > now)
            .min()
    }

    /// A node asks whether this one is ready and stays. The lease, if so.
    pub fn asked(&mut self, now: Duration, model: &ModelId, content: &Digest, intents: &Intents) -> Option<Duration> {
        let intent = intents.get(model)?;
        let stays = intent.owners.contains(&self.me);
        let replica = self.replicas.get_mut(model)?;
        if !stays || replica.stage != Stage::Ready || replica.content != Some(*content) {
            return None;
        }
        replica.promised = replica.promised.max(now + LEASE);
        Some(LEASE)
    }

    /// An owner's answer to a question of this node that was asked at `asked`: its lease, if it stays.
    pub fn word(&mut self, asked: Duration, owner: &NodeName, model: &ModelId, lease: Option<Duration>) {
        let words = self.replicas.get_mut(model).map(|replica| &mut replica.words);
        if let Some(word) = words.and_then(|words| words.get_mut(owner)) {
            // Nobody makes this node believe longer than the protocol says.
            word.until = lease.map(|lease| asked + lease.min(LEASE));
        }
    }

    /// A load has ended well.
    pub fn loaded(&mut self, model: &ModelId, content: Digest) {
        if let Some(replica) = self.replicas.get_mut(model) {
            replica.content = Some(content);
            replica.loading = None;
            replica.failed = None;
            if replica.stage == Stage::Absent {
                replica.stage = Stage::Ready;
            }
        }
    }

    /// A load has failed.
    pub fn load_failed(&mut self, now: Duration, model: &ModelId, content: Digest, reason: String) {
        let Some(replica) = self.replicas.get_mut(model) else {
            return;
        };
        replica.loading = None;
        let before = replica.failed.take().filter(|failure| failure.content == content);
        let attempts = before.map_or(0, |failure| failure.attempts) + 1;
        let (first, longest) = RETRY;
        let wait = first.saturating_mul(1 << (attempts - 1).min(16)).min(longest);
        replica.failed = Some(Failure {
            content,
            reason,
            again: now + wait,
            attempts,
        });
    }

    /// A replica has left the memory, asked or not.
    pub fn unloaded(&mut self, model: &ModelId) {
        if let Some(replica) = self.replicas.get_mut(model) {
            *replica = Replica {
                loading: replica.loading,
                failed: replica.failed.take(),
                ..Replica::absent()
            };
        }
    }
}

impl Replica {
    fn absent() -> Self {
        Self {
            content: None,
            stage: Stage::Absent,
            loading: None,
            failed: None,
            promised: Duration::ZERO,
            words: BTreeMap::new(),
        }
    }

    /// This node is an owner.
    fn host(&mut self, now: Duration, model: &ModelId, intent: &Intent, actions: &mut Vec<Action>) {
        self.words.clear();
        match self.stage {
            // It is in memory, and comes back.
            Stage::Draining { .. } => self.stage = Stage::Ready,
            // It has to be gone before it can come again.
            Stage::Unloading => return,
            Stage::Absent | Stage::Ready => {}
        }
        let waits = |failure: &Failure| failure.content == intent.content && failure.again > now;
        if self.content == Some(intent.content) || self.loading.is_some() || self.failed.as_ref().is_some_and(waits) {
            return;
        }
        self.loading = Some(intent.content);
        actions.push(Action::Load {
            model: model.clone(),
            content: intent.content,
        });
    }

    /// This node is no owner.
    fn leave(&mut self, now: Duration, model: &ModelId, intent: Option<&Intent>, actions: &mut Vec<Action>) {
        // Otherwise it would be tried at once whenever this node's turn comes again.
        let is_of_now = |failure: &mut Failure| {
            intent.is_some_and(|intent| intent.content == failure.content) && failure.again + RETRY.1 > now
        };
        self.failed = self.failed.take_if(is_of_now);
        match self.stage {
            Stage::Absent | Stage::Unloading => {}
            Stage::Ready => {
                let may_leave = match intent {
                    // It was taken back: nobody should serve it.
                    None => true,
                    Some(intent) => self.has_words(now, model, intent, actions) && self.promised <= now,
                };
                if may_leave {
                    self.words.clear();
                    self.stage = Stage::Draining { since: now };
                }
            }
            Stage::Draining { since } => {
                // A load that is under way would bring it back.
                if since + STALENESS <= now && self.loading.is_none() {
                    self.stage = Stage::Unloading;
                    actions.push(Action::Unload { model: model.clone() });
                }
            }
        }
    }

    /// Whether every owner has given its word, and asks those that have not.
    fn has_words(&mut self, now: Duration, model: &ModelId, intent: &Intent, actions: &mut Vec<Action>) -> bool {
        self.words.retain(|owner, _| intent.owners.contains(owner));
        let mut all = !intent.owners.is_empty();
        for owner in &intent.owners {
            let word = self.words.entry(owner.clone()).or_default();
            if word.until.is_some_and(|until| until > now) {
                continue;
            }
            all = false;
            if word.asked.is_none_or(|asked| asked + ASK_AGAIN <= now) {
                word.asked = Some(now);
                actions.push(Action::Ask {
                    owner: owner.clone(),
                    model: model.clone(),
                    content: intent.content,
                });
            }
        }
        all
    }
}
