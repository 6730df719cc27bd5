//! A sequence: a numbered stream of messages to a model that keeps state between them.
//!
//! The problem: messages come over connections that break, their runs end in whatever way, readers go and come back, and
//! a state must be the fold over exactly the messages that were accepted, in their order. Wanted:
//!
//! - (A) messages are numbered from 1 without a gap; message `n + 1` runs on the state that message `n` left;
//! - (B) every accepted message has exactly one outcome, in order; a message that failed, was cancelled or came too late
//!   leaves the state as it was, and its number is used up; one that provably did not run (an overloaded model) is given
//!   back with all that wait behind it, and their numbers are free again;
//! - (C) a reader that comes back and names the last outcome it has gets what follows, no gap and no repeat, as long as it
//!   had no more than [`Limits::window`] messages unanswered; what is kept for that is bounded in count and bytes;
//! - (D) one reader at a time: each attachment raises the epoch, and what comes with an older one is refused;
//! - (E) ending or resuming an ended sequence again changes nothing;
//! - (F) between two steps the whole sequence is a value that can be exported, shipped and imported;
//! - (G) what counts as durable is on two nodes: its *home*, which runs it, and a second one, which holds a [`SecondCopy`]. A
//!   take-over by another node raises the *term*, and a home of an older term makes no progress that counts. So the state
//!   is the fold over exactly the messages that were acknowledged as durable and those that were sent after them. See
//!   [`Keeper`].
//!
//! `M` is what a message brings, `O` its outcome (cheap to clone), `S` the state (cheap to clone).

mod copy;
mod id;
mod keeper;
mod others;
mod promise;
mod search;
#[cfg(test)]
mod tests;
mod token;

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

pub use copy::{Delta, HoldAnswer, SecondCopy};
pub use id::{InvalidSequenceId, MAX_SEQUENCE_ID, SequenceId};
pub use keeper::{Errand, Keeper, Outlook};
pub use others::Others;
pub use promise::{Ballot, Promise, Standpoint};
pub use search::{Search, Seen, SeenAs, TakeOver, Verdict};
pub use token::{InvalidToken, Token};

/// Bounds of one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most messages that wait, and most outcomes that are kept for a reader that comes back.
    pub window: usize,
    /// Most bytes of outcomes that are kept.
    pub window_bytes: usize,
}

/// Why something was not done with a sequence. The sequence is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum SequenceError {
    /// There is none of that name, or it has been forgotten.
    #[error("there is no such sequence here; start it with `sequence_start`")]
    Unknown,
    /// One of that name lives already.
    #[error("it lives already; resume it with its token, or choose another id")]
    Exists,
    /// The token is missing, or not the one that was given at its start.
    #[error("the token is not the one that was given at its start")]
    WrongToken,
    /// Another connection has taken it over.
    #[error("another connection has taken it over")]
    Fenced,
    /// A number was left out.
    #[error("expected message {expected}, found {found}")]
    OutOfOrder {
        /// The number that comes next.
        expected: u64,
        /// The number that came.
        found: u64,
    },
    /// The message of that number waits or runs.
    #[error("message {0} is under way already")]
    UnderWay(u64),
    /// What the reader lacks is not kept any more.
    #[error("outcomes are kept from {oldest} on; it cannot be resumed before that")]
    Gap {
        /// The first number that is kept, or that would come next.
        oldest: u64,
    },
    /// The reader names an outcome that was never sent.
    #[error("the last outcome is that of message {last}; nothing beyond that was ever sent")]
    Ahead {
        /// The last number that has an outcome.
        last: u64,
    },
    /// It was ended.
    #[error("it has ended with message {last}")]
    Ended {
        /// The last number it had.
        last: u64,
    },
    /// Nobody sent it anything for too long.
    #[error("it expired after message {last}, as no message came for too long")]
    Expired {
        /// The last number it had.
        last: u64,
    },
    /// As many messages wait as may.
    #[error("{0} messages wait already; wait for their outcomes")]
    Full(usize),
}

impl SequenceError {
    /// A short, stable name for clients, metrics and logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unknown => "sequence_unknown",
            Self::Exists => "sequence_exists",
            Self::WrongToken => "sequence_wrong_token",
            Self::Fenced => "sequence_fenced",
            Self::OutOfOrder { .. } => "sequence_out_of_order",
            Self::UnderWay(_) => "sequence_under_way",
            Self::Gap { .. } => "sequence_gap",
            Self::Ahead { .. } => "sequence_ahead",
            Self::Ended { .. } => "sequence_ended",
            Self::Expired { .. } => "sequence_expired",
            Self::Full(_) => "sequence_full",
        }
    }
}

/// What became of an offered message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offered<M, O> {
    /// It waits for its turn, under this number.
    Accepted(u64),
    /// A message of this number had come before, and had this outcome.
    Repeated(u64, O, M),
    /// It was not taken; its number is not used up by that.
    Refused(SequenceError, M),
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<M, S> {
    /// Run this message on this state, then say how it ended.
    Run {
        /// Its number.
        number: u64,
        /// The message.
        message: M,
        /// The state before it.
        state: S,
    },
    /// This one was cancelled before its turn: only its outcome is to be told.
    Cancelled {
        /// Its number.
        number: u64,
        /// The message.
        message: M,
    },
}

/// How a step ended.
#[derive(Debug, PartialEq, Eq)]
pub enum StepEnd<M, O, S> {
    /// It ran.
    Done {
        /// The state after it.
        state: S,
        /// The outcome.
        outcome: O,
        /// Bytes of the outcome.
        bytes: usize,
    },
    /// It is over without a new state: it failed, was cancelled or came too late.
    Over {
        /// The outcome.
        outcome: O,
        /// Bytes of the outcome.
        bytes: usize,
    },
    /// It provably did not run. The message comes back.
    NotRun(M),
}

/// What a cancelled message was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// It runs: stop it, and end its step with [`StepEnd::Over`].
    Running,
    /// It waited, and will not run.
    Waiting,
    /// It has its outcome, or never came.
    Unknown,
}

/// What a reader finds that attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// What it shows with everything it does.
    pub epoch: u64,
    /// The number of the next message.
    pub next: u64,
    /// The last number whose state would survive; the sender keeps what comes after it.
    pub durable: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept<O> {
    outcome: O,
    bytes: usize,
}

#[derive(Clone, Debug)]
struct Waiting<M> {
    message: M,
    cancelled: bool,
}

/// A sequence. See the module's documentation.
#[derive(Clone, Debug)]
pub struct Sequence<M, O, S> {
    limits: Limits,
    token: Token,
    epoch: u64,
    term: u64,
    attached: bool,
    state: S,
    /// The last number that has an outcome; `state` is the state after it.
    done: u64,
    durable: u64,
    running: bool,
    /// Those after `done` and the one that runs.
    waiting: VecDeque<Waiting<M>>,
    ends_after: Option<u64>,
    /// The outcomes of the numbers up to `done`.
    kept: VecDeque<Kept<O>>,
    kept_bytes: usize,
    /// The last number whose outcome was handed to a reader.
    delivered: u64,
}

/// A sequence between two steps, as a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export<O, S> {
    /// Who may resume it.
    pub token: Token,
    /// Its last epoch. Whoever imports it takes a higher one.
    pub epoch: u64,
    /// Raised with every take-over by another node.
    pub term: u64,
    /// The state.
    pub state: S,
    /// The number that the state is after.
    pub done: u64,
    /// The last outcomes, each with its bytes, the newest at the end.
    pub kept: Vec<(O, usize)>,
    /// Whether it has ended.
    pub ended: bool,
}

/// What remains of a sequence that has ended, so that what is said twice does no harm.
#[derive(Clone, Debug)]
pub struct Tombstone<O> {
    token: Token,
    last: u64,
    expired: bool,
    kept: VecDeque<Kept<O>>,
}

impl<M, O: Clone, S: Clone> Sequence<M, O, S> {
    /// A sequence that has had no message, and no reader yet.
    pub fn start(token: Token, state: S, limits: Limits) -> Self {
        Self {
            limits,
            token,
            epoch: 0,
            term: 1,
            attached: false,
            state,
            done: 0,
            durable: 0,
            running: false,
            waiting: VecDeque::new(),
            ends_after: None,
            kept: VecDeque::new(),
            kept_bytes: 0,
            delivered: 0,
        }
    }

    /// Goes on with what another node, or an earlier process, exported. All of it counts as durable: it was on two nodes, or
    /// is now.
    pub fn import(export: Export<O, S>, limits: Limits) -> Self {
        let kept: VecDeque<_> = export
            .kept
            .into_iter()
            .map(|(outcome, bytes)| Kept { outcome, bytes })
            .collect();
        Self {
            kept_bytes: kept.iter().map(|kept| kept.bytes).sum(),
            delivered: export.done - (kept.len() as u64).min(export.done),
            ends_after: export.ended.then_some(export.done),
            // Without any reader so far there is none to fence off, and callers are answered as before.
            epoch: if export.epoch == 0 { 0 } else { export.epoch + 1 },
            term: export.term,
            done: export.done,
            durable: export.done,
            kept,
            ..Self::start(export.token, export.state, limits)
        }
    }

    /// The sequence as a value; `None` while a message runs. Messages that wait are not in it: they have no outcome, and
    /// their sender, told of the number that comes next, sends them again.
    pub fn export(&self) -> Option<Export<O, S>> {
        (!self.running).then(|| self.exported(0))
    }

    /// What a second node lacks that has everything up to that number; everything where it is to be given all. It is that
    /// of the last step that is done, also while the next one runs.
    pub fn delta(&self, after: Option<u64>) -> Delta<O, S> {
        let oldest = self.oldest();
        let lacked = after.map_or(0, |after| (after + 1).saturating_sub(oldest));
        Delta {
            after,
            oldest,
            export: self.exported(usize::try_from(lacked).unwrap_or(usize::MAX)),
        }
    }

    fn exported(&self, skip: usize) -> Export<O, S> {
        let kept = self.kept.iter().skip(skip);
        Export {
            token: self.token,
            epoch: self.epoch,
            term: self.term,
            state: self.state.clone(),
            done: self.done,
            kept: kept.map(|kept| (kept.outcome.clone(), kept.bytes)).collect(),
            ended: self.has_ended(),
        }
    }

    /// Which of its homes this is.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// It goes on in a later term.
    pub fn set_term(&mut self, term: u64) {
        self.term = self.term.max(term);
    }

    /// Its token.
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// The last number that has an outcome.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// The number of the next message.
    pub fn next(&self) -> u64 {
        self.done + u64::from(self.running) + self.waiting.len() as u64 + 1
    }

    /// The last number whose state survives the node. See [`Sequence::made_durable`].
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Everything up to this number survives: a second node has it, or there is none to have it. Returns whether that is
    /// news.
    pub fn made_durable(&mut self, number: u64) -> bool {
        let before = self.durable;
        self.durable = before.max(number.min(self.done));
        self.durable > before
    }

    /// Whether everything that is done is durable.
    pub fn is_settled(&self) -> bool {
        self.durable == self.done
    }

    /// Whether its last message has its outcome.
    pub fn has_ended(&self) -> bool {
        self.ends_after == Some(self.done)
    }

    /// Whether nothing waits and nothing runs.
    pub fn is_idle(&self) -> bool {
        !self.running && self.waiting.is_empty()
    }

    /// Bytes of the outcomes that are kept.
    pub fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// A reader attaches: the first one, or one that comes back and names the last outcome that it has. The reader before
    /// it is fenced off. [`Sequence::deliver`] then gives what it lacks.
    ///
    /// # Errors
    /// [`SequenceError::WrongToken`], [`SequenceError::Gap`], [`SequenceError::Ahead`]; nothing has changed then.
    pub fn attach(&mut self, token: &Token, last: u64) -> Result<Attached, SequenceError> {
        if *token != self.token {
            return Err(SequenceError::WrongToken);
        }
        if last > self.done {
            return Err(SequenceError::Ahead { last: self.done });
        }
        let oldest = self.oldest();
        if last + 1 < oldest {
            return Err(SequenceError::Gap { oldest });
        }
        self.delivered = last;
        self.forget_up_to(last);
        self.epoch += 1;
        self.attached = true;
        Ok(Attached {
            epoch: self.epoch,
            next: self.next(),
            durable: self.durable(),
        })
    }

    /// Whether that is the epoch of the present reader.
    ///
    /// # Errors
    /// [`SequenceError::Fenced`] when it is an older one.
    pub fn check(&self, epoch: u64) -> Result<(), SequenceError> {
        if epoch == self.epoch {
            Ok(())
        } else {
            Err(SequenceError::Fenced)
        }
    }

    /// The reader of that epoch has gone. Nothing is cancelled by that. `false` when it was not the present one.
    pub fn detach(&mut self, epoch: u64) -> bool {
        let is_present = epoch == self.epoch;
        self.attached &= !is_present;
        is_present
    }

    /// The epoch of the last reader; 0 before the first.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The state after what is done.
    pub fn state(&self) -> &S {
        &self.state
    }

    /// Whether a reader is attached.
    pub fn is_attached(&self) -> bool {
        self.attached
    }

    /// The reader has the outcomes up to this number for good.
    pub fn acknowledge(&mut self, number: u64) {
        self.forget_up_to(number.min(self.delivered));
    }

    /// Offers a message. Without a number it is the next one. `ends` says that no other follows.
    pub fn offer(&mut self, number: Option<u64>, message: M, ends: bool) -> Offered<M, O> {
        let number = number.unwrap_or(self.next());
        match self.outcome_of(number) {
            Err(error) => Offered::Refused(error, message),
            Ok(Some(outcome)) => Offered::Repeated(number, outcome, message),
            Ok(None) => {
                self.waiting.push_back(Waiting {
                    message,
                    cancelled: false,
                });
                if ends {
                    self.ends_after = Some(number);
                }
                Offered::Accepted(number)
            }
        }
    }

    /// The outcome of a message that has one already; `None` for the one that is next and may be taken.
    fn outcome_of(&self, number: u64) -> Result<Option<O>, SequenceError> {
        let next = self.next();
        if number <= self.done {
            let oldest = self.oldest();
            let position = number
                .checked_sub(oldest)
                .and_then(|position| usize::try_from(position).ok());
            let kept = position.and_then(|position| self.kept.get(position));
            let kept = kept.ok_or(SequenceError::Gap { oldest })?;
            return Ok(Some(kept.outcome.clone()));
        }
        if number < next {
            return Err(SequenceError::UnderWay(number));
        }
        if let Some(last) = self.ends_after {
            return Err(SequenceError::Ended { last });
        }
        if number > next {
            return Err(SequenceError::OutOfOrder {
                expected: next,
                found: number,
            });
        }
        if self.waiting.len() >= self.limits.window {
            return Err(SequenceError::Full(self.limits.window));
        }
        Ok(None)
    }

    /// No message follows those that were accepted. Saying so again changes nothing. Returns the last number.
    pub fn end(&mut self) -> u64 {
        let last = self.next() - 1;
        *self.ends_after.get_or_insert(last)
    }

    /// Takes a message back.
    pub fn cancel(&mut self, number: u64) -> Cancelled {
        let first = self.done + 1 + u64::from(self.running);
        if self.running && number == self.done + 1 {
            return Cancelled::Running;
        }
        let position = number
            .checked_sub(first)
            .and_then(|position| usize::try_from(position).ok());
        match position.and_then(|position| self.waiting.get_mut(position)) {
            Some(waiting) => {
                waiting.cancelled = true;
                Cancelled::Waiting
            }
            None => Cancelled::Unknown,
        }
    }

    /// What is to be done now; nothing while a message runs, and nothing while as much waits for a reader as may be kept.
    pub fn next_step(&mut self) -> Option<Step<M, S>> {
        self.evict();
        if self.running || self.is_full_of_undelivered() {
            return None;
        }
        let Waiting { message, cancelled } = self.waiting.pop_front()?;
        self.running = true;
        let number = self.done + 1;
        Some(if cancelled {
            Step::Cancelled { number, message }
        } else {
            Step::Run {
                number,
                message,
                state: self.state.clone(),
            }
        })
    }

    /// Says how the step ended. Returns the messages that came back, in their order; their numbers are free again.
    pub fn step_ended(&mut self, end: StepEnd<M, O, S>) -> Vec<M> {
        self.running = false;
        let (outcome, bytes) = match end {
            StepEnd::Done { state, outcome, bytes } => {
                self.state = state;
                (outcome, bytes)
            }
            StepEnd::Over { outcome, bytes } => (outcome, bytes),
            StepEnd::NotRun(message) => {
                let behind = self.take_waiting();
                return std::iter::once(message).chain(behind).collect();
            }
        };
        self.done += 1;
        self.kept.push_back(Kept { outcome, bytes });
        self.kept_bytes += bytes;
        Vec::new()
    }

    /// The outcomes that the present reader has not been given, with their numbers; they count as given. Nothing when no
    /// reader is attached.
    pub fn deliver(&mut self) -> Vec<(u64, O)> {
        if !self.attached {
            return Vec::new();
        }
        self.deliver_to_whoever_asked()
    }

    /// The same, where no reader is attached and whoever sent the messages was told of the outcomes in another way.
    pub fn deliver_to_whoever_asked(&mut self) -> Vec<(u64, O)> {
        let oldest = self.oldest();
        let skip = usize::try_from((self.delivered + 1).saturating_sub(oldest)).unwrap_or(usize::MAX);
        let numbers = self.delivered + 1..;
        let outcomes = self.kept.iter().skip(skip).map(|kept| kept.outcome.clone());
        let delivered = numbers.zip(outcomes).collect();
        self.delivered = self.done;
        self.evict();
        delivered
    }

    /// The messages that wait, in their order; they are out of the sequence then.
    pub fn take_waiting(&mut self) -> Vec<M> {
        self.ends_after = self.ends_after.filter(|last| *last <= self.done);
        self.waiting.drain(..).map(|waiting| waiting.message).collect()
    }

    /// What remains when it is over, or has expired.
    pub fn into_tombstone(self) -> Tombstone<O> {
        Tombstone {
            token: self.token,
            last: self.done,
            expired: !self.has_ended(),
            kept: self.kept,
        }
    }

    /// The first number that is kept; the next one when nothing is.
    fn oldest(&self) -> u64 {
        self.done + 1 - self.kept.len() as u64
    }

    fn is_full_of_undelivered(&self) -> bool {
        let undelivered = self.done - self.delivered;
        undelivered >= self.limits.window as u64 || (undelivered > 0 && self.kept_bytes >= self.limits.window_bytes)
    }

    fn forget_up_to(&mut self, number: u64) {
        while self.oldest() <= number.min(self.done) && !self.kept.is_empty() {
            self.forget_oldest();
        }
    }

    /// Keeps to the bounds, by what a reader has been given.
    fn evict(&mut self) {
        let over = |this: &Self| this.kept.len() > this.limits.window || this.kept_bytes > this.limits.window_bytes;
        // The newest one stays, however large: a reader that had nothing but it unanswered can come back.
        while over(self) && self.oldest() <= self.delivered && self.kept.len() > 1 {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(kept) = self.kept.pop_front() {
            self.kept_bytes -= kept.bytes;
        }
    }
}

impl<O: Clone> Tombstone<O> {
    /// The tombstone of a sequence that ended on another node.
    pub fn of_export<S>(export: Export<O, S>) -> Self {
        let kept = export.kept.into_iter();
        Self {
            token: export.token,
            last: export.done,
            expired: !export.ended,
            kept: kept.map(|(outcome, bytes)| Kept { outcome, bytes }).collect(),
        }
    }

    /// What another node needs to have it too; `state` is any, nobody goes on with it.
    pub fn export<S>(&self, state: S) -> Export<O, S> {
        Export {
            token: self.token,
            epoch: 0,
            term: u64::MAX,
            state,
            done: self.last,
            kept: self
                .kept
                .iter()
                .map(|kept| (kept.outcome.clone(), kept.bytes))
                .collect(),
            ended: !self.expired,
        }
    }

    /// Its token.
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// Whether it ended, and was not forgotten.
    pub fn has_ended(&self) -> bool {
        !self.expired
    }

    /// The last number that the sequence had.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Why it takes no message.
    pub fn error(&self) -> SequenceError {
        if self.expired {
            SequenceError::Expired { last: self.last }
        } else {
            SequenceError::Ended { last: self.last }
        }
    }

    /// Whether that is its token.
    ///
    /// # Errors
    /// [`SequenceError::WrongToken`].
    pub fn check(&self, token: &Token) -> Result<(), SequenceError> {
        if *token == self.token {
            Ok(())
        } else {
            Err(SequenceError::WrongToken)
        }
    }

    /// What a reader lacks that comes back after the end.
    ///
    /// # Errors
    /// [`SequenceError::WrongToken`]; [`SequenceError::Expired`] when it did not end but was forgotten;
    /// [`SequenceError::Gap`] and [`SequenceError::Ahead`] as for a living one.
    pub fn resume(&self, token: &Token, last: u64) -> Result<Vec<(u64, O)>, SequenceError> {
        self.check(token)?;
        if self.expired {
            return Err(self.error());
        }
        self.outcomes_after(last)
    }

    /// The outcomes behind that number.
    ///
    /// # Errors
    /// [`SequenceError::Gap`] and [`SequenceError::Ahead`].
    pub fn outcomes_after(&self, last: u64) -> Result<Vec<(u64, O)>, SequenceError> {
        if last > self.last {
            return Err(SequenceError::Ahead { last: self.last });
        }
        let oldest = self.last + 1 - self.kept.len() as u64;
        if last + 1 < oldest {
            return Err(SequenceError::Gap { oldest });
        }
        let numbered = (oldest..).zip(&self.kept);
        let lacking = numbered.filter(|(number, _)| *number > last);
        Ok(lacking.map(|(number, kept)| (number, kept.outcome.clone())).collect())
    }
}
