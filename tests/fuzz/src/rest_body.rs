//! The body of an inference request over HTTP: JSON, and raw tensors behind it.

use bytes::Bytes;
use grid_core::InferError;
use grid_core::tensor::{ALIGNMENT, Tensor};

use crate::input::{Chunking, Input};
use crate::rest::codec::{
    DecodedRequest, Encoded, MAX_DIMENSIONS, MAX_TENSORS, MessageKind, OutputTensor, RequestBody, Response, decode,
    encode, error_body, status,
};

/// Most bytes of a body.
const MAX_BODY: usize = 1 << 20;

/// What is around the body, in a seed.
pub mod form {
    /// JSON alone.
    pub const JSON: u8 = 0;
    /// The JSON's length is the piece that follows, as the text of the header.
    pub const HEADER: u8 = 1;
    /// The JSON's length is in two bytes: raw tensors follow it.
    pub const BINARY: u8 = 2;
    /// How many there are.
    pub const COUNT: u8 = 3;
}

/// Takes the bytes in: the form, the chunking, then the body.
///
/// # Panics
/// When something does not hold.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let header = match input.byte() % form::COUNT {
        form::HEADER => Some(input.piece().to_vec()),
        form::BINARY => Some(
            u16::from_le_bytes([input.byte(), input.byte()])
                .to_string()
                .into_bytes(),
        ),
        _ => None,
    };
    let chunking = input.chunking();
    let arrives = input.rest();
    let header = header.as_deref();
    let one = body(header, Input::new(&[]).chunking(), arrives);
    let other = body(header, chunking, arrives);
    let (one, other) = match (one, other) {
        (Ok(one), Ok(other)) => (one, other),
        (Err(one), Err(other)) => {
            assert_eq!(one, other, "in one chunk, and in several");
            return told(&one);
        }
        differing => panic!("in one chunk, and in several: {differing:?}"),
    };
    assert_eq!(one.json(), other.json());
    let binary = other
        .binary()
        .map(|binary| binary.as_slice().as_ptr() as usize % ALIGNMENT);
    assert!(
        binary.is_none_or(|off| off == 0) || arrives.is_empty(),
        "raw tensors off their boundary"
    );
    // Texts borrow; numbers of JSON take up to eight bytes for the two that they are at least.
    let limit = (64 << 10) + 64 * arrives.len();
    let decoded = crate::memory::within(limit, || decode(&other));
    assert_eq!(decode(&one), decoded, "in one chunk, and in several");
    match decoded {
        Ok(request) => check(&request),
        Err(error) => told(&error),
    }
}

fn body(header: Option<&[u8]>, chunking: Chunking<'_>, arrives: &[u8]) -> Result<RequestBody, InferError> {
    let mut builder = RequestBody::builder(header, None, MAX_BODY)?;
    for chunk in chunking.of(arrives) {
        builder.push(Bytes::copy_from_slice(chunk))?;
    }
    builder.finish()
}

/// A refusal is the client's fault, and says something that fits a JSON string.
pub(crate) fn told(error: &InferError) {
    assert!((400..500).contains(&status(error)), "{error}");
    let text = error.to_string();
    assert!(!text.is_empty() && text.len() < 4096, "{text}");
    let body: serde_json::Value = serde_json::from_slice(&error_body(&text)).expect("the error's body is JSON");
    assert_eq!(body["error"], text.as_str());
}

/// What was read keeps to the limits, and reads back as it was when it is written, raw and as text.
pub(crate) fn check(request: &DecodedRequest<'_>) {
    assert!(request.inputs.len() <= MAX_TENSORS && request.outputs.len() <= MAX_TENSORS);
    for (_, tensor) in &request.inputs {
        assert!(tensor.shape().dims().len() <= MAX_DIMENSIONS);
    }
    let tensors: Vec<(&str, &Tensor)> = request.inputs.iter().map(|(name, tensor)| (&**name, tensor)).collect();
    for binary in [true, false] {
        let response = Response {
            model_name: "m",
            model_version: 1,
            id: request.id.as_deref(),
            kind: MessageKind::Http,
        };
        let outputs = tensors
            .iter()
            .map(|(name, tensor)| OutputTensor { name, tensor, binary });
        match encode(&response, outputs) {
            Ok(encoded) => reads_back(&encoded, request),
            // JSON has no infinity and no bytes that are not text.
            Err(error) => assert!(!binary, "{error}"),
        }
    }
}

fn reads_back(encoded: &Encoded, request: &DecodedRequest<'_>) {
    let whole = encoded.parts.concat();
    assert_eq!(whole.len(), encoded.len());
    let split = encoded.header_length.unwrap_or(whole.len());
    let (json, binary) = whole.split_at(split);
    // A response has the form of a request but for the name of the list, which the writer puts in one place.
    let json = std::str::from_utf8(json).expect("JSON is text");
    let at = json.find(",\"outputs\":[").expect("a response has outputs");
    let json = format!("{},\"inputs\":[{}", &json[..at], &json[at + ",\"outputs\":[".len()..]);
    let length = json.len().to_string();
    let mut builder = RequestBody::builder(encoded.header_length.map(|_| length.as_bytes()), None, usize::MAX)
        .expect("a length is a number");
    for part in [json.into_bytes(), binary.to_vec()] {
        builder.push(part.into()).expect("there is no limit");
    }
    let body = builder.finish().expect("the length is right");
    let again = decode(&body).expect("what is written can be read");
    assert_eq!(again.id.as_deref(), request.id.as_deref());
    let pairs = again.inputs.iter().zip(&request.inputs);
    assert_eq!(again.inputs.len(), request.inputs.len());
    pairs.for_each(|((name, tensor), (before, expected))| assert_eq!((name, tensor), (before, expected)));
}
