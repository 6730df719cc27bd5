//! Tensors that no request brought: the initial values of state tensors.
//!
//! Whoever puts a request in order fills these in where it leaves them out: a node, or a client library.

use half::{bf16, f16};

use super::manifest::{Manifest, StateTensor};
use super::{Dim, Signature, TensorSpec};
use crate::tensor::{AlignedBytes, DataType, Shape, Tensor, append_string};

/// For each input, the initial value of the state that it carries, if it carries one.
///
/// # Errors
/// Names the input whose state would be too large.
pub fn initial_states(signature: &Signature, manifest: &Manifest) -> Result<Vec<Option<Tensor>>, String> {
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

/// The sizes of a tensor; `rows` where the first is open, 1 where another is.
pub fn closed_shape(spec: &TensorSpec, rows: usize) -> Shape {
    let dims = spec.shape.iter().flatten().enumerate().map(|(index, dim)| match dim {
        Dim::Fixed(size) => *size,
        Dim::Dynamic if index == 0 => rows,
        Dim::Dynamic => 1,
    });
    Shape(dims.collect())
}

/// A tensor whose elements all hold this value.
///
/// # Errors
/// When it would take more than a gigabyte.
pub fn filled(spec: &TensorSpec, shape: &Shape, value: f64) -> Result<Tensor, String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_begins_with_what_the_manifest_says_and_other_inputs_with_nothing() {
        let text = "[[state]]\ninput = 'h'\noutput = 'g'\ninitial = 2.5\nshape = [1, 2]\n";
        let manifest = Manifest::parse("model.toml", text).unwrap();
        let spec = |name: &str| TensorSpec {
            name: name.to_owned(),
            data_type: DataType::Fp32,
            shape: None,
        };
        let signature = Signature {
            inputs: vec![spec("x"), spec("h")],
            outputs: vec![spec("g")],
        };
        let initial = initial_states(&signature, &manifest).unwrap();
        assert_eq!(initial[0], None);
        assert_eq!(initial[1].as_ref().unwrap().values::<f32>(), Some(&[2.5, 2.5][..]));
    }
}
