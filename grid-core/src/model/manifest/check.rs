//! Compares a manifest with the signature of the model file.

use super::{DeclaredTensor, Diagnostic, Manifest, Origin, Problem, StateTensor, shape_text};
use crate::config::one_of;
use crate::model::{Dim, NotStackable, Signature, StackAxes, TensorSpec};
use crate::tensor::DataType;

impl Manifest {
    /// Checks that the tensors named by the manifest are those of the model, and that what it asks for can be done
    /// with them. `file` is only used to name the manifest in errors.
    ///
    /// # Errors
    /// Everything that does not agree.
    pub fn check(&self, file: &str, signature: &Signature) -> Result<(), Vec<Diagnostic>> {
        let mut check = Check {
            manifest: self,
            file,
            problems: Vec::new(),
        };
        check.declared("input", &self.inputs, &signature.inputs);
        check.declared("output", &self.outputs, &signature.outputs);
        check.states(signature);
        check.warm_ups(signature);
        check.batching(signature);
        check.problems.sort_by(|a, b| a.origin.cmp(&b.origin));
        if check.problems.is_empty() {
            Ok(())
        } else {
            Err(check.problems)
        }
    }
}

struct Check<'m> {
    manifest: &'m Manifest,
    file: &'m str,
    problems: Vec<Diagnostic>,
}

impl Check<'_> {
    fn report(&mut self, key: &str, problem: Problem) {
        let origin: Origin = self.manifest.places.origin(key);
        self.problems.push(Diagnostic {
            file: self.file.to_owned(),
            origin,
            key: key.to_owned(),
            problem,
        });
    }

    fn find<'s>(&mut self, key: &str, name: &str, specs: &'s [TensorSpec]) -> Option<&'s TensorSpec> {
        let found = specs.iter().find(|spec| spec.name == name);
        if found.is_none() {
            let names = || specs.iter().map(|spec| spec.name.as_str());
            let expected = match specs {
                [] => "none, since the model file has none".to_owned(),
                _ => format!("{}, the names in the model file", one_of(names())),
            };
            let problem = Problem::Value {
                expected,
                found: format!("{name:?}"),
                nearest: crate::config::nearest(name, names()).map(str::to_owned),
            };
            self.report(key, problem);
        }
        found
    }

    fn declared(&mut self, list: &str, tensors: &[DeclaredTensor], specs: &[TensorSpec]) {
        for (index, tensor) in tensors.iter().enumerate() {
            let path = format!("{list}[{index}]");
            let Some(spec) = self.find(&format!("{path}.name"), &tensor.name, specs) else {
                continue;
            };
            if let Some(data_type) = tensor.data_type
                && data_type != spec.data_type
            {
                let expected = format!("{:?}, the type in the model file", spec.data_type.name());
                let found = format!("{:?}", data_type.name());
                self.report(&format!("{path}.datatype"), Problem::value(expected, found));
            }
            if let (Some(declared), Some(shape)) = (&tensor.shape, &spec.shape)
                && declared != shape
            {
                let expected = format!("{}, the shape in the model file", dims_text(Some(shape)));
                let found = dims_text(Some(declared));
                self.report(&format!("{path}.shape"), Problem::value(expected, found));
            }
        }
    }

    fn states(&mut self, signature: &Signature) {
        let manifest = self.manifest;
        for (index, state) in manifest.states.iter().enumerate() {
            let path = format!("state[{index}]");
            let earlier = &manifest.states[..index];
            for (key, name, taken) in [
                (
                    "input",
                    &state.input,
                    earlier.iter().any(|other| other.input == state.input),
                ),
                (
                    "output",
                    &state.output,
                    earlier.iter().any(|other| other.output == state.output),
                ),
            ] {
                if taken {
                    let problem = Problem::value("each tensor in one `[[state]]`", format!("{name:?} a second time"));
                    self.report(&format!("{path}.{key}"), problem);
                }
            }
            let input = self.find(&format!("{path}.input"), &state.input, &signature.inputs);
            let output = self.find(&format!("{path}.output"), &state.output, &signature.outputs);
            if let Some(input) = input {
                self.start_of_state(&path, state, input);
                if let Some(output) = output {
                    self.handed_on(&path, input, output);
                }
            }
        }
    }

    /// The first run of a stream: the initial value must be one of the input's type, and its shape must be known.
    fn start_of_state(&mut self, path: &str, state: &StateTensor, input: &TensorSpec) {
        if input.data_type == DataType::Bytes {
            let found = format!("{:?}, whose elements are byte strings", input.name);
            self.report(&format!("{path}.input"), Problem::value("a tensor of numbers", found));
        } else if !holds(input.data_type, state.initial) {
            let expected = format!("a value of {}, the type of {:?}", input.data_type, input.name);
            self.report(
                &format!("{path}.initial"),
                Problem::value(expected, state.initial.to_string()),
            );
        }
        let dims = dims_text(input.shape.as_deref());
        let key = format!("{path}.shape");
        match (&state.shape, &input.shape) {
            (Some(shape), Some(spec)) if !fits(shape, spec) => {
                let expected = format!("one that fits {dims}, the shape of {:?}", input.name);
                self.report(&key, Problem::value(expected, shape_text(shape)));
            }
            (None, spec) if spec.as_ref().is_none_or(|dims| dims.contains(&Dim::Dynamic)) => {
                let expected = format!(
                    "the shape at the start, since the model file leaves {:?} open as {dims}",
                    input.name
                );
                self.report(&key, Problem::Missing { expected });
            }
            _ => {}
        }
    }

    /// Every later run: what comes out must go in again.
    fn handed_on(&mut self, path: &str, input: &TensorSpec, output: &TensorSpec) {
        let agree = |a: &Dim, b: &Dim| a == b || *a == Dim::Dynamic || *b == Dim::Dynamic;
        let shapes_agree = match (&input.shape, &output.shape) {
            (Some(a), Some(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| agree(a, b)),
            _ => true,
        };
        if input.data_type != output.data_type || !shapes_agree {
            let described = |spec: &TensorSpec| {
                format!(
                    "{:?} of {} {}",
                    spec.name,
                    spec.data_type,
                    dims_text(spec.shape.as_deref())
                )
            };
            let expected = format!("an output that fits the input {}", described(input));
            self.report(&format!("{path}.output"), Problem::value(expected, described(output)));
        }
    }

    fn warm_ups(&mut self, signature: &Signature) {
        let manifest = self.manifest;
        for (index, warm_up) in manifest.warm_ups.iter().enumerate() {
            for (name, shape) in &warm_up.dims {
                let key = format!("warm_up[{index}].dims.{}", crate::config::written_key(name));
                let Some(input) = self.find(&key, name, &signature.inputs) else {
                    continue;
                };
                if let Some(spec) = &input.shape
                    && !fits(shape, spec)
                {
                    let expected = format!("a shape that fits {}", dims_text(Some(spec)));
                    self.report(&key, Problem::value(expected, shape_text(shape)));
                }
            }
        }
    }

    fn batching(&mut self, signature: &Signature) {
        let batching = &self.manifest.batching;
        for (index, name) in batching.shared.iter().enumerate() {
            self.find(&format!("batching.shared[{index}]"), name, &signature.inputs);
        }
        let rows = batching.max_batch_size;
        if rows == 0 {
            return;
        }
        let Err(problem) = StackAxes::of(self.manifest, signature) else {
            return;
        };
        let why = match problem {
            NotStackable::Strings(spec) => format!("{:?} holds byte strings", spec.name),
            NotStackable::Fixed { spec, axis } => {
                let size = match axis {
                    0 => "the first size".to_owned(),
                    _ => format!("size {axis}, counted from 0,"),
                };
                let dims = dims_text(spec.shape.as_deref());
                format!("{size} of {:?} is not open in its shape {dims}", spec.name)
            }
            NotStackable::NoRows => "no input of the model has rows".to_owned(),
        };
        let expected = format!("0 (requests cannot be stacked: {why})");
        self.report(
            "batching.max_batch_size",
            Problem::value(expected, format!("the integer {rows}")),
        );
    }
}

fn fits(shape: &[usize], dims: &[Dim]) -> bool {
    let size_fits = |(size, dim): (&usize, &Dim)| matches!(dim, Dim::Dynamic) || *dim == Dim::Fixed(*size);
    shape.len() == dims.len() && shape.iter().zip(dims).all(size_fits)
}

fn dims_text(dims: Option<&[Dim]>) -> String {
    match dims {
        Some(dims) => format!("[{}]", dims.iter().map(Dim::to_string).collect::<Vec<_>>().join(", ")),
        None => "a shape of any rank".to_owned(),
    }
}

/// Whether a type has this value: whole and in range for integers, not beyond the largest for floating point.
fn holds(data_type: DataType, value: f64) -> bool {
    let whole = |least: f64, bound: f64| value.fract() == 0.0 && (least..bound).contains(&value);
    let within = |largest: f64| !value.is_finite() || value.abs() <= largest;
    match data_type {
        DataType::Bool => whole(0.0, 2.0),
        DataType::Uint8 => whole(0.0, 2f64.powi(8)),
        DataType::Uint16 => whole(0.0, 2f64.powi(16)),
        DataType::Uint32 => whole(0.0, 2f64.powi(32)),
        DataType::Uint64 => whole(0.0, 2f64.powi(64)),
        DataType::Int8 => whole(-(2f64.powi(7)), 2f64.powi(7)),
        DataType::Int16 => whole(-(2f64.powi(15)), 2f64.powi(15)),
        DataType::Int32 => whole(-(2f64.powi(31)), 2f64.powi(31)),
        DataType::Int64 => whole(-(2f64.powi(63)), 2f64.powi(63)),
        DataType::Fp16 => within(f64::from(half::f16::MAX)),
        DataType::Bf16 => within(f64::from(half::bf16::MAX)),
        DataType::Fp32 => within(f64::from(f32::MAX)),
        DataType::Fp64 => true,
        DataType::Bytes => false,
    }
}
