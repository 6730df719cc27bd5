//! Tensors as gRPC carries them: typed in `contents`, or raw beside the message's description of them.

use bytes::Bytes;
use grid_core::InferError;
use grid_core::tensor::{AlignedBytes, Buffer, DataType, Element, Shape, Tensor, append_string};

use super::generated::InferTensorContents;
use super::generated::model_infer_request::InferInputTensor;
use super::parameters::refuse_shared_memory;
use crate::gateway::rest::codec::MAX_DIMENSIONS;

/// Reads one input: from `raw`, if its message has raw contents, else from its own.
///
/// # Errors
/// [`InferError::Invalid`], which names the tensor, what was expected and what was found.
pub(super) fn input(input: InferInputTensor, raw: Option<&Bytes>) -> Result<(String, Tensor), InferError> {
    match read(&input, raw) {
        Ok(tensor) => Ok((input.name, tensor)),
        Err(reason) => Err(InferError::Invalid(format!("input `{}`: {reason}", input.name))),
    }
}

fn read(input: &InferInputTensor, raw: Option<&Bytes>) -> Result<Tensor, String> {
    refuse_shared_memory(&input.parameters)?;
    let data_type: DataType = input
        .datatype
        .parse()
        .map_err(|error| format!("`datatype`: {error}, found `{}`", input.datatype))?;
    let shape = shape(&input.shape)?;
    match (raw, &input.contents) {
        (Some(raw), None) => from_raw(data_type, shape, raw),
        (Some(_), Some(_)) => Err("expected either `contents` or `raw_input_contents`, found both".to_owned()),
        (None, Some(contents)) => from_contents(data_type, shape, contents),
        // Some writers leave out a message that would be empty.
        (None, None) if shape.elements() == Some(0) => from_contents(data_type, shape, &InferTensorContents::default()),
        (None, None) => Err("expected either `contents` or `raw_input_contents`, found neither".to_owned()),
    }
}

fn shape(dims: &[i64]) -> Result<Shape, String> {
    if dims.len() > MAX_DIMENSIONS {
        return Err(format!(
            "`shape`: expected at most {MAX_DIMENSIONS} dimensions, found {}",
            dims.len()
        ));
    }
    let mut shape = Shape::default();
    for &dim in dims {
        let dim =
            usize::try_from(dim).map_err(|_| format!("`shape`: expected whole numbers from 0 up, found {dim}"))?;
        shape.0.push(dim);
    }
    match shape.elements() {
        Some(_) => Ok(shape),
        None => Err(format!("shape {shape} has more elements than can be addressed")),
    }
}

/// Copied once, to where a runtime can use it: the message's bytes lie wherever they came to lie in it.
fn from_raw(data_type: DataType, shape: Shape, raw: &Bytes) -> Result<Tensor, String> {
    // A runtime may take any other byte for a `bool`, which is undefined in most languages.
    if data_type == DataType::Bool
        && let Some((index, byte)) = raw.iter().enumerate().find(|(_, byte)| **byte > 1)
    {
        return Err(format!("element {index}: expected BOOL, a byte 0 or 1, found {byte}"));
    }
    // Told before anything is copied.
    let expected = data_type.size().and_then(|size| shape.elements()?.checked_mul(size));
    if let Some(expected) = expected.filter(|expected| *expected != raw.len()) {
        return Err(format!(
            "{data_type} of shape {shape} takes {expected} bytes, found {}",
            raw.len()
        ));
    }
    tensor(data_type, shape, AlignedBytes::copy_of(raw))
}

fn tensor(data_type: DataType, shape: Shape, bytes: AlignedBytes) -> Result<Tensor, String> {
    Tensor::new(data_type, shape, bytes.freeze()).map_err(|error| error.to_string())
}

fn from_contents(data_type: DataType, shape: Shape, contents: &InferTensorContents) -> Result<Tensor, String> {
    let Some(field) = field_of(data_type) else {
        return Err(format!(
            "expected {data_type} in `raw_input_contents`, the only form it has, found `contents`"
        ));
    };
    let filled = filled(contents);
    if let Some((other, _)) = filled.iter().find(|(name, count)| *count > 0 && *name != field) {
        return Err(format!(
            "expected {data_type} in `contents.{field}`, found `contents.{other}`"
        ));
    }
    let found = filled
        .iter()
        .find(|(name, _)| *name == field)
        .map_or(0, |(_, count)| *count);
    if shape.elements() != Some(found) {
        let expected = shape.elements().unwrap_or(usize::MAX);
        return Err(format!(
            "{data_type} of shape {shape} has {expected} elements, found {found} in `contents.{field}`"
        ));
    }
    match data_type {
        DataType::Bool => {
            let mut bytes = AlignedBytes::zeroed(found);
            for (byte, value) in bytes.as_mut_slice().iter_mut().zip(&contents.bool_contents) {
                *byte = u8::from(*value);
            }
            tensor(data_type, shape, bytes)
        }
        DataType::Uint8 => narrow::<u32, u8>(shape, &contents.uint_contents),
        DataType::Uint16 => narrow::<u32, u16>(shape, &contents.uint_contents),
        DataType::Int8 => narrow::<i32, i8>(shape, &contents.int_contents),
        DataType::Int16 => narrow::<i32, i16>(shape, &contents.int_contents),
        DataType::Uint32 => values(shape, &contents.uint_contents),
        DataType::Uint64 => values(shape, &contents.uint64_contents),
        DataType::Int32 => values(shape, &contents.int_contents),
        DataType::Int64 => values(shape, &contents.int64_contents),
        DataType::Fp32 => values(shape, &contents.fp32_contents),
        DataType::Fp64 => values(shape, &contents.fp64_contents),
        DataType::Bytes => {
            let length = contents.bytes_contents.iter().map(|element| element.len() + 4).sum();
            let mut bytes = AlignedBytes::with_capacity(length);
            for element in &contents.bytes_contents {
                append_string(&mut bytes, element);
            }
            tensor(data_type, shape, bytes)
        }
        // They have no field, so they were refused above.
        DataType::Fp16 | DataType::Bf16 => Err(format!("{data_type} has no typed form")),
    }
}

/// The field of `contents` that holds elements of this type.
fn field_of(data_type: DataType) -> Option<&'static str> {
    Some(match data_type {
        DataType::Bool => "bool_contents",
        DataType::Int8 | DataType::Int16 | DataType::Int32 => "int_contents",
        DataType::Int64 => "int64_contents",
        DataType::Uint8 | DataType::Uint16 | DataType::Uint32 => "uint_contents",
        DataType::Uint64 => "uint64_contents",
        DataType::Fp32 => "fp32_contents",
        DataType::Fp64 => "fp64_contents",
        DataType::Bytes => "bytes_contents",
        DataType::Fp16 | DataType::Bf16 => return None,
    })
}

/// How many elements each field of `contents` has.
fn filled(contents: &InferTensorContents) -> [(&'static str, usize); 8] {
    [
        ("bool_contents", contents.bool_contents.len()),
        ("int_contents", contents.int_contents.len()),
        ("int64_contents", contents.int64_contents.len()),
        ("uint_contents", contents.uint_contents.len()),
        ("uint64_contents", contents.uint64_contents.len()),
        ("fp32_contents", contents.fp32_contents.len()),
        ("fp64_contents", contents.fp64_contents.len()),
        ("bytes_contents", contents.bytes_contents.len()),
    ]
}

fn values<T: Element>(shape: Shape, values: &[T]) -> Result<Tensor, String> {
    Tensor::from_values(shape, values).map_err(|error| error.to_string())
}

/// From a field whose elements are wider than the tensor's.
fn narrow<W, T>(shape: Shape, wide: &[W]) -> Result<Tensor, String>
where
    W: Copy + std::fmt::Display,
    T: Element + TryFrom<W>,
{
    let size = size_of::<T>();
    let mut bytes = AlignedBytes::zeroed(wide.len() * size);
    for (index, (place, &value)) in bytes.as_mut_slice().chunks_exact_mut(size).zip(wide).enumerate() {
        let Ok(value) = T::try_from(value) else {
            return Err(format!("element {index}: expected {}, found {value}", T::DATA_TYPE));
        };
        place.copy_from_slice(bytemuck::bytes_of(&value));
    }
    tensor(T::DATA_TYPE, shape, bytes)
}

/// The bytes of an output, sent from where they lie.
pub(super) fn raw(tensor: &Tensor) -> Bytes {
    struct Shared(Buffer);
    impl AsRef<[u8]> for Shared {
        fn as_ref(&self) -> &[u8] {
            self.0.as_slice()
        }
    }
    Bytes::from_owner(Shared(tensor.data().clone()))
}

/// Sizes as the protocol writes them.
pub(super) fn protocol_shape(shape: &Shape) -> Vec<i64> {
    let dims = shape.dims().iter();
    dims.map(|dim| i64::try_from(*dim).unwrap_or(i64::MAX)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(data_type: &str, shape: &[i64], contents: Option<InferTensorContents>) -> InferInputTensor {
        InferInputTensor {
            name: "x".to_owned(),
            datatype: data_type.to_owned(),
            shape: shape.to_vec(),
            contents,
            ..InferInputTensor::default()
        }
    }

    fn typed(data_type: &str, shape: &[i64], contents: InferTensorContents) -> Result<Tensor, String> {
        let read = input(described(data_type, shape, Some(contents)), None);
        read.map(|(_, tensor)| tensor).map_err(|error| error.to_string())
    }

    fn from_bytes(data_type: &str, shape: &[i64], raw: &[u8]) -> Result<Tensor, String> {
        let read = input(described(data_type, shape, None), Some(&Bytes::copy_from_slice(raw)));
        read.map(|(_, tensor)| tensor).map_err(|error| error.to_string())
    }

    fn ints(values: &[i32]) -> InferTensorContents {
        InferTensorContents {
            int_contents: values.to_vec(),
            ..InferTensorContents::default()
        }
    }

    fn uints(values: &[u32]) -> InferTensorContents {
        InferTensorContents {
            uint_contents: values.to_vec(),
            ..InferTensorContents::default()
        }
    }

    #[test]
    fn each_type_is_read_from_its_field() {
        assert_eq!(
            typed("INT8", &[2], ints(&[-128, 127])).unwrap().values::<i8>(),
            Some(&[-128, 127][..])
        );
        assert_eq!(
            typed("INT16", &[1], ints(&[-300])).unwrap().values::<i16>(),
            Some(&[-300][..])
        );
        assert_eq!(
            typed("INT32", &[1, 1], ints(&[i32::MIN])).unwrap().values::<i32>(),
            Some(&[i32::MIN][..])
        );
        assert_eq!(
            typed("UINT8", &[1], uints(&[255])).unwrap().values::<u8>(),
            Some(&[255][..])
        );
        assert_eq!(
            typed("UINT16", &[1], uints(&[65535])).unwrap().values::<u16>(),
            Some(&[65535][..])
        );
        assert_eq!(
            typed("UINT32", &[1], uints(&[u32::MAX])).unwrap().values::<u32>(),
            Some(&[u32::MAX][..])
        );
        let contents = InferTensorContents {
            bool_contents: vec![true, false],
            ..InferTensorContents::default()
        };
        assert_eq!(typed("BOOL", &[2], contents).unwrap().data().as_slice(), [1, 0]);
        let contents = InferTensorContents {
            int64_contents: vec![-1],
            ..InferTensorContents::default()
        };
        assert_eq!(typed("INT64", &[], contents).unwrap().values::<i64>(), Some(&[-1][..]));
        let contents = InferTensorContents {
            uint64_contents: vec![u64::MAX],
            ..InferTensorContents::default()
        };
        assert_eq!(
            typed("UINT64", &[1], contents).unwrap().values::<u64>(),
            Some(&[u64::MAX][..])
        );
        let contents = InferTensorContents {
            fp32_contents: vec![0.1, f32::INFINITY],
            ..InferTensorContents::default()
        };
        assert_eq!(
            typed("FP32", &[2], contents).unwrap().values::<f32>(),
            Some(&[0.1, f32::INFINITY][..])
        );
        let contents = InferTensorContents {
            fp64_contents: vec![0.1],
            ..InferTensorContents::default()
        };
        assert_eq!(typed("FP64", &[1], contents).unwrap().values::<f64>(), Some(&[0.1][..]));
        let contents = InferTensorContents {
            bytes_contents: vec![Bytes::from_static(b"ab"), Bytes::new()],
            ..InferTensorContents::default()
        };
        let strings = typed("BYTES", &[2], contents).unwrap();
        assert_eq!(strings.strings().unwrap().collect::<Vec<_>>(), [&b"ab"[..], b""]);
        assert_eq!(
            typed("FP32", &[0], InferTensorContents::default()).unwrap().elements(),
            0
        );
    }

    #[test]
    fn raw_bytes_are_read_as_any_type_and_aligned() {
        let tensor = from_bytes("FP32", &[2], &[0, 0, 128, 63, 0, 0, 0, 64]).unwrap();
        assert_eq!(tensor.values::<f32>(), Some(&[1.0, 2.0][..]));
        assert_eq!(
            tensor.data().as_slice().as_ptr() as usize % grid_core::tensor::ALIGNMENT,
            0
        );
        assert_eq!(
            from_bytes("FP16", &[1], &[0, 60]).unwrap().values(),
            Some(&[half::f16::ONE][..])
        );
        assert_eq!(
            from_bytes("BF16", &[1], &[128, 63]).unwrap().values(),
            Some(&[half::bf16::ONE][..])
        );
        let strings = from_bytes("BYTES", &[1], &[1, 0, 0, 0, b'a']).unwrap();
        assert_eq!(strings.strings().unwrap().collect::<Vec<_>>(), [b"a"]);
        assert_eq!(raw(&strings)[..], [1, 0, 0, 0, b'a']);
    }

    #[test]
    fn each_refusal_names_the_tensor_and_what_was_expected() {
        let refusals = [
            (
                typed("INT8", &[2], ints(&[1, 128])),
                "element 1: expected INT8, found 128",
            ),
            (
                typed("FP32", &[1], ints(&[1])),
                "expected FP32 in `contents.fp32_contents`, found `contents.int_contents`",
            ),
            (
                typed("INT32", &[3], ints(&[1])),
                "INT32 of shape [3] has 3 elements, found 1 in `contents.int_contents`",
            ),
            (
                typed("FP16", &[1], InferTensorContents::default()),
                "expected FP16 in `raw_input_contents`, the only form it has, found `contents`",
            ),
            (
                typed("INT32", &[-1], ints(&[1])),
                "`shape`: expected whole numbers from 0 up, found -1",
            ),
            (
                typed("INT32", &[1; 17], ints(&[1])),
                "`shape`: expected at most 16 dimensions, found 17",
            ),
            (
                typed("INT32", &[i64::MAX, 4], ints(&[1])),
                "shape [9223372036854775807, 4] has more elements than can be addressed",
            ),
            (
                typed("FLOAT", &[1], ints(&[1])),
                "`datatype`: expected one of BOOL, UINT8…UINT64, INT8…INT64, FP16, BF16, FP32, FP64, BYTES, found `FLOAT`",
            ),
            (
                from_bytes("FP32", &[2], &[0; 12]),
                "FP32 of shape [2] takes 8 bytes, found 12",
            ),
            (
                from_bytes("BOOL", &[2], &[0, 2]),
                "element 1: expected BOOL, a byte 0 or 1, found 2",
            ),
            (
                from_bytes("BYTES", &[1], &[9, 0, 0, 0, 1]),
                "BYTES of shape [1]: element 0 claims 9 bytes, only 1 are left",
            ),
        ];
        for (refusal, expected) in refusals {
            assert_eq!(refusal.unwrap_err(), format!("input `x`: {expected}"));
        }
        let both = input(
            described("INT32", &[1], Some(ints(&[1]))),
            Some(&Bytes::from_static(&[0; 4])),
        );
        assert_eq!(
            both.unwrap_err().to_string(),
            "input `x`: expected either `contents` or `raw_input_contents`, found both"
        );
        let neither = input(described("INT32", &[1], None), None);
        assert_eq!(
            neither.unwrap_err().to_string(),
            "input `x`: expected either `contents` or `raw_input_contents`, found neither"
        );
    }
}
