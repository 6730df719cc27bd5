//! Opens a model file in ONNX Runtime and derives its signature.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use grid_core::model::{Dim, Signature, StackAxes, TensorSpec};
use grid_core::tensor::{DataType, Tensor};
use ort::ErrorCode;
use ort::environment::{Environment, ThreadManager};
use ort::session::Session;
use ort::session::builder::{AutoDevicePolicy, SessionBuilder};
use ort::value::{Outlet, TensorElementType, ValueType};

use super::call::Call;
use crate::runtime::checks::{TENSORS_ONLY, check_readable};
use crate::runtime::onnx_file::OnnxFile;
use crate::runtime::{Instance, Model, ModelError, OpenError, Outputs, Stacked, TensorModel, thread_starter};

const NAME: &str = "onnxruntime";

/// A model that ONNX Runtime has opened.
pub(super) struct OnnxModel {
    signature: Arc<Signature>,
    call: Arc<Call>,
}

impl OnnxModel {
    pub(super) fn open(environment: &Environment, path: &Path, threads: usize) -> Result<Self, OpenError> {
        check_readable(path)?;
        // `ort` panics at types that it does not know; a file is outside our influence.
        let opened = catch_unwind(AssertUnwindSafe(|| Self::open_session(environment, path, threads)));
        opened.unwrap_or_else(|_| {
            Err(invalid(
                path,
                "a type in it is unknown to this version of ort".to_owned(),
            ))
        })
    }

    fn open_session(environment: &Environment, path: &Path, threads: usize) -> Result<Self, OpenError> {
        let session = options(environment, threads)
            .and_then(|mut options| options.commit_from_file(path))
            .map_err(|error| refused(path, &error))?;
        let signature = Signature {
            inputs: specs(path, session.inputs(), "input")?,
            outputs: specs(path, session.outputs(), "output")?,
        };
        let signature = Arc::new(declared_ranks(path, signature)?);
        let call = Call::new(&session, &signature).map_err(|reason| invalid(path, reason))?;
        Ok(Self {
            signature,
            call: Arc::new(call),
        })
    }
}

impl Model for OnnxModel {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn instance(&self, axes: Option<&StackAxes>) -> Result<Box<dyn Instance>, OpenError> {
        Ok(Box::new(Stacked::new(OnnxInstance(Arc::clone(&self.call)), axes)))
    }
}

/// An instance holds nothing of its own: see "one session a model" in the parent module.
struct OnnxInstance(Arc<Call>);

impl TensorModel for OnnxInstance {
    fn run(&mut self, inputs: &[Tensor]) -> Result<Outputs, ModelError> {
        self.0.run(inputs)
    }
}

fn options(environment: &Environment, threads: usize) -> ort::Result<SessionBuilder> {
    let options = Session::builder(environment)?
        // `ort` lets a library that knows several devices choose the most frugal one. Sharing a session between threads
        // is promised for the CPU.
        .with_auto_device(AutoDevicePolicy::Default)?
        .with_memory_pattern(false)?
        .with_inter_threads(1)?
        .with_intra_threads(threads.max(1))?
        .with_intra_op_spinning(false)?
        .with_inter_op_spinning(false)?;
    if threads > 1 {
        Ok(options.with_thread_manager(AtNormalPriority)?)
    } else {
        Ok(options)
    }
}

/// Starts a session's threads where they do not inherit the loader's priority.
struct AtNormalPriority;

impl ThreadManager for AtNormalPriority {
    type Thread = JoinHandle<()>;

    fn create(&self, work: impl FnOnce() + Send + 'static) -> ort::Result<JoinHandle<()>> {
        let spawn = || std::thread::Builder::new().name("onnxruntime".to_owned()).spawn(work);
        thread_starter::at_normal_priority(spawn)
            .ok_or_else(|| ort::Error::new("the thread that starts threads is gone"))?
            .map_err(ort::Error::wrap)
    }

    fn join(thread: JoinHandle<()>) -> ort::Result<()> {
        thread
            .join()
            .map_err(|_| ort::Error::new("a thread of the pool panicked"))
    }
}

fn invalid(path: &Path, reason: String) -> OpenError {
    OpenError::Invalid {
        path: path.to_owned(),
        reason,
    }
}

fn unsupported(path: &Path, what: String, help: &str) -> OpenError {
    OpenError::Unsupported {
        path: path.to_owned(),
        runtime: NAME,
        what,
        help: help.to_owned(),
    }
}

/// What ONNX Runtime says, in one code or another, of operators and types that it lacks.
const LACKING: [&str; 4] = [
    "is not a registered function/op",
    "No Op registered for",
    "Could not find an implementation",
    "is not currently registered or supported",
];

fn refused(path: &Path, error: &ort::Error) -> OpenError {
    let text = error.message();
    // "Load model from PATH failed:REASON"; the path stands in our error anyway.
    let reason = text.split_once(" failed:").map_or(text, |(_, reason)| reason);
    if error.code() == ErrorCode::NotImplemented || LACKING.iter().any(|part| text.contains(part)) {
        let help = "a newer version of the library may; otherwise export the model with other operators";
        unsupported(path, format!("something in it ({reason})"), help)
    } else {
        invalid(path, reason.to_owned())
    }
}

fn specs(path: &Path, outlets: &[Outlet], side: &str) -> Result<Vec<TensorSpec>, OpenError> {
    outlets.iter().map(|outlet| spec(path, outlet, side)).collect()
}

fn spec(path: &Path, outlet: &Outlet, side: &str) -> Result<TensorSpec, OpenError> {
    let name = outlet.name();
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
        let what = format!("{side} `{name}`, which is no tensor but a {}", outlet.dtype());
        return Err(unsupported(path, what, TENSORS_ONLY));
    };
    let Some(data_type) = data_type(*ty) else {
        let what = format!("{side} `{name}` of element type {ty}");
        return Err(unsupported(
            path,
            what,
            "the protocol has no such type: cast it in the model",
        ));
    };
    let dim = |&size: &i64| usize::try_from(size).map_or(Dim::Dynamic, Dim::Fixed);
    Ok(TensorSpec {
        name: name.to_owned(),
        data_type,
        shape: Some(shape.iter().map(dim).collect()),
    })
}

/// ONNX Runtime tells a tensor whose rank is unknown as one without dimensions; only the file tells the two apart.
fn declared_ranks(path: &Path, mut signature: Signature) -> Result<Signature, OpenError> {
    let scalar = |spec: &TensorSpec| spec.shape.as_ref().is_some_and(Vec::is_empty);
    if !signature.inputs.iter().chain(&signature.outputs).any(scalar) {
        return Ok(signature);
    }
    let file = OnnxFile::read(path)?;
    for (specs, declared) in [
        (&mut signature.inputs, &file.inputs),
        (&mut signature.outputs, &file.outputs),
    ] {
        for spec in specs.iter_mut().filter(|spec| scalar(spec)) {
            let known = declared.iter().find(|declared| declared.name == spec.name);
            if known.is_none_or(|declared| declared.shape.is_none()) {
                spec.shape = None;
            }
        }
    }
    Ok(signature)
}

pub(super) fn data_type(element: TensorElementType) -> Option<DataType> {
    Some(match element {
        TensorElementType::Bool => DataType::Bool,
        TensorElementType::Uint8 => DataType::Uint8,
        TensorElementType::Uint16 => DataType::Uint16,
        TensorElementType::Uint32 => DataType::Uint32,
        TensorElementType::Uint64 => DataType::Uint64,
        TensorElementType::Int8 => DataType::Int8,
        TensorElementType::Int16 => DataType::Int16,
        TensorElementType::Int32 => DataType::Int32,
        TensorElementType::Int64 => DataType::Int64,
        TensorElementType::Float16 => DataType::Fp16,
        TensorElementType::Bfloat16 => DataType::Bf16,
        TensorElementType::Float32 => DataType::Fp32,
        TensorElementType::Float64 => DataType::Fp64,
        TensorElementType::String => DataType::Bytes,
        _ => return None,
    })
}

pub(super) fn element_type(data_type: DataType) -> TensorElementType {
    match data_type {
        DataType::Bool => TensorElementType::Bool,
        DataType::Uint8 => TensorElementType::Uint8,
        DataType::Uint16 => TensorElementType::Uint16,
        DataType::Uint32 => TensorElementType::Uint32,
        DataType::Uint64 => TensorElementType::Uint64,
        DataType::Int8 => TensorElementType::Int8,
        DataType::Int16 => TensorElementType::Int16,
        DataType::Int32 => TensorElementType::Int32,
        DataType::Int64 => TensorElementType::Int64,
        DataType::Fp16 => TensorElementType::Float16,
        DataType::Bf16 => TensorElementType::Bfloat16,
        DataType::Fp32 => TensorElementType::Float32,
        DataType::Fp64 => TensorElementType::Float64,
        DataType::Bytes => TensorElementType::String,
    }
}
