//! `grid-node check`.

use std::path::Path;
use std::process::ExitCode;

use grid_core::config::NodeConfig;
use grid_core::model::TensorSpec;

use super::why_this_runtime;
use crate::actors::plans;
use crate::loading::{Loaded, return_free_memory};
use crate::node::memory_budget;
use crate::runtime::Runtimes;
use crate::store;

/// Loads every model as a start would, and says what is wrong with which. Only one is in memory at a time; of those
/// before, what they take of the memory budget is kept.
pub(super) fn check(path: &Path, config: NodeConfig) -> ExitCode {
    let runtimes = Runtimes::of_config(&config);
    for line in runtimes.report() {
        println!("{line}");
    }
    let scan = store::scan(&config.models.repositories);
    let mut problems: Vec<String> = scan.problems.iter().map(ToString::to_string).collect();
    let budget = memory_budget(&config);
    let mut reservations = Vec::new();
    for model in scan.models.values() {
        for plan in plans(model, &config) {
            if !config.models.load.includes(&model.name) {
                println!("{} is not loaded at start: `models.load`", plan.id);
                continue;
            }
            match plan.load(&runtimes, &budget, None) {
                Ok(Loaded {
                    model,
                    runtime,
                    reservation,
                    ..
                }) => {
                    let why = why_this_runtime(runtime, &plan.manifest, &config);
                    println!("{} ({runtime}{why})", plan.id);
                    println!("  in:  {}", list(&model.signature().inputs));
                    println!("  out: {}", list(&model.signature().outputs));
                    reservations.push(reservation);
                }
                Err(problem) => problems.push(problem.reason),
            }
            return_free_memory();
        }
    }
    for problem in &problems {
        eprintln!("{problem}");
    }
    if problems.is_empty() {
        println!("{}: ok", path.display());
        ExitCode::SUCCESS
    } else {
        ExitCode::from(super::INVALID)
    }
}

fn list(specs: &[TensorSpec]) -> String {
    let specs: Vec<_> = specs.iter().map(ToString::to_string).collect();
    specs.join(", ")
}
