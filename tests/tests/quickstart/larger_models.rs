//! Larger models, where they were fetched: a state tensor, and batches of a transformer.

use grid_tests::process::{NodeCommand, NodeProcess};
use grid_tests::repository_root;
use serde_json::{Value, json};

use super::{BINARY, skip};

/// A node that serves this model, if it was fetched, in ONNX Runtime where that was fetched.
fn node_with(model: &str) -> Option<NodeProcess> {
    let root = repository_root();
    let larger = root.join("configs/larger");
    if !larger.join(model).join("1/model.onnx").exists() {
        skip(model, &format!("models {model}"));
        return None;
    }
    let text = format!(
        "models = {{ repository = '{}', load = ['{model}'] }}\nnode.data_dir = '{}'",
        larger.display(),
        root.join(".grid/data").display()
    );
    Some(NodeCommand::with_config_text(BINARY, text).start().expect("a node"))
}

fn tensor(name: &str, data_type: &str, shape: &[usize], data: &[impl Into<Value> + Clone]) -> Value {
    let data: Vec<Value> = data.iter().cloned().map(Into::into).collect();
    json!({"name": name, "datatype": data_type, "shape": shape, "data": data})
}

/// Shape and values of an output of one inference.
fn infer(node: &NodeProcess, model: &str, inputs: &[Value], output: &str) -> (Value, Vec<f64>) {
    let body = json!({"inputs": inputs, "outputs": [{"name": output}]}).to_string();
    let response = node
        .post(&format!("/v2/models/{model}/infer"), &body)
        .expect("an answer");
    assert_eq!(response.status, 200, "{}", response.text());
    let output = response.json().expect("JSON")["outputs"][0].clone();
    let data = output["data"]
        .as_array()
        .expect("data")
        .iter()
        .filter_map(Value::as_f64);
    (output["shape"].clone(), data.collect())
}

fn must_be_close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    let off = |(found, expected): (&f64, &f64)| (found - expected).abs();
    let furthest = found.iter().zip(expected).map(off).fold(0.0, f64::max);
    assert!(furthest <= tolerance, "off by {furthest}");
}

#[test]
fn a_state_tensor_that_is_left_out_is_its_initial_value() {
    let Some(node) = node_with("silero_vad") else { return };
    let sound: Vec<f64> = (0..576).map(|sample| (f64::from(sample) * 0.3).sin() / 2.0).collect();
    let chunk = [
        tensor("input", "FP32", &[1, 576], &sound),
        tensor("sr", "INT64", &[], &[16_000]),
    ];
    let state = |value: f64| tensor("state", "FP32", &[2, 1, 128], &[value; 256]);
    let with = |value: f64| [&chunk[..], &[state(value)]].concat();
    for output in ["output", "stateN"] {
        let (shape, without) = infer(&node, "silero_vad", &chunk, output);
        let (expected_shape, zeros) = infer(&node, "silero_vad", &with(0.0), output);
        assert_eq!(shape, expected_shape);
        must_be_close(&without, &zeros, 1e-6);
        let (_, others) = infer(&node, "silero_vad", &with(0.5), output);
        assert_ne!(without, others, "{output}: the state counts");
    }
}

#[test]
fn two_sentences_in_a_batch_are_each_what_they_are_alone() {
    let Some(node) = node_with("minilm") else { return };
    let tokens = 12;
    // Ids of English words, behind [CLS] and before [SEP].
    let sentence = |first: i64| -> Vec<i64> {
        let words = (1..tokens - 1).map(|place| first + 7 * place as i64);
        [101].into_iter().chain(words).chain([102]).collect()
    };
    let infer = |sentences: &[Vec<i64>]| {
        let shape = [sentences.len(), tokens];
        let count = sentences.len() * tokens;
        let inputs = [
            tensor("input_ids", "INT64", &shape, &sentences.concat()),
            tensor("attention_mask", "INT64", &shape, &vec![1; count]),
            tensor("token_type_ids", "INT64", &shape, &vec![0; count]),
        ];
        let (shape, values) = infer(&node, "minilm", &inputs, "last_hidden_state");
        assert_eq!(shape, json!([sentences.len(), tokens, 384]));
        values
    };
    let (one, other) = (sentence(2_000), sentence(5_000));
    let together = infer(&[one.clone(), other.clone()]);
    let (first, second) = together.split_at(together.len() / 2);
    must_be_close(first, &infer(&[one]), 1e-3);
    must_be_close(second, &infer(&[other]), 1e-3);
}
