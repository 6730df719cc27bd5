//! The task of a link: it reads, goes on writing what could not be written at once, and notices when the other end is gone.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use grid_core::wire::frame::{Header, Kind};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Reading;
use super::error::Closed;
use super::reader::Reader;
use super::reply::Service;
use super::shared::Shared;

/// Most reads at once, before other tasks get their turn.
const MAX_READS: usize = 32;

/// Drives a link: a future that must be polled, as a task of its own, until it ends with the link. Dropped, it closes it.
pub struct Driver {
    shared: Arc<Shared>,
    reader: Reader,
    /// When to look whether the other end lives.
    check: Pin<Box<Sleep>>,
    /// The ping that has no pong: its number, when it was sent, and what had been written by then.
    ping: Option<(Instant, u64)>,
    pings: u64,
}

impl Driver {
    pub(super) fn new(
        shared: Arc<Shared>,
        io: Box<dyn Reading>,
        service: Box<dyn Service + Send>,
        version: u8,
        behind: &[u8],
    ) -> Self {
        let check = Box::pin(sleep_until(Instant::now() + shared.limits.ping_interval));
        Self {
            reader: Reader::new(Arc::clone(&shared), io, service, version, behind),
            shared,
            check,
            ping: None,
            pings: 0,
        }
    }

    fn read(&mut self, cx: &mut Context<'_>) {
        // What came behind the handshake is there without a read.
        if let Err(closed) = self.reader.process() {
            return self.end(closed);
        }
        for _ in 0..MAX_READS {
            match self.reader.poll_read(cx) {
                Poll::Pending => return,
                Poll::Ready(Ok(())) => {
                    let now = Instant::now();
                    self.shared.heard(now);
                    if let Err(closed) = self.reader.process() {
                        return self.end(closed);
                    }
                    if self.reader.take_pong() == Some(self.pings)
                        && let Some((sent, _)) = self.ping.take()
                    {
                        self.shared.set_round_trip(now - sent);
                    }
                }
                Poll::Ready(Err(closed)) => return self.end(closed),
            }
        }
        cx.waker().wake_by_ref();
    }

    fn end(&self, closed: Closed) {
        match closed {
            Closed::Violation(broken) => self.shared.violation(broken),
            closed => self.shared.close(closed, None),
        }
    }

    /// Pings when nothing came for long, and gives up when nothing came since the ping.
    fn check(&mut self, cx: &mut Context<'_>) {
        while self.check.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let limits = &self.shared.limits;
            let heard = self.shared.last_heard();
            let next = match self.ping {
                Some((sent, written)) => {
                    let until = sent + limits.pong_timeout;
                    let (taken, has_more) = {
                        let outbox = self.shared.out.lock();
                        (outbox.written(), !outbox.is_drained())
                    };
                    if heard >= sent {
                        self.ping = None;
                        heard + limits.ping_interval
                    } else if taken > written && has_more {
                        // It takes what is written, and the ping may lie behind that. Only while more waits: the system takes
                        // small requests for a peer that has long gone silent, and they would keep its link open for ever.
                        self.ping = Some((now, taken));
                        now + limits.pong_timeout
                    } else if now >= until {
                        return self.shared.close(Closed::Silent(limits.pong_timeout), None);
                    } else {
                        until
                    }
                }
                None if now < heard + limits.ping_interval => heard + limits.ping_interval,
                None => {
                    self.pings += 1;
                    let flooded = self
                        .shared
                        .write(|outbox| outbox.control(Header::new(Kind::Ping, self.pings)));
                    self.shared.check(flooded);
                    self.ping = Some((now, self.shared.out.lock().written()));
                    now + limits.pong_timeout
                }
            };
            self.check.as_mut().reset(next);
        }
    }

    /// Closes the link when one end goes away, both have said so, and nothing runs.
    fn finish(&self) {
        let outbox = self.shared.out.lock();
        let is_finished = self.reader.peer_goes_away()
            && outbox.is_going_away()
            && outbox.is_drained()
            && outbox.serving() == 0
            && self.shared.book.lock().calls.is_empty();
        drop(outbox);
        if is_finished {
            self.shared.close(Closed::Finished, None);
        }
    }
}

impl Future for Driver {
    type Output = Closed;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Closed> {
        let this = &mut *self;
        this.shared.write(|outbox| outbox.set_waker(cx.waker()));
        this.reader.drop_abandoned();
        if this.shared.closed().is_none() {
            this.read(cx);
            this.check(cx);
            this.finish();
        }
        let Some(reason) = this.shared.closed() else {
            return Poll::Pending;
        };
        // Whether the other end hears of it in good order changes nothing here.
        let _ = ready!(this.shared.out.lock().poll_shutdown(cx));
        Poll::Ready(reason.clone())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.close(Closed::Dropped, None);
        self.shared.out.lock().release();
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("link", &self.shared).finish()
    }
}
