//! What each end of a request is in HTTP.
//!
//! | `InferError` | status | worth sending again |
//! |---|---|---|
//! | `Invalid` | 400 Bad Request | no |
//! | `NotFound` | 404 Not Found | no |
//! | `TooLarge` | 413 Content Too Large | no |
//! | `Unsupported` | 415 Unsupported Media Type | no |
//! | `Cancelled` | 499 (nginx's "client closed request"; nobody is left to read it, but the logs are) | no |
//! | `ModelFailed` | 500 Internal Server Error | no |
//! | `NotReady` | 503 Service Unavailable | yes |
//! | `Overloaded` | 503 Service Unavailable, with `Retry-After` | yes, after that time |
//! | `ReplicaLost` | 503 Service Unavailable | yes: nothing ran |
//! | `DeadlineExceeded` | 504 Gateway Timeout | no |
//! | `Sequence`, of which there is none | 404 Not Found | no |
//! | `Sequence`, its token is another | 403 Forbidden | no |
//! | `Sequence` that lives already, is another's by now, or expects another message | 409 Conflict | no |
//! | `Sequence` that has ended, expired, or whose outcomes are not kept any more | 410 Gone | no |
//! | `Sequence` of which too many messages wait | 503 Service Unavailable | yes |

use grid_core::InferError;
use grid_core::sequence::SequenceError;

/// The HTTP status of an error.
pub fn status(error: &InferError) -> u16 {
    match error {
        InferError::Invalid(_) => 400,
        InferError::NotFound(_) => 404,
        InferError::TooLarge { .. } => 413,
        InferError::Unsupported(_) => 415,
        InferError::Cancelled => 499,
        InferError::ModelFailed { .. } => 500,
        InferError::NotReady { .. } | InferError::Overloaded { .. } | InferError::ReplicaLost { .. } => 503,
        InferError::DeadlineExceeded { .. } => 504,
        InferError::Sequence { error, .. } => match error {
            SequenceError::Unknown => 404,
            SequenceError::WrongToken => 403,
            SequenceError::Exists
            | SequenceError::Fenced
            | SequenceError::OutOfOrder { .. }
            | SequenceError::UnderWay(_)
            | SequenceError::Ahead { .. } => 409,
            SequenceError::Gap { .. } | SequenceError::Ended { .. } | SequenceError::Expired { .. } => 410,
            SequenceError::Full(_) => 503,
        },
    }
}

/// The value of `Retry-After` in whole seconds, where an error has one. Rounded up, and at least one: zero would
/// invite the client to come back at once.
pub fn retry_after(error: &InferError) -> Option<u64> {
    match error {
        InferError::Overloaded { retry_after, .. } => {
            let partial = u64::from(retry_after.subsec_nanos() > 0);
            Some(retry_after.as_secs().saturating_add(partial).max(1))
        }
        _ => None,
    }
}

/// The protocol's error object, `{"error": "…"}`.
pub fn error_body(message: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 16);
    out.extend_from_slice(b"{\"error\":");
    super::encode::write_string(&mut out, message);
    out.push(b'}');
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use grid_core::model::ModelId;

    use super::*;

    fn model() -> ModelId {
        ModelId {
            name: "m".parse().unwrap(),
            version: 1,
        }
    }

    fn overloaded(millis: u64) -> InferError {
        InferError::Overloaded {
            model: model(),
            reason: String::new(),
            retry_after: Duration::from_millis(millis),
        }
    }

    #[test]
    fn every_error_has_its_status() {
        let reason = String::new;
        let table = [
            (InferError::Invalid(reason()), 400),
            (InferError::NotFound(reason()), 404),
            (InferError::TooLarge { limit: 1 }, 413),
            (InferError::Unsupported(reason()), 415),
            (InferError::Cancelled, 499),
            (
                InferError::ModelFailed {
                    model: model(),
                    reason: reason(),
                },
                500,
            ),
            (
                InferError::NotReady {
                    model: reason(),
                    reason: reason(),
                },
                503,
            ),
            (overloaded(1), 503),
            (InferError::ReplicaLost { model: model() }, 503),
            (
                InferError::DeadlineExceeded {
                    model: model(),
                    timeout: Duration::ZERO,
                },
                504,
            ),
            (
                InferError::Sequence {
                    id: 7.into(),
                    error: SequenceError::Ended { last: 1 },
                },
                410,
            ),
        ];
        for (error, expected) in table {
            assert_eq!(status(&error), expected, "{error:?}");
        }
    }

    #[test]
    fn retry_after_is_rounded_up_and_never_zero() {
        let seconds = [0, 1, 1000, 1001].map(|millis| retry_after(&overloaded(millis)));
        assert_eq!(seconds, [Some(1), Some(1), Some(1), Some(2)]);
        assert_eq!(retry_after(&InferError::Cancelled), None);
    }

    #[test]
    fn the_error_body_is_json_whatever_the_message() {
        assert_eq!(error_body("a \"b\"\n"), br#"{"error":"a \"b\"\n"}"#);
    }
}
