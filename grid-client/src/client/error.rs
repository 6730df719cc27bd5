//! How calls to a grid end without what was asked for.

use std::time::Duration;

use grid_core::InferError;
use grid_core::model::{InputError, InvalidModelName};
use grid_core::sequence::InvalidSequenceId;

/// How a call to a grid ends without what was asked for.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ClientError {
    /// No node could be reached in time.
    #[error("no node of the grid answered within {waited:?}: {reason}")]
    Unreachable {
        /// How long it was tried.
        waited: Duration,
        /// What each address said last.
        reason: String,
    },
    /// All nodes that were reached refuse this client: the grid's name or key is another, or the protocol's version.
    #[error("the nodes refuse this client: {0}")]
    Refused(String),
    /// No address was given to begin with.
    #[error("expected the address of at least one node, found none")]
    NoSeeds,
    /// It is no name of a model.
    #[error(transparent)]
    ModelName(#[from] InvalidModelName),
    /// It is no name of a sequence.
    #[error("sequence: {0}")]
    SequenceId(#[from] InvalidSequenceId),
    /// The tensors of a request are not the model's inputs. It was not sent.
    #[error("{model}: {error}")]
    Input {
        /// The model, with its version.
        model: String,
        /// Which tensor, what was expected, what was found.
        error: InputError,
    },
    /// Nobody hosted the model ready, and reachable, as long as the request had time.
    #[error("no replica of {model} took the request within {waited:?}: {reason}")]
    NoReplica {
        /// The model.
        model: String,
        /// How long it was waited for.
        waited: Duration,
        /// What is known of it.
        reason: String,
    },
    /// What a node or a replica says of the request.
    #[error(transparent)]
    Infer(#[from] InferError),
    /// The sequence cannot go on: messages that a node would need again are not kept any more.
    #[error("sequence `{id}`: a node goes on from message {wanted}, and messages are kept from {oldest} on")]
    SequenceGap {
        /// Which.
        id: String,
        /// The number that the node wants next.
        wanted: u64,
        /// The first number that is kept, or the next one.
        oldest: u64,
    },
    /// No node took the sequence in time. It may be resumed later, from [`SequencePlace`](crate::SequencePlace).
    #[error("sequence `{id}`: message {number} has no outcome after {waited:?}: {reason}")]
    SequenceStalled {
        /// Which.
        id: String,
        /// The message that has no outcome. It may have run.
        number: u64,
        /// How long it was tried.
        waited: Duration,
        /// What the nodes said.
        reason: String,
    },
    /// The sequence is over: it was ended, or failed before.
    #[error("the sequence takes no messages any more")]
    SequenceOver,
}

impl ClientError {
    /// Whether the same call may succeed when it is made again. A request that may have run and whose model keeps
    /// nothing between requests can be made again as well.
    pub fn can_retry(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::NoReplica { .. } | Self::SequenceStalled { .. } => true,
            Self::Infer(error) => error.can_retry(),
            Self::Refused(_)
            | Self::NoSeeds
            | Self::ModelName(_)
            | Self::SequenceId(_)
            | Self::Input { .. }
            | Self::SequenceGap { .. }
            | Self::SequenceOver => false,
        }
    }

    /// A short, stable name for metrics and logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::Refused(_) => "refused",
            Self::NoSeeds | Self::ModelName(_) | Self::SequenceId(_) | Self::Input { .. } => "invalid",
            Self::NoReplica { .. } => "not_ready",
            Self::Infer(error) => error.kind(),
            Self::SequenceGap { .. } => "sequence_gap",
            Self::SequenceStalled { .. } => "sequence_stalled",
            Self::SequenceOver => "sequence_over",
        }
    }
}
