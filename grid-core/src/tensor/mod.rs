//! Tensors: a data type, a shape, and bytes that are shared rather than copied.
//!
//! A tensor always holds together: its byte count fits its shape and type, its bytes are aligned for its elements, and
//! the elements of a BYTES tensor are as many as its shape says. [`Tensor::new`] is the only way in.

mod buffer;
mod data_type;
mod stack;
mod strings;

use std::fmt;

use bytemuck::Pod;
use smallvec::SmallVec;

pub use buffer::{ALIGNMENT, AlignedBytes, Buffer};
pub use data_type::{ALL_DATA_TYPES, DataType, UnknownDataType, UnknownDataTypeCode};
pub use stack::{StackError, concatenate, split};
pub use strings::{StringElements, StringsError, append_string};

/// The sizes of a tensor's dimensions, outermost first.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Shape(pub SmallVec<[usize; 4]>);

impl Shape {
    /// Copies the sizes from a slice.
    pub fn new(dims: &[usize]) -> Self {
        Self(SmallVec::from_slice(dims))
    }

    /// The sizes.
    pub fn dims(&self) -> &[usize] {
        &self.0
    }

    /// Number of elements, or `None` when that passes `usize`. A shape without dimensions has one element.
    pub fn elements(&self) -> Option<usize> {
        // A zero anywhere makes the whole product zero, also when the other sizes overflow: a hostile
        // [2^40, 2^40, 0] is an empty tensor, not an error.
        if self.0.contains(&0) {
            return Some(0);
        }
        self.0.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim))
    }

    /// The shape with another outermost size. Does nothing to a shape without dimensions.
    pub fn with_first(&self, first: usize) -> Self {
        let mut shape = self.clone();
        if let Some(dim) = shape.0.first_mut() {
            *dim = first;
        }
        shape
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Self {
        Self::new(&dims)
    }
}

/// Why bytes are not the tensor that its type and shape say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The element count of the shape does not fit into memory.
    #[error("shape {0} has more elements than can be addressed")]
    TooLarge(Shape),
    /// The byte count is not that of the shape and type.
    #[error("{data_type} of shape {shape} takes {expected} bytes, found {found}")]
    ByteCount {
        /// Type of the elements.
        data_type: DataType,
        /// Shape of the tensor.
        shape: Shape,
        /// Bytes that shape and type need.
        expected: usize,
        /// Bytes that came.
        found: usize,
    },
    /// The length-prefixed elements of a BYTES tensor are broken.
    #[error("BYTES of shape {shape}: {source}")]
    Strings {
        /// Shape of the tensor.
        shape: Shape,
        /// What is broken.
        source: StringsError,
    },
}

/// An immutable tensor: row-major, little-endian, cheap to clone.
#[derive(Clone, Debug)]
pub struct Tensor {
    data_type: DataType,
    shape: Shape,
    data: Buffer,
}

impl Tensor {
    /// A tensor over `data`, which must hold exactly the elements of `shape` in row-major order.
    ///
    /// Data that is not aligned for its elements is copied, once.
    ///
    /// # Errors
    /// When byte count, shape and type contradict each other.
    pub fn new(data_type: DataType, shape: Shape, data: Buffer) -> Result<Self, TensorError> {
        let too_large = || TensorError::TooLarge(shape.clone());
        let elements = shape.elements().ok_or_else(too_large)?;
        match data_type.size() {
            Some(size) => {
                let expected = elements.checked_mul(size).ok_or_else(too_large)?;
                if expected != data.len() {
                    return Err(TensorError::ByteCount {
                        data_type,
                        shape,
                        expected,
                        found: data.len(),
                    });
                }
                let aligned = (data.as_slice().as_ptr() as usize).is_multiple_of(size);
                let data = if aligned {
                    data
                } else {
                    AlignedBytes::copy_of(data.as_slice()).freeze()
                };
                Ok(Self { data_type, shape, data })
            }
            None => {
                if let Err(source) = strings::check(data.as_slice(), elements) {
                    return Err(TensorError::Strings { shape, source });
                }
                Ok(Self { data_type, shape, data })
            }
        }
    }

    /// A tensor from typed values.
    ///
    /// # Errors
    /// When the number of values is not that of the shape.
    pub fn from_values<T: Element>(shape: Shape, values: &[T]) -> Result<Self, TensorError> {
        let bytes = AlignedBytes::copy_of(bytemuck::cast_slice(values));
        Self::new(T::DATA_TYPE, shape, bytes.freeze())
    }

    /// Type of the elements.
    pub fn data_type(&self) -> DataType {
        self.data_type
    }

    /// The shape.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The bytes as they travel in the protocol's binary form.
    pub fn data(&self) -> &Buffer {
        &self.data
    }

    /// The same tensor, without keeping anything larger that it is a part of.
    pub fn compact(&self) -> Self {
        Self {
            data_type: self.data_type,
            shape: self.shape.clone(),
            data: self.data.compact(),
        }
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape
            .elements()
            .expect("a tensor's element count was checked when it was made")
    }

    /// The elements as a typed slice; `None` if `T` is not the tensor's type.
    pub fn values<T: Element>(&self) -> Option<&[T]> {
        if T::DATA_TYPE != self.data_type {
            return None;
        }
        bytemuck::try_cast_slice(self.data.as_slice()).ok()
    }

    /// The elements of a BYTES tensor; `None` for any other.
    pub fn strings(&self) -> Option<StringElements<'_>> {
        (self.data_type == DataType::Bytes).then(|| StringElements::new(self.data.as_slice()))
    }
}

impl PartialEq for Tensor {
    fn eq(&self, other: &Self) -> bool {
        self.data_type == other.data_type && self.shape == other.shape && self.data.as_slice() == other.data.as_slice()
    }
}

/// A Rust type whose values are elements of a tensor.
pub trait Element: Pod {
    /// The tensor's data type.
    const DATA_TYPE: DataType;
}

macro_rules! element {
    ($($rust:ty => $name:ident),* $(,)?) => {
        $(impl Element for $rust {
            const DATA_TYPE: DataType = DataType::$name;
        })*
    };
}

element! {
    u8 => Uint8, u16 => Uint16, u32 => Uint32, u64 => Uint64,
    i8 => Int8, i16 => Int16, i32 => Int32, i64 => Int64,
    half::f16 => Fp16, half::bf16 => Bf16, f32 => Fp32, f64 => Fp64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_do_not_fit_the_shape_are_refused_with_both_counts() {
        let data = AlignedBytes::zeroed(12).freeze();
        let error = Tensor::new(DataType::Fp32, [2, 2].into(), data).unwrap_err();
        assert_eq!(error.to_string(), "FP32 of shape [2, 2] takes 16 bytes, found 12");
    }

    #[test]
    fn shapes_that_overflow_are_refused_unless_empty() {
        let huge = usize::MAX / 2;
        let data = || AlignedBytes::default().freeze();
        assert!(Tensor::new(DataType::Fp32, [huge, 4].into(), data()).is_err());
        assert!(Tensor::new(DataType::Fp32, [huge / 3, 4].into(), data()).is_err());
        assert!(Tensor::new(DataType::Fp32, [huge, 4, 0].into(), data()).is_ok());
    }

    #[test]
    fn data_off_its_alignment_is_moved_and_unchanged() {
        let whole = AlignedBytes::copy_of(&[9, 0, 0, 128, 63, 0, 0, 0, 64]).freeze();
        let tensor = Tensor::new(DataType::Fp32, [2].into(), whole.slice(1, 9).unwrap()).unwrap();
        assert_eq!(tensor.values::<f32>(), Some(&[1.0f32, 2.0][..]));
    }
}
