//! Inference over REST: body to tensors, tensors to the router, outcome to body.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::error::PayloadError;
use actix_web::http::ConnectionType;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::StreamExt;
use grid_core::InferError;
use grid_core::batching::{DEFAULT_PRIORITY, Entry};
use grid_core::tensor::Tensor;
use smallvec::SmallVec;
use tracing::{Span, debug, debug_span, warn};

use super::codec::{
    self, DecodedRequest, Encoded, HEADER_LENGTH, OutputTensor, RequestBody, RequestedOutput, Response, classify,
};
use super::{named, refuse};
use crate::actors::{VersionRoute, deadline};
use crate::compute::{Answer, Request, Timing};
use crate::gateway::Worker;
use crate::gateway::context::{Context, REQUEST_ID, TRACEPARENT, TRACESTATE};
use crate::standing::Stage;

const HEADER_LENGTH_NAME: HeaderName = HeaderName::from_static("inference-header-content-length");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const BINARY: HeaderValue = HeaderValue::from_static("application/octet-stream");

pub(super) async fn infer(request: HttpRequest, payload: web::Payload, worker: web::Data<Worker>) -> HttpResponse {
    let arrived = Instant::now();
    let _accepted = worker.shared.standing.accept();
    let context = Context::of(request.headers());
    let (name, version) = named(&request);
    let span = debug_span!(
        "request",
        request_id = context.request_id(),
        trace_id = context.trace.map(|trace| format!("{:032x}", trace.trace_id)),
        model = name
    );
    let mut response = match worker.shared.routes.resolve(name, version) {
        Ok(route) => {
            let exchange = Exchange {
                worker: &worker,
                route: &route,
                span: &span,
                arrived,
                recorded: Cell::new(false),
            };
            let result = exchange.run(&request, payload).await;
            exchange.record(&result, &context);
            result.map_or_else(|error| refuse(&error), |(response, _)| response)
        }
        Err(error) => {
            debug!(parent: &span, %error, "refused");
            refuse(&error)
        }
    };
    let draining = worker.shared.standing.stage() == Stage::Draining;
    identify(&mut response, context, draining);
    response
}

/// Sends the ids back. A node that drains asks for the end of the connection, so that no request is sent on it when it
/// is about to be cut.
fn identify(response: &mut HttpResponse, context: Context, draining: bool) {
    let headers = response.headers_mut();
    if let Some(trace) = context.trace.and_then(|trace| trace.header()) {
        headers.insert(TRACEPARENT, trace);
        if let Some(state) = context.trace_state {
            headers.insert(TRACESTATE, state);
        }
    }
    headers.insert(REQUEST_ID, context.request_id);
    if draining {
        response.head_mut().set_connection_type(ConnectionType::Close);
    }
}

/// One request to one model version.
struct Exchange<'a> {
    worker: &'a Worker,
    route: &'a Arc<VersionRoute>,
    span: &'a Span,
    arrived: Instant,
    recorded: Cell<bool>,
}

/// The handler of a client that goes away is dropped where it waits, and its request has an outcome too.
impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        if !self.recorded.get() {
            let metrics = &self.route.metrics;
            metrics.request.record(self.arrived.elapsed());
            metrics.failed(&InferError::Cancelled);
            debug!(parent: self.span, "the client has gone");
        }
    }
}

impl Exchange<'_> {
    async fn run(&self, request: &HttpRequest, payload: web::Payload) -> Result<(HttpResponse, Timing), InferError> {
        if !self.route.may_serve() {
            return Err(self.route.not_ready());
        }
        let limit = usize::try_from(self.worker.shared.config.http.max_body).unwrap_or(usize::MAX);
        let mut held = self.worker.bodies.begin();
        let full = || InferError::Overloaded {
            model: self.route.id.clone(),
            reason: "the bodies of other requests hold all the memory for bodies".to_owned(),
            retry_after: Duration::from_secs(1),
        };
        let room = |bytes| if held.grow(bytes) { Ok(()) } else { Err(full()) };
        let body = read_body(request, payload, limit, room).await?;
        let decoded = codec::decode(&body)?;
        let wanted = wanted_outputs(self.route, &decoded)?;
        let request = self.request(&decoded)?;
        let outcome = self.worker.router.dispatch(self.route, request).await;
        let Answer { outputs, timing } = outcome?;
        let encoded = self.encode(&decoded, &wanted, &outputs)?;
        Ok((respond(encoded), timing))
    }

    fn request(&self, decoded: &DecodedRequest<'_>) -> Result<Request, InferError> {
        let route = self.route;
        if decoded.parameters.sequence_id.is_some() {
            return Err(InferError::Invalid(
                "parameter `sequence_id`: sequences are not served by this version; send the state tensors".to_owned(),
            ));
        }
        let inputs = decoded.inputs.iter().map(|(name, tensor)| (name, tensor.clone()));
        let inputs: SmallVec<[Tensor; 2]> = route
            .signature
            .arrange(inputs, |index| route.initial.get(index).cloned().flatten())?;
        let (key, rows) = stacking(route, &inputs)?;
        Ok(Request {
            inputs,
            entry: Entry {
                key,
                rows,
                priority: decoded
                    .parameters
                    .priority
                    .filter(|&priority| priority > 0)
                    .unwrap_or(DEFAULT_PRIORITY),
                arrived: self.arrived,
            },
            deadline: deadline(route, self.arrived, decoded.parameters.timeout),
            partial: None,
            span: self.span.clone(),
        })
    }

    fn encode(
        &self,
        decoded: &DecodedRequest<'_>,
        wanted: &[(usize, Option<&RequestedOutput<'_>>)],
        outputs: &[Tensor],
    ) -> Result<Encoded, InferError> {
        let specs = &self.route.signature.outputs;
        let failed = |reason: String| InferError::ModelFailed {
            model: self.route.id.clone(),
            reason,
        };
        let mut classes: SmallVec<[(usize, Tensor); 1]> = SmallVec::new();
        for (index, requested) in wanted {
            if let Some(count) = requested.and_then(|requested| requested.classification) {
                let output = outputs
                    .get(*index)
                    .ok_or_else(|| failed("an output did not come".to_owned()))?;
                let classified = classify(output, count, None)
                    .map_err(|error| InferError::Invalid(format!("output `{}`: {error}", specs[*index].name)))?;
                classes.push((*index, classified));
            }
        }
        let tensors: SmallVec<[OutputTensor<'_>; 4]> = wanted
            .iter()
            .filter_map(|(index, requested)| {
                let classified = classes.iter().find(|(of, _)| of == index).map(|(_, tensor)| tensor);
                Some(OutputTensor {
                    name: &specs[*index].name,
                    tensor: classified.or_else(|| outputs.get(*index))?,
                    binary: requested
                        .and_then(|requested| requested.binary_data)
                        .unwrap_or(decoded.parameters.binary_data_output),
                })
            })
            .collect();
        let response = Response {
            model_name: self.route.id.name.as_str(),
            model_version: self.route.id.version,
            id: decoded.id.as_deref(),
        };
        codec::encode(&response, tensors.iter().copied()).map_err(|error| failed(error.to_string()))
    }

    fn record(&self, result: &Result<(HttpResponse, Timing), InferError>, context: &Context) {
        self.recorded.set(true);
        let metrics = &self.route.metrics;
        let took = self.arrived.elapsed();
        metrics.request.record(took);
        match result {
            Ok((_, timing)) => {
                metrics.succeeded.increment(1);
                debug!(parent: self.span, ?took, queued = ?timing.queued, computed = ?timing.computed, rows = timing.rows, "answered");
            }
            Err(error) => {
                metrics.failed(error);
                let request_id = context.request_id();
                if codec::status(error) == 500 {
                    warn!(request_id, model = %self.route.id, %error, "failed");
                } else {
                    debug!(parent: self.span, %error, "refused");
                }
            }
        }
    }
}

/// Reads the body, as fast as the client sends it but not slower than [`SLOWEST_BODY`] allows.
async fn read_body(
    request: &HttpRequest,
    mut payload: web::Payload,
    limit: usize,
    mut room: impl FnMut(usize) -> Result<(), InferError>,
) -> Result<RequestBody, InferError> {
    let header = |name| request.headers().get(name);
    if let Some(encoding) = header(CONTENT_ENCODING).filter(|value| *value != "identity") {
        let encoding = String::from_utf8_lossy(encoding.as_bytes())
            .chars()
            .take(40)
            .collect::<String>();
        return Err(InferError::Unsupported(format!(
            "header Content-Encoding: bodies are read uncompressed, found `{encoding}`"
        )));
    }
    let length = header(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let header_length = header(HEADER_LENGTH_NAME).map(HeaderValue::as_bytes);
    let mut body = RequestBody::builder(header_length, length, limit)?;
    let read = async {
        while let Some(chunk) = payload.next().await {
            match chunk {
                Ok(chunk) => {
                    room(chunk.len())?;
                    body.push(chunk)?;
                }
                Err(PayloadError::Incomplete(_)) => return Err(InferError::Cancelled),
                Err(error) => return Err(InferError::Invalid(format!("the body could not be read: {error}"))),
            }
        }
        Ok(())
    };
    tokio::time::timeout(SLOWEST_BODY, read).await.map_err(|_| {
        InferError::Invalid(format!(
            "the body did not arrive within {SLOWEST_BODY:?}; send it faster"
        ))
    })??;
    body.finish()
}

/// A client that sends a body slower than this holds memory for nothing.
const SLOWEST_BODY: Duration = Duration::from_secs(60);

/// Positions of the outputs that go back, each with how it was asked for.
type Wanted<'d, 'b> = SmallVec<[(usize, Option<&'d RequestedOutput<'b>>); 4]>;

/// Which outputs go back, and how they were asked for: all of them when none is named.
fn wanted_outputs<'d, 'b>(route: &VersionRoute, decoded: &'d DecodedRequest<'b>) -> Result<Wanted<'d, 'b>, InferError> {
    if decoded.outputs.is_empty() {
        return Ok((0..route.signature.outputs.len()).map(|index| (index, None)).collect());
    }
    let mut wanted = Wanted::new();
    for requested in &decoded.outputs {
        let Some(index) = route.signature.output(&requested.name) else {
            let known: Vec<_> = route
                .signature
                .outputs
                .iter()
                .map(|spec| format!("`{}`", spec.name))
                .collect();
            return Err(InferError::Invalid(format!(
                "output `{}`: the model has no such output; expected {}",
                requested.name,
                known.join(", ")
            )));
        };
        if wanted.iter().any(|(other, _)| *other == index) {
            return Err(InferError::Invalid(format!(
                "output `{}`: asked for twice, expected once",
                requested.name
            )));
        }
        wanted.push((index, Some(requested)));
    }
    Ok(wanted)
}

/// What a request can be stacked with, and its rows.
fn stacking(route: &VersionRoute, inputs: &[Tensor]) -> Result<(u64, usize), InferError> {
    let first = |tensor: &Tensor| tensor.shape().dims().first().copied().unwrap_or(1);
    let rows = inputs.first().map_or(1, first);
    let max_rows = route.settings.policy.max_rows;
    if max_rows == 0 {
        return Ok((0, rows));
    }
    if rows > max_rows {
        return Err(InferError::Invalid(format!(
            "input `{}`: expected at most {max_rows} rows (the model's max_batch_size), found {rows}",
            route.signature.inputs[0].name
        )));
    }
    // FNV-1a over the sizes that must agree. Two shapes of one hash would fail to stack and then run alone.
    let mut key = 0xcbf2_9ce4_8422_2325_u64;
    for (tensor, spec) in inputs.iter().zip(&route.signature.inputs) {
        if first(tensor) != rows {
            return Err(InferError::Invalid(format!(
                "input `{}`: expected {rows} rows as in `{}`, found {}",
                spec.name,
                route.signature.inputs[0].name,
                first(tensor)
            )));
        }
        for &dim in tensor.shape().dims().iter().skip(1).chain([&usize::MAX]) {
            key = (key ^ dim as u64).wrapping_mul(0x0100_0000_01b3);
        }
    }
    Ok((key, rows))
}

fn respond(encoded: Encoded) -> HttpResponse {
    let mut response = HttpResponse::Ok();
    match encoded.header_length {
        Some(length) => {
            response.insert_header((CONTENT_TYPE, BINARY));
            response.insert_header((HEADER_LENGTH_NAME, HeaderValue::from(length)));
        }
        None => {
            response.insert_header((CONTENT_TYPE, JSON));
        }
    }
    let total = encoded.len();
    let mut parts = encoded.parts.into_iter();
    match (parts.next(), parts.len()) {
        (Some(only), 0) => response.body(only),
        (first, _) => {
            let parts = first.into_iter().chain(parts).map(Ok::<_, std::convert::Infallible>);
            response
                .no_chunking(total as u64)
                .streaming(futures_util::stream::iter(parts))
        }
    }
}

const _: () = assert!(HEADER_LENGTH.len() == "inference-header-content-length".len());
