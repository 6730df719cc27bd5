//! What a model of the quickstart is asked, and must answer, as tensors.

use std::path::Path;

use grid_client::Outputs;
use grid_core::tensor::{DataType, Tensor};
use serde_json::Value;

use crate::repository_root;

/// Another runtime rounds otherwise, and another batch too.
const TOLERANCE: f64 = 1e-4;

/// A request, and what its answer must say.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The model.
    pub model: String,
    /// Its inputs, with their names.
    pub inputs: Vec<(String, Tensor)>,
    expected: Vec<(String, Vec<f64>)>,
}

impl Sample {
    /// The sample of that model of the quickstart.
    ///
    /// # Panics
    /// When it has none.
    pub fn of(model: &str) -> Self {
        let folder = repository_root().join("configs/models").join(model);
        let inputs = list(&folder.join("sample.json"), "inputs");
        let outputs = list(&folder.join("expected.json"), "outputs");
        Self {
            model: model.to_owned(),
            inputs: inputs.iter().map(|input| (name(input), tensor(input))).collect(),
            expected: outputs.iter().map(|output| (name(output), numbers(output))).collect(),
        }
    }

    /// Whether these are the outputs.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn check(&self, outputs: &Outputs) -> Result<(), String> {
        let (found, expected) = (outputs.iter().len(), self.expected.len());
        if found != expected {
            return Err(format!("{}: {found} outputs, expected {expected}", self.model));
        }
        for (name, expected) in &self.expected {
            let wrong = |found: &[f64]| format!("{}: `{name}` is {found:?}, expected {expected:?}", self.model);
            let found = outputs.get(name).map(values).unwrap_or_default();
            let is_near = |(found, expected): (&f64, &f64)| (found - expected).abs() <= TOLERANCE;
            if found.len() != expected.len() || !found.iter().zip(expected).all(is_near) {
                return Err(wrong(&found));
            }
        }
        Ok(())
    }
}

/// The elements, as far as the quickstart's models have such.
pub fn values(tensor: &Tensor) -> Vec<f64> {
    let floats = tensor.values::<f32>().into_iter().flatten().map(|&value| value.into());
    let integers = tensor.values::<i64>().into_iter().flatten().map(|&value| value as f64);
    floats.chain(integers).collect()
}

fn list(file: &Path, key: &str) -> Vec<Value> {
    let text = std::fs::read(file).expect("the quickstart's models have samples");
    let json: Value = serde_json::from_slice(&text).expect("JSON");
    json[key].as_array().expect("a list").clone()
}

fn name(of: &Value) -> String {
    of["name"].as_str().expect("a name").to_owned()
}

fn numbers(of: &Value) -> Vec<f64> {
    let data = of["data"].as_array().expect("flat data");
    data.iter().map(|number| number.as_f64().expect("a number")).collect()
}

fn tensor(of: &Value) -> Tensor {
    let sizes = of["shape"].as_array().expect("a shape").iter();
    let shape = sizes.map(|size| size.as_u64().expect("a size") as usize).collect();
    let shape = grid_core::tensor::Shape(shape);
    let numbers = numbers(of);
    match of["datatype"].as_str().and_then(|name| name.parse().ok()) {
        Some(DataType::Fp32) => {
            let values: Vec<f32> = numbers.iter().map(|&number| number as f32).collect();
            Tensor::from_values(shape, &values)
        }
        Some(DataType::Int64) => {
            let values: Vec<i64> = numbers.iter().map(|&number| number as i64).collect();
            Tensor::from_values(shape, &values)
        }
        other => panic!("no sample has inputs of {other:?}"),
    }
    .expect("as many elements as the shape says")
}
