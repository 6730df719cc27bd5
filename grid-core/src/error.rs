//! How a request can end other than with an answer.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{InputError, ModelId};
use crate::sequence::{SequenceError, SequenceId};
use crate::tensor::TensorError;

/// The end of a request that brought no answer. Every kind maps to one status in each interface.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
pub enum InferError {
    /// The request itself is wrong; sending it again cannot help.
    #[error("{0}")]
    Invalid(String),
    /// The request has a form that is not served: a compressed body, say.
    #[error("{0}")]
    Unsupported(String),
    /// No such model, or no such version.
    #[error("{0}")]
    NotFound(String),
    /// The body is over the limit.
    #[error("the body is larger than the limit of {limit} bytes")]
    TooLarge {
        /// Bytes allowed.
        limit: usize,
    },
    /// The model is known, but none of its replicas is ready.
    #[error("{model} is not ready: {reason}")]
    NotReady {
        /// Which.
        model: String,
        /// Why, as told by its supervisor.
        reason: String,
    },
    /// Admission refused: the queue is full, or the deadline would pass in it.
    #[error("{model} is overloaded: {reason}")]
    Overloaded {
        /// Which.
        model: ModelId,
        /// What was over which bound.
        reason: String,
        /// When it may be worth trying again.
        retry_after: Duration,
    },
    /// The deadline passed before the answer was there.
    #[error("the deadline of {timeout:?} passed before {model} answered")]
    DeadlineExceeded {
        /// Which.
        model: ModelId,
        /// The time that the request had.
        timeout: Duration,
    },
    /// The caller went away, or took the request back.
    #[error("the request was cancelled")]
    Cancelled,
    /// The model ran and failed on this input.
    #[error("{model} failed on this input: {reason}")]
    ModelFailed {
        /// Which.
        model: ModelId,
        /// The runtime's message.
        reason: String,
    },
    /// The request belongs to a sequence that does not take it.
    #[error("sequence `{id}`: {error}")]
    Sequence {
        /// Which.
        id: SequenceId,
        /// Why not.
        error: SequenceError,
    },
    /// The replica ended before it ran the request: it can be sent to another one.
    #[error("a replica of {model} ended before it ran the request")]
    ReplicaLost {
        /// Which.
        model: ModelId,
    },
}

impl InferError {
    /// A short, stable name for metrics and logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "invalid",
            Self::Unsupported(_) => "unsupported",
            Self::NotFound(_) => "not_found",
            Self::TooLarge { .. } => "too_large",
            Self::NotReady { .. } => "not_ready",
            Self::Overloaded { .. } => "overloaded",
            Self::DeadlineExceeded { .. } => "deadline_exceeded",
            Self::Cancelled => "cancelled",
            Self::ModelFailed { .. } => "model_failed",
            Self::ReplicaLost { .. } => "replica_lost",
            Self::Sequence { error, .. } => error.kind(),
        }
    }

    /// Whether the same request may succeed when it is sent again.
    pub fn can_retry(&self) -> bool {
        match self {
            Self::NotReady { .. } | Self::Overloaded { .. } | Self::ReplicaLost { .. } => true,
            Self::Sequence { error, .. } => matches!(error, SequenceError::Full(_)),
            Self::Invalid(_)
            | Self::Unsupported(_)
            | Self::NotFound(_)
            | Self::TooLarge { .. }
            | Self::DeadlineExceeded { .. }
            | Self::Cancelled
            | Self::ModelFailed { .. } => false,
        }
    }
}

impl From<InputError> for InferError {
    fn from(error: InputError) -> Self {
        Self::Invalid(error.to_string())
    }
}

impl From<TensorError> for InferError {
    fn from(error: TensorError) -> Self {
        Self::Invalid(error.to_string())
    }
}
