//! What goes into sequences and what comes out.

use std::sync::Arc;

use grid_core::InferError;
use grid_core::model::{ModelId, Signature};
use grid_core::sequence::{SequenceId, Token};
use grid_core::tensor::Tensor;
use smallvec::SmallVec;
use tokio::sync::mpsc;

use crate::actors::routes::VersionRoute;
use crate::compute::{Answer, Request};
use crate::runtime::Outputs;

/// An output as a request asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedOutput {
    /// Its position in the signature.
    pub index: usize,
    /// Raw, rather than as text.
    pub binary: bool,
    /// Not the output itself, but its highest values, so many.
    pub classification: Option<usize>,
}

/// The outputs that go back, in their order.
pub type Wanted = SmallVec<[WantedOutput; 2]>;

/// What an answer is written with, kept beside it: it may be written again, when the route of its model is another.
#[derive(Clone, Debug)]
pub struct AnswerForm {
    /// The model version.
    pub model: ModelId,
    /// Its signature.
    pub signature: Arc<Signature>,
    /// The request's own id.
    pub id: Option<Box<str>>,
    /// The outputs that go back.
    pub wanted: Wanted,
}

/// The outputs that go back, out of all.
pub fn pick(wanted: &Wanted, outputs: &[Tensor]) -> Outputs {
    let chosen = wanted.iter().filter_map(|wanted| outputs.get(wanted.index));
    chosen.cloned().collect()
}

/// Longest id of a message in bytes: it is kept with the outcome.
pub const MAX_REQUEST_ID: usize = 256;

/// A message of a sequence.
#[derive(Clone, Debug)]
pub struct SequenceMessage {
    /// The request, checked, with the initial state in the places of the state.
    pub request: Request,
    /// The route that it was checked for.
    pub route: Arc<VersionRoute>,
    /// How its answer is written.
    pub form: AnswerForm,
}

/// What a message says of its sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SequenceOrder {
    /// It is the first one.
    pub start: bool,
    /// No other follows.
    pub end: bool,
    /// Its number; without it, it is the next one.
    pub number: Option<u64>,
    /// What proves that its sender may send it.
    pub token: Option<Token>,
    /// The sender has drawn the token itself: a sequence that begins with this message is to have it.
    pub drawn: bool,
}

/// The outcome of a message, as it is kept. Its answer holds the wanted outputs alone, in their order.
#[derive(Clone, Debug)]
pub struct StepOutcome {
    /// How it is written.
    pub form: AnswerForm,
    /// What came out.
    pub result: Result<Answer, InferError>,
    /// Which reader sent the message, and what it calls it.
    pub(super) sent_by: Option<(Stamp, Ticket)>,
}

/// What a reader calls a message that it offers; never twice the same.
pub type Ticket = u64;

/// One reader of one sequence: the number of the sequence among all that this node had, and the reader's epoch. Events of
/// an earlier sequence of the same name, or for an earlier reader, are told from those that matter by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// The sequence.
    pub incarnation: u64,
    /// The reader.
    pub epoch: u64,
}

/// An outcome, as it is told.
#[derive(Clone, Debug)]
pub struct Told {
    /// The number of its message.
    pub number: u64,
    /// The last number whose state would survive.
    pub durable: u64,
    /// Whether the sequence has ended with it.
    pub ends: bool,
    /// What the sequence can be resumed with, told at its start.
    pub token: Option<Token>,
    /// The outcome.
    pub outcome: Arc<StepOutcome>,
}

/// What a reader is told.
#[derive(Clone, Debug)]
pub enum SequenceEvent {
    /// A message has its outcome.
    Told {
        /// The reader's name for it, if this reader sent it.
        ticket: Option<Ticket>,
        /// The outcome.
        told: Told,
    },
    /// A message was not taken, or comes back as it did not run. Its number is free, and so are those behind it.
    Refused {
        /// The reader's name for it, if this reader sent it.
        ticket: Option<Ticket>,
        /// The number that it came with, or had been given.
        number: Option<u64>,
        /// Why.
        error: InferError,
    },
    /// Another reader has taken the sequence over.
    Fenced,
    /// All outcomes have been told, and no message is taken any more.
    Ended {
        /// The last number.
        last: u64,
    },
    /// Everything up to this number survives this node now.
    Durable {
        /// The number.
        number: u64,
    },
    /// This node leaves; the sequence can be resumed at another.
    Moved,
    /// The sequence is gone: it was replaced by another of its name, or its actor crashed.
    Lost,
}

/// Where events go: of which sequence, for which of its readers.
pub type ReaderEvents = mpsc::UnboundedSender<(SequenceId, Stamp, SequenceEvent)>;

/// A connection that reads sequences: where their events go.
#[derive(Clone, Debug)]
pub struct Reader {
    /// The connection's one channel for all its sequences. It is not bounded by itself: its reader bounds the messages
    /// that it offers, and each has one event.
    pub events: ReaderEvents,
}
