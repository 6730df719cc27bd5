//! An inference request, from its body to its tensors.

use std::borrow::Cow;
use std::fmt::Display;

use grid_core::InferError;
use grid_core::tensor::{Buffer, DataType, Shape, Tensor};
use smallvec::SmallVec;

use super::body::{HEADER_LENGTH, RequestBody};
use super::cursor::{Cursor, Fault, Found, Kind};
use super::data;
use super::parameters::{Parameters, fill, flag, size, typed};

/// Most dimensions of an input. Models have up to six or so.
pub const MAX_DIMENSIONS: usize = 16;

/// Most inputs, and most requested outputs. Far above what models have, and few enough that comparing their names one
/// by one is nothing to attack.
pub const MAX_TENSORS: usize = 1024;

/// A request as it was sent, not yet compared with the model's signature. Texts are borrowed from the body.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodedRequest<'a> {
    /// `id`: to be sent back with the answer.
    pub id: Option<Cow<'a, str>>,
    /// `parameters` of the whole request.
    pub parameters: Parameters,
    /// The inputs in the order of the request. Two may have the same name: the signature refuses that.
    pub inputs: NamedTensors<'a>,
    /// The outputs that are wanted, none meaning all.
    pub outputs: SmallVec<[RequestedOutput<'a>; 2]>,
}

/// Tensors with their names, in the order of the request.
pub type NamedTensors<'a> = SmallVec<[(Cow<'a, str>, Tensor); 2]>;

/// An output that a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestedOutput<'a> {
    /// Its name.
    pub name: Cow<'a, str>,
    /// `binary_data`: in the binary form or not; `None` leaves it to [`Parameters::binary_data_output`].
    pub binary_data: Option<bool>,
    /// `classification`: not the output itself, but its highest values, so many.
    pub classification: Option<usize>,
}

/// Reads a request.
///
/// # Errors
/// [`InferError::Invalid`] when the body is not a request of the protocol; the message names the tensor, what was
/// expected and what was found.
pub fn decode(body: &RequestBody) -> Result<DecodedRequest<'_>, InferError> {
    let text = text_of(body)?;
    read(text, body.binary()).map_err(|fault| explained(text, fault))
}

/// The JSON as text.
pub(super) fn text_of(body: &RequestBody) -> Result<&str, InferError> {
    std::str::from_utf8(body.json()).map_err(|error| {
        let at = error.valid_up_to();
        InferError::Invalid(format!(
            "the request's JSON at byte {at}: expected UTF-8, found something else"
        ))
    })
}

/// The error that tells of a fault.
pub(super) fn explained(text: &str, fault: Fault) -> InferError {
    InferError::Invalid(match fault {
        Fault::Syntax { at, expected } => Cursor::explain(text, at, expected),
        Fault::Refused(reason) => reason,
    })
}

fn read<'a>(text: &'a str, binary: Option<&Buffer>) -> Result<DecodedRequest<'a>, Fault> {
    let mut cursor = Cursor::new(text);
    let mut members = RequestMembers::new(binary);
    cursor.object(|cursor, key| members.read(cursor, key))?;
    cursor.end()?;
    members.finish()
}

/// The members of a request while they are read, each filled at most once.
pub(super) struct RequestMembers<'a, 'b> {
    binary: Binary<'b>,
    id: Option<Option<Cow<'a, str>>>,
    parameters: Option<Parameters>,
    inputs: Option<NamedTensors<'a>>,
    outputs: Option<SmallVec<[RequestedOutput<'a>; 2]>>,
}

impl<'a, 'b> RequestMembers<'a, 'b> {
    pub(super) fn new(binary: Option<&'b Buffer>) -> Self {
        Self {
            binary: Binary::new(binary),
            id: None,
            parameters: None,
            inputs: None,
            outputs: None,
        }
    }

    /// The id, once it was read.
    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_ref()?.as_deref()
    }

    /// Reads the member of this name, or passes it over.
    pub(super) fn read(&mut self, cursor: &mut Cursor<'a>, key: &str) -> Result<(), Fault> {
        match key {
            "id" => {
                let read = typed(cursor, key, "a string", |kind| match kind {
                    Kind::Text(id) => Some(Some(id)),
                    Kind::Null => Some(None),
                    _ => None,
                })?;
                fill(&mut self.id, key, read)
            }
            "parameters" if cursor.eat_null() => fill(&mut self.parameters, key, Parameters::default()),
            "parameters" => {
                begins(cursor, b'{', "`parameters`", "an object")?;
                let read = Parameters::read(cursor).map_err(|fault| prefixed("parameters", fault))?;
                fill(&mut self.parameters, key, read)
            }
            "inputs" => {
                let mut list = SmallVec::new();
                each(cursor, "input", |cursor| {
                    list.push(input(cursor, &mut self.binary)?);
                    Ok(())
                })?;
                fill(&mut self.inputs, key, list)
            }
            "outputs" if cursor.eat_null() => fill(&mut self.outputs, key, SmallVec::new()),
            "outputs" => {
                let mut list = SmallVec::new();
                each(cursor, "output", |cursor| {
                    list.push(output(cursor)?);
                    Ok(())
                })?;
                fill(&mut self.outputs, key, list)
            }
            _ => cursor.skip(),
        }
    }

    /// The request, when the object has ended.
    pub(super) fn finish(self) -> Result<DecodedRequest<'a>, Fault> {
        self.binary.end()?;
        Ok(DecodedRequest {
            id: self.id.flatten(),
            parameters: self.parameters.unwrap_or_default(),
            inputs: self
                .inputs
                .ok_or_else(|| Fault::Refused("`inputs`: missing, expected an array".to_owned()))?,
            outputs: self.outputs.unwrap_or_default(),
        })
    }
}

fn prefixed(prefix: &str, fault: Fault) -> Fault {
    match fault {
        Fault::Refused(reason) => Fault::Refused(format!("{prefix}: {reason}")),
        syntax => syntax,
    }
}

/// Reads the tensors of `inputs` or `outputs`; a refusal gets the tensor's name before it.
fn each<'a>(
    cursor: &mut Cursor<'a>,
    what: &str,
    mut tensor: impl FnMut(&mut Cursor<'a>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    begins(cursor, b'[', format_args!("`{what}s`"), "an array")?;
    cursor.array(|cursor, index| {
        if index == MAX_TENSORS {
            return Err(Fault::Refused(format!(
                "`{what}s`: expected at most {MAX_TENSORS}, found more"
            )));
        }
        begins(cursor, b'{', format_args!("`{what}s[{index}]`"), "an object")?;
        let start = cursor.clone();
        tensor(cursor).map_err(|fault| prefixed(&label(start, what, index), fault))
    })
}

/// How a message calls the tensor at `start`: by its name, wherever in the object that stands, or else by its index.
#[cold]
fn label(mut start: Cursor<'_>, what: &str, index: usize) -> String {
    let mut name = None;
    // What is broken in the object has already been found.
    let _ = start.object(|cursor, key| {
        let value = cursor.value()?;
        if let ("name", Kind::Text(text)) = (key, value.kind) {
            name = Some(text);
        }
        Ok(())
    });
    match name {
        Some(name) => format!("{what} {}", Found(&name)),
        None => format!("`{what}s[{index}]`"),
    }
}

fn input<'a>(cursor: &mut Cursor<'a>, binary: &mut Binary<'_>) -> Result<(Cow<'a, str>, Tensor), Fault> {
    let (mut name, mut data_type, mut shape, mut binary_size) = (None, None, None, None);
    let (mut parameters, mut data) = (None, None);
    cursor.object(|cursor, key| match key {
        "name" => fill(&mut name, key, text(cursor, key)?),
        "datatype" => fill(&mut data_type, key, read_data_type(cursor)?),
        "shape" => fill(&mut shape, key, read_shape(cursor)?),
        "parameters" => {
            fill(&mut parameters, key, ())?;
            members_or_null(cursor, |cursor, key| match key {
                "binary_data_size" => fill(&mut binary_size, key, size(cursor, key)?),
                SHARED_MEMORY => Err(shared_memory()),
                _ => cursor.skip(),
            })
        }
        "data" if cursor.eat_null() => Ok(()),
        "data" => {
            let read = match (data_type, &shape) {
                (Some(data_type), Some(shape)) => Data::Read(data::read(cursor, data_type, Shape::clone(shape))?),
                // The type comes behind the data: come back then.
                _ => {
                    let ahead = cursor.clone();
                    cursor.skip()?;
                    Data::Ahead(ahead)
                }
            };
            fill(&mut data, key, read)
        }
        _ => cursor.skip(),
    })?;
    let name = name.ok_or_else(|| missing("name", "a string"))?;
    let data_type = data_type.ok_or_else(|| missing("datatype", DATA_TYPES))?;
    let shape = shape.ok_or_else(|| missing("shape", "an array"))?;
    let tensor = match (data, binary_size) {
        (Some(Data::Read(tensor)), None) => tensor,
        (Some(Data::Ahead(mut cursor)), None) => data::read(&mut cursor, data_type, shape)?,
        (None, Some(size)) => binary.tensor(data_type, shape, size)?,
        (Some(_), Some(_)) => {
            let reason = "expected either `data` or the parameter `binary_data_size`, found both";
            return Err(Fault::Refused(reason.to_owned()));
        }
        (None, None) => {
            let reason = "expected either `data` or the parameter `binary_data_size`, found neither";
            return Err(Fault::Refused(reason.to_owned()));
        }
    };
    Ok((name, tensor))
}

/// The `data` of an input.
enum Data<'a> {
    Read(Tensor),
    /// Where it stands, to be read when its type and shape are known.
    Ahead(Cursor<'a>),
}

fn output<'a>(cursor: &mut Cursor<'a>) -> Result<RequestedOutput<'a>, Fault> {
    let (mut name, mut parameters, mut binary_data, mut classification) = (None, None, None, None);
    cursor.object(|cursor, key| match key {
        "name" => fill(&mut name, key, text(cursor, key)?),
        "parameters" => {
            fill(&mut parameters, key, ())?;
            members_or_null(cursor, |cursor, key| match key {
                "binary_data" => fill(&mut binary_data, key, flag(cursor, key)?),
                "classification" => fill(&mut classification, key, classes(cursor, key)?),
                SHARED_MEMORY => Err(shared_memory()),
                _ => cursor.skip(),
            })
        }
        _ => cursor.skip(),
    })?;
    Ok(RequestedOutput {
        name: name.ok_or_else(|| missing("name", "a string"))?,
        binary_data,
        classification,
    })
}

fn members_or_null<'a>(
    cursor: &mut Cursor<'a>,
    member: impl FnMut(&mut Cursor<'a>, &str) -> Result<(), Fault>,
) -> Result<(), Fault> {
    if cursor.eat_null() {
        return Ok(());
    }
    begins(cursor, b'{', "`parameters`", "an object")?;
    cursor.object(member)
}

/// Refuses, by the name of its field, a value that does not begin with this bracket.
fn begins(cursor: &mut Cursor<'_>, bracket: u8, what: impl Display, expected: &str) -> Result<(), Fault> {
    if cursor.peek() == Some(bracket) {
        return Ok(());
    }
    Err(Fault::unexpected(what, expected, cursor.value()?.text))
}

/// The parameter that puts a tensor into memory which client and server share.
const SHARED_MEMORY: &str = "shared_memory_region";

/// Passing it over would read or write another place than the client means.
#[cold]
fn shared_memory() -> Fault {
    let reason = "shared memory is not supported, expected the tensor in the body";
    Fault::Refused(format!("`{SHARED_MEMORY}`: {reason}"))
}

const DATA_TYPES: &str =
    "one of BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, BF16, FP32, FP64, BYTES";

fn missing(key: &str, expected: &str) -> Fault {
    Fault::Refused(format!("`{key}`: missing, expected {expected}"))
}

pub(super) fn text<'a>(cursor: &mut Cursor<'a>, key: &str) -> Result<Cow<'a, str>, Fault> {
    typed(cursor, key, "a string", |kind| match kind {
        Kind::Text(text) => Some(text),
        _ => None,
    })
}

fn classes(cursor: &mut Cursor<'_>, key: &str) -> Result<usize, Fault> {
    match size(cursor, key)? {
        0 => Err(Fault::unexpected(
            format_args!("`{key}`"),
            "a whole number from 1 up",
            "0",
        )),
        classes => Ok(classes),
    }
}

fn read_data_type(cursor: &mut Cursor<'_>) -> Result<DataType, Fault> {
    typed(cursor, "datatype", DATA_TYPES, |kind| match kind {
        Kind::Text(name) => name.parse().ok(),
        _ => None,
    })
}

fn read_shape(cursor: &mut Cursor<'_>) -> Result<Shape, Fault> {
    begins(cursor, b'[', "`shape`", "an array")?;
    let mut shape = Shape::default();
    cursor.array(|cursor, index| {
        if index == MAX_DIMENSIONS {
            return Err(Fault::Refused(format!(
                "`shape`: expected at most {MAX_DIMENSIONS} dimensions, found more"
            )));
        }
        shape.0.push(size(cursor, "shape")?);
        Ok(())
    })?;
    match shape.elements() {
        Some(_) => Ok(shape),
        None => Err(Fault::Refused(format!(
            "shape {shape} has more elements than can be addressed"
        ))),
    }
}

/// The binary part of a body, handed out from front to back.
struct Binary<'a> {
    buffer: Option<&'a Buffer>,
    taken: usize,
}

impl<'a> Binary<'a> {
    fn new(buffer: Option<&'a Buffer>) -> Self {
        Self { buffer, taken: 0 }
    }

    fn left(&self) -> usize {
        self.buffer.map_or(0, Buffer::len).saturating_sub(self.taken)
    }

    /// The tensor in the next `size` bytes.
    fn tensor(&mut self, data_type: DataType, shape: Shape, size: usize) -> Result<Tensor, Fault> {
        let end = self.taken.saturating_add(size);
        let Some(buffer) = self.buffer else {
            return Err(Fault::Refused(format!(
                "`binary_data_size`: expected the header {HEADER_LENGTH} with it, found none"
            )));
        };
        let Some(bytes) = buffer.slice(self.taken, end) else {
            return Err(Fault::Refused(format!(
                "`binary_data_size`: expected at most the {} bytes that are left of the body, found `{size}`",
                self.left()
            )));
        };
        self.taken = end;
        // A runtime may take any other byte for a `bool`, which is undefined in most languages.
        if data_type == DataType::Bool
            && let Some((index, byte)) = bytes.as_slice().iter().enumerate().find(|(_, byte)| **byte > 1)
        {
            return Err(Fault::Refused(format!(
                "element {index}: expected BOOL, a byte 0 or 1, found {byte}"
            )));
        }
        Tensor::new(data_type, shape, bytes).map_err(|error| Fault::Refused(error.to_string()))
    }

    /// Nothing may be left.
    fn end(&self) -> Result<(), Fault> {
        match self.left() {
            0 => Ok(()),
            left => Err(Fault::Refused(format!(
                "binary data: expected {} bytes, the sum of all `binary_data_size`, found {}",
                self.taken,
                self.taken + left
            ))),
        }
    }
}
