//! What is wrong before a node serves: told by file, line, key and what was expected, with an exit code for scripts.

use std::fs;
use std::net::TcpListener;

use grid_tests::process::{Finished, NodeCommand};
use tempfile::TempDir;

use super::{BINARY, copy_of, models, without_onnxruntime};

/// Exit code of what is wrong in a config or a repository.
const INVALID: i32 = 2;

#[track_caller]
fn must_end(finished: &Finished, code: i32, words: &[&str]) {
    assert_eq!(finished.status.code(), Some(code), "{finished:?}");
    for word in words {
        assert!(finished.error.contains(word), "no {word:?} in:\n{}", finished.error);
    }
}

/// Both ways to read a config refuse it alike.
#[track_caller]
fn must_be_invalid(command: impl Fn() -> NodeCommand, words: &[&str]) {
    for subcommand in ["run", "check"] {
        let finished = command().finish(subcommand).expect("it ends");
        must_end(&finished, INVALID, words);
        assert!(!finished.out.contains("listening"), "{finished:?}");
    }
}

#[test]
fn a_port_that_is_taken_is_told_with_its_key_and_a_way_out() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("its address").to_string();
    let command = without_onnxruntime(&models(), "").env("GRID__HTTP__LISTEN", &address);
    let finished = command.finish("run").expect("it ends");
    must_end(
        &finished,
        1,
        &[
            "environment variable GRID__HTTP__LISTEN: http.listen",
            &address,
            "choose another port",
        ],
    );
    let text = format!("\nhttp.listen = '{address}'");
    let command = without_onnxruntime(&models(), &text).env_remove("GRID__HTTP__LISTEN");
    let finished = command.finish("run").expect("it ends");
    must_end(&finished, 1, &["grid.toml:3: http.listen", &address]);
}

#[test]
fn a_log_level_that_is_none_is_told_with_its_line() {
    let command = without_onnxruntime(&models(), "log.level = 'grid_node=lots'").env_remove("GRID__LOG__LEVEL");
    let finished = command.finish("run").expect("it ends");
    must_end(&finished, INVALID, &["grid.toml:2: log.level", "grid_node=lots"]);
}

#[test]
fn a_config_that_cannot_be_read_is_told_by_its_path() {
    let folder = TempDir::new().expect("a temporary directory");
    let missing = folder.path().join("missing.toml");
    must_be_invalid(
        || NodeCommand::with_config_file(BINARY, &missing),
        &[&missing.display().to_string(), "cannot be read", "No such file"],
    );
    must_be_invalid(
        || NodeCommand::with_config_file(BINARY, folder.path()),
        &[&folder.path().display().to_string(), "cannot be read"],
    );
}

#[test]
fn an_unknown_key_is_told_with_its_line_and_the_nearest_key() {
    must_be_invalid(
        || without_onnxruntime(&models(), "\n[http]\nlisten = '127.0.0.1:0'\nmax_bdoy = '1MiB'\n"),
        &["grid.toml:5: http.max_bdoy: unknown key", "did you mean `max_body`?"],
    );
    must_be_invalid(
        || without_onnxruntime(&models(), "").env("GRID__LOG__LEVLE", "info"),
        &["GRID__LOG__LEVLE", "did you mean `GRID__LOG__LEVEL`?"],
    );
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    must_be_invalid(
        || without_onnxruntime(&models(), "http.max_body = 'much'\nlimits.timeout = '5 potatoes'\n"),
        &[
            "grid.toml:2: http.max_body",
            "\"much\"",
            "grid.toml:3: limits.timeout",
            "\"5 potatoes\"",
        ],
    );
}

#[test]
fn a_repository_that_is_not_there_is_told_by_its_key_and_path() {
    let folder = TempDir::new().expect("a temporary directory");
    let missing = folder.path().join("no-models");
    must_be_invalid(
        || without_onnxruntime(&missing, ""),
        &[
            "grid.toml:1: models.repository",
            &missing.display().to_string(),
            "expected a folder",
        ],
    );
}

#[test]
fn check_prints_what_would_be_served_with_its_signature() {
    let repository = copy_of(&["credit_risk", "digits"]);
    let finished = without_onnxruntime(repository.path(), "")
        .finish("check")
        .expect("it ends");
    must_end(&finished, 0, &[]);
    for line in [
        "credit_risk version 1 (rten, since onnxruntime is absent)",
        "  in:  features FP32 [-1, 54]",
        "  out: probability FP32 [-1, 2], label INT64 [-1]",
        "digits version 1 (rten, since onnxruntime is absent)",
        "  in:  image FP32 [-1, 1, 8, 8]",
    ] {
        assert!(
            finished.out.lines().any(|found| found == line),
            "no {line:?} in:\n{}",
            finished.out
        );
    }
}

#[test]
fn check_names_each_broken_model_and_why_beside_what_would_be_served() {
    let repository = copy_of(&["credit_risk", "digits", "breast_cancer"]);
    let file = |path: &str| repository.path().join(path);
    fs::write(file("digits/1/model.onnx"), "no model").expect("a file can be written");
    fs::write(file("breast_cancer/model.toml"), "instanzes = 2").expect("a file can be written");
    fs::create_dir_all(file("empty/1")).expect("a folder can be made");
    let finished = without_onnxruntime(repository.path(), "")
        .finish("check")
        .expect("it ends");
    must_end(
        &finished,
        INVALID,
        &[
            &format!("{}: not a valid model", file("digits/1/model.onnx").display()),
            &format!(
                "{}:1: instanzes: unknown key",
                file("breast_cancer/model.toml").display()
            ),
            "did you mean `instances`?",
            &format!("{}: no model file", file("empty/1").display()),
        ],
    );
    assert!(
        finished
            .out
            .contains("credit_risk version 1 (rten, since onnxruntime is absent)"),
        "{}",
        finished.out
    );
    assert!(!finished.out.contains(": ok"), "{}", finished.out);
}

#[test]
fn check_loads_what_a_start_would_and_as_much_as_fits() {
    let repository = copy_of(&["credit_risk", "digits", "breast_cancer"]);
    let manifest = "runtime = 'rten'\n[limits]\nmemory = '900MiB'";
    fs::write(repository.path().join("digits/model.toml"), manifest).expect("a file can be written");
    let more = "models.load = ['credit_risk', 'digits']\nmemory.budget = '1GiB'";
    let finished = without_onnxruntime(repository.path(), more)
        .finish("check")
        .expect("it ends");
    must_end(&finished, 0, &[]);
    for line in [
        "breast_cancer version 1 is not loaded at start: `models.load`",
        "digits version 1 (rten, as its manifest says)",
    ] {
        assert!(finished.out.contains(line), "no {line:?} in:\n{}", finished.out);
    }
    let more = more.replace("1GiB", "800MiB");
    let finished = without_onnxruntime(repository.path(), &more)
        .finish("check")
        .expect("it ends");
    must_end(&finished, INVALID, &["digits version 1: needs 943718400 bytes"]);
    assert!(finished.out.contains("credit_risk version 1 (rten"), "{}", finished.out);
}
