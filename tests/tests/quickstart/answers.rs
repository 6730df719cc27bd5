//! What the models answer, in which runtime, and what a node says about it at its start.

use std::collections::BTreeMap;
use std::fs;

use grid_tests::embedded::eventually;
use grid_tests::load::InferRequest;
use grid_tests::process::{NodeProcess, Response, Stream, exchange};
use serde_json::Value;

use super::{FOREST, NEURAL, has_onnxruntime, models, quickstart, skip, without_onnxruntime};

/// Another runtime rounds otherwise.
const TOLERANCE: f64 = 1e-4;

/// Type, shape and values of each output.
type Outputs = BTreeMap<String, (String, Value, Vec<f64>)>;

/// The outputs of an answer, those behind its JSON too.
fn outputs(response: &Response) -> Outputs {
    let split = response.header("inference-header-content-length");
    let split = split.map_or(response.body.len(), |length| length.parse().expect("a number of bytes"));
    let (json, mut raw) = response.body.split_at(split);
    let json: Value = serde_json::from_slice(json).expect("JSON");
    let mut outputs = Outputs::new();
    for output in json["outputs"].as_array().expect("outputs") {
        let data_type = output["datatype"].as_str().expect("a type").to_owned();
        let values = match output["parameters"]["binary_data_size"].as_u64() {
            None => numbers(&output["data"]),
            Some(size) => {
                let (bytes, rest) = raw.split_at(size as usize);
                raw = rest;
                numbers_of_bytes(&data_type, bytes)
            }
        };
        let name = output["name"].as_str().expect("a name").to_owned();
        outputs.insert(name, (data_type, output["shape"].clone(), values));
    }
    assert!(raw.is_empty(), "bytes that belong to no output");
    outputs
}

fn numbers(data: &Value) -> Vec<f64> {
    let data = data.as_array().expect("an array of numbers");
    data.iter().map(|number| number.as_f64().expect("a number")).collect()
}

fn numbers_of_bytes(data_type: &str, bytes: &[u8]) -> Vec<f64> {
    match data_type {
        "FP32" => bytes
            .as_chunks()
            .0
            .iter()
            .map(|&bytes| f32::from_le_bytes(bytes).into())
            .collect(),
        "INT64" => bytes
            .as_chunks()
            .0
            .iter()
            .map(|&bytes| i64::from_le_bytes(bytes) as f64)
            .collect(),
        other => panic!("no model of the quickstart has {other}"),
    }
}

fn must_answer_as_expected(node: &NodeProcess, model: &str) {
    let folder = models().join(model);
    let request = InferRequest::from_sample(model, &folder.join("sample.json")).expect("a sample");
    let expected = Response {
        status: 200,
        headers: Vec::new(),
        body: fs::read(folder.join("expected.json")).expect("the expected answer"),
    };
    let expected = outputs(&expected);
    for (form, request) in [("JSON", request.json()), ("binary", request.binary().expect("bytes"))] {
        let response = exchange(node.address(), &request).expect("an answer");
        assert_eq!(response.status, 200, "{model}, {form}: {}", response.text());
        let is_binary = response.header("inference-header-content-length").is_some();
        assert_eq!(
            is_binary,
            form == "binary",
            "{model}: an answer of the kind that was asked for"
        );
        let found = outputs(&response);
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (name, (data_type, shape, values)) in &found {
            let (expected_type, expected_shape, expected_values) = &expected[name];
            assert_eq!(
                (data_type, shape),
                (expected_type, expected_shape),
                "{model}, {form}: {name}"
            );
            assert_eq!(values.len(), expected_values.len(), "{model}, {form}: {name}");
            for (value, expected) in values.iter().zip(expected_values) {
                assert!(
                    (value - expected).abs() <= TOLERANCE,
                    "{model}, {form}: {name}: expected {expected}, found {value}"
                );
            }
        }
    }
}

fn runtime_of(node: &NodeProcess, model: &str) -> String {
    let metadata = node.get(&format!("/v2/models/{model}")).expect("an answer");
    let metadata = metadata.json().expect("JSON");
    metadata["platform"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn every_model_of_the_quickstart_answers_as_expected_in_rten() {
    let node = quickstart()
        .env("GRID__RUNTIME__PREFER", "rten")
        .start()
        .expect("a node");
    for model in NEURAL {
        must_answer_as_expected(&node, model);
        assert_eq!(runtime_of(&node, model), "rten_onnx", "{model}");
    }
    eventually("it says why they run in rten", || {
        node.output_on(Stream::Out).contains("`runtime.prefer`")
    });
}

#[test]
fn every_model_of_the_quickstart_answers_as_expected_in_onnxruntime() {
    if !has_onnxruntime() {
        return skip("the quickstart's models in ONNX Runtime", "onnxruntime");
    }
    let node = quickstart().env_remove("ORT_DYLIB_PATH").start().expect("a node");
    for model in NEURAL.into_iter().chain([FOREST]) {
        must_answer_as_expected(&node, model);
        assert_eq!(runtime_of(&node, model), "onnxruntime_onnx", "{model}");
    }
}

#[test]
fn without_onnxruntime_the_forest_is_refused_by_its_operator_and_the_rest_is_served() {
    let node = without_onnxruntime(&models(), "").start().expect("a node");
    for model in NEURAL {
        must_answer_as_expected(&node, model);
    }
    let sample = InferRequest::from_sample(FOREST, &models().join(FOREST).join("sample.json")).expect("a sample");
    let refused = exchange(node.address(), &sample.json()).expect("an answer");
    assert_eq!(refused.status, 503, "{}", refused.text());
    let index = node.post("/v2/repository/index", "").expect("an answer").text();
    for message in [refused.text(), index] {
        assert!(
            message.contains("operator ai.onnx.ml.TreeEnsembleClassifier"),
            "{message}"
        );
        assert!(message.contains("`configs/fetch onnxruntime`"), "{message}");
    }
}

#[test]
fn the_start_says_what_is_served_by_which_runtime_and_what_fetching_the_other_would_bring() {
    let node = without_onnxruntime(&models(), "").start().expect("a node");
    eventually("the start is told to its last line", || {
        node.output_on(Stream::Out).contains("try: curl ")
    });
    let told = node.output_on(Stream::Out);
    let line = |words: &[&str]| {
        let found = told.lines().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(found, "no line with {words:?} in:\n{told}");
    };
    line(&["listening on", &format!("http://{}", node.address())]);
    line(&[
        "runtime onnxruntime is absent",
        "trees",
        "faster",
        "`configs/fetch onnxruntime`",
    ]);
    line(&["runtime rten"]);
    for model in NEURAL {
        line(&["READY", &format!("{model} version 1"), "rten"]);
    }
    line(&[
        "UNAVAILABLE",
        FOREST,
        "ai.onnx.ml.TreeEnsembleClassifier",
        "`configs/fetch onnxruntime`",
    ]);
    let about_the_forest = told.lines().filter(|line| line.contains("TreeEnsembleClassifier"));
    assert_eq!(about_the_forest.count(), 1, "each problem is told once:\n{told}");
    line(&["try: curl http://", "/infer -d @", "sample.json"]);
}
