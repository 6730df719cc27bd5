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
use tracing::{Span, debug, debug_span, warn};

use super::codec::{self, Encoded, HEADER_LENGTH, MessageKind, RequestBody, Response};
use super::{named, refuse};
use crate::actors::{AnswerForm, SequenceMessage, StepOutcome, VersionRoute, pick};
use crate::compute::{Answer, Timing};
use crate::gateway::context::{Context, REQUEST_ID, TRACEPARENT, TRACESTATE};
use crate::gateway::inference::{self, checked, encode_in, encode_picked, order, place};
use crate::gateway::{Gateway, Worker};
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
    let mut response = match worker.shared.route(name, version).await {
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
        let parameters = &decoded.parameters;
        let Some(sequence) = inference::sequence(parameters)? else {
            let (request, wanted) = checked(self.route, &decoded, false, self.arrived, self.span.clone())?;
            let Answer { outputs, timing } = self.worker.router.dispatch(self.route, request).await?;
            let response = Response {
                model_name: self.route.id.name.as_str(),
                model_version: self.route.id.version,
                id: decoded.id.as_deref(),
                kind: MessageKind::Http,
            };
            let (id, signature) = (&self.route.id, &self.route.signature);
            let encoded = encode_picked(&response, id, signature, &wanted, &pick(&wanted, &outputs))?;
            return Ok((respond(encoded), timing));
        };
        let Gateway { routes, sessions, .. } = &*self.worker.shared;
        let names_version = named(request).1.is_some();
        let order = order(parameters);
        if !order.start {
            let (router, model) = (&self.worker.router, &self.route.id.name);
            sessions.bring(router, model, sequence, order.token).await?;
        }
        let route = sessions.route(routes, Arc::clone(self.route), sequence, names_version, order.start)?;
        let (request, wanted) = checked(&route, &decoded, true, self.arrived, self.span.clone())?;
        let form = AnswerForm {
            model: route.id.clone(),
            signature: Arc::clone(&route.signature),
            id: decoded.id.as_deref().map(Box::from),
            wanted,
        };
        let message = SequenceMessage { request, route, form };
        let router = &self.worker.router;
        let told = sessions.infer(router, sequence, order, message).await?;
        let StepOutcome { form, result, .. } = &*told.outcome;
        let Answer { outputs, timing } = result.clone()?;
        let kind = MessageKind::HttpOfSequence(place(&told, sequence));
        Ok((respond(encode_in(form, kind, &outputs)?), timing))
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
