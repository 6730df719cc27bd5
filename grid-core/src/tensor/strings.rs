//! The elements of BYTES tensors: each a length of four little-endian bytes, then that many bytes.

/// What is broken in the bytes of a BYTES tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StringsError {
    /// An element's length reaches past the end.
    #[error("element {index} claims {claimed} bytes, only {left} are left")]
    Truncated {
        /// Which element, from zero.
        index: usize,
        /// Its length prefix (4 where the prefix itself is cut off).
        claimed: usize,
        /// Bytes left behind the prefix.
        left: usize,
    },
    /// There are more bytes than the elements need.
    #[error("{left} bytes are left over after {elements} elements")]
    LeftOver {
        /// Elements that the shape has.
        elements: usize,
        /// Bytes behind the last of them.
        left: usize,
    },
}

/// Appends one element with its length to the bytes of a BYTES tensor.
///
/// # Panics
/// When the element is longer than `u32::MAX` bytes; message limits are far below.
pub fn append_string(out: &mut super::AlignedBytes, element: &[u8]) {
    let length = u32::try_from(element.len()).expect("message limits keep elements under 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(element);
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (prefix, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_le_bytes(*prefix) as usize)
}

pub(super) fn check(mut bytes: &[u8], elements: usize) -> Result<(), StringsError> {
    for index in 0..elements {
        let Some((_, rest)) = split(bytes) else {
            let (claimed, left) = match bytes.split_first_chunk::<4>() {
                Some((prefix, rest)) => (u32::from_le_bytes(*prefix) as usize, rest.len()),
                None => (4, bytes.len()),
            };
            return Err(StringsError::Truncated { index, claimed, left });
        };
        bytes = rest;
    }
    if bytes.is_empty() {
        Ok(())
    } else {
        Err(StringsError::LeftOver {
            elements,
            left: bytes.len(),
        })
    }
}

/// Iterates over the elements of a BYTES tensor.
#[derive(Clone, Debug)]
pub struct StringElements<'a> {
    rest: &'a [u8],
}

impl<'a> StringElements<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for StringElements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (element, rest) = split(self.rest)?;
        self.rest = rest;
        Some(element)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{AlignedBytes, DataType, Tensor};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn strings_read_back_as_written(elements in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..10)) {
            let mut bytes = AlignedBytes::default();
            for element in &elements {
                append_string(&mut bytes, element);
            }
            let tensor = Tensor::new(DataType::Bytes, [elements.len()].into(), bytes.freeze()).unwrap();
            let read: Vec<_> = tensor.strings().unwrap().map(<[u8]>::to_vec).collect();
            prop_assert_eq!(read, elements);
        }

        #[test]
        fn any_bytes_are_accepted_or_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..40), elements in 0usize..1 << 40) {
            let _ = check(&bytes, elements);
        }
    }

    #[test]
    fn a_length_that_lies_is_named() {
        let error = check(&[255, 255, 255, 255, 1], 1).unwrap_err();
        assert_eq!(error.to_string(), "element 0 claims 4294967295 bytes, only 1 are left");
    }
}
