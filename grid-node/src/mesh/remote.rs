//! A replica on another node, as routers see it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use grid_client::link::ExchangeError;
use grid_core::InferError;
use grid_core::batching::DEFAULT_PRIORITY;
use grid_core::cluster::{Digest, NodeName};
use grid_core::dispatch::remote::{RemoteReplica, Report};
use grid_core::dispatch::retry::Miss;
use grid_core::model::ModelId;
use grid_core::tensor::{Buffer, Tensor};
use grid_core::wire::call::{Call, Infer, LoadReport, Reply, Times};
use grid_core::wire::{codec, message};
use parking_lot::Mutex;

use super::peers::{Peer, decode};
use super::since_start;
use crate::compute::{Answer, Outcome, Request, Timing};

/// A replica on another node.
pub struct Remote {
    model: ModelId,
    interface: Digest,
    peer: Arc<Peer>,
    replica: Mutex<RemoteReplica>,
}

/// How a request that was sent to another node ends.
pub(crate) enum RemoteOutcome {
    /// For good.
    Ended(Outcome),
    /// It may be sent elsewhere.
    Missed(Miss, InferError),
}

/// A request that was sent to another node. Dropping it cancels the request.
pub(crate) type RemoteAnswer = Pin<Box<dyn Future<Output = RemoteOutcome> + Send>>;

impl Remote {
    pub(crate) fn new(model: ModelId, interface: Digest, peer: Arc<Peer>) -> Self {
        Self {
            model,
            interface,
            peer,
            replica: Mutex::default(),
        }
    }

    /// Where it is.
    pub fn node(&self) -> &NodeName {
        &self.peer.id.name
    }

    pub(crate) fn is_of(&self, interface: &Digest, peer: &Arc<Peer>) -> bool {
        self.interface == *interface && Arc::ptr_eq(&self.peer, peer)
    }

    /// What one request takes of one of its instances, as far as is known.
    pub(crate) fn service(&self) -> Option<Duration> {
        self.replica.lock().service()
    }

    /// Time until one more request would be answered, in nanoseconds; the highest number when its node cannot be reached.
    pub(crate) fn cost(&self, unknown: Duration) -> u64 {
        match self.peer.is_linked() {
            true => self.replica.lock().cost(since_start(), unknown),
            false => u64::MAX,
        }
    }

    /// Requests of this node that it has.
    pub(crate) fn in_flight(&self) -> usize {
        self.replica.lock().in_flight()
    }

    /// Sends a request; it is under way when this returns.
    pub(crate) fn infer(self: &Arc<Self>, request: &Request) -> RemoteAnswer {
        let (inputs, _) = message::lay_out(&request.inputs);
        let priority = request.entry.priority;
        let call = Call::Infer(Infer {
            model: self.model.clone(),
            interface: self.interface,
            inputs,
            priority: if priority == DEFAULT_PRIORITY { 0 } else { priority },
            parts: request.partial.is_some(),
        });
        let body: Vec<Buffer> = request.inputs.iter().map(|tensor| tensor.data().clone()).collect();
        let remaining = request.deadline.saturating_duration_since(Instant::now());
        let Some(link) = self.peer.link() else {
            return Box::pin(std::future::ready(self.missed(Miss::NotRun, "no link to it is open")));
        };
        let sent = Instant::now();
        let mut exchange = link.call(codec::encode(&call), body, Some(remaining));
        let under_way = UnderWay::begin(self);
        let partial = request.partial.clone();
        Box::pin(async move {
            let remote = &under_way.0;
            loop {
                let incoming = match exchange.next().await {
                    Some(Ok(incoming)) => incoming,
                    Some(Err(error)) => return remote.broke(&error),
                    None => return remote.missed(Miss::Lost, "it ended without its last answer"),
                };
                let reply = match decode(&incoming) {
                    Ok(reply) => reply,
                    Err(error) => return remote.missed(Miss::Lost, &error.to_string()),
                };
                match reply {
                    Reply::Part { outputs } => {
                        let Ok(outputs) = message::tensors(&outputs, &incoming.body) else {
                            return remote.missed(Miss::Lost, "its tensors make no sense");
                        };
                        // A reader that has gone, or is too slow, is found at the last answer.
                        if let Some(partial) = &partial {
                            let _ = partial.send(outputs.into()).await;
                        }
                    }
                    Reply::Done { outputs, times, load } => {
                        return match message::tensors(&outputs, &incoming.body) {
                            Ok(outputs) => remote.done(outputs, times, load, sent.elapsed()),
                            Err(error) => remote.missed(Miss::Lost, &error.to_string()),
                        };
                    }
                    Reply::Failed {
                        error,
                        may_have_run,
                        load,
                    } => return remote.failed(error, may_have_run, load),
                    Reply::NotOwner { .. } => {
                        return remote.missed(Miss::NotRun, "it does not host the model any more");
                    }
                    Reply::Refused(reason) => return remote.missed(Miss::NotRun, &reason),
                    _ => return remote.missed(Miss::Lost, "its reply is of another kind"),
                }
            }
        })
    }

    fn done(&self, outputs: Vec<Tensor>, times: Times, load: LoadReport, took: Duration) -> RemoteOutcome {
        let timing = Timing {
            queued: Duration::from_micros(times.queued),
            computed: Duration::from_micros(times.computed),
            rows: usize::try_from(times.rows).unwrap_or(usize::MAX),
        };
        let mut replica = self.replica.lock();
        replica.reports(since_start(), report(load));
        replica.measured_way(took.saturating_sub(timing.queued + timing.computed));
        drop(replica);
        RemoteOutcome::Ended(Ok(Answer {
            outputs: outputs.into(),
            timing,
        }))
    }

    fn failed(&self, error: InferError, may_have_run: bool, load: LoadReport) -> RemoteOutcome {
        let now = since_start();
        if load.instances > 0 {
            self.replica.lock().reports(now, report(load));
        }
        let miss = match &error {
            InferError::Overloaded { retry_after, .. } => {
                self.replica.lock().failed(now, Some(*retry_after));
                Miss::Overloaded
            }
            InferError::NotReady { .. } | InferError::ReplicaLost { .. } if may_have_run => Miss::Lost,
            InferError::NotReady { .. } | InferError::ReplicaLost { .. } => Miss::NotRun,
            _ => return RemoteOutcome::Ended(Err(error)),
        };
        if miss != Miss::Overloaded {
            self.replica.lock().failed(now, None);
        }
        RemoteOutcome::Missed(miss, error)
    }

    fn broke(&self, error: &ExchangeError) -> RemoteOutcome {
        // Larger than messages may be is larger than messages may be everywhere.
        if matches!(
            error,
            ExchangeError::RequestTooLarge | ExchangeError::AnswerTooLarge { .. }
        ) {
            return RemoteOutcome::Ended(Err(InferError::Invalid(format!(
                "{} is served by node {}, and the request cannot be sent there: {error}",
                self.model,
                self.node()
            ))));
        }
        let miss = if error.proves_not_run() {
            Miss::NotRun
        } else {
            Miss::Lost
        };
        self.missed(miss, &error.to_string())
    }

    fn missed(&self, miss: Miss, reason: &str) -> RemoteOutcome {
        self.replica.lock().failed(since_start(), None);
        RemoteOutcome::Missed(
            miss,
            InferError::NotReady {
                model: self.model.to_string(),
                reason: format!("node {} was to answer: {reason}", self.node()),
            },
        )
    }
}

fn report(load: LoadReport) -> Report {
    Report {
        in_flight: load.in_flight as usize,
        instances: load.instances as usize,
        service: (load.service_us > 0).then(|| Duration::from_micros(load.service_us.into())),
    }
}

/// Counts a request as sent to a replica until it is dropped.
struct UnderWay(Arc<Remote>);

impl UnderWay {
    fn begin(remote: &Arc<Remote>) -> Self {
        remote.replica.lock().sent();
        Self(Arc::clone(remote))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.replica.lock().ended();
    }
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Remote({} on {})", self.model, self.peer.id)
    }
}
