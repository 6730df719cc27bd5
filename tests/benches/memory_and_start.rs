//! How soon a node answers, and what it takes of the machine: at rest, at work, and over many loads and unloads.
//!
//! - Time from the start of the process to its first answered inference, and to its readiness, with rten alone, as on a
//!   fresh machine, and with ONNX Runtime. Looked at every 2 ms.
//! - Resident memory and CPU of a node at rest, and memory of the same node at work.
//! - Cycles of load, infer and unload through the API: memory when each has ended, its median and its most within each
//!   tenth of the cycles, and what the budget says. Growth is that of the medians, from the second tenth to the last: the
//!   first one fills caches, and single figures differ by what the allocator happens to keep.
//!
//! `cargo bench -p grid-tests --bench memory_and_start -- [STARTS [SECONDS [CYCLES]]]`

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use grid_tests::bench::{
    Arguments, Order, Side, config_of_all_models, in_turns, larger_model, minilm_request, onnxruntime, order,
    small_request,
};
use grid_tests::load::Load;
use grid_tests::process::{NodeCommand, NodeProcess, exchange};
use grid_tests::{median, repository_root};

const CONNECTIONS: usize = 8;
/// Most MiB that memory may grow by from the second tenth of the cycles to the last.
const GROWTH_TARGET: f64 = 2.0;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::of_process();
    let starts = arguments.at(0, 10)?;
    let seconds = arguments.at(1, 10.0)?;
    let cycles = arguments.at(2, 1000)?;
    let setups = Setup::all()?;
    start_times(&setups, starts)?;
    for setup in &setups {
        rest_and_work(setup, seconds)?;
    }
    println!("\ncycles of load, infer, unload; resident MiB of the node; target: growth below {GROWTH_TARGET} MiB");
    let mut models = vec![("digits", small_request("digits")?.json())];
    if larger_model("minilm").is_some() {
        models.push(("minilm", minilm_request(16)?.binary()?));
    } else {
        println!("MiniLM is not there: `configs/fetch all` fetches it");
    }
    for (model, request) in &models {
        for setup in &setups {
            load_and_unload(setup, model, request, cycles)?;
        }
    }
    Ok(())
}

/// A node with or without ONNX Runtime.
struct Setup {
    runtime: &'static str,
    data_dir: PathBuf,
    /// Where there is nothing, so that no library is found there.
    _nothing: Option<tempfile::TempDir>,
}

impl Setup {
    fn all() -> Result<Vec<Self>, Box<dyn Error>> {
        let nothing = tempfile::TempDir::new()?;
        let mut setups = vec![Self {
            runtime: "rten",
            data_dir: nothing.path().join("data"),
            _nothing: Some(nothing),
        }];
        if onnxruntime().is_some() {
            setups.push(Self {
                runtime: "onnxruntime",
                data_dir: repository_root().join(".grid/data"),
                _nothing: None,
            });
        } else {
            println!("ONNX Runtime is not there: `configs/fetch all` fetches it");
        }
        Ok(setups)
    }

    fn apply(&self, command: NodeCommand) -> NodeCommand {
        let command = command.env("GRID__NODE__DATA_DIR", &self.data_dir);
        match self.runtime {
            // An empty path is none.
            "rten" => command.env("ORT_DYLIB_PATH", ""),
            _ => command,
        }
    }

    fn quickstart(&self) -> NodeCommand {
        let config = repository_root().join("configs/quickstart.toml");
        self.apply(NodeCommand::with_config_file(binary(), config))
    }
}

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_grid-node-under-test"))
}

fn start_times(setups: &[Setup], starts: usize) -> Result<(), Box<dyn Error>> {
    println!(
        "start of the quickstart, ms from the start of the process (median, least, most of {starts}); target: well below 1,000"
    );
    let inference = small_request("credit_risk")?.json();
    let mut sides: Vec<Side<'_, Duration, Box<dyn Error>>> = Vec::new();
    for setup in setups {
        let inference = &inference;
        sides.push(Box::new(move || {
            Ok(setup.quickstart().ready_when(inference.clone()).start()?.ready_after())
        }));
        sides.push(Box::new(move || Ok(setup.quickstart().start()?.ready_after())));
    }
    let rows = in_turns(starts, sides)?;
    for (place, setup) in setups.iter().enumerate() {
        for (offset, what) in ["first inference answered", "ready: all models loaded"]
            .iter()
            .enumerate()
        {
            let times = || rows.iter().map(|row| row[2 * place + offset].as_secs_f64() * 1e3);
            println!(
                "  {:<12} {what:<26} {:>7.1} {:>7.1} {:>7.1}",
                setup.runtime,
                median(times()),
                times().fold(f64::INFINITY, f64::min),
                times().fold(0.0, f64::max)
            );
        }
    }
    Ok(())
}

fn rest_and_work(setup: &Setup, seconds: f64) -> Result<(), Box<dyn Error>> {
    let node = setup.quickstart().start()?;
    println!("\nthe quickstart's node with {}", setup.runtime);
    println!(
        "  ready                              {:>8.1} MiB resident",
        resident(&node)?
    );
    let before = Effort::of(node.id())?;
    std::thread::sleep(Duration::from_secs_f64(seconds));
    let after = Effort::of(node.id())?;
    println!(
        "  at rest for {seconds} s                   {:>8.1} MiB resident; {:.2} ms CPU a second, {:.1} wake-ups a second; target: nothing spins",
        resident(&node)?,
        (after.cpu - before.cpu).as_secs_f64() * 1e3 / seconds,
        (after.wake_ups - before.wake_ups) as f64 / seconds
    );
    for model in ["credit_risk", "digits"] {
        let load = Load {
            address: node.address(),
            connections: CONNECTIONS,
            request: small_request(model)?.json(),
            warm_up: Duration::ZERO,
            duration: Duration::from_secs_f64(seconds / 2.0),
        };
        let (report, most) = std::thread::scope(|scope| {
            let running = scope.spawn(|| load.run());
            let mut most = 0.0_f64;
            while !running.is_finished() {
                std::thread::sleep(Duration::from_millis(20));
                most = most.max(resident(&node)?);
            }
            let report = running.join().map_err(|_| "the load generator panicked")??;
            Ok::<_, Box<dyn Error>>((report, most))
        })?;
        if report.errors > 0 {
            return Err(format!("{} errors, the first: {:?}", report.errors, report.first_error).into());
        }
        println!(
            "  {:<34} {most:>8.1} MiB resident at most, {:.1} after it; {:.0} requests/s",
            format!("{model}, {CONNECTIONS} connections"),
            resident(&node)?,
            report.requests_per_second
        );
    }
    Ok(())
}

/// CPU time of all threads of a process, and how often they were woken.
struct Effort {
    cpu: Duration,
    wake_ups: u64,
}

impl Effort {
    /// From the scheduler's own statistics, in nanoseconds: the ticks of `/proc/ID/stat` are too coarse for a node at rest.
    fn of(id: u32) -> Result<Self, Box<dyn Error>> {
        let mut effort = Self {
            cpu: Duration::ZERO,
            wake_ups: 0,
        };
        for thread in std::fs::read_dir(format!("/proc/{id}/task"))? {
            let folder = thread?.path();
            let times = std::fs::read_to_string(folder.join("schedstat"))?;
            let ran = times.split_whitespace().next().ok_or("an empty schedstat")?;
            effort.cpu += Duration::from_nanos(ran.parse()?);
            let status = std::fs::read_to_string(folder.join("status"))?;
            let switches = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
                .ok_or("no count of context switches")?;
            effort.wake_ups += switches.trim().parse::<u64>()?;
        }
        Ok(effort)
    }
}

fn load_and_unload(setup: &Setup, model: &str, request: &[u8], cycles: usize) -> Result<(), Box<dyn Error>> {
    // Another model stays loaded, so that the budget has something to return to.
    let text = config_of_all_models(&["credit_risk"]);
    let node = setup.apply(NodeCommand::with_config_text(binary(), text)).start()?;
    let address = node.address();
    let reserved_before = reserved(&node)?;
    let before = resident(&node)?;
    let mut sizes = Vec::new();
    let mut spent = [Duration::ZERO; 3];
    for cycle in 1..=cycles {
        let start = Instant::now();
        order(address, model, Order::Load)?;
        let loaded = Instant::now();
        let answer = exchange(address, &closing(request))?;
        if answer.status != 200 {
            return Err(format!("cycle {cycle}: {} {}", answer.status, answer.text()).into());
        }
        let answered = Instant::now();
        order(address, model, Order::Unload)?;
        spent[0] += loaded - start;
        spent[1] += answered - loaded;
        spent[2] += answered.elapsed();
        sizes.push(resident(&node)?);
    }
    let tenth = (cycles / 10).max(1);
    let medians: Vec<f64> = sizes.chunks(tenth).map(|tenth| median(tenth.iter().copied())).collect();
    let most = |tenth: &[f64]| tenth.iter().copied().fold(0.0, f64::max);
    let growth = medians.last().unwrap_or(&f64::NAN) - medians.get(1).unwrap_or(&f64::NAN);
    let average = spent.map(|time| time.as_secs_f64() * 1e3 / cycles as f64);
    println!("  {model} with {}: {before:.1} before", setup.runtime);
    println!(
        "    median of every {tenth} cycles: {}",
        joined(medians.iter().copied())
    );
    println!(
        "    most of every {tenth} cycles:   {}",
        joined(sizes.chunks(tenth).map(most))
    );
    println!(
        "    growth: {growth:+.2} MiB; a cycle: load {:.1} ms, infer {:.1} ms, unload {:.1} ms",
        average[0], average[1], average[2]
    );
    let reserved_after = reserved(&node)?;
    let verdict = if reserved_after == reserved_before {
        "returned"
    } else {
        "NOT returned"
    };
    println!("    reserved bytes: {reserved_before} before, {reserved_after} after: {verdict}");
    Ok(())
}

fn joined(figures: impl Iterator<Item = f64>) -> String {
    figures
        .map(|figure| format!("{figure:.1}"))
        .collect::<Vec<_>>()
        .join(" ")
}

/// The same request, asking for the end of its connection.
fn closing(request: &[u8]) -> Vec<u8> {
    let line = request.iter().position(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    [&request[..line], b"Connection: close\r\n", &request[line..]].concat()
}

/// Resident MiB.
fn resident(node: &NodeProcess) -> Result<f64, Box<dyn Error>> {
    Ok(node.usage()?.resident_bytes as f64 / f64::from(1 << 20))
}

/// What the budget has given away, from the node's metrics.
fn reserved(node: &NodeProcess) -> Result<u64, Box<dyn Error>> {
    let text = node.get("/metrics")?.text();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix("grid_memory_reserved_bytes "))
        .ok_or("no grid_memory_reserved_bytes in the metrics")?;
    Ok(value.trim().parse::<f64>()? as u64)
}
