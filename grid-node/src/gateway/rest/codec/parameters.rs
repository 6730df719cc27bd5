//! The `parameters` of a request.

use std::time::Duration;

use grid_core::sequence::{SequenceId, Token};

use super::cursor::{Cursor, Fault, Kind};

/// The parameters of a request that mean something here; the protocol lets any other be sent, and they are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// `timeout`: the time that the client gives the request, sent in microseconds.
    pub timeout: Option<Duration>,
    /// `priority`: lower is served first, zero being the model's default.
    pub priority: Option<u32>,
    /// `binary_data_output`: outputs in the binary form unless they say otherwise.
    pub binary_data_output: bool,
    /// `sequence_id`: the sequence that the request belongs to. Zero and the empty text are none.
    pub sequence_id: Option<SequenceId>,
    /// `sequence_start`: the first request of its sequence.
    pub sequence_start: bool,
    /// `sequence_end`: the last request of its sequence.
    pub sequence_end: bool,
    /// `sequence_number`: its number in the sequence, from 1 up. Without it, it is the next one.
    pub sequence_number: Option<u64>,
    /// `sequence_token`: what was given at the start of a sequence; needed for one that was started with the wish for it.
    pub sequence_token: Option<Token>,
}

/// Reads a value that `pick` knows how to take.
pub(super) fn typed<'a, T>(
    cursor: &mut Cursor<'a>,
    key: &str,
    expected: &str,
    pick: impl FnOnce(Kind<'a>) -> Option<T>,
) -> Result<T, Fault> {
    let value = cursor.value()?;
    let text = value.text;
    pick(value.kind).ok_or_else(|| Fault::unexpected(format_args!("`{key}`"), expected, text))
}

/// Reads `true` or `false`.
pub(super) fn flag(cursor: &mut Cursor<'_>, key: &str) -> Result<bool, Fault> {
    typed(cursor, key, "true or false", |kind| match kind {
        Kind::Flag(flag) => Some(flag),
        _ => None,
    })
}

/// Reads a number of bytes, or of classes.
pub(super) fn size(cursor: &mut Cursor<'_>, key: &str) -> Result<usize, Fault> {
    typed(cursor, key, "a whole number from 0 up", |kind| match kind {
        Kind::Number(number) => usize::try_from(number.to_u64()?).ok(),
        _ => None,
    })
}

/// Puts the value of a key into its slot, once.
pub(super) fn fill<T>(slot: &mut Option<T>, key: &str, value: T) -> Result<(), Fault> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Fault::doubled(key)),
    }
}

fn timeout(kind: Kind<'_>) -> Option<Duration> {
    let micros = match kind {
        Kind::Number(number) => number.to_u64()?,
        // `parse` would take a sign.
        Kind::Text(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok()?,
        _ => return None,
    };
    (micros > 0).then(|| Duration::from_micros(micros))
}

fn priority(kind: Kind<'_>) -> Option<u32> {
    match kind {
        Kind::Number(number) => u32::try_from(number.to_u64()?).ok(),
        _ => None,
    }
}

/// The outer `None` is a value of another type, the inner one no sequence.
pub(super) fn sequence_id(kind: Kind<'_>) -> Option<Option<SequenceId>> {
    Some(match kind {
        Kind::Number(number) => Some(number.to_u64()?).filter(|&id| id != 0).map(SequenceId::from),
        Kind::Text(text) if text.is_empty() || text == "0" => None,
        Kind::Text(text) => Some(text.parse().ok()?),
        _ => return None,
    })
}

pub(super) fn number(kind: Kind<'_>) -> Option<u64> {
    match kind {
        Kind::Number(number) => number.to_u64().filter(|&number| number > 0),
        _ => None,
    }
}

pub(super) fn token(kind: Kind<'_>) -> Option<Token> {
    match kind {
        Kind::Text(text) => text.parse().ok(),
        _ => None,
    }
}

impl Parameters {
    /// Reads the object that begins here.
    pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Self, Fault> {
        let mut slots = Slots::default();
        cursor.object(|cursor, key| slots.member(cursor, key))?;
        Ok(Self {
            timeout: slots.timeout,
            priority: slots.priority,
            binary_data_output: slots.binary_data_output.unwrap_or(false),
            sequence_id: slots.sequence_id.flatten(),
            sequence_start: slots.sequence_start.unwrap_or(false),
            sequence_end: slots.sequence_end.unwrap_or(false),
            sequence_number: slots.sequence_number,
            sequence_token: slots.sequence_token,
        })
    }
}

/// The parameters while they are read: each filled at most once.
#[derive(Default)]
struct Slots {
    timeout: Option<Duration>,
    priority: Option<u32>,
    binary_data_output: Option<bool>,
    sequence_id: Option<Option<SequenceId>>,
    sequence_start: Option<bool>,
    sequence_end: Option<bool>,
    sequence_number: Option<u64>,
    sequence_token: Option<Token>,
}

impl Slots {
    fn member(&mut self, cursor: &mut Cursor<'_>, key: &str) -> Result<(), Fault> {
        match key {
            "timeout" => {
                let expected = "a whole number of microseconds from 1 up";
                fill(&mut self.timeout, key, typed(cursor, key, expected, timeout)?)
            }
            "priority" => {
                let expected = "a whole number from 0 to 4294967295";
                fill(&mut self.priority, key, typed(cursor, key, expected, priority)?)
            }
            "sequence_id" => {
                let expected = "a whole number from 0 up, or a string of at most 128 bytes without control characters";
                fill(&mut self.sequence_id, key, typed(cursor, key, expected, sequence_id)?)
            }
            "sequence_number" => {
                let expected = "a whole number from 1 up";
                fill(&mut self.sequence_number, key, typed(cursor, key, expected, number)?)
            }
            "sequence_token" => {
                let expected = "the 32 hexadecimal digits that were given at the start";
                fill(&mut self.sequence_token, key, typed(cursor, key, expected, token)?)
            }
            "binary_data_output" => fill(&mut self.binary_data_output, key, flag(cursor, key)?),
            "sequence_start" => fill(&mut self.sequence_start, key, flag(cursor, key)?),
            "sequence_end" => fill(&mut self.sequence_end, key, flag(cursor, key)?),
            _ => cursor.skip(),
        }
    }
}
