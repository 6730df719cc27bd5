//! rten: the runtime that is compiled in and needs nothing installed.
//!
//! It computes in f32, i32, i8 and u8. What a file declares in other types is carried over in `convert` where that loses
//! nothing that the model could have used, or where the loss is told (an INT64 that does not fit is refused by name; FP64
//! and FP16 are computed in single precision). The signature keeps the declared types.
//!
//! Instances share one [`rten::Model`] and hold nothing else, so a model's weights are held once. Where a run computes is
//! told in `pool`.

mod convert;
mod pool;

use std::panic::catch_unwind;
use std::path::Path;
use std::sync::Arc;

use grid_core::model::{Signature, StackAxes, TensorSpec};
use grid_core::tensor::Tensor;
use rten::{LoadErrorKind, NodeId, RunOptions, ThreadPool};

pub use pool::on_compute_thread;

use super::checks::{TENSORS_ONLY, check_readable};
use super::onnx_file::{Declared, Kind, OnnxFile};
use super::{Artifact, Instance, Model, ModelError, OpenError, OpenOptions, Outputs, Runtime, Stacked, TensorModel};

const NAME: &str = "rten";
/// Shown wherever rten lacks something that ONNX Runtime has.
pub(super) const FETCH: &str = "`configs/fetch onnxruntime` fetches ONNX Runtime, which can";

/// The embedded runtime.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rten;

impl Runtime for Rten {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> String {
        // rten does not tell its version; this is the line in our Cargo.toml, and a test compares the two.
        "0.27".to_owned()
    }

    fn open(&self, artifact: &Artifact, options: &OpenOptions) -> Result<Arc<dyn Model>, OpenError> {
        Ok(Arc::new(RtenModel::open(&artifact.path, options.threads_per_run)?))
    }
}

struct RtenModel {
    signature: Signature,
    shared: Arc<Shared>,
}

/// What the instances of a model share.
struct Shared {
    model: rten::Model,
    inputs: Vec<(NodeId, TensorSpec)>,
    outputs: Vec<NodeId>,
    output_specs: Vec<TensorSpec>,
    /// `None`: on the caller's thread.
    pool: Option<Arc<ThreadPool>>,
}

impl RtenModel {
    fn open(path: &Path, threads: usize) -> Result<Self, OpenError> {
        check_readable(path)?;
        // Before rten sees the file: this bounds lengths and nesting, which rten takes on trust.
        let file = OnnxFile::read(path)?;
        let loaded = catch_unwind(|| rten::Model::load_file(path));
        let model = match loaded {
            Ok(Ok(model)) => model,
            Ok(Err(error)) => return Err(refused(path, &file, &error)),
            Err(_) => return Err(invalid(path, "rten panicked while it read the file".to_owned())),
        };
        let inputs = specs(path, &model, model.input_ids(), &file.inputs, "input")?;
        let outputs = specs(path, &model, model.output_ids(), &file.outputs, "output")?;
        let pool = match threads {
            0 | 1 => None,
            _ => Some(pool::of_threads(threads).ok_or_else(|| invalid(path, "no threads to compute on".to_owned()))?),
        };
        Ok(Self {
            signature: Signature {
                inputs: inputs.clone(),
                outputs: outputs.clone(),
            },
            shared: Arc::new(Shared {
                inputs: model.input_ids().iter().copied().zip(inputs).collect(),
                outputs: model.output_ids().to_vec(),
                output_specs: outputs,
                model,
                pool,
            }),
        })
    }
}

impl Model for RtenModel {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn instance(&self, axes: Option<&StackAxes>) -> Result<Box<dyn Instance>, OpenError> {
        Ok(Box::new(Stacked::new(RtenInstance(Arc::clone(&self.shared)), axes)))
    }
}

struct RtenInstance(Arc<Shared>);

impl TensorModel for RtenInstance {
    fn run(&mut self, inputs: &[Tensor]) -> Result<Outputs, ModelError> {
        let shared = &*self.0;
        if inputs.len() != shared.inputs.len() {
            return Err(ModelError(format!(
                "expected {} inputs, found {}",
                shared.inputs.len(),
                inputs.len()
            )));
        }
        let values = shared
            .inputs
            .iter()
            .zip(inputs)
            .map(|((id, spec), tensor)| Ok((*id, convert::input(spec, tensor)?)));
        let values = values.collect::<Result<Vec<_>, ModelError>>()?;
        let pool = shared.pool.clone().unwrap_or_else(pool::of_this_thread);
        let options = RunOptions::default().with_thread_pool(Some(pool));
        let outputs = shared.model.run(values, &shared.outputs, Some(options));
        let outputs = outputs.map_err(|error| ModelError(error.to_string()))?;
        let specs = &shared.output_specs;
        specs
            .iter()
            .zip(outputs)
            .map(|(spec, value)| convert::output(spec, value))
            .collect()
    }
}

fn invalid(path: &Path, reason: String) -> OpenError {
    OpenError::Invalid {
        path: path.to_owned(),
        reason,
    }
}

fn unsupported(path: &Path, what: String) -> OpenError {
    OpenError::Unsupported {
        path: path.to_owned(),
        runtime: NAME,
        what,
        help: FETCH.to_owned(),
    }
}

fn refused(path: &Path, file: &OnnxFile, error: &rten::LoadError) -> OpenError {
    let text = error.to_string();
    if error.kind() != LoadErrorKind::OperatorInvalid {
        return invalid(path, text);
    }
    // rten names an operator "domain/name", and a default one by its name alone.
    let missing = file.operators.iter().find(|operator| {
        let separator = if operator.domain.is_empty() { "" } else { "/" };
        let rten_name = format!("{}{separator}{}", operator.domain, operator.name);
        text.contains(&format!(" {rten_name} operator not supported"))
    });
    match missing {
        Some(operator) => unsupported(path, format!("operator {operator}")),
        None if text.contains("not supported") => unsupported(path, format!("an operator ({text})")),
        None => invalid(path, text),
    }
}

fn specs(
    path: &Path,
    model: &rten::Model,
    nodes: &[NodeId],
    declared: &[Declared],
    side: &str,
) -> Result<Vec<TensorSpec>, OpenError> {
    let spec = |node: &NodeId| {
        let name = model.node_info(*node).and_then(|info| info.name()).unwrap_or_default();
        let declared = declared.iter().find(|declared| declared.name == name);
        let declared = declared.ok_or_else(|| invalid(path, format!("{side} `{name}` is not declared")))?;
        let data_type = match declared.kind {
            Kind::Tensor(element) => convert::declared_type(element)
                .ok_or_else(|| unsupported(path, format!("{side} `{name}` of ONNX element type {element}")))?,
            Kind::Untold => return Err(invalid(path, format!("{side} `{name}` is declared without a type"))),
            Kind::Other(what) => {
                return Err(OpenError::Unsupported {
                    path: path.to_owned(),
                    runtime: NAME,
                    what: format!("{side} `{name}`, which is no tensor but a {what}"),
                    help: TENSORS_ONLY.to_owned(),
                });
            }
        };
        Ok(TensorSpec {
            name: name.to_owned(),
            data_type,
            shape: declared.shape.clone(),
        })
    };
    nodes.iter().map(spec).collect()
}
