//! What the grid costs over gRPC on top of a model: a node against the tonic server of
//! [`bench-floor`](../src/bin/bench-floor/grpc.rs), ModelInfer by ModelInfer.
//!
//! Both serve the same model through the same runtime, on as many gRPC threads, to the same load generator, in turns.
//! Printed are the medians over the rounds of the figures and of the ratios of each round. The rates are those of servers
//! that share the cores with the generator, whose share of a core stands in its column: what it takes, it takes from both,
//! and that draws their ratio towards 1. The CPU time of a server for each request has no part of it; its ratio is the
//! floor's to the node's, so that 1 is as good and less is worse, as with the rates.
//!
//! A channel of gRPC's libraries is one connection, with many calls in flight on it. So one call at a time is one
//! connection, 8 are two clients and 32 are four; and, as what one busy client does, 32 on one connection.
//!
//! `cargo bench -p grid-tests --bench grpc_overhead -- [ROUNDS [SECONDS]]`

#[path = "grpc_overhead/load.rs"]
mod load;

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use grid_node::gateway::grpc::generated::model_infer_request::InferInputTensor;
use grid_node::gateway::grpc::generated::{InferTensorContents, ModelInferRequest, ModelInferResponse};
use grid_tests::bench::{Arguments, Side, config_of_all_models, in_turns, onnxruntime, small_request};
use grid_tests::median;
use grid_tests::process::{NodeCommand, NodeProcess};
use load::{Load, Report};
use prost::Message;
use serde_json::Value;

const METHOD: &str = "/inference.GRPCInferenceService/ModelInfer";
const WARM_UP: Duration = Duration::from_millis(300);
/// Connections, and calls in flight on each.
const RAW: [(usize, usize); 4] = [(1, 1), (2, 4), (4, 8), (1, 32)];
const TYPED: [(usize, usize); 1] = [(2, 4)];

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

fn main() -> Result<()> {
    let arguments = Arguments::of_process();
    let rounds = arguments.at(0, 5)?;
    let duration = Duration::from_secs_f64(arguments.at(1, 2.0)?);
    let trees = onnxruntime().is_some();
    let model = if trees { "credit_forest" } else { "credit_risk" };
    let floor = Server::start(env!("CARGO_BIN_EXE_bench-floor"), model)?;
    let node = Server::start(env!("CARGO_BIN_EXE_grid-node-under-test"), model)?;
    println!(
        "{model}, one row a request; {rounds} rounds of {} s\n\
         {:<16} {:>9} {:>9} {:>6} | {:>8} {:>6} {:>8} {:>6} | {:>8} {:>8} {:>6} | {:>9}",
        duration.as_secs_f64(),
        "form, in flight",
        "floor/s",
        "node/s",
        "ratio",
        "floor50",
        "ratio",
        "floor99",
        "ratio",
        "floorCPU",
        "nodeCPU",
        "ratio",
        "generator"
    );
    for (form, shapes) in [(Form::Raw, &RAW[..]), (Form::Typed, &TYPED)] {
        let comparison = Comparison {
            floor: &floor,
            node: &node,
            message: &message(model, form)?,
            duration,
        };
        comparison.check()?;
        for &(connections, depth) in shapes {
            comparison.print(form, rounds, connections, depth)?;
        }
    }
    Ok(())
}

/// How a request carries its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Raw,
    Typed,
}

/// The message of a request of one row.
fn message(model: &str, form: Form) -> Result<Vec<u8>> {
    let request = small_request(model)?.json();
    let head = request.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let sample: Value = serde_json::from_slice(&request[head.ok_or("no body")? + 4..])?;
    let mut message = ModelInferRequest {
        model_name: model.to_owned(),
        ..ModelInferRequest::default()
    };
    for input in sample["inputs"].as_array().ok_or("no inputs")? {
        if input["datatype"] != "FP32" {
            return Err(format!("expected a model of FP32, found {}", input["datatype"]).into());
        }
        let values: Vec<f32> = serde_json::from_value(input["data"].clone())?;
        let mut described = InferInputTensor {
            name: serde_json::from_value(input["name"].clone())?,
            datatype: "FP32".to_owned(),
            shape: serde_json::from_value(input["shape"].clone())?,
            ..InferInputTensor::default()
        };
        match form {
            Form::Raw => {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                message.raw_input_contents.push(bytes.into());
            }
            Form::Typed => {
                described.contents = Some(InferTensorContents {
                    fp32_contents: values,
                    ..InferTensorContents::default()
                });
            }
        }
        message.inputs.push(described);
    }
    Ok(message.encode_to_vec())
}

struct Server {
    process: NodeProcess,
    address: SocketAddr,
}

impl Server {
    fn start(binary: &str, model: &str) -> Result<Self> {
        let process = NodeCommand::with_config_text(binary, config_of_all_models(&[model]))
            .env("GRID__GRPC__LISTEN", "127.0.0.1:0")
            .start()?;
        let address = process.grpc_address().ok_or("it does not say where it serves gRPC")?;
        Ok(Self { process, address })
    }
}

struct Comparison<'a> {
    floor: &'a Server,
    node: &'a Server,
    message: &'a [u8],
    duration: Duration,
}

struct Round {
    report: Report,
    /// CPU time of the server for each request.
    cpu: Duration,
}

impl Comparison<'_> {
    fn load(&self, server: &Server, connections: usize, depth: usize) -> Load<'_> {
        Load {
            address: server.address,
            connections,
            depth,
            method: METHOD,
            message: self.message,
            warm_up: WARM_UP,
            duration: self.duration,
        }
    }

    /// Both must give the same answer.
    fn check(&self) -> Result<()> {
        let answer = |server| -> Result<ModelInferResponse> {
            let once = Load {
                warm_up: Duration::ZERO,
                duration: Duration::ZERO,
                ..self.load(server, 1, 1)
            };
            Ok(ModelInferResponse::decode(once.run()?.answer.as_slice())?)
        };
        let (floor, node) = (answer(self.floor)?, answer(self.node)?);
        if floor == node && !node.raw_output_contents.is_empty() {
            return Ok(());
        }
        Err(format!("the floor answers {floor:?}, the node {node:?}").into())
    }

    fn round(&self, server: &Server, connections: usize, depth: usize) -> Result<Round> {
        let before = server.process.usage()?.cpu;
        let report = self.load(server, connections, depth).run()?;
        let cpu = server.process.usage()?.cpu - before;
        Ok(Round {
            cpu: cpu.div_f64(report.in_all as f64),
            report,
        })
    }

    fn print(&self, form: Form, rounds: usize, connections: usize, depth: usize) -> Result<()> {
        let side =
            |server| -> Side<'_, Round, Box<dyn Error>> { Box::new(move || self.round(server, connections, depth)) };
        let rows = in_turns(rounds, vec![side(self.floor), side(self.node)])?;
        let floor = |figure: fn(&Round) -> f64| median(rows.iter().map(|row| figure(&row[0])));
        let node = |figure: fn(&Round) -> f64| median(rows.iter().map(|row| figure(&row[1])));
        let ratio = |figure: fn(&Round) -> f64| median(rows.iter().map(|row| figure(&row[1]) / figure(&row[0])));
        let rate = |round: &Round| round.report.per_second;
        let p50 = |round: &Round| round.report.p50.as_secs_f64() * 1e6;
        let p99 = |round: &Round| round.report.p99.as_secs_f64() * 1e6;
        let cpu = |round: &Round| round.cpu.as_secs_f64() * 1e6;
        let generator = rows.iter().flatten().map(|round| 100.0 * round.report.generator);
        println!(
            "{:<16} {:>9.0} {:>9.0} {:>6.3} | {:>6.0}µs {:>6.3} {:>6.0}µs {:>6.3} | {:>6.1}µs {:>6.1}µs {:>6.3} | {:>8.0}%",
            format!("{form:?} {connections} x {depth}"),
            floor(rate),
            node(rate),
            ratio(rate),
            floor(p50),
            ratio(p50),
            floor(p99),
            ratio(p99),
            floor(cpu),
            node(cpu),
            1.0 / ratio(cpu),
            median(generator),
        );
        Ok(())
    }
}
