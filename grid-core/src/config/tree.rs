//! The values of a config file, each with the place that it came from.
//!
//! Not `toml::Value`, which has no places, and not serde, whose errors end at the first problem and know neither the
//! key path nor the range that a number should have been in. The same tree also takes what the environment overrides.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::{Diagnostic, Origin, Problem, quoted};

/// A value and its place.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) origin: Origin,
    pub(crate) value: Value,
    /// From the environment: the text as it stands, for a key that wants text where the value looks like a number.
    pub(crate) text: Option<String>,
}

/// A table's keys and values.
pub(crate) type Table = BTreeMap<String, Node>;

/// A value.
#[derive(Debug)]
pub(crate) enum Value {
    Text(String),
    /// `None` where it does not fit; `written` as the file has it.
    Integer {
        value: Option<i128>,
        written: String,
    },
    Number(f64),
    Boolean(bool),
    Date(String),
    List(Vec<Node>),
    Table(Table),
}

impl Value {
    /// What this is, for "found …".
    pub(crate) fn found(&self) -> String {
        match self {
            Self::Text(text) => quoted(text),
            Self::Integer { written, .. } if written.len() > 40 => "an integer of too many digits".to_owned(),
            Self::Integer { written, .. } => format!("the integer {written}"),
            Self::Number(number) => format!("the number {number}"),
            Self::Boolean(boolean) => format!("the boolean {boolean}"),
            Self::Date(date) => format!("the date {date}"),
            Self::List(list) if list.is_empty() => "an empty list".to_owned(),
            Self::List(_) => "a list".to_owned(),
            Self::Table(_) => "a table".to_owned(),
        }
    }
}

/// Largest file that is read. A config is a page; a file this large is another file named by mistake.
const LONGEST_FILE: usize = 1 << 20;

/// Reads TOML.
pub(crate) fn read(file: &str, text: &str) -> Result<Table, Vec<Diagnostic>> {
    let syntax = |origin: Origin, message: String| Diagnostic {
        file: file.to_owned(),
        origin,
        key: String::new(),
        problem: Problem::Syntax(message),
    };
    if text.len() > LONGEST_FILE {
        let message = format!("expected a file of at most {LONGEST_FILE} bytes, found {}", text.len());
        return Err(vec![syntax(Origin::File, message)]);
    }
    let lines = Lines::new(text);
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(convert_table(table.into_inner(), &|span| lines.origin(span)));
    }
    let mut problems: Vec<_> = errors
        .iter()
        .map(|error| {
            let origin = error.span().map_or(Origin::File, |span| lines.origin(span.start));
            syntax(origin, error.message().trim().replace('\n', "; "))
        })
        .collect();
    // One slip makes the parser stumble several times on its line; the first says it best.
    problems.sort_by(|a, b| a.origin.cmp(&b.origin));
    problems.dedup_by(|later, first| later.origin == first.origin);
    Err(problems)
}

/// Reads a TOML value that the environment gave, or takes it as text if it is none.
pub(crate) fn read_environment(variable: &str, text: &str) -> Node {
    let origin = Origin::Environment(variable.to_owned());
    let value = match DeValue::parse(text) {
        Ok(value) if text.len() <= LONGEST_FILE => convert(value.into_inner(), &|_| origin.clone()),
        Ok(_) | Err(_) => Value::Text(text.to_owned()),
    };
    Node {
        origin,
        value,
        text: Some(text.to_owned()),
    }
}

// The parser bounds how deep values and dotted keys can nest, so these two may recurse.

fn convert_table(table: DeTable<'_>, origin: &dyn Fn(usize) -> Origin) -> Table {
    table
        .into_iter()
        .map(|(key, value)| {
            let node = Node {
                origin: origin(key.span().start),
                value: convert(value.into_inner(), origin),
                text: None,
            };
            (key.into_inner().into_owned(), node)
        })
        .collect()
}

fn convert(value: DeValue<'_>, origin: &dyn Fn(usize) -> Origin) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(integer) => Value::Integer {
            value: i128::from_str_radix(integer.as_str(), integer.radix()).ok(),
            written: integer.to_string(),
        },
        DeValue::Float(float) => Value::Number(float.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(boolean) => Value::Boolean(boolean),
        DeValue::Datetime(date) => Value::Date(date.to_string()),
        DeValue::Array(array) => Value::List(
            array
                .into_iter()
                .map(|element: Spanned<DeValue<'_>>| Node {
                    origin: origin(element.span().start),
                    value: convert(element.into_inner(), origin),
                    text: None,
                })
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(convert_table(table, origin)),
    }
}

/// Where the lines of a text begin.
struct Lines(Vec<usize>);

impl Lines {
    fn new(text: &str) -> Self {
        Self(text.match_indices('\n').map(|(newline, _)| newline + 1).collect())
    }

    fn origin(&self, byte: usize) -> Origin {
        Origin::Line(self.0.partition_point(|start| *start <= byte) + 1)
    }
}
