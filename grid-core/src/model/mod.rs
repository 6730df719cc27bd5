//! Models: their names, versions and signatures.

pub mod made_up;
pub mod manifest;
mod signature;
mod stacking;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use signature::{Dim, InputError, Signature, TensorSpec};
pub use stacking::{NotStackable, StackAxes, StackKey, UnevenRows};

/// A version of a model: a whole number from 1 up, the name of its folder in the repository.
pub type Version = u64;

/// A model's name: 1 to 128 of ASCII letters, digits, `.`, `_`, `-`, not beginning with a dot.
///
/// The alphabet keeps a name usable as a folder, a URL segment and a metric label without escaping.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelName(Arc<str>);

/// Longest model name in bytes.
pub const MAX_MODEL_NAME: usize = 128;

impl ModelName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for ModelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// Text that is not a model name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a model name of 1 to {MAX_MODEL_NAME} letters, digits, '.', '_' or '-', not beginning with '.', found {0:?}"
)]
pub struct InvalidModelName(String);

impl FromStr for ModelName {
    type Err = InvalidModelName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        if is_name(name, MAX_MODEL_NAME) {
            Ok(Self(name.into()))
        } else {
            Err(InvalidModelName(name.chars().take(MAX_MODEL_NAME).collect()))
        }
    }
}

impl TryFrom<String> for ModelName {
    type Error = InvalidModelName;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        name.parse()
    }
}

impl From<ModelName> for String {
    fn from(name: ModelName) -> Self {
        name.as_str().to_owned()
    }
}

/// Whether a text is a name of at most `longest` bytes, of the alphabet that all names of the grid have.
pub(crate) fn is_name(text: &str, longest: usize) -> bool {
    let alphabet = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !text.is_empty() && text.len() <= longest && !text.starts_with('.') && text.bytes().all(alphabet)
}

/// One version of one model.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ModelId {
    /// The model.
    pub name: ModelName,
    /// Its version.
    pub version: Version,
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} version {}", self.name, self.version)
    }
}

/// How many replicas a model has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ReplicaCount {
    /// This many, each on another node; as many as there are nodes, where these are fewer.
    Exactly(u32),
    /// One on every node.
    EveryNode,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_a_folder_or_break_a_label_are_refused() {
        for bad in ["", ".", "..", ".hidden", "a/b", "a b", "a\"", "ä", &"x".repeat(129)] {
            assert!(bad.parse::<ModelName>().is_err(), "{bad:?}");
        }
        for good in ["a", "credit_risk", "minilm-int8.v2", &"x".repeat(128)] {
            assert!(good.parse::<ModelName>().is_ok(), "{good:?}");
        }
    }
}
