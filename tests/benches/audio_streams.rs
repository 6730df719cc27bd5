//! How many streams of sound one machine listens to in real time: sequences of Silero VAD, each with a chunk every 32 ms.
//!
//! - Most streams for which 99 in 100 outcomes come within 32 ms of when the chunk was to be sent, none is an error and each
//!   says of the recording what it is known to be: doubled until too many, then bisected, each trial on a fresh node. What
//!   is found must hold for twice as long, or a twentieth less is tried.
//! - The bound is the runtime alone on as many threads as the node has compute threads, in a loop over inputs that lie ready,
//!   one chunk a run and as many as are best: what the cores could carry if nothing else cost anything. The load generator
//!   has its part of the same cores, which is printed beside.
//! - Memory of a stream: growth of a node from none to many that were heard once and wait, and what the budget reserves.
//!
//! `cargo bench -p grid-tests --bench audio_streams -- [SECONDS [FIRST [PER_SOCKET [IDLE]]]]`: the length of a trial, 5; the
//! streams of the first one, 64; streams that share a WebSocket, 32; streams whose memory is measured, 2,000.

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use grid_core::tensor::Tensor;
use grid_node::runtime::Inputs;
use grid_tests::bench::{Arguments, config_of_all_models, larger_model, metric};
use grid_tests::load::{LoadReport, NUMBER, StreamLoad, Streams, Template};
use grid_tests::process::{NodeCommand, NodeProcess};
use grid_tests::repository_root;
use grid_tests::runtime_alone::RuntimeAlone;
use serde_json::{Value, json};

const MODEL: &str = "silero_vad";
const RATE: i64 = 16_000;
/// Samples of a chunk that the one before it had too, and new ones.
const CONTEXT: usize = 64;
const NEW: usize = 512;
const PERIOD: Duration = Duration::from_millis(32);
/// Between two messages of a stream whose memory is measured: a pace that any machine keeps.
const AT_LEISURE: Duration = Duration::from_secs(4);
const FLOAT: usize = size_of::<f32>();
/// Chunks a run of the runtime alone.
const BATCH_SIZES: [usize; 6] = [1, 2, 4, 8, 16, 32];
/// How far an outcome may be from what is known, as batches round otherwise.
const TOLERANCE: f32 = 0.01;
/// Share of a trial before anything is counted.
const UNCOUNTED: f64 = 0.2;

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

fn main() -> Result<()> {
    let arguments = Arguments::of_process();
    let seconds = arguments.at(0, 5.0)?;
    let first = arguments.at(1, 64)?;
    let per_socket = arguments.at(2, 32)?;
    let idle = arguments.at(3, 2000)?;
    let file = larger_model(MODEL).ok_or("Silero VAD is not there: `configs/fetch all` fetches it")?;
    let bench = Bench {
        recording: Recording::read()?,
        per_socket,
    };
    let bounds = bench.bounds(&file, seconds)?;
    let most = bench.search(seconds, first)?;
    for (what, bound) in bounds {
        let share = most as f64 / bound;
        println!("{most} streams are {share:.2} of the {bound:.0} that the cores could carry {what}");
    }
    bench.memory(idle)
}

struct Bench {
    recording: Recording,
    per_socket: usize,
}

/// What one trial gave.
struct Trial {
    report: LoadReport,
    /// CPU time of the node, in cores.
    node: f64,
    chunks_a_run: f64,
}

impl Trial {
    fn passes(&self) -> bool {
        self.report.errors == 0 && self.report.p99 < PERIOD
    }
}

impl Bench {
    /// Streams that the runtime alone could carry, and how. Best last.
    fn bounds(&self, file: &Path, seconds: f64) -> Result<Vec<(String, f64)>> {
        let floor = RuntimeAlone::open(file)?;
        let inputs = |rows| self.recording.inputs(&floor, rows);
        let rates = floor.rows_per_second(&BATCH_SIZES, &inputs, 3, seconds / 5.0)?;
        println!(
            "the runtime alone: {} on {} threads; chunks a second by chunks of a run",
            floor.runtime(),
            floor.threads()
        );
        for (rows, rate) in &rates {
            println!("  {rows:>2}: {rate:>8.0}");
        }
        let streams = |rate: f64| rate * PERIOD.as_secs_f64();
        let one = ("one chunk a run".to_owned(), streams(rates[0].1));
        let best = rates.into_iter().max_by(|(_, one), (_, other)| one.total_cmp(other));
        let best = best.map(|(rows, rate)| (format!("with {rows} chunks a run"), streams(rate)));
        Ok(std::iter::once(one).chain(best).collect())
    }

    fn search(&self, seconds: f64, first: usize) -> Result<usize> {
        println!(
            "{:>8} {:>9} {:>9} {:>9} | {:>6} {:>9} {:>10}",
            "streams", "p50", "p99", "max", "node", "generator", "chunks/run"
        );
        let (mut fits, mut too_many) = (0, first);
        while self.passes(too_many, seconds)? {
            fits = too_many;
            too_many *= 2;
        }
        while too_many - fits > (fits / 20).max(1) {
            let streams = fits.midpoint(too_many);
            if self.passes(streams, seconds)? {
                fits = streams;
            } else {
                too_many = streams;
            }
        }
        while fits > 0 && !self.passes(fits, 2.0 * seconds)? {
            fits -= fits.div_ceil(20);
        }
        Ok(fits)
    }

    fn passes(&self, streams: usize, seconds: f64) -> Result<bool> {
        let trial = self.trial(streams, seconds)?;
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        let report = &trial.report;
        let verdict = match (&report.first_error, trial.passes()) {
            (Some(error), _) => error,
            (None, true) => "",
            (None, false) => "too late",
        };
        println!(
            "{streams:>8} {:>6.2} ms {:>6.2} ms {:>6.2} ms | {:>6.2} {:>9.2} {:>10.1}  {verdict}",
            millis(report.p50),
            millis(report.p99),
            millis(report.max),
            trial.node,
            report.cpu_seconds_of_generator / report.seconds,
            trial.chunks_a_run,
        );
        Ok(trial.passes())
    }

    fn trial(&self, streams: usize, seconds: f64) -> Result<Trial> {
        let node = start_node()?;
        let mut load = self.connect(&node, streams, 0, PERIOD)?;
        load.start()?;
        let rounds = (seconds / PERIOD.as_secs_f64()).ceil();
        let (before, start) = (node.usage()?.cpu, Instant::now());
        let report = load.run(rounds as u64, (rounds * UNCOUNTED) as u64)?;
        let cpu = node.usage()?.cpu - before;
        Ok(Trial {
            report,
            node: cpu.as_secs_f64() / start.elapsed().as_secs_f64(),
            chunks_a_run: chunks_a_run(&node)?,
        })
    }

    fn connect(&self, node: &NodeProcess, streams: usize, first: u64, period: Duration) -> Result<Streams<'_>> {
        let size = (CONTEXT + NEW) * FLOAT;
        let message = json!({
            "inputs": [
                {"name": "sr", "datatype": "INT64", "shape": [], "data": [RATE]},
                {"name": "input", "datatype": "FP32", "shape": [1, CONTEXT + NEW],
                 "parameters": {"binary_data_size": size}},
            ],
            "parameters": {"sequence_id": NUMBER, "binary_data_output": true},
        });
        Ok(Streams::connect(StreamLoad {
            address: node.address(),
            model: MODEL,
            streams,
            first,
            sockets: streams.div_ceil(self.per_socket),
            period,
            message: Template::binary(&message.to_string(), &[], size),
            tensors: Box::new(|number| self.recording.chunk(number)),
            check: Box::new(|number, json, tensors| self.recording.check(number, json, tensors)),
        })?)
    }

    fn memory(&self, streams: usize) -> Result<()> {
        let node = start_node()?;
        // What the first streams of a node cost is not what each costs. They have other names, and live on meanwhile.
        let mut some = self.connect(&node, self.per_socket, 1_000_000, PERIOD)?;
        some.start()?;
        answered(&some.run(16, 0)?)?;
        let look = || -> Result<(f64, f64)> {
            let resident = node.usage()?.resident_bytes;
            Ok((resident as f64, metric(&node, "grid_memory_reserved_bytes")?))
        };
        let (before, reserved_before) = look()?;
        let mut load = self.connect(&node, streams, 0, AT_LEISURE)?;
        let (connected, _) = look()?;
        load.start()?;
        answered(&load.run(1, 0)?)?;
        let (after, reserved_after) = look()?;
        let each = |growth: f64| growth / 1024.0 / streams as f64;
        println!("memory of {streams} streams that were heard once and wait, KiB each");
        println!(
            "  resident: {:.2}, of which their WebSockets {:.2}; reserved of the budget: {:.2}",
            each(after - before),
            each(connected - before),
            each(reserved_after - reserved_before),
        );
        Ok(())
    }
}

fn start_node() -> Result<NodeProcess> {
    let text = config_of_all_models(&[MODEL]);
    Ok(NodeCommand::with_config_text(env!("CARGO_BIN_EXE_grid-node-under-test"), text).start()?)
}

fn answered(report: &LoadReport) -> Result<()> {
    match &report.first_error {
        None => Ok(()),
        Some(error) => Err(error.clone().into()),
    }
}

/// Chunks that were run together on a node, on average.
fn chunks_a_run(node: &NodeProcess) -> Result<f64> {
    let statistics = node.get(&format!("/v2/models/{MODEL}/stats"))?.json()?;
    let sizes = statistics["model_stats"][0]["batch_stats"].as_array();
    let sizes = sizes.ok_or_else(|| format!("no batch_stats in {statistics}"))?;
    let (mut runs, mut chunks) = (0, 0);
    for size in sizes {
        let count = size["compute_infer"]["count"].as_u64().unwrap_or_default();
        runs += count;
        chunks += count * size["batch_size"].as_u64().unwrap_or_default();
    }
    Ok(chunks as f64 / runs as f64)
}

/// The sound that every stream sends, over and over, and what the model is known to say about it.
struct Recording {
    /// As the model takes it, behind one context of silence: FP32, little-endian.
    bytes: Vec<u8>,
    probability: Vec<f32>,
}

impl Recording {
    fn read() -> Result<Self> {
        let folder = repository_root().join("configs/larger").join(MODEL);
        let about: Value = serde_json::from_slice(&std::fs::read(folder.join("speech_expected.json"))?)?;
        let known = about["probability"].as_array().ok_or("no known probabilities")?;
        let known: Option<Vec<f32>> = known.iter().map(|value| Some(value.as_f64()? as f32)).collect();
        let file = std::fs::read(folder.join("speech.wav"))?;
        let place = file.windows(4).position(|bytes| bytes == b"data");
        // Behind the name of the part stands its length.
        let samples = place.and_then(|place| file.get(place + 8..));
        let (samples, _) = samples.ok_or("speech.wav has no sound")?.as_chunks::<2>();
        let silence = std::iter::repeat_n(0.0, CONTEXT);
        let sound = samples
            .iter()
            .map(|sample| f32::from(i16::from_le_bytes(*sample)) / 32768.0);
        Ok(Self {
            bytes: silence.chain(sound).flat_map(f32::to_le_bytes).collect(),
            probability: known.ok_or("a probability that is no number")?,
        })
    }

    /// The chunk of the message of this number, from 1. Behind the end comes the beginning.
    fn chunk(&self, number: u64) -> &[u8] {
        let place = (number as usize - 1) % self.probability.len();
        &self.bytes[place * NEW * FLOAT..(place * NEW + NEW + CONTEXT) * FLOAT]
    }

    /// Whether this is what the model says of a chunk. Behind the end of the recording its state is another one.
    fn check(&self, number: u64, json: &[u8], tensors: &[u8]) -> Result<(), String> {
        let Some(known) = self.probability.get(number as usize - 1) else {
            return Ok(());
        };
        let said = tensors.try_into().map(f32::from_le_bytes);
        match said {
            Ok(said) if (said - known).abs() <= TOLERANCE => Ok(()),
            _ => Err(format!(
                "chunk {number} is {known}, found {said:?}: {}",
                String::from_utf8_lossy(json)
            )),
        }
    }

    /// Inputs of a run of so many different chunks.
    fn inputs(&self, floor: &RuntimeAlone, rows: usize) -> Result<Inputs> {
        let chunks = (0..rows).flat_map(|row| {
            // Not far into the first sentence.
            let (floats, _) = self.chunk(40 + row as u64).as_chunks::<FLOAT>();
            floats.iter().map(|float| f32::from_le_bytes(*float))
        });
        let chunks: Vec<f32> = chunks.collect();
        let tensors = [
            ("input", Tensor::from_values([rows, CONTEXT + NEW].into(), &chunks)?),
            (
                "state",
                Tensor::from_values([2, rows, 128].into(), &vec![0.0_f32; 2 * rows * 128])?,
            ),
            ("sr", Tensor::from_values([0; 0].into(), &[RATE])?),
        ];
        Ok(floor.signature().arrange(tensors, |_| None)?)
    }
}
