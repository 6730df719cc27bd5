//! What the server says on a WebSocket of `grid.v1` beside outputs. `docs/streaming.md` is the specification.

use grid_core::InferError;
use grid_core::sequence::SequenceId;
use serde::Serialize;

use crate::gateway::rest::{codec, cut};
use crate::gateway::retry_after::spread;

/// A message of the server.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ServerMessage<'a> {
    /// The first message of every connection.
    Ready {
        protocol: &'static str,
        model_name: &'a str,
        limits: SocketLimits,
    },
    /// A sequence has begun.
    Started {
        sequence_id: &'a str,
        sequence_token: String,
        window: Window,
        resume_within_ms: u128,
    },
    /// A sequence goes on.
    Resumed {
        sequence_id: &'a str,
        next: u64,
        sequence_durable: u64,
    },
    /// All outcomes of a sequence have been told, and it takes no more.
    Ended { sequence_id: &'a str, last: u64 },
    /// Everything up to a number survives the node that the sequence lives on.
    Durable {
        sequence_id: &'a str,
        sequence_durable: u64,
    },
    /// This node leaves: the sequence can be resumed at another.
    Moved { sequence_id: &'a str },
    /// Another connection has taken a sequence over.
    Fenced { sequence_id: &'a str },
    /// A request, or a message of a sequence, or a word about one, has no output.
    Error {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        kind: &'static str,
        error: String,
        retry: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u128>,
        #[serde(skip_serializing_if = "Option::is_none")]
        sequence_id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        sequence_number: Option<u64>,
        /// Whether the number is used up: the error is the outcome of the message. Otherwise it may be sent again.
        #[serde(skip_serializing_if = "Option::is_none")]
        sequence_outcome: Option<bool>,
    },
}

/// What a connection may ask of the server.
#[derive(Debug, Serialize)]
pub(super) struct SocketLimits {
    pub(super) message_bytes: u64,
    pub(super) in_flight: usize,
    pub(super) idle_timeout_ms: u128,
    pub(super) ping_interval_ms: u128,
}

/// How far a reader may lag behind and still be resumed.
#[derive(Debug, Serialize)]
pub(super) struct Window {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

/// Where in a sequence an error belongs.
#[derive(Clone, Copy, Debug)]
pub(super) struct ErrorPlace<'a> {
    pub(super) sequence: &'a SequenceId,
    pub(super) number: Option<u64>,
    /// Whether it is the outcome of the message of that number, or leaves the number free; `None` where it is of no
    /// message, or that is not known.
    pub(super) is_outcome: Option<bool>,
}

impl<'a> ServerMessage<'a> {
    /// The message that tells of an error.
    pub(super) fn error(id: Option<&'a str>, error: &InferError, place: Option<ErrorPlace<'a>>) -> Self {
        let retry_after = match error {
            InferError::Overloaded { retry_after, .. } => Some(spread(*retry_after, rand::random()).as_millis().max(1)),
            _ => None,
        };
        Self::Error {
            id,
            kind: error.kind(),
            error: cut(&error.to_string()).into_owned(),
            retry: error.can_retry(),
            retry_after_ms: retry_after,
            sequence_id: place.map(|place| place.sequence.as_str()),
            sequence_number: place.and_then(|place| place.number),
            sequence_outcome: place.and_then(|place| place.is_outcome),
        }
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_else(|_| codec::error_body("the message could not be written"))
    }
}
