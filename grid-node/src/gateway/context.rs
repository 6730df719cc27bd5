//! Who a request is: its id, and the trace that it belongs to.

use std::cell::Cell;
use std::fmt::Write as _;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};

/// Comes in, or is made, and goes back out.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C Trace Context.
pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What other tracing systems hand on beside it, unread.
pub(super) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Longest request id that is taken over.
const MAX_REQUEST_ID: usize = 128;

/// The id and the trace of one request.
#[derive(Clone, Debug)]
pub(super) struct Context {
    /// The client's, if it sent a usable one, else made here.
    pub(super) request_id: HeaderValue,
    /// The trace, if the request belongs to one.
    pub(super) trace: Option<Trace>,
    /// The `tracestate` that came with it.
    pub(super) trace_state: Option<HeaderValue>,
}

/// A position in a trace, as the W3C's `traceparent` header writes it (version 00).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trace {
    pub(super) trace_id: u128,
    /// The span that called.
    pub(super) parent_id: u64,
    /// The span of this node.
    pub(super) span_id: u64,
    pub(super) flags: u8,
}

impl Context {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let request_id = headers
            .get(REQUEST_ID)
            .filter(|id| !id.is_empty() && id.len() <= MAX_REQUEST_ID && id.as_bytes().iter().all(u8::is_ascii_graphic))
            .cloned()
            .unwrap_or_else(next_request_id);
        let trace = headers
            .get(TRACEPARENT)
            .and_then(|value| Trace::parse(value.as_bytes()));
        Self {
            request_id,
            trace_state: trace.and_then(|_| headers.get(TRACESTATE).cloned()),
            trace,
        }
    }

    pub(super) fn request_id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }
}

impl Trace {
    fn parse(header: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(header).ok()?;
        let mut fields = text.split('-');
        let (version, trace_id, parent_id, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        // Later versions may add fields behind these; version ff is invalid, and so are upper case and zeros.
        let lengths = (version.len(), trace_id.len(), parent_id.len(), flags.len()) == (2, 32, 16, 2);
        let hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let all_hex = [version, trace_id, parent_id, flags].into_iter().all(hex);
        if !lengths || !all_hex || version == "ff" || (version == "00" && fields.next().is_some()) {
            return None;
        }
        let trace = Self {
            trace_id: u128::from_str_radix(trace_id, 16).ok()?,
            parent_id: u64::from_str_radix(parent_id, 16).ok()?,
            span_id: rand::random::<u64>().max(1),
            flags: u8::from_str_radix(flags, 16).ok()?,
        };
        (trace.trace_id != 0 && trace.parent_id != 0).then_some(trace)
    }

    /// The header that tells the next hop, or the caller, of this node's span.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        let text = format!("00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags);
        HeaderValue::try_from(text).ok()
    }
}

/// A new request id: a random start for each thread, then a count.
fn next_request_id() -> HeaderValue {
    thread_local! {
        static NEXT: Cell<u64> = Cell::new(rand::random());
    }
    let number = NEXT.with(|next| {
        next.set(next.get().wrapping_add(1));
        next.get()
    });
    let mut text = String::with_capacity(16);
    let _ = write!(text, "{number:016x}");
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(header: &HeaderName, value: &str) -> Context {
        let mut headers = HeaderMap::new();
        headers.insert(header.clone(), HeaderValue::try_from(value).unwrap());
        Context::of(&headers)
    }

    #[test]
    fn a_usable_request_id_is_kept_and_any_other_is_replaced() {
        assert_eq!(context(&REQUEST_ID, "abc-1").request_id(), "abc-1");
        for bad in ["", "a b", &"x".repeat(129)] {
            let made = context(&REQUEST_ID, bad);
            assert_eq!(made.request_id().len(), 16, "{bad:?}");
        }
    }

    #[test]
    fn a_trace_is_taken_over_with_a_span_of_this_node() {
        let value = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let trace = context(&TRACEPARENT, value).trace.unwrap();
        assert_eq!(trace.trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(trace.parent_id, 0x00f0_67aa_0ba9_02b7);
        let passed_on = trace.header().unwrap();
        assert!(
            passed_on
                .to_str()
                .unwrap()
                .starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-")
        );
        assert_ne!(trace.span_id, trace.parent_id);
    }

    #[test]
    fn broken_traces_are_ignored() {
        for bad in [
            "",
            "00-0-0-0",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        ] {
            assert_eq!(context(&TRACEPARENT, bad).trace, None, "{bad:?}");
        }
    }
}
