//! The last moments of a connection: what is queued is sent, the peer gets the time to close, and nothing is left hanging.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::web;
use futures_util::Stream;
use tokio::time::{Instant, timeout, timeout_at};

use super::frames::{FrameReader, Incoming};
use super::outbound::Outbound;

/// How long a peer may do nothing: not take bytes, not answer a close frame.
const PATIENCE: Duration = Duration::from_secs(2);
/// A peer that sends nothing for so long after it was refused has no more in flight that would meet a closed connection;
/// such bytes bring a reset, with which the peer loses the reason of the refusal.
const QUIET: Duration = Duration::from_millis(100);
/// When to look whether the HTTP layer is done, before the peer's patience is tried.
const SHUT_SOON: Duration = Duration::from_millis(100);

/// What the end of a connection waits for, before that all is sent.
#[derive(Debug)]
pub(super) enum Until {
    /// Nothing: the peer has closed.
    Sent,
    /// The peer's close frame.
    Closed(Box<FrameReader>),
    /// The peer to stop sending, whatever it sends: after a broken rule nobody knows where its frames begin.
    Quiet,
}

/// A connection whose close frame is queued. Dropped before its end, it cuts the connection.
pub(super) struct Farewell {
    payload: web::Payload,
    outbound: Outbound,
}

impl Farewell {
    pub(super) fn new(payload: web::Payload, outbound: Outbound) -> Self {
        Self { payload, outbound }
    }

    pub(super) async fn run(mut self, until: Until) {
        match until {
            Until::Sent => {}
            Until::Closed(mut reader) => {
                if !self.closed(&mut reader).await {
                    self.quiet().await;
                }
            }
            Until::Quiet => self.quiet().await,
        }
        self.outbound.end();
        self.sent().await;
    }

    /// Reads on until the peer closes, at most for as long as it does nothing else than send. `false` when it broke a
    /// rule.
    async fn closed(&mut self, reader: &mut FrameReader) -> bool {
        let start = Instant::now();
        loop {
            let due = self.patience_from(start);
            let read = async {
                loop {
                    match reader.next() {
                        Ok(Some(Incoming::Close { .. })) => return true,
                        Ok(Some(_)) => continue,
                        Ok(None) => {}
                        Err(_) => return false,
                    }
                    match poll_fn(|cx| self.poll_chunk(cx)).await {
                        Some(chunk) => reader.push(chunk),
                        None => return true,
                    }
                }
            };
            match timeout_at(due, read).await {
                Ok(well) => return well,
                Err(_) if self.patience_from(start) <= due => return true,
                Err(_) => {}
            }
        }
    }

    async fn quiet(&mut self) {
        let end = Instant::now() + PATIENCE;
        while let Ok(Ok(Some(_))) = timeout_at(end, timeout(QUIET, poll_fn(|cx| self.poll_chunk(cx)))).await {}
    }

    /// Waits until everything was sent and the connection is closed, or cuts it.
    async fn sent(&self) {
        let start = Instant::now();
        loop {
            let due = self.patience_from(start);
            let gone = poll_fn(|cx| {
                self.outbound.register(cx);
                if self.outbound.is_gone() {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            });
            if timeout_at(due, gone).await.is_ok() {
                break;
            }
            if self.patience_from(start) <= due {
                return;
            }
        }
        // The body is gone; now the dispatcher sends what it still holds and closes.
        tokio::time::sleep(SHUT_SOON).await;
        if !self.outbound.is_shut() {
            tokio::time::sleep(PATIENCE).await;
        }
    }

    /// Until when the peer, asked at `start`, may do nothing.
    fn patience_from(&self, start: Instant) -> Instant {
        start.max(self.outbound.moved()) + PATIENCE
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<bytes::Bytes>> {
        Pin::new(&mut self.payload).poll_next(cx).map(|chunk| chunk?.ok())
    }
}

impl Drop for Farewell {
    fn drop(&mut self) {
        // Without effect on a connection that is closed.
        self.outbound.abort();
    }
}
