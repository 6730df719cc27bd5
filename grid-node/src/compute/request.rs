//! A request on its way through a lane, and its answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use grid_core::InferError;
use grid_core::batching::Entry;
use tokio::sync::{mpsc, oneshot};
use tracing::Span;

use crate::runtime::{Inputs, Outputs};

/// One request to one instance. A clone shares the tensors.
#[derive(Clone, Debug)]
pub struct Request {
    /// Tensors in the order of the signature, checked against it.
    pub inputs: Inputs,
    /// What the queue sorts and stacks by.
    pub entry: Entry,
    /// When the answer is worth nothing any more.
    pub deadline: Instant,
    /// Where outputs go that come before the last, for a caller who wants them as they come. Its bound is how far the
    /// caller may lag behind.
    pub partial: Option<mpsc::Sender<Outputs>>,
    /// The span that the run's span is a child of.
    pub span: Span,
}

impl Request {
    /// Hands outputs on that come before the last.
    pub(super) fn emit(&self, outputs: Outputs) -> Result<(), &'static str> {
        let Some(partial) = &self.partial else { return Ok(()) };
        match partial.try_send(outputs) {
            Ok(()) => Ok(()),
            // The step of all others must not wait for one reader, and outputs must not pile up.
            Err(mpsc::error::TrySendError::Full(_)) => Err("its reader is too slow for the outputs"),
            // Whoever closes this end closes the reply too, and that ends the request.
            Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }

    /// Bytes of all inputs: the size that run times are learned by.
    pub fn bytes(&self) -> usize {
        self.inputs.iter().map(|tensor| tensor.data().len()).sum()
    }
}

/// Where the time of an answered request went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// From its arrival until its run began.
    pub queued: Duration,
    /// Length of its run, shared with those it was stacked with.
    pub computed: Duration,
    /// Rows of the whole run.
    pub rows: usize,
}

/// The outputs of a request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Tensors in the order of the signature.
    pub outputs: Outputs,
    /// Where the time went.
    pub timing: Timing,
}

/// How a request ends.
pub type Outcome = Result<Answer, InferError>;

/// A request that waits in a lane or is resident in its instance.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) request: Request,
    /// Closed when the caller has gone: that is what cancels a job.
    pub(super) reply: oneshot::Sender<Outcome>,
    pub(super) in_flight: InFlight,
    /// When its first step began.
    pub(super) begun: Option<Instant>,
}

impl Job {
    pub(super) fn finish(self, outcome: Outcome) {
        // The count falls before the caller hears of it, so that whoever sees the answer also sees the free place.
        drop(self.in_flight);
        // A caller who has gone meanwhile wants no answer.
        let _ = self.reply.send(outcome);
    }
}

/// Counts a request as accepted and unanswered, until it is dropped.
#[derive(Debug)]
pub(super) struct InFlight(Arc<AtomicUsize>);

impl InFlight {
    pub(super) fn count_in(counter: &Arc<AtomicUsize>) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(counter))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}
