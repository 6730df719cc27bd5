//! Tensors that no request brought: zeros for a warm-up.

use grid_core::model::made_up::{closed_shape, filled};
use grid_core::model::manifest::Manifest;
use grid_core::model::{Signature, TensorSpec};
use grid_core::tensor::Shape;

use crate::runtime::Inputs;

/// Inputs of zeros for a run. `dims` names whole shapes; what it leaves open gets `rows` in its first dimension and 1 in
/// the others.
pub(super) fn zeros(
    signature: &Signature,
    manifest: &Manifest,
    rows: usize,
    dims: impl Fn(&str) -> Option<Vec<usize>>,
) -> Result<Inputs, String> {
    let input = |spec: &TensorSpec| {
        let state = manifest.states.iter().find(|state| state.input == spec.name);
        let of_state = || {
            let state = state?;
            let mut shape = state.shape.clone()?;
            if let Some(size) = shape
                .get_mut(state.batch_axis)
                .filter(|_| manifest.batching.max_batch_size > 0)
            {
                *size = rows;
            }
            Some(shape)
        };
        let shape = match dims(&spec.name).or_else(of_state) {
            Some(dims) => Shape::new(&dims),
            None => closed_shape(spec, rows),
        };
        filled(spec, &shape, 0.0)
    };
    signature.inputs.iter().map(input).collect()
}
