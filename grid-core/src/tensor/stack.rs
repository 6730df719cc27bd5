//! Several tensors as one along a dimension, and back.

use super::{AlignedBytes, Tensor, TensorError};

/// Why tensors cannot be joined or cut.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StackError {
    /// There is nothing to join, or a tensor has not that many dimensions.
    #[error("no dimension {axis} in shape {shape}")]
    NoSuchAxis {
        /// The dimension, counted from 0.
        axis: usize,
        /// The shape that lacks it, as text.
        shape: String,
    },
    /// The tensors differ in more than the size of the dimension.
    #[error("shapes {first} and {other} differ in more than dimension {axis}")]
    Differ {
        /// The dimension that may differ.
        axis: usize,
        /// Shape of the first tensor, as text.
        first: String,
        /// Shape of one that does not fit it, as text.
        other: String,
    },
    /// The sizes to cut into do not sum up to the size of the dimension.
    #[error("dimension {axis} of shape {shape} cannot be cut into {total}")]
    Total {
        /// The dimension.
        axis: usize,
        /// The shape, as text.
        shape: String,
        /// Sum of the sizes.
        total: usize,
    },
    /// Byte strings have no fixed size.
    #[error("tensors of byte strings are not stacked")]
    Strings,
    /// The result is no tensor.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

/// A tensor as rows of bytes: `outer` times the dimension, each element of which is `inner` bytes.
struct Layout {
    outer: usize,
    size: usize,
    inner: usize,
}

impl Layout {
    fn of(tensor: &Tensor, axis: usize) -> Result<Self, StackError> {
        let dims = tensor.shape().dims();
        let element = tensor.data_type().size().ok_or(StackError::Strings)?;
        let Some(&size) = dims.get(axis) else {
            return Err(StackError::NoSuchAxis {
                axis,
                shape: tensor.shape().to_string(),
            });
        };
        // A tensor's bytes were counted when it was made, but an empty one may claim any other sizes.
        let product = |dims: &[usize]| dims.iter().fold(1usize, |product, &dim| product.saturating_mul(dim));
        let empty = tensor.data().is_empty();
        Ok(Self {
            outer: if empty { 0 } else { product(&dims[..axis]) },
            size,
            inner: if empty { 0 } else { product(&dims[axis + 1..]) * element },
        })
    }
}

/// Joins tensors along a dimension, copying each byte once.
///
/// # Errors
/// When they differ in their types or in another dimension, or hold byte strings.
pub fn concatenate(parts: &[&Tensor], axis: usize) -> Result<Tensor, StackError> {
    let Some(first) = parts.first() else {
        return Err(StackError::NoSuchAxis {
            axis,
            shape: "of no tensor".to_owned(),
        });
    };
    let mut shape = first.shape().clone();
    let mut layouts = Vec::with_capacity(parts.len());
    let mut total = 0usize;
    for part in parts {
        let layout = Layout::of(part, axis)?;
        let mut other = part.shape().clone();
        other.0[axis] = shape.0[axis];
        if other != shape || part.data_type() != first.data_type() {
            return Err(StackError::Differ {
                axis,
                first: first.shape().to_string(),
                other: part.shape().to_string(),
            });
        }
        total = total.saturating_add(layout.size);
        layouts.push(layout);
    }
    shape.0[axis] = total;
    let mut bytes = AlignedBytes::with_capacity(parts.iter().map(|part| part.data().len()).sum());
    let outer = layouts.iter().map(|layout| layout.outer).max().unwrap_or(0);
    for row in 0..outer {
        for (part, layout) in parts.iter().zip(&layouts) {
            let length = layout.size * layout.inner;
            bytes.extend_from_slice(&part.data().as_slice()[row * length..(row + 1) * length]);
        }
    }
    Ok(Tensor::new(first.data_type(), shape, bytes.freeze())?)
}

/// Cuts a tensor along a dimension into pieces of these sizes. Along the first dimension the pieces share its memory.
///
/// # Errors
/// When the sizes do not sum up to the dimension, or the tensor holds byte strings.
pub fn split(tensor: &Tensor, axis: usize, sizes: &[usize]) -> Result<Vec<Tensor>, StackError> {
    let layout = Layout::of(tensor, axis)?;
    let total = sizes.iter().try_fold(0usize, |total, &size| total.checked_add(size));
    if total != Some(layout.size) {
        return Err(StackError::Total {
            axis,
            shape: tensor.shape().to_string(),
            total: total.unwrap_or(usize::MAX),
        });
    }
    let mut from = 0;
    sizes
        .iter()
        .map(|&size| {
            let mut shape = tensor.shape().clone();
            shape.0[axis] = size;
            let (start, length) = (from * layout.inner, size * layout.inner);
            from += size;
            let data = match layout.outer {
                0 => AlignedBytes::default().freeze(),
                1 => tensor
                    .data()
                    .slice(start, start + length)
                    .unwrap_or_else(|| AlignedBytes::default().freeze()),
                outer => {
                    let mut bytes = AlignedBytes::with_capacity(outer * length);
                    let row = layout.size * layout.inner;
                    for index in 0..outer {
                        let at = index * row + start;
                        bytes.extend_from_slice(&tensor.data().as_slice()[at..at + length]);
                    }
                    bytes.freeze()
                }
            };
            Ok(Tensor::new(tensor.data_type(), shape, data)?)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{DataType, Shape};
    use proptest::prelude::*;

    fn counted(dims: &[usize], from: f32) -> Tensor {
        let values: Vec<f32> = (0..dims.iter().product()).map(|index| from + index as f32).collect();
        Tensor::from_values(Shape::new(dims), &values).unwrap()
    }

    proptest! {
        #[test]
        fn what_was_joined_is_cut_into_what_it_was(
            dims in prop::collection::vec(0usize..4, 1..4),
            sizes in prop::collection::vec(0usize..4, 1..5),
            axis in 0usize..4,
        ) {
            let axis = axis % dims.len();
            let parts: Vec<_> = sizes.iter().enumerate().map(|(index, &size)| {
                let mut dims = dims.clone();
                dims[axis] = size;
                counted(&dims, 1000.0 * index as f32)
            }).collect();
            let joined = concatenate(&parts.iter().collect::<Vec<_>>(), axis).unwrap();
            prop_assert_eq!(joined.shape().dims()[axis], sizes.iter().sum::<usize>());
            prop_assert_eq!(split(&joined, axis, &sizes).unwrap(), parts);
        }
    }

    #[test]
    fn a_second_dimension_is_interleaved() {
        let (a, b) = (counted(&[2, 1], 0.0), counted(&[2, 2], 10.0));
        let joined = concatenate(&[&a, &b], 1).unwrap();
        assert_eq!(joined.values::<f32>().unwrap(), &[0.0, 10.0, 11.0, 1.0, 12.0, 13.0]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (a, b) = (counted(&[2, 1], 0.0), counted(&[3, 1], 0.0));
        assert!(matches!(concatenate(&[&a, &b], 1), Err(StackError::Differ { .. })));
        assert!(matches!(concatenate(&[&a], 2), Err(StackError::NoSuchAxis { .. })));
        assert!(matches!(concatenate(&[], 0), Err(StackError::NoSuchAxis { .. })));
        assert!(matches!(split(&a, 0, &[1, 2]), Err(StackError::Total { .. })));
        assert!(matches!(split(&a, 0, &[usize::MAX, 3]), Err(StackError::Total { .. })));
        let huge = Tensor::new(
            DataType::Fp32,
            [0, usize::MAX, 8].into(),
            AlignedBytes::default().freeze(),
        )
        .unwrap();
        assert_eq!(
            concatenate(&[&huge, &huge], 0).unwrap().shape().dims(),
            &[0, usize::MAX, 8]
        );
        assert_eq!(split(&huge, 1, &[usize::MAX]).unwrap().len(), 1);
    }
}
