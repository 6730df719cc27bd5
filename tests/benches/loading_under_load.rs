//! What loading one model costs the requests of another: p99 of A while B is loaded and unloaded over and over.
//!
//! Calm windows and disturbed ones take turns on one node; ratios are the medians of the ratios of each round. In the
//! closed loop 8 connections take all that the node gives, so B's loader competes with A for the cores; in the open loop A
//! has 30 % of that, and a latency counts from when its request was due. The target is 1.2 for p99.
//!
//! One disturbance is none of the node's: a thread of this process that computes at the loader's niceness. What it costs A
//! the machine takes for any work beside A; what a load costs more is the node's own doing.
//!
//! `cargo bench -p grid-tests --bench loading_under_load -- [ROUNDS [SECONDS]]`

use std::error::Error;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use grid_tests::bench::{
    Arguments, Order, Side, config_of_all_models, in_turns, larger_model, onnxruntime, order, small_request,
};
use grid_tests::load::{Check, Load, LoadReport};
use grid_tests::median;
use grid_tests::process::NodeCommand;

const CONNECTIONS: usize = 8;
/// Share of the closed loop's rate that the open loop asks for.
const OPEN_SHARE: f64 = 0.3;
/// Enough that a request that is due finds one free.
const OPEN_CONNECTIONS: usize = 64;
const TARGET: f64 = 1.2;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::of_process();
    let rounds = arguments.at(0, 5)?;
    let seconds = arguments.at(1, 4.0)?;
    let with_trees = onnxruntime().is_some();
    let steady = if with_trees { "credit_forest" } else { "credit_risk" };
    let mut loaded: Vec<&str> = ["ocr_rec", "minilm"]
        .into_iter()
        .filter(|name| larger_model(name).is_some())
        .collect();
    if loaded.is_empty() {
        println!("the larger models are not there (`configs/fetch all` fetches them): digits is loaded instead");
        loaded.push("digits");
    }
    let text = config_of_all_models(&[steady]);
    let node = NodeCommand::with_config_text(env!("CARGO_BIN_EXE_grid-node-under-test"), text).start()?;
    let load = |connections| Load {
        address: node.address(),
        connections,
        request: Vec::new(),
        warm_up: Duration::from_millis(300),
        duration: Duration::from_secs_f64(seconds),
    };
    let request = small_request(steady)?.json();
    let closed = Load {
        request: request.clone(),
        ..load(CONNECTIONS)
    };
    let capacity = closed.run()?.requests_per_second;
    let open = Load {
        request,
        ..load(OPEN_CONNECTIONS)
    };
    let open_rate = capacity * OPEN_SHARE;
    println!(
        "{steady} under load while another model is loaded and unloaded; {rounds} rounds of {seconds} s; alone, undisturbed, closed: {capacity:.0}/s"
    );
    let mut disturbances = vec![Disturbance::None, Disturbance::Spinning];
    for model in &loaded {
        // Once before, so that its file is in the page cache and its measured size known.
        order(node.address(), model, Order::Load)?;
        order(node.address(), model, Order::Unload)?;
        disturbances.push(Disturbance::Loading(model));
    }
    let mut worst = 0.0_f64;
    for (label, load, rate) in [("closed", &closed, None), ("open", &open, Some(open_rate))] {
        let comparison = Comparison { load, rate };
        worst = worst.max(comparison.print(label, &disturbances, rounds)?);
    }
    println!("the worst ratio of p99 while loading: {worst:.2}; target: at most {TARGET}");
    Ok(())
}

/// What happens beside the load.
#[derive(Clone, Copy)]
enum Disturbance<'a> {
    None,
    /// A thread of this process computes, as nice as the node's loader.
    Spinning,
    /// The node loads and unloads this model.
    Loading(&'a str),
}

/// Niceness of the node's loader thread.
const NICE: i32 = 10;

impl Disturbance<'_> {
    /// Goes on until told to stop. Returns how many times a second the model was loaded and unloaded.
    fn go_on(self, address: SocketAddr, stop: &AtomicBool) -> Result<f64, String> {
        let (start, mut cycles) = (Instant::now(), 0);
        if matches!(self, Self::Spinning) {
            // On Linux this is the niceness of the calling thread alone.
            rustix::process::setpriority_process(None, NICE).map_err(|error| format!("cannot be nice: {error}"))?;
        }
        while !stop.load(Ordering::Relaxed) {
            match self {
                Self::None => return Ok(0.0),
                Self::Spinning => std::hint::spin_loop(),
                Self::Loading(model) => {
                    order(address, model, Order::Load)?;
                    order(address, model, Order::Unload)?;
                    cycles += 1;
                }
            }
        }
        Ok(f64::from(cycles) / start.elapsed().as_secs_f64())
    }

    fn name(self) -> String {
        match self {
            Self::None => "calm".to_owned(),
            Self::Spinning => "beside a spinning thread".to_owned(),
            Self::Loading(model) => format!("loading {model}"),
        }
    }
}

/// One kind of load, under each disturbance.
struct Comparison<'a> {
    load: &'a Load,
    /// Requests a second of an open loop.
    rate: Option<f64>,
}

/// What one window gave.
struct Window {
    report: LoadReport,
    loads_per_second: f64,
}

impl Comparison<'_> {
    fn window(&self, disturbance: Disturbance<'_>) -> Result<Window, Box<dyn Error>> {
        let stop = AtomicBool::new(false);
        let (report, loads) = std::thread::scope(|scope| {
            let beside = scope.spawn(|| disturbance.go_on(self.load.address, &stop));
            let report = match self.rate {
                Some(rate) => self.load.run_at(rate, &Check::default()),
                None => self.load.run(),
            };
            stop.store(true, Ordering::Relaxed);
            (report, beside.join())
        });
        let report = report?;
        if report.errors > 0 {
            return Err(format!("{} errors, the first: {:?}", report.errors, report.first_error).into());
        }
        Ok(Window {
            report,
            loads_per_second: loads.map_err(|_| "the thread that disturbs panicked")??,
        })
    }

    /// Measures and prints; returns the worst ratio of p99 while a model is loaded.
    fn print(&self, label: &str, disturbances: &[Disturbance<'_>], rounds: usize) -> Result<f64, Box<dyn Error>> {
        let sides = disturbances
            .iter()
            .map(|&disturbance| -> Side<'_, Window, Box<dyn Error>> { Box::new(move || self.window(disturbance)) });
        let rows = in_turns(rounds, sides.collect())?;
        println!(
            "{:<28} {:>9} {:>6} | {:>9} {:>6} | {:>9} {:>6} | {:>9} | {:>7}",
            format!("{label} loop"),
            "A's req/s",
            "ratio",
            "p50",
            "ratio",
            "p99",
            "ratio",
            "p99.9",
            "loads/s"
        );
        let mut worst = 0.0_f64;
        for (side, disturbance) in disturbances.iter().enumerate() {
            let of = |figure: &dyn Fn(&LoadReport) -> f64| {
                let figures = rows
                    .iter()
                    .map(|row| (figure(&row[side].report), figure(&row[0].report)));
                let (value, calm): (Vec<_>, Vec<_>) = figures.unzip();
                let ratios = value.iter().zip(&calm).map(|(value, calm)| value / calm);
                (median(ratios), median(value.iter().copied()))
            };
            let micros = |time: Duration| time.as_secs_f64() * 1e6;
            let (rate_ratio, rate) = of(&|report| report.requests_per_second);
            let (p50_ratio, p50) = of(&|report| micros(report.p50));
            let (p99_ratio, p99) = of(&|report| micros(report.p99));
            let (_, p999) = of(&|report| micros(report.p999));
            println!(
                "  {:<26} {rate:>9.0} {rate_ratio:>6.3} | {p50:>7.0}µs {p50_ratio:>6.2} | {p99:>7.0}µs {p99_ratio:>6.2} | {p999:>7.0}µs | {:>7.1}",
                disturbance.name(),
                median(rows.iter().map(|row| row[side].loads_per_second))
            );
            if let Disturbance::Loading(_) = disturbance {
                worst = worst.max(p99_ratio);
            }
        }
        Ok(worst)
    }
}
