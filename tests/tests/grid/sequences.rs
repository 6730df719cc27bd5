//! Sequences that survive their node: three processes, the `vitals` model, and its recorded outputs.

use std::fs;
use std::time::{Duration, Instant};

use grid_tests::grid::{Grid, repository_of};
use grid_tests::repository_root;
use grid_tests::stream::Stream;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::BINARY;

/// Longest that a sequence may be away: a frozen node is taken to be down after some seconds.
const PATIENCE: Duration = Duration::from_secs(60);

struct Beds {
    grid: Grid,
    steps: Vec<Value>,
    _repository: TempDir,
}

fn steps() -> Vec<Value> {
    let text = fs::read_to_string(repository_root().join("configs/models/vitals/stream.json")).expect("a recording");
    let recording: Value = serde_json::from_str(&text).expect("JSON");
    recording["steps"].as_array().expect("a list of steps").clone()
}

impl Beds {
    fn three() -> Self {
        let repository = repository_of(&["vitals"]);
        let grid = Grid::of(BINARY, &["a", "b", "c"], repository.path());
        Self {
            grid,
            steps: steps(),
            _repository: repository,
        }
    }

    fn connect(&self, node: usize) -> Stream {
        Stream::connect(self.grid.nodes()[node].http(), "vitals").expect("a connection")
    }

    fn step(&self, number: u64) -> &Value {
        &self.steps[usize::try_from(number).expect("a small number") - 1]
    }

    fn message(&self, stream: &mut Stream, number: u64) {
        let sample = &self.step(number)["sample"];
        let input = json!({"name": "sample", "datatype": "FP32", "shape": [1, 3], "data": sample});
        let parameters = json!({"sequence_id": "bed", "sequence_number": number});
        let message = json!({"inputs": [input], "parameters": parameters});
        stream.send(&message).expect("a connection");
    }

    /// The next output is that of this number, and what the model run in one piece gives.
    fn expect(&self, stream: &mut Stream, number: u64) {
        let output = of_type(stream, &["output", "error", "fenced"]);
        assert_eq!(output["parameters"]["sequence_number"], number, "{output}");
        let outputs = output["outputs"].as_array().expect("outputs");
        let score = outputs
            .iter()
            .find(|output| output["name"] == "score")
            .expect("a score");
        let expected = self.step(number)["score"].as_array().expect("values");
        for (found, expected) in score["data"].as_array().expect("values").iter().zip(expected) {
            let (found, expected) = (found.as_f64().expect("a number"), expected.as_f64().expect("a number"));
            assert!(
                (found - expected).abs() <= 1e-4 * expected.abs().max(1.0),
                "{number}: {found} {expected}"
            );
        }
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
    let mut beds = Beds::three();
    let mut stream = beds.connect(0);
    let token = stream.start("bed").unwrap();
    beds.run(&mut stream, 1..=20);
    // What is under way when the node dies.
    for number in 21..=30 {
        beds.message(&mut stream, number);
    }
    beds.expect(&mut stream, 21);
    beds.grid.node(0).kill();
    let (mut stream, next) = beds.resume(1, &token, 21);
    beds.run(&mut stream, next..=40);
    // The home lives: it hands the sequence over.
    let (mut moved, next) = beds.resume(2, &token, 40);
    assert_eq!(next, 41);
    assert_eq!(of_type(&mut stream, &["fenced"])["sequence_id"], "bed");
    beds.run(&mut moved, 41..=60);
}

#[test]
fn a_node_that_wakes_from_a_freeze_cannot_continue_a_session_taken_over_meanwhile() {
    let mut beds = Beds::three();
    let mut frozen = beds.connect(0);
    let token = frozen.start("bed").unwrap();
    beds.run(&mut frozen, 1..=10);
    beds.grid.node(0).process().freeze().unwrap();
    let (mut stream, next) = beds.resume(1, &token, 10);
    beds.run(&mut stream, next..=20);
    beds.grid.node(0).process().resume().unwrap();
    beds.message(&mut frozen, 11);
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
    beds.run(&mut stream, 21..=30);
}

#[test]
fn a_node_that_leaves_tells_its_readers_and_another_goes_on() {
    let mut beds = Beds::three();
    let mut stream = beds.connect(0);
    let token = stream.start("bed").unwrap();
    beds.run(&mut stream, 1..=10);
    beds.grid.node(0).process().terminate().unwrap();
    assert_eq!(of_type(&mut stream, &["moved"])["sequence_id"], "bed");
    let (mut stream, next) = beds.resume(1, &token, 10);
    assert_eq!(next, 11);
    beds.run(&mut stream, 11..=20);
    beds.grid.node(0).process().wait(PATIENCE).unwrap();
    beds.run(&mut stream, 21..=30);
}
