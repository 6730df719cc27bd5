//! The answering side of an exchange.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use grid_core::tensor::Buffer;
use grid_core::wire::frame::ResetCode;
use tokio::sync::Notify;

use super::error::ReplyError;
use super::exchange::Incoming;
use super::outbox::OutMessage;
use super::piece::Pieces;
use super::shared::Shared;

/// Answers what the other end of a link asks.
pub trait Service {
    /// Takes a request, whole. Called on the task that reads the link: an answer that is quickly there is best sent before it
    /// returns, which saves a switch of tasks; what takes longer than some microseconds holds up the link and belongs
    /// elsewhere, with the `reply`.
    fn call(&self, incoming: Incoming, reply: Reply);
}

impl<F: Fn(Incoming, Reply)> Service for F {
    fn call(&self, incoming: Incoming, reply: Reply) {
        self(incoming, reply);
    }
}

/// A service that refuses every request: for an end that only asks.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoService;

impl Service for NoService {
    fn call(&self, _: Incoming, reply: Reply) {
        reply.refuse(ResetCode::NotServed);
    }
}

/// What is known of an exchange that the other end opened.
#[derive(Debug, Default)]
pub(super) struct Served {
    is_cancelled: AtomicBool,
    /// Told when it is cancelled, and when answers have been handed to the connection.
    changed: Notify,
}

impl Served {
    pub(super) fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    pub(super) fn made_room(&self) {
        self.changed.notify_waiters();
    }
}

/// The way back to whoever asked. Dropped before the last answer was sent, it tells the opener that the request was lost.
pub struct Reply {
    shared: Arc<Shared>,
    exchange: u64,
    served: Arc<Served>,
    is_over: bool,
}

impl Reply {
    pub(super) fn new(shared: Arc<Shared>, exchange: u64, served: Arc<Served>) -> Self {
        Self {
            shared,
            exchange,
            served,
            is_over: false,
        }
    }

    /// Sends an answer: a head of at most 64 KiB, and a body of these parts, each but the empty ones from a multiple of 64 bytes
    /// on. `last` says that no other follows.
    ///
    /// What can be written at once is written before it returns; it never waits.
    ///
    /// # Errors
    /// When it was not sent. The exchange is as it was.
    pub fn send(&mut self, head: Vec<u8>, body: Vec<Buffer>, last: bool) -> Result<(), ReplyError> {
        if self.is_over {
            return Err(ReplyError::Over);
        }
        let limits = &self.shared.limits;
        let body = Pieces::body(body).filter(|body| body.len() <= limits.max_message);
        let message = body.and_then(|body| OutMessage::new(head, body, last, None));
        let message = message.ok_or(ReplyError::TooLarge)?;
        self.shared.write(|outbox| match outbox.queued_of(self.exchange) {
            None => Err(ReplyError::Cancelled),
            Some(queued) if queued > limits.max_queued_answers && !last => Err(ReplyError::Overloaded { queued }),
            Some(_) => {
                outbox.push(self.exchange, message);
                Ok(())
            }
        })?;
        self.is_over = last;
        Ok(())
    }

    /// Tells the opener that the request did not run, and why. With [`ResetCode::Lost`] it may have.
    pub fn refuse(mut self, code: ResetCode) {
        self.reset(code);
    }

    fn reset(&mut self, code: ResetCode) {
        self.is_over = true;
        let flooded = self.shared.write(|outbox| match outbox.queued_of(self.exchange) {
            Some(_) => outbox.reset(self.exchange, code),
            // Nobody waits for it.
            None => Ok(()),
        });
        self.shared.check(flooded);
    }

    /// Whether the opener wants no answer any more, or the link is closed.
    pub fn is_cancelled(&self) -> bool {
        self.served.is_cancelled.load(Ordering::Acquire)
    }

    /// Waits until [`is_cancelled`](Self::is_cancelled). Cancel-safe.
    pub async fn cancelled(&self) {
        self.until(|| self.is_cancelled()).await;
    }

    /// Waits until few enough earlier answers wait that another one is taken, or the exchange is cancelled: so a stream goes no
    /// faster than its consumer. Cancel-safe.
    pub async fn ready(&self) {
        let most = self.shared.limits.max_queued_answers;
        let has_room = || {
            let queued = self.shared.out.lock().queued_of(self.exchange);
            queued.is_none_or(|queued| queued <= most)
        };
        self.until(|| self.is_cancelled() || has_room()).await;
    }

    async fn until(&self, holds: impl Fn() -> bool) {
        loop {
            let changed = self.served.changed.notified();
            if holds() {
                return;
            }
            changed.await;
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.is_over {
            self.reset(ResetCode::Lost);
        }
    }
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reply")
            .field("exchange", &self.exchange)
            .field("is_over", &self.is_over)
            .finish_non_exhaustive()
    }
}
