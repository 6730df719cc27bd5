//! What the grid costs on top of a model: a node against [`bench-floor`](../src/bin/bench-floor.rs), request by request.
//!
//! Both serve the same models through the same runtime to the same load generator, in turns. Printed are the medians
//! over five rounds of the ratios of each round.
//!
//! `cargo bench -p grid-tests --bench http_overhead -- [ROUNDS [SECONDS [FILTER]]]`

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use grid_tests::load::{InferRequest, Load, LoadReport};
use grid_tests::process::{NodeCommand, NodeProcess};
use grid_tests::{median, repository_root};

const MODELS: [&str; 2] = ["credit_forest", "credit_risk"];
const CONNECTIONS: [usize; 3] = [1, 8, 32];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let rounds = arguments.first().map_or(Ok(5), |text| text.parse())?;
    let seconds = arguments.get(1).map_or(Ok(2.0), |text| text.parse())?;
    let filter = arguments.get(2).map_or("", String::as_str);
    let config = repository_root().join("configs/quickstart.toml");
    let start = |binary: &str| start(Path::new(binary), &config);
    let node = start(env!("CARGO_BIN_EXE_grid-node-under-test"))?;
    let floor = start(env!("CARGO_BIN_EXE_bench-floor"))?;
    println!(
        "{:<14} {:<6} {:>5} | {:>9} {:>9} {:>6} | {:>8} {:>8} {:>6} | {:>7} {:>7} {:>5}",
        "model",
        "form",
        "conns",
        "floor/s",
        "node/s",
        "ratio",
        "floor99",
        "node99",
        "ratio",
        "floorCPU",
        "nodeCPU",
        "more"
    );
    for model in MODELS {
        let sample = repository_root().join("configs/models").join(model).join("sample.json");
        let request = InferRequest::from_sample(model, &sample)?.with_rows(1);
        for (form, bytes) in [("json", request.json()), ("binary", request.binary()?)] {
            for connections in CONNECTIONS {
                let label = format!("{model} {form} {connections}");
                if label.contains(filter) {
                    let plan = Plan {
                        bytes: &bytes,
                        connections,
                        seconds,
                        rounds,
                    };
                    plan.compare(&label, &floor, &node)?;
                }
            }
        }
    }
    Ok(())
}

fn start(binary: &Path, config: &PathBuf) -> Result<NodeProcess, Box<dyn Error>> {
    Ok(NodeCommand::with_config_file(binary, config).start()?)
}

struct Plan<'a> {
    bytes: &'a [u8],
    connections: usize,
    seconds: f64,
    rounds: usize,
}

struct Round {
    report: LoadReport,
    /// CPU time of the server for each request.
    cpu: Duration,
}

impl Plan<'_> {
    fn run(&self, server: &NodeProcess) -> Result<Round, Box<dyn Error>> {
        let load = Load {
            address: server.address(),
            connections: self.connections,
            request: self.bytes.to_vec(),
            warm_up: Duration::from_millis(300),
            duration: Duration::from_secs_f64(self.seconds),
        };
        let before = server.usage()?.cpu;
        let report = load.run()?;
        let cpu = server.usage()?.cpu - before;
        if report.errors > 0 {
            return Err(format!("{} errors, the first: {:?}", report.errors, report.first_error).into());
        }
        let answered = report.requests_per_second * (self.seconds + 0.3);
        Ok(Round {
            report,
            cpu: cpu.div_f64(answered.max(1.0)),
        })
    }

    fn compare(&self, label: &str, floor: &NodeProcess, node: &NodeProcess) -> Result<(), Box<dyn Error>> {
        let mut rounds = Vec::new();
        for round in 0..self.rounds {
            // Which goes first alternates, so that a drift of the machine's speed falls on both.
            rounds.push(if round % 2 == 0 {
                let first = self.run(floor)?;
                (first, self.run(node)?)
            } else {
                let first = self.run(node)?;
                (self.run(floor)?, first)
            });
        }
        let of = |figure: &dyn Fn(&(Round, Round)) -> f64| median(rounds.iter().map(figure));
        let rate = |round: &Round| round.report.requests_per_second;
        let p99 = |round: &Round| round.report.p99.as_secs_f64() * 1e6;
        let cpu = |round: &Round| round.cpu.as_secs_f64() * 1e6;
        let mut words = label.split(' ');
        let mut word = || words.next().unwrap_or_default();
        println!(
            "{:<14} {:<6} {:>5} | {:>9.0} {:>9.0} {:>6.3} | {:>6.0}µs {:>6.0}µs {:>6.3} | {:>6.1}µs {:>5.1}µs {:>+5.1}",
            word(),
            word(),
            word(),
            of(&|(floor, _)| rate(floor)),
            of(&|(_, node)| rate(node)),
            of(&|(floor, node)| rate(node) / rate(floor)),
            of(&|(floor, _)| p99(floor)),
            of(&|(_, node)| p99(node)),
            of(&|(floor, node)| p99(node) / p99(floor)),
            of(&|(floor, _)| cpu(floor)),
            of(&|(_, node)| cpu(node)),
            of(&|(floor, node)| cpu(node) - cpu(floor)),
        );
        Ok(())
    }
}
