//! Tensors that no request brought: zeros for a warm-up, the initial values of state tensors.

use grid_core::model::manifest::{Manifest, StateTensor};
use grid_core::model::{Dim, Signature, TensorSpec};
use grid_core::tensor::{AlignedBytes, DataType, Shape, Tensor, append_string};
use half::{bf16, f16};

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

/// For each input, the initial value of the state that it carries, if it carries one.
pub(crate) fn initial_states(signature: &Signature, manifest: &Manifest) -> Result<Vec<Option<Tensor>>, String> {
    let initial = |spec: &TensorSpec, state: &StateTensor| {
        let shape = match &state.shape {
            Some(dims) => Shape::new(dims),
            None => closed_shape(spec, 1),
        };
        filled(spec, &shape, state.initial)
    };
    let inputs = signature.inputs.iter();
    inputs
        .map(|spec| {
            let state = manifest.states.iter().find(|state| state.input == spec.name);
            state.map(|state| initial(spec, state)).transpose()
        })
        .collect()
}

fn closed_shape(spec: &TensorSpec, rows: usize) -> Shape {
    let dims = spec.shape.iter().flatten().enumerate().map(|(index, dim)| match dim {
        Dim::Fixed(size) => *size,
        Dim::Dynamic if index == 0 => rows,
        Dim::Dynamic => 1,
    });
    Shape(dims.collect())
}

fn filled(spec: &TensorSpec, shape: &Shape, value: f64) -> Result<Tensor, String> {
    /// Far over any state or warm-up that makes sense, far under what would harm the node.
    const MOST_BYTES: usize = 1 << 30;
    let too_large = || format!("input `{}`: a made-up tensor of shape {shape} is too large", spec.name);
    let elements = shape.elements().ok_or_else(too_large)?;
    let size = spec.data_type.size().unwrap_or(4);
    if elements.checked_mul(size).is_none_or(|bytes| bytes > MOST_BYTES) {
        return Err(too_large());
    }
    let mut data = AlignedBytes::with_capacity(elements * size);
    // Casts to whole numbers saturate; the manifest's check has compared value and type before.
    let mut repeat = |element: &[u8]| (0..elements).for_each(|_| data.extend_from_slice(element));
    match spec.data_type {
        DataType::Bool => repeat(&[u8::from(value != 0.0)]),
        DataType::Uint8 => repeat(&(value as u8).to_le_bytes()),
        DataType::Uint16 => repeat(&(value as u16).to_le_bytes()),
        DataType::Uint32 => repeat(&(value as u32).to_le_bytes()),
        DataType::Uint64 => repeat(&(value as u64).to_le_bytes()),
        DataType::Int8 => repeat(&(value as i8).to_le_bytes()),
        DataType::Int16 => repeat(&(value as i16).to_le_bytes()),
        DataType::Int32 => repeat(&(value as i32).to_le_bytes()),
        DataType::Int64 => repeat(&(value as i64).to_le_bytes()),
        DataType::Fp16 => repeat(&f16::from_f64(value).to_le_bytes()),
        DataType::Bf16 => repeat(&bf16::from_f64(value).to_le_bytes()),
        DataType::Fp32 => repeat(&(value as f32).to_le_bytes()),
        DataType::Fp64 => repeat(&value.to_le_bytes()),
        DataType::Bytes => (0..elements).for_each(|_| append_string(&mut data, b"")),
    }
    Tensor::new(spec.data_type, shape.clone(), data.freeze()).map_err(|error| format!("input `{}`: {error}", spec.name))
}
