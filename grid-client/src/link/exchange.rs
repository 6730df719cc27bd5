//! The asking side of an exchange.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use grid_core::tensor::Buffer;
use parking_lot::Mutex;

use super::error::ExchangeError;
use super::shared::Shared;

/// A message from the other end, whole.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// Its head.
    pub head: Bytes,
    /// Its body, which begins on a 64-byte boundary.
    pub body: Buffer,
    /// Of a request: the time it has left, if it has a deadline.
    pub remaining: Option<Duration>,
    /// Whether no further one follows in this exchange.
    pub last: bool,
}

/// What arrived for an exchange and was not taken yet.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    pub(super) state: Mutex<InboxState>,
}

#[derive(Debug, Default)]
pub(super) struct InboxState {
    messages: VecDeque<(Incoming, u64)>,
    error: Option<ExchangeError>,
    /// Nothing more arrives.
    is_over: bool,
    waker: Option<Waker>,
}

impl Inbox {
    /// Adds a message that takes `cost` bytes of the exchange's window.
    pub(super) fn deliver(&self, incoming: Incoming, cost: u64) {
        let mut state = self.state.lock();
        // One that was ended stays ended: what had arrived before may be handed on behind that.
        state.is_over |= incoming.last;
        state.messages.push_back((incoming, cost));
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ends it, unless it has ended.
    pub(super) fn fail(&self, error: ExchangeError) {
        let mut state = self.state.lock();
        if state.is_over {
            return;
        }
        state.is_over = true;
        state.error = Some(error);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A request under way. Dropped before its last answer arrived, it tells the other end to stop.
#[derive(Debug)]
pub struct Exchange {
    /// Absent if it never came to be.
    link: Option<(Arc<Shared>, u64)>,
    inbox: Arc<Inbox>,
}

impl Exchange {
    pub(super) fn new(shared: Arc<Shared>, exchange: u64, inbox: Arc<Inbox>) -> Self {
        Self {
            link: Some((shared, exchange)),
            inbox,
        }
    }

    /// One that failed before anything was sent.
    pub(super) fn failed(error: ExchangeError) -> Self {
        let inbox = Arc::new(Inbox::default());
        inbox.fail(error);
        Self { link: None, inbox }
    }

    /// The next answer; `None` after the last one, or after an error. Cancel-safe.
    ///
    /// # Errors
    /// Once, when no answer comes any more though the last one had not come.
    pub async fn next(&mut self) -> Option<Result<Incoming, ExchangeError>> {
        let (taken, is_over) = poll_fn(|cx| {
            let mut state = self.inbox.state.lock();
            if let Some(message) = state.messages.pop_front() {
                return Poll::Ready((Some(Ok(message)), state.is_over));
            }
            if let Some(error) = state.error.take() {
                return Poll::Ready((Some(Err(error)), true));
            }
            if state.is_over {
                return Poll::Ready((None, true));
            }
            match &mut state.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                waker => *waker = Some(cx.waker().clone()),
            }
            Poll::Pending
        })
        .await;
        match taken? {
            Ok((incoming, cost)) => {
                if let Some((shared, exchange)) = self.link.as_ref().filter(|_| !is_over) {
                    shared.consumed(*exchange, cost);
                }
                Some(Ok(incoming))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some((shared, exchange)) = &self.link
            && !self.inbox.state.lock().is_over
        {
            shared.cancel(*exchange);
        }
    }
}
