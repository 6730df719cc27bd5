//! An inference response, from its tensors to the parts of its body.

use bytes::Bytes;
use grid_core::sequence::Token;
use grid_core::tensor::{Buffer, DataType, Element, Tensor};
use serde::{Serialize, Serializer};
use smallvec::SmallVec;

/// A tensor of more bytes than this becomes a part of its own instead of being copied. Below it the copy costs less
/// than one more part to write.
const MAX_COPIED: usize = 64 << 10;

/// What is to be answered.
#[derive(Clone, Copy, Debug)]
pub struct Response<'a> {
    /// The model that answered.
    pub model_name: &'a str,
    /// Its version.
    pub model_version: u64,
    /// The `id` of the request, if it had one.
    pub id: Option<&'a str>,
    /// Where it goes.
    pub kind: MessageKind<'a>,
}

/// What is written beside the tensors, by where a response goes.
#[derive(Clone, Copy, Debug)]
pub enum MessageKind<'a> {
    /// The body of an HTTP response.
    Http,
    /// The body of an HTTP response to a message of a sequence.
    HttpOfSequence(Place<'a>),
    /// A message on a WebSocket.
    WebSocket {
        /// Counts the outputs of the request, from 1.
        number: u64,
        /// Whether it is the last one.
        is_final: bool,
        /// Where in a sequence it stands, if it stands in one.
        place: Option<Place<'a>>,
    },
}

/// Where a response stands in its sequence.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The sequence.
    pub id: &'a str,
    /// The number of the message that is answered.
    pub number: u64,
    /// The last number whose state would survive.
    pub durable: u64,
    /// Whether the sequence has ended with it.
    pub ends: bool,
    /// What it can be resumed with, where this is told.
    pub token: Option<Token>,
}

/// An output and the form in which it is sent.
#[derive(Clone, Copy, Debug)]
pub struct OutputTensor<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its values.
    pub tensor: &'a Tensor,
    /// Raw behind the JSON, rather than in it.
    pub binary: bool,
}

/// The body of a response.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// The value of [`HEADER_LENGTH`](super::HEADER_LENGTH): bytes of JSON, if raw tensors follow. Without it the
    /// body is JSON.
    pub header_length: Option<usize>,
    /// The bytes, to be sent one after the other. Mostly one part; large tensors are parts of their own.
    pub parts: SmallVec<[Bytes; 2]>,
}

impl Encoded {
    /// Bytes of all parts, for `Content-Length`.
    pub fn len(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }

    /// Whether there is nothing to send; an answer always has its JSON.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Why an output cannot be sent in the form that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// JSON has no such number.
    #[error(
        "output `{output}`: element {index} is {value}, which JSON cannot carry; the binary form can (`binary_data`: true)"
    )]
    NotFinite {
        /// Name of the output.
        output: String,
        /// The element, counted in row-major order.
        index: usize,
        /// `NaN`, `inf` or `-inf`.
        value: String,
    },
    /// JSON strings are text.
    #[error(
        "output `{output}`: element {index} is not UTF-8, which JSON cannot carry; the binary form can (`binary_data`: true)"
    )]
    NotText {
        /// Name of the output.
        output: String,
        /// The element, counted in row-major order.
        index: usize,
    },
}

/// Writes a response.
///
/// `FP32` is written as the shortest text that reads back as the same `f32`; FP16 and BF16 likewise, as the `f32` of
/// the same value.
///
/// # Errors
/// When an output that was asked for in JSON holds what JSON cannot carry.
pub fn encode<'a>(
    response: &Response<'_>,
    outputs: impl Iterator<Item = OutputTensor<'a>> + Clone,
) -> Result<Encoded, EncodeError> {
    let capacity = capacity(response, outputs.clone());
    let mut out = Vec::with_capacity(capacity);
    out.push(b'{');
    let place = match response.kind {
        MessageKind::Http => None,
        MessageKind::HttpOfSequence(place) => Some(place),
        MessageKind::WebSocket {
            number,
            is_final,
            place,
        } => {
            out.extend_from_slice(b"\"type\":\"output\",\"number\":");
            write(&mut out, &number);
            out.extend_from_slice(b",\"final\":");
            write(&mut out, &is_final);
            out.push(b',');
            place
        }
    };
    out.extend_from_slice(b"\"model_name\":");
    write_string(&mut out, response.model_name);
    out.extend_from_slice(b",\"model_version\":\"");
    write(&mut out, &response.model_version);
    out.push(b'"');
    if let Some(id) = response.id {
        out.extend_from_slice(b",\"id\":");
        write_string(&mut out, id);
    }
    if let Some(place) = place {
        write_place(&mut out, &place);
    }
    out.extend_from_slice(b",\"outputs\":[");
    let mut any_binary = false;
    for (index, output) in outputs.clone().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_output(&mut out, output)?;
        any_binary |= output.binary;
    }
    out.extend_from_slice(b"]}");
    if !any_binary {
        return Ok(Encoded {
            header_length: None,
            parts: SmallVec::from_iter([Bytes::from(out)]),
        });
    }
    let header_length = Some(out.len());
    let mut parts = SmallVec::new();
    for output in outputs.filter(|output| output.binary) {
        let data = output.tensor.data();
        if data.len() <= MAX_COPIED {
            out.extend_from_slice(data.as_slice());
        } else {
            if !out.is_empty() {
                parts.push(Bytes::from(std::mem::take(&mut out)));
            }
            parts.push(Bytes::from_owner(Shared(data.clone())));
        }
    }
    if !out.is_empty() {
        parts.push(Bytes::from(out));
    }
    Ok(Encoded { header_length, parts })
}

fn write_place(out: &mut Vec<u8>, place: &Place<'_>) {
    out.extend_from_slice(b",\"parameters\":{\"sequence_id\":");
    write_string(out, place.id);
    out.extend_from_slice(b",\"sequence_number\":");
    write(out, &place.number);
    out.extend_from_slice(b",\"sequence_durable\":");
    write(out, &place.durable);
    out.extend_from_slice(b",\"sequence_end\":");
    write(out, &place.ends);
    if let Some(token) = place.token {
        out.extend_from_slice(b",\"sequence_token\":");
        write_string(out, &token.to_string());
    }
    out.push(b'}');
}

/// A guess that mostly saves growing the buffer while writing.
fn capacity<'a>(response: &Response<'_>, outputs: impl Iterator<Item = OutputTensor<'a>>) -> usize {
    let tensors = outputs.map(|output| {
        let bytes = output.tensor.data().len();
        let data = match (output.binary, output.tensor.data_type()) {
            (true, _) if bytes > MAX_COPIED => 0,
            (true, _) => bytes,
            (false, DataType::Bytes) => bytes,
            // "0.12345678," for an f32, or "false," for a bool.
            (false, DataType::Fp64) => output.tensor.elements().saturating_mul(20),
            (false, _) => output.tensor.elements().saturating_mul(12),
        };
        data.saturating_add(output.name.len() + 128)
    });
    let texts = response.model_name.len() + response.id.map_or(0, str::len);
    let beside = match response.kind {
        MessageKind::Http => 96,
        MessageKind::HttpOfSequence(_) | MessageKind::WebSocket { .. } => 320,
    };
    tensors.fold(texts + beside, usize::saturating_add)
}

/// Lets a tensor's memory be sent as it lies.
struct Shared(Buffer);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

fn write<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("a Vec takes every write, and numbers and texts are always JSON");
}

/// Writes a JSON string.
pub(super) fn write_string(out: &mut Vec<u8>, text: &str) {
    write(out, text);
}

fn write_output(out: &mut Vec<u8>, output: OutputTensor<'_>) -> Result<(), EncodeError> {
    let tensor = output.tensor;
    out.extend_from_slice(b"{\"name\":");
    write_string(out, output.name);
    out.extend_from_slice(b",\"datatype\":\"");
    out.extend_from_slice(tensor.data_type().name().as_bytes());
    out.extend_from_slice(b"\",\"shape\":");
    write(out, tensor.shape().dims());
    if output.binary {
        out.extend_from_slice(b",\"parameters\":{\"binary_data_size\":");
        write(out, &tensor.data().len());
        out.push(b'}');
    } else {
        out.extend_from_slice(b",\"data\":");
        write_data(out, output)?;
    }
    out.push(b'}');
    Ok(())
}

fn write_data(out: &mut Vec<u8>, output: OutputTensor<'_>) -> Result<(), EncodeError> {
    match output.tensor.data_type() {
        DataType::Bool => sequence(out, output.tensor.data().as_slice().iter().map(|&byte| byte != 0)),
        DataType::Uint8 => integers::<u8>(out, output.tensor),
        DataType::Uint16 => integers::<u16>(out, output.tensor),
        DataType::Uint32 => integers::<u32>(out, output.tensor),
        DataType::Uint64 => integers::<u64>(out, output.tensor),
        DataType::Int8 => integers::<i8>(out, output.tensor),
        DataType::Int16 => integers::<i16>(out, output.tensor),
        DataType::Int32 => integers::<i32>(out, output.tensor),
        DataType::Int64 => integers::<i64>(out, output.tensor),
        DataType::Fp16 => floats(out, output, half::f16::to_f32)?,
        DataType::Bf16 => floats(out, output, half::bf16::to_f32)?,
        DataType::Fp32 => floats(out, output, |value: f32| value)?,
        DataType::Fp64 => floats(out, output, |value: f64| value)?,
        DataType::Bytes => strings(out, output)?,
    }
    Ok(())
}

fn sequence<T: Serialize>(out: &mut Vec<u8>, values: impl Iterator<Item = T>) {
    serde_json::Serializer::new(out)
        .collect_seq(values)
        .expect("a Vec takes every write, and numbers and texts are always JSON");
}

fn integers<T: Element + Serialize>(out: &mut Vec<u8>, tensor: &Tensor) {
    sequence(out, tensor.values::<T>().unwrap_or_default().iter());
}

fn floats<T: Element, F: Serialize + Copy + Into<f64>>(
    out: &mut Vec<u8>,
    output: OutputTensor<'_>,
    wide: impl Fn(T) -> F,
) -> Result<(), EncodeError> {
    let values = output.tensor.values::<T>().unwrap_or_default();
    // serde_json would write `null`, which a client takes for a number that is missing.
    for (index, &value) in values.iter().enumerate() {
        let value: f64 = wide(value).into();
        if !value.is_finite() {
            return Err(EncodeError::NotFinite {
                output: output.name.to_owned(),
                index,
                value: value.to_string(),
            });
        }
    }
    sequence(out, values.iter().map(|&value| wide(value)));
    Ok(())
}

fn strings(out: &mut Vec<u8>, output: OutputTensor<'_>) -> Result<(), EncodeError> {
    out.push(b'[');
    for (index, element) in output.tensor.strings().into_iter().flatten().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let Ok(text) = std::str::from_utf8(element) else {
            return Err(EncodeError::NotText {
                output: output.name.to_owned(),
                index,
            });
        };
        write_string(out, text);
    }
    out.push(b']');
    Ok(())
}
