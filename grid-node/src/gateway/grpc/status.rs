//! What each end of a request is in gRPC.
//!
//! | `InferError` | status | worth sending again |
//! |---|---|---|
//! | `Invalid` | INVALID_ARGUMENT | no |
//! | `NotFound` | NOT_FOUND | no |
//! | `TooLarge` | RESOURCE_EXHAUSTED: what gRPC's own libraries say of a message over their limit | no |
//! | `Unsupported` | UNIMPLEMENTED | no |
//! | `Cancelled` | CANCELLED (nobody is left to read it, but the logs are) | no |
//! | `ModelFailed` | INTERNAL | no |
//! | `NotReady` | UNAVAILABLE | yes |
//! | `Overloaded` | UNAVAILABLE with `grpc-retry-pushback-ms`: the one status that retry policies name, and the wait that they obey. RESOURCE_EXHAUSTED would read like `TooLarge` | yes, after that time |
//! | `ReplicaLost` | UNAVAILABLE | yes: nothing ran |
//! | `DeadlineExceeded` | DEADLINE_EXCEEDED | no |
//! | `Sequence`: there is none | NOT_FOUND | no |
//! | `Sequence`: there is one already | ALREADY_EXISTS | no |
//! | `Sequence`: its token is another | PERMISSION_DENIED | no |
//! | `Sequence`: too many messages wait | UNAVAILABLE | yes, after an answer |
//! | `Sequence`: anything else | FAILED_PRECONDITION | no |
//!
//! On a `ModelStreamInfer` the same text goes into `error_message`, and the stream stays open.

use std::time::Duration;

use grid_core::InferError;
use grid_core::sequence::SequenceError;
use tonic::{Code, Status};

use crate::gateway::rest;
use crate::gateway::retry_after::spread;

/// How long a client should wait before it tries again, in milliseconds. gRPC's retry policies obey it.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// The code of an error.
pub(super) fn code(error: &InferError) -> Code {
    match error {
        InferError::Invalid(_) => Code::InvalidArgument,
        InferError::NotFound(_) => Code::NotFound,
        InferError::TooLarge { .. } => Code::ResourceExhausted,
        InferError::Unsupported(_) => Code::Unimplemented,
        InferError::Cancelled => Code::Cancelled,
        InferError::ModelFailed { .. } => Code::Internal,
        InferError::NotReady { .. } | InferError::Overloaded { .. } | InferError::ReplicaLost { .. } => {
            Code::Unavailable
        }
        InferError::DeadlineExceeded { .. } => Code::DeadlineExceeded,
        InferError::Sequence { error, .. } => match error {
            SequenceError::Unknown => Code::NotFound,
            SequenceError::Exists => Code::AlreadyExists,
            SequenceError::WrongToken => Code::PermissionDenied,
            SequenceError::Full(_) => Code::Unavailable,
            _ => Code::FailedPrecondition,
        },
    }
}

/// The status of an error.
pub(super) fn of(error: &InferError) -> Status {
    let mut status = Status::new(code(error), text(error));
    if let InferError::Overloaded { retry_after, .. } = error {
        push_back(&mut status, *retry_after);
    }
    status
}

/// What an error says, no longer than a message may be.
pub(super) fn text(error: &InferError) -> String {
    rest::cut(&error.to_string()).into_owned()
}

/// The messages of all requests together hold as much as they may.
pub(super) fn no_room() -> Status {
    let mut status = Status::unavailable("the messages of other requests hold all the memory for messages");
    push_back(&mut status, Duration::from_secs(1));
    status
}

fn push_back(status: &mut Status, wait: Duration) {
    // Zero would invite the client to come back at once.
    let wait = u64::try_from(spread(wait, rand::random()).as_millis())
        .unwrap_or(u64::MAX)
        .max(1);
    status.metadata_mut().insert(PUSHBACK, wait.into());
}

#[cfg(test)]
mod tests {
    use grid_core::model::ModelId;

    use super::*;

    #[test]
    fn every_error_has_its_status() {
        let text = String::new;
        let model = || ModelId {
            name: "m".parse().unwrap(),
            version: 1,
        };
        let sequence = |error| InferError::Sequence { id: 7.into(), error };
        let table = [
            (InferError::Invalid(text()), Code::InvalidArgument),
            (InferError::NotFound(text()), Code::NotFound),
            (InferError::TooLarge { limit: 1 }, Code::ResourceExhausted),
            (InferError::Unsupported(text()), Code::Unimplemented),
            (InferError::Cancelled, Code::Cancelled),
            (
                InferError::ModelFailed {
                    model: model(),
                    reason: text(),
                },
                Code::Internal,
            ),
            (
                InferError::NotReady {
                    model: text(),
                    reason: text(),
                },
                Code::Unavailable,
            ),
            (InferError::ReplicaLost { model: model() }, Code::Unavailable),
            (
                InferError::DeadlineExceeded {
                    model: model(),
                    timeout: Duration::ZERO,
                },
                Code::DeadlineExceeded,
            ),
            (sequence(SequenceError::Unknown), Code::NotFound),
            (sequence(SequenceError::Exists), Code::AlreadyExists),
            (sequence(SequenceError::WrongToken), Code::PermissionDenied),
            (sequence(SequenceError::Full(1)), Code::Unavailable),
            (sequence(SequenceError::Ended { last: 1 }), Code::FailedPrecondition),
        ];
        for (error, expected) in table {
            let status = of(&error);
            assert_eq!(status.code(), expected, "{error:?}");
            assert!(status.metadata().get(PUSHBACK).is_none(), "{error:?}");
        }
    }

    #[test]
    fn who_is_turned_away_is_told_how_long_to_wait() {
        let status = |wait| {
            of(&InferError::Overloaded {
                model: ModelId {
                    name: "m".parse().unwrap(),
                    version: 1,
                },
                reason: String::new(),
                retry_after: Duration::from_micros(wait),
            })
        };
        for (wait, expected) in [(0, 1..=1), (300, 1..=1), (1500, 1..=2), (250_000, 250..=375)] {
            let status = status(wait);
            assert_eq!(status.code(), Code::Unavailable);
            let told = status.metadata().get(PUSHBACK).unwrap().to_str().unwrap();
            assert!(expected.contains(&told.parse::<u64>().unwrap()), "{told}");
        }
    }
}
