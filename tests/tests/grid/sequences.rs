//! Sequences that survive their node: three processes, the `vitals` model, and its recorded outputs.

use std::fs;
use std::time::{Duration, Instant};

use grid_tests::embedded;
use grid_tests::grid::{Beds, Grid, Recording, repository_of};
use grid_tests::stream::Stream;
use serde_json::Value;
use tempfile::TempDir;

use crate::{BEDS, BINARY, PACE};

/// Longest that a sequence may be away: a frozen node is taken to be down after some seconds.
const PATIENCE: Duration = Duration::from_secs(60);

struct Ward {
    grid: Grid,
    recording: Recording,
    _repository: TempDir,
}

impl Ward {
    fn three() -> Self {
        Self::three_of("")
    }

    /// With so much more in the model's manifest.
    fn three_of(manifest: &str) -> Self {
        let repository = repository_of(&["vitals"]);
        let file = repository.path().join("vitals/model.toml");
        let text = fs::read_to_string(&file).expect("a manifest");
        fs::write(&file, format!("{text}\n{manifest}\n")).expect("a manifest that can be changed");
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

    /// Message `number` of the sequence `rest` to a node over REST, and its output.
    fn ask(&self, node: usize, number: u64) {
        let mut message = self.recording.message("rest", number);
        message["parameters"]["sequence_start"] = (number == 1).into();
        let http = self.grid.nodes()[node].http();
        let response = embedded::post(http, "/v2/models/vitals/infer", &message.to_string());
        let response = response.expect("an answer");
        let answer = response.json().expect("JSON");
        assert_eq!(response.status, 200, "{answer}");
        self.recording
            .check(&answer, number)
            .unwrap_or_else(|reason| panic!("{reason}"));
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
    // Any node takes any message; the sequence follows.
    for number in 1..=12 {
        ward.ask(usize::try_from(number % 3).unwrap(), number);
    }
    // Answered by node 0, and gone with it, but for its copy.
    ward.grid.node(0).kill();
    for number in 13..=24 {
        ward.ask(1 + usize::try_from(number % 2).unwrap(), number);
    }
}

#[test]
fn a_sequence_that_is_started_over_at_another_node_is_the_one_that_is_meant() {
    let ward = Ward::three();
    for number in 1..=5 {
        ward.ask(0, number);
    }
    for number in 1..=2 {
        ward.ask(1, number);
    }
    // Where the earlier one was, and where none was.
    for number in 3..=8 {
        ward.ask(usize::try_from(number % 3).unwrap(), number);
    }
}

#[test]
fn a_sequence_that_is_kept_on_one_node_is_handed_over_when_that_leaves() {
    let mut ward = Ward::three_of("[limits]\nsequence_copies = 1");
    let mut stream = ward.connect(0);
    let token = stream.start("bed").unwrap();
    ward.run(&mut stream, 1..=10);
    ward.grid.node(0).process().terminate().unwrap();
    assert_eq!(of_type(&mut stream, &["moved"])["sequence_id"], "bed");
    let (mut stream, next) = ward.resume(1, &token, 10);
    assert_eq!(next, 11);
    ward.run(&mut stream, 11..=20);
    ward.grid.node(0).process().wait(PATIENCE).unwrap();
    // From a home that lives.
    let (mut stream, next) = ward.resume(2, &token, 20);
    assert_eq!(next, 21);
    ward.run(&mut stream, 21..=30);
}

#[test]
fn sequences_go_on_until_one_node_is_left() {
    let mut ward = Ward::three();
    let beds = Beds::start(ward.grid.addresses(), BEDS, PACE);
    beds.go_on(200);
    ward.grid.node(0).kill();
    // At once: nobody knows more of it than that it does not answer.
    ward.grid.node(1).stop();
    beds.go_on(200);
    ward.grid.rests();
    beds.go_on(200);
    let report = beds.stop();
    assert!(report.wrong.is_empty(), "{report:#?}\n{}", ward.grid.logs());
    assert!(!report.gaps.is_empty(), "{report:?}");
    println!("sequences went on elsewhere after {:?}", report.gaps);
}
