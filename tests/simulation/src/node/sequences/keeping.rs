//! How a home keeps its sequence on a second node, and gives it away.

use std::time::Duration;

use grid_core::cluster::NodeId;
use grid_core::sequence::{Ballot, Delta, Errand, HoldAnswer, Outlook, SecondCopy, SequenceError};
use grid_core::wire::call::{Call, Reply};
use grid_core::wire::sequence::{Hold, Release, SequenceKey, Vote};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::answers::image_of;
use super::{Core, Name, Node, moves, refused, sequence_of};
use crate::history::Event;

/// When a home looks again that could not do what it had to.
const AGAIN: Duration = Duration::from_millis(100);

/// How long a sequence that goes elsewhere waits for its second node before it goes without.
const SETTLE: Duration = Duration::from_secs(1);

/// Where a sequence goes.
pub(super) enum Departure {
    /// To this node, which gets it.
    Given {
        to: NodeId,
        term: u64,
        reply: oneshot::Sender<grid_core::sequence::Export<u64, u64>>,
    },
    /// Nowhere: whoever wants it finds its copy.
    Left,
}

enum Went {
    Answered(HoldAnswer),
    /// No answer, or not enough words were given.
    Nowhere,
}

impl Node {
    /// Does what there is to do so that what is done becomes durable.
    pub(super) fn keep(&self, name: &Name) {
        let mut core = self.0.core.borrow_mut();
        let errand = self.judge(&mut core, |sequences, others| {
            let home = sequences.homes.get_mut(name)?;
            let choice = others.choice(&name.0, &name.1, None);
            let outlook = Outlook {
                choice,
                is_second_there: home.keeper.second().is_some_and(|second| others.keeps(second, choice)),
                is_alone: others.is_alone(),
            };
            Some(home.keeper.next(home.core.done(), outlook))
        });
        match errand {
            None | Some(Errand::Rest) => {}
            Some(Errand::Wait) => self.look_again(&mut core, name),
            Some(Errand::Alone) => {
                let done = core.sequences.homes.get(name).map_or(0, |home| home.core.done());
                self.held(name, done);
                if let Some((key, term)) = core
                    .sequences
                    .homes
                    .get(name)
                    .map(|home| (home.key.clone(), home.core.term()))
                {
                    core.sequences.begins(&key, term);
                }
                Self::is_durable(&mut core, name, done);
            }
            Some(Errand::Send { to, after, term, vote }) => {
                let own = core.sequences.own.clone();
                let Some(home) = core.sequences.homes.get(name) else {
                    return;
                };
                let mut delta = home.core.delta(after);
                delta.export.term = term;
                let ballot = vote.then(|| Ballot::of_home(term, own.clone(), home.core.term(), own));
                let (key, number) = (home.key.clone(), home.number);
                let (this, name) = (self.clone(), name.clone());
                self.0.spawner.spawn(async move {
                    let went = this.send_copy(&key, to, delta, ballot).await;
                    this.copy_went(&name, number, &went);
                });
            }
        }
    }

    /// Nobody else is there to hold it.
    fn held(&self, name: &Name, done: u64) {
        let node = self.0.machine.name.clone();
        self.0.world.record(Event::SequenceHeld {
            sequence: sequence_of(&name.1),
            home: node.clone(),
            node,
            done,
        });
    }

    async fn send_copy(&self, key: &SequenceKey, to: NodeId, delta: Delta<u64, u64>, ballot: Option<Ballot>) -> Went {
        // Before the copy is sent: a home that is none any more must overwrite none.
        if let Some(ballot) = ballot {
            match self.ask_for_words(key, &ballot, delta.export.done).await {
                Ok(true) => {}
                Ok(false) => return Went::Nowhere,
                Err(term) => return Went::Answered(HoldAnswer::Fenced { term }),
            }
        }
        let home = self.0.core.borrow().sequences.own.clone();
        let after = delta.after;
        let (image, body) = image_of(key, delta.oldest, &delta.export);
        let call = Call::Hold(Box::new(Hold { home, after, image }));
        match self.ask_for_sequence(&to.name, &call, body).await {
            Some((Reply::Held(answer), _)) => Went::Answered(answer),
            _ => Went::Nowhere,
        }
    }

    fn copy_went(&self, name: &Name, number: u64, went: &Went) {
        let mut core = self.0.core.borrow_mut();
        let Some(home) = core.sequences.home(name, number) else {
            return;
        };
        match went {
            Went::Nowhere => {
                home.keeper.unanswered();
                self.look_again(&mut core, name);
            }
            Went::Answered(HoldAnswer::Fenced { .. }) => {
                drop(core);
                self.forget(name, &refused(name, SequenceError::Fenced));
                return self.dropped(&name.1);
            }
            Went::Answered(answer) => {
                if let Some((durable, term)) = home.keeper.answered(*answer) {
                    let key = home.key.clone();
                    home.core.set_term(term);
                    let former = home.keeper.take_former();
                    core.sequences.begins(&key, term);
                    Self::is_durable(&mut core, name, durable);
                    former
                        .into_iter()
                        .for_each(|node| self.release_at(node, key.clone(), term - 1));
                }
            }
        }
        drop(core);
        self.go_on(name);
    }

    fn release_at(&self, node: NodeId, key: SequenceKey, term: u64) {
        let this = self.clone();
        self.0.spawner.spawn(async move {
            let call = Call::Release(Release { key, term });
            drop(this.ask_for_sequence(&node.name, &call, Vec::new()).await);
        });
    }

    fn look_again(&self, core: &mut Core, name: &Name) {
        let Some(home) = core.sequences.homes.get_mut(name) else {
            return;
        };
        if !std::mem::replace(&mut home.looks_again, true) {
            let (this, name, number) = (self.clone(), name.clone(), home.number);
            self.0.spawner.spawn(async move {
                sleep(AGAIN).await;
                if let Some(home) = this.0.core.borrow_mut().sequences.home(&name, number) {
                    home.looks_again = false;
                }
                this.go_on(&name);
            });
        }
    }

    /// Everything up to this number survives: whoever waits for that is answered.
    fn is_durable(core: &mut Core, name: &Name, number: u64) {
        let Some(home) = core.sequences.homes.get_mut(name) else {
            return;
        };
        home.core.made_durable(number);
        let durable = home.core.durable();
        let (told, rest) = std::mem::take(&mut home.awaiting)
            .into_iter()
            .partition(|(number, ..)| *number <= durable);
        home.awaiting = rest;
        let told: Vec<_> = told;
        // Who asked and has gone wants no answer.
        told.into_iter()
            .for_each(|(_, outcome, reply)| drop(reply.send(Ok((durable, outcome)))));
    }

    /// Asks all nodes for their word. `Ok` tells whether more than half gave it; the error is a term that stands against it.
    pub(super) async fn ask_for_words(&self, key: &SequenceKey, ballot: &Ballot, done: u64) -> Result<bool, u64> {
        self.0.world.record(Event::SequenceAsked {
            sequence: sequence_of(&key.id),
            node: self.0.machine.name.clone(),
            term: ballot.term,
            done,
        });
        self.vote(key, ballot)?;
        let call = Call::Vote(Vote {
            key: key.clone(),
            ballot: ballot.clone(),
            life_ms: super::answers::LIFE_MS,
        });
        let mut given = vec![self.0.machine.name.clone()];
        let mut against = None;
        for (name, answer) in self.ask_all(&call).await {
            match answer {
                Some(Reply::Voted(Ok(()))) => given.push(name),
                Some(Reply::Voted(Err(term))) => against = against.max(Some(term)),
                _ => {}
            }
        }
        let core = &mut *self.0.core.borrow_mut();
        let is_reached = self.judge(core, |_, others| others.quorum().is_reached(&given));
        match against {
            Some(term) if !is_reached => Err(term),
            _ => Ok(is_reached),
        }
    }

    /// Goes, if it is to go and can.
    pub(super) fn depart(&self, name: &Name) {
        let mut core = self.0.core.borrow_mut();
        let Some(home) = core.sequences.homes.get_mut(name) else {
            return;
        };
        let Some((_, since)) = &home.departure else { return };
        let is_settled = home.core.is_settled() && home.awaiting.is_empty() && home.keeper.is_quiet();
        if home.running.is_some() || !(is_settled || since.elapsed() >= SETTLE) {
            return self.look_again(&mut core, name);
        }
        match home.departure.take() {
            Some((Departure::Given { to, term, reply }, _)) => {
                let (key, written) = (home.key.clone(), home.core.term());
                drop(core);
                let Some(mut export) = self.forget(name, &moves(name)) else {
                    return;
                };
                export.term = term;
                let sequences = &mut self.0.core.borrow_mut().sequences;
                let copy = SecondCopy::of_handed_over(sequences.own.clone(), written, to, export.clone());
                sequences.copies.insert(key, copy);
                // Whoever asked and has gone finds the copy.
                drop(reply.send(export));
            }
            // What nobody else could go on with stays to the end.
            Some((Departure::Left, _)) if is_settled => {
                drop(core);
                self.forget(name, &moves(name));
                self.dropped(&name.1);
            }
            _ => {}
        }
    }

    pub(super) fn give_away(&self, name: &Name, departure: Departure) {
        if let Some(home) = self.0.core.borrow_mut().sequences.homes.get_mut(name)
            && home.departure.is_none()
        {
            home.departure = Some((departure, Instant::now()));
        }
        self.go_on(name);
    }

    /// This node leaves: nothing begins here any more, and each sequence stops at a step boundary, with its copy as it is.
    pub(in crate::node) async fn leave_sequences(&self) {
        let names: Vec<Name> = {
            let core = &mut *self.0.core.borrow_mut();
            if self.judge(core, |_, others| others.reached().next().is_none()) {
                return;
            }
            core.sequences.leaving = true;
            core.sequences.homes.keys().cloned().collect()
        };
        names.iter().for_each(|name| self.give_away(name, Departure::Left));
        let is_leaving = |node: &Self| {
            let core = node.0.core.borrow();
            core.sequences.homes.values().any(|home| home.departure.is_some())
        };
        while is_leaving(self) {
            sleep(AGAIN).await;
        }
    }
}
