//! One WebSocket connection, server side.
//!
//! Two tasks of one thread share it. actix-http's dispatcher owns the TCP connection: it hands out what arrives, chunk by
//! chunk, as the request's payload, and takes what leaves as the response's body. Whoever owns the [`Socket`] sits between
//! the two. No message costs a task or a channel.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::Stream;
use grid_core::tensor::Buffer;
use tokio::time::{Instant, Sleep};
pub use tungstenite::protocol::frame::coding::CloseCode;

use super::farewell::{Farewell, Until};
use super::frames::{FrameReader, Incoming, Violation};
use super::handshake::{HandshakeRefusal, handshake, take_handle};
use super::liveness::{Liveness, Look};
use super::outbound::{Outbound, queue};

/// How a socket behaves.
pub struct SocketOptions {
    /// Most bytes of one message, over all its fragments.
    pub max_message: usize,
    /// A peer that nothing was heard of for so long is sent a ping.
    pub ping_interval: Duration,
    /// A peer that nothing is heard of for so long after a ping is given up. Anything that it sends counts, and so does
    /// taking bytes from us: a ping can wait behind a large answer.
    pub pong_timeout: Duration,
    /// A peer that takes no byte for so long while bytes wait is given up.
    pub send_timeout: Duration,
    /// Bytes waiting to be sent from which on the socket's owner is meant to hold back; see [`Event::Writable`].
    pub high_water: usize,
    /// Asked for room as a message grows that did not arrive within one chunk, with the bytes that it grew by; the last
    /// time just before the message is handed out, when they add up to its length. `false` refuses the message: the peer
    /// is told to try again later ([`CloseCode::Again`]), and the connection ends.
    pub room: Box<dyn FnMut(usize) -> bool>,
}

impl std::fmt::Debug for SocketOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SocketOptions")
            .field("max_message", &self.max_message)
            .field("ping_interval", &self.ping_interval)
            .field("pong_timeout", &self.pong_timeout)
            .field("send_timeout", &self.send_timeout)
            .field("high_water", &self.high_water)
            .finish_non_exhaustive()
    }
}

/// What happened on a socket.
#[derive(Debug)]
pub enum Event {
    /// A text message; it is valid UTF-8.
    Text(Bytes),
    /// A binary message, laid out so that its byte `4 + u32_le(first four bytes)` lies on a 64-byte boundary.
    Binary(Buffer),
    /// [`Socket::buffered`] had reached the high-water mark and is now under half of it.
    Writable,
    /// The connection is over; asked again, the socket says so again.
    Ended(Ended),
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The peer closed it, and is answered behind everything that is queued.
    Closed {
        /// Its code; [`CloseCode::Status`] if it gave none.
        code: CloseCode,
        /// Its reason.
        reason: String,
    },
    /// It ended without a close frame.
    Lost,
    /// The peer broke a rule or a limit, or there was no room. It is told behind everything that is queued.
    Refused {
        /// What the peer is told.
        code: CloseCode,
        /// What the peer is told.
        reason: &'static str,
    },
    /// The peer took no byte for too long. The connection was cut.
    SlowReader,
    /// The peer did not answer a ping. The connection was cut.
    NoPong,
}

/// One WebSocket connection.
///
/// Lives on the thread of its connection, in an actix runtime. Dropping it before its end closes the connection with
/// [`CloseCode::Error`], or cuts it if answers are still queued; [`close`](Self::close) is the orderly way.
///
/// # While nobody reads
///
/// The dispatcher reads on until about 64 KiB lie unread (32 KiB as payload, as much in its own buffer); then the peer's
/// TCP window fills, and it is held up. A peer that closes the connection is noticed at once as long as it has sent less
/// than that. Beyond it, the dispatcher does not look at the connection before something was read; pings are sent all the
/// while, and the first that a vanished peer's host answers with a reset ends the connection with the one after it. A host
/// that answers nothing at all is noticed when its TCP window, then `high_water` are full, by `send_timeout`, or when
/// reading goes on, by `pong_timeout`.
pub struct Socket {
    /// Gone when the socket has ended.
    payload: Option<web::Payload>,
    reader: FrameReader,
    outbound: Outbound,
    room: Box<dyn FnMut(usize) -> bool>,
    /// Bytes of the incomplete message that `room` was asked for.
    counted: usize,
    ended: Option<Ended>,
    liveness: Liveness,
    timer: Pin<Box<Sleep>>,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket")
            .field("buffered", &self.buffered())
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

/// Answers the request for a WebSocket. The socket lives once the response was returned from the handler.
///
/// # Errors
/// When the request is not one, or asks for what this server does not speak.
pub fn accept(
    request: &HttpRequest,
    payload: web::Payload,
    options: SocketOptions,
) -> Result<(HttpResponse, Socket), HandshakeRefusal> {
    let mut response = handshake(request)?;
    let (outbound, body) = queue(options.high_water, take_handle(request));
    let now = Instant::now();
    let socket = Socket {
        payload: Some(payload),
        reader: FrameReader::new(options.max_message),
        outbound,
        room: options.room,
        counted: 0,
        ended: None,
        timer: Box::pin(tokio::time::sleep_until(now)),
        liveness: Liveness::new(now, options.ping_interval, options.pong_timeout, options.send_timeout),
    };
    Ok((response.body(body), socket))
}

impl Socket {
    /// What happens next. Cancel-safe.
    ///
    /// With `read` false no message is taken from the connection, so that the peer is held up by TCP; that the peer has
    /// gone is noticed as [`Socket`] tells.
    pub async fn next(&mut self, read: bool) -> Event {
        poll_fn(|cx| self.poll_event(read, cx)).await
    }

    /// Queues a text message. Nothing is sent on a connection that has ended.
    pub fn send_text(&self, text: &[u8]) {
        self.outbound.send_text(text);
    }

    /// Queues a binary message made of `parts`, in one frame. A part over 64 KiB is queued without a copy. Nothing is
    /// sent on a connection that has ended.
    pub fn send_binary(&self, parts: impl IntoIterator<Item = Bytes>) {
        self.outbound.send_binary(parts);
    }

    /// Bytes that were sent and not yet taken by the HTTP layer, which holds some 100 KiB itself.
    pub fn buffered(&self) -> usize {
        self.outbound.buffered()
    }

    /// Closes the connection: sends what is queued, then a close frame with `code` and the first 123 bytes of `reason`,
    /// and waits for the peer's.
    ///
    /// Takes as long as the peer takes bytes, and at most two seconds each time that it does nothing. Messages that
    /// arrive meanwhile are dropped. When the future is dropped, the connection is cut.
    pub async fn close(mut self, code: CloseCode, reason: &str) {
        if let Some(farewell) = self.farewell(code, reason) {
            self.ended = Some(Ended::Lost);
            let reader = std::mem::replace(&mut self.reader, FrameReader::new(0));
            farewell.run(Until::Closed(Box::new(reader))).await;
        }
    }

    fn poll_event(&mut self, read: bool, cx: &mut Context<'_>) -> Poll<Event> {
        if let Some(ended) = &self.ended {
            return Poll::Ready(Event::Ended(ended.clone()));
        }
        if self.outbound.take_writable() {
            return Poll::Ready(Event::Writable);
        }
        if read {
            match self.poll_read(cx) {
                Poll::Ready(Ok(event)) => return Poll::Ready(event),
                Poll::Ready(Err(ended)) => return Poll::Ready(self.end(ended)),
                Poll::Pending => {}
            }
        }
        if self.outbound.is_gone() {
            return Poll::Ready(self.end(Ended::Lost));
        }
        self.outbound.register(cx);
        let ended = ready!(self.poll_liveness(read, cx));
        Poll::Ready(self.end(ended))
    }

    /// The next message: of those that have arrived, without touching the connection again.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, Ended>> {
        loop {
            while let Some(incoming) = self.reader.next()? {
                match incoming {
                    Incoming::Text(text) => {
                        self.complete(text.len())?;
                        return Poll::Ready(Ok(Event::Text(text)));
                    }
                    Incoming::Binary(message) => {
                        self.complete(message.len())?;
                        return Poll::Ready(Ok(Event::Binary(message)));
                    }
                    Incoming::Ping(payload) => self.outbound.pong(payload),
                    Incoming::Pong => {}
                    Incoming::Close { code, reason } => return Poll::Ready(Err(Ended::Closed { code, reason })),
                }
            }
            self.grow_to(self.reader.held())?;
            let Some(payload) = &mut self.payload else {
                return Poll::Ready(Err(Ended::Lost));
            };
            match ready!(Pin::new(payload).poll_next(cx)) {
                Some(Ok(chunk)) => {
                    self.liveness.heard(Instant::now());
                    self.reader.push(chunk);
                }
                Some(Err(_)) | None => return Poll::Ready(Err(Ended::Lost)),
            }
        }
    }

    /// Counts a message that is there. One that arrived at once was never counted: its memory is already taken, and the
    /// chunks that it can come in are small.
    fn complete(&mut self, length: usize) -> Result<(), Ended> {
        if self.counted > 0 {
            self.grow_to(length)?;
            self.counted = 0;
        }
        Ok(())
    }

    fn grow_to(&mut self, length: usize) -> Result<(), Ended> {
        let grown = length.saturating_sub(self.counted);
        if grown == 0 {
            return Ok(());
        }
        self.counted = length;
        if (self.room)(grown) {
            return Ok(());
        }
        Err(Ended::Refused {
            code: CloseCode::Again,
            reason: "other messages hold all the memory for messages",
        })
    }

    fn poll_liveness(&mut self, read: bool, cx: &mut Context<'_>) -> Poll<Ended> {
        loop {
            let waiting = (self.outbound.buffered() > 0).then(|| self.outbound.moved());
            let due = match self.liveness.look(Instant::now(), read, waiting) {
                Look::Wait(due) => due,
                Look::Ping => {
                    self.outbound.ping();
                    continue;
                }
                Look::SlowReader => return Poll::Ready(Ended::SlowReader),
                Look::NoPong => return Poll::Ready(Ended::NoPong),
            };
            // A timer that fires early looks again; to set it anew for each message would cost more.
            if self.timer.deadline() > due || self.timer.is_elapsed() {
                self.timer.as_mut().reset(due);
            }
            ready!(self.timer.as_mut().poll(cx));
        }
    }

    fn end(&mut self, ended: Ended) -> Event {
        match &ended {
            Ended::Closed { code, .. } => {
                if let Some(farewell) = self.farewell(*code, "") {
                    actix_web::rt::spawn(farewell.run(Until::Sent));
                }
            }
            Ended::Refused { code, reason } => {
                if let Some(farewell) = self.farewell(*code, reason) {
                    actix_web::rt::spawn(farewell.run(Until::Quiet));
                }
            }
            Ended::Lost | Ended::SlowReader | Ended::NoPong => self.outbound.abort(),
        }
        self.payload = None;
        self.ended = Some(ended.clone());
        Event::Ended(ended)
    }

    /// Queues the close frame, and takes what is needed to see the connection to its end; `None` when it is over.
    fn farewell(&mut self, code: CloseCode, reason: &str) -> Option<Farewell> {
        if self.ended.is_some() {
            return None;
        }
        self.outbound.send_close(code, reason);
        Some(Farewell::new(self.payload.take()?, self.outbound.clone()))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.ended.is_some() {
            return;
        }
        if self.outbound.buffered() > 0 {
            // Nobody would watch whether the peer takes it.
            self.outbound.abort();
        } else {
            self.outbound
                .send_close(CloseCode::Error, "the server has ended the conversation");
            self.outbound.end();
        }
    }
}

impl From<Violation> for Ended {
    fn from(Violation { code, reason }: Violation) -> Self {
        Self::Refused { code, reason }
    }
}

#[cfg(test)]
mod tests;
