//! What all gateways do with an inference: named tensors to a checked request, its outputs to what was asked for.

use std::time::Instant;

use grid_core::InferError;
use grid_core::batching::{DEFAULT_PRIORITY, Entry};
use grid_core::model::{ModelId, Signature};
use grid_core::sequence::SequenceId;
use grid_core::tensor::Tensor;
use smallvec::SmallVec;
use tracing::Span;

use super::rest::codec::{
    DecodedRequest, EncodeError, Encoded, MessageKind, NotClassifiable, OutputTensor, Parameters, Place, Response,
    classify, encode,
};
use crate::actors::{AnswerForm, SequenceOrder, Told, VersionRoute, Wanted, WantedOutput, deadline};
use crate::compute::Request;

/// Puts named tensors into the order of the signature, checks them, and makes the request of them. Inputs that carry a
/// state may be left out, and then hold its initial value.
///
/// # Errors
/// When the tensors are not the model's inputs.
pub(crate) fn request<N: AsRef<str>>(
    route: &VersionRoute,
    inputs: impl IntoIterator<Item = (N, Tensor)>,
    parameters: &Parameters,
    arrived: Instant,
    span: Span,
) -> Result<Request, InferError> {
    let initial = |index: usize| route.initial.get(index).cloned().flatten();
    let inputs: SmallVec<[Tensor; 2]> = route.signature.arrange(inputs, initial)?;
    let (key, rows) = route.stacking(&inputs)?;
    Ok(Request {
        inputs,
        entry: Entry {
            key,
            rows,
            priority: parameters
                .priority
                .filter(|&priority| priority > 0)
                .unwrap_or(DEFAULT_PRIORITY),
            arrived,
        },
        deadline: deadline(route, arrived, parameters.timeout),
        partial: None,
        span,
    })
}

/// An output that a request names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NamedOutput<'a> {
    pub(crate) name: &'a str,
    pub(crate) binary: Option<bool>,
    pub(crate) classification: Option<usize>,
}

/// Which outputs go back: those that are named, else all; in a sequence all but its state, which stays with it.
///
/// # Errors
/// When one is named that the model has not, or one twice.
pub(crate) fn wanted<'a>(
    route: &VersionRoute,
    named: impl ExactSizeIterator<Item = NamedOutput<'a>>,
    binary: bool,
    in_sequence: bool,
) -> Result<Wanted, InferError> {
    let specs = &route.signature.outputs;
    if named.len() == 0 {
        let is_state = |index: usize| in_sequence && route.states.iter().any(|state| state.output == index);
        let all = (0..specs.len()).filter(|&index| !is_state(index));
        return Ok(all
            .map(|index| WantedOutput {
                index,
                binary,
                classification: None,
            })
            .collect());
    }
    let mut wanted = Wanted::new();
    for output in named {
        let Some(index) = route.signature.output(output.name) else {
            let known: Vec<_> = specs.iter().map(|spec| format!("`{}`", spec.name)).collect();
            return Err(InferError::Invalid(format!(
                "output `{}`: the model has no such output; expected {}",
                output.name,
                known.join(", ")
            )));
        };
        if wanted.iter().any(|other| other.index == index) {
            return Err(InferError::Invalid(format!(
                "output `{}`: asked for twice, expected once",
                output.name
            )));
        }
        wanted.push(WantedOutput {
            index,
            binary: output.binary.unwrap_or(binary),
            classification: output.classification,
        });
    }
    Ok(wanted)
}

/// The request that was decoded, checked, and the outputs that go back. In a sequence its state stays with it.
///
/// # Errors
/// When its tensors are not the model's inputs, or it asks for outputs that the model has not.
pub(crate) fn checked(
    route: &VersionRoute,
    decoded: &DecodedRequest<'_>,
    in_sequence: bool,
    arrived: Instant,
    span: Span,
) -> Result<(Request, Wanted), InferError> {
    let named = decoded.outputs.iter().map(|output| NamedOutput {
        name: &output.name,
        binary: output.binary_data,
        classification: output.classification,
    });
    let parameters = &decoded.parameters;
    let wanted = wanted(route, named, parameters.binary_data_output, in_sequence)?;
    let inputs = decoded.inputs.iter().map(|(name, tensor)| (name, tensor.clone()));
    Ok((request(route, inputs, parameters, arrived, span)?, wanted))
}

/// The sequence that a request without a connection of its own is of.
///
/// # Errors
/// When it starts or ends one, and does not say which.
pub(crate) fn sequence(parameters: &Parameters) -> Result<Option<&SequenceId>, InferError> {
    let id = parameters.sequence_id.as_ref();
    if id.is_none() && (parameters.sequence_start || parameters.sequence_end) {
        let reason = "parameters `sequence_start` and `sequence_end`: expected `sequence_id` with them";
        return Err(InferError::Invalid(reason.to_owned()));
    }
    Ok(id)
}

/// Where an outcome stands in its sequence.
pub(crate) fn place<'a>(told: &Told, id: &'a SequenceId) -> Place<'a> {
    Place {
        id: id.as_str(),
        number: told.number,
        durable: told.durable,
        ends: told.ends,
        token: told.token,
    }
}

/// What a request's parameters say of its sequence.
pub(crate) fn order(parameters: &Parameters) -> SequenceOrder {
    SequenceOrder {
        start: parameters.sequence_start,
        end: parameters.sequence_end,
        number: parameters.sequence_number,
        token: parameters.sequence_token,
        drawn: false,
    }
}

/// Writes an answer of these outputs, picked by [`crate::actors::pick`], in the form that was asked for.
///
/// # Errors
/// When an output cannot be classified, or not be written in that form.
pub(crate) fn encode_in(form: &AnswerForm, kind: MessageKind<'_>, outputs: &[Tensor]) -> Result<Encoded, InferError> {
    let response = Response {
        model_name: form.model.name.as_str(),
        model_version: form.model.version,
        id: form.id.as_deref(),
        kind,
    };
    encode_picked(&response, &form.model, &form.signature, &form.wanted, outputs)
}

/// The same for who has the parts at hand.
///
/// # Errors
/// As [`encode_in`].
pub(crate) fn encode_picked(
    response: &Response<'_>,
    model: &ModelId,
    signature: &Signature,
    wanted: &Wanted,
    outputs: &[Tensor],
) -> Result<Encoded, InferError> {
    let name = |wanted: &WantedOutput| signature.outputs[wanted.index].name.as_str();
    let mut classes: SmallVec<[(usize, Tensor); 1]> = SmallVec::new();
    for (wanted, output) in wanted.iter().zip(outputs) {
        if let Some(count) = wanted.classification {
            let classified = classify(output, count, None)
                .map_err(|error: NotClassifiable| InferError::Invalid(format!("output `{}`: {error}", name(wanted))))?;
            classes.push((wanted.index, classified));
        }
    }
    let tensors: SmallVec<[OutputTensor<'_>; 4]> = wanted
        .iter()
        .zip(outputs)
        .map(|(wanted, output)| OutputTensor {
            name: name(wanted),
            tensor: classes
                .iter()
                .find(|(of, _)| *of == wanted.index)
                .map_or(output, |(_, tensor)| tensor),
            binary: wanted.binary,
        })
        .collect();
    encode(response, tensors.iter().copied()).map_err(|error: EncodeError| InferError::ModelFailed {
        model: model.clone(),
        reason: error.to_string(),
    })
}
