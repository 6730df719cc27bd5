//! What batching over HTTP leaves of the speed of the runtime: MiniLM at 32 connections against the runtime alone.
//!
//! The floor is the runtime in a loop in this process, over rows that are stacked already, at the batch size that is best
//! for it, on as many threads as the node has compute threads, each with an instance of its own. Nodes with several
//! `max_batch_size` and the floor take turns; the others are idle meanwhile. Rows a second; ratios are the medians of the
//! ratios of each round. The target is 0.95 for the best node.
//!
//! `cargo bench -p grid-tests --bench minilm_batching -- [ROUNDS [SECONDS]]`

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use grid_core::tensor::Tensor;
use grid_node::runtime::Inputs;
use grid_tests::bench::{Arguments, Side, in_turns, larger_model, minilm_request, minilm_tokens};
use grid_tests::load::Load;
use grid_tests::process::{NodeCommand, NodeProcess};
use grid_tests::runtime_alone::RuntimeAlone;
use grid_tests::{median, repository_root};

const CONNECTIONS: usize = 32;
const LENGTHS: [usize; 2] = [16, 128];
const BATCH_SIZES: [usize; 6] = [1, 2, 4, 8, 16, 32];
/// `max_batch_size` of the nodes: off, what the repository's manifest says, and more. The floor's best one is added.
const LIMITS: [usize; 3] = [0, 8, 16];
const TARGET: f64 = 0.95;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::of_process();
    let rounds = arguments.at(0, 5)?;
    let seconds = arguments.at(1, 6.0)?;
    let Some(file) = larger_model("minilm") else {
        return Err("MiniLM is not there: `configs/fetch all` fetches it".into());
    };
    let floor = RuntimeAlone::open(&file)?;
    println!(
        "MiniLM, one row a request, binary, {CONNECTIONS} connections; {} with {} compute threads; {rounds} rounds of {seconds} s",
        floor.runtime(),
        floor.threads()
    );
    for length in LENGTHS {
        let best = best_batch_size(&floor, length, rounds.min(3), seconds / 4.0)?;
        let mut limits = LIMITS.to_vec();
        if !limits.contains(&best) {
            limits.push(best);
        }
        let nodes = limits
            .into_iter()
            .map(|limit| BatchingNode::start(&file, limit))
            .collect::<Result<Vec<_>, _>>()?;
        compare(&floor, best, &nodes, length, rounds, seconds)?;
    }
    Ok(())
}

/// What one side did in one round.
#[derive(Default)]
struct Round {
    rows_per_second: f64,
    p99: Duration,
    /// CPU time of the load generator, in cores.
    generator: f64,
    batches: Batches,
    /// From the first request to the last answer: what the node counted in `batches` happened within.
    whole: f64,
}

/// Runs by their rows, and the time that they took together.
#[derive(Clone, Default)]
struct Batches(BTreeMap<u64, (u64, Duration)>);

fn compare(
    floor: &RuntimeAlone,
    best: usize,
    nodes: &[BatchingNode],
    length: usize,
    rounds: usize,
    seconds: f64,
) -> Result<(), Box<dyn Error>> {
    let request = &minilm_request(length)?.binary()?;
    let on_floor = || {
        Ok::<_, Box<dyn Error>>(Round {
            rows_per_second: best as f64 * floor.runs_per_second(&inputs(floor, length, best)?, seconds)?,
            ..Round::default()
        })
    };
    let mut sides: Vec<Side<'_, Round, Box<dyn Error>>> = vec![Box::new(on_floor)];
    for node in nodes {
        sides.push(Box::new(move || node.round(request, seconds)));
    }
    let rows = in_turns(rounds, sides)?;
    let of_side =
        |side: usize, figure: &dyn Fn(&[Round], &Round) -> f64| median(rows.iter().map(|row| figure(row, &row[side])));
    println!(
        "{:<30} {:>8} {:>7} {:>9} {:>6} {:>10}  batch sizes: share of rows",
        format!("{length} tokens"),
        "rows/s",
        "ratio",
        "p99",
        "busy",
        "generator"
    );
    println!(
        "{:<30} {:>8.1} {:>7.3}",
        format!("  floor, batches of {best}"),
        of_side(0, &|_, round| round.rows_per_second),
        1.0
    );
    let mut reached = (0.0, 0);
    for (node, side) in nodes.iter().zip(1..) {
        let ratio = of_side(side, &|row, round| round.rows_per_second / row[0].rows_per_second);
        if ratio > reached.0 {
            reached = (ratio, node.limit);
        }
        let batches = rows
            .iter()
            .fold(Batches::default(), |sum, row| sum.plus(&row[side].batches));
        println!(
            "{:<30} {:>8.1} {:>7.3} {:>6.0} ms {:>5.0}% {:>9.1}%  {}",
            format!("  node, max_batch_size = {}", node.limit),
            of_side(side, &|_, round| round.rows_per_second),
            ratio,
            of_side(side, &|_, round| round.p99.as_secs_f64() * 1e3),
            100.0 * of_side(side, &|_, round| round.batches.busy(round.whole, floor.threads())),
            100.0 * of_side(side, &|_, round| round.generator),
            batches.shares()
        );
    }
    let (ratio, limit) = reached;
    println!("  best: {ratio:.3} of the floor with max_batch_size = {limit}; target: at least {TARGET}\n");
    Ok(())
}

/// The best of [`BATCH_SIZES`] for the runtime alone, which are tried in turns.
fn best_batch_size(floor: &RuntimeAlone, length: usize, rounds: usize, seconds: f64) -> Result<usize, Box<dyn Error>> {
    let by_size = floor.rows_per_second(&BATCH_SIZES, &|rows| inputs(floor, length, rows), rounds, seconds)?;
    let texts: Vec<_> = by_size
        .iter()
        .map(|(rows, rate)| format!("{rows}: {rate:.1}"))
        .collect();
    println!(
        "the runtime alone, {length} tokens, rows/s by rows of a run: {}",
        texts.join(", ")
    );
    let best = by_size.into_iter().max_by(|(_, a), (_, b)| a.total_cmp(b));
    Ok(best.map_or(1, |(rows, _)| rows))
}

fn inputs(floor: &RuntimeAlone, length: usize, rows: usize) -> Result<Inputs, Box<dyn Error>> {
    let tokens = minilm_tokens(length);
    let columns = [
        ("input_ids", tokens),
        ("attention_mask", vec![1; length]),
        ("token_type_ids", vec![0; length]),
    ];
    let mut tensors = Vec::new();
    for (name, row) in &columns {
        let tensor = Tensor::from_values([rows, length].into(), &row.repeat(rows))?;
        tensors.push((*name, tensor));
    }
    Ok(floor.signature().arrange(tensors, |_| None)?)
}

/// How long the load runs before it counts: the first batches are not full.
const WARM_UP: Duration = Duration::from_secs(1);

/// A node that serves MiniLM with a `max_batch_size` of its own.
struct BatchingNode {
    limit: usize,
    node: NodeProcess,
    _repository: tempfile::TempDir,
}

impl BatchingNode {
    fn start(file: &Path, limit: usize) -> Result<Self, Box<dyn Error>> {
        let repository = tempfile::TempDir::new()?;
        let model = repository.path().join("minilm");
        std::fs::create_dir_all(model.join("1"))?;
        std::os::unix::fs::symlink(file.canonicalize()?, model.join("1/model.onnx"))?;
        let manifest = format!("[batching]\nmax_batch_size = {limit}\nmax_queue_delay = \"0ms\"\n");
        std::fs::write(model.join("model.toml"), manifest)?;
        let text = format!(
            "node.data_dir = '{}'\nmodels.repository = '{}'\n",
            repository_root().join(".grid/data").display(),
            repository.path().display()
        );
        let node = NodeCommand::with_config_text(env!("CARGO_BIN_EXE_grid-node-under-test"), text).start()?;
        Ok(Self {
            limit,
            node,
            _repository: repository,
        })
    }

    fn round(&self, request: &[u8], seconds: f64) -> Result<Round, Box<dyn Error>> {
        let before = self.batches()?;
        let load = Load {
            address: self.node.address(),
            connections: CONNECTIONS,
            request: request.to_vec(),
            warm_up: WARM_UP,
            duration: Duration::from_secs_f64(seconds),
        };
        let start = Instant::now();
        let report = load.run()?;
        let whole = start.elapsed().as_secs_f64();
        if report.errors > 0 {
            return Err(format!("{} errors, the first: {:?}", report.errors, report.first_error).into());
        }
        Ok(Round {
            rows_per_second: report.requests_per_second,
            p99: report.p99,
            generator: report.cpu_seconds_of_generator / report.seconds,
            batches: self.batches()?.minus(&before),
            whole,
        })
    }

    fn batches(&self) -> Result<Batches, Box<dyn Error>> {
        let statistics = self.node.get("/v2/models/minilm/stats")?.json()?;
        let sizes = statistics["model_stats"][0]["batch_stats"].as_array();
        let sizes = sizes.ok_or_else(|| format!("no batch_stats in {statistics}"))?;
        let run = |size: &serde_json::Value| {
            let sum = &size["compute_infer"];
            let length = Duration::from_nanos(sum["ns"].as_u64()?);
            Some((size["batch_size"].as_u64()?, (sum["count"].as_u64()?, length)))
        };
        let sizes: Option<BTreeMap<_, _>> = sizes.iter().map(run).collect();
        Ok(Batches(sizes.ok_or("batch_stats without numbers")?))
    }
}

impl Batches {
    fn minus(mut self, before: &Self) -> Self {
        for (rows, (runs, length)) in &before.0 {
            if let Some(mine) = self.0.get_mut(rows) {
                *mine = (mine.0.saturating_sub(*runs), mine.1.saturating_sub(*length));
            }
        }
        self.0.retain(|_, (runs, _)| *runs > 0);
        self
    }

    fn plus(mut self, more: &Self) -> Self {
        for (rows, (runs, length)) in &more.0 {
            let mine = self.0.entry(*rows).or_default();
            *mine = (mine.0 + runs, mine.1 + *length);
        }
        self
    }

    /// The share of the compute threads' time in which they ran the model.
    fn busy(&self, seconds: f64, threads: usize) -> f64 {
        let ran: Duration = self.0.values().map(|(_, length)| *length).sum();
        ran.as_secs_f64() / (seconds * threads as f64)
    }

    fn shares(&self) -> String {
        let all: u64 = self.0.iter().map(|(rows, (runs, _))| rows * runs).sum();
        let share = |(rows, (runs, length)): (&u64, &(u64, Duration))| {
            let share = 100.0 * (rows * runs) as f64 / all as f64;
            let a_row = length.as_secs_f64() * 1e3 / (rows * runs) as f64;
            (share >= 1.0).then(|| format!("{rows}: {share:.0}% ({a_row:.2} ms a row)"))
        };
        self.0.iter().filter_map(share).collect::<Vec<_>>().join(", ")
    }
}
