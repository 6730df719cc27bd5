//! Sequences that survive their node: three processes, the `vitals` model, and its recorded outputs.

use std::time::{Duration, Instant};

use grid_tests::embedded;
use grid_tests::grid::{Grid, Recording, repository_of};
use grid_tests::stream::Stream;
use serde_json::Value;
use tempfile::TempDir;

use crate::BINARY;

/// Longest that a sequence may be away: a frozen node is taken to be down after some seconds.
const PATIENCE: Duration = Duration::from_secs(60);

struct Ward {
    grid: Grid,
    recording: Recording,
    _repository: TempDir,
}

impl Ward {
    fn three() -> Self {
        let repository = repository_of(&["vitals"]);
        let grid = Grid::of(BINARY, &["a", "b", "c"], repository.path());
        Self {
            grid,
            recording: Recording::load(),
            _repository: repository,
        }
    }

    fn connect(&self, node: usize) -> Stream {
        Stream::connect(self.grid.nodes()[node].http(), "vitals").expect("a connection")
    }

    fn message(&self, stream: &mut Stream, number: u64) {
        stream
            .send(&self.recording.message("bed", number))
            .expect("a connection");
    }

    /// The next output is that of this number, and what the model run in one piece gives.
    fn expect(&self, stream: &mut Stream, number: u64) {
        let output = of_type(stream, &["output", "error", "fenced"]);
        self.recording
            .check(&output, number)
            .unwrap_or_else(|reason| panic!("{reason}"));
    }

    fn run(&self, stream: &mut Stream, numbers: std::ops::RangeInclusive<u64>) {
        for number in numbers {
            self.message(stream, number);
            self.expect(stream, number);
        }
    }

    /// Resumes at a node as the protocol says, and returns the number that comes next.
    fn resume(&self, node: usize, token: &str, mut last: u64) -> (Stream, u64) {
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < PATIENCE, "it was not resumed");
            let mut stream = self.connect(node);
            stream.resume("bed", token, last).expect("a connection");
            let answer = of_type(&mut stream, &["resumed", "error"]);
            match (answer["type"].as_str().expect("a type"), answer["kind"].as_str()) {
                ("resumed", _) => {
                    let next = answer["next"].as_u64().expect("a number");
                    for number in last + 1..next {
                        self.expect(&mut stream, number);
                    }
                    return (stream, next);
                }
                (_, Some("sequence_ahead")) => last = answer["sequence_number"].as_u64().expect("a number"),
                _ => assert_eq!(answer["retry"], true, "{answer}"),
            }
        }
    }
}

fn of_type(stream: &mut Stream, types: &[&str]) -> Value {
    loop {
        let message = stream.receive().expect("a message");
        if types.contains(&message["type"].as_str().expect("a type")) {
            return message;
        }
    }
}

#[test]
fn a_sequence_whose_node_is_killed_goes_on_at_another_without_gap_or_repeat() {
    let mut ward = Ward::three();
    let mut stream = ward.connect(0);
    let token = stream.start("bed").unwrap();
    ward.run(&mut stream, 1..=20);
    // What is under way when the node dies.
    for number in 21..=30 {
        ward.message(&mut stream, number);
    }
    ward.expect(&mut stream, 21);
    ward.grid.node(0).kill();
    let (mut stream, next) = ward.resume(1, &token, 21);
    ward.run(&mut stream, next..=40);
    // The home lives: it hands the sequence over.
    let (mut moved, next) = ward.resume(2, &token, 40);
    assert_eq!(next, 41);
    assert_eq!(of_type(&mut stream, &["fenced"])["sequence_id"], "bed");
    ward.run(&mut moved, 41..=60);
}

#[test]
fn a_node_that_wakes_from_a_freeze_cannot_continue_a_session_taken_over_meanwhile() {
    let mut ward = Ward::three();
    let mut frozen = ward.connect(0);
    let token = frozen.start("bed").unwrap();
    ward.run(&mut frozen, 1..=10);
    ward.grid.node(0).process().freeze().unwrap();
    let (mut stream, next) = ward.resume(1, &token, 10);
    ward.run(&mut stream, next..=20);
    ward.grid.node(0).process().resume().unwrap();
    ward.message(&mut frozen, 11);
    loop {
        let word = frozen.receive().unwrap();
        let durable = word["parameters"]["sequence_durable"]
            .as_u64()
            .or(word["sequence_durable"].as_u64());
        assert!(
            durable.unwrap_or(0) <= 10,
            "the old home says that something of it counts: {word}"
        );
        if word["type"] == "fenced" {
            break;
        }
    }
    ward.run(&mut stream, 21..=30);
}

#[test]
fn a_node_that_leaves_tells_its_readers_and_another_goes_on() {
    let mut ward = Ward::three();
    let mut stream = ward.connect(0);
    let token = stream.start("bed").unwrap();
    ward.run(&mut stream, 1..=10);
    ward.grid.node(0).process().terminate().unwrap();
    assert_eq!(of_type(&mut stream, &["moved"])["sequence_id"], "bed");
    let (mut stream, next) = ward.resume(1, &token, 10);
    assert_eq!(next, 11);
    ward.run(&mut stream, 11..=20);
    ward.grid.node(0).process().wait(PATIENCE).unwrap();
    ward.run(&mut stream, 21..=30);
}

#[test]
fn what_a_grid_is_asked_for_over_rest_is_durable_when_it_is_answered() {
    let mut ward = Ward::three();
    let ask = |ward: &Ward, node: usize, number: u64| {
        let mut message = ward.recording.message("rest", number);
        message["parameters"]["sequence_start"] = (number == 1).into();
        let response = embedded::post(
            ward.grid.nodes()[node].http(),
            "/v2/models/vitals/infer",
            &message.to_string(),
        );
        let response = response.expect("an answer");
        let answer = response.json().expect("JSON");
        assert_eq!(response.status, 200, "{answer}");
        ward.recording
            .check(&answer, number)
            .unwrap_or_else(|reason| panic!("{reason}"));
    };
    // Any node takes any message; the sequence follows.
    for number in 1..=12 {
        ask(&ward, usize::try_from(number % 3).unwrap(), number);
    }
    // Answered by node 0, and gone with it, but for its copy.
    ward.grid.node(0).kill();
    for number in 13..=24 {
        ask(&ward, 1 + usize::try_from(number % 2).unwrap(), number);
    }
}
