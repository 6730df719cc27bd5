//! What proves that a reader is the one that started a sequence.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// 128 bits that nobody can guess; the caller draws them. Written as 32 hexadecimal digits.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Token(u128);

/// What does not read as a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a token of 32 hexadecimal digits")]
pub struct InvalidToken;

impl Token {
    /// The token of these random bits.
    pub fn new(random: u128) -> Self {
        Self(random)
    }
}

impl PartialEq for Token {
    /// In a time that does not tell how much of it was right.
    fn eq(&self, other: &Self) -> bool {
        std::hint::black_box(self.0 ^ other.0) == 0
    }
}

impl Eq for Token {}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// It is a secret: logs do not show it.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl FromStr for Token {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hex {
            return Err(InvalidToken);
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| InvalidToken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_as_it_was_written() {
        let token = Token::new(7);
        assert_eq!(token.to_string().parse(), Ok(token));
        assert_ne!(Token::new(8), token);
        for wrong in [
            "",
            "7",
            "+0000000000000000000000000000007",
            &"f".repeat(33),
            &"g".repeat(32),
        ] {
            assert_eq!(wrong.parse::<Token>(), Err(InvalidToken), "{wrong}");
        }
        assert!(!format!("{token:?}").contains('7'));
    }
}
