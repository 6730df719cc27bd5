//! What loading one model costs the requests of another: p99 of A while B is loaded and unloaded over and over.
//!
//! Windows with and without the disturbance take turns on one node; ratios are the medians of the ratios of each round.
//! In the closed loop 8 connections take all that the node gives, so B's loader competes with A for the cores; in the open
//! loop A has 30 % of that, and a latency counts from when its request was due. The target is 1.2 for p99.
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
    println!(
        "{:<28} {:>9} {:>9} | {:>8} {:>8} {:>6} | {:>8} {:>8} {:>6} | {:>8} {:>8} | {:>8}",
        "",
        "calm/s",
        "under/s",
        "calm50",
        "under50",
        "ratio",
        "calm99",
        "under99",
        "ratio",
        "calm999",
        "under999",
        "loads/s"
    );
    let mut worst = 0.0_f64;
    for model in &loaded {
        // Once before, so that its file is in the page cache and its measured size known.
        order(node.address(), model, Order::Load)?;
        order(node.address(), model, Order::Unload)?;
        for (label, load, rate) in [("closed", &closed, None), ("open", &open, Some(open_rate))] {
            let comparison = Comparison {
                load,
                rate,
                address: node.address(),
                model,
            };
            worst = worst.max(comparison.print(label, rounds)?);
        }
    }
    println!("the worst ratio of p99: {worst:.2}; target: at most {TARGET}");
    Ok(())
}

/// One kind of load, with and without one model being loaded.
struct Comparison<'a> {
    load: &'a Load,
    /// Requests a second of an open loop.
    rate: Option<f64>,
    address: SocketAddr,
    model: &'a str,
}

impl Comparison<'_> {
    fn calm(&self) -> Result<LoadReport, Box<dyn Error>> {
        let report = match self.rate {
            Some(rate) => self.load.run_at(rate, &Check::default())?,
            None => self.load.run()?,
        };
        if report.errors > 0 {
            return Err(format!("{} errors, the first: {:?}", report.errors, report.first_error).into());
        }
        Ok(report)
    }

    /// The same with the disturbance, and how many times a second the model was loaded and unloaded.
    fn disturbed(&self) -> Result<(LoadReport, f64), Box<dyn Error>> {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let loading = scope.spawn(|| -> Result<f64, String> {
                let (start, mut cycles) = (Instant::now(), 0);
                while !stop.load(Ordering::Relaxed) {
                    order(self.address, self.model, Order::Load)?;
                    order(self.address, self.model, Order::Unload)?;
                    cycles += 1;
                }
                Ok(f64::from(cycles) / start.elapsed().as_secs_f64())
            });
            let report = self.calm();
            stop.store(true, Ordering::Relaxed);
            let cycles = loading.join().map_err(|_| "the thread that loads panicked")??;
            Ok((report?, cycles))
        })
    }

    /// Measures and prints; returns the ratio of p99.
    fn print(&self, label: &str, rounds: usize) -> Result<f64, Box<dyn Error>> {
        let sides: Vec<Side<'_, (LoadReport, f64), Box<dyn Error>>> =
            vec![Box::new(|| Ok((self.calm()?, 0.0))), Box::new(|| self.disturbed())];
        let rows = in_turns(rounds, sides)?;
        let of = |side: usize, figure: &dyn Fn(&LoadReport) -> f64| median(rows.iter().map(|row| figure(&row[side].0)));
        let ratio =
            |figure: &dyn Fn(&LoadReport) -> f64| median(rows.iter().map(|row| figure(&row[1].0) / figure(&row[0].0)));
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        let rate = |report: &LoadReport| report.requests_per_second;
        let p50 = |report: &LoadReport| micros(report.p50);
        let p99 = |report: &LoadReport| micros(report.p99);
        let p999 = |report: &LoadReport| micros(report.p999);
        println!(
            "{:<28} {:>9.0} {:>9.0} | {:>6.0}µs {:>6.0}µs {:>6.2} | {:>6.0}µs {:>6.0}µs {:>6.2} | {:>6.0}µs {:>6.0}µs | {:>8.1}",
            format!("{label}, loading {}", self.model),
            of(0, &rate),
            of(1, &rate),
            of(0, &p50),
            of(1, &p50),
            ratio(&p50),
            of(0, &p99),
            of(1, &p99),
            ratio(&p99),
            of(0, &p999),
            of(1, &p999),
            median(rows.iter().map(|row| row[1].1))
        );
        Ok(ratio(&p99))
    }
}
