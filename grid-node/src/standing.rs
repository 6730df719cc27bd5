//! Where a node stands between start and end, and how many requests it has accepted: what its gateways and its drain share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Where a node stands between start and end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The models that are loaded at start are not all loaded.
    Starting,
    /// It serves.
    Serving,
    /// It serves, and others take over what it hosts.
    Leaving,
    /// It finishes what it accepted.
    Draining,
}

/// What all parts of a node share of its standing.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    stage: AtomicU8,
    entered: Notify,
    requests: AtomicUsize,
}

impl Standing {
    /// The present stage.
    pub(crate) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            0 => Stage::Starting,
            1 => Stage::Serving,
            2 => Stage::Leaving,
            _ => Stage::Draining,
        }
    }

    pub(crate) fn enter(&self, stage: Stage) {
        // A node that drains does not go back: its first load may end after the signal came.
        self.stage.fetch_max(stage as u8, Ordering::AcqRel);
        self.entered.notify_waiters();
    }

    /// Waits until the node drains.
    pub(crate) async fn draining(&self) {
        loop {
            let entered = self.entered.notified();
            if self.stage() == Stage::Draining {
                return;
            }
            entered.await;
        }
    }

    /// Counts a request as accepted until the guard is dropped.
    pub(crate) fn accept(self: &Arc<Self>) -> Accepted {
        self.requests.fetch_add(1, Ordering::Relaxed);
        Accepted(Arc::clone(self))
    }

    /// Requests accepted and unanswered.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::Acquire)
    }
}

/// An accepted request.
#[derive(Debug)]
pub(crate) struct Accepted(Arc<Standing>);

impl Drop for Accepted {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Release);
    }
}
