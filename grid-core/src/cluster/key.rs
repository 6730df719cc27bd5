//! The secret that the nodes of a grid share.

use std::fmt;
use std::str::FromStr;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The secret of a grid: whoever holds it may join and may do anything. Written as 64 hexadecimal digits.
///
/// It is used for nothing itself: each protocol has a key of its own derived from it, so that nothing sealed for one can
/// be passed off as sealed for the other.
#[derive(Clone)]
pub struct ClusterKey([u8; 32]);

/// Text that is not a cluster key. It does not show the text, which may be most of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a cluster key of 64 hexadecimal digits, such as `grid-node key` prints, found {length} bytes{}",
    if *.length == 64 { ", not all of them such digits" } else { "" })]
pub struct InvalidKey {
    /// How long the text is.
    pub length: usize,
}

impl ClusterKey {
    /// The key of these bytes, which should come from a source of randomness.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// What seals gossip datagrams.
    pub fn gossip(&self) -> [u8; 32] {
        self.derive(b"grid gossip 1")
    }

    /// What nodes prove to each other on the mesh.
    pub fn mesh(&self) -> [u8; 32] {
        self.derive(b"grid mesh 1")
    }

    fn derive(&self, label: &[u8]) -> [u8; 32] {
        let keyed = Hmac::<Sha256>::new_from_slice(&self.0);
        let mut mac = keyed.expect("HMAC takes keys of every length");
        mac.update(label);
        mac.finalize().into_bytes().into()
    }
}

/// It is a secret: logs do not show it.
impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(…)")
    }
}

impl FromStr for ClusterKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let invalid = InvalidKey { length: text.len() };
        if text.len() != 64 {
            return Err(invalid);
        }
        let value = |digit: u8| {
            char::from(digit)
                .to_digit(16)
                .and_then(|value| u8::try_from(value).ok())
        };
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let (high, low) = (value(pair[0]).ok_or(invalid)?, value(pair[1]).ok_or(invalid)?);
            *byte = high << 4 | low;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_from_its_digits_and_is_never_shown() {
        let key: ClusterKey = "0aF0".repeat(16).parse().unwrap();
        assert_eq!(key.0[..2], [0x0a, 0xf0]);
        assert_eq!(format!("{key:?}"), "ClusterKey(…)");
    }

    #[test]
    fn what_is_no_key_is_told_without_showing_it() {
        let error = "0af".parse::<ClusterKey>().unwrap_err().to_string();
        assert!(error.ends_with("found 3 bytes"), "{error}");
        let error = "xy".repeat(32).parse::<ClusterKey>().unwrap_err().to_string();
        assert!(
            error.ends_with("found 64 bytes, not all of them such digits"),
            "{error}"
        );
        assert!("ä".repeat(32).parse::<ClusterKey>().is_err());
    }

    #[test]
    fn the_keys_of_the_protocols_differ() {
        let key = ClusterKey::from_bytes([7; 32]);
        assert_ne!(key.gossip(), key.mesh());
        assert_ne!(key.gossip(), [7; 32]);
    }
}
