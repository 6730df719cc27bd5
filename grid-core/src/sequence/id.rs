//! The name of a sequence.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest name of a sequence in bytes.
pub const MAX_SEQUENCE_ID: usize = 128;

/// The name that a client gave its sequence, or the server for it: 1 to [`MAX_SEQUENCE_ID`] bytes of text without control
/// characters. A number is its decimal digits, so that it is the same sequence whichever way a client writes it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SequenceId(Arc<str>);

/// What is no name of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 1 to {MAX_SEQUENCE_ID} bytes of text without control characters")]
pub struct InvalidSequenceId;

impl SequenceId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SequenceId {
    type Err = InvalidSequenceId;

    fn from_str(text: &str) -> Result<Self, InvalidSequenceId> {
        if text.is_empty() || text.len() > MAX_SEQUENCE_ID || text.chars().any(char::is_control) {
            return Err(InvalidSequenceId);
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for SequenceId {
    type Error = InvalidSequenceId;

    fn try_from(text: String) -> Result<Self, InvalidSequenceId> {
        text.parse()
    }
}

impl From<SequenceId> for String {
    fn from(id: SequenceId) -> Self {
        id.as_str().to_owned()
    }
}

impl From<u64> for SequenceId {
    fn from(number: u64) -> Self {
        Self(number.to_string().into())
    }
}

impl Borrow<str> for SequenceId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SequenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SequenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}
