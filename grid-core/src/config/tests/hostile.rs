//! Nothing that a file or the environment holds can make the parser panic.

use proptest::prelude::*;

use crate::config::parse;

/// Text that looks enough like a config to get past the first token.
fn config_like() -> impl Strategy<Value = String> {
    let line = "(\\[{1,2}(http|models|limits|x)(\\.y)?\\]{1,2}|(http\\.)?(listen|repository|queue|timeout|load|name) = \
                (-?[0-9]{1,40}|\"\\PC{0,12}\"|\\[\"a\", 1, \\{ b = 2 \\}\\]|nan|-inf|1e400|true|1979-05-27|\\{ a = 1 \\})|\\PC{0,20})";
    proptest::collection::vec(line, 0..8).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic_and_no_refusal_is_empty(text in "\\PC{0,200}|(?s).{0,200}") {
        if let Err(problems) = parse("a.toml", &text, []) {
            prop_assert!(!problems.is_empty());
        }
    }

    #[test]
    fn nothing_that_looks_like_a_config_makes_the_parser_panic(text in config_like(), name in "GRID__(HTTP|MODELS)?_{0,3}\\PC{0,12}", value in "\\PC{0,20}") {
        let lines = text.lines().count().max(1);
        if let Err(problems) = parse("a.toml", &text, [(name, value)]) {
            prop_assert!(!problems.is_empty());
            for problem in problems {
                prop_assert!(problem.line().is_none_or(|line| (1..=lines + 1).contains(&line)));
                prop_assert!(!problem.to_string().contains('\n'), "{problem}");
            }
        }
        let _ = crate::model::manifest::Manifest::parse("model.toml", &text);
    }
}

#[test]
fn deep_nesting_exhausts_no_stack() {
    for text in [
        format!("a = {}", "[".repeat(100_000)),
        format!("{} = 1", vec!["a"; 100_000].join(".")),
        format!("[{}]", vec!["a"; 100_000].join(".")),
        "[a]\n".repeat(100_000),
    ] {
        assert!(parse("a.toml", &text, []).is_err());
    }
}
