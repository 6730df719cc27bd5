//! The first runs of an instance, before it serves.
//!
//! A runtime allocates and plans on the first run of each shape; a caller should not wait for that.

use grid_core::model::Signature;
use grid_core::model::manifest::Manifest;

use super::made_up::zeros;
use crate::runtime::{Inputs, Instance, Progress, Work};

/// Steps that one warm-up request may take before it counts as stuck.
const MAX_STEPS: usize = 1000;

/// Runs what the manifest asks for; one request of size 1 in every dynamic dimension when it asks for nothing.
pub(super) fn warm_up(instance: &mut dyn Instance, signature: &Signature, manifest: &Manifest) -> Result<(), String> {
    if manifest.warm_ups.is_empty() {
        return run(instance, zeros(signature, manifest, 1, |_| None)?);
    }
    for warm_up in &manifest.warm_ups {
        for _ in 0..warm_up.count {
            let dims = |name: &str| warm_up.dims.get(name).cloned();
            run(instance, zeros(signature, manifest, warm_up.rows, dims)?)?;
        }
    }
    Ok(())
}

fn run(instance: &mut dyn Instance, inputs: Inputs) -> Result<(), String> {
    let mut work = [Work {
        // Of the warm-ups of an instance one is resident at a time, and lanes count from 1.
        id: 0,
        inputs,
        progress: Progress::Running,
    }];
    for _ in 0..MAX_STEPS {
        instance.step(&mut work);
        if let Progress::Finished(result) = &work[0].progress {
            return result.as_ref().map(drop).map_err(ToString::to_string);
        }
    }
    Err(format!("not finished after {MAX_STEPS} steps"))
}
