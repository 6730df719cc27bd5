//! A replica on another node, as routers see it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use grid_client::replica::{AttemptEnd, Message, Next, Replica};
use grid_core::InferError;
use grid_core::cluster::{Digest, NodeName};
use grid_core::dispatch::retry::Miss;
use grid_core::model::ModelId;

use super::peers::{Peer, Peers};
use super::start;
use crate::compute::{Answer, Outcome, Request, Timing};

/// A replica on another node.
pub struct Remote {
    peers: Peers,
    peer: Arc<Peer>,
    replica: Arc<Replica>,
}

/// How a request that was sent to another node ends.
pub(crate) enum RemoteOutcome {
    /// For good.
    Ended(Outcome),
    /// It may be sent elsewhere.
    Missed {
        /// How.
        miss: Miss,
        /// What to tell whoever asked, if it is not sent elsewhere.
        error: InferError,
        /// Who hosts the model, as the node says that does not any more.
        hint: Vec<NodeName>,
    },
}

/// A request that was sent to another node. Dropping it cancels the request.
pub(crate) type RemoteAnswer = Pin<Box<dyn Future<Output = RemoteOutcome> + Send>>;

impl Remote {
    pub(crate) fn new(model: ModelId, interface: Digest, peers: Peers, peer: Arc<Peer>) -> Self {
        let replica = Arc::new(Replica::new(model, interface, peer.id.name.clone(), start()));
        Self { peers, peer, replica }
    }

    /// The replica of another node, of which this one has said that it is there and the route table does not know yet. Nothing is
    /// measured of it; `None` where this node knows no such node.
    pub(crate) fn sibling(&self, node: &NodeName) -> Option<Arc<Self>> {
        let peer = self.peers.get(node)?;
        let (model, interface) = (self.replica.model().clone(), *self.replica.interface());
        Some(Arc::new(Self::new(model, interface, self.peers.clone(), peer)))
    }

    /// Where it is.
    pub fn node(&self) -> &NodeName {
        self.replica.node()
    }

    pub(crate) fn is_of(&self, interface: &Digest, peer: &Arc<Peer>) -> bool {
        self.replica.interface() == interface && Arc::ptr_eq(&self.peer, peer)
    }

    /// What one request takes of one of its instances, as far as is known.
    pub(crate) fn service(&self) -> Option<Duration> {
        self.replica.service()
    }

    /// Time until one more request would be answered, in nanoseconds; the highest number when its node cannot be reached.
    pub(crate) fn cost(&self, unknown: Duration) -> u64 {
        match self.peer.is_linked() {
            true => self.replica.cost(unknown),
            false => u64::MAX,
        }
    }

    /// Requests of this node that it has.
    pub(crate) fn in_flight(&self) -> usize {
        self.replica.in_flight()
    }

    /// Sends a request; it is under way when this returns.
    pub(crate) fn infer(self: &Arc<Self>, request: &Request) -> RemoteAnswer {
        let Some(link) = self.peer.link() else {
            return Box::pin(std::future::ready(outcome(self.replica.unreachable())));
        };
        let message = Message {
            inputs: &request.inputs,
            priority: request.entry.priority,
            parts: request.partial.is_some(),
            remaining: request.deadline.saturating_duration_since(Instant::now()),
        };
        let mut under_way = self.replica.send(&link, message);
        let partial = request.partial.clone();
        Box::pin(async move {
            loop {
                match under_way.next().await {
                    Next::Part(outputs) => {
                        // A reader that has gone, or is too slow, is found at the last answer.
                        if let Some(partial) = &partial {
                            let _ = partial.send(outputs.into()).await;
                        }
                    }
                    Next::End(end) => return outcome(end),
                }
            }
        })
    }
}

fn outcome(end: AttemptEnd) -> RemoteOutcome {
    match end {
        AttemptEnd::Ended(outcome) => RemoteOutcome::Ended(outcome.map(|answered| Answer {
            outputs: answered.outputs.into(),
            timing: Timing {
                queued: Duration::from_micros(answered.times.queued),
                computed: Duration::from_micros(answered.times.computed),
                rows: usize::try_from(answered.times.rows).unwrap_or(usize::MAX),
            },
        })),
        AttemptEnd::Missed { miss, error, not_owner } => RemoteOutcome::Missed {
            miss,
            error,
            hint: not_owner.unwrap_or_default(),
        },
    }
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Remote({} on {})", self.replica.model(), self.peer.id)
    }
}
