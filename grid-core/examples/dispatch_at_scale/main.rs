//! Dispatch in a grid of 100 clients and 100 servers, in virtual time: round robin, random, least loaded, two choices, the
//! product's own code and Prequal side by side, in the setting of Prequal's paper (Wydrowski, Kleinberg, Rumble, Archer:
//! "Load is not what you should balance", NSDI '24).
//!
//! Requests are 13 ms of one core on average. A server is allocated 2 cores and can use 6 when its neighbours leave them.
//! A request that was refused or failed at once is sent elsewhere under every policy, within the product's retry budget;
//! one without an answer after a second is an error, and counts as a second.
//!
//! `cargo run --release -p grid-core --example dispatch_at_scale [seed] [part of a scenario's name]`

mod policy;
mod prequal;
mod scenario;
mod server;
mod simulation;

use policy::Policy;
use scenario::Scenario;
use simulation::{Outcome, Simulation};

/// Time since the simulation began.
type Nanos = u64;
const MS: Nanos = 1_000_000;
const SECOND: Nanos = 1000 * MS;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let seed = arguments.next().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let wanted = arguments.next().unwrap_or_default();
    println!("latency in ms; errors in a hundred; watched: requests to the odd server over an equal share");
    for scenario in scenario::ramp().iter().chain(&scenario::troubles()) {
        if scenario.name.contains(&wanted) {
            compare(scenario, seed);
        }
    }
}

fn compare(scenario: &Scenario, seed: u64) {
    println!(
        "\n{:<24} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        scenario.name, "p50", "p90", "p99", "p99.9", "errors", "watched"
    );
    let next = &std::sync::atomic::AtomicUsize::new(0);
    let outcomes: Vec<(Policy, Outcome)> = std::thread::scope(|scope| {
        let work = || {
            let mine = std::iter::from_fn(|| {
                let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let policy = *Policy::ALL.get(index)?;
                Some((policy, Simulation::new(scenario, policy, seed).run()))
            });
            mine.collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("a simulation panicked"))
            .collect()
    });
    for policy in Policy::ALL {
        let found = outcomes.iter().find(|(of, _)| *of == policy);
        let Some((_, outcome)) = found else { continue };
        let at = |share: f64| {
            let index = (outcome.latencies.len() as f64 * share) as usize;
            outcome
                .latencies
                .get(index)
                .map_or(0.0, |&nanos| nanos as f64 / MS as f64)
        };
        println!(
            "  {:<22} {:>8.1} {:>8.1} {:>8.1} {:>8.1} {:>8.3} {:>8.2}",
            format!("{policy:?}"),
            at(0.5),
            at(0.9),
            at(0.99),
            at(0.999),
            outcome.errors as f64 * 100.0 / outcome.latencies.len() as f64,
            outcome.watched,
        );
    }
}
