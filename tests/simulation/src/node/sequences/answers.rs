//! What other nodes ask of this one for their sequences.

use std::time::Duration;

use grid_core::cluster::NodeId;
use grid_core::sequence::{Ballot, Delta, Export, HoldAnswer, Promise, SecondCopy, Seen, SeenAs, Token};
use grid_core::tensor::Buffer;
use grid_core::wire::call::{Call, Reply};
use grid_core::wire::sequence::{Give, Hold, OutcomeHead, Seek, SequenceImage, SequenceKey};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::keeping::Departure;
use super::{Name, Node, body_of_numbers, numbers, sequence_of};
use crate::history::Event;

/// How long a sequence may take to come to a step boundary before whoever wants it asks again.
const BOUNDARY: Duration = Duration::from_millis(1800);

/// Longer than any simulation: no sequence expires.
pub(super) const LIFE_MS: u64 = 3_600_000;

/// A sequence as it travels: the body has the state, then the outcomes.
pub(super) fn image_of(key: &SequenceKey, oldest: u64, export: &Export<u64, u64>) -> (SequenceImage, Vec<Buffer>) {
    let head = OutcomeHead {
        id: None,
        wanted: Vec::new(),
        result: Ok(1),
        bytes: 8,
    };
    let image = SequenceImage {
        key: key.clone(),
        version: 1,
        token: export.token,
        open: false,
        life_ms: LIFE_MS,
        epoch: export.epoch,
        term: export.term,
        done: export.done,
        ended: export.ended,
        oldest,
        states: 1,
        outcomes: vec![head; export.kept.len()],
        tensors: Vec::new(),
    };
    let outcomes = export.kept.iter().map(|(outcome, _)| *outcome);
    let body: Vec<u64> = std::iter::once(export.state).chain(outcomes).collect();
    (image, body_of_numbers(&body))
}

/// The other way round; `None` when head and body do not belong together.
pub(super) fn export_of(image: &SequenceImage, body: &Buffer) -> Option<Export<u64, u64>> {
    let body = numbers(body);
    let (state, outcomes) = body.split_first()?;
    (outcomes.len() == image.outcomes.len()).then(|| Export {
        token: image.token,
        epoch: image.epoch,
        term: image.term,
        state: *state,
        done: image.done,
        kept: outcomes.iter().map(|outcome| (*outcome, 8)).collect(),
        ended: image.ended,
    })
}

impl Node {
    /// Answers a call of another node about a sequence.
    pub(in crate::node) async fn answer_for_sequence(&self, call: Call, body: &Buffer) -> (Reply, Vec<Buffer>) {
        let reply = match call {
            Call::Hold(hold) => match self.hold(*hold, body) {
                Some(answer) => Reply::Held(answer),
                None => Reply::Refused("an image that is none".into()),
            },
            Call::Release(release) => {
                self.release(&release.key, release.term);
                Reply::Held(HoldAnswer::Held)
            }
            Call::Seek(seek) => Reply::Seen(self.seen(&seek)),
            Call::Vote(vote) => Reply::Voted(self.vote(&vote.key, &vote.ballot)),
            Call::Give(give) => {
                let key = give.key.clone();
                let Some(export) = self.give(give).await else {
                    return (
                        Reply::Refused("it is not here in this form any more".into()),
                        Vec::new(),
                    );
                };
                let oldest = export.done + 1 - export.kept.len() as u64;
                let (image, body) = image_of(&key, oldest, &export);
                return (Reply::Given(Box::new(image)), body);
            }
            _ => Reply::Refused("that is no call about a sequence".into()),
        };
        (reply, Vec::new())
    }

    fn hold(&self, hold: Hold, body: &Buffer) -> Option<HoldAnswer> {
        let Hold { home, after, image } = hold;
        let export = export_of(&image, body)?;
        let key = image.key;
        let sequences = &mut self.0.core.borrow_mut().sequences;
        if let Some(term) = sequences.standpoint(&key).fences(&home, export.term) {
            return Some(HoldAnswer::Fenced { term });
        }
        let delta = Delta {
            after,
            oldest: image.oldest,
            export,
        };
        let answer = match sequences.copies.get_mut(&key) {
            Some(copy) => copy.hold(&home, delta),
            None => match SecondCopy::begin(home.clone(), delta) {
                Some(copy) => {
                    sequences.copies.insert(key.clone(), copy);
                    HoldAnswer::Held
                }
                None => HoldAnswer::NeedAll,
            },
        };
        if answer == HoldAnswer::Held
            && let Some(copy) = sequences.copies.get(&key)
        {
            self.0.world.record(Event::SequenceHeld {
                sequence: sequence_of(&key.id),
                node: self.0.machine.name.clone(),
                home: home.name,
                done: copy.done(),
            });
        }
        Some(answer)
    }

    /// Gives a word, or says which term stands against it.
    pub(super) fn vote(&self, key: &SequenceKey, ballot: &Ballot) -> Result<(), u64> {
        let core = &mut *self.0.core.borrow_mut();
        let counted = self.judge(core, |_, others| others.quorum());
        let sequences = &mut core.sequences;
        let promise = sequences.standpoint(key).vote(&sequences.own, ballot, &counted)?;
        sequences.words.entry(key.clone()).or_default().promise = Some(promise);
        self.0.world.record(Event::SequenceWord {
            sequence: sequence_of(&key.id),
            node: self.0.machine.name.clone(),
            by: ballot.by.name.clone(),
            term: ballot.term,
        });
        Ok(())
    }

    pub(super) fn release(&self, key: &SequenceKey, term: u64) {
        let sequences = &mut self.0.core.borrow_mut().sequences;
        if sequences.copies.get(key).is_some_and(|copy| copy.term() <= term) {
            sequences.copies.remove(key);
            if sequences.lives_here(key).is_none() {
                self.dropped(&key.id);
            }
        }
    }

    /// What is here of sequences of a name.
    pub(super) fn seen(&self, seek: &Seek) -> Vec<Seen> {
        let core = self.0.core.borrow();
        let is_of_name = |key: &SequenceKey| key.model == seek.model && key.id == seek.id;
        let copies = core.sequences.copies.iter().filter(|(key, _)| is_of_name(key));
        let copies = copies.map(|(key, copy)| Seen {
            birth: key.birth,
            token: *copy.token(),
            open: false,
            what: SeenAs::Copy {
                home: copy.home().clone(),
                term: copy.term(),
                written: copy.written(),
                writer: copy.writer().clone(),
                done: copy.done(),
            },
        });
        let words = core.sequences.words.iter().filter(|(key, _)| is_of_name(key));
        let words = words.map(|(key, word)| Seen {
            birth: key.birth,
            token: Token::new(0),
            open: false,
            what: SeenAs::Terms {
                promised: word.promise.as_ref().map_or(0, Promise::term),
                began: word.began,
                saw: word.saw,
            },
        });
        let home = core.sequences.homes.get(&(seek.model.clone(), seek.id.clone()));
        let home = home.map(|home| Seen {
            birth: home.key.birth,
            token: *home.core.token(),
            open: false,
            what: SeenAs::Live { term: home.core.term() },
        });
        copies.chain(words).chain(home).collect()
    }

    async fn give(&self, give: Give) -> Option<Export<u64, u64>> {
        let name: Name = (give.key.model.clone(), give.key.id.clone());
        let lives = self.0.core.borrow().sequences.standpoint(&give.key).lives;
        if let Some(term) = lives {
            if term != give.seen {
                return None;
            }
            let (reply, given) = oneshot::channel();
            let departure = Departure::Given {
                to: give.to,
                term: term + 1,
                reply,
            };
            self.give_away(&name, departure);
            return timeout(BOUNDARY, given).await.ok()?.ok();
        }
        self.take_copy(&give.key, give.to, give.seen, give.term, give.denied)
    }

    /// The copy that is held here is taken over.
    pub(super) fn take_copy(
        &self,
        key: &SequenceKey,
        to: NodeId,
        seen: u64,
        term: u64,
        denied: bool,
    ) -> Option<Export<u64, u64>> {
        let core = &mut *self.0.core.borrow_mut();
        self.judge(core, |sequences, others| {
            let is_own = to == sequences.own;
            let copy = sequences.copies.get_mut(key)?;
            let may = is_own || denied || *copy.home() == to || others.is_lost(copy.home());
            may.then(|| copy.take(to, seen, term)).flatten()
        })
    }
}
