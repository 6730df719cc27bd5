//! Requests of their own: answered at once, or in flight.

use std::sync::Arc;
use std::time::Instant;

use actix_web::web;
use futures_util::future::{AbortHandle, Abortable};
use grid_core::InferError;
use tokio::sync::mpsc;
use tracing::debug;

use super::{Conversation, Happened};
use crate::actors::{AnswerForm, MAX_REQUEST_ID, VersionRoute, pick};
use crate::bodies::Held;
use crate::compute::{Outcome, Request};
use crate::gateway::Worker;
use crate::gateway::rest::codec::{DecodedRequest, MessageKind};
use crate::runtime::Outputs;
use crate::standing::Accepted;

/// Outputs before the last that may wait for the conversation, of one request.
pub(super) const PARTS: usize = 64;
/// Outputs of a request before its last ones.
pub(super) struct Part {
    pub(super) form: Arc<AnswerForm>,
    pub(super) number: u64,
    pub(super) outputs: Outputs,
}

/// A request has come to its end.
pub(super) struct Finished {
    pub(super) form: Arc<AnswerForm>,
    pub(super) route: Arc<VersionRoute>,
    pub(super) outcome: Outcome,
    /// Outputs that came before the last.
    pub(super) parts: u64,
    pub(super) bytes: usize,
    pub(super) arrived: Instant,
    pub(super) _accepted: Accepted,
    pub(super) _held: Option<Held>,
}

impl Conversation {
    /// Answers a request, or puts it in flight.
    pub(super) fn request(&mut self, decoded: &DecodedRequest<'_>, held: Held) -> Result<(), InferError> {
        let id = match decoded.id.as_deref() {
            Some(id) if !id.is_empty() && id.len() <= MAX_REQUEST_ID => id,
            _ => {
                let expected = "a string of 1 to 256 bytes, by which the answer is known";
                return Err(InferError::Invalid(format!("`id`: expected {expected}")));
            }
        };
        if self.cancels.contains_key(id) {
            return Err(InferError::Invalid(format!(
                "`id`: a request with the id `{id}` is in flight; this one is not taken"
            )));
        }
        let route = self.route()?;
        if !route.may_serve() {
            return Err(route.not_ready());
        }
        let arrived = Instant::now();
        let (mut request, form) = self.checked(&route, decoded, arrived)?;
        let accepted = self.worker.shared.standing.accept();
        if let Some(outcome) = self.worker.router.try_now(&route, &mut request) {
            self.finish(&Finished {
                form: Arc::new(form),
                route,
                outcome,
                parts: 0,
                bytes: 0,
                arrived,
                _accepted: accepted,
                _held: None,
            });
            return Ok(());
        }
        let bytes = request.bytes();
        self.in_flight_bytes += bytes;
        let (handle, registration) = AbortHandle::new_pair();
        self.cancels.insert(id.into(), handle);
        let form = Arc::new(form);
        let work = Queued {
            worker: self.worker.clone(),
            parts: self.parts.0.clone(),
            form: Arc::clone(&form),
            route: Arc::clone(&route),
            request,
        };
        self.in_flight.push(Box::pin(async move {
            let (outcome, parts) = match Abortable::new(work.run(), registration).await {
                Ok(finished) => finished,
                Err(_) => (Err(InferError::Cancelled), 0),
            };
            Happened::Finished(Finished {
                form,
                route,
                outcome,
                parts,
                bytes,
                arrived,
                _accepted: accepted,
                _held: Some(held),
            })
        }));
        Ok(())
    }

    pub(super) fn finish(&mut self, finished: &Finished) {
        let metrics = &finished.route.metrics;
        metrics.request.record(finished.arrived.elapsed());
        let sent = match &finished.outcome {
            Ok(answer) => {
                let outputs = pick(&finished.form.wanted, &answer.outputs);
                let kind = MessageKind::WebSocket {
                    number: finished.parts + 1,
                    is_final: true,
                    place: None,
                };
                self.send(&finished.form, kind, &outputs)
            }
            Err(error) => Err(error.clone()),
        };
        match sent {
            Ok(()) => metrics.succeeded.increment(1),
            Err(error) => {
                metrics.failed(&error);
                self.refuse(finished.form.id.as_deref(), &error, None);
            }
        }
    }

    pub(super) fn part(&mut self, part: &Part) {
        let kind = MessageKind::WebSocket {
            number: part.number,
            is_final: false,
            place: None,
        };
        if let Err(error) = self.send(&part.form, kind, &pick(&part.form.wanted, &part.outputs)) {
            debug!(%error, "outputs before the last could not be written");
        }
    }
}

/// A request on its way through the router.
struct Queued {
    worker: web::Data<Worker>,
    parts: mpsc::Sender<Part>,
    form: Arc<AnswerForm>,
    route: Arc<VersionRoute>,
    request: Request,
}

impl Queued {
    /// The outcome, and how many outputs came before it.
    async fn run(mut self) -> (Outcome, u64) {
        // Only a model of several steps has outputs before its last, and a channel costs as much as a small run.
        if !self.route.in_parts {
            return (self.worker.router.dispatch_queued(&self.route, self.request).await, 0);
        }
        let (partial, mut outputs) = mpsc::channel(PARTS);
        self.request.partial = Some(partial);
        let dispatched = self.worker.router.dispatch_queued(&self.route, self.request);
        tokio::pin!(dispatched);
        let mut number = 0;
        let outcome = loop {
            tokio::select! {
                biased;
                Some(outputs) = outputs.recv() => pass_on(&self.parts, &self.form, &mut number, outputs).await,
                outcome = &mut dispatched => break outcome,
            }
        };
        while let Ok(outputs) = outputs.try_recv() {
            pass_on(&self.parts, &self.form, &mut number, outputs).await;
        }
        (outcome, number)
    }
}

async fn pass_on(parts: &mpsc::Sender<Part>, form: &Arc<AnswerForm>, number: &mut u64, outputs: Outputs) {
    *number += 1;
    let part = Part {
        form: Arc::clone(form),
        number: *number,
        outputs,
    };
    // The conversation that receives outlives its requests.
    let _ = parts.send(part).await;
}
