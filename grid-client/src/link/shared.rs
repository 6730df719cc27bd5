//! What the handles of a link and its driver share.
//!
//! Two locks: the outbox's, then the book's, in that order and never the other way round. No user code runs under either.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use grid_core::wire::credit::{Grant, Ledger};
use grid_core::wire::frame::{Header, Kind, ResetCode};
use grid_core::wire::handshake::Hello;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::error::{Closed, ExchangeError};
use super::exchange::{Exchange, Inbox};
use super::options::Limits;
use super::outbox::{OutMessage, Outbox};

/// What is expected of the other end.
pub(super) struct Book {
    pub(super) ledger: Ledger,
    /// Exchanges opened here that have not ended.
    pub(super) calls: BTreeMap<u64, Arc<Inbox>>,
    /// Those of them that ended here: what was put together of their answers is to be dropped.
    pub(super) abandoned: Vec<u64>,
}

pub(super) struct Shared {
    pub(super) out: Mutex<Outbox>,
    pub(super) book: Mutex<Book>,
    pub(super) limits: Limits,
    pub(super) peer: Hello,
    started: Instant,
    /// Nanoseconds since `started`.
    last_heard: AtomicU64,
    /// Nanoseconds; 0 until the first pong.
    round_trip: AtomicU64,
    closed: OnceLock<Closed>,
    has_closed: Notify,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("peer", &self.peer.peer)
            .field("closed", &self.closed.get())
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(outbox: Outbox, peer: Hello, limits: Limits) -> Self {
        Self {
            out: Mutex::new(outbox),
            book: Mutex::new(Book {
                ledger: Ledger::new(limits.assembly_budget),
                calls: BTreeMap::new(),
                abandoned: Vec::new(),
            }),
            limits,
            peer,
            started: Instant::now(),
            last_heard: AtomicU64::new(0),
            round_trip: AtomicU64::new(0),
            closed: OnceLock::new(),
            has_closed: Notify::new(),
        }
    }

    pub(super) fn heard(&self, now: Instant) {
        let nanos = now.saturating_duration_since(self.started).as_nanos();
        self.last_heard.store(nanos as u64, Ordering::Relaxed);
    }

    pub(super) fn last_heard(&self) -> Instant {
        self.started + Duration::from_nanos(self.last_heard.load(Ordering::Relaxed))
    }

    pub(super) fn set_round_trip(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1);
        self.round_trip.store(nanos, Ordering::Relaxed);
    }

    pub(super) fn round_trip(&self) -> Option<Duration> {
        match self.round_trip.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    pub(super) fn closed(&self) -> Option<&Closed> {
        self.closed.get()
    }

    pub(super) async fn until_closed(&self) -> Closed {
        loop {
            let closed = self.has_closed.notified();
            if let Some(reason) = self.closed.get() {
                return reason.clone();
            }
            closed.await;
        }
    }

    /// Queues something, and writes what the connection takes.
    pub(super) fn write<T>(&self, queue: impl FnOnce(&mut Outbox) -> T) -> T {
        let mut outbox = self.out.lock();
        let queued = queue(&mut outbox);
        let written = if outbox.is_open() { outbox.pump() } else { Ok(()) };
        drop(outbox);
        if let Err(error) = written {
            self.close(Closed::Io(error.to_string()), None);
        }
        queued
    }

    /// Closes the link if the peer broke a rule.
    pub(super) fn check(&self, kept: Result<(), &'static str>) {
        if let Err(broken) = kept {
            self.violation(broken.to_owned());
        }
    }

    pub(super) fn violation(&self, broken: String) {
        tracing::warn!(peer = %self.peer.peer, "the peer broke the mesh protocol: {broken}");
        let told = format!("protocol broken: {broken}");
        self.close(Closed::Violation(broken), Some(&told));
    }

    /// Ends the link and every exchange on it. The first reason counts.
    pub(super) fn close(&self, reason: Closed, farewell: Option<&str>) {
        let mut outbox = self.out.lock();
        if !outbox.is_open() {
            return;
        }
        // Before anybody can see that it is not open.
        let reason = self.closed.get_or_init(|| reason).clone();
        let remains = outbox.close(farewell);
        let calls = std::mem::take(&mut self.book.lock().calls);
        drop(outbox);
        for (exchange, inbox) in calls {
            inbox.fail(match remains.sent.binary_search(&exchange) {
                Ok(_) => ExchangeError::Lost(reason.clone()),
                Err(_) => ExchangeError::NotSent(reason.clone()),
            });
        }
        self.has_closed.notify_waiters();
    }

    pub(super) fn call(self: &Arc<Self>, message: OutMessage) -> Exchange {
        let inbox = Arc::new(Inbox::default());
        let opened = self.write(|outbox| {
            if let Some(reason) = self.closed.get() {
                return Err(ExchangeError::NotSent(reason.clone()));
            }
            if outbox.is_going_away() {
                return Err(ExchangeError::GoingAway);
            }
            let queued = outbox.queued();
            if queued > 0 && queued + message.left() > self.limits.max_queued {
                return Err(ExchangeError::Overloaded { queued });
            }
            let exchange = outbox.open(message);
            let mut book = self.book.lock();
            book.calls.insert(exchange, Arc::clone(&inbox));
            book.ledger.open(exchange);
            Ok(exchange)
        });
        match opened {
            Ok(exchange) => Exchange::new(Arc::clone(self), exchange, inbox),
            Err(error) => Exchange::failed(error),
        }
    }

    /// Sends grants as credit.
    pub(super) fn grant(&self, grants: Vec<Grant>) {
        if grants.is_empty() {
            return;
        }
        let flooded = self.write(|outbox| {
            grants.into_iter().try_for_each(|grant| {
                outbox.control(Header {
                    argument: grant.bytes,
                    ..Header::new(Kind::Credit, grant.exchange)
                })
            })
        });
        self.check(flooded);
    }

    pub(super) fn consumed(&self, exchange: u64, cost: u64) {
        let mut book = self.book.lock();
        book.ledger.consumed(exchange, cost);
        let grants = book.ledger.take_grants();
        drop(book);
        self.grant(grants);
    }

    /// Forgets an exchange that was opened here; its inbox, unless it had ended.
    pub(super) fn finish(&self, exchange: u64) -> Option<Arc<Inbox>> {
        let mut book = self.book.lock();
        let inbox = book.calls.remove(&exchange);
        book.ledger.close(exchange);
        let grants = book.ledger.take_grants();
        drop(book);
        self.grant(grants);
        inbox
    }

    /// Ends an exchange that was opened here, whose answer nobody wants.
    pub(super) fn cancel(&self, exchange: u64) {
        if self.finish(exchange).is_none() {
            return;
        }
        self.book.lock().abandoned.push(exchange);
        let flooded = self.write(|outbox| {
            let kept = match outbox.remove(exchange) {
                true => outbox.control(Header::new(Kind::Cancel, exchange)),
                false => Ok(()),
            };
            // It drops what it has of the answer, and sees whether this was the last thing to finish.
            outbox.wake_driver();
            kept
        });
        self.check(flooded);
    }

    /// Tells the other end that an exchange it opened will not be answered.
    pub(super) fn reset(&self, exchange: u64, code: ResetCode) {
        let flooded = self.write(|outbox| outbox.reset(exchange, code));
        self.check(flooded);
    }
}
