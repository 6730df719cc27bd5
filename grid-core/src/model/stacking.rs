//! Which requests of a model can be computed in one run, and along which dimensions they are joined.
//!
//! Most models have their rows in the first dimension of every tensor. A recurrent model's state often has them in its
//! second (ONNX's own LSTM does), and some inputs are not of a row at all but of the run: a sampling rate, say. Requests
//! that agree in such an input, and in all other sizes, run together.

use super::{Signature, TensorSpec};
use crate::model::manifest::{Manifest, StateTensor};
use crate::tensor::{DataType, Tensor};

/// Along which dimension each tensor of a model grows with the rows of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StackAxes {
    /// For each input in the order of the signature; `None` for one that is shared by all rows of a run.
    pub inputs: Vec<Option<usize>>,
    /// For each output.
    pub outputs: Vec<usize>,
}

/// What decides with whom a request can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackKey {
    /// Requests of the same key can run together. Two that differ in their sizes and share it by bad luck would fail to
    /// stack and then run alone.
    pub key: u64,
    /// Rows of the request.
    pub rows: usize,
}

/// An input whose rows are not those of the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnevenRows {
    /// Position of the input.
    pub input: usize,
    /// Its rows.
    pub found: usize,
    /// Position of the input that it was compared with.
    pub with: usize,
    /// The rows of that one.
    pub expected: usize,
}

/// Why the requests of a model cannot be stacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotStackable<'s> {
    /// A tensor holds byte strings.
    Strings(&'s TensorSpec),
    /// The size in which the rows of a tensor would be is not open.
    Fixed {
        /// The tensor.
        spec: &'s TensorSpec,
        /// The dimension.
        axis: usize,
    },
    /// No input has rows.
    NoRows,
}

impl StackAxes {
    /// The axes that a manifest gives to a model's tensors.
    ///
    /// # Errors
    /// What is in the way.
    pub fn of<'s>(manifest: &Manifest, signature: &'s Signature) -> Result<Self, NotStackable<'s>> {
        let grows = |spec: &'s TensorSpec, state: Option<&StateTensor>| {
            let axis = state.map_or(0, |state| state.batch_axis);
            // Where the file does not tell the rank of a state, the manifest's word counts.
            let open = spec.has_dynamic(axis) || (state.is_some() && spec.shape.is_none());
            match spec.data_type {
                DataType::Bytes => Err(NotStackable::Strings(spec)),
                _ if open => Ok(axis),
                _ => Err(NotStackable::Fixed { spec, axis }),
            }
        };
        let state =
            |name: &str, side: fn(&StateTensor) -> &String| manifest.states.iter().find(|state| side(state) == name);
        let input = |spec: &'s TensorSpec| {
            if manifest.batching.shared.contains(&spec.name) {
                return Ok(None);
            }
            grows(spec, state(&spec.name, |state| &state.input)).map(Some)
        };
        let inputs: Vec<_> = signature.inputs.iter().map(input).collect::<Result<_, _>>()?;
        let output = |spec: &'s TensorSpec| grows(spec, state(&spec.name, |state| &state.output));
        let outputs = signature.outputs.iter().map(output).collect::<Result<_, _>>()?;
        match inputs.iter().any(Option::is_some) {
            true => Ok(Self { inputs, outputs }),
            false => Err(NotStackable::NoRows),
        }
    }

    /// Rows of a request, and with whom it can run.
    ///
    /// # Errors
    /// When its inputs have different numbers of rows.
    pub fn key(&self, inputs: &[Tensor]) -> Result<StackKey, UnevenRows> {
        let mut first: Option<(usize, usize)> = None;
        // FNV-1a over the sizes that must agree, and over the values of what is shared.
        let mut key = 0xcbf2_9ce4_8422_2325_u64;
        let mut mix = |value: u64| key = (key ^ value).wrapping_mul(0x0100_0000_01b3);
        for (position, (tensor, axis)) in inputs.iter().zip(&self.inputs).enumerate() {
            for (index, &dim) in tensor.shape().dims().iter().enumerate() {
                if Some(index) == *axis {
                    let (with, expected) = *first.get_or_insert((position, dim));
                    if dim != expected {
                        return Err(UnevenRows {
                            input: position,
                            found: dim,
                            with,
                            expected,
                        });
                    }
                } else {
                    mix(dim as u64);
                }
            }
            if axis.is_none() {
                tensor.data().as_slice().iter().for_each(|&byte| mix(u64::from(byte)));
            }
            mix(u64::MAX);
        }
        Ok(StackKey {
            key,
            rows: first.map_or(1, |(_, rows)| rows),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Dim;
    use crate::tensor::Shape;

    fn spec(name: &str, dims: Option<&[i64]>) -> TensorSpec {
        let dim = |&size: &i64| usize::try_from(size).map_or(Dim::Dynamic, Dim::Fixed);
        TensorSpec {
            name: name.to_owned(),
            data_type: DataType::Fp32,
            shape: dims.map(|dims| dims.iter().map(dim).collect()),
        }
    }

    fn detector() -> (Manifest, Signature) {
        let text = "[batching]\nmax_batch_size = 8\nshared = ['rate']\n\
                    [[state]]\ninput = 'state'\noutput = 'next'\nshape = [2, 1, 4]\nbatch_axis = 1\n";
        let signature = Signature {
            inputs: vec![
                spec("chunk", Some(&[-1, -1])),
                spec("state", Some(&[2, -1, 4])),
                spec("rate", Some(&[])),
            ],
            outputs: vec![spec("speech", Some(&[-1, 1])), spec("next", None)],
        };
        (Manifest::parse("model.toml", text).unwrap(), signature)
    }

    fn request(rows: [usize; 2], chunk: usize, rate: f32) -> Vec<Tensor> {
        let zeros = |dims: &[usize]| Tensor::from_values(Shape::new(dims), &vec![0f32; dims.iter().product()]).unwrap();
        let rate = Tensor::from_values(Shape::new(&[]), &[rate]).unwrap();
        vec![zeros(&[rows[0], chunk]), zeros(&[2, rows[1], 4]), rate]
    }

    #[test]
    fn a_recurrent_model_is_stacked_along_the_axis_of_its_state_and_by_equal_shared_inputs() {
        let (manifest, signature) = detector();
        let axes = StackAxes::of(&manifest, &signature).unwrap();
        assert_eq!(axes.inputs, [Some(0), Some(1), None]);
        assert_eq!(axes.outputs, [0, 1]);
        let key = |rows, chunk, rate| axes.key(&request(rows, chunk, rate)).unwrap();
        assert_eq!(key([1, 1], 512, 16.0).key, key([3, 3], 512, 16.0).key);
        assert_eq!(key([3, 3], 512, 16.0).rows, 3);
        assert_ne!(key([1, 1], 512, 16.0).key, key([1, 1], 512, 8.0).key);
        assert_ne!(key([1, 1], 512, 16.0).key, key([1, 1], 256, 16.0).key);
        let uneven = axes.key(&request([2, 1], 512, 16.0)).unwrap_err();
        assert_eq!((uneven.input, uneven.found, uneven.with, uneven.expected), (1, 1, 0, 2));
    }

    #[test]
    fn what_is_in_the_way_is_named() {
        let (mut manifest, signature) = detector();
        manifest.batching.shared.clear();
        let refused = StackAxes::of(&manifest, &signature).unwrap_err();
        assert!(matches!(refused, NotStackable::Fixed { spec, axis: 0 } if spec.name == "rate"));
        manifest.batching.shared = ["chunk", "state", "rate"].map(str::to_owned).into();
        assert_eq!(StackAxes::of(&manifest, &signature), Err(NotStackable::NoRows));
    }
}
