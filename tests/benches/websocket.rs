//! Requests over WebSockets against the same requests over REST: one node, one model, as many requests in flight.
//!
//! REST is HTTP/1.1 with keep-alive and has one request in flight on a connection; a WebSocket has many. The first ratio is
//! to REST with as many in flight, over as many connections, the second to REST with 32. Sides take turns; figures are
//! medians over the rounds, ratios the medians of the ratios of each round. CPU is that of the whole node, user and
//! system, a request; a generator near 100 % of a core is what the row measures, not the node.
//!
//! `cargo bench -p grid-tests --bench websocket -- [ROUNDS [SECONDS [IN_FLIGHT [SOCKETS]]]]`: the most in flight, 1024, and
//! the most WebSockets, 32.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::time::Duration;

use grid_tests::bench::{Arguments, Side, config_of_all_models, in_turns, onnxruntime, small_request};
use grid_tests::load::{Check, Load, LoadReport, PipelinedLoad, Template, output_values};
use grid_tests::median;
use grid_tests::process::{NodeCommand, NodeProcess, exchange};

/// What is compared with everything.
const USUAL: usize = 32;
const WARM_UP: Duration = Duration::from_millis(300);
/// Numbers may differ by so much from batch to batch.
const TOLERANCE: f64 = 1e-5;

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

fn main() -> Result<()> {
    let arguments = Arguments::of_process();
    let rounds = arguments.at(0, 5)?;
    let duration = Duration::from_secs_f64(arguments.at(1, 2.0)?);
    let most = arguments.at(2, 1024)?;
    let sockets = arguments.at(3, 32)?;
    let trees = onnxruntime().is_some();
    let model = if trees { "credit_forest" } else { "credit_risk" };
    let text = config_of_all_models(&[model]);
    let node = NodeCommand::with_config_text(env!("CARGO_BIN_EXE_grid-node-under-test"), text).start()?;
    let request = small_request(model)?;
    let answer = exchange(node.address(), &request.json())?;
    let expected = output_values(&answer.body, &[])?;
    let forms = [
        ("json", request.json(), request.json_message()),
        ("binary", request.binary()?, request.binary_message()?),
    ];
    println!(
        "{model}, one row a request; {rounds} rounds of {} s\n{:<34} {:>9} {:>6} {:>6} | {:>8} {:>8} | {:>7} {:>9}",
        duration.as_secs_f64(),
        "form, connections x in flight on each",
        "answers/s",
        "same",
        "REST32",
        "p50",
        "p99",
        "nodeCPU",
        "generator"
    );
    for (form, over_http, over_websocket) in &forms {
        let comparison = Comparison {
            node: &node,
            model,
            over_http,
            over_websocket,
            expected: &expected,
            duration,
        };
        comparison.print(form, rounds, &shapes(most, sockets))?;
    }
    Ok(())
}

/// How many connections, and requests in flight over all of them.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Shape {
    over: Over,
    connections: usize,
    in_flight: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    Rest,
    WebSocket,
}

impl Shape {
    fn rest(in_flight: usize) -> Self {
        Self {
            over: Over::Rest,
            connections: in_flight,
            in_flight,
        }
    }

    fn depth(self) -> usize {
        self.in_flight / self.connections
    }

    fn name(self) -> String {
        let over = match self.over {
            Over::Rest => "REST",
            Over::WebSocket => "WebSocket",
        };
        format!("{over:<10} {} x {}", self.connections, self.depth())
    }
}

/// What is measured: for each number in flight REST first, then one WebSocket, then as many as are asked for.
fn shapes(most: usize, sockets: usize) -> Vec<Shape> {
    let mut shapes = Vec::new();
    for in_flight in BTreeSet::from([1, USUAL, most]) {
        shapes.push(Shape::rest(in_flight));
        for connections in BTreeSet::from([1, sockets.clamp(1, in_flight)]) {
            shapes.push(Shape {
                over: Over::WebSocket,
                connections,
                in_flight,
            });
        }
    }
    shapes
}

struct Comparison<'a> {
    node: &'a NodeProcess,
    model: &'a str,
    over_http: &'a [u8],
    over_websocket: &'a Template,
    expected: &'a BTreeMap<String, Vec<f64>>,
    duration: Duration,
}

struct Round {
    report: LoadReport,
    /// CPU time of the node for each request.
    cpu: Duration,
}

impl Comparison<'_> {
    fn print(&self, form: &str, rounds: usize, shapes: &[Shape]) -> Result<()> {
        let sides = shapes
            .iter()
            .map(|shape| -> Side<'_, Round, Box<dyn Error>> { Box::new(move || self.round(*shape)) });
        let rows = in_turns(rounds, sides.collect())?;
        for (side, shape) in shapes.iter().enumerate() {
            let of = |figure: &dyn Fn(&Round) -> f64| median(rows.iter().map(|row| figure(&row[side])));
            let against = |in_flight: usize| {
                let base = shapes.iter().position(|base| *base == Shape::rest(in_flight));
                let base = base.expect("REST is measured at each number in flight");
                let rate = |round: &Round| round.report.requests_per_second;
                median(rows.iter().map(|row| rate(&row[side]) / rate(&row[base])))
            };
            let micros = |time: Duration| time.as_secs_f64() * 1e6;
            println!(
                "{:<34} {:>9.0} {:>6.2} {:>6.2} | {:>6.0}µs {:>6.0}µs | {:>5.1}µs {:>8.0}%",
                format!("{form:<6} {}", shape.name()),
                of(&|round| round.report.requests_per_second),
                against(shape.in_flight),
                against(USUAL),
                of(&|round| micros(round.report.p50)),
                of(&|round| micros(round.report.p99)),
                of(&|round| micros(round.cpu)),
                of(&|round| 100.0 * round.report.cpu_seconds_of_generator / round.report.seconds),
            );
        }
        Ok(())
    }

    fn round(&self, shape: Shape) -> Result<Round> {
        let before = self.node.usage()?.cpu;
        let connections = shape.connections;
        let report = match shape.over {
            Over::Rest => {
                let load = Load {
                    address: self.node.address(),
                    connections,
                    request: self.over_http.to_vec(),
                    warm_up: WARM_UP,
                    duration: self.duration,
                };
                load.run_checked(&Check::default().of_any_length())?
            }
            Over::WebSocket => {
                let load = PipelinedLoad {
                    address: self.node.address(),
                    model: self.model,
                    sockets: connections,
                    depth: shape.depth(),
                    request: self.over_websocket.clone(),
                    warm_up: WARM_UP,
                    duration: self.duration,
                };
                load.run_checked(&|json, tensors| same(self.expected, &output_values(json, tensors)?))?
            }
        };
        let cpu = self.node.usage()?.cpu - before;
        if report.errors > 0 {
            let what = shape.name();
            return Err(format!("{what}: {} errors, the first: {:?}", report.errors, report.first_error).into());
        }
        let answered = report.requests_per_second * (self.duration + WARM_UP).as_secs_f64();
        Ok(Round {
            report,
            cpu: cpu.div_f64(answered.max(1.0)),
        })
    }
}

/// Whether two answers say the same.
fn same(expected: &BTreeMap<String, Vec<f64>>, got: &BTreeMap<String, Vec<f64>>) -> Result<(), String> {
    let close = |(one, other): (&Vec<f64>, &Vec<f64>)| {
        one.len() == other.len()
            && one
                .iter()
                .zip(other)
                .all(|(one, other)| (one - other).abs() <= TOLERANCE)
    };
    if expected.keys().eq(got.keys()) && expected.values().zip(got.values()).all(close) {
        return Ok(());
    }
    Err(format!("expected {expected:?}, got {got:?}"))
}
