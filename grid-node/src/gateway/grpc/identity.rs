//! Request id and trace in the metadata of a call, by the names that they have as HTTP headers.

use actix_web::http::header::{HeaderMap, HeaderValue};
use tonic::Status;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};

use crate::gateway::context::{Context, REQUEST_ID, TRACEPARENT, TRACESTATE};

const ID: &str = "x-request-id";
const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";

/// The id and the trace of a call with this metadata.
pub(super) fn of(metadata: &MetadataMap) -> Context {
    // Empty, it takes no memory; actix-web's headers are those of an older release of the same crate.
    let mut headers = HeaderMap::new();
    for (name, header) in [(ID, REQUEST_ID), (PARENT, TRACEPARENT), (STATE, TRACESTATE)] {
        if let Some(value) = metadata.get(name)
            && let Ok(value) = HeaderValue::from_bytes(value.as_encoded_bytes())
        {
            headers.insert(header, value);
        }
    }
    Context::of(&headers)
}

/// Sends the id back with an error, so that both sides' logs can be brought together.
pub(super) fn sign(mut status: Status, context: &Context) -> Status {
    put(status.metadata_mut(), ID, &context.request_id);
    trace(status.metadata_mut(), context);
    status
}

/// Sends back what the client sent. An id that was made here is of no use to who got an answer, and costs a header.
pub(super) fn return_to_sender(metadata: &mut MetadataMap, was_sent: bool, context: &Context) {
    if was_sent {
        put(metadata, ID, &context.request_id);
    }
    trace(metadata, context);
}

/// Whether a call brings an id of its own.
pub(super) fn is_in(metadata: &MetadataMap) -> bool {
    metadata.contains_key(ID)
}

fn trace(metadata: &mut MetadataMap, context: &Context) {
    if let Some(trace) = context.trace.and_then(|trace| trace.header()) {
        put(metadata, PARENT, &trace);
        if let Some(state) = &context.trace_state {
            put(metadata, STATE, state);
        }
    }
}

fn put(metadata: &mut MetadataMap, name: &'static str, value: &HeaderValue) {
    if let Ok(value) = AsciiMetadataValue::try_from(value.as_bytes()) {
        metadata.insert(name, value);
    }
}
