//! Values to bytes and back, bounded: bincode behind the one place that names it.
//!
//! Compatibility: what is encoded is the bare sequence of fields, so a type that travels or lies on disk never changes;
//! a changed one is a new type, told apart by the protocol version or the format number in front of it.

use bincode::error::DecodeError;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes that are not the value that was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// They are not an encoded value of that type, or one that would take more memory than may be.
    #[error("{what}: {reason}")]
    Malformed {
        /// What was expected.
        what: &'static str,
        /// What bincode says.
        reason: String,
    },
    /// Bytes follow the value.
    #[error("{what}: {extra} bytes follow its end")]
    Trailing {
        /// What was expected.
        what: &'static str,
        /// How many.
        extra: usize,
    },
}

/// Most bytes that one encoded value takes, and that decoding one may allocate.
pub const MAX_ENCODED: usize = 16 << 20;

/// Most bytes that bincode counts for one that it reads: a number of 128 bits may be written in one.
const WIDEST: usize = 16;

/// From so few bytes on, a smaller limit: a hello, and the head of a message.
const SHORT: usize = 1 << 10;
const MIDDLING: usize = 64 << 10;

/// The bytes of a value.
///
/// # Panics
/// When a type cannot be encoded at all (a map of unknown length, say), which a test of that type finds.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let written = bincode::serde::encode_to_vec(value, bincode::config::standard());
    written.expect("types that travel can be encoded")
}

/// The value of these bytes, which hold it and nothing more. `what` names it in errors.
///
/// # Errors
/// When they are anything else.
pub fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, CodecError> {
    // bincode takes memory for a text on the word of its length, up to the limit: few bytes get little, or a hello of 60 bytes
    // from whomever would get all of 16 MiB.
    let standard = bincode::config::standard();
    let read = match bytes.len() {
        length if length <= SHORT => {
            bincode::serde::decode_from_slice(bytes, standard.with_limit::<{ WIDEST * SHORT }>())
        }
        length if length <= MIDDLING => {
            bincode::serde::decode_from_slice(bytes, standard.with_limit::<{ WIDEST * MIDDLING }>())
        }
        _ => bincode::serde::decode_from_slice(bytes, standard.with_limit::<MAX_ENCODED>()),
    };
    let (value, used) = read.map_err(|error| CodecError::Malformed {
        what,
        reason: match error {
            // What a type of ours says of a value, which bincode would quote as a string of a program.
            DecodeError::OtherString(reason) => reason,
            other => other.to_string(),
        },
    })?;
    match bytes.len() - used {
        0 => Ok(value),
        extra => Err(CodecError::Trailing { what, extra }),
    }
}

/// The value at the start of these bytes, and how many of them it takes. Decoding it allocates no more than `LIMIT`.
///
/// # Errors
/// When they begin with anything else.
pub fn decode_first<T: DeserializeOwned, const LIMIT: usize>(
    what: &'static str,
    bytes: &[u8],
) -> Result<(T, usize), CodecError> {
    let read = bincode::serde::decode_from_slice(bytes, bincode::config::standard().with_limit::<LIMIT>());
    read.map_err(|error| CodecError::Malformed {
        what,
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn values_read_back(value: (u64, Vec<String>, Option<i32>)) {
            prop_assert_eq!(decode("value", &encode(&value)), Ok(value));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = decode::<(u64, Vec<String>, Vec<u64>)>("value", &bytes);
        }
    }

    #[test]
    fn a_length_that_lies_allocates_nothing() {
        // A vector of 2^62 elements, in bincode's variable-length integers.
        let mut bytes = vec![253];
        bytes.extend_from_slice(&(1u64 << 62).to_le_bytes());
        let error = decode::<Vec<u64>>("list", &bytes).unwrap_err();
        assert!(matches!(error, CodecError::Malformed { what: "list", .. }), "{error}");
    }

    #[test]
    fn the_length_of_a_text_gets_no_memory_that_its_bytes_are_too_few_for() {
        let text = |claimed: u32, bytes: usize| [&[252][..], &claimed.to_le_bytes(), &vec![b'a'; bytes]].concat();
        for (claimed, bytes) in [(1 << 20, 60), (8 << 20, 60_000)] {
            let error = decode::<String>("text", &text(claimed, bytes)).unwrap_err().to_string();
            assert!(error.contains("LimitExceeded"), "{error}");
        }
        // What can be written can be read, at each of the limits, whatever is counted for it.
        for count in [SHORT - 2, SHORT, MIDDLING - 3, MIDDLING, (1 << 20) - 1] {
            let numbers = vec![0u128; count];
            assert_eq!(
                decode::<Vec<u128>>("numbers", &encode(&numbers)),
                Ok(numbers),
                "{count}"
            );
        }
    }

    #[test]
    fn what_a_type_says_of_a_value_is_told_as_it_is() {
        let error = decode::<crate::cluster::NodeName>("node", &encode(&"a b")).unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("node: expected a name of 1 to") && text.ends_with("found \"a b\""),
            "{text}"
        );
    }

    #[test]
    fn the_first_of_several_values_says_where_the_next_begins() {
        let mut bytes = encode(&700u64);
        bytes.extend(encode(&String::from("more")));
        assert_eq!(decode_first::<u64, 64>("number", &bytes), Ok((700, 3)));
        assert_eq!(decode_first::<String, 64>("text", &bytes[3..]), Ok(("more".into(), 5)));
        assert!(decode_first::<String, 4>("text", &bytes[3..]).is_err());
    }

    #[test]
    fn what_follows_a_value_is_refused() {
        let mut bytes = encode(&7u8);
        bytes.push(0);
        assert_eq!(
            decode::<u8>("number", &bytes),
            Err(CodecError::Trailing {
                what: "number",
                extra: 1
            })
        );
    }
}
