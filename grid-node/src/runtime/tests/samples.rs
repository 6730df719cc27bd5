//! The models of `configs/models`, with their samples.

use std::path::PathBuf;

use grid_core::model::Signature;
use grid_core::tensor::DataType;
use serde_json::Value;

use super::*;

struct Sample {
    name: String,
    model: PathBuf,
    inputs: Vec<(String, Tensor)>,
    expected: Vec<(String, Tensor)>,
}

fn tensors(json: &Value) -> Vec<(String, Tensor)> {
    let tensor = |json: &Value| {
        let shape: Vec<usize> = serde_json::from_value(json["shape"].clone()).unwrap();
        let shape = Shape::new(&shape);
        let data = json["data"].clone();
        let tensor = match json["datatype"].as_str().unwrap() {
            "FP32" => Tensor::from_values(shape, &serde_json::from_value::<Vec<f32>>(data).unwrap()),
            "INT64" => Tensor::from_values(shape, &serde_json::from_value::<Vec<i64>>(data).unwrap()),
            other => panic!("a sample with {other}"),
        };
        (json["name"].as_str().unwrap().to_owned(), tensor.unwrap())
    };
    json.as_array().unwrap().iter().map(tensor).collect()
}

fn samples() -> Vec<Sample> {
    let folder = repository().join("configs/models");
    let Ok(entries) = std::fs::read_dir(&folder) else {
        eprintln!("SKIPPED: no {}", folder.display());
        return Vec::new();
    };
    let mut samples = Vec::new();
    for entry in entries {
        let folder = entry.unwrap().path();
        let read = |name: &str| std::fs::read(folder.join(name)).ok();
        let (Some(sample), Some(expected)) = (read("sample.json"), read("expected.json")) else {
            continue;
        };
        let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        samples.push(Sample {
            name: folder.file_name().unwrap().to_string_lossy().into_owned(),
            model: folder.join("1/model.onnx"),
            inputs: tensors(&parse(&sample)["inputs"]),
            expected: tensors(&parse(&expected)["outputs"]),
        });
    }
    samples
}

pub(super) fn path_of(name: &str) -> Option<PathBuf> {
    samples()
        .into_iter()
        .find(|sample| sample.name == name)
        .map(|sample| sample.model)
}

fn arranged(signature: &Signature, inputs: Vec<(String, Tensor)>) -> Inputs {
    // What a sample leaves out is a state, which begins with zeros.
    let zeros = |index: usize| {
        let dims = signature.inputs[index].shape.iter().flatten();
        let dims: Vec<usize> = dims
            .map(|dim| if let Dim::Fixed(size) = dim { *size } else { 1 })
            .collect();
        Tensor::from_values(Shape::new(&dims), &vec![0f32; dims.iter().product()]).ok()
    };
    signature.arrange(inputs, zeros).unwrap()
}

fn assert_close(name: &str, expected: &Tensor, found: &Tensor) {
    assert_eq!(expected.shape(), found.shape(), "{name}");
    assert_eq!(expected.data_type(), found.data_type(), "{name}");
    match expected.data_type() {
        DataType::Fp32 => {
            let pairs = expected
                .values::<f32>()
                .unwrap()
                .iter()
                .zip(found.values::<f32>().unwrap());
            for (expected, found) in pairs {
                let bound = 1e-5 + 1e-4 * expected.abs();
                assert!(
                    (expected - found).abs() <= bound,
                    "{name}: expected {expected}, found {found}"
                );
            }
        }
        _ => assert_eq!(expected, found, "{name}"),
    }
}

#[test]
fn every_runtime_gives_the_expected_answers_to_the_samples() {
    for runtime in runtimes() {
        for sample in samples() {
            let model = match open(&*runtime, &sample.model) {
                Ok(model) => model,
                Err(OpenError::Unsupported { what, .. }) if runtime.name() == "rten" => {
                    eprintln!("{} has not what {} needs: {what}", runtime.name(), sample.name);
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            let inputs = arranged(model.signature(), sample.inputs);
            let outputs = run(&mut *instance(&*model), inputs).unwrap();
            assert_eq!(outputs.len(), sample.expected.len(), "{}", sample.name);
            for (name, expected) in &sample.expected {
                let found = &outputs[model.signature().output(name).unwrap()];
                assert_close(&format!("{} {} `{name}`", runtime.name(), sample.name), expected, found);
            }
        }
    }
}

#[test]
fn both_runtimes_derive_the_same_signature() {
    let Some(onnxruntime) = require_onnxruntime() else {
        return;
    };
    for sample in samples() {
        let one = open(&*onnxruntime, &sample.model).unwrap();
        if let Ok(other) = open(&Rten, &sample.model) {
            assert_eq!(one.signature(), other.signature(), "{}", sample.name);
        }
        let inputs = &one.signature().inputs;
        assert_eq!(inputs[0].shape.as_ref().unwrap()[0], Dim::Dynamic, "{}", sample.name);
    }
}

#[test]
fn threads_that_share_a_model_get_the_answers_of_one() {
    for runtime in runtimes() {
        for sample in samples() {
            for threads_per_run in [1, 2] {
                let Ok(model) = open_with_threads(&*runtime, &sample.model, threads_per_run) else {
                    continue;
                };
                let inputs = arranged(model.signature(), sample.inputs.clone());
                let alone = run(&mut *instance(&*model), inputs.clone()).unwrap();
                std::thread::scope(|scope| {
                    for _ in 0..4 {
                        scope.spawn(|| {
                            let mut instance = instance(&*model);
                            for _ in 0..250 {
                                assert_eq!(run(&mut *instance, inputs.clone()).unwrap(), alone);
                            }
                        });
                    }
                });
            }
        }
    }
}

#[test]
fn an_operator_that_rten_lacks_is_named_with_the_command_that_helps() {
    let Some(forest) = path_of("credit_forest") else { return };
    let error = refusal(&Rten, &forest).to_string();
    assert!(
        error.ends_with(
            "operator ai.onnx.ml.TreeEnsembleClassifier cannot be run by rten; \
             `configs/fetch onnxruntime` fetches ONNX Runtime, which can"
        ),
        "{error}"
    );
}

#[test]
fn wrong_tensors_that_pass_by_the_signature_are_refused_and_the_instance_stays_good() {
    let Some(path) = path_of("credit_risk") else { return };
    for runtime in runtimes() {
        let model = open(&*runtime, &path).unwrap();
        let mut instance = instance(&*model);
        let good = || Tensor::from_values([1, 54].into(), &[0.5f32; 54]).unwrap();
        let before = run(&mut *instance, [good()]).unwrap();
        let wrong: [Vec<Tensor>; 6] = [
            vec![],
            vec![good(), good()],
            vec![Tensor::from_values([1, 54].into(), &[1i64; 54]).unwrap()],
            vec![Tensor::from_values([1, 53].into(), &[0.5f32; 53]).unwrap()],
            vec![Tensor::from_values([54].into(), &[0.5f32; 54]).unwrap()],
            vec![Tensor::from_values([usize::MAX, 54, 0].into(), &[0.0f32; 0]).unwrap()],
        ];
        for inputs in wrong {
            let error = run(&mut *instance, inputs).unwrap_err();
            assert!(!error.0.is_empty());
        }
        assert_eq!(run(&mut *instance, [good()]).unwrap(), before);
    }
}
