//! What goes into a model and what comes out, and the check of a request against it.

use std::fmt;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::tensor::{DataType, Shape, Tensor};

/// The size of one dimension in a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Dim {
    /// Always this size.
    Fixed(usize),
    /// Any size, chosen by the request; `-1` in the protocol.
    Dynamic,
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Dynamic => f.write_str("-1"),
        }
    }
}

/// Name, type and shape of one input or output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// Name in the model file.
    pub name: String,
    /// Type of the elements.
    pub data_type: DataType,
    /// Sizes, outermost first. `None` where the file does not tell even the number of dimensions.
    pub shape: Option<Vec<Dim>>,
}

impl fmt::Display for TensorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.name, self.data_type, shape_text(self))
    }
}

impl TensorSpec {
    /// The shape as the protocol writes it; a shape of unknown rank as `[-1]`.
    pub fn protocol_shape(&self) -> Vec<i64> {
        match &self.shape {
            Some(dims) => dims
                .iter()
                .map(|dim| match dim {
                    Dim::Fixed(size) => i64::try_from(*size).unwrap_or(i64::MAX),
                    Dim::Dynamic => -1,
                })
                .collect(),
            None => vec![-1],
        }
    }

    fn accepts(&self, shape: &Shape) -> bool {
        let Some(dims) = &self.shape else { return true };
        dims.len() == shape.dims().len()
            && dims.iter().zip(shape.dims()).all(|(dim, &size)| match dim {
                Dim::Fixed(fixed) => *fixed == size,
                Dim::Dynamic => true,
            })
    }

    /// Whether that size, counted from the outermost, is the request's to choose.
    pub fn has_dynamic(&self, axis: usize) -> bool {
        let dims = self.shape.as_deref().unwrap_or_default();
        dims.get(axis) == Some(&Dim::Dynamic)
    }
}

/// The inputs and outputs of a model, in the order of its file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// What a request brings.
    pub inputs: Vec<TensorSpec>,
    /// What an answer holds.
    pub outputs: Vec<TensorSpec>,
}

/// Why the tensors of a request are not the model's inputs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// A tensor that the model does not have.
    #[error("input `{name}`: the model has no such input; expected {}", names(.expected))]
    Unknown {
        /// Name in the request.
        name: String,
        /// Names of the model's inputs.
        expected: Vec<String>,
    },
    /// A tensor came twice.
    #[error("input `{name}`: given twice, expected once")]
    Doubled {
        /// Its name.
        name: String,
    },
    /// A tensor did not come.
    #[error("input `{name}`: missing; expected {data_type} of shape {shape}")]
    Missing {
        /// Its name.
        name: String,
        /// Type that the model wants.
        data_type: DataType,
        /// Shape that the model wants, as text.
        shape: String,
    },
    /// The element type is another.
    #[error("input `{name}`: expected datatype {expected}, found {found}")]
    DataType {
        /// The tensor.
        name: String,
        /// Type that the model wants.
        expected: DataType,
        /// Type that came.
        found: DataType,
    },
    /// The shape does not fit.
    #[error("input `{name}`: expected shape {expected}, found {found}")]
    Shape {
        /// The tensor.
        name: String,
        /// Shape that the model wants, as text, `-1` for any size.
        expected: String,
        /// Shape that came.
        found: Shape,
    },
}

fn names(names: &[String]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}

fn shape_text(spec: &TensorSpec) -> String {
    match &spec.shape {
        Some(dims) => {
            let dims: Vec<_> = dims.iter().map(Dim::to_string).collect();
            format!("[{}]", dims.join(", "))
        }
        None => "any".to_owned(),
    }
}

impl Signature {
    /// Position of the input of that name.
    pub fn input(&self, name: &str) -> Option<usize> {
        self.inputs.iter().position(|spec| spec.name == name)
    }

    /// Position of the output of that name.
    pub fn output(&self, name: &str) -> Option<usize> {
        self.outputs.iter().position(|spec| spec.name == name)
    }

    /// Puts named tensors into the order of the signature, each checked for type and shape. `absent` may fill an
    /// input that did not come (a state tensor's initial value, say), given its position.
    ///
    /// # Errors
    /// When a tensor is unknown, doubled, missing, or of another type or shape.
    pub fn arrange<N: AsRef<str>>(
        &self,
        tensors: impl IntoIterator<Item = (N, Tensor)>,
        absent: impl Fn(usize) -> Option<Tensor>,
    ) -> Result<SmallVec<[Tensor; 2]>, InputError> {
        let mut slots: SmallVec<[Option<Tensor>; 2]> = SmallVec::new();
        slots.resize(self.inputs.len(), None);
        for (name, tensor) in tensors {
            let name = name.as_ref();
            let Some(index) = self.input(name) else {
                return Err(InputError::Unknown {
                    name: name.to_owned(),
                    expected: self.inputs.iter().map(|spec| spec.name.clone()).collect(),
                });
            };
            let spec = &self.inputs[index];
            if spec.data_type != tensor.data_type() {
                return Err(InputError::DataType {
                    name: name.to_owned(),
                    expected: spec.data_type,
                    found: tensor.data_type(),
                });
            }
            if !spec.accepts(tensor.shape()) {
                return Err(InputError::Shape {
                    name: name.to_owned(),
                    expected: shape_text(spec),
                    found: tensor.shape().clone(),
                });
            }
            if slots[index].replace(tensor).is_some() {
                return Err(InputError::Doubled { name: name.to_owned() });
            }
        }
        slots
            .into_iter()
            .enumerate()
            .map(|(index, slot)| {
                slot.or_else(|| absent(index)).ok_or_else(|| {
                    let spec = &self.inputs[index];
                    InputError::Missing {
                        name: spec.name.clone(),
                        data_type: spec.data_type,
                        shape: shape_text(spec),
                    }
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature() -> Signature {
        let spec = |name: &str, dims: &[Dim]| TensorSpec {
            name: name.to_owned(),
            data_type: DataType::Fp32,
            shape: Some(dims.to_vec()),
        };
        Signature {
            inputs: vec![spec("a", &[Dim::Dynamic, Dim::Fixed(2)]), spec("b", &[Dim::Fixed(1)])],
            outputs: vec![spec("y", &[Dim::Dynamic])],
        }
    }

    fn zeros(shape: &[usize]) -> Tensor {
        let count = shape.iter().product();
        Tensor::from_values(Shape::new(shape), &vec![0.0f32; count]).unwrap()
    }

    fn refusal(tensors: Vec<(&str, Tensor)>) -> String {
        signature().arrange(tensors, |_| None).unwrap_err().to_string()
    }

    #[test]
    fn tensors_are_put_into_the_order_of_the_file() {
        let arranged = signature()
            .arrange([("b", zeros(&[1])), ("a", zeros(&[3, 2]))], |_| None)
            .unwrap();
        assert_eq!(arranged[0].shape().dims(), &[3, 2]);
        assert_eq!(arranged[1].shape().dims(), &[1]);
    }

    #[test]
    fn each_refusal_names_the_tensor_and_what_was_expected() {
        let b = ("b", zeros(&[1]));
        assert_eq!(
            refusal(vec![("c", zeros(&[1]))]),
            "input `c`: the model has no such input; expected `a`, `b`"
        );
        assert_eq!(
            refusal(vec![b.clone()]),
            "input `a`: missing; expected FP32 of shape [-1, 2]"
        );
        assert_eq!(
            refusal(vec![b.clone(), b.clone()]),
            "input `b`: given twice, expected once"
        );
        assert_eq!(
            refusal(vec![b.clone(), ("a", zeros(&[3, 3]))]),
            "input `a`: expected shape [-1, 2], found [3, 3]"
        );
        let wrong = Tensor::from_values([1].into(), &[1i64]).unwrap();
        assert_eq!(
            refusal(vec![("b", wrong)]),
            "input `b`: expected datatype FP32, found INT64"
        );
    }

    #[test]
    fn an_absent_input_can_be_filled() {
        let filled = signature().arrange([("a", zeros(&[1, 2]))], |index| (index == 1).then(|| zeros(&[1])));
        assert_eq!(filled.unwrap().len(), 2);
    }
}
