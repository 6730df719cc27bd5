//! Runs many seeds, or one with its trace: `grid-simulation --seeds 5000`, `grid-simulation --seed 17`.

use std::process::ExitCode;
use std::time::Instant;

use grid_simulation::{random, scenario};

/// Failing seeds that are told in full.
const TOLD: usize = 3;

fn number(arguments: &[String], name: &str) -> Option<u64> {
    let at = arguments.iter().position(|argument| argument == name)?;
    arguments.get(at + 1)?.parse().ok()
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(seed) = number(&arguments, "--seed") {
        let report = scenario::run(&random::scenario(seed));
        print!("{}", report.trace());
        println!("{report}");
        return ExitCode::from(u8::from(!report.violations.is_empty()));
    }
    let Some(seeds) = number(&arguments, "--seeds") else {
        eprintln!("usage: grid-simulation --seeds COUNT [--from FIRST] | --seed NUMBER");
        return ExitCode::from(2);
    };
    let first = number(&arguments, "--from").unwrap_or(0);
    let began = Instant::now();
    let mut failed = Vec::new();
    for seed in first..first + seeds {
        let report = scenario::run(&random::scenario(seed));
        if report.violations.is_empty() {
            continue;
        }
        failed.push(seed);
        match failed.len() <= TOLD {
            true => println!("{report}"),
            false => println!("seed {seed}: {}", report.violations[0]),
        }
    }
    println!(
        "{seeds} seeds from {first} in {:.1} s; failed: {failed:?}",
        began.elapsed().as_secs_f64()
    );
    ExitCode::from(u8::from(!failed.is_empty()))
}
