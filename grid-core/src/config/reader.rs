//! Takes typed values out of a tree of TOML, noting every problem instead of stopping at the first.
//!
//! A [`Section`] knows which keys were asked for; when it is dropped, it reports those that nobody asked for. So the
//! keys that exist are exactly the keys that are read, and a section cannot forget to refuse the others.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::diagnostics::{Diagnostic, Origin, Problem, nearest, written_key};
use super::environment;
use super::kinds::{Refused, decode};
use super::tree::{Node, Table, Value};

/// Where each key of a file stands, for problems that are found only later (in the model file, say).
#[derive(Clone, Debug, Default)]
pub struct Places(BTreeMap<String, Origin>);

/// Always equal: where a key stands says nothing about what it says, and a comment line more must not make a manifest
/// another one.
impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Places {}

impl Places {
    /// The place of a key path, or of the nearest table around it that is known.
    pub fn origin(&self, key: &str) -> Origin {
        let parents = key
            .char_indices()
            .rev()
            .filter(|(_, c)| matches!(c, '.' | '['))
            .map(|(end, _)| &key[..end]);
        std::iter::once(key)
            .chain(parents)
            .find_map(|key| self.0.get(key))
            .cloned()
            .unwrap_or_default()
    }
}

/// Gathers what is wrong with one file.
pub(crate) struct Reader<'f> {
    file: &'f str,
    problems: RefCell<Vec<Diagnostic>>,
    places: RefCell<BTreeMap<String, Origin>>,
}

impl<'f> Reader<'f> {
    pub(crate) fn new(file: &'f str) -> Self {
        Self {
            file,
            problems: RefCell::default(),
            places: RefCell::default(),
        }
    }

    pub(crate) fn root(&self, table: Table) -> Section<'_> {
        Section {
            reader: self,
            path: String::new(),
            depth: 0,
            origin: Origin::File,
            entries: table,
            known: Vec::new(),
            broken: false,
        }
    }

    pub(crate) fn report(&self, origin: &Origin, key: &str, problem: Problem) {
        self.problems.borrow_mut().push(Diagnostic {
            file: self.file.to_owned(),
            origin: origin.clone(),
            key: key.to_owned(),
            problem,
        });
    }

    /// Where the keys stand, or all that is wrong, in the order of the file.
    pub(crate) fn finish(self) -> Result<Places, Vec<Diagnostic>> {
        let mut problems = self.problems.into_inner();
        problems.sort_by(|a, b| (&a.origin, &a.key).cmp(&(&b.origin, &b.key)));
        if problems.is_empty() {
            Ok(Places(self.places.into_inner()))
        } else {
            Err(problems)
        }
    }
}

/// One table, whose keys are taken out one by one.
pub(crate) struct Section<'r> {
    reader: &'r Reader<'r>,
    path: String,
    depth: usize,
    origin: Origin,
    entries: Table,
    known: Vec<&'static str>,
    /// Something else stands where this table should: that is reported, so its required keys are not missed as well.
    broken: bool,
}

impl<'r> Section<'r> {
    fn key_path(&self, key: &str) -> String {
        if self.path.is_empty() {
            written_key(key)
        } else {
            format!("{}.{}", self.path, written_key(key))
        }
    }

    fn take(&mut self, key: &'static str) -> Option<Node> {
        self.known.push(key);
        let node = self.entries.remove(key)?;
        self.reader
            .places
            .borrow_mut()
            .insert(self.key_path(key), node.origin.clone());
        Some(node)
    }

    /// The value of `key`; `None` if it is not there, or wrong and reported.
    pub(crate) fn read<T>(&mut self, key: &'static str, kind: impl Fn(&Value) -> Result<T, Refused>) -> Option<T> {
        let node = self.take(key)?;
        match decode(&node, &kind) {
            Ok(value) => Some(value),
            Err(Refused { problem, within }) => {
                self.reader
                    .report(&within.unwrap_or(node.origin), &self.key_path(key), problem);
                None
            }
        }
    }

    /// As [`read`](Self::read); if the key is not there, that is reported too.
    pub(crate) fn require<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        kind: impl Fn(&Value) -> Result<T, Refused>,
    ) -> Option<T> {
        if !self.has(key) {
            self.known.push(key);
            if self.broken {
                return None;
            }
            let expected = expected.to_owned();
            self.reader
                .report(&self.origin, &self.key_path(key), Problem::Missing { expected });
            return None;
        }
        self.read(key, kind)
    }

    /// Reports a value that was read but contradicts another.
    pub(crate) fn refuse(&self, key: &str, problem: Problem) {
        let path = self.key_path(key);
        let origin = self.reader.places.borrow().get(&path).unwrap_or(&self.origin).clone();
        self.reader.report(&origin, &path, problem);
    }

    /// Whether the file has `key` and nobody took it yet.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Whether something wrong was found under `key`, so that what was taken instead is only a default.
    pub(crate) fn was_refused(&self, key: &str) -> bool {
        let path = self.key_path(key);
        self.reader.problems.borrow().iter().any(|problem| problem.key == path)
    }

    /// The table under `key`; an empty one if there is none, or if it is no table, which is reported.
    pub(crate) fn section(&mut self, key: &'static str) -> Section<'r> {
        let node = self.take(key);
        let path = self.key_path(key);
        let (origin, entries) = match node {
            Some(Node {
                origin,
                value: Value::Table(entries),
                ..
            }) => (origin, entries),
            Some(Node { origin, value, .. }) => {
                let expected = format!("a table, written `[{path}]`");
                self.reader
                    .report(&origin, &path, Problem::value(expected, value.found()));
                let mut below = self.below(path, origin, Table::new());
                below.broken = true;
                return below;
            }
            None => (self.origin.clone(), Table::new()),
        };
        self.below(path, origin, entries)
    }

    /// The list of tables under `key`.
    pub(crate) fn sections(&mut self, key: &'static str) -> Vec<Section<'r>> {
        let path = self.key_path(key);
        let expected = || format!("tables, each written `[[{path}]]`");
        let Some(node) = self.take(key) else { return Vec::new() };
        let Value::List(elements) = node.value else {
            self.reader
                .report(&node.origin, &path, Problem::value(expected(), node.value.found()));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (index, Node { origin, value, .. }) in elements.into_iter().enumerate() {
            match value {
                Value::Table(entries) => {
                    let path = format!("{path}[{index}]");
                    self.reader.places.borrow_mut().insert(path.clone(), origin.clone());
                    sections.push(self.below(path, origin, entries));
                }
                other => self
                    .reader
                    .report(&origin, &path, Problem::value(expected(), other.found())),
            }
        }
        sections
    }

    fn below(&self, path: String, origin: Origin, entries: Table) -> Section<'r> {
        Section {
            reader: self.reader,
            path,
            depth: self.depth + 1,
            origin,
            entries,
            known: Vec::new(),
            broken: false,
        }
    }

    /// Takes every key that is left: for tables whose keys the file chooses.
    pub(crate) fn rest<T>(&mut self, kind: impl Fn(&Value) -> Result<T, Refused>) -> BTreeMap<String, T> {
        let mut values = BTreeMap::new();
        for (key, node) in std::mem::take(&mut self.entries) {
            let path = self.key_path(&key);
            match decode(&node, &kind) {
                Ok(value) => {
                    self.reader.places.borrow_mut().insert(path, node.origin);
                    values.insert(key, value);
                }
                Err(Refused { problem, within }) => {
                    self.reader.report(&within.unwrap_or(node.origin), &path, problem);
                }
            }
        }
        values
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        let expected: Vec<String> = self.known.iter().map(|key| (*key).to_owned()).collect();
        for (key, node) in std::mem::take(&mut self.entries) {
            let path = self.key_path(&key);
            let report = |origin: &Origin, nearest: Option<String>| {
                let expected = expected.clone();
                self.reader
                    .report(origin, &path, Problem::UnknownKey { expected, nearest });
            };
            let variables = environment::variables(&node);
            if variables.is_empty() {
                report(
                    &node.origin,
                    nearest(&key, self.known.iter().copied()).map(str::to_owned),
                );
            }
            for variable in variables {
                let meant = environment::nearest_variable(&variable, self.depth, &self.known);
                report(&Origin::Environment(variable), meant);
            }
        }
    }
}
