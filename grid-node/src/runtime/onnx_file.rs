//! Reads what a model file declares, and nothing else: inputs, outputs, operators, operator sets.
//!
//! Why, when both runtimes read the file themselves: rten computes INT64 and BOOL in 32-bit integers and tells those as the
//! types of the inputs; ONNX Runtime tells an unknown rank as a scalar; and neither tells which operators a file uses when
//! it lacks one. Why not a general protobuf reader: weights make the file large, and this walks over them without reading.
//!
//! The file may be hostile. Every length is checked against the message around it, so none reaches past the end of the
//! file; graphs within graphs are followed to a fixed depth; what is kept is bounded in number and length.

mod fields;

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

use grid_core::model::Dim;

use super::OpenError;
use fields::{Fault, Field, Fields, Payload};

/// Graphs in graphs (the bodies of `If`, `Loop`, `Scan`) that are followed; real models need three or four.
const MAX_DEPTH: usize = 16;
/// Inputs and outputs of a graph, dimensions of a tensor, and different operators that are kept.
const MAX_KEPT: usize = 4096;

/// What a model file declares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OnnxFile {
    /// Inputs of the main graph; old files list initializers among them.
    pub(super) inputs: Vec<Declared>,
    /// Outputs of the main graph.
    pub(super) outputs: Vec<Declared>,
    /// Operators in use, in the main graph and those inside it.
    pub(super) operators: BTreeSet<Operator>,
}

/// An input or output as declared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Declared {
    pub(super) name: String,
    /// What it is.
    pub(super) kind: Kind,
    /// Sizes; `None` where the file declares none.
    pub(super) shape: Option<Vec<Dim>>,
}

/// What an input or output is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    /// The file does not tell.
    #[default]
    Untold,
    /// A tensor; the number is ONNX's for the element type.
    Tensor(u64),
    /// Something else that ONNX has.
    Other(&'static str),
}

/// An operator and the domain that defines it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Operator {
    pub(super) domain: String,
    pub(super) name: String,
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.domain.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}.{}", self.domain, self.name)
        }
    }
}

impl OnnxFile {
    /// Reads the declarations of the file at `path`.
    pub(super) fn read(path: &Path) -> Result<Self, OpenError> {
        let unreadable = |error: std::io::Error| OpenError::Unreadable {
            path: path.to_owned(),
            reason: error.to_string(),
        };
        let file = File::open(path).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        Self::parse(BufReader::new(file), length).map_err(|fault| match fault {
            Fault::Io(error) => unreadable(error),
            Fault::Malformed(reason) => OpenError::Invalid {
                path: path.to_owned(),
                reason,
            },
        })
    }

    fn parse<R: Read + Seek>(reader: BufReader<R>, length: u64) -> Result<Self, Fault> {
        let mut file = Self::default();
        let mut fields = Fields::new(reader, length);
        let mut graphs = 0;
        while let Some(field) = fields.next(length)? {
            // ModelProto: 7 graph, 25 functions.
            match (field.number, field.payload) {
                (7, Payload::Bytes(end)) => {
                    graphs += 1;
                    file.graph(&mut fields, end, 0)?;
                }
                (25, Payload::Bytes(end)) => file.function(&mut fields, end)?,
                _ => fields.skip(field)?,
            }
        }
        if graphs == 1 {
            Ok(file)
        } else {
            Err(Fault::malformed(format!("expected one graph, found {graphs}")))
        }
    }

    fn graph<R: Read + Seek>(&mut self, fields: &mut Fields<R>, end: u64, depth: usize) -> Result<(), Fault> {
        if depth > MAX_DEPTH {
            return Err(Fault::malformed(format!(
                "graphs in graphs, more than {MAX_DEPTH} deep"
            )));
        }
        while let Some(field) = fields.next(end)? {
            // GraphProto: 1 node, 5 initializer, 11 input, 12 output.
            match (field.number, field.payload) {
                (1, Payload::Bytes(end)) => self.node(fields, end, depth)?,
                (5, Payload::Bytes(end)) => walk_over(fields, end)?,
                (11, Payload::Bytes(end)) if depth == 0 => keep(&mut self.inputs, declared(fields, end)?)?,
                (12, Payload::Bytes(end)) if depth == 0 => keep(&mut self.outputs, declared(fields, end)?)?,
                _ => fields.skip(field)?,
            }
        }
        Ok(())
    }

    fn function<R: Read + Seek>(&mut self, fields: &mut Fields<R>, end: u64) -> Result<(), Fault> {
        while let Some(field) = fields.next(end)? {
            // FunctionProto: 7 node.
            match (field.number, field.payload) {
                (7, Payload::Bytes(end)) => self.node(fields, end, 0)?,
                _ => fields.skip(field)?,
            }
        }
        Ok(())
    }

    fn node<R: Read + Seek>(&mut self, fields: &mut Fields<R>, end: u64, depth: usize) -> Result<(), Fault> {
        let (mut name, mut domain) = (String::new(), String::new());
        while let Some(field) = fields.next(end)? {
            // NodeProto: 4 op_type, 5 attribute, 7 domain.
            match (field.number, field.payload) {
                (4, Payload::Bytes(end)) => name = fields.text(end)?,
                (5, Payload::Bytes(end)) => self.attribute(fields, end, depth)?,
                (7, Payload::Bytes(end)) => domain = fields.text(end)?,
                _ => fields.skip(field)?,
            }
        }
        if domain == "ai.onnx" {
            domain.clear();
        }
        self.operators.insert(Operator { domain, name });
        if self.operators.len() > MAX_KEPT {
            return Err(Fault::malformed(format!("more than {MAX_KEPT} different operators")));
        }
        Ok(())
    }

    fn attribute<R: Read + Seek>(&mut self, fields: &mut Fields<R>, end: u64, depth: usize) -> Result<(), Fault> {
        while let Some(field) = fields.next(end)? {
            // AttributeProto: 5 tensor, 6 graph, 10 tensors, 11 graphs.
            match (field.number, field.payload) {
                (5 | 10, Payload::Bytes(end)) => walk_over(fields, end)?,
                (6 | 11, Payload::Bytes(end)) => self.graph(fields, end, depth + 1)?,
                _ => fields.skip(field)?,
            }
        }
        Ok(())
    }
}

/// Checks that the fields of a message lie within it. rten allocates what a length claims before it reads.
fn walk_over<R: Read + Seek>(fields: &mut Fields<R>, end: u64) -> Result<(), Fault> {
    while let Some(field) = fields.next(end)? {
        fields.skip(field)?;
    }
    Ok(())
}

fn keep<T>(kept: &mut Vec<T>, item: T) -> Result<(), Fault> {
    if kept.len() == MAX_KEPT {
        return Err(Fault::malformed(format!(
            "more than {MAX_KEPT} inputs, outputs or dimensions"
        )));
    }
    kept.push(item);
    Ok(())
}

fn declared<R: Read + Seek>(fields: &mut Fields<R>, end: u64) -> Result<Declared, Fault> {
    let mut declared = Declared::default();
    while let Some(field) = fields.next(end)? {
        // ValueInfoProto: 1 name, 2 type.
        match (field.number, field.payload) {
            (1, Payload::Bytes(end)) => declared.name = fields.text(end)?,
            (2, Payload::Bytes(end)) => value_type(fields, end, &mut declared)?,
            _ => fields.skip(field)?,
        }
    }
    Ok(declared)
}

fn value_type<R: Read + Seek>(fields: &mut Fields<R>, end: u64, into: &mut Declared) -> Result<(), Fault> {
    while let Some(field) = fields.next(end)? {
        // TypeProto: 1 tensor, 4 sequence, 5 map, 8 sparse tensor, 9 optional.
        match (field.number, field.payload) {
            (1, Payload::Bytes(end)) => tensor_type(fields, end, into)?,
            (number, _) => {
                let other = match number {
                    4 => Some("sequence"),
                    5 => Some("map"),
                    8 => Some("sparse tensor"),
                    9 => Some("optional"),
                    _ => None,
                };
                into.kind = other.map_or(into.kind, Kind::Other);
                fields.skip(field)?;
            }
        }
    }
    Ok(())
}

fn tensor_type<R: Read + Seek>(fields: &mut Fields<R>, end: u64, into: &mut Declared) -> Result<(), Fault> {
    while let Some(field) = fields.next(end)? {
        // TypeProto.Tensor: 1 element type, 2 shape.
        match (field.number, field.payload) {
            (1, Payload::Number(element)) => into.kind = Kind::Tensor(element),
            (2, Payload::Bytes(end)) => {
                let dims = into.shape.insert(Vec::new());
                while let Some(field) = fields.next(end)? {
                    // TensorShapeProto: 1 dim.
                    match (field.number, field.payload) {
                        (1, Payload::Bytes(end)) => keep(dims, dimension(fields, end)?)?,
                        _ => fields.skip(field)?,
                    }
                }
            }
            _ => fields.skip(field)?,
        }
    }
    Ok(())
}

fn dimension<R: Read + Seek>(fields: &mut Fields<R>, end: u64) -> Result<Dim, Fault> {
    let mut dim = Dim::Dynamic;
    while let Some(field) = fields.next(end)? {
        // Dimension: 1 value, 2 name. A negative value, or one that does not fit, means none.
        if let Field {
            number: 1,
            payload: Payload::Number(size),
        } = field
        {
            let size = i64::try_from(size).ok().and_then(|size| usize::try_from(size).ok());
            dim = size.map_or(Dim::Dynamic, Dim::Fixed);
        } else {
            fields.skip(field)?;
        }
    }
    Ok(dim)
}

#[cfg(test)]
mod tests;
