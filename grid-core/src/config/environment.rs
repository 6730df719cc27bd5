//! Environment variables that override keys of the file: `GRID__HTTP__LISTEN` is `http.listen`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::diagnostics::{Origin, Problem, nearest, written_key};
use super::reader::Reader;
use super::tree::{Node, Table, Value, read_environment};

/// What the names of overriding variables begin with. Two underscores stand between the parts of a path, since keys
/// hold single ones.
pub const PREFIX: &str = "GRID__";

const SEPARATOR: &str = "__";

/// Parts of the longest path there is room for. No key is that deep; the bound keeps the tree from being.
const DEEPEST: usize = 8;

/// Puts the overrides among `variables` into `table`. Letter case is ignored; other variables too.
pub(super) fn overlay(table: &mut Table, variables: impl IntoIterator<Item = (String, String)>, reader: &Reader<'_>) {
    let mut given: BTreeMap<String, String> = BTreeMap::new();
    // In order of their names, so that the same environment gives the same problems.
    let variables: BTreeMap<_, _> = variables.into_iter().collect();
    for (variable, text) in &variables {
        let is_override = variable
            .get(..PREFIX.len())
            .is_some_and(|prefix| prefix.eq_ignore_ascii_case(PREFIX));
        if !is_override {
            continue;
        }
        let path = variable[PREFIX.len()..].to_ascii_lowercase();
        let parts: Vec<_> = path.split(SEPARATOR).collect();
        let key = parts.iter().map(|part| written_key(part)).collect::<Vec<_>>().join(".");
        let refuse = |problem| reader.report(&Origin::Environment(written_variable(variable)), &key, problem);
        if parts.len() > DEEPEST || parts.iter().any(|part| part.is_empty()) {
            refuse(Problem::value(
                "a name such as GRID__HTTP__LISTEN",
                format!("the name {}", written_variable(variable)),
            ));
            continue;
        }
        match given.entry(path.clone()) {
            Entry::Occupied(other) => {
                refuse(Problem::value(
                    "one variable for this key",
                    format!("{} as well", other.get()),
                ));
            }
            Entry::Vacant(vacant) => {
                vacant.insert(written_variable(variable));
                if let Err(problem) = insert(table, &parts, read_environment(&written_variable(variable), text)) {
                    refuse(problem);
                }
            }
        }
    }
}

fn insert(table: &mut Table, path: &[&str], node: Node) -> Result<(), Problem> {
    let [key, rest @ ..] = path else { return Ok(()) };
    if rest.is_empty() {
        table.insert((*key).to_owned(), node);
        return Ok(());
    }
    let below = table.entry((*key).to_owned()).or_insert_with(|| Node {
        origin: node.origin.clone(),
        value: Value::Table(Table::new()),
        text: None,
    });
    match &mut below.value {
        Value::Table(below) => insert(below, rest, node),
        other => Err(Problem::value(format!("`{key}` to be a table"), other.found())),
    }
}

fn written_variable(variable: &str) -> String {
    written_key(variable)
}

/// The variables at or below `node`: an unknown table that only the environment made is reported once for each.
pub(super) fn variables(node: &Node) -> Vec<String> {
    match (&node.value, &node.origin) {
        (Value::Table(table), Origin::Environment(_)) if node.text.is_none() => {
            table.values().flat_map(variables).collect()
        }
        (_, Origin::Environment(variable)) => vec![variable.clone()],
        _ => Vec::new(),
    }
}

/// The variable that was probably meant: `variable` with the part of its path at `depth` corrected.
pub(super) fn nearest_variable(variable: &str, depth: usize, known: &[&'static str]) -> Option<String> {
    let mut parts: Vec<_> = variable.split(SEPARATOR).map(str::to_owned).collect();
    let part = parts.get_mut(depth + 1)?;
    *part = nearest(part, known.iter().copied())?.to_ascii_uppercase();
    Some(parts.join(SEPARATOR))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use crate::config::{Diagnostic, NodeConfig, parse};

    const MINIMAL: &str = "[models]\nrepository = \"models\"\n";

    fn with_environment(text: &str, variables: &[(&str, &str)]) -> Result<NodeConfig, Vec<String>> {
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let shown = |problems: Vec<Diagnostic>| problems.iter().map(Diagnostic::to_string).collect();
        parse("a.toml", text, variables).map_err(shown)
    }

    #[test]
    fn the_environment_overrides_the_file_whatever_its_letter_case() {
        let variables = [
            ("GRID__HTTP__LISTEN", "0.0.0.0:1"),
            ("Grid__Http__Max_Connections", "12"),
            ("GRID__NODE__NAME", "5"),
            ("GRID__MODELS__REPOSITORY", "[\"x\", \"y\"]"),
            ("GRID__LIMITS__TIMEOUT", "2s"),
            ("GRID__HTTP__ADMIN_TOKEN", "1234567812345678"),
            ("GRID_HTTP_LISTEN", "of somebody else"),
            ("PATH", "/bin"),
        ];
        let config = with_environment("[http]\nlisten = 5", &variables).unwrap();
        assert_eq!(
            config.http.listen.to_string(),
            "0.0.0.0:1",
            "what is overridden need not be right"
        );
        assert_eq!(config.http.max_connections, 12);
        assert_eq!(config.node.name.as_str(), "5");
        assert_eq!(config.models.repositories, [PathBuf::from("x"), PathBuf::from("y")]);
        assert_eq!(config.limits.timeout, Duration::from_secs(2));
        assert!(config.http.admin_token.unwrap().matches(b"1234567812345678"));
    }

    #[test]
    fn a_wrong_override_is_refused_by_the_name_of_its_variable() {
        let wrong = |variables: &[_]| with_environment(MINIMAL, variables).unwrap_err();
        assert_eq!(
            wrong(&[("GRID__MEMORY__BUDGET", "4 potatoes")]),
            [
                "environment variable GRID__MEMORY__BUDGET: memory.budget: expected a size such as \"4GiB\", \
          found \"4 potatoes\""
            ]
        );
        assert_eq!(
            wrong(&[("GRID__HTTP__WORKERS", "5000")]),
            [
                "environment variable GRID__HTTP__WORKERS: http.workers: expected a whole number from 1 to 1024, \
          found the integer 5000"
            ]
        );
        assert_eq!(
            wrong(&[("GRID__MEMORY__BUDGTE", "4GiB")]),
            [
                "environment variable GRID__MEMORY__BUDGTE: memory.budgte: unknown key; expected `budget`; \
          did you mean `GRID__MEMORY__BUDGET`?"
            ]
        );
        let sections = wrong(&[("GRID__HTPT__LISTEN", "a"), ("GRID__HTPT__WORKERS", "b")]);
        assert_eq!(
            sections.len(),
            2,
            "each variable below an unknown section: {sections:?}"
        );
        assert!(
            sections[0].ends_with("did you mean `GRID__HTTP__LISTEN`?"),
            "{sections:?}"
        );
        assert!(
            sections[1].ends_with("did you mean `GRID__HTTP__WORKERS`?"),
            "{sections:?}"
        );
        assert_eq!(
            wrong(&[("GRID__HTTP____LISTEN", "a")]),
            [
                "environment variable GRID__HTTP____LISTEN: http.\"\".listen: expected a name such as GRID__HTTP__LISTEN, \
          found the name GRID__HTTP____LISTEN"
            ]
        );
        assert_eq!(
            wrong(&[("GRID__HTTP__LISTEN", "1.1.1.1:1"), ("grid__http__listen", "1.1.1.1:2")]),
            [
                "environment variable grid__http__listen: http.listen: expected one variable for this key, \
          found GRID__HTTP__LISTEN as well"
            ]
        );
        assert_eq!(
            wrong(&[("GRID__MODELS__REPOSITORY__X", "a")]),
            [
                "environment variable GRID__MODELS__REPOSITORY__X: models.repository.x: expected `repository` to be a table, \
          found \"models\""
            ]
        );
        assert_eq!(
            wrong(&[("GRID__HTTP", "a")]),
            ["environment variable GRID__HTTP: http: expected a table, written `[http]`, found \"a\""]
        );
    }

    #[test]
    fn a_value_is_toml_as_a_whole_or_plain_text() {
        for (value, name) in [
            ("a", Some("a")),
            ("\"a\"", Some("a")),
            ("1979-05-27", Some("1979-05-27")),
            ("\"a\" b", None),
        ] {
            let config = with_environment(MINIMAL, &[("GRID__NODE__NAME", value)]).ok();
            assert_eq!(config.as_ref().map(|config| config.node.name.as_str()), name, "{value}");
        }
    }

    #[test]
    fn deep_overrides_exhaust_no_stack() {
        let name = format!("GRID__{}", vec!["A"; 100_000].join("__"));
        assert!(with_environment(MINIMAL, &[(&name, "1")]).is_err());
        let value = "[".repeat(100_000);
        assert!(with_environment(MINIMAL, &[("GRID__HTTP__LISTEN", &value)]).is_err());
    }
}
