//! What a run costs beside the model itself. Not a test; run it with
//! `cargo test --release -p grid-node -- --ignored --nocapture overhead`.

use std::hint::black_box;
use std::time::Instant;

use super::samples::path_of;
use super::*;
use crate::runtime::rten::on_compute_thread;

/// Nanoseconds a call, of the best of several rounds: the rest is the machine's other work.
fn nanoseconds(mut call: impl FnMut()) -> f64 {
    (0..2000).for_each(|_| call());
    let round = |_| {
        let start = Instant::now();
        (0..2000).for_each(|_| call());
        start.elapsed().as_nanos() as f64 / 2000.0
    };
    (0..20).map(round).fold(f64::INFINITY, f64::min)
}

#[test]
#[ignore = "a measurement"]
fn overhead_of_a_run() {
    for name in ["credit_forest", "credit_risk", "breast_cancer", "digits"] {
        let Some(path) = path_of(name) else { continue };
        for runtime in runtimes() {
            let Ok(model) = open(&*runtime, &path) else { continue };
            let input = example(&*model, 1);
            let mut instance = instance(&*model);
            let mut call = || drop(black_box(run(&mut *instance, [input.clone()]).unwrap()));
            let here = nanoseconds(&mut call);
            let there = on_compute_thread(|| nanoseconds(&mut call));
            println!(
                "{name} {}: {here:.0} ns on any thread, {there:.0} ns on a compute thread",
                runtime.name()
            );
        }
    }
}
