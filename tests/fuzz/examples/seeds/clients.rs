//! Requests over HTTP and WebSocket.

use std::fs;
use std::path::Path;

use grid_fuzz::input::piece;
use grid_fuzz::{rest_body, websocket};

use crate::{Add, Result, sorted};

pub(crate) fn seeds(configs: &Path, add: Add<'_>) -> Result {
    let mut jsons: Vec<(String, String)> = Vec::new();
    for path in sorted(&configs.join("models"))? {
        let sample = path.join("sample.json");
        if sample.exists() {
            // In fewer numbers than there are: what follows is the same.
            let text = fs::read_to_string(sample)?;
            let name = path.file_name().ok_or("a model")?.to_string_lossy().into_owned();
            if text.len() < 8192 {
                jsons.push((name, text));
            }
        }
    }
    let written = [
        (
            "every-member",
            r#" {"id": "42", "unknown": [{}], "parameters": {"timeout": "1500", "priority": 2, "sequence_id": 7, "sequence_start": true, "sequence_end": false, "sequence_number": 1, "sequence_token": "42f3cb30bf48c6a3335bd013d067e324", "binary_data_output": true, "other": {"a": null}}, "inputs": [{"name": "a\u0062", "shape": [1, 2], "datatype": "FP32", "data": [[ 1 , 2.5e-1 ]], "extra": 1}], "outputs": [{"name": "y", "parameters": {"binary_data": false, "classification": 3}}, {"name": "z"}]} "#,
        ),
        ("null", r#"{"id":null,"parameters":null,"outputs":null,"inputs":[]}"#),
        (
            "bytes",
            r#"{"inputs":[{"name":"t","shape":[3],"datatype":"BYTES","data":["a","\ud83d\ude00\n","é"]}]}"#,
        ),
        (
            "data-first",
            r#"{"inputs":[{"data":[[[1],[2]],[[3],[4]]],"datatype":"INT64","shape":[2,2,1],"name":"x"}]}"#,
        ),
        (
            "bools",
            r#"{"inputs":[{"name":"b","shape":[2],"datatype":"BOOL","data":[true,false]}]}"#,
        ),
        (
            "floats",
            r#"{"inputs":[{"name":"f","shape":[2],"datatype":"FP16","data":[65504,-0.0]},{"name":"d","shape":[3],"datatype":"FP64","data":[1e308,4.9e-324,0.1]},{"name":"h","shape":[1],"datatype":"BF16","data":[3.4e38]}]}"#,
        ),
        (
            "integers",
            r#"{"inputs":[{"name":"u","shape":[1],"datatype":"UINT64","data":[18446744073709551615]},{"name":"i","shape":[1],"datatype":"INT8","data":[-128]}]}"#,
        ),
        (
            "too-deep",
            r#"{"inputs":[{"name":"u","shape":[1],"datatype":"UINT8","data":[[[[[[1]]]]]]}]}"#,
        ),
        (
            "broken",
            r#"{"inputs":[{"name":"u","shape":[1],"datatype":"UINT8","data":[1]"#,
        ),
    ];
    jsons.extend(written.map(|(name, text)| (name.to_owned(), text.to_owned())));
    let binary = r#"{"inputs":[{"name":"a","shape":[2],"datatype":"FP32","parameters":{"binary_data_size":8}},{"name":"t","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":6}}]}"#;
    let raw = b"\0\0\x80?\0\0\0@\x02\0\0\0ab";
    let length = u16::try_from(binary.len())?;
    for (name, json) in &jsons {
        let json = json.as_bytes();
        add("rest_body", name, [&[rest_body::form::JSON, 1, 99][..], json].concat());
        let frame = websocket::frame(0x81, [1, 2, 3, 4], json);
        add(
            "websocket",
            &format!("text-{name}"),
            [&[websocket::form::TEXT, 1, 30][..], json].concat(),
        );
        if json.len() < 300 {
            add(
                "websocket",
                &format!("frame-{name}"),
                [&[websocket::form::CONNECTION, 1, 50][..], &frame].concat(),
            );
        }
    }
    let whole = [binary.as_bytes(), raw].concat();
    let header = [
        &[rest_body::form::BINARY][..],
        &length.to_le_bytes(),
        &[2, 60, 3],
        &whole,
    ]
    .concat();
    add("rest_body", "binary", header);
    let header = [
        &[rest_body::form::HEADER][..],
        &piece(length.to_string().as_bytes()),
        &[0],
        &whole,
    ]
    .concat();
    add("rest_body", "binary-with-header", header);
    let header = [&[rest_body::form::HEADER][..], &piece(b"-1"), &[0], &whole].concat();
    add("rest_body", "wrong-header", header);

    let message = [&u32::from(length).to_le_bytes()[..], &whole].concat();
    add(
        "websocket",
        "binary",
        [&[websocket::form::BINARY, 2, 60, 3][..], &message].concat(),
    );
    let words = [
        r#"{"type":"cancel","id":"r1"}"#,
        r#"{"type":"cancel","sequence_id":"bed-7","sequence_number":3}"#,
        r#"{"type":"start","sequence_id":"bed-7"}"#,
        r#"{"type":"resume","sequence_id":"bed-7","sequence_token":"42f3cb30bf48c6a3335bd013d067e324","last":50}"#,
        r#"{"type":"end","sequence_id":12}"#,
        r#"{"type":"ack","sequence_id":"bed-7","sequence_number":50}"#,
        r#"{"type":"stop","id":"a"}"#,
        r#"{"inputs":[{"name":"x"}],"parameters":{"sequence_id":"a","sequence_number":3}}"#,
    ];
    let mut conversation = Vec::new();
    for (index, word) in words.iter().enumerate() {
        add(
            "websocket",
            &format!("word-{index}"),
            [&[websocket::form::TEXT, 0][..], word.as_bytes()].concat(),
        );
        conversation.extend(websocket::frame(0x81, [index as u8, 7, 1, 255], word.as_bytes()));
    }
    conversation.extend(websocket::frame(0x89, [5; 4], b"ping"));
    conversation.extend(websocket::frame(0x8a, [5; 4], b""));
    conversation.extend(websocket::frame(0x82, [5; 4], &message));
    // In fragments, with a ping between them.
    let (one, other) = words[3].split_at(40);
    conversation.extend(websocket::frame(0x01, [8; 4], one.as_bytes()));
    conversation.extend(websocket::frame(0x89, [9; 4], b""));
    conversation.extend(websocket::frame(0x80, [7; 4], other.as_bytes()));
    conversation.extend(websocket::frame(0x88, [6; 4], b"\x03\xe8bye"));
    for (name, chunking) in [("conversation", &[0][..]), ("conversation-in-pieces", &[3, 0, 12, 200])] {
        let seed = [&[websocket::form::CONNECTION][..], chunking, &conversation].concat();
        add("websocket", name, seed);
    }
    add(
        "websocket",
        "unmasked",
        [&[websocket::form::CONNECTION, 0][..], b"\x81\x02{}"].concat(),
    );
    add(
        "websocket",
        "too-long",
        [
            &[websocket::form::CONNECTION, 0][..],
            b"\x82\xff\0\0\0\0\x7f\xff\xff\xff\x01\x02\x03\x04",
        ]
        .concat(),
    );
    Ok(())
}
