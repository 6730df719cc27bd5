use std::io::Cursor;

use super::*;
use crate::runtime::tests::tiny::{field, number};

fn parse(bytes: &[u8]) -> Result<OnnxFile, String> {
    OnnxFile::parse(BufReader::new(Cursor::new(bytes)), bytes.len() as u64).map_err(|fault| format!("{fault:?}"))
}

fn node(name: &str, domain: &str, attribute: &[u8]) -> Vec<u8> {
    field(
        1,
        &[
            field(4, name.as_bytes()),
            field(7, domain.as_bytes()),
            attribute.to_vec(),
        ]
        .concat(),
    )
}

fn model() -> Vec<u8> {
    let shape = [field(1, &field(2, b"batch")), field(1, &number(1, 54))].concat();
    let tensor = field(1, &[number(1, 7), field(2, &shape)].concat());
    let inner = field(6, &node("Scaler", "ai.onnx.ml", &[]));
    let graph = [
        node("If", "ai.onnx", &field(5, &inner)),
        field(5, &[field(9, &[0; 300]), field(8, b"weight")].concat()),
        field(11, &[field(1, b"ids"), field(2, &tensor)].concat()),
        field(12, &[field(1, b"any"), field(2, &field(1, &number(1, 1)))].concat()),
        field(12, &[field(1, b"maps"), field(2, &field(4, &[]))].concat()),
    ]
    .concat();
    [number(1, 8), field(7, &graph)].concat()
}

#[test]
fn declarations_are_read_with_types_sizes_and_operators_of_inner_graphs() {
    let file = parse(&model()).unwrap();
    assert_eq!(file.inputs[0].name, "ids");
    assert_eq!(file.inputs[0].kind, Kind::Tensor(7));
    assert_eq!(file.inputs[0].shape, Some(vec![Dim::Dynamic, Dim::Fixed(54)]));
    assert_eq!(file.outputs[0].shape, None);
    assert_eq!(file.outputs[1].kind, Kind::Other("sequence"));
    let operators: Vec<_> = file.operators.iter().map(Operator::to_string).collect();
    assert_eq!(operators, ["If", "ai.onnx.ml.Scaler"]);
}

#[test]
fn every_truncation_is_refused() {
    let model = model();
    for end in 2..model.len() {
        assert!(parse(&model[..end]).is_err(), "{end} of {} bytes", model.len());
    }
}

#[test]
fn graphs_nested_without_end_are_refused() {
    let mut graph = Vec::new();
    for _ in 0..2000 {
        graph = node("If", "", &field(5, &field(6, &graph)));
    }
    assert!(parse(&field(7, &graph)).unwrap_err().contains("deep"));
}

#[test]
fn a_length_past_the_message_around_it_is_named() {
    let error = parse(&field(7, &[1 << 3 | 2, 100])).unwrap_err();
    assert!(error.contains("claims 100 bytes, only 0 are left"), "{error}");
}

#[test]
fn any_damaged_byte_is_read_or_refused_without_panic() {
    let model = model();
    for place in 0..model.len() {
        for byte in 0..=255 {
            let mut damaged = model.clone();
            damaged[place] = byte;
            let _ = parse(&damaged);
        }
    }
}
