//! A replica on another node: one attempt of a request there, and what it says of the replica.
//!
//! Nodes and client libraries send requests to replicas in the same way, by the same rules, and so through this one place.
//! It decides how one attempt ended; who is tried next is decided by whoever has the request.

use std::sync::Arc;
use std::time::Duration;

use grid_core::InferError;
use grid_core::batching::DEFAULT_PRIORITY;
use grid_core::cluster::{Digest, NodeName};
use grid_core::dispatch::remote::{RemoteReplica, Report};
use grid_core::dispatch::retry::Miss;
use grid_core::model::ModelId;
use grid_core::tensor::{Buffer, Tensor};
use grid_core::wire::call::{Call, Infer, LoadReport, Reply, Times};
use grid_core::wire::message;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::link::{Exchange, ExchangeError, Incoming, Link};

/// A replica on another node, with what was measured of it.
pub struct Replica {
    model: ModelId,
    interface: Digest,
    node: NodeName,
    /// Times are counted from here.
    start: Instant,
    load: Mutex<RemoteReplica>,
}

/// A request, as replicas take it.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Its inputs, checked, in the order of the signature of the replica's interface.
    pub inputs: &'a [Tensor],
    /// The smaller the sooner; 0 is the default priority.
    pub priority: u32,
    /// Whether outputs are wanted that come before the last.
    pub parts: bool,
    /// The time it has left.
    pub remaining: Duration,
}

/// The answer of a replica.
#[derive(Clone, Debug)]
pub struct Answered {
    /// In the order of the signature.
    pub outputs: Vec<Tensor>,
    /// Where its time went.
    pub times: Times,
}

/// How an attempt ends.
#[derive(Debug)]
pub enum AttemptEnd {
    /// For good.
    Ended(Result<Answered, InferError>),
    /// Without an answer; it may be sent elsewhere, as far as [`Miss`] allows it.
    Missed {
        /// How.
        miss: Miss,
        /// What to tell whoever asked, if it is not sent elsewhere.
        error: InferError,
        /// Who hosts the model, where the node has sent the request away with that word.
        not_owner: Option<Vec<NodeName>>,
    },
}

/// What comes of an attempt.
#[derive(Debug)]
pub enum Next {
    /// Outputs that come before the last.
    Part(Vec<Tensor>),
    /// It is over.
    End(AttemptEnd),
}

impl Replica {
    /// One of which nothing is known yet. `start` is any moment of the past, the same for all replicas that are compared.
    pub fn new(model: ModelId, interface: Digest, node: NodeName, start: Instant) -> Self {
        Self {
            model,
            interface,
            node,
            start,
            load: Mutex::default(),
        }
    }

    /// Where it is.
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// Of which model.
    pub fn model(&self) -> &ModelId {
        &self.model
    }

    /// What requests for it are put in order and checked for.
    pub fn interface(&self) -> &Digest {
        &self.interface
    }

    /// What one request takes of one of its instances, as far as is known.
    pub fn service(&self) -> Option<Duration> {
        self.load.lock().service()
    }

    /// Time until one more request would be answered, in nanoseconds, if its node can be reached.
    pub fn cost(&self, unknown: Duration) -> u64 {
        self.load.lock().cost(self.start.elapsed(), unknown)
    }

    /// Requests from here that it has.
    pub fn in_flight(&self) -> usize {
        self.load.lock().in_flight()
    }

    /// Sends a request over a link to its node. It is under way when this returns.
    pub fn send(self: &Arc<Self>, link: &Link, message: Message<'_>) -> UnderWay {
        let (inputs, _) = message::lay_out(message.inputs);
        let call = Call::Infer(Infer {
            model: self.model.clone(),
            interface: self.interface,
            inputs,
            priority: match message.priority {
                DEFAULT_PRIORITY => 0,
                priority => priority,
            },
            parts: message.parts,
        });
        let body: Vec<Buffer> = message.inputs.iter().map(|tensor| tensor.data().clone()).collect();
        self.load.lock().sent();
        UnderWay {
            sent: Instant::now(),
            exchange: link.ask(&call, body, Some(message.remaining)),
            replica: Arc::clone(self),
            parts: 0,
        }
    }

    /// How a request ends that cannot even be sent, as no link to the node is open.
    pub fn unreachable(&self) -> AttemptEnd {
        self.missed(Miss::NotRun, "no link to it is open")
    }

    fn done(&self, outputs: Vec<Tensor>, times: Times, load: LoadReport, took: Duration) -> AttemptEnd {
        let there = Duration::from_micros(times.queued.saturating_add(times.computed));
        let mut known = self.load.lock();
        known.reports(self.start.elapsed(), report(load));
        known.measured_way(took.saturating_sub(there));
        drop(known);
        AttemptEnd::Ended(Ok(Answered { outputs, times }))
    }

    fn failed(&self, error: InferError, may_have_run: bool, load: LoadReport) -> AttemptEnd {
        let now = self.start.elapsed();
        let mut known = self.load.lock();
        if load.instances > 0 {
            known.reports(now, report(load));
        }
        let (miss, retry_after) = match &error {
            InferError::Overloaded { retry_after, .. } => (Miss::Overloaded, Some(*retry_after)),
            InferError::NotReady { .. } | InferError::ReplicaLost { .. } if may_have_run => (Miss::Lost, None),
            InferError::NotReady { .. } | InferError::ReplicaLost { .. } => (Miss::NotRun, None),
            InferError::ModelFailed { .. } => {
                // It may be the input, and then the next answer takes this back. It may be the replica, and then it would
                // draw all requests to itself: who fails at once seems the quickest.
                known.failed(now, None);
                return AttemptEnd::Ended(Err(error));
            }
            // The caller's doing.
            _ => return AttemptEnd::Ended(Err(error)),
        };
        known.failed(now, retry_after);
        AttemptEnd::Missed {
            miss,
            error,
            not_owner: None,
        }
    }

    fn broke(&self, error: &ExchangeError) -> AttemptEnd {
        // Larger than messages may be is larger than messages may be everywhere.
        if matches!(
            error,
            ExchangeError::RequestTooLarge | ExchangeError::AnswerTooLarge { .. }
        ) {
            return AttemptEnd::Ended(Err(InferError::Invalid(format!(
                "{} is served by node {}, and the request cannot be sent there: {error}",
                self.model, self.node
            ))));
        }
        let miss = if error.proves_not_run() {
            Miss::NotRun
        } else {
            Miss::Lost
        };
        self.missed(miss, &error.to_string())
    }

    fn missed(&self, miss: Miss, reason: &str) -> AttemptEnd {
        self.load.lock().failed(self.start.elapsed(), None);
        AttemptEnd::Missed {
            miss,
            error: InferError::NotReady {
                model: self.model.to_string(),
                reason: format!("node {} was to answer: {reason}", self.node),
            },
            not_owner: None,
        }
    }

    fn sent_away(&self, hint: Vec<NodeName>) -> AttemptEnd {
        match self.missed(Miss::NotRun, "it does not host the model any more") {
            AttemptEnd::Missed { miss, error, .. } => AttemptEnd::Missed {
                miss,
                error,
                not_owner: Some(hint),
            },
            ended => ended,
        }
    }
}

/// A request that a replica has, and that counts as in flight there. Dropped before its end, it is cancelled.
#[derive(Debug)]
pub struct UnderWay {
    replica: Arc<Replica>,
    exchange: Exchange,
    sent: Instant,
    parts: usize,
}

impl UnderWay {
    /// Who has it.
    pub fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    /// What comes next; nothing does after [`Next::End`]. Cancel-safe.
    ///
    /// A request of which parts have come ends for good, however it ends: elsewhere they would come a second time.
    pub async fn next(&mut self) -> Next {
        let replica = &self.replica;
        let end = match self.exchange.next().await {
            Some(Ok(incoming)) => match self.understand(&incoming) {
                Next::Part(outputs) => {
                    self.parts += 1;
                    return Next::Part(outputs);
                }
                Next::End(end) => end,
            },
            Some(Err(error)) => replica.broke(&error),
            None => replica.missed(Miss::Lost, "it ended without its last answer"),
        };
        Next::End(match end {
            AttemptEnd::Missed { error, .. } if self.parts > 0 => AttemptEnd::Ended(Err(error)),
            end => end,
        })
    }

    fn understand(&self, incoming: &Incoming) -> Next {
        let replica = &self.replica;
        let nonsense =
            |error: &dyn std::fmt::Display| replica.missed(Miss::Lost, &format!("its reply makes no sense: {error}"));
        let (reply, body) = match incoming.unpack() {
            Ok(unpacked) => unpacked,
            Err(error) => return Next::End(nonsense(&error)),
        };
        Next::End(match reply {
            Reply::Part { outputs } => match message::tensors(&outputs, &body) {
                Ok(outputs) => return Next::Part(outputs),
                Err(error) => nonsense(&error),
            },
            Reply::Done { outputs, times, load } => match message::tensors(&outputs, &body) {
                Ok(outputs) => replica.done(outputs, times, load, self.sent.elapsed()),
                Err(error) => nonsense(&error),
            },
            Reply::Failed {
                error,
                may_have_run,
                load,
            } => replica.failed(error, may_have_run, load),
            Reply::NotOwner { hint } => replica.sent_away(hint),
            Reply::Refused(reason) => replica.missed(Miss::NotRun, &reason),
            _ => nonsense(&"it is of another kind"),
        })
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.replica.load.lock().ended();
    }
}

fn report(load: LoadReport) -> Report {
    Report {
        in_flight: load.in_flight as usize,
        instances: load.instances as usize,
        service: (load.service_us > 0).then(|| Duration::from_micros(load.service_us.into())),
    }
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Replica({} on {})", self.model, self.node)
    }
}
