//! The call into ONNX Runtime: the one file that talks to its C interface.
//!
//! Why not `Session::run`: it makes each name into a C string, and asks for memory description, allocator and dimension
//! names of each output, at every run. For a small forest (2.8 µs) that was 1.0 µs; this is 0.3 µs. It also takes
//! `&mut Session`, and so cannot share a session between instances (see the parent module).

#![allow(unsafe_code)]

use std::ffi::{CString, c_char};
use std::ptr::{NonNull, null, null_mut};
use std::sync::Arc;

use grid_core::model::Signature;
use grid_core::tensor::{AlignedBytes, DataType, Shape, Tensor, append_string};
use ort::AsPointer;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{Session, SharedSessionInner};
use ort::sys::{ONNXTensorElementDataType, OrtStatusPtr, OrtTensorTypeAndShapeInfo, OrtValue};
use smallvec::SmallVec;

use super::session::{data_type, element_type};
use crate::runtime::checks::check_bools;
use crate::runtime::{ModelError, Outputs};

/// A session and what is the same in each of its runs.
pub(super) struct Call {
    session: Arc<SharedSessionInner>,
    inputs: Vec<CString>,
    outputs: Vec<CString>,
    /// "Memory of this process".
    memory: MemoryInfo<'static>,
}

impl Call {
    pub(super) fn new(session: &Session, signature: &Signature) -> Result<Self, String> {
        let name = |name: &String| CString::new(name.as_str()).map_err(|error| format!("`{name}`: {error}"));
        let memory = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default);
        Ok(Self {
            session: session.inner(),
            inputs: signature
                .inputs
                .iter()
                .map(|spec| name(&spec.name))
                .collect::<Result<_, _>>()?,
            outputs: signature
                .outputs
                .iter()
                .map(|spec| name(&spec.name))
                .collect::<Result<_, _>>()?,
            memory: memory.map_err(|error| error.to_string())?,
        })
    }

    pub(super) fn run(&self, tensors: &[Tensor]) -> Result<Outputs, ModelError> {
        if tensors.len() != self.inputs.len() {
            return Err(ModelError(format!(
                "expected {} inputs, found {}",
                self.inputs.len(),
                tensors.len()
            )));
        }
        let inputs: SmallVec<[Value; 4]> = tensors
            .iter()
            .map(|tensor| self.input(tensor))
            .collect::<Result<_, _>>()?;
        let given: SmallVec<[*const OrtValue; 4]> = inputs.iter().map(|value| value.0.as_ptr().cast_const()).collect();
        let input_names: SmallVec<[*const c_char; 4]> = self.inputs.iter().map(|name| name.as_ptr()).collect();
        let output_names: SmallVec<[*const c_char; 4]> = self.outputs.iter().map(|name| name.as_ptr()).collect();
        let mut taken: SmallVec<[*mut OrtValue; 4]> = SmallVec::from_elem(null_mut(), self.outputs.len());
        // SAFETY: the session lives as long as `self`; each pointer points to as many elements as its count says, all of
        // which live until the call returns. Other threads may run the same session: the parent module says why.
        let status = unsafe {
            (ort::api().Run)(
                self.session.ptr().cast_mut(),
                null(),
                input_names.as_ptr(),
                given.as_ptr(),
                given.len(),
                output_names.as_ptr(),
                output_names.len(),
                taken.as_mut_ptr(),
            )
        };
        // Owned before the status is looked at, so that nothing leaks where a run fails half-way.
        let outputs: SmallVec<[Option<Value>; 4]> =
            taken.into_iter().map(|value| NonNull::new(value).map(Value)).collect();
        check(status)?;
        outputs
            .iter()
            .map(|value| {
                value
                    .as_ref()
                    .ok_or_else(|| ModelError("an output came back empty".to_owned()))?
                    .read()
            })
            .collect()
    }

    /// A view of the tensor where it lies; strings are copied, because C++ has its own.
    fn input(&self, tensor: &Tensor) -> Result<Value, ModelError> {
        let dims = dims(tensor.shape())?;
        let Some(strings) = tensor.strings() else {
            check_bools(tensor)?;
            let bytes = tensor.data().as_slice();
            let mut value = null_mut();
            // SAFETY: the memory description lives as long as `self`. The bytes are as many as shape and type say and
            // aligned, which `Tensor` guarantees, and outlive the value, because `run` borrows the tensors. ONNX
            // Runtime does not write to a run's inputs.
            let status = unsafe {
                (ort::api().CreateTensorWithDataAsOrtValue)(
                    self.memory.ptr(),
                    bytes.as_ptr().cast_mut().cast(),
                    bytes.len(),
                    dims.as_ptr(),
                    dims.len(),
                    element_type(tensor.data_type()).into(),
                    &mut value,
                )
            };
            return Value::made(status, value);
        };
        let value = Value::of_strings(&dims)?;
        for (index, element) in strings.enumerate() {
            let mut place = null_mut();
            // SAFETY: `index` is below the element count, which is that of the shape the value was made with; the place
            // is as long as was asked for, and nobody else has it.
            unsafe {
                check((ort::api().GetResizedStringTensorElementBuffer)(
                    value.0.as_ptr(),
                    index,
                    element.len(),
                    &mut place,
                ))?;
                if !element.is_empty() {
                    std::ptr::copy_nonoverlapping(element.as_ptr(), place.cast::<u8>(), element.len());
                }
            }
        }
        Ok(value)
    }
}

/// A value of ONNX Runtime's, released when dropped.
struct Value(NonNull<OrtValue>);

impl Drop for Value {
    fn drop(&mut self) {
        // SAFETY: the pointer came from ONNX Runtime, which gave it to us alone.
        unsafe { (ort::api().ReleaseValue)(self.0.as_ptr()) }
    }
}

impl Value {
    fn made(status: OrtStatusPtr, value: *mut OrtValue) -> Result<Self, ModelError> {
        check(status)?;
        NonNull::new(value)
            .map(Self)
            .ok_or_else(|| ModelError("ONNX Runtime made no value".to_owned()))
    }

    fn of_strings(dims: &[i64]) -> Result<Self, ModelError> {
        let mut allocator = null_mut();
        let mut value = null_mut();
        // SAFETY: the default allocator is never released; `dims` lives until the call returns.
        unsafe {
            check((ort::api().GetAllocatorWithDefaultOptions)(&mut allocator))?;
            let status = (ort::api().CreateTensorAsOrtValue)(
                allocator,
                dims.as_ptr(),
                dims.len(),
                ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING,
                &mut value,
            );
            Self::made(status, value)
        }
    }

    /// Copies the value into a tensor of ours.
    fn read(&self) -> Result<Tensor, ModelError> {
        let (data_type, shape) = self.type_and_shape()?;
        let elements = shape
            .elements()
            .ok_or_else(|| ModelError(format!("an output of shape {shape} is too large")))?;
        let bytes = match data_type.size() {
            Some(size) => self.numbers(elements * size)?,
            None => self.strings(elements)?,
        };
        Tensor::new(data_type, shape, bytes.freeze()).map_err(|error| ModelError(error.to_string()))
    }

    fn type_and_shape(&self) -> Result<(DataType, Shape), ModelError> {
        /// Released on every way out.
        struct Info(*mut OrtTensorTypeAndShapeInfo);
        impl Drop for Info {
            fn drop(&mut self) {
                // SAFETY: the pointer came from ONNX Runtime, which gave it to us alone; null is allowed.
                unsafe { (ort::api().ReleaseTensorTypeAndShapeInfo)(self.0) }
            }
        }
        let mut info = Info(null_mut());
        let mut element = ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
        let mut rank = 0;
        // SAFETY: the value is alive, the info is once it was made, and `dims` is as long as is said.
        let dims = unsafe {
            check((ort::api().GetTensorTypeAndShape)(self.0.as_ptr(), &mut info.0))?;
            check((ort::api().GetTensorElementType)(info.0, &mut element))?;
            check((ort::api().GetDimensionsCount)(info.0, &mut rank))?;
            let mut dims: SmallVec<[i64; 6]> = SmallVec::from_elem(0, rank);
            check((ort::api().GetDimensions)(info.0, dims.as_mut_ptr(), rank))?;
            dims
        };
        let data_type = data_type(element.into())
            .ok_or_else(|| ModelError("an output came back in a type that the protocol lacks".to_owned()))?;
        let sizes = dims.iter().map(|&size| usize::try_from(size)).collect::<Result<_, _>>();
        let sizes = sizes.map_err(|_| ModelError("an output came back with a negative size".to_owned()))?;
        Ok((data_type, Shape(sizes)))
    }

    fn numbers(&self, len: usize) -> Result<AlignedBytes, ModelError> {
        if len == 0 {
            return Ok(AlignedBytes::default());
        }
        let mut data = null_mut();
        // SAFETY: the value is alive until after the copy, is a tensor of numbers, and has as many bytes as shape and type
        // say.
        unsafe {
            check((ort::api().GetTensorMutableData)(self.0.as_ptr(), &mut data))?;
            if data.is_null() {
                return Err(ModelError("an output came back without data".to_owned()));
            }
            Ok(AlignedBytes::copy_of(std::slice::from_raw_parts(
                data.cast::<u8>().cast_const(),
                len,
            )))
        }
    }

    fn strings(&self, elements: usize) -> Result<AlignedBytes, ModelError> {
        let mut len = 0;
        let mut offsets = vec![0usize; elements];
        // SAFETY: the value is alive; both buffers are as long as is said.
        let content = unsafe {
            check((ort::api().GetStringTensorDataLength)(self.0.as_ptr(), &mut len))?;
            let mut content = vec![0u8; len];
            check((ort::api().GetStringTensorContent)(
                self.0.as_ptr(),
                content.as_mut_ptr().cast(),
                len,
                offsets.as_mut_ptr(),
                elements,
            ))?;
            content
        };
        let mut bytes = AlignedBytes::with_capacity(len + 4 * elements);
        let ends = offsets.iter().skip(1).copied().chain([len]);
        for (&start, end) in offsets.iter().zip(ends) {
            let element = content
                .get(start..end)
                .filter(|element| u32::try_from(element.len()).is_ok());
            let element = element.ok_or_else(|| ModelError("an output came back with broken strings".to_owned()))?;
            append_string(&mut bytes, element);
        }
        Ok(bytes)
    }
}

fn dims(shape: &Shape) -> Result<SmallVec<[i64; 6]>, ModelError> {
    let dims = shape
        .dims()
        .iter()
        .map(|&size| i64::try_from(size))
        .collect::<Result<_, _>>();
    dims.map_err(|_| ModelError(format!("shape {shape} is too large")))
}

fn check(status: OrtStatusPtr) -> Result<(), ModelError> {
    // SAFETY: a status is handed over once, by the call that made it.
    unsafe { ort::Error::result_from_status(status) }.map_err(|error| ModelError(error.message().to_owned()))
}
