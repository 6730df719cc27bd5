//! Sequences that survive their node: three processes, the `vitals` model, and its recorded outputs.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use grid_tests::process::{NodeCommand, NodeProcess};
use grid_tests::stream::Stream;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longest that a sequence may be away: a frozen node is taken to be down after some seconds.
const PATIENCE: Duration = Duration::from_secs(60);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn steps() -> Vec<Value> {
    let text = fs::read_to_string(root().join("configs/models/vitals/stream.json")).unwrap();
    let recording: Value = serde_json::from_str(&text).unwrap();
    recording["steps"].as_array().unwrap().clone()
}

struct Trio {
    nodes: Vec<NodeProcess>,
    steps: Vec<Value>,
    _data: TempDir,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Trio {
    fn start(repository: &Path) -> Self {
        let data = TempDir::new().unwrap();
        let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
        let seeds: Vec<String> = ports.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
        let key = root().join("configs/three-nodes/cluster.key");
        let node = |index: usize| {
            let name = ["a", "b", "c"][index];
            let text = format!(
                "[node]\nname = \"{name}\"\ndata_dir = \"{}/{name}\"\n[http]\nlisten = \"127.0.0.1:0\"\n\
                 [grid]\nname = \"sequences\"\nlisten = \"127.0.0.1:{}\"\nseeds = [{}]\nkey_file = \"{}\"\n\
                 [models]\nrepository = \"{}\"\n",
                data.path().display(),
                ports[index],
                seeds.join(", "),
                key.display(),
                repository.display(),
            );
            NodeCommand::with_config_text(env!("CARGO_BIN_EXE_grid-node-under-test"), text)
                .start()
                .unwrap()
        };
        let trio = Self {
            nodes: (0..3).map(node).collect(),
            steps: steps(),
            _data: data,
        };
        trio.wait_for("three nodes that serve the model", |trio| {
            trio.nodes.iter().all(|node| {
                let status: Option<Value> = node.get("/v2/grid").ok().and_then(|response| response.json().ok());
                let up = status.and_then(|status| status["nodes"].as_array().map(Vec::len));
                up == Some(3)
                    && node
                        .get("/v2/models/vitals/ready")
                        .is_ok_and(|response| response.status == 200)
            })
        });
        trio
    }

    fn wait_for(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !is_so(self) {
            assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn at(&self, node: usize) -> SocketAddr {
        self.nodes[node].address()
    }

    fn message(&self, stream: &mut Stream, number: u64) {
        let sample = &self.steps[number as usize - 1]["sample"];
        let input = json!({"name": "sample", "datatype": "FP32", "shape": [1, 3], "data": sample});
        let parameters = json!({"sequence_id": "bed", "sequence_number": number});
        stream
            .send(&json!({"inputs": [input], "parameters": parameters}))
            .unwrap();
    }

    /// The next output is that of this number, and what the model run in one piece gives.
    fn expect(&self, stream: &mut Stream, number: u64) {
        let output = of_type(stream, &["output", "error", "fenced"]);
        assert_eq!(output["parameters"]["sequence_number"], number, "{output}");
        let outputs = output["outputs"].as_array().unwrap();
        let score = outputs.iter().find(|output| output["name"] == "score").unwrap();
        let expected = self.steps[number as usize - 1]["score"].as_array().unwrap();
        for (found, expected) in score["data"].as_array().unwrap().iter().zip(expected) {
            let (found, expected) = (found.as_f64().unwrap(), expected.as_f64().unwrap());
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
            let mut stream = Stream::connect(self.at(node), "vitals").unwrap();
            stream.resume("bed", token, last).unwrap();
            let answer = of_type(&mut stream, &["resumed", "error"]);
            match (answer["type"].as_str().unwrap(), answer["kind"].as_str()) {
                ("resumed", _) => {
                    let next = answer["next"].as_u64().unwrap();
                    for number in last + 1..next {
                        self.expect(&mut stream, number);
                    }
                    return (stream, next);
                }
                (_, Some("sequence_ahead")) => last = answer["sequence_number"].as_u64().unwrap(),
                _ => assert_eq!(answer["retry"], true, "{answer}"),
            }
        }
    }
}

fn of_type(stream: &mut Stream, types: &[&str]) -> Value {
    loop {
        let message = stream.receive().unwrap();
        if types.contains(&message["type"].as_str().unwrap()) {
            return message;
        }
    }
}

#[test]
fn a_sequence_whose_node_is_killed_goes_on_at_another_without_gap_or_repeat() {
    let mut trio = Trio::start(&root().join("configs/models"));
    let mut stream = Stream::connect(trio.at(0), "vitals").unwrap();
    let token = stream.start("bed").unwrap();
    trio.run(&mut stream, 1..=20);
    // What is under way when the node dies.
    for number in 21..=30 {
        trio.message(&mut stream, number);
    }
    trio.expect(&mut stream, 21);
    trio.nodes[0].kill().unwrap();
    let (mut stream, next) = trio.resume(1, &token, 21);
    trio.run(&mut stream, next..=40);
    // The home lives: it hands the sequence over.
    let (mut moved, next) = trio.resume(2, &token, 40);
    assert_eq!(next, 41);
    assert_eq!(of_type(&mut stream, &["fenced"])["sequence_id"], "bed");
    trio.run(&mut moved, 41..=60);
}

#[test]
fn a_node_that_wakes_from_a_freeze_cannot_continue_a_session_taken_over_meanwhile() {
    let mut trio = Trio::start(&root().join("configs/models"));
    let mut frozen = Stream::connect(trio.at(0), "vitals").unwrap();
    let token = frozen.start("bed").unwrap();
    trio.run(&mut frozen, 1..=10);
    trio.nodes[0].freeze().unwrap();
    let (mut stream, next) = trio.resume(1, &token, 10);
    trio.run(&mut stream, next..=20);
    trio.nodes[0].resume().unwrap();
    trio.message(&mut frozen, 11);
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
    trio.run(&mut stream, 21..=30);
}

#[test]
fn a_node_that_leaves_tells_its_readers_and_another_goes_on() {
    let mut trio = Trio::start(&root().join("configs/models"));
    let mut stream = Stream::connect(trio.at(0), "vitals").unwrap();
    let token = stream.start("bed").unwrap();
    trio.run(&mut stream, 1..=10);
    trio.nodes[0].terminate().unwrap();
    assert_eq!(of_type(&mut stream, &["moved"])["sequence_id"], "bed");
    let (mut stream, next) = trio.resume(1, &token, 10);
    assert_eq!(next, 11);
    trio.run(&mut stream, 11..=20);
    trio.nodes[0].wait(PATIENCE).unwrap();
    trio.run(&mut stream, 21..=30);
}
