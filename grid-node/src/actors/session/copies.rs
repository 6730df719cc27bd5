//! What this node holds for sequences that live on others: their copies, and words that it gave.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use grid_core::cluster::{NodeId, Quorum};
use grid_core::sequence::{Ballot, Delta, HoldAnswer, Promise, SecondCopy, Standpoint};
use grid_core::tensor::Tensor;
use grid_core::wire::sequence::{Seen, SeenAs, SequenceKey};
use parking_lot::Mutex;

use super::image::{self, HeldExport, HeldOutcome, Label};
use super::registry::Key;
use crate::loading::{HeldMemory, MemoryBudget};

/// Most copies, and most words, that are held for others. A home whose copy is refused goes on, and says that nothing of it
/// is durable.
const MOST: usize = 16_384;

/// What a copy takes beside its tensors.
const OVERHEAD: u64 = 2 << 10;

/// A home that is there sends its copy again once in the sequence's life; after so many lives without a word it is dropped.
const LIVES: u32 = 3;

struct Held {
    label: Label,
    copy: SecondCopy<HeldOutcome, Vec<Tensor>>,
    touched: Instant,
    memory: HeldMemory,
}

struct Given {
    promise: Option<Promise>,
    /// The last term in which this node was the home, and something was durable.
    began: u64,
    /// This node went on with what was written in this one.
    saw: u64,
    until: Instant,
}

/// Why a node does not give its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoWord {
    /// This term stands against it.
    Against(u64),
    /// It has given as many as it remembers: that says nothing of the sequence.
    Full,
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Copies {
    held: Mutex<BTreeMap<SequenceKey, Held>>,
    promises: Mutex<BTreeMap<SequenceKey, Given>>,
}

fn all_of((model, id): &Key) -> std::ops::RangeInclusive<SequenceKey> {
    let born = |birth| SequenceKey {
        model: model.clone(),
        id: id.clone(),
        birth,
    };
    born(0)..=born(u64::MAX)
}

impl Copies {
    /// A home tells how far it is; `lives` is the term in which the sequence lives here, if it does.
    ///
    /// # Errors
    /// When there is no room for it.
    pub(super) fn hold(
        &self,
        budget: &MemoryBudget,
        home: &NodeId,
        label: Label,
        delta: Delta<HeldOutcome, Vec<Tensor>>,
        lives: Option<u64>,
    ) -> Result<HoldAnswer, String> {
        let promise = self.promise(&label.key);
        let standpoint = Standpoint::<HeldOutcome, Vec<Tensor>> {
            lives,
            copy: None,
            promise: promise.as_ref(),
        };
        if let Some(term) = standpoint.fences(home, delta.export.term) {
            return Ok(HoldAnswer::Fenced { term });
        }
        let mut all = self.held.lock();
        let count = all.len();
        let Some(held) = all.get_mut(&label.key) else {
            let needed = image::bytes(&delta.export) + OVERHEAD;
            let Some(copy) = SecondCopy::begin(home.clone(), delta) else {
                return Ok(HoldAnswer::NeedAll);
            };
            if count >= MOST {
                return Err(format!("{count} copies are held here already, as many as may"));
            }
            let memory = budget.hold(needed).map_err(|error| error.to_string())?;
            let held = Held {
                copy,
                touched: Instant::now(),
                memory,
                label: label.clone(),
            };
            all.insert(label.key, held);
            return Ok(HoldAnswer::Held);
        };
        // The most that it may take with this; what it takes then is counted below.
        let most = image::bytes(held.copy.export()) + image::bytes(&delta.export) + OVERHEAD;
        held.memory.resize(most).map_err(|error| error.to_string())?;
        let answer = held.copy.hold(home, delta);
        let _ = held.memory.resize(image::bytes(held.copy.export()) + OVERHEAD);
        if answer == HoldAnswer::Held {
            held.touched = Instant::now();
            held.label = label;
        }
        Ok(answer)
    }

    /// This node handed a sequence over: it is its second node from now on.
    pub(super) fn keep_handed_over(
        &self,
        budget: &MemoryBudget,
        (writer, written): (NodeId, u64),
        to: NodeId,
        label: Label,
        export: HeldExport,
    ) {
        // Without room the new home chooses another second node.
        let Ok(memory) = budget.hold(image::bytes(&export) + OVERHEAD) else {
            return;
        };
        let held = Held {
            copy: SecondCopy::of_handed_over(writer, written, to, export),
            touched: Instant::now(),
            memory,
            label: label.clone(),
        };
        self.held.lock().insert(label.key, held);
    }

    /// Another node takes it over; see [`SecondCopy::take`]. `may` says of its home whether that is allowed.
    pub(super) fn take(
        &self,
        key: &SequenceKey,
        by: NodeId,
        seen: u64,
        term: u64,
        may: impl FnOnce(&NodeId) -> bool,
    ) -> Option<(Label, HeldExport)> {
        let mut all = self.held.lock();
        let held = all.get_mut(key).filter(|held| may(held.copy.home()))?;
        let export = held.copy.take(by, seen, term)?;
        held.touched = Instant::now();
        Some((held.label.clone(), export))
    }

    /// Whether the copy is still as it was taken, by this node in this term.
    pub(super) fn is_taken(&self, key: &SequenceKey, by: &NodeId, term: u64) -> bool {
        let all = self.held.lock();
        all.get(key)
            .is_some_and(|held| held.copy.home() == by && held.copy.term() == term)
    }

    pub(super) fn release(&self, key: &SequenceKey, term: u64) {
        let mut all = self.held.lock();
        if all.get(key).is_some_and(|held| held.copy.term() <= term) {
            all.remove(key);
        }
    }

    fn promise(&self, key: &SequenceKey) -> Option<Promise> {
        self.promises.lock().get(key).and_then(|given| given.promise.clone())
    }

    /// Gives a word, or says which term stands against it; `lives` is the term in which the sequence lives here, if it does.
    pub(super) fn vote(
        &self,
        (own, counted): (&NodeId, &Quorum),
        key: &SequenceKey,
        ballot: &Ballot,
        life: Duration,
        lives: Option<u64>,
    ) -> Result<(), NoWord> {
        let held = self.held.lock();
        let mut promises = self.promises.lock();
        let before = promises.get(key);
        let standpoint = Standpoint {
            lives,
            copy: held.get(key).map(|held| &held.copy),
            promise: before.and_then(|given| given.promise.as_ref()),
        };
        let promise = standpoint.vote(own, ballot, counted).map_err(NoWord::Against)?;
        let (began, saw) = before.map_or((0, 0), |given| (given.began, given.saw));
        if promises.len() >= MOST && before.is_none() {
            return Err(NoWord::Full);
        }
        let given = Given {
            promise: Some(promise),
            began,
            saw,
            until: until(life),
        };
        promises.insert(key.clone(), given);
        Ok(())
    }

    /// This node is the home in this term, and something of it is durable.
    pub(super) fn begins(&self, key: &SequenceKey, term: u64, life: Duration) {
        self.remember(key, life, |given| given.began = given.began.max(term));
    }

    /// This node goes on with what was written in this term.
    pub(super) fn goes_on_from(&self, key: &SequenceKey, term: u64, life: Duration) {
        self.remember(key, life, |given| given.saw = given.saw.max(term));
    }

    fn remember(&self, key: &SequenceKey, life: Duration, what: impl FnOnce(&mut Given)) {
        let mut promises = self.promises.lock();
        if promises.len() >= MOST && !promises.contains_key(key) {
            return;
        }
        let given = promises.entry(key.clone()).or_insert(Given {
            promise: None,
            began: 0,
            saw: 0,
            until: until(life),
        });
        what(given);
        given.until = until(life);
    }

    /// What is here of sequences of a name.
    pub(super) fn seen(&self, key: &Key) -> Vec<Seen> {
        let mut seen: Vec<Seen> = Vec::new();
        for (key, held) in self.held.lock().range(all_of(key)) {
            let copy = &held.copy;
            seen.push(Seen {
                birth: key.birth,
                token: *copy.token(),
                open: held.label.open,
                what: SeenAs::Copy {
                    home: copy.home().clone(),
                    term: copy.term(),
                    written: copy.written(),
                    writer: copy.writer().clone(),
                    done: copy.done(),
                },
            });
        }
        for (key, given) in self.promises.lock().range(all_of(key)) {
            seen.push(Seen {
                birth: key.birth,
                token: grid_core::sequence::Token::new(0),
                open: false,
                what: SeenAs::Terms {
                    promised: given.promise.as_ref().map_or(0, Promise::term),
                    began: given.began,
                    saw: given.saw,
                },
            });
        }
        seen
    }

    /// How many.
    pub(super) fn count(&self) -> usize {
        self.held.lock().len()
    }

    /// Drops what nobody wants any more.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        let wanted =
            |held: &Held| now.duration_since(held.touched) < held.label.life.saturating_mul(LIVES).min(LONGEST);
        self.held.lock().retain(|_, held| wanted(held));
        self.promises.lock().retain(|_, given| given.until > now);
    }
}

/// How long a word is kept: longer than any copy that it is about.
fn until(life: Duration) -> Instant {
    Instant::now() + life.saturating_mul(LIVES + 1).min(LONGEST)
}

/// Whatever a peer says, nothing is held longer without a word.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
