//! Walks over the text of a request once, from left to right.
//!
//! Why not serde: its visitors see values without their place in the text, its numbers are read as `f64` with an
//! error in the last place, and `data` would have to be walked twice, once to find its end and once to read it.

use std::borrow::Cow;
use std::fmt;

use super::number::{self, Number};

/// Deepest nesting that is walked over. The same as serde_json's, and far from the end of any stack.
const MAX_DEPTH: usize = 128;

/// Why reading stopped.
#[derive(Debug)]
pub(super) enum Fault {
    /// The text is not JSON, or not of the form that the protocol has here.
    Syntax {
        /// Where, in bytes from the start.
        at: usize,
        /// What could have stood there.
        expected: &'static str,
    },
    /// The text is JSON, but what it says is refused, for this reason.
    Refused(String),
}

impl Fault {
    /// `what` was expected to be something else than the JSON value `found`.
    pub(super) fn unexpected(what: impl fmt::Display, expected: &str, found: &str) -> Self {
        Self::Refused(format!("{what}: expected {expected}, found {}", Found(found)))
    }

    /// The key `what` came a second time.
    pub(super) fn doubled(what: &str) -> Self {
        Self::Refused(format!("`{what}`: given twice, expected once"))
    }
}

/// Text of a client in a message, between backticks and not longer than a message can bear.
pub(super) struct Found<'a>(pub(super) &'a str);

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 64;
        match self.0.char_indices().nth(LONGEST) {
            Some((end, _)) => write!(f, "`{}…`", self.0.get(..end).unwrap_or_default()),
            None => write!(f, "`{}`", self.0),
        }
    }
}

/// Any JSON value, with its text for messages. Arrays and objects are only walked over.
pub(super) struct Value<'a> {
    /// The value as it stands in the request.
    pub(super) text: &'a str,
    /// What it is.
    pub(super) kind: Kind<'a>,
}

/// What a JSON value is.
pub(super) enum Kind<'a> {
    Null,
    Flag(bool),
    Number(Number<'a>),
    Text(Cow<'a, str>),
    Array,
    Object,
}

/// A place in the text of a request.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    /// At the start of `text`.
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Bytes from the start of the text.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Goes to a position where the cursor has been.
    pub(super) fn jump(&mut self, position: usize) {
        self.at = position;
    }

    /// The bytes of the whole text, that positions count in.
    pub(super) fn bytes(&self) -> &'a [u8] {
        self.text.as_bytes()
    }

    /// Bytes to the end of the text.
    pub(super) fn remaining(&self) -> usize {
        self.text.len().saturating_sub(self.at)
    }

    /// The text from `start` to here.
    pub(super) fn since(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The fault that something else was expected here.
    pub(super) fn fault<T>(&self, expected: &'static str) -> Result<T, Fault> {
        Err(Fault::Syntax { at: self.at, expected })
    }

    /// A message for a [`Fault::Syntax`].
    pub(super) fn explain(text: &str, at: usize, expected: &str) -> String {
        let rest = text.get(at..).unwrap_or_default();
        let token = rest.split([',', ']', '}', ' ', '\t', '\r', '\n']).next();
        // A delimiter itself may be what is wrong.
        let found = match token {
            Some("") => rest.get(..1).unwrap_or_default(),
            token => token.unwrap_or_default(),
        };
        if found.is_empty() {
            format!("the request's JSON at byte {at}: expected {expected}, found its end")
        } else {
            format!(
                "the request's JSON at byte {at}: expected {expected}, found {}",
                Found(found)
            )
        }
    }

    /// The next byte that is not white space, left where it is.
    #[inline]
    pub(super) fn peek(&mut self) -> Option<u8> {
        loop {
            match self.byte() {
                Some(b' ' | b'\n' | b'\t' | b'\r') => self.at += 1,
                other => return other,
            }
        }
    }

    /// Steps over the next byte that is not white space if it is `wanted`.
    #[inline]
    pub(super) fn eat(&mut self, wanted: u8) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    /// Steps over a word such as `true`.
    pub(super) fn eat_word(&mut self, word: &str) -> bool {
        let found = self
            .text
            .as_bytes()
            .get(self.at..)
            .is_some_and(|rest| rest.starts_with(word.as_bytes()));
        self.at += if found { word.len() } else { 0 };
        found
    }

    /// A number, if there is one right here.
    #[inline]
    pub(super) fn number(&mut self) -> Result<Number<'a>, Fault> {
        match number::scan(self.text.as_bytes(), self.at) {
            Ok((number, end)) => {
                self.at = end;
                Ok(number)
            }
            Err(at) => {
                self.at = at;
                self.fault("a digit")
            }
        }
    }

    /// A string, borrowed unless it holds escapes.
    #[inline]
    pub(super) fn string(&mut self) -> Result<Cow<'a, str>, Fault> {
        let opening = self.at;
        if self.byte() != Some(b'"') {
            return self.fault("a string");
        }
        let mut escapes = false;
        self.at += 1;
        loop {
            let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
            let special = |byte: &u8| *byte == b'"' || *byte == b'\\' || *byte < 0x20;
            let Some(ordinary) = rest.iter().position(special) else {
                self.at = self.text.len();
                return self.fault("the end of a string");
            };
            self.at += ordinary;
            match self.byte() {
                Some(b'"') => break,
                Some(b'\\') => {
                    escapes = true;
                    self.at += 2;
                }
                _ => return self.fault("an escape in place of a control character"),
            }
        }
        let inner = self.since(opening + 1);
        self.at += 1;
        if !escapes {
            return Ok(Cow::Borrowed(inner));
        }
        match serde_json::from_str(self.since(opening)) {
            Ok(text) => Ok(Cow::Owned(text)),
            Err(_) => {
                self.at = opening;
                self.fault("a string with valid escapes")
            }
        }
    }

    /// Any value.
    pub(super) fn value(&mut self) -> Result<Value<'a>, Fault> {
        self.value_at(0)
    }

    fn value_at(&mut self, depth: usize) -> Result<Value<'a>, Fault> {
        if depth == MAX_DEPTH {
            return self.fault("no deeper nesting");
        }
        let first = self.peek();
        let start = self.at;
        let kind = match first {
            Some(b'"') => Kind::Text(self.string()?),
            Some(b'-' | b'0'..=b'9') => Kind::Number(self.number()?),
            Some(b'[') => {
                self.array(|cursor, _| cursor.value_at(depth + 1).map(drop))?;
                Kind::Array
            }
            Some(b'{') => {
                self.object(|cursor, _| cursor.value_at(depth + 1).map(drop))?;
                Kind::Object
            }
            _ if self.eat_word("true") => Kind::Flag(true),
            _ if self.eat_word("false") => Kind::Flag(false),
            _ if self.eat_word("null") => Kind::Null,
            _ => return self.fault("a value"),
        };
        Ok(Value {
            text: self.since(start),
            kind,
        })
    }

    /// Steps over a value of which only the form matters.
    pub(super) fn skip(&mut self) -> Result<(), Fault> {
        self.value().map(drop)
    }

    /// Steps over `null`, if that is what comes.
    pub(super) fn eat_null(&mut self) -> bool {
        self.peek() == Some(b'n') && self.eat_word("null")
    }

    /// An array; `element` reads each of its elements, given its index.
    pub(super) fn array(
        &mut self,
        mut element: impl FnMut(&mut Self, usize) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        if !self.eat(b'[') {
            return self.fault("an array");
        }
        if self.eat(b']') {
            return Ok(());
        }
        let mut index = 0;
        loop {
            element(self, index)?;
            index += 1;
            if self.eat(b',') {
                continue;
            }
            if self.eat(b']') {
                return Ok(());
            }
            return self.fault("`,` or `]`");
        }
    }

    /// An object; `member` reads the value of each of its keys.
    pub(super) fn object(&mut self, mut member: impl FnMut(&mut Self, &str) -> Result<(), Fault>) -> Result<(), Fault> {
        if !self.eat(b'{') {
            return self.fault("an object");
        }
        if self.eat(b'}') {
            return Ok(());
        }
        loop {
            if self.peek() != Some(b'"') {
                return self.fault("a key in quotes");
            }
            let key = self.string()?;
            if !self.eat(b':') {
                return self.fault("`:`");
            }
            self.peek();
            member(self, &key)?;
            if self.eat(b',') {
                continue;
            }
            if self.eat(b'}') {
                return Ok(());
            }
            return self.fault("`,` or `}`");
        }
    }

    /// Nothing but white space to the end.
    pub(super) fn end(&mut self) -> Result<(), Fault> {
        match self.peek() {
            None => Ok(()),
            Some(_) => self.fault("the end"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn accepts(text: &str) -> bool {
        let mut cursor = Cursor::new(text);
        cursor.skip().and_then(|()| cursor.end()).is_ok()
    }

    proptest! {
        #[test]
        fn what_is_json_is_what_serde_json_says(text in "([\\[\\]{},: \n\"]|\"[a\\\\nü]{0,2}\"|-?[0-9]{1,2}|[.e]|true|null|nan|\"k\":){0,12}") {
            prop_assert_eq!(accepts(&text), serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok());
        }

        #[test]
        fn strings_read_as_serde_json_reads_them(text: String, escape: bool) {
            let mut json = serde_json::to_string(&text).unwrap();
            if escape {
                json = json.replace('e', "\\u0065");
            }
            prop_assert_eq!(Cursor::new(&json).string().unwrap(), text);
        }
    }

    #[test]
    fn nesting_without_end_is_refused_and_not_followed() {
        for open in ["[", "{\"a\":"] {
            assert!(!accepts(&open.repeat(100_000)));
        }
        assert!(accepts(&format!("{}{}", "[".repeat(127), "]".repeat(127))));
    }

    #[test]
    fn strings_that_are_not_json_are_refused() {
        for bad in [
            "\"",
            "\"\\",
            "\"\\\"",
            "\"\\x\"",
            "\"\\ud800\"",
            "\"a\nb\"",
            "\"\u{0}\"",
        ] {
            assert!(!accepts(bad), "{bad:?}");
        }
    }
}
