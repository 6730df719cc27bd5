//! What nodes tell each other of sequences, so that each is on two of them.
//!
//! Tensors lie in the body: those of the state first, then those of the outcomes in their order.

use serde::{Deserialize, Serialize};

use super::message::TensorHead;
use crate::InferError;
use crate::cluster::NodeId;
use crate::model::{ModelName, Version};
use crate::sequence::{Ballot, SequenceId, Token};
pub use crate::sequence::{Seen, SeenAs};

/// One sequence among all that a name ever stood for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SequenceKey {
    /// The model.
    pub model: ModelName,
    /// The name.
    pub id: SequenceId,
    /// Drawn at its start.
    pub birth: u64,
}

/// An output as a request asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedHead {
    /// Its position in the signature.
    pub index: u32,
    /// Raw, rather than as text.
    pub binary: bool,
    /// Its highest values, so many.
    pub classification: Option<u32>,
}

/// The outcome of a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutcomeHead {
    /// The request's own id.
    pub id: Option<String>,
    /// How its outputs were asked for.
    pub wanted: Vec<WantedHead>,
    /// How many tensors in the body are its outputs, or how it failed.
    pub result: Result<u32, InferError>,
    /// Bytes that it counts as.
    pub bytes: u64,
}

/// A sequence, or what was added to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SequenceImage {
    /// Which.
    pub key: SequenceKey,
    /// The model's version.
    pub version: Version,
    /// What it is resumed with.
    pub token: Token,
    /// Whether callers need no token.
    pub open: bool,
    /// How long it lives without a message, in milliseconds.
    pub life_ms: u64,
    /// The epoch of its last reader.
    pub epoch: u64,
    /// Which of its homes wrote this.
    pub term: u64,
    /// The number that the state is after.
    pub done: u64,
    /// Whether it has ended.
    pub ended: bool,
    /// The first outcome that its home keeps.
    pub oldest: u64,
    /// How many tensors are its state.
    pub states: u32,
    /// The outcomes.
    pub outcomes: Vec<OutcomeHead>,
    /// All tensors in the body.
    pub tensors: Vec<TensorHead>,
}

/// A home tells the second node how far it is. Answered with [`super::call::Reply::Held`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hold {
    /// The home.
    pub home: NodeId,
    /// What the second node has; `None`: the image is everything.
    pub after: Option<u64>,
    /// What comes after.
    pub image: SequenceImage,
}

/// Who has this sequence? Answered with [`super::call::Reply::Seen`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seek {
    /// The model.
    pub model: ModelName,
    /// The name.
    pub id: SequenceId,
}

/// Hand it over. Answered with [`super::call::Reply::Given`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Give {
    /// Which.
    pub key: SequenceKey,
    /// Who takes it.
    pub to: NodeId,
    /// The term in which it was seen.
    pub seen: u64,
    /// The term to come; of a home it is the next one.
    pub term: u64,
    /// The home of a copy has just said that it is none.
    pub denied: bool,
}

impl Give {
    /// Asks a home that lives, or who remembers how it ended.
    pub fn of_home(key: SequenceKey, to: NodeId, seen: u64) -> Self {
        Self {
            key,
            to,
            seen,
            term: 0,
            denied: false,
        }
    }
}

/// A vote for a new term. Answered with [`super::call::Reply::Voted`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Vote {
    /// Of which sequence.
    pub key: SequenceKey,
    /// For what.
    pub ballot: Ballot,
    /// How long the sequence lives without a message, in milliseconds: the word is kept for longer.
    pub life_ms: u64,
}

/// A copy is of no use any more. Answered with [`super::call::Reply::Held`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Release {
    /// Which.
    pub key: SequenceKey,
    /// It is dropped unless its term is a later one.
    pub term: u64,
}
