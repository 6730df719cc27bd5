//! One inference: message to tensors, tensors to the router, outcome to message.

use std::sync::Arc;
use std::time::{Duration, Instant};

use grid_core::InferError;
use grid_core::model::{ModelId, Signature};
use grid_core::sequence::SequenceId;
use grid_core::tensor::Tensor;
use smallvec::SmallVec;
use tonic::metadata::MetadataMap;
use tracing::{Span, debug, debug_span, warn};

use super::generated::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use super::generated::model_infer_response::InferOutputTensor;
use super::generated::{ModelInferRequest, ModelInferResponse};
use super::service::Shared;
use super::{identity, parameters, status, tensors};
use crate::actors::{AnswerForm, SequenceMessage, StepOutcome, VersionRoute, Wanted, pick};
use crate::compute::{Answer, Request, Timing};
use crate::gateway::Gateway;
use crate::gateway::context::Context;
use crate::gateway::inference::{self, NamedOutput, wanted};
use crate::gateway::rest::codec::{MAX_TENSORS, Parameters, classify};

/// What a call says beside its messages.
#[derive(Debug)]
pub(super) struct Call {
    /// Its id and its trace.
    pub(super) context: Context,
    /// When it came.
    pub(super) began: Instant,
    /// How long its caller waits, from then on.
    timeout: Option<Duration>,
}

impl Call {
    /// The call of this metadata, which came now.
    ///
    /// # Errors
    /// When its metadata has no sense.
    pub(super) fn of(metadata: &MetadataMap) -> Result<Self, InferError> {
        Ok(Self {
            context: identity::of(metadata),
            began: Instant::now(),
            timeout: parameters::call_timeout(metadata)?,
        })
    }
}

/// Sees one request, which arrived then, to its end. Dropping the future cancels it.
pub(super) async fn infer(
    shared: &Shared,
    call: &Call,
    arrived: Instant,
    message: ModelInferRequest,
) -> Result<ModelInferResponse, InferError> {
    let _accepted = shared.gateway.standing.accept();
    let span = debug_span!(
        "request",
        request_id = call.context.request_id(),
        trace_id = call.context.trace.map(|trace| format!("{:032x}", trace.trace_id)),
        model = message.model_name
    );
    let version = Some(message.model_version.as_str()).filter(|version| !version.is_empty());
    let route = match shared.gateway.route(&message.model_name, version).await {
        Ok(route) => route,
        Err(error) => {
            debug!(parent: &span, %error, "refused");
            return Err(error);
        }
    };
    let mut exchange = Exchange {
        shared,
        call,
        route,
        span,
        arrived,
        recorded: false,
    };
    let result = exchange.run(message).await;
    exchange.record(&result);
    result.map(|(response, _)| response)
}

/// A request as it was sent, not yet compared with the model's signature.
struct Decoded {
    inputs: Inputs,
    /// None meaning all.
    outputs: Vec<InferRequestedOutputTensor>,
    parameters: Parameters,
}

/// One request to one model version.
struct Exchange<'a> {
    shared: &'a Shared,
    call: &'a Call,
    route: Arc<VersionRoute>,
    span: Span,
    arrived: Instant,
    recorded: bool,
}

/// The handler of a call that is taken back is dropped where it waits, and its request has an outcome too.
impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        if !self.recorded {
            let metrics = &self.route.metrics;
            metrics.request.record(self.arrived.elapsed());
            metrics.failed(&InferError::Cancelled);
            debug!(parent: &self.span, "the client has gone");
        }
    }
}

impl Exchange<'_> {
    async fn run(&self, message: ModelInferRequest) -> Result<(ModelInferResponse, Timing), InferError> {
        let route = &self.route;
        if !route.may_serve() {
            return Err(route.not_ready());
        }
        let mut held = self.shared.bodies.begin();
        if !held.grow(bytes(&message)) {
            return Err(InferError::Overloaded {
                model: route.id.clone(),
                reason: "the messages of other requests hold all the memory for messages".to_owned(),
                retry_after: Duration::from_secs(1),
            });
        }
        let mut parameters = parameters::of_request(&message.parameters)?;
        let spent = self.arrived.saturating_duration_since(self.call.began);
        let within = self.call.timeout.map(|timeout| timeout.saturating_sub(spent));
        parameters.timeout = [parameters.timeout, within].into_iter().flatten().min();
        let decoded = Decoded {
            inputs: inputs(message.inputs, &message.raw_input_contents)?,
            outputs: message.outputs,
            parameters,
        };
        drop(message.raw_input_contents);
        let names_version = !message.model_version.is_empty();
        match inference::sequence(&decoded.parameters)?.cloned() {
            None => self.alone(decoded, message.id).await,
            Some(sequence) => self.in_sequence(decoded, message.id, &sequence, names_version).await,
        }
    }

    async fn alone(&self, decoded: Decoded, id: String) -> Result<(ModelInferResponse, Timing), InferError> {
        let route = &self.route;
        let has_timeout = decoded.parameters.timeout.is_some();
        let (request, wanted) = self.checked(route, decoded)?;
        // What runs at once looks at no deadline.
        if has_timeout && request.deadline <= Instant::now() {
            return Err(InferError::DeadlineExceeded {
                model: route.id.clone(),
                timeout: request.deadline.saturating_duration_since(self.arrived),
            });
        }
        let Answer { outputs, timing } = self.shared.router.dispatch(route, request).await?;
        let response = answer(&route.id, &route.signature, id, &wanted, &pick(&wanted, &outputs))?;
        Ok((response, timing))
    }

    async fn in_sequence(
        &self,
        decoded: Decoded,
        id: String,
        sequence: &SequenceId,
        names_version: bool,
    ) -> Result<(ModelInferResponse, Timing), InferError> {
        let Gateway { routes, sessions, .. } = &self.shared.gateway;
        let order = inference::order(&decoded.parameters);
        if !order.start {
            let (router, model) = (&self.shared.router, &self.route.id.name);
            sessions.bring(router, model, sequence, order.token).await?;
        }
        let route = sessions.route(routes, Arc::clone(&self.route), sequence, names_version, order.start)?;
        let (request, wanted) = self.checked(&route, decoded)?;
        let form = AnswerForm {
            model: route.id.clone(),
            signature: Arc::clone(&route.signature),
            id: (!id.is_empty()).then(|| id.into()),
            wanted,
        };
        let message = SequenceMessage { request, route, form };
        let told = sessions.infer(&self.shared.router, sequence, order, message).await?;
        let StepOutcome { form, result, .. } = &*told.outcome;
        let Answer { outputs, timing } = result.clone()?;
        let id = form.id.as_deref().unwrap_or_default().to_owned();
        let mut response = answer(&form.model, &form.signature, id, &form.wanted, &outputs)?;
        response.parameters = parameters::of_place(&inference::place(&told, sequence));
        Ok((response, timing))
    }

    /// The request, and the outputs that go back.
    fn checked(&self, route: &VersionRoute, decoded: Decoded) -> Result<(Request, Wanted), InferError> {
        let Decoded {
            inputs,
            outputs,
            parameters,
        } = decoded;
        let wanted = wanted_of(route, &outputs, &parameters)?;
        let request = inference::request(route, inputs, &parameters, self.arrived, self.span.clone())?;
        Ok((request, wanted))
    }

    fn record(&mut self, result: &Result<(ModelInferResponse, Timing), InferError>) {
        self.recorded = true;
        let metrics = &self.route.metrics;
        let took = self.arrived.elapsed();
        metrics.request.record(took);
        match result {
            Ok((_, timing)) => {
                metrics.succeeded.increment(1);
                debug!(parent: &self.span, ?took, queued = ?timing.queued, computed = ?timing.computed, rows = timing.rows, "answered");
            }
            Err(error) => {
                metrics.failed(error);
                let request_id = self.call.context.request_id();
                if status::code(error) == tonic::Code::Internal {
                    warn!(request_id, model = %self.route.id, %error, "failed");
                } else {
                    debug!(parent: &self.span, %error, "refused");
                }
            }
        }
    }
}

/// Bytes that a message holds.
fn bytes(message: &ModelInferRequest) -> usize {
    match message.raw_input_contents.as_slice() {
        [] => prost::Message::encoded_len(message),
        raw => raw.iter().map(bytes::Bytes::len).sum(),
    }
}

type Inputs = SmallVec<[(String, Tensor); 2]>;

fn inputs(described: Vec<InferInputTensor>, raw: &[bytes::Bytes]) -> Result<Inputs, InferError> {
    if described.len() > MAX_TENSORS {
        return Err(InferError::Invalid(format!(
            "`inputs`: expected at most {MAX_TENSORS}, found {}",
            described.len()
        )));
    }
    if !raw.is_empty() && raw.len() != described.len() {
        return Err(InferError::Invalid(format!(
            "`raw_input_contents`: expected one for each of the {} inputs, or none at all, found {}",
            described.len(),
            raw.len()
        )));
    }
    let inputs = described.into_iter().enumerate();
    inputs
        .map(|(index, input)| tensors::input(input, raw.get(index)))
        .collect()
}

fn wanted_of(
    route: &VersionRoute,
    requested: &[InferRequestedOutputTensor],
    parameters: &Parameters,
) -> Result<Wanted, InferError> {
    if requested.len() > MAX_TENSORS {
        return Err(InferError::Invalid(format!(
            "`outputs`: expected at most {MAX_TENSORS}, found {}",
            requested.len()
        )));
    }
    let named = requested
        .iter()
        .map(|output| {
            let refused = |reason| InferError::Invalid(format!("output `{}`: {reason}", output.name));
            parameters::refuse_shared_memory(&output.parameters).map_err(refused)?;
            Ok(NamedOutput {
                name: &output.name,
                binary: None,
                classification: parameters::classification(&output.parameters).map_err(refused)?,
            })
        })
        .collect::<Result<SmallVec<[NamedOutput<'_>; 2]>, InferError>>()?;
    wanted(route, named.into_iter(), true, parameters.sequence_id.is_some())
}

/// The message of an answer. All outputs are raw: that is what Triton sends, and the only form that every type has.
fn answer(
    model: &ModelId,
    signature: &Signature,
    id: String,
    wanted: &Wanted,
    outputs: &[Tensor],
) -> Result<ModelInferResponse, InferError> {
    let mut response = ModelInferResponse {
        model_name: model.name.as_str().to_owned(),
        model_version: model.version.to_string(),
        id,
        outputs: Vec::with_capacity(outputs.len()),
        raw_output_contents: Vec::with_capacity(outputs.len()),
        ..ModelInferResponse::default()
    };
    for (wanted, output) in wanted.iter().zip(outputs) {
        let name = &signature.outputs[wanted.index].name;
        let classified = wanted
            .classification
            .map(|count| classify(output, count, None))
            .transpose()
            .map_err(|error| InferError::Invalid(format!("output `{name}`: {error}")))?;
        let output = classified.as_ref().unwrap_or(output);
        response.outputs.push(InferOutputTensor {
            name: name.clone(),
            datatype: output.data_type().name().to_owned(),
            shape: tensors::protocol_shape(output.shape()),
            ..InferOutputTensor::default()
        });
        response.raw_output_contents.push(tensors::raw(output));
    }
    Ok(response)
}
