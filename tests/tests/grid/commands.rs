//! What an operator types.

use grid_tests::grid::{Grid, MODELS, repository_of};
use grid_tests::process::NodeCommand;

use crate::{BINARY, three};

#[test]
fn the_status_of_a_grid_is_printed_for_people_and_for_programs() {
    let (grid, _repository) = three();
    let address = grid.addresses()[1].to_string();
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new(BINARY)
            .args(arguments)
            .output()
            .expect("it runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let text = run(&["status", &address]);
    assert!(text.starts_with("grid test, as node b knows it"), "{text}");
    for word in ["a", "b", "c"].into_iter().chain(MODELS) {
        assert!(text.contains(word), "{word} is missing: {text}");
    }
    let json: serde_json::Value = serde_json::from_str(&run(&["status", "--json", &address])).expect("JSON");
    assert_eq!(json["nodes"].as_array().map(Vec::len), Some(3));
}

#[test]
fn a_key_that_was_made_lets_nodes_find_each_other_and_no_two_are_the_same() {
    let key = || {
        let output = std::process::Command::new(BINARY).arg("key").output().expect("it runs");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    };
    let (first, second) = (key(), key());
    assert_ne!(first, second);
    let repository = repository_of(&MODELS[..1]);
    let mut grid = Grid::new(BINARY);
    for name in ["a", "b"] {
        let place = grid.plan(name, repository.path());
        grid.node(place).plan.key = first.clone();
    }
    grid.start_all();
    grid.rests();
}

#[test]
fn a_key_that_is_none_is_refused_with_its_place_and_not_shown() {
    let text = "[grid]\nlisten = '127.0.0.1:0'\nkey = 'a1b2'\n[models]\nrepository = '.'\n";
    let finished = NodeCommand::with_config_text(BINARY, text)
        .finish("run")
        .expect("its end");
    assert_ne!(finished.status.code(), Some(0));
    assert!(finished.error.contains("grid.key"), "{}", finished.error);
    assert!(!finished.error.contains("a1b2"), "{}", finished.error);
}
