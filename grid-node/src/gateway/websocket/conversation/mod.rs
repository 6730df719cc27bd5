//! What is said on one connection: requests and their outputs, sequences, cancels.
//!
//! One task of a worker thread. A request that can run at once is answered before the next message is read; the others
//! are futures of this task, dropped with it: that a connection ends cancels them. Sequences are actors of their own, and
//! go on.
//!
//! The connection is not read while too much is under way: requests in flight, their inputs, or outputs that the reader
//! has not taken. How many requests may be in flight depends on how large their answers were so far, so that what must be
//! kept for a slow reader stays bounded.

mod requests;
mod sequences;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use actix_web::web;
use bytes::Bytes;
use futures_util::future::{AbortHandle, LocalBoxFuture};
use futures_util::stream::{FuturesUnordered, StreamExt};
use grid_core::InferError;
use grid_core::model::{ModelName, Version};
use grid_core::sequence::{SequenceId, Token};
use grid_core::tensor::Tensor;
use metrics::gauge;
use tokio::sync::mpsc;
use tracing::{debug, debug_span};

use super::handshake::SUBPROTOCOL;
use super::protocol::{ErrorPlace, ServerMessage, SocketLimits};
use super::socket::{CloseCode, Ended, Event, Socket};
use crate::actors::{
    AnswerForm, MAX_REQUEST_ID, Reader, ReaderEvents, Resumed, SequenceEvent, Stamp, Ticket, VersionRoute,
};
use crate::bodies::Held;
use crate::compute::Request;
use crate::gateway::Worker;
use crate::gateway::inference::{self, encode_in};
use crate::gateway::rest::codec::{
    ClientMessage, DecodedRequest, Encoded, MessageKind, RefusedMessage, RequestBody, decode_message,
};
use requests::{Finished, PARTS, Part};
use sequences::{Attached, EndedSequence, unnumbered};

/// Requests in flight before the size of any answer is known.
const FIRST_WINDOW: usize = 64;

/// A code of our own range (RFC 6455, 7.4.2): nothing was said for too long.
const IDLE: u16 = 4000;

/// One connection. See the module's documentation.
pub(super) struct Conversation {
    _open: Open,
    worker: web::Data<Worker>,
    model: ModelName,
    /// Where the path names one.
    version: Option<Version>,
    socket: Socket,
    /// Room taken for the message that is being read.
    held: Rc<RefCell<Held>>,
    in_flight: FuturesUnordered<LocalBoxFuture<'static, Happened>>,
    cancels: HashMap<Box<str>, AbortHandle>,
    in_flight_bytes: usize,
    largest_answer: Option<usize>,
    parts: (mpsc::Sender<Part>, mpsc::Receiver<Part>),
    sequences: HashMap<SequenceId, Attached>,
    /// Sequences that ended here, with what they are known by: what is said to them again has its answer.
    ended: HashMap<SequenceId, EndedSequence>,
    /// Sequences that somebody comes back for. Their events wait until the answer to that is there: the actor of a
    /// sequence answers before it tells anything else, but the two come on different ways.
    resuming: HashMap<SequenceId, Vec<(Stamp, SequenceEvent)>>,
    /// Messages of sequences that have no outcome yet.
    unanswered: usize,
    last_ticket: Ticket,
    events: (
        ReaderEvents,
        mpsc::UnboundedReceiver<(SequenceId, Stamp, SequenceEvent)>,
    ),
    /// When a message came, or the last answer went.
    last_active: Instant,
}

/// A future of the conversation has come to its end.
enum Happened {
    /// A request.
    Finished(Finished),
    /// Somebody came back for a sequence, with the outcomes up to this number.
    Resumed(SequenceId, Token, u64, Result<Resumed, InferError>),
}

/// Counted among the open connections.
struct Open;

impl Open {
    fn count() -> Self {
        gauge!("grid_websockets").increment(1.0);
        Self
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        gauge!("grid_websockets").decrement(1.0);
    }
}

impl Conversation {
    pub(super) fn new(
        worker: web::Data<Worker>,
        model: ModelName,
        version: Option<Version>,
        socket: Socket,
        held: Rc<RefCell<Held>>,
    ) -> Self {
        Self {
            _open: Open::count(),
            worker,
            model,
            version,
            socket,
            held,
            in_flight: FuturesUnordered::new(),
            cancels: HashMap::new(),
            in_flight_bytes: 0,
            largest_answer: None,
            parts: mpsc::channel(PARTS),
            sequences: HashMap::new(),
            ended: HashMap::new(),
            resuming: HashMap::new(),
            unanswered: 0,
            last_ticket: 0,
            events: mpsc::unbounded_channel(),
            last_active: Instant::now(),
        }
    }

    /// Sees the connection to its end.
    pub(super) async fn run(mut self) {
        let settings = self.worker.shared.config.websocket.clone();
        self.say(&ServerMessage::Ready {
            protocol: SUBPROTOCOL,
            model_name: self.model.as_str(),
            limits: SocketLimits {
                message_bytes: self.worker.shared.config.http.max_body,
                in_flight: settings.max_in_flight,
                idle_timeout_ms: settings.idle_timeout.as_millis(),
                ping_interval_ms: settings.ping_interval.as_millis(),
            },
        });
        let standing = Arc::clone(&self.worker.shared.standing);
        let draining = standing.draining();
        let idle = tokio::time::sleep(settings.idle_timeout);
        tokio::pin!(draining, idle);
        let mut is_draining = false;
        loop {
            let is_busy = !self.in_flight.is_empty() || self.unanswered > 0;
            if is_draining && !is_busy {
                return self.socket.close(CloseCode::Away, "the node is draining").await;
            }
            let read = !is_draining && self.has_room();
            tokio::select! {
                biased;
                Some(happened) = self.in_flight.next(), if !self.in_flight.is_empty() => self.happened(happened),
                Some(part) = self.parts.1.recv() => self.part(&part),
                Some((id, stamp, event)) = self.events.1.recv() => self.sequence_event(&id, stamp, event),
                () = &mut draining, if !is_draining => is_draining = true,
                () = &mut idle, if !is_busy => {
                    let quiet = self.last_active.elapsed();
                    if quiet >= settings.idle_timeout {
                        let code = CloseCode::Library(IDLE);
                        return self.socket.close(code, "nothing was said for too long").await;
                    }
                    idle.as_mut().reset((Instant::now() + settings.idle_timeout - quiet).into());
                }
                event = self.socket.next(read) => match event {
                    Event::Text(text) => {
                        self.message(Ok(RequestBody::from_json(text)));
                        // What arrived in one piece may be thousands of messages, and others share the thread.
                        tokio::task::consume_budget().await;
                    }
                    Event::Binary(message) => {
                        self.message(RequestBody::from_message(&message));
                        tokio::task::consume_budget().await;
                    }
                    Event::Writable => {}
                    Event::Ended(ended) => return self.ended(&ended),
                },
            }
        }
    }

    /// Whether another message may be read.
    fn has_room(&self) -> bool {
        let settings = &self.worker.shared.config.websocket;
        let most = usize::try_from(settings.max_buffered).unwrap_or(usize::MAX);
        let window = match self.largest_answer {
            None => FIRST_WINDOW,
            Some(largest) => most / largest.max(1),
        };
        let under_way = self.in_flight.len() + self.unanswered;
        // Whoever comes back for a sequence may be owed all that is kept.
        let owed = self
            .resuming
            .len()
            .saturating_mul(self.worker.shared.sessions.limits().window_bytes);
        under_way < window.clamp(1, settings.max_in_flight)
            && (under_way == 0 || self.in_flight_bytes < most)
            && (under_way == 0 || owed < most)
            && self.socket.buffered() < most
    }

    /// Whether this connection may read one more sequence.
    fn has_place_for_a_sequence(&self) -> Result<(), InferError> {
        let most = self.worker.shared.config.websocket.max_in_flight;
        if self.sequences.len() + self.resuming.len() < most {
            return Ok(());
        }
        let reason = format!("this connection reads {most} sequences already, as many as it may");
        Err(InferError::Invalid(reason))
    }

    fn say(&self, message: &ServerMessage<'_>) {
        self.socket.send_text(&message.to_json());
    }

    fn refuse(&self, id: Option<&str>, error: &InferError, place: Option<ErrorPlace<'_>>) {
        // A client that is known by longer ids than it may have is not sent them back.
        let id = id.filter(|id| id.len() <= MAX_REQUEST_ID);
        self.say(&ServerMessage::error(id, error, place));
    }

    fn ended(&self, ended: &Ended) {
        debug!(model = %self.model, ?ended, cancelled = self.in_flight.len(), "a WebSocket ended");
    }

    fn message(&mut self, body: Result<RequestBody, InferError>) {
        self.last_active = Instant::now();
        let held = self.held.replace(self.worker.bodies.begin());
        let body = match body {
            Ok(body) => body,
            Err(error) => return self.refuse(None, &error, None),
        };
        match decode_message(&body) {
            Ok(ClientMessage::Infer(request)) => self.infer(&request, held),
            Ok(ClientMessage::Cancel(id)) => match self.cancels.get(&*id) {
                Some(handle) => handle.abort(),
                None => debug!(model = %self.model, "a cancel came too late"),
            },
            Ok(ClientMessage::CancelInSequence(id, number)) => {
                self.with(&id, |attached| attached.attachment.cancel(number));
            }
            Ok(ClientMessage::Start(id)) => {
                if let Err((error, id)) = self.start(id) {
                    self.refuse(None, &error, Some(unnumbered(&id)));
                }
            }
            Ok(ClientMessage::Resume { id, token, last }) => {
                let refused = match self.resuming.contains_key(&id) {
                    true => Err(InferError::Invalid("the sequence is being resumed already".to_owned())),
                    false => self.has_place_for_a_sequence(),
                };
                if let Err(error) = refused {
                    return self.refuse(None, &error, Some(unnumbered(&id)));
                }
                self.resuming.insert(id.clone(), Vec::new());
                let (sessions, model) = (Arc::clone(&self.worker.shared.sessions), self.model.clone());
                let (reader, worker) = (self.reader(), self.worker.clone());
                self.in_flight.push(Box::pin(async move {
                    let resumed = sessions.resume(&worker.router, &model, &id, token, last, reader).await;
                    Happened::Resumed(id, token, last, resumed)
                }));
            }
            Ok(ClientMessage::End(id)) => match self.ended.get(&id) {
                Some(ended) if !self.sequences.contains_key(&id) => self.say(&ServerMessage::Ended {
                    sequence_id: id.as_str(),
                    last: ended.last,
                }),
                _ => self.with(&id, |attached| attached.attachment.end()),
            },
            Ok(ClientMessage::Acknowledge(id, number)) => {
                self.with(&id, |attached| attached.attachment.acknowledge(number));
            }
            Err(refused) => {
                let RefusedMessage { id, place, error } = *refused;
                let place = place.as_ref().map(|(sequence, number)| ErrorPlace {
                    sequence,
                    number: *number,
                    is_outcome: Some(false),
                });
                self.refuse(id.as_deref(), &error, place);
            }
        }
    }

    fn route(&self) -> Result<Arc<VersionRoute>, InferError> {
        let version = self.version.map(|version| version.to_string());
        self.worker
            .shared
            .routes
            .resolve(self.model.as_str(), version.as_deref())
    }

    fn reader(&self) -> Reader {
        Reader {
            events: self.events.0.clone(),
        }
    }

    fn infer(&mut self, decoded: &DecodedRequest<'_>, held: Held) {
        if decoded.parameters.sequence_id.is_some() || decoded.parameters.sequence_start {
            return self.offer(decoded);
        }
        let id = decoded.id.as_deref();
        if let Err(error) = self.request(decoded, held) {
            self.refuse(id, &error, None);
        }
    }

    /// The request, and how its answer is written.
    fn checked(
        &self,
        route: &Arc<VersionRoute>,
        decoded: &DecodedRequest<'_>,
        arrived: Instant,
    ) -> Result<(Request, AnswerForm), InferError> {
        let span = debug_span!("request", id = decoded.id.as_deref(), model = %route.id.name, websocket = true);
        let parameters = &decoded.parameters;
        let in_sequence = parameters.sequence_id.is_some() || parameters.sequence_start;
        let (request, wanted) = inference::checked(route, decoded, in_sequence, arrived, span)?;
        let form = AnswerForm {
            model: route.id.clone(),
            signature: Arc::clone(&route.signature),
            id: decoded.id.as_deref().map(Box::from),
            wanted,
        };
        Ok((request, form))
    }

    fn happened(&mut self, happened: Happened) {
        self.last_active = Instant::now();
        match happened {
            Happened::Finished(finished) => {
                // Parts that came before the outcome go out before it.
                while let Ok(part) = self.parts.1.try_recv() {
                    self.part(&part);
                }
                if let Some(id) = &finished.form.id {
                    self.cancels.remove(id);
                }
                self.in_flight_bytes -= finished.bytes;
                self.finish(&finished);
            }
            Happened::Resumed(id, token, last, resumed) => {
                let events = self.resuming.remove(&id).unwrap_or_default();
                self.resumed(&id, token, last, resumed);
                for (stamp, event) in events {
                    self.sequence_event(&id, stamp, event);
                }
            }
        }
    }

    fn send(&mut self, form: &AnswerForm, kind: MessageKind<'_>, outputs: &[Tensor]) -> Result<(), InferError> {
        let Encoded { header_length, parts } = encode_in(form, kind, outputs)?;
        let bytes: usize = parts.iter().map(Bytes::len).sum();
        // One large answer narrows the window for a while, not for good.
        let before = self.largest_answer.unwrap_or(0);
        self.largest_answer = Some(bytes.max(before - before / 8));
        match header_length {
            None => parts.iter().for_each(|text| self.socket.send_text(text)),
            Some(length) => {
                // The JSON is ours: names and numbers, not four gigabytes of them.
                let length = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
                let length = Bytes::copy_from_slice(&length);
                self.socket.send_binary(std::iter::once(length).chain(parts));
            }
        }
        Ok(())
    }
}
