//! What holds for the codec as a whole: round trips, and a refusal in words for everything that is wrong.

use bytes::Bytes;
use grid_core::tensor::{ALIGNMENT, ALL_DATA_TYPES, AlignedBytes, DataType, Shape, Tensor, append_string};
use proptest::prelude::*;

use super::*;

mod refusals;

fn body(json: &str, binary: Option<&[u8]>) -> RequestBody {
    let length = json.len().to_string();
    let mut builder = RequestBody::builder(binary.map(|_| length.as_bytes()), None, 1 << 20).unwrap();
    builder.push(Bytes::copy_from_slice(json.as_bytes())).unwrap();
    builder
        .push(Bytes::copy_from_slice(binary.unwrap_or_default()))
        .unwrap();
    builder.finish().unwrap()
}

/// A request of one input `x`, with `fields` besides its name.
fn with(fields: &str) -> String {
    format!(r#"{{"inputs":[{{"name":"x",{fields}}}]}}"#)
}

fn accepted(fields: &str) -> Tensor {
    let body = body(&with(fields), None);
    let (_, tensor) = decode(&body).unwrap().inputs.remove(0);
    tensor
}

/// Any tensor whose values JSON can carry.
fn tensor() -> impl Strategy<Value = Tensor> {
    let data_type = prop::sample::select(&ALL_DATA_TYPES[..]);
    let shape = prop::collection::vec(0usize..4, 0..4);
    let entropy = prop::collection::vec(any::<u64>(), 27);
    let texts = prop::collection::vec(any::<String>(), 27);
    (data_type, shape, entropy, texts).prop_map(|(data_type, shape, entropy, texts)| {
        let shape = Shape::new(&shape);
        let mut bytes = AlignedBytes::default();
        for (&bits, text) in entropy.iter().zip(&texts).take(shape.elements().unwrap()) {
            match data_type {
                DataType::Bytes => append_string(&mut bytes, text.as_bytes()),
                DataType::Bool => bytes.extend_from_slice(&[(bits % 2) as u8]),
                // Clearing the lowest bit of each exponent leaves none that is all ones: not finite.
                DataType::Fp16 => bytes.extend_from_slice(&(bits as u16 & !(1 << 10)).to_le_bytes()),
                DataType::Bf16 => bytes.extend_from_slice(&(bits as u16 & !(1 << 7)).to_le_bytes()),
                DataType::Fp32 => bytes.extend_from_slice(&(bits as u32 & !(1 << 23)).to_le_bytes()),
                DataType::Fp64 => bytes.extend_from_slice(&(bits & !(1 << 52)).to_le_bytes()),
                _ => bytes.extend_from_slice(&bits.to_le_bytes()[..data_type.size().unwrap()]),
            }
        }
        Tensor::new(data_type, shape, bytes.freeze()).unwrap()
    })
}

const RESPONSE: Response<'_> = Response {
    model_name: "m",
    model_version: 3,
    kind: MessageKind::Http,
    id: Some("a\"b"),
};

proptest! {
    #[test]
    fn what_is_encoded_is_what_is_decoded(tensors in prop::collection::vec((tensor(), any::<bool>()), 0..5)) {
        let outputs = tensors.iter().map(|(tensor, binary)| OutputTensor { name: "x", tensor, binary: *binary });
        let encoded = encode(&RESPONSE, outputs).unwrap();
        let whole = encoded.parts.concat();
        prop_assert_eq!(whole.len(), encoded.len());
        prop_assert_eq!(encoded.header_length.is_some(), tensors.iter().any(|(_, binary)| *binary));
        let (json, binary) = whole.split_at(encoded.header_length.unwrap_or(whole.len()));
        let json = std::str::from_utf8(json).unwrap();
        // A response has the form of a request but for the name of the list.
        let json = json.replace("\"outputs\":", "\"inputs\":");
        let body = body(&json, encoded.header_length.map(|_| binary));
        let decoded = decode(&body).unwrap();
        prop_assert_eq!(decoded.id.as_deref(), Some("a\"b"));
        let read: Vec<_> = decoded.inputs.into_iter().map(|(_, tensor)| tensor).collect();
        let sent: Vec<_> = tensors.into_iter().map(|(tensor, _)| tensor).collect();
        prop_assert_eq!(read, sent);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), split in prop::option::of(0usize..100)) {
        let mut builder = RequestBody::builder(split.map(|n| n.to_string()).as_deref().map(str::as_bytes), None, 100).unwrap();
        builder.push(bytes.into()).unwrap();
        if let Ok(body) = builder.finish() {
            let _ = decode(&body);
        }
    }

    #[test]
    fn no_damage_to_a_request_makes_it_panic(
        fragments in prop::collection::vec(
            prop::sample::select(vec![
                "{", "}", "[", "]", ",", ":", "1", "-1", "99999999999", "1.5", "1e999", "NaN", "null", "true", "\"", "\\", "é", " ",
                "\"name\":\"x\"", "\"datatype\":\"FP32\"", "\"datatype\":\"BYTES\"", "\"datatype\":\"BOOL\"", "\"shape\":[2,2]",
                "\"data\":[[1,2],[3,4]]", "\"data\":", "\"inputs\":[{", "\"outputs\":[{", "\"parameters\":{", "\"binary_data_size\":8",
            ]),
            0..25,
        ),
        binary: bool,
    ) {
        let _ = decode(&body(&fragments.concat(), binary.then_some(&[0; 16])));
    }

    #[test]
    fn the_order_of_keys_does_not_matter(order in Just(["\"name\":\"x\"", "\"datatype\":\"INT8\"", "\"shape\":[2]", "\"data\":[1,2]"]).prop_shuffle()) {
        let body = body(&format!("{{\"inputs\":[{{{}}}]}}", order.join(",")), None);
        let decoded = decode(&body).unwrap();
        prop_assert_eq!(decoded.inputs[0].1.values::<i8>(), Some(&[1, 2][..]));
    }
}

#[test]
fn a_request_is_read_with_all_that_it_says() {
    let json = r#" {"id": "42", "unknown": [{}], "parameters": {"timeout": "1500", "priority": 2, "sequence_id": 7,
        "sequence_start": true, "sequence_end": false, "binary_data_output": true, "other": {"a": null}},
        "inputs": [{"name": "a\u0062", "shape": [1, 2], "datatype": "FP32", "data": [[ 1 , 2.5e-1 ]], "extra": 1}],
        "outputs": [{"name": "y", "parameters": {"binary_data": false, "classification": 3}}, {"name": "z"}]} "#;
    let body = body(json, None);
    let decoded = decode(&body).unwrap();
    assert_eq!(decoded.id.as_deref(), Some("42"));
    assert_eq!(decoded.parameters.timeout, Some(std::time::Duration::from_micros(1500)));
    assert_eq!(decoded.parameters.priority, Some(2));
    assert_eq!(decoded.parameters.sequence_id, Some(7.into()));
    assert!(decoded.parameters.binary_data_output && decoded.parameters.sequence_start);
    assert_eq!(decoded.inputs[0].0, "ab");
    assert_eq!(decoded.inputs[0].1.values::<f32>(), Some(&[1.0, 0.25][..]));
    let asked: Vec<_> = decoded
        .outputs
        .iter()
        .map(|o| (&*o.name, o.binary_data, o.classification))
        .collect();
    assert_eq!(asked, [("y", Some(false), Some(3)), ("z", None, None)]);
}

#[test]
fn what_is_left_out_or_null_has_its_default() {
    let body = body(r#"{"id":null,"parameters":null,"outputs":null,"inputs":[]}"#, None);
    let decoded = decode(&body).unwrap();
    assert_eq!(decoded.id, None);
    assert_eq!(decoded.parameters, Parameters::default());
    assert!(decoded.inputs.is_empty() && decoded.outputs.is_empty());
}

#[test]
fn raw_tensors_are_used_where_they_lie() {
    let fields = r#""shape":[2],"datatype":"FP32","parameters":{"binary_data_size":8}"#;
    let body = body(&with(fields), Some(&[0, 0, 128, 63, 0, 0, 0, 64]));
    let decoded = decode(&body).unwrap();
    let data = decoded.inputs[0].1.data().as_slice();
    assert_eq!(data.as_ptr(), body.binary().unwrap().as_slice().as_ptr());
    assert_eq!(data.as_ptr() as usize % ALIGNMENT, 0);
    assert_eq!(decoded.inputs[0].1.values::<f32>(), Some(&[1.0, 2.0][..]));
}

#[test]
fn data_may_be_nested_as_the_shape_is_or_less() {
    for data in ["[1,2,3,4]", "[[1,2],[3,4]]", "[[[1,2]],[[3,4]]]", "[[1,2,3,4]]"] {
        let tensor = accepted(&format!(r#""shape":[2,1,2],"datatype":"INT16","data":{data}"#));
        assert_eq!(tensor.values::<i16>(), Some(&[1, 2, 3, 4][..]), "{data}");
    }
    for data in ["[]", "[[],[]]"] {
        let tensor = accepted(&format!(r#""shape":[2,0],"datatype":"BYTES","data":{data}"#));
        assert_eq!(tensor.elements(), 0);
    }
    assert_eq!(accepted(r#""shape":[],"datatype":"BOOL","data":[true]"#).elements(), 1);
}

fn encoded(tensor: &Tensor, binary: bool) -> Result<String, String> {
    let outputs = [OutputTensor {
        name: "y",
        tensor,
        binary,
    }];
    let encoded = encode(&RESPONSE, outputs.into_iter()).map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&encoded.parts.concat()).into_owned())
}

#[test]
fn responses_are_written_as_the_protocol_has_them() {
    let floats = Tensor::from_values([1, 3].into(), &[0.1f32, 3.0, 1e-7]).unwrap();
    assert_eq!(
        encoded(&floats, false).unwrap(),
        r#"{"model_name":"m","model_version":"3","id":"a\"b","outputs":[{"name":"y","datatype":"FP32","shape":[1,3],"data":[0.1,3.0,1e-7]}]}"#
    );
    let letters = Tensor::from_values([3].into(), b"abc").unwrap();
    assert_eq!(
        encoded(&letters, true).unwrap(),
        r#"{"model_name":"m","model_version":"3","id":"a\"b","outputs":[{"name":"y","datatype":"UINT8","shape":[3],"parameters":{"binary_data_size":3}}]}abc"#
    );
}

#[test]
fn what_json_cannot_carry_is_refused_with_the_way_out() {
    let nan = Tensor::from_values([2].into(), &[0.0, f32::NAN]).unwrap();
    let infinite = Tensor::from_values([1].into(), &[half::f16::NEG_INFINITY]).unwrap();
    let rest = "which JSON cannot carry; the binary form can (`binary_data`: true)";
    assert_eq!(
        encoded(&nan, false).unwrap_err(),
        format!("output `y`: element 1 is NaN, {rest}")
    );
    assert_eq!(
        encoded(&infinite, false).unwrap_err(),
        format!("output `y`: element 0 is -inf, {rest}")
    );
    let mut bytes = AlignedBytes::default();
    append_string(&mut bytes, b"\xff");
    let blob = Tensor::new(DataType::Bytes, [1].into(), bytes.freeze()).unwrap();
    assert_eq!(
        encoded(&blob, false).unwrap_err(),
        format!("output `y`: element 0 is not UTF-8, {rest}")
    );
    for tensor in [nan, infinite, blob] {
        assert!(encoded(&tensor, true).is_ok());
    }
}

#[test]
fn large_raw_outputs_are_sent_from_where_they_lie() {
    let large = Tensor::from_values([20_000].into(), &[1.0f32; 20_000]).unwrap();
    let small = Tensor::from_values([1].into(), &[7u8]).unwrap();
    let outputs = [&small, &large, &small].map(|tensor| OutputTensor {
        name: "y",
        tensor,
        binary: true,
    });
    let encoded = encode(&RESPONSE, outputs.into_iter()).unwrap();
    assert_eq!(encoded.parts.len(), 3);
    assert_eq!(encoded.parts[1].as_ptr(), large.data().as_slice().as_ptr());
    assert_eq!(&encoded.parts[2][..], &[7]);
    assert_eq!(encoded.parts[0].len(), encoded.header_length.unwrap() + 1);
}
