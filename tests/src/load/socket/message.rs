//! What is in the frames: messages made once and sent with other numbers, and what of an answer is looked at.

use std::collections::BTreeMap;

use serde_json::Value;

use super::frame::{Kind, put_header};

/// Stands in a message's JSON where its number goes, which is written with as many digits.
pub const NUMBER: &str = "########";

/// A message that is sent many times, alike but for its number and the bytes behind it.
#[derive(Clone, Debug)]
pub struct Template {
    frame: Vec<u8>,
    /// Where the digits lie.
    number_at: usize,
}

impl Template {
    /// A message of JSON, in which [`NUMBER`] stands.
    pub fn text(json: &str) -> Self {
        Self::new(Kind::Text, &[json.as_bytes()], 0)
    }

    /// A message of JSON, in which [`NUMBER`] stands, and raw tensors. Those that differ from message to message are given
    /// with each one, and `more` is how many bytes they are; they stand behind the others.
    pub fn binary(json: &str, tensors: &[u8], more: usize) -> Self {
        let length = u32::try_from(json.len()).unwrap_or(u32::MAX).to_le_bytes();
        Self::new(Kind::Binary, &[&length, json.as_bytes(), tensors], more)
    }

    fn new(kind: Kind, parts: &[&[u8]], more: usize) -> Self {
        let mut frame = Vec::new();
        put_header(
            &mut frame,
            kind,
            parts.iter().map(|part| part.len()).sum::<usize>() + more,
        );
        for part in parts {
            frame.extend_from_slice(part);
        }
        let place = frame.windows(NUMBER.len()).position(|bytes| bytes == NUMBER.as_bytes());
        Self {
            frame,
            number_at: place.expect("a template names the place of its number"),
        }
    }

    /// Appends the message, as a whole frame if nothing is to stand behind it.
    pub(in crate::load) fn put(&self, mut number: u64, into: &mut Vec<u8>) {
        let at = into.len() + self.number_at;
        into.extend_from_slice(&self.frame);
        for digit in into[at..at + NUMBER.len()].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
    }
}

/// The JSON of a message, and its raw tensors.
///
/// # Errors
/// When a binary message is shorter than it says.
pub(in crate::load) fn json_of(payload: &[u8], is_binary: bool) -> Result<(&[u8], &[u8]), String> {
    if !is_binary {
        return Ok((payload, &[]));
    }
    payload
        .split_first_chunk()
        .and_then(|(length, rest)| rest.split_at_checked(u32::from_le_bytes(*length) as usize))
        .ok_or_else(|| "a binary message shorter than it says".to_owned())
}

/// Finds the number behind a key, and remembers where: messages of one kind have it at the same place, mostly.
pub(in crate::load) struct Finder {
    key: &'static [u8],
    at: usize,
}

impl Finder {
    /// `key` is what stands before the first digit.
    pub(in crate::load) fn new(key: &'static str) -> Self {
        Self {
            key: key.as_bytes(),
            at: 0,
        }
    }

    pub(in crate::load) fn find(&mut self, json: &[u8]) -> Option<u64> {
        if !json.get(self.at..).is_some_and(|rest| rest.starts_with(self.key)) {
            self.at = json.windows(self.key.len()).position(|bytes| bytes == self.key)?;
        }
        let digits = &json[self.at + self.key.len()..];
        let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
        Some(digits.fold(0, |number: u64, digit| {
            number.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'))
        }))
    }
}

/// The values of each output in an answer's JSON and the raw tensors behind it.
///
/// # Errors
/// When it holds no outputs, or some of a type that is not read here.
pub fn output_values(json: &[u8], mut tensors: &[u8]) -> Result<BTreeMap<String, Vec<f64>>, String> {
    let answer: Value = serde_json::from_slice(json).map_err(|error| format!("no JSON: {error}"))?;
    let outputs = answer["outputs"].as_array();
    let outputs = outputs.ok_or_else(|| format!("no outputs: {answer}"))?;
    let mut values = BTreeMap::new();
    for output in outputs {
        let numbers = match output["parameters"]["binary_data_size"].as_u64() {
            Some(size) => {
                let (own, rest) = tensors
                    .split_at_checked(size as usize)
                    .ok_or("tensors shorter than the JSON says")?;
                tensors = rest;
                raw_values(output["datatype"].as_str().unwrap_or_default(), own)
            }
            None => output["data"]
                .as_array()
                .and_then(|data| data.iter().map(Value::as_f64).collect()),
        };
        let name = output["name"].as_str().unwrap_or_default().to_owned();
        let numbers = numbers.ok_or_else(|| format!("output {name} is of another type: {output}"))?;
        values.insert(name, numbers);
    }
    Ok(values)
}

fn raw_values(datatype: &str, bytes: &[u8]) -> Option<Vec<f64>> {
    match datatype {
        "FP32" => Some(elements(bytes, |element| f64::from(f32::from_le_bytes(element)))),
        "INT64" => Some(elements(bytes, |element| i64::from_le_bytes(element) as f64)),
        _ => None,
    }
}

fn elements<const SIZE: usize>(bytes: &[u8], value: impl Fn([u8; SIZE]) -> f64) -> Vec<f64> {
    let (elements, _) = bytes.as_chunks::<SIZE>();
    elements.iter().map(|element| value(*element)).collect()
}
