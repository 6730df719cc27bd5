//! Inference requests of the Open Inference Protocol as the bytes that go over the wire.
//!
//! The node has an encoder of its own; this one is written apart, so that the two cannot be wrong in the same way.

use std::io;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use serde_json::{Value, json};

use super::{NUMBER, Template};

/// An inference request, made from a sample file: `{"inputs": [{"name", "shape", "datatype", "data"}]}`.
#[derive(Clone, Debug)]
pub struct InferRequest {
    path: String,
    inputs: Vec<Input>,
}

#[derive(Clone, Debug)]
struct Input {
    name: String,
    shape: Vec<usize>,
    datatype: String,
    /// Flat, in row-major order.
    data: Vec<Value>,
}

/// Why a sample is no request.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The text is no JSON.
    #[error("the sample is no JSON")]
    NoJson(#[from] serde_json::Error),
    /// The JSON is no inference request.
    #[error("{0}")]
    Invalid(String),
}

impl InferRequest {
    /// Reads a sample file, for the model's default version.
    pub fn from_sample(model: &str, file: &Path) -> Result<Self, SampleError> {
        let text = std::fs::read(file).map_err(|source| SampleError::Unreadable {
            path: file.to_owned(),
            source,
        })?;
        Self::from_json(model, &text)
    }

    /// Reads a request's JSON, for the model's default version.
    pub fn from_json(model: &str, text: &[u8]) -> Result<Self, SampleError> {
        let sample: Value = serde_json::from_slice(text)?;
        let inputs = sample["inputs"]
            .as_array()
            .ok_or_else(|| invalid("no array `inputs`"))?;
        let inputs = inputs.iter().map(Input::parse).collect::<Result<_, _>>()?;
        Ok(Self {
            path: format!("/v2/models/{model}/infer"),
            inputs,
        })
    }

    /// Asks for one version of the model.
    pub fn with_version(mut self, version: u64) -> Self {
        self.path = self.path.replace("/infer", &format!("/versions/{version}/infer"));
        self
    }

    /// Makes every input that many rows long, by repeating or leaving out rows along the first dimension.
    pub fn with_rows(mut self, rows: usize) -> Self {
        for input in &mut self.inputs {
            if let Some(first) = input.shape.first_mut().filter(|first| **first > 0) {
                let wanted = input.data.len() / *first * rows;
                input.data = input.data.iter().cycle().take(wanted).cloned().collect();
                *first = rows;
            }
        }
        self
    }

    /// The whole HTTP request with the tensors as JSON numbers, asking for JSON outputs.
    pub fn json(&self) -> Vec<u8> {
        let body = self.json_with(json!({})).to_string();
        http_request(
            "POST",
            &self.path,
            &[("Content-Type", "application/json")],
            body.as_bytes(),
        )
    }

    /// The whole HTTP request with the tensors as bytes behind the JSON, asking for outputs of the same kind.
    pub fn binary(&self) -> Result<Vec<u8>, SampleError> {
        let (header, tensors) = self.binary_with(json!({}))?;
        let length = header.len().to_string();
        let headers = [
            ("Content-Type", "application/octet-stream"),
            ("Inference-Header-Content-Length", length.as_str()),
        ];
        let body = [header.as_bytes(), &tensors].concat();
        Ok(http_request("POST", &self.path, &headers, &body))
    }

    /// The message of a WebSocket with the tensors as JSON numbers. Its number is its `id`.
    pub fn json_message(&self) -> Template {
        Template::text(&self.json_with(json!({ "id": NUMBER })).to_string())
    }

    /// The message of a WebSocket with the tensors as bytes behind the JSON. Its number is its `id`.
    pub fn binary_message(&self) -> Result<Template, SampleError> {
        let (header, tensors) = self.binary_with(json!({ "id": NUMBER }))?;
        Ok(Template::binary(&header, &tensors, 0))
    }

    fn json_with(&self, mut body: Value) -> Value {
        body["inputs"] = self.inputs.iter().map(Input::with_data).collect();
        body
    }

    /// The JSON, and the tensors.
    fn binary_with(&self, mut header: Value) -> Result<(String, Vec<u8>), SampleError> {
        let tensors = self.inputs.iter().map(Input::bytes).collect::<Result<Vec<_>, _>>()?;
        let sized = self.inputs.iter().zip(&tensors);
        header["inputs"] = sized.map(|(input, bytes)| input.with_size(bytes.len())).collect();
        header["parameters"] = json!({ "binary_data_output": true });
        Ok((header.to_string(), tensors.concat()))
    }
}

/// A whole HTTP/1.1 request with these headers, `Host` and `Content-Length`.
pub fn http_request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    let mut request = head.into_bytes();
    request.extend_from_slice(body);
    request
}

impl Input {
    fn parse(value: &Value) -> Result<Self, SampleError> {
        let text = |key: &str| {
            let text = value[key]
                .as_str()
                .ok_or_else(|| invalid(&format!("an input without a text `{key}`")))?;
            Ok::<_, SampleError>(text.to_owned())
        };
        let name = text("name")?;
        let shape: Option<Vec<usize>> = value["shape"].as_array().and_then(|shape| {
            shape
                .iter()
                .map(|size| size.as_u64().map(|size| size as usize))
                .collect()
        });
        let shape = shape.ok_or_else(|| invalid(&format!("input {name} has no array of sizes `shape`")))?;
        let mut data = Vec::new();
        flatten(&value["data"], &mut data);
        let expected: usize = shape.iter().product();
        if data.len() != expected {
            let length = data.len();
            return Err(invalid(&format!(
                "input {name} has {length} elements, and its shape {shape:?} means {expected}"
            )));
        }
        Ok(Self {
            datatype: text("datatype")?,
            name,
            shape,
            data,
        })
    }

    fn with_data(&self) -> Value {
        json!({ "name": self.name, "shape": self.shape, "datatype": self.datatype, "data": self.data })
    }

    fn with_size(&self, size: usize) -> Value {
        json!({
            "name": self.name,
            "shape": self.shape,
            "datatype": self.datatype,
            "parameters": { "binary_data_size": size },
        })
    }

    /// The elements as the binary tensor extension wants them: little endian, without padding.
    fn bytes(&self) -> Result<Vec<u8>, SampleError> {
        let mut bytes = Vec::new();
        for element in &self.data {
            self.push_element(element, &mut bytes)
                .ok_or_else(|| invalid(&format!("input {}: {element} is no {}", self.name, self.datatype)))?;
        }
        Ok(bytes)
    }

    fn push_element(&self, element: &Value, bytes: &mut Vec<u8>) -> Option<()> {
        match self.datatype.as_str() {
            "BOOL" => bytes.push(
                element
                    .as_bool()
                    .or_else(|| element.as_u64().map(|number| number != 0))?
                    .into(),
            ),
            "UINT8" => bytes.push(element.as_u64()?.try_into().ok()?),
            "UINT16" => bytes.extend(u16::try_from(element.as_u64()?).ok()?.to_le_bytes()),
            "UINT32" => bytes.extend(u32::try_from(element.as_u64()?).ok()?.to_le_bytes()),
            "UINT64" => bytes.extend(element.as_u64()?.to_le_bytes()),
            "INT8" => bytes.extend(i8::try_from(element.as_i64()?).ok()?.to_le_bytes()),
            "INT16" => bytes.extend(i16::try_from(element.as_i64()?).ok()?.to_le_bytes()),
            "INT32" => bytes.extend(i32::try_from(element.as_i64()?).ok()?.to_le_bytes()),
            "INT64" => bytes.extend(element.as_i64()?.to_le_bytes()),
            "FP16" => bytes.extend(f16::from_f64(element.as_f64()?).to_le_bytes()),
            "BF16" => bytes.extend(bf16::from_f64(element.as_f64()?).to_le_bytes()),
            "FP32" => bytes.extend((element.as_f64()? as f32).to_le_bytes()),
            "FP64" => bytes.extend(element.as_f64()?.to_le_bytes()),
            "BYTES" => {
                let text = element.as_str()?;
                bytes.extend(u32::try_from(text.len()).ok()?.to_le_bytes());
                bytes.extend(text.as_bytes());
            }
            _ => return None,
        }
        Some(())
    }
}

fn flatten(value: &Value, into: &mut Vec<Value>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| flatten(value, into)),
        Value::Null => {}
        element => into.push(element.clone()),
    }
}

fn invalid(why: &str) -> SampleError {
    SampleError::Invalid(why.to_owned())
}
