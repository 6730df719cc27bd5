//! `grid-node check`.

use std::path::Path;
use std::process::ExitCode;

use grid_core::config::NodeConfig;

use crate::actors::plans;
use crate::runtime::Runtimes;
use crate::store;

/// Opens every model as a start would, one after the other, and says what is wrong with which.
pub(super) fn check(path: &Path, config: NodeConfig) -> ExitCode {
    let runtimes = Runtimes::of_config(&config);
    for line in runtimes.report() {
        println!("{line}");
    }
    let scan = store::scan(&config.models.repositories);
    let mut problems: Vec<String> = scan.problems.iter().map(ToString::to_string).collect();
    for model in scan.models.values() {
        for plan in plans(model, &config) {
            match plan.open(&runtimes) {
                Ok((runtime, model)) => {
                    let signature = model.signature();
                    let list = |specs: &[grid_core::model::TensorSpec]| {
                        let specs: Vec<_> = specs.iter().map(ToString::to_string).collect();
                        specs.join(", ")
                    };
                    println!("{} ({runtime})", plan.id);
                    println!("  in:  {}", list(&signature.inputs));
                    println!("  out: {}", list(&signature.outputs));
                }
                Err(problem) => problems.push(problem),
            }
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
