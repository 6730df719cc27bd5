//! Tensors in a message: the head describes them, the body holds their bytes at offsets that are multiples of 64.

use serde::{Deserialize, Serialize};

use crate::tensor::{ALIGNMENT, AlignedBytes, Buffer, DataType, Shape, Tensor, TensorError};

/// Most dimensions of a tensor in a message.
pub const MAX_DIMENSIONS: usize = 64;

/// A tensor as a message's head describes it. Its bytes lie in the body, behind those of the tensors before it, from the next
/// multiple of 64 on. A tensor without bytes takes no place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorHead {
    /// Type of the elements.
    pub data_type: DataType,
    /// Sizes of the dimensions, outermost first.
    pub shape: Vec<u64>,
    /// Bytes in the body.
    pub bytes: u64,
}

/// Why a body does not hold the tensors that its head describes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// A tensor reaches past the end of the body.
    #[error("tensor {index} reaches past the end of the body of {body} bytes")]
    Short {
        /// Which tensor, from 0.
        index: usize,
        /// Bytes of the body.
        body: usize,
    },
    /// The body is longer than its tensors.
    #[error("the body has {body} bytes, its tensors take {expected}")]
    Long {
        /// Bytes that the tensors take.
        expected: usize,
        /// Bytes of the body.
        body: usize,
    },
    /// A size cannot be addressed here.
    #[error("tensor {index} has a dimension of size {size}, or more than {MAX_DIMENSIONS} dimensions")]
    Shape {
        /// Which tensor, from 0.
        index: usize,
        /// The largest size.
        size: u64,
    },
    /// Type, shape and bytes contradict each other.
    #[error("tensor {index}: {source}")]
    Tensor {
        /// Which tensor, from 0.
        index: usize,
        /// How.
        source: TensorError,
    },
}

/// Where the next part of a body begins, behind `end` bytes.
pub fn next_offset(end: usize) -> Option<usize> {
    end.checked_next_multiple_of(ALIGNMENT)
}

/// The heads of these tensors, and the length in bytes of the body that holds them.
pub fn lay_out(tensors: &[Tensor]) -> (Vec<TensorHead>, usize) {
    let mut end = 0usize;
    let heads = tensors.iter().map(|tensor| {
        let bytes = tensor.data().len();
        if bytes > 0 {
            // What lies in memory all at once cannot overflow.
            end = end.next_multiple_of(ALIGNMENT) + bytes;
        }
        TensorHead {
            data_type: tensor.data_type(),
            shape: tensor.shape().dims().iter().map(|&size| size as u64).collect(),
            bytes: tensor.data().len() as u64,
        }
    });
    (heads.collect(), end)
}

/// The tensors of a body, which they share.
///
/// # Errors
/// When the body does not hold exactly the tensors that are described.
pub fn tensors(heads: &[TensorHead], body: &Buffer) -> Result<Vec<Tensor>, MessageError> {
    let mut end = 0usize;
    let mut tensors = Vec::with_capacity(heads.len());
    for (index, head) in heads.iter().enumerate() {
        let short = || MessageError::Short {
            index,
            body: body.len(),
        };
        let data = if head.bytes == 0 {
            AlignedBytes::default().freeze()
        } else {
            let start = next_offset(end).ok_or_else(short)?;
            let bytes = usize::try_from(head.bytes).map_err(|_| short())?;
            end = start.checked_add(bytes).ok_or_else(short)?;
            body.slice(start, end).ok_or_else(short)?
        };
        let tensor = Tensor::new(head.data_type, shape(index, head)?, data);
        tensors.push(tensor.map_err(|source| MessageError::Tensor { index, source })?);
    }
    match body.len() == end {
        true => Ok(tensors),
        false => Err(MessageError::Long {
            expected: end,
            body: body.len(),
        }),
    }
}

fn shape(index: usize, head: &TensorHead) -> Result<Shape, MessageError> {
    let sizes = head.shape.iter().map(|&size| usize::try_from(size));
    match sizes.collect::<Result<Vec<_>, _>>() {
        Ok(sizes) if sizes.len() <= MAX_DIMENSIONS => Ok(Shape::new(&sizes)),
        _ => Err(MessageError::Shape {
            index,
            size: head.shape.iter().copied().max().unwrap_or(0),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn body_of(tensors: &[Tensor], total: usize) -> Buffer {
        let mut body = AlignedBytes::with_capacity(total);
        for tensor in tensors.iter().filter(|tensor| !tensor.data().is_empty()) {
            body.resize(next_offset(body.len()).unwrap());
            body.extend_from_slice(tensor.data().as_slice());
        }
        assert_eq!(body.len(), total);
        body.freeze()
    }

    fn any_head() -> impl Strategy<Value = TensorHead> {
        let sizes = prop::collection::vec(prop_oneof![0u64..4, any::<u64>()], 0..4);
        (
            any::<prop::sample::Index>(),
            sizes,
            prop_oneof![0u64..200, any::<u64>()],
        )
            .prop_map(|(index, shape, bytes)| TensorHead {
                data_type: *index.get(&crate::tensor::ALL_DATA_TYPES),
                shape,
                bytes,
            })
    }

    proptest! {
        #[test]
        fn tensors_read_back_where_they_lie(values in prop::collection::vec(prop::collection::vec(any::<u32>(), 0..50), 0..6)) {
            let tensors_in: Vec<Tensor> = values
                .iter()
                .map(|values| Tensor::from_values([values.len()].into(), values).unwrap())
                .collect();
            let (heads, total) = lay_out(&tensors_in);
            let body = body_of(&tensors_in, total);
            let tensors_out = tensors(&heads, &body).unwrap();
            prop_assert_eq!(&tensors_out, &tensors_in);
            let within = body.as_slice().as_ptr_range();
            for tensor in tensors_out.iter().filter(|tensor| !tensor.data().is_empty()) {
                prop_assert!(within.contains(&tensor.data().as_slice().as_ptr()));
                prop_assert_eq!(tensor.data().as_slice().as_ptr() as usize % ALIGNMENT, 0);
            }
        }

        #[test]
        fn no_heads_panic(heads in prop::collection::vec(any_head(), 0..5), length in 0usize..400) {
            let _ = tensors(&heads, &AlignedBytes::zeroed(length).freeze());
        }
    }

    #[test]
    fn a_body_that_is_too_short_or_too_long_is_refused() {
        let tensor = Tensor::from_values([3].into(), &[1u8, 2, 3]).unwrap();
        let (heads, total) = lay_out(std::slice::from_ref(&tensor));
        assert_eq!(total, 3);
        let short = tensors(&heads, &AlignedBytes::zeroed(2).freeze()).unwrap_err();
        assert_eq!(short, MessageError::Short { index: 0, body: 2 });
        let long = tensors(&heads, &AlignedBytes::zeroed(4).freeze()).unwrap_err();
        assert_eq!(long, MessageError::Long { expected: 3, body: 4 });
    }
}
