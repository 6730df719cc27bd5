//! Sequences that the connection reads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use grid_core::InferError;
use grid_core::sequence::{SequenceError, SequenceId, Token};

use super::Conversation;
use crate::actors::{
    Attachment, Resumed, SequenceEvent, SequenceMessage, SequenceOrder, Stamp, StepOutcome, Ticket, Told,
};
use crate::gateway::inference::{order, place};
use crate::gateway::rest::codec::{DecodedRequest, MessageKind};
use crate::gateway::websocket::protocol::{ErrorPlace, ServerMessage, Window};
use crate::standing::Accepted;
use crate::telemetry::ModelMetrics;

/// A sequence that this connection reads.
pub(super) struct Attached {
    pub(super) attachment: Attachment,
    /// Messages that this connection sent and that nothing was heard of yet.
    offers: BTreeMap<Ticket, Offered>,
    /// The last number that an outcome was told of.
    told: u64,
    /// The last number that was taken before this connection came, and has an outcome to come.
    awaited: u64,
}

/// A sequence that ended on this connection.
pub(super) struct EndedSequence {
    token: Token,
    pub(super) last: u64,
}

/// Ended sequences that one connection remembers. A client that ends more than this and then says it again is told that
/// there is none of that name.
const MOST_ENDED: usize = 1024;

struct Offered {
    number: Option<u64>,
    id: Option<Box<str>>,
    bytes: usize,
    arrived: Instant,
    metrics: Arc<ModelMetrics>,
    _accepted: Accepted,
}

impl Attached {
    /// Outcomes that are to come.
    fn unanswered(&self) -> usize {
        let awaited = self.awaited.saturating_sub(self.told);
        self.offers.len() + usize::try_from(awaited).unwrap_or(usize::MAX)
    }
}

impl Conversation {
    /// Does something with a sequence that this connection reads, or says that it reads none of that name.
    pub(super) fn with(&self, id: &SequenceId, act: impl FnOnce(&Attached)) {
        match self.sequences.get(id) {
            Some(attached) => act(attached),
            None => self.refuse(None, &of_sequence(id, SequenceError::Unknown), Some(unnumbered(id))),
        }
    }

    /// Puts a sequence among those that are read, instead of an earlier one of its name.
    fn attach(&mut self, attachment: Attachment, last: u64, next: u64) {
        let id = attachment.id.clone();
        self.leave(&id, &SequenceError::Fenced);
        let attached = Attached {
            attachment,
            offers: BTreeMap::new(),
            told: last,
            awaited: next - 1,
        };
        self.unanswered += attached.unanswered();
        self.sequences.insert(id, attached);
    }

    /// Begins a sequence. An error comes with its id.
    pub(super) fn start(&mut self, id: Option<SequenceId>) -> Result<SequenceId, (InferError, SequenceId)> {
        let id = id.unwrap_or_else(|| SequenceId::from(rand::random::<u64>()));
        let shared = Arc::clone(&self.worker.shared);
        let started = self.has_place_for_a_sequence().and_then(|()| {
            let route = self.route()?;
            let attachment = shared.sessions.start(&self.worker.router, &route, &id, self.reader())?;
            Ok((shared.sessions.life(&route), attachment))
        });
        let (life, attachment) = started.map_err(|error| (error, id.clone()))?;
        let limits = shared.sessions.limits();
        self.say(&ServerMessage::Started {
            sequence_id: id.as_str(),
            sequence_token: attachment.token.to_string(),
            window: Window {
                messages: limits.window,
                bytes: limits.window_bytes,
            },
            resume_within_ms: life.as_millis(),
        });
        self.attach(attachment, 0, 1);
        Ok(id)
    }

    /// Offers a message to its sequence.
    pub(super) fn offer(&mut self, decoded: &DecodedRequest<'_>) {
        let parameters = &decoded.parameters;
        let order = order(parameters);
        let request_id = decoded.id.as_deref();
        let at = |sequence| {
            Some(ErrorPlace {
                sequence,
                number: order.number,
                is_outcome: Some(false),
            })
        };
        let id = match (&parameters.sequence_id, order.start) {
            (id, true) => match self.start(id.clone()) {
                Ok(id) => id,
                Err((error, id)) => return self.refuse(request_id, &error, at(&id)),
            },
            (Some(id), false) => id.clone(),
            (None, false) => return,
        };
        if !self.sequences.contains_key(&id) {
            let again = match self.ended.get(&id) {
                None => Err(of_sequence(&id, SequenceError::Unknown)),
                Some(ended) => {
                    let token = Some(ended.token);
                    let order = SequenceOrder { token, ..order };
                    self.worker.shared.sessions.told_again(&self.model, &id, order)
                }
            };
            return match again {
                Ok(told) => self.tell(&id, &told),
                Err(error) => self.refuse(request_id, &error, at(&id)),
            };
        }
        let arrived = Instant::now();
        let shared = &self.worker.shared;
        let names_version = self.version.is_some();
        let message = self
            .route()
            .and_then(|route| {
                shared
                    .sessions
                    .route(&shared.routes, route, &id, names_version, order.start)
            })
            .and_then(|route| {
                let (request, form) = self.checked(&route, decoded, arrived)?;
                Ok(SequenceMessage { request, route, form })
            });
        let message = match message {
            Ok(message) => message,
            Err(error) => return self.refuse(request_id, &error, at(&id)),
        };
        let offered = Offered {
            number: order.number,
            id: message.form.id.clone(),
            bytes: message.request.bytes(),
            arrived,
            metrics: Arc::clone(&message.route.metrics),
            _accepted: shared.standing.accept(),
        };
        if let Some(attached) = self.sequences.get_mut(&id) {
            self.last_ticket += 1;
            self.unanswered += 1;
            self.in_flight_bytes += offered.bytes;
            attached.offers.insert(self.last_ticket, offered);
            let ticket = self.last_ticket;
            attached.attachment.offer(ticket, order.number, order.end, message);
        }
    }

    /// The answer to a resume.
    pub(super) fn resumed(&mut self, id: &SequenceId, token: Token, last: u64, resumed: Result<Resumed, InferError>) {
        match resumed {
            Err(error) => {
                let mut place = unnumbered(id);
                if let InferError::Sequence {
                    error: SequenceError::Ahead { last },
                    ..
                } = &error
                {
                    // From where it can be resumed: another node may lack what was not durable.
                    place.number = Some(*last);
                }
                self.refuse(None, &error, Some(place));
            }
            Ok(Resumed::Live {
                next,
                durable,
                attachment,
            }) => {
                self.say(&ServerMessage::Resumed {
                    sequence_id: id.as_str(),
                    next,
                    sequence_durable: durable,
                });
                self.attach(attachment, last, next);
            }
            Ok(Resumed::Over { last: end, told }) => {
                self.say(&ServerMessage::Resumed {
                    sequence_id: id.as_str(),
                    next: end + 1,
                    sequence_durable: end,
                });
                for told in told {
                    self.tell(id, &told);
                }
                self.leave(id, &SequenceError::Ended { last: end });
                self.remember(id, EndedSequence { token, last: end });
                self.say(&ServerMessage::Ended {
                    sequence_id: id.as_str(),
                    last: end,
                });
            }
        }
    }

    pub(super) fn sequence_event(&mut self, id: &SequenceId, stamp: Stamp, event: SequenceEvent) {
        self.last_active = Instant::now();
        if let Some(events) = self.resuming.get_mut(id) {
            return events.push((stamp, event));
        }
        let is_ours = |attached: &Attached| attached.attachment.stamp == stamp;
        if !self.sequences.get(id).is_some_and(is_ours) {
            return;
        }
        match event {
            SequenceEvent::Told { ticket, told } => {
                if let Some(offered) = self.heard(id, ticket, |attached| attached.told = attached.told.max(told.number))
                {
                    offered.metrics.request.record(offered.arrived.elapsed());
                    match &told.outcome.result {
                        Ok(_) => offered.metrics.succeeded.increment(1),
                        Err(error) => offered.metrics.failed(error),
                    }
                }
                self.tell(id, &told);
            }
            SequenceEvent::Refused { ticket, number, error } => {
                let rewind = |attached: &mut Attached| {
                    // What was taken before this connection came has come back.
                    if let (None, Some(number)) = (ticket, number) {
                        attached.awaited = attached.awaited.min(number - 1);
                    }
                };
                let offered = self.heard(id, ticket, rewind);
                if let Some(offered) = &offered {
                    offered.metrics.failed(&error);
                }
                let place = ErrorPlace {
                    sequence: id,
                    number,
                    is_outcome: Some(false),
                };
                let request = offered.and_then(|offered| offered.id);
                self.refuse(request.as_deref(), &error, Some(place));
            }
            SequenceEvent::Fenced => {
                self.say(&ServerMessage::Fenced {
                    sequence_id: id.as_str(),
                });
                self.leave(id, &SequenceError::Fenced);
            }
            SequenceEvent::Ended { last } => {
                let token = self.sequences.get(id).map(|attached| attached.attachment.token);
                self.leave(id, &SequenceError::Ended { last });
                if let Some(token) = token {
                    self.remember(id, EndedSequence { token, last });
                }
                self.say(&ServerMessage::Ended {
                    sequence_id: id.as_str(),
                    last,
                });
            }
            SequenceEvent::Durable { number } => self.say(&ServerMessage::Durable {
                sequence_id: id.as_str(),
                sequence_durable: number,
            }),
            SequenceEvent::Moved => {
                self.leave(id, &SequenceError::Fenced);
                self.say(&ServerMessage::Moved {
                    sequence_id: id.as_str(),
                });
            }
            SequenceEvent::Lost => {
                self.leave(id, &SequenceError::Unknown);
                self.refuse(None, &of_sequence(id, SequenceError::Unknown), Some(unnumbered(id)));
            }
        }
    }

    fn remember(&mut self, id: &SequenceId, ended: EndedSequence) {
        if self.ended.len() >= MOST_ENDED {
            self.ended.clear();
        }
        self.ended.insert(id.clone(), ended);
    }

    /// Something was heard of a message, and it does not wait any more.
    fn heard(
        &mut self,
        id: &SequenceId,
        ticket: Option<Ticket>,
        change: impl FnOnce(&mut Attached),
    ) -> Option<Offered> {
        let attached = self.sequences.get_mut(id)?;
        let before = attached.unanswered();
        change(attached);
        let offered = ticket.and_then(|ticket| attached.offers.remove(&ticket));
        self.unanswered = self.unanswered - before + attached.unanswered();
        self.in_flight_bytes -= offered.as_ref().map_or(0, |offered| offered.bytes);
        offered
    }

    /// Reads a sequence no longer. What it was sent and has not said anything of is refused.
    fn leave(&mut self, id: &SequenceId, why: &SequenceError) {
        let Some(attached) = self.sequences.remove(id) else {
            return;
        };
        self.unanswered -= attached.unanswered();
        let error = of_sequence(id, *why);
        // A message may have been taken that another reader will be told of.
        let is_outcome = (*why != SequenceError::Fenced).then_some(false);
        for offered in attached.offers.values() {
            self.in_flight_bytes -= offered.bytes;
            let place = ErrorPlace {
                sequence: id,
                number: offered.number,
                is_outcome,
            };
            offered.metrics.failed(&error);
            self.refuse(offered.id.as_deref(), &error, Some(place));
        }
    }

    fn tell(&mut self, id: &SequenceId, told: &Told) {
        let StepOutcome { form, result, .. } = &*told.outcome;
        let kind = MessageKind::WebSocket {
            number: 1,
            is_final: true,
            place: Some(place(told, id)),
        };
        let sent = match result {
            Ok(answer) => self.send(form, kind, &answer.outputs),
            Err(error) => Err(error.clone()),
        };
        if let Err(error) = sent {
            let place = ErrorPlace {
                sequence: id,
                number: Some(told.number),
                is_outcome: Some(true),
            };
            self.refuse(form.id.as_deref(), &error, Some(place));
        }
    }
}

fn of_sequence(id: &SequenceId, error: SequenceError) -> InferError {
    InferError::Sequence { id: id.clone(), error }
}

pub(super) fn unnumbered(sequence: &SequenceId) -> ErrorPlace<'_> {
    ErrorPlace {
        sequence,
        number: None,
        is_outcome: None,
    }
}
