//! What is wrong with a config or a manifest, where, and what was expected instead.

use std::fmt;

/// Where a value came from. Ordered as problems are reported: by line, then what the environment brought.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// The file as a whole, where no line can be named (something is missing, say).
    #[default]
    File,
    /// A line of the file, from 1 up.
    Line(usize),
    /// An environment variable, by its name.
    Environment(String),
}

impl Origin {
    /// The place as errors name it: `grid.toml:5`.
    pub fn within(&self, file: &str) -> String {
        match self {
            Self::File => file.to_owned(),
            Self::Line(line) => format!("{file}:{line}"),
            Self::Environment(variable) => format!("environment variable {variable}"),
        }
    }
}

/// One problem, in one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file, as it was named to the parser.
    pub file: String,
    /// The line of the file, or the environment variable.
    pub origin: Origin,
    /// Path of the key: `http.listen`, `state[0].input`. Empty where the problem has no key (bad TOML).
    pub key: String,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with a key or its value. Texts are ready to be shown: strings quoted, long ones cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The text is not TOML, so that nothing in it could be read.
    Syntax(String),
    /// No such key.
    UnknownKey {
        /// The keys that there are.
        expected: Vec<String>,
        /// The key (or the environment variable) that was probably meant.
        nearest: Option<String>,
    },
    /// The value is of another type, out of its range, or contradicts another.
    Value {
        /// What would be right.
        expected: String,
        /// What is there.
        found: String,
        /// The word that was probably meant.
        nearest: Option<String>,
    },
    /// A known word whose meaning this version does not have yet.
    Unsupported {
        /// The value.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// A key that must be there is not.
    Missing {
        /// What it should hold.
        expected: String,
    },
}

impl Problem {
    /// A value that is not what was expected.
    pub(crate) fn value(expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::Value {
            expected: expected.into(),
            found: found.into(),
            nearest: None,
        }
    }
}

impl Diagnostic {
    /// The line in the file, from 1 up, if the problem has one.
    pub fn line(&self) -> Option<usize> {
        match self.origin {
            Origin::Line(line) => Some(line),
            Origin::File | Origin::Environment(_) => None,
        }
    }

    /// What was found, if it is a value.
    pub fn found(&self) -> Option<&str> {
        match &self.problem {
            Problem::Value { found, .. } | Problem::Unsupported { found, .. } => Some(found),
            Problem::Syntax(_) | Problem::UnknownKey { .. } | Problem::Missing { .. } => None,
        }
    }

    /// The known key or word nearest to what was found, if one is near.
    pub fn nearest(&self) -> Option<&str> {
        match &self.problem {
            Problem::UnknownKey { nearest, .. } | Problem::Value { nearest, .. } => nearest.as_deref(),
            Problem::Syntax(_) | Problem::Unsupported { .. } | Problem::Missing { .. } => None,
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin.within(&self.file))?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}", self.problem)
    }
}

impl std::error::Error for Diagnostic {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(message) => write!(f, "not valid TOML: {message}"),
            Self::UnknownKey { expected, nearest } => {
                f.write_str("unknown key")?;
                if !expected.is_empty() {
                    write!(f, "; expected {}", one_of(expected))?;
                }
                did_you_mean(f, nearest.as_deref())
            }
            Self::Value {
                expected,
                found,
                nearest,
            } => {
                write!(f, "expected {expected}, found {found}")?;
                did_you_mean(f, nearest.as_deref())
            }
            Self::Unsupported { found, expected } => {
                write!(f, "{found} is not supported by this version; expected {expected}")
            }
            Self::Missing { expected } => write!(f, "missing; expected {expected}"),
        }
    }
}

fn did_you_mean(f: &mut fmt::Formatter<'_>, nearest: Option<&str>) -> fmt::Result {
    match nearest {
        Some(nearest) => write!(f, "; did you mean `{nearest}`?"),
        None => Ok(()),
    }
}

fn one_of(keys: &[String]) -> String {
    let quoted: Vec<_> = keys.iter().map(|key| format!("`{key}`")).collect();
    match &quoted[..] {
        [only] => only.clone(),
        _ => format!("one of {}", quoted.join(", ")),
    }
}

/// Words longer than this are not compared, since the time to compare grows with the square of the length.
const LONGEST_COMPARED: usize = 64;

/// The candidate that `word` was probably meant to be: at most a third of its letters changed, added, dropped or
/// swapped, and at least one such mistake always allowed.
pub fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    if word.len() > LONGEST_COMPARED {
        return None;
    }
    let word = word.to_ascii_lowercase();
    let allowed = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&word, &candidate.to_ascii_lowercase()),
                candidate,
            )
        })
        .filter(|(distance, candidate)| *distance <= allowed && *distance < candidate.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Longest piece of a file that an error repeats.
const LONGEST_QUOTE: usize = 60;

/// `text` in quotes on one line, cut if it is long, so that no file can flood a log or break its lines.
pub(crate) fn quoted(text: &str) -> String {
    match text.char_indices().nth(LONGEST_QUOTE) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", &text[..end]),
    }
}

/// `key` as a file writes it: bare, or in quotes where it must.
pub(crate) fn written_key(key: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if !key.is_empty() && key.len() <= LONGEST_QUOTE && key.bytes().all(bare) {
        key.to_owned()
    } else {
        quoted(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_finds_the_key_and_another_word_does_not() {
        let keys = ["listen", "workers", "max_body"];
        assert_eq!(nearest("listne", keys), Some("listen"));
        assert_eq!(nearest("Listen", keys), Some("listen"));
        assert_eq!(nearest("worker", keys), Some("workers"));
        assert_eq!(nearest("maxbody", keys), Some("max_body"));
        assert_eq!(nearest("timeout", keys), None);
        assert_eq!(
            nearest("x", ["y"]),
            None,
            "a key of one letter is not one letter away from all others"
        );
        assert_eq!(nearest(&"l".repeat(1 << 20), keys), None);
    }

    #[test]
    fn a_quote_stays_on_its_line_and_short() {
        assert_eq!(quoted("a\nb"), r#""a\nb""#);
        assert!(quoted(&"ä".repeat(10_000)).chars().count() < 70);
        assert_eq!(written_key("max_body"), "max_body");
        assert_eq!(written_key("a.b"), r#""a.b""#);
        assert_eq!(written_key(""), r#""""#);
    }
}
