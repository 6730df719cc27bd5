//! Tensors of the protocol into rten's values, and back.

use bytemuck::Pod;
use grid_core::model::TensorSpec;
use grid_core::tensor::{AlignedBytes, DataType, Element, Shape, Tensor};
use half::f16;
use rten::{Value, ValueOrView, ValueView};
use rten_tensor::prelude::*;

use crate::runtime::ModelError;
use crate::runtime::checks::check_bools;

/// The data type of ONNX's element type, if rten can compute with it.
pub(super) fn declared_type(element: u64) -> Option<DataType> {
    // TensorProto.DataType.
    Some(match element {
        1 => DataType::Fp32,
        2 => DataType::Uint8,
        3 => DataType::Int8,
        6 => DataType::Int32,
        7 => DataType::Int64,
        9 => DataType::Bool,
        10 => DataType::Fp16,
        11 => DataType::Fp64,
        _ => return None,
    })
}

/// A view of the tensor where it lies, or a conversion where rten has no such type.
pub(super) fn input<'a>(spec: &TensorSpec, tensor: &'a Tensor) -> Result<ValueOrView<'a>, ModelError> {
    let wrong = |reason: String| ModelError(format!("input `{}`: {reason}", spec.name));
    if tensor.data_type() != spec.data_type {
        return Err(wrong(format!(
            "expected datatype {}, found {}",
            spec.data_type,
            tensor.data_type()
        )));
    }
    let dims = tensor.shape().dims();
    match spec.data_type {
        DataType::Fp32 => view::<f32>(tensor).map(Into::into),
        DataType::Int32 => view::<i32>(tensor).map(Into::into),
        DataType::Int8 => view::<i8>(tensor).map(Into::into),
        DataType::Uint8 => view::<u8>(tensor).map(Into::into),
        DataType::Int64 => {
            let narrow = |(index, &value): (usize, &i64)| {
                i32::try_from(value)
                    .map_err(|_| wrong(format!("element {index} is {value}; rten computes INT64 in 32 bits")))
            };
            let values = elements::<i64>(tensor)?.iter().enumerate().map(narrow);
            owned(dims, values.collect::<Result<Vec<i32>, _>>()?)
        }
        DataType::Bool => {
            check_bools(tensor).map_err(|error| wrong(error.0))?;
            owned(
                dims,
                tensor.data().as_slice().iter().map(|&byte| i32::from(byte)).collect(),
            )
        }
        DataType::Fp16 => owned(
            dims,
            elements::<f16>(tensor)?.iter().map(|value| value.to_f32()).collect(),
        ),
        DataType::Fp64 => owned(
            dims,
            elements::<f64>(tensor)?.iter().map(|&value| value as f32).collect(),
        ),
        other => Err(wrong(format!("rten has no {other}"))),
    }
}

/// A tensor of the declared type.
pub(super) fn output(spec: &TensorSpec, value: Value) -> Result<Tensor, ModelError> {
    match (value, spec.data_type) {
        (Value::FloatTensor(tensor), DataType::Fp32) => same(&tensor),
        (Value::FloatTensor(tensor), DataType::Fp16) => each(&tensor, f16::from_f32),
        (Value::FloatTensor(tensor), DataType::Fp64) => each(&tensor, f64::from),
        (Value::Int32Tensor(tensor), DataType::Int32) => same(&tensor),
        (Value::Int32Tensor(tensor), DataType::Int64) => each(&tensor, i64::from),
        (Value::Int32Tensor(tensor), DataType::Bool) => {
            let bytes: Vec<u8> = tensor.iter().map(|&value| u8::from(value != 0)).collect();
            tensor_of(DataType::Bool, tensor.shape(), &bytes)
        }
        (Value::Int8Tensor(tensor), DataType::Int8) => same(&tensor),
        (Value::UInt8Tensor(tensor), DataType::Uint8) => same(&tensor),
        (value, declared) => Err(ModelError(format!(
            "output `{}`: declared as {declared}, came back as {}",
            spec.name,
            value.dtype()
        ))),
    }
}

fn elements<T: Element>(tensor: &Tensor) -> Result<&[T], ModelError> {
    let wrong = || ModelError(format!("{} is not {}", tensor.data_type(), T::DATA_TYPE));
    tensor.values::<T>().ok_or_else(wrong)
}

fn view<'a, T: Element>(tensor: &'a Tensor) -> Result<ValueView<'a>, ModelError>
where
    ValueView<'a>: From<rten_tensor::TensorView<'a, T>>,
{
    ValueView::from_shape(tensor.shape().dims(), elements::<T>(tensor)?).map_err(|error| ModelError(error.to_string()))
}

fn owned<'a, T>(dims: &[usize], values: Vec<T>) -> Result<ValueOrView<'a>, ModelError>
where
    Value: From<rten_tensor::Tensor<T>>,
{
    let value = Value::from_shape(dims, values).map_err(|error| ModelError(error.to_string()))?;
    Ok(ValueOrView::Value(value))
}

fn same<T: Element>(tensor: &rten_tensor::Tensor<T>) -> Result<Tensor, ModelError> {
    match tensor.data() {
        Some(values) => tensor_of(T::DATA_TYPE, tensor.shape(), values),
        // Not contiguous: a transposition that was left as a view.
        None => tensor_of(T::DATA_TYPE, tensor.shape(), &tensor.to_vec()),
    }
}

fn each<T: Copy, U: Element>(tensor: &rten_tensor::Tensor<T>, convert: impl Fn(T) -> U) -> Result<Tensor, ModelError> {
    let values: Vec<U> = tensor.iter().map(|&value| convert(value)).collect();
    tensor_of(U::DATA_TYPE, tensor.shape(), &values)
}

fn tensor_of<T: Pod>(data_type: DataType, shape: &[usize], values: &[T]) -> Result<Tensor, ModelError> {
    let bytes = AlignedBytes::copy_of(bytemuck::cast_slice(values));
    Tensor::new(data_type, Shape::new(shape), bytes.freeze()).map_err(|error| ModelError(error.to_string()))
}
