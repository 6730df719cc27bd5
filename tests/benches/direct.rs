//! Requests straight to the replicas by the client library against the same requests to one node of the grid over HTTP.
//!
//! Three nodes as processes, two replicas of each model, and on both sides as many requests in flight and one thread that
//! sends them. The gateway's side keeps as many connections alive as requests are in flight, has its tensors raw (the binary
//! tensor data extension), and does nothing with an answer but look at its status and length; the library's side is a
//! [`GridClient`] as apps have it, which decodes its answers. So what the library costs its app counts against it.
//!
//! Sides take turns; figures are medians over the rounds, ratios the medians of the ratios of each round. All share the
//! machine's cores: with few of them a row measures the CPU time of a request, wherever it is spent.
//!
//! `cargo bench -p grid-tests --bench direct -- [ROUNDS [SECONDS [IN_FLIGHT]]]`; 5 rounds of 2 s, 16 and 32 in flight.

use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use grid_client::{ClientOptions, GridClient, Model};
use grid_core::tensor::Tensor;
use grid_tests::bench::{Arguments, Side, in_turns, onnxruntime};
use grid_tests::grid::{Grid, KEY, Sample, copy_model};
use grid_tests::load::{InferRequest, Load};
use grid_tests::{median, repository_root};
use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

const WARM_UP: Duration = Duration::from_millis(300);
/// The model that returns its input.
const IDENTITY: &str = "identity";
/// Elements of FP32 in 1 MiB.
const ELEMENTS: usize = 1 << 18;

fn main() -> Result<()> {
    let arguments = Arguments::of_process();
    let rounds = arguments.at(0, 5)?;
    let duration = Duration::from_secs_f64(arguments.at(1, 2.0)?);
    let in_flight = match arguments.at(2, 0)? {
        0 => vec![16, 32],
        one => vec![one],
    };
    let library = onnxruntime();
    let small = if library.is_some() {
        "credit_forest"
    } else {
        "credit_risk"
    };
    let repository = TempDir::new()?;
    copy_model(small, &repository.path().join(small));
    write_identity(&repository.path().join(IDENTITY))?;
    let mut grid = Grid::new(env!("CARGO_BIN_EXE_grid-node-under-test"));
    for name in ["a", "b", "c"] {
        let place = grid.plan(name, repository.path());
        grid.node(place).plan.onnxruntime.clone_from(&library);
    }
    grid.start_all();
    let status = grid.rests();
    let gateway = grid.addresses()[0];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let seeds = [grid.mesh(0).to_string()];
    let options = ClientOptions::new("test".parse()?, KEY.parse()?);
    let client = runtime.block_on(GridClient::connect(seeds, options))?;
    println!(
        "three nodes on {} cores; {rounds} rounds of {} s",
        std::thread::available_parallelism()?,
        duration.as_secs_f64()
    );
    for shard in &status.shards {
        println!("{} on {:?}; the gateway is node a", shard.model, shard.ready());
    }
    println!(
        "{:<16} {:>9} | {:>9} {:>9} {:>6} | {:>9} {:>9} | {:>9} {:>9} {:>6} | {:>8} {:>8}",
        "model",
        "in flight",
        "gateway/s",
        "direct/s",
        "ratio",
        "gateway50",
        "direct50",
        "gateway99",
        "direct99",
        "ratio",
        "sendCPU",
        "sendCPU"
    );
    for (model, inputs, request) in [small_case(small)?, large_case()?] {
        let comparison = Comparison {
            model: runtime.block_on(client.model(&model))?,
            runtime: &runtime,
            inputs,
            gateway,
            request,
            duration,
            rounds,
        };
        for &in_flight in &in_flight {
            comparison.print(in_flight)?;
        }
    }
    Ok(())
}

type Case = (String, Vec<(String, Tensor)>, Vec<u8>);

/// The sample of a small model: two rows.
fn small_case(model: &str) -> Result<Case> {
    let sample = Sample::of(model);
    let file = repository_root().join("configs/models").join(model).join("sample.json");
    let request = InferRequest::from_sample(model, &file)?;
    Ok((model.to_owned(), sample.inputs, request.binary()?))
}

/// 1 MiB there and back.
fn large_case() -> Result<Case> {
    let values: Vec<f32> = (0..ELEMENTS).map(|index| (index % 1000) as f32).collect();
    let input = json!({"name": "x", "shape": [1, ELEMENTS], "datatype": "FP32", "data": values});
    let request = InferRequest::from_json(IDENTITY, json!({"inputs": [input]}).to_string().as_bytes())?;
    let tensor = Tensor::from_values([1, ELEMENTS].into(), &values)?;
    Ok((IDENTITY.to_owned(), vec![("x".to_owned(), tensor)], request.binary()?))
}

/// A model of one operator that maps `x` to `y`, both FP32 of two dimensions, as the bytes of an ONNX file.
fn write_identity(folder: &Path) -> Result<()> {
    let number = |field: u8, value: u8| vec![field << 3, value];
    let bytes = |field: u8, content: &[u8]| {
        let length = u8::try_from(content.len()).expect("a small model");
        assert!(length < 128, "a length of one byte");
        [&[field << 3 | 2, length], content].concat()
    };
    let dim = |name: &[u8]| bytes(1, &bytes(2, name));
    let shape = bytes(2, &[dim(b"n"), dim(b"m")].concat());
    let kind = bytes(1, &[number(1, 1), shape].concat());
    let value = |name: &[u8]| [bytes(1, name), bytes(2, &kind)].concat();
    let node = [bytes(1, b"x"), bytes(2, b"y"), bytes(4, b"Identity")].concat();
    let graph = [
        bytes(1, &node),
        bytes(2, b"g"),
        bytes(11, &value(b"x")),
        bytes(12, &value(b"y")),
    ];
    let opset = bytes(8, &[bytes(1, b""), number(2, 15)].concat());
    let file = [number(1, 8), bytes(7, &graph.concat()), opset].concat();
    fs::create_dir_all(folder.join("1"))?;
    fs::write(folder.join("1/model.onnx"), file)?;
    Ok(fs::write(folder.join("model.toml"), "")?)
}

struct Comparison<'a> {
    runtime: &'a Runtime,
    model: Model,
    inputs: Vec<(String, Tensor)>,
    gateway: SocketAddr,
    request: Vec<u8>,
    duration: Duration,
    rounds: usize,
}

#[derive(Clone, Copy)]
struct Figures {
    per_second: f64,
    p50: Duration,
    p99: Duration,
    /// CPU time of the thread that sends, a request.
    sender: Duration,
}

impl Comparison<'_> {
    fn print(&self, in_flight: usize) -> Result<()> {
        let sides: Vec<Side<'_, Figures, Box<dyn Error>>> = vec![
            Box::new(|| self.through_the_gateway(in_flight)),
            Box::new(|| self.directly(in_flight)),
        ];
        let rounds = in_turns(self.rounds, sides)?;
        let of = |figure: &dyn Fn(&[Figures]) -> f64| median(rounds.iter().map(|round| figure(round)));
        let us = |duration: Duration| duration.as_secs_f64() * 1e6;
        println!(
            "{:<16} {in_flight:>9} | {:>9.0} {:>9.0} {:>6.2} | {:>7.0}µs {:>7.0}µs | {:>7.0}µs {:>7.0}µs {:>6.2} | {:>6.1}µs {:>6.1}µs",
            self.model.name().as_str(),
            of(&|round| round[0].per_second),
            of(&|round| round[1].per_second),
            of(&|round| round[1].per_second / round[0].per_second),
            of(&|round| us(round[0].p50)),
            of(&|round| us(round[1].p50)),
            of(&|round| us(round[0].p99)),
            of(&|round| us(round[1].p99)),
            of(&|round| us(round[1].p99) / us(round[0].p99)),
            of(&|round| us(round[0].sender)),
            of(&|round| us(round[1].sender)),
        );
        Ok(())
    }

    fn through_the_gateway(&self, in_flight: usize) -> Result<Figures> {
        let load = Load {
            address: self.gateway,
            connections: in_flight,
            request: self.request.clone(),
            warm_up: WARM_UP,
            duration: self.duration,
        };
        let report = load.run()?;
        if report.errors > 0 {
            return Err(format!("{} errors, the first: {:?}", report.errors, report.first_error).into());
        }
        Ok(Figures {
            per_second: report.requests_per_second,
            p50: report.p50,
            p99: report.p99,
            sender: report.generator_cpu_per_request(),
        })
    }

    fn directly(&self, in_flight: usize) -> Result<Figures> {
        self.runtime.block_on(async {
            let begins = Instant::now() + WARM_UP;
            let ends = begins + self.duration;
            let inputs = Arc::new(self.inputs.clone());
            let mut tasks = JoinSet::new();
            for _ in 0..in_flight {
                tasks.spawn(ask_until(self.model.clone(), Arc::clone(&inputs), begins, ends));
            }
            tokio::time::sleep_until(begins.into()).await;
            let before = cpu();
            tokio::time::sleep_until(ends.into()).await;
            let cpu = cpu() - before;
            let (mut latencies, mut answered) = (Histogram::<u64>::new(3)?, 0);
            while let Some(asked) = tasks.join_next().await {
                let asked = asked?.map_err(|error| -> Box<dyn Error> { error })?;
                latencies.add(&asked.latencies)?;
                answered += asked.answered;
            }
            let at = |quantile| Duration::from_nanos(latencies.value_at_quantile(quantile));
            Ok(Figures {
                per_second: f64::from(answered) / self.duration.as_secs_f64(),
                p50: at(0.5),
                p99: at(0.99),
                sender: cpu / answered.max(1),
            })
        })
    }
}

struct Asked {
    /// Of the requests that were sent within the window.
    latencies: Histogram<u64>,
    /// Those that came back within it.
    answered: u32,
}

async fn ask_until(
    model: Model,
    inputs: Arc<Vec<(String, Tensor)>>,
    begins: Instant,
    ends: Instant,
) -> Result<Asked, Box<dyn Error + Send + Sync>> {
    let (mut latencies, mut answered) = (Histogram::new(3)?, 0);
    loop {
        let sent = Instant::now();
        if sent >= ends {
            return Ok(Asked { latencies, answered });
        }
        let answer = model.infer(inputs.iter().cloned()).await?;
        if answer.outputs.iter().any(|(_, tensor)| tensor.elements() == 0) {
            return Err("an output is empty".into());
        }
        let came = Instant::now();
        if sent >= begins {
            latencies.record(u64::try_from((came - sent).as_nanos())?)?;
        }
        answered += u32::from(came >= begins && came < ends);
    }
}

/// CPU time of this thread.
fn cpu() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}
