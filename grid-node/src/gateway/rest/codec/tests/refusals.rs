//! Each bad request and the words that refuse it.

use bytes::Bytes;

use super::super::*;
use super::{body, with};

fn refusal(json: &str, binary: Option<&[u8]>) -> String {
    decode(&body(json, binary)).unwrap_err().to_string()
}

fn refused(fields: &str) -> String {
    refusal(&with(fields), None)
}

#[test]
fn sizes_of_raw_tensors_that_lie_are_refused() {
    let sized = |shape: &str, size: &str| {
        let json = with(&format!(
            r#""shape":{shape},"datatype":"FP32","parameters":{{"binary_data_size":{size}}}"#
        ));
        refusal(&json, Some(&[0; 8]))
    };
    assert_eq!(
        sized("[2]", "12"),
        "input `x`: `binary_data_size`: expected at most the 8 bytes that are left of the body, found `12`"
    );
    assert_eq!(
        sized("[2]", "18446744073709551615"),
        "input `x`: `binary_data_size`: expected at most the 8 bytes that are left of the body, found `18446744073709551615`"
    );
    assert_eq!(
        sized("[2]", "-8"),
        "input `x`: `binary_data_size`: expected a whole number from 0 up, found `-8`"
    );
    assert_eq!(
        sized("[1]", "4"),
        "binary data: expected 4 bytes, the sum of all `binary_data_size`, found 8"
    );
    assert_eq!(
        sized("[3]", "8"),
        "input `x`: FP32 of shape [3] takes 12 bytes, found 8"
    );
    let fields = r#""shape":[1],"datatype":"FP32","parameters":{"binary_data_size":4}"#;
    assert_eq!(
        refused(fields),
        format!("input `x`: `binary_data_size`: expected the header {HEADER_LENGTH} with it, found none")
    );
    let fields = r#""shape":[2],"datatype":"BOOL","parameters":{"binary_data_size":2}"#;
    assert_eq!(
        refusal(&with(fields), Some(&[1, 2])),
        "input `x`: element 1: expected BOOL, a byte 0 or 1, found 2"
    );
    let fields = r#""shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":5}"#;
    assert_eq!(
        refusal(&with(fields), Some(&[9, 0, 0, 0, 1])),
        "input `x`: BYTES of shape [1]: element 0 claims 9 bytes, only 1 are left"
    );
}

#[test]
fn an_input_has_either_data_or_raw_bytes() {
    let both = r#""shape":[1],"datatype":"INT8","data":[1],"parameters":{"binary_data_size":1}"#;
    assert_eq!(
        refusal(&with(both), Some(&[1])),
        "input `x`: expected either `data` or the parameter `binary_data_size`, found both"
    );
    assert_eq!(
        refused(r#""shape":[1],"datatype":"INT8""#),
        "input `x`: expected either `data` or the parameter `binary_data_size`, found neither"
    );
}

#[test]
fn elements_of_another_type_are_named_with_what_was_found() {
    let element = |data_type: &str, data: &str| {
        let message = refused(&format!(r#""shape":[2],"datatype":"{data_type}","data":{data}"#));
        message.strip_prefix("input `x`: ").unwrap_or(&message).to_owned()
    };
    let int8 = "expected INT8, a whole number from -128 to 127";
    assert_eq!(element("INT8", "[1,128]"), format!("element 1: {int8}, found `128`"));
    assert_eq!(element("INT8", "[1.0,1]"), format!("element 0: {int8}, found `1.0`"));
    assert_eq!(
        element("INT8", "[\"1\",1]"),
        format!("element 0: {int8}, found `\"1\"`")
    );
    assert_eq!(element("INT8", "[1,null]"), format!("element 1: {int8}, found `null`"));
    assert_eq!(
        element("UINT64", "[-1,18446744073709551616]"),
        "element 0: expected UINT64, a whole number from 0 to 18446744073709551615, found `-1`"
    );
    assert_eq!(
        element("FP32", "[0,1e999]"),
        "element 1: expected FP32, a number up to 3.4028235e38, found `1e999`"
    );
    assert_eq!(
        element("FP16", "[65520,0]"),
        "element 0: expected FP16, a number up to 65504, found `65520`"
    );
    assert_eq!(
        element("BOOL", "[1,2]"),
        "element 1: expected BOOL, true or false, found `2`"
    );
    assert_eq!(
        element("BYTES", "[1,2]"),
        "element 0: expected BYTES, a string, found `1`"
    );
    let long = format!("[\"{}\",1]", "y".repeat(100));
    assert!(element("FP32", &long).ends_with(&format!("found `\"{}…`", "y".repeat(63))));
}

#[test]
fn what_is_not_json_is_refused_with_its_place() {
    let place = |data: &str| refused(&format!(r#""datatype":"FP32","shape":[2],"data":{data}"#));
    // Offsets count from the start of `data`.
    let start = with(r#""datatype":"FP32","shape":[2],"data":"#).len() - "}]}".len();
    let at = |offset: usize, rest: &str| format!("the request's JSON at byte {}: {rest}", start + offset);
    assert_eq!(place("[1,NaN]"), at(3, "expected a value, found `NaN`"));
    assert_eq!(place("[1,-Infinity]"), at(4, "expected a digit, found `Infinity`"));
    assert_eq!(place("[01,2]"), at(2, "expected `,` or `]`, found `1`"));
    assert_eq!(place("[1,2,]"), at(5, "expected a value, found `]`"));
    assert_eq!(place("[1 2]"), at(3, "expected `,` or `]`, found `2`"));
    let whole = |json| refusal(json, None);
    assert_eq!(
        whole(""),
        "the request's JSON at byte 0: expected an object, found its end"
    );
    assert_eq!(
        whole("[]"),
        "the request's JSON at byte 0: expected an object, found `[`"
    );
    assert_eq!(
        whole("{\"id\":\"1\"} x"),
        "the request's JSON at byte 11: expected the end, found `x`"
    );
    assert_eq!(
        whole("{\"id\":\"1"),
        "the request's JSON at byte 8: expected the end of a string, found its end"
    );
    let bytes = RequestBody::from_json(Bytes::from_static(b"{\"\xff\":1}"));
    let error = decode(&bytes).unwrap_err().to_string();
    assert_eq!(
        error,
        "the request's JSON at byte 2: expected UTF-8, found something else"
    );
}

#[test]
fn counts_and_nesting_that_contradict_the_shape_are_refused() {
    let data = |data: &str| refused(&format!(r#""datatype":"FP32","shape":[2,3],"data":{data}"#));
    assert_eq!(data("[1,2,3,4,5]"), "input `x`: shape [2, 3] takes 6 elements, found 5");
    assert_eq!(
        data("[1,2,3,4,5,6,7]"),
        "input `x`: shape [2, 3] takes 6 elements, found 7"
    );
    assert_eq!(data("[]"), "input `x`: shape [2, 3] takes 6 elements, found 0");
    assert_eq!(
        data("[[1,2],[3,4],[5,6]]"),
        "input `x`: `data`: shape [2, 3] takes arrays of 3 at nesting level 2, found one of 2"
    );
    assert_eq!(
        data("[[1,2,3],[4,5,6],[7,8,9]]"),
        "input `x`: `data`: shape [2, 3] takes arrays of 2 at nesting level 1, found one of 3"
    );
    assert_eq!(
        data("[[1,2,3],4,5,6]"),
        "input `x`: `data`: expected all elements nested 2 deep, found one 1 deep"
    );
    assert_eq!(data("5"), "input `x`: `data`: expected an array, found `5`");
    let huge = refused(r#""datatype":"FP64","shape":[1099511627776],"data":[1]"#);
    assert_eq!(
        huge,
        "input `x`: shape [1099511627776] takes 1099511627776 elements, found 1"
    );
}

#[test]
fn nesting_without_end_is_refused_before_it_is_followed() {
    let deep = "[".repeat(100_000);
    assert_eq!(
        refused(&format!(r#""datatype":"FP32","shape":[1],"data":{deep}"#)),
        "input `x`: `data`: expected arrays nested at most 16 deep, found more"
    );
    assert!(refused(&format!(r#""data":{deep}"#)).contains("expected no deeper nesting"));
}

#[test]
fn shapes_that_are_none_are_refused_by_the_name_of_their_tensor() {
    // The name stands behind the shape, and is found all the same.
    let shape = |shape: &str| {
        let json = format!(r#"{{"inputs":[{{"shape":{shape},"datatype":"FP32","data":[],"name":"late"}}]}}"#);
        refusal(&json, None)
    };
    let whole = "input `late`: `shape`: expected a whole number from 0 up, found";
    assert_eq!(shape("[-1]"), format!("{whole} `-1`"));
    assert_eq!(shape("[1.5]"), format!("{whole} `1.5`"));
    assert_eq!(shape("[\"1\"]"), format!("{whole} `\"1\"`"));
    assert_eq!(shape("7"), "input `late`: `shape`: expected an array, found `7`");
    let long = format!("[{}]", ["1"; 17].join(","));
    assert_eq!(
        shape(&long),
        "input `late`: `shape`: expected at most 16 dimensions, found more"
    );
    assert_eq!(
        shape("[4294967296,4294967296]"),
        "input `late`: shape [4294967296, 4294967296] has more elements than can be addressed"
    );
}

#[test]
fn keys_that_miss_come_twice_or_are_of_another_type_are_refused() {
    let types = "one of BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, BF16, FP32, FP64, BYTES";
    assert_eq!(
        refused(r#""datatype":"FLOAT","shape":[]"#),
        format!("input `x`: `datatype`: expected {types}, found `\"FLOAT\"`")
    );
    assert_eq!(
        refused(r#""shape":[1]"#),
        format!("input `x`: `datatype`: missing, expected {types}")
    );
    assert_eq!(
        refused(r#""datatype":"FP32""#),
        "input `x`: `shape`: missing, expected an array"
    );
    assert_eq!(
        refused(r#""shape":[1],"shape":[1]"#),
        "input `x`: `shape`: given twice, expected once"
    );
    let whole = |json| refusal(json, None);
    assert_eq!(whole("{}"), "`inputs`: missing, expected an array");
    assert_eq!(
        whole(r#"{"inputs":[{}]}"#),
        "`inputs[0]`: `name`: missing, expected a string"
    );
    assert_eq!(
        whole(r#"{"inputs":[],"inputs":[]}"#),
        "`inputs`: given twice, expected once"
    );
    assert_eq!(whole(r#"{"id":5,"inputs":[]}"#), "`id`: expected a string, found `5`");
    assert_eq!(
        whole(r#"{"inputs":[],"outputs":[{"name":"y","parameters":{"classification":0}}]}"#),
        "output `y`: `classification`: expected a whole number from 1 up, found `0`"
    );
    let many = format!(r#"{{"outputs":[{}]}}"#, vec![r#"{"name":"y"}"#; 1025].join(","));
    assert_eq!(whole(&many), "`outputs`: expected at most 1024, found more");
}

#[test]
fn parameters_that_are_none_are_refused() {
    let parameter = |text: &str| refusal(&format!(r#"{{"parameters":{{{text}}}}}"#), None);
    let timeout = "parameters: `timeout`: expected a whole number of microseconds from 1 up, found";
    for bad in ["0", "-1", "1.5", "\"\"", "\"0\"", "\"+5\"", "\"1s\"", "null"] {
        assert_eq!(parameter(&format!("\"timeout\":{bad}")), format!("{timeout} `{bad}`"));
    }
    assert_eq!(
        parameter("\"priority\":4294967296"),
        "parameters: `priority`: expected a whole number from 0 to 4294967295, found `4294967296`"
    );
    assert_eq!(
        parameter("\"binary_data_output\":1"),
        "parameters: `binary_data_output`: expected true or false, found `1`"
    );
    assert_eq!(
        parameter("\"sequence_id\":true"),
        "parameters: `sequence_id`: expected a whole number from 0 up, or a string of at most 128 bytes without control \
         characters, found `true`"
    );
}

#[test]
fn a_field_of_another_kind_is_refused_by_its_name() {
    let whole = |json| refusal(json, None);
    assert_eq!(
        whole(r#"{"inputs":{"x":1}}"#),
        r#"`inputs`: expected an array, found `{"x":1}`"#
    );
    assert_eq!(whole(r#"{"inputs":null}"#), "`inputs`: expected an array, found `null`");
    assert_eq!(whole(r#"{"inputs":[5]}"#), "`inputs[0]`: expected an object, found `5`");
    assert_eq!(
        whole(r#"{"outputs":"y"}"#),
        "`outputs`: expected an array, found `\"y\"`"
    );
    assert_eq!(
        whole(r#"{"outputs":[{"name":"y"},[]]}"#),
        "`outputs[1]`: expected an object, found `[]`"
    );
    assert_eq!(
        whole(r#"{"parameters":[1]}"#),
        "`parameters`: expected an object, found `[1]`"
    );
    assert_eq!(
        refused(r#""parameters":7"#),
        "input `x`: `parameters`: expected an object, found `7`"
    );
    assert_eq!(
        whole(r#"{"outputs":[{"name":"y","parameters":true}]}"#),
        "output `y`: `parameters`: expected an object, found `true`"
    );
    assert_eq!(
        refused(r#""datatype":[]"#).split(", ").next(),
        Some("input `x`: `datatype`: expected one of BOOL")
    );
    // What is no JSON at all is told by its place.
    assert_eq!(
        whole(r#"{"inputs":nope}"#),
        "the request's JSON at byte 10: expected a value, found `nope`"
    );
}

#[test]
fn tensors_in_shared_memory_are_refused_by_name() {
    let reason = "`shared_memory_region`: shared memory is not supported, expected the tensor in the body";
    let region = r#""parameters":{"shared_memory_region":"r","shared_memory_byte_size":4}"#;
    assert_eq!(
        refused(&format!(r#""shape":[1],"datatype":"FP32",{region}"#)),
        format!("input `x`: {reason}")
    );
    let json = format!(r#"{{"inputs":[],"outputs":[{{{region},"name":"y"}}]}}"#);
    assert_eq!(refusal(&json, None), format!("output `y`: {reason}"));
}

#[test]
fn long_names_are_cut_in_messages() {
    let name = "n".repeat(100_000);
    let json = format!(r#"{{"inputs":[{{"name":"{name}","shape":[-1]}}]}}"#);
    let message = refusal(&json, None);
    let rest = "`shape`: expected a whole number from 0 up, found `-1`";
    assert_eq!(message, format!("input `{}…`: {rest}", "n".repeat(64)));
}
