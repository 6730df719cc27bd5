//! The writing half of a link: what waits to be written, whose turn it is, and the connection it is written to.
//!
//! Whoever has something to send writes it there and then, under the lock, when the connection takes it; no task is switched
//! to. When the connection takes no more, the driver goes on as soon as it does: writes are polled with the driver's waker.
//!
//! Large bodies go out in frames of at most 64 KiB, exchange after exchange, each within its window. Little is staged at a
//! time, so that a small message waits for little.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use grid_core::wire::credit::SendWindow;
use grid_core::wire::frame::{HEADER, Header, Kind, LAST, MAX_PAYLOAD, ResetCode};
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::piece::{MAX_SLICES, Piece, Pieces};
use super::reply::Served;

/// Bytes that are staged for the connection: enough to keep it busy, little enough for a small message to wait for.
const STAGED: usize = 2 * MAX_PAYLOAD;

/// Most control frames that wait. There is one of a kind for an exchange, so only a peer that asks and asks without ever
/// reading what it is told makes more.
const MAX_CONTROLS: usize = 16 << 10;

/// A message to be sent.
pub(super) struct OutMessage {
    head: Bytes,
    body: Pieces,
    head_sent: bool,
    last: bool,
    /// What was left when it was queued, and when that was.
    remaining: Option<(Duration, Instant)>,
}

impl OutMessage {
    /// `None` if no frames can carry it.
    pub(super) fn new(head: Vec<u8>, body: Pieces, last: bool, remaining: Option<Duration>) -> Option<Self> {
        if head.len() > MAX_PAYLOAD || u32::try_from(body.len()).is_err() {
            return None;
        }
        Some(Self {
            head: head.into(),
            body,
            head_sent: false,
            last,
            remaining: remaining.map(|remaining| (remaining, Instant::now())),
        })
    }

    /// Bytes that were not handed to the connection.
    pub(super) fn left(&self) -> usize {
        self.body.len() + if self.head_sent { 0 } else { self.head.len() }
    }

    fn remaining(&self) -> u32 {
        let Some((remaining, since)) = self.remaining else {
            return 0;
        };
        // 0 would be no deadline at all.
        let left = remaining.saturating_sub(since.elapsed()).as_millis().max(1);
        u32::try_from(left).unwrap_or(u32::MAX)
    }
}

#[derive(Default)]
struct Outgoing {
    window: SendWindow,
    messages: VecDeque<OutMessage>,
    queued: usize,
    /// Whether it is among the turns.
    waits: bool,
    /// Where in the stream of all written bytes its first byte lies.
    begins: Option<u64>,
    /// Set if the other end opened it.
    served: Option<Arc<Served>>,
}

enum Turn {
    Exchange(u64),
    GoAway,
}

/// What was under way when the link was closed.
pub(super) struct Remains {
    /// Exchanges opened here of which some byte was written.
    pub(super) sent: Vec<u64>,
}

/// See the module's documentation.
pub(super) struct Outbox {
    io: Box<dyn AsyncWrite + Send + Unpin>,
    waker: Waker,
    version: u8,
    staged: Pieces,
    controls: VecDeque<Header>,
    pong: Option<u64>,
    turns: VecDeque<Turn>,
    exchanges: BTreeMap<u64, Outgoing>,
    serving: usize,
    queued: usize,
    written: u64,
    flushed: bool,
    is_open: bool,
    next_exchange: u64,
    going_away: bool,
}

impl Outbox {
    pub(super) fn new(io: Box<dyn AsyncWrite + Send + Unpin>, version: u8, first_exchange: u64) -> Self {
        Self {
            io,
            waker: Waker::noop().clone(),
            version,
            staged: Pieces::default(),
            controls: VecDeque::new(),
            pong: None,
            turns: VecDeque::new(),
            exchanges: BTreeMap::new(),
            serving: 0,
            queued: 0,
            written: 0,
            flushed: true,
            is_open: true,
            next_exchange: first_exchange,
            going_away: false,
        }
    }

    /// Who is woken when the connection takes more.
    pub(super) fn set_waker(&mut self, waker: &Waker) {
        if !self.waker.will_wake(waker) {
            self.waker = waker.clone();
        }
    }

    pub(super) fn wake_driver(&self) {
        self.waker.wake_by_ref();
    }

    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    pub(super) fn is_going_away(&self) -> bool {
        self.going_away
    }

    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    pub(super) fn written(&self) -> u64 {
        self.written
    }

    pub(super) fn serving(&self) -> usize {
        self.serving
    }

    /// The id that the next exchange opened here will have.
    pub(super) fn next_exchange(&self) -> u64 {
        self.next_exchange
    }

    /// Whether all that was queued is written.
    pub(super) fn is_drained(&self) -> bool {
        self.staged.is_empty() && self.controls.is_empty() && self.turns.is_empty() && self.flushed
    }

    /// Opens an exchange with this message.
    pub(super) fn open(&mut self, message: OutMessage) -> u64 {
        let exchange = self.next_exchange;
        self.next_exchange += 2;
        self.exchanges.insert(exchange, Outgoing::default());
        self.push(exchange, message);
        exchange
    }

    /// Notes an exchange that the other end opened. A closed link takes none: nothing would ever end it.
    pub(super) fn serve(&mut self, exchange: u64, served: Arc<Served>) {
        if !self.is_open {
            return served.cancel();
        }
        self.serving += 1;
        let outgoing = Outgoing {
            served: Some(served),
            ..Outgoing::default()
        };
        self.exchanges.insert(exchange, outgoing);
    }

    /// Bytes of an exchange that wait; `None` if there is none of that id.
    pub(super) fn queued_of(&self, exchange: u64) -> Option<usize> {
        self.exchanges.get(&exchange).map(|outgoing| outgoing.queued)
    }

    /// Queues a message of an exchange.
    pub(super) fn push(&mut self, exchange: u64, message: OutMessage) {
        if let Some(outgoing) = self.exchanges.get_mut(&exchange) {
            outgoing.queued += message.left();
            self.queued += message.left();
            outgoing.messages.push_back(message);
            if !outgoing.waits {
                outgoing.waits = true;
                self.turns.push_back(Turn::Exchange(exchange));
            }
        }
    }

    pub(super) fn grant(&mut self, exchange: u64, bytes: u32) {
        // Of one that has ended, it came late.
        if let Some(outgoing) = self.exchanges.get_mut(&exchange) {
            outgoing.window.grant(bytes);
            if !outgoing.waits && !outgoing.messages.is_empty() {
                outgoing.waits = true;
                self.turns.push_back(Turn::Exchange(exchange));
            }
        }
    }

    /// Forgets an exchange and what it has queued; whether any of it may have reached the connection.
    pub(super) fn remove(&mut self, exchange: u64) -> bool {
        let Some(outgoing) = self.exchanges.remove(&exchange) else {
            return false;
        };
        self.queued -= outgoing.queued;
        if let Some(served) = &outgoing.served {
            served.cancel();
            self.served_one();
        }
        outgoing.begins.is_some()
    }

    fn served_one(&mut self) {
        self.serving -= 1;
        if self.going_away {
            // This may have been the last thing to finish.
            self.wake_driver();
        }
    }

    /// Queues a frame that goes before all messages.
    ///
    /// # Errors
    /// When so many wait that the peer cannot be reading.
    pub(super) fn control(&mut self, header: Header) -> Result<(), &'static str> {
        match header.kind {
            // Only the latest ping needs an answer.
            Kind::Pong => self.pong = Some(header.exchange),
            _ if self.controls.len() >= MAX_CONTROLS => return Err("it asks and does not read what it is told"),
            _ => self.controls.push_back(header),
        }
        Ok(())
    }

    /// Opens no exchange any more, and tells the other end behind those that were opened.
    pub(super) fn go_away(&mut self) {
        if !self.going_away {
            self.going_away = true;
            self.turns.push_back(Turn::GoAway);
        }
    }

    /// Ends all. What was not written will not be, but for `farewell` as far as it can be written at once.
    pub(super) fn close(&mut self, farewell: Option<&str>) -> Remains {
        self.is_open = false;
        let exchanges = std::mem::take(&mut self.exchanges);
        let mut sent = Vec::new();
        for (exchange, outgoing) in exchanges {
            match outgoing.served {
                Some(served) => served.cancel(),
                None if outgoing.begins.is_some_and(|begins| begins < self.written) => sent.push(exchange),
                None => {}
            }
        }
        self.serving = 0;
        self.queued = 0;
        self.turns.clear();
        self.controls.clear();
        self.pong = None;
        if let Some(text) = farewell {
            let text = &text[..text.floor_char_boundary(1000)];
            self.stage_header(Header {
                payload: text.len() as u32,
                ..Header::new(Kind::Refused, 0)
            });
            self.staged.push(Piece::Bytes(Bytes::copy_from_slice(text.as_bytes())));
            // It is a courtesy: the link is over either way.
            let _ = self.pump();
        }
        self.staged = Pieces::default();
        self.wake_driver();
        Remains { sent }
    }

    /// Ends the connection's writing half.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    /// Lets go of the connection, which handles of the link would otherwise keep open after its end.
    pub(super) fn release(&mut self) {
        self.io = Box::new(tokio::io::sink());
    }

    /// Writes until nothing can be written.
    ///
    /// # Errors
    /// When the connection fails.
    pub(super) fn pump(&mut self) -> io::Result<()> {
        let waker = self.waker.clone();
        let mut cx = Context::from_waker(&waker);
        loop {
            self.stage();
            if self.staged.is_empty() {
                break;
            }
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let count = self.staged.slices(&mut slices);
            match Pin::new(&mut self.io).poll_write_vectored(&mut cx, &slices[..count])? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(written) => {
                    self.written += written as u64;
                    self.staged.advance(written);
                    self.flushed = false;
                }
                Poll::Pending => return Ok(()),
            }
        }
        if !self.flushed && Pin::new(&mut self.io).poll_flush(&mut cx)?.is_ready() {
            self.flushed = true;
        }
        Ok(())
    }

    fn stage_header(&mut self, mut header: Header) {
        header.version = self.version;
        self.staged.push(Piece::Header(header.encode()));
    }

    fn stage(&mut self) {
        while self.staged.len() < STAGED {
            if let Some(header) = self.controls.pop_front() {
                self.stage_header(header);
            } else if let Some(number) = self.pong.take() {
                self.stage_header(Header::new(Kind::Pong, number));
            } else {
                match self.turns.pop_front() {
                    Some(Turn::GoAway) => self.stage_header(Header::new(Kind::GoAway, 0)),
                    Some(Turn::Exchange(exchange)) => self.stage_frame(exchange),
                    None => return,
                }
            }
        }
    }

    /// Stages the next frame of an exchange whose turn it is.
    fn stage_frame(&mut self, exchange: u64) {
        let Some(outgoing) = self.exchanges.get_mut(&exchange) else {
            return;
        };
        outgoing.waits = false;
        let Some(message) = outgoing.messages.front_mut() else {
            return;
        };
        let mut header = Header::new(Kind::Data, exchange);
        header.version = self.version;
        let before = self.staged.len();
        let staged = if message.head_sent {
            let length = outgoing.window.take(message.body.len().min(MAX_PAYLOAD));
            if length == 0 {
                // Its turn comes with the next grant.
                return;
            }
            header.payload = length as u32;
            self.staged.push(Piece::Header(header.encode()));
            message.body.move_to(length, &mut self.staged);
            length
        } else {
            if !outgoing.window.take_head(message.head.len()) {
                return;
            }
            header.kind = Kind::Head;
            header.payload = message.head.len() as u32;
            header.flags = if message.last { LAST } else { 0 };
            header.argument = message.remaining();
            header.body = message.body.len() as u32;
            message.head_sent = true;
            self.staged.push(Piece::Header(header.encode()));
            if !message.head.is_empty() {
                self.staged.push(Piece::Bytes(message.head.clone()));
            }
            message.head.len()
        };
        debug_assert_eq!(self.staged.len(), before + HEADER + staged);
        outgoing.begins.get_or_insert(self.written + before as u64);
        outgoing.queued -= staged;
        self.queued -= staged;
        let is_whole = message.body.is_empty();
        let is_over = is_whole && message.last && outgoing.served.is_some();
        if is_whole {
            outgoing.messages.pop_front();
            if let Some(served) = &outgoing.served {
                served.made_room();
            }
        }
        if is_over {
            self.exchanges.remove(&exchange);
            self.served_one();
        } else if !outgoing.messages.is_empty() {
            outgoing.waits = true;
            self.turns.push_back(Turn::Exchange(exchange));
        }
    }

    /// Tells the other end that an exchange it opened will not be answered.
    ///
    /// # Errors
    /// As [`control`](Self::control).
    pub(super) fn reset(&mut self, exchange: u64, code: ResetCode) -> Result<(), &'static str> {
        self.remove(exchange);
        self.control(Header {
            argument: code.code(),
            ..Header::new(Kind::Reset, exchange)
        })
    }
}
