//! Whatever happens to a grid, what was promised holds.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use grid_simulation::{random, scenario};

/// Seeds that are run: half a minute on two cores. `cargo run --release -p grid-simulation -- --seeds 5000` runs more.
const SEEDS: u64 = 200;

#[test]
fn what_was_promised_holds_under_faults_and_the_grid_comes_to_rest_after_them() {
    let (began, next, failed) = (Instant::now(), AtomicU64::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= SEEDS {
                        return;
                    }
                    let report = scenario::run(&random::scenario(seed));
                    if !report.violations.is_empty() {
                        failed.lock().unwrap().push((seed, report.to_string()));
                    }
                }
            });
        }
    });
    println!("{SEEDS} seeds in {:?}", began.elapsed());
    let mut failed = failed.into_inner().unwrap();
    failed.sort();
    let seeds: Vec<u64> = failed.iter().map(|(seed, _)| *seed).collect();
    assert!(failed.is_empty(), "seeds {seeds:?}; the first: {}", failed[0].1);
}
