//! The kinds of values that a key can hold: each turns a value of the tree into a typed one, or says what it expected.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::diagnostics::{Origin, Problem, nearest, quoted};
use super::tree::{Node, Value};
use super::units::{ByteSize, InvalidQuantity, LONGEST_TIME_SPAN, TimeSpan};

/// Why a value was not taken.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) problem: Problem,
    /// The element of a list that it was, when it was not the whole value.
    pub(crate) within: Option<Origin>,
}

impl Refused {
    fn new(expected: impl Into<String>, value: &Value) -> Self {
        Problem::value(expected, value.found()).into()
    }
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self { problem, within: None }
    }
}

/// Reads a node. What the environment gave is tried as TOML first (`5`, `["a", "b"]`), then as text, so that
/// `GRID__NODE__NAME=5` is a name.
pub(crate) fn decode<T>(node: &Node, kind: &impl Fn(&Value) -> Result<T, Refused>) -> Result<T, Refused> {
    kind(&node.value).or_else(|refused| match (&node.text, &node.value) {
        (Some(_), Value::Text(_)) | (None, _) => Err(refused),
        (Some(text), _) => kind(&Value::Text(text.clone())).map_err(|_| refused),
    })
}

/// Any text but the empty one.
pub(crate) fn text(value: &Value) -> Result<String, Refused> {
    match value {
        Value::Text(text) if !text.trim().is_empty() => Ok(text.clone()),
        _ => Err(Refused::new("a text that is not empty", value)),
    }
}

/// A path of the file system.
pub(crate) fn path(value: &Value) -> Result<PathBuf, Refused> {
    match value {
        Value::Text(text) if !text.is_empty() && !text.contains('\0') => Ok(text.into()),
        _ => Err(Refused::new("a path", value)),
    }
}

/// A whole number in a range.
pub(crate) fn whole<T>(range: RangeInclusive<T>) -> impl Fn(&Value) -> Result<T, Refused>
where
    T: TryFrom<i128> + PartialOrd + Display,
{
    move |value| {
        match value {
            Value::Integer {
                value: Some(integer), ..
            } => T::try_from(*integer).ok().filter(|integer| range.contains(integer)),
            _ => None,
        }
        .ok_or_else(|| {
            Refused::new(
                format!("a whole number from {} to {}", range.start(), range.end()),
                value,
            )
        })
    }
}

/// Any number, whole or not; infinities are numbers, NaN is none.
pub(crate) fn number(value: &Value) -> Result<f64, Refused> {
    match value {
        // A number past 2⁵³ is rounded: it is an initial value of tensors, mostly of floating point.
        Value::Integer {
            value: Some(integer), ..
        } => Ok(*integer as f64),
        Value::Number(number) if !number.is_nan() => Ok(*number),
        _ => Err(Refused::new("a number", value)),
    }
}

/// A size of at least `least` bytes.
pub(crate) fn size(least: u64) -> impl Fn(&Value) -> Result<u64, Refused> {
    move |value| {
        let ByteSize(bytes) = quantity(value, InvalidQuantity::NoSize)?;
        if bytes < least {
            return Err(Refused::new(format!("a size of at least {}", ByteSize(least)), value));
        }
        Ok(bytes)
    }
}

/// A time span of at least `least`.
pub(crate) fn time_span(least: Duration) -> impl Fn(&Value) -> Result<Duration, Refused> {
    time_span_in(least..=LONGEST_TIME_SPAN)
}

/// A time span in a range.
pub(crate) fn time_span_in(range: RangeInclusive<Duration>) -> impl Fn(&Value) -> Result<Duration, Refused> {
    move |value| {
        let TimeSpan(span) = quantity(value, InvalidQuantity::NoTimeSpan)?;
        if span < *range.start() {
            return Err(Refused::new(
                format!("a duration of at least {}", TimeSpan(*range.start())),
                value,
            ));
        }
        if span > *range.end() {
            return Err(Refused::new(
                format!("a duration of at most {}", TimeSpan(*range.end())),
                value,
            ));
        }
        Ok(span)
    }
}

fn quantity<T: FromStr<Err = InvalidQuantity>>(value: &Value, otherwise: InvalidQuantity) -> Result<T, Refused> {
    match value {
        Value::Text(text) => text
            .parse()
            .map_err(|error: InvalidQuantity| Refused::new(error.to_string(), value)),
        _ => Err(Refused::new(otherwise.to_string(), value)),
    }
}

/// Text that a type reads itself.
pub(crate) fn parsed<T: FromStr>(expected: &str) -> impl Fn(&Value) -> Result<T, Refused> {
    move |value| match value {
        Value::Text(text) => text.parse().map_err(|_| Refused::new(expected, value)),
        _ => Err(Refused::new(expected, value)),
    }
}

/// One of some words.
pub(crate) fn word<T: Clone>(words: &[(&'static str, T)]) -> impl Fn(&Value) -> Result<T, Refused> {
    move |value| {
        let names = || words.iter().map(|(name, _)| *name);
        let Value::Text(text) = value else {
            return Err(Refused::new(one_of(names()), value));
        };
        match words.iter().find(|(name, _)| name == text) {
            Some((_, meaning)) => Ok(meaning.clone()),
            None => Err(Refused::from(Problem::Value {
                expected: one_of(names()),
                found: quoted(text),
                nearest: nearest(text, names()).map(str::to_owned),
            })),
        }
    }
}

/// `"a" or "b"`, for "expected …".
pub(crate) fn one_of<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<_> = names.map(|name| format!("{name:?}")).collect();
    match &names[..] {
        [only] => only.clone(),
        [a, b] => format!("{a} or {b}"),
        _ => format!("one of {}", names.join(", ")),
    }
}

/// A list, each of whose elements is of one kind.
pub(crate) fn list<T>(
    expected: &str,
    kind: impl Fn(&Value) -> Result<T, Refused>,
) -> impl Fn(&Value) -> Result<Vec<T>, Refused> {
    move |value| {
        let Value::List(elements) = value else {
            return Err(Refused::new(expected, value));
        };
        let decode_element = |element: &Node| {
            decode(element, &kind).map_err(|refused| Refused {
                within: refused.within.or_else(|| Some(element.origin.clone())),
                ..refused
            })
        };
        elements.iter().map(decode_element).collect()
    }
}
