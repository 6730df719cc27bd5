//! The queue of what leaves on one connection.
//!
//! Whoever answers puts messages in; the HTTP layer takes bytes out, as the body of the response that answered the
//! handshake. Both live on one thread. Small messages are put behind each other and leave together; a large part is queued
//! as it is, without a copy.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use actix_web::body::{BodySize, MessageBody};
use bytes::{BufMut, Bytes, BytesMut};
use rustix::net::sockopt::set_socket_linger;
use tokio::time::Instant;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use super::frames::ControlPayload;

/// From this size on a part is queued as it is.
const LARGE: usize = 64 << 10;
/// Most bytes that the HTTP layer gets at once. It copies them into a buffer of its own, so a larger piece would be in
/// memory twice, and would hide whether the peer takes any of it.
const PIECE: usize = 64 << 10;
/// Most answers to pings that wait. Only the latest ping needs one (RFC 6455, 5.5.3), so a flood of pings does not grow the
/// queue; some more are kept because there are peers that count.
const MAX_PONGS: usize = 16;
/// Most bytes of a reason in a close frame.
const MAX_REASON: usize = 123;

/// The user's end of the queue.
#[derive(Debug, Clone)]
pub(crate) struct Outbound(Rc<RefCell<Queue>>);

/// The HTTP layer's end of the queue. When it is dropped, the connection is gone.
#[derive(Debug)]
pub(crate) struct OutboundBody(Rc<RefCell<Queue>>);

#[derive(Debug)]
struct Part {
    bytes: Bytes,
    /// Whether a frame ends with it; between frames there is room for a pong.
    ends_frame: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    /// The close frame is queued, and nothing may follow it.
    Closing,
    /// The body ends when the queue is empty.
    Ending,
}

#[derive(Debug)]
struct Queue {
    stage: Stage,
    parts: VecDeque<Part>,
    /// Small messages that follow `parts`.
    tail: BytesMut,
    /// Answers to pings: at most [`MAX_PONGS`].
    pongs: Vec<ControlPayload>,
    /// Whether the HTTP layer has the beginning of a frame, but not all of it.
    within_frame: bool,
    buffered: usize,
    high_water: usize,
    was_high: bool,
    writable: bool,
    /// When the HTTP layer last took something, or when something came to be taken; the time stands still when the peer
    /// reads nothing.
    moved: Instant,
    gone: bool,
    wire: Option<TcpStream>,
    http: Option<Waker>,
    user: Option<Waker>,
}

/// A queue that is high with `high_water` bytes. `wire` is a second handle of the connection, to end it with.
pub(crate) fn queue(high_water: usize, wire: Option<TcpStream>) -> (Outbound, OutboundBody) {
    let queue = Rc::new(RefCell::new(Queue {
        stage: Stage::Open,
        parts: VecDeque::new(),
        tail: BytesMut::new(),
        pongs: Vec::new(),
        within_frame: false,
        buffered: 0,
        high_water,
        was_high: false,
        writable: false,
        moved: Instant::now(),
        gone: false,
        wire,
        http: None,
        user: None,
    }));
    (Outbound(Rc::clone(&queue)), OutboundBody(queue))
}

impl Outbound {
    pub(crate) fn send_text(&self, text: &[u8]) {
        self.open(|queue| {
            queue.begin(OpCode::Data(Data::Text), text.len());
            queue.copy(text);
        });
    }

    /// Queues `parts` as one message of one frame.
    pub(crate) fn send_binary(&self, parts: impl IntoIterator<Item = Bytes>) {
        let parts: smallvec::SmallVec<[Bytes; 8]> = parts.into_iter().collect();
        self.open(|queue| {
            queue.begin(OpCode::Data(Data::Binary), parts.iter().map(Bytes::len).sum());
            for part in parts {
                if part.len() > LARGE {
                    queue.cut(false);
                    queue.push(part, false);
                } else {
                    queue.copy(&part);
                }
            }
            // A frame that ends with a large part ends there, not with the small messages that follow.
            if queue.tail.is_empty()
                && let Some(last) = queue.parts.back_mut()
            {
                last.ends_frame = true;
            }
        });
    }

    pub(crate) fn ping(&self) {
        self.open(|queue| queue.begin(OpCode::Control(Control::Ping), 0));
    }

    /// Queues the answer to a ping. When too many wait it takes the place of the last one.
    pub(crate) fn pong(&self, payload: ControlPayload) {
        self.open(|queue| {
            if queue.pongs.len() == MAX_PONGS {
                queue.buffered -= queue.pongs.pop().map_or(0, |last| pong_len(&last));
            }
            queue.buffered += pong_len(&payload);
            queue.pongs.push(payload);
        });
    }

    /// Queues the close frame, the last frame there is. [`CloseCode::Status`] stands for none, and is sent as none.
    pub(crate) fn send_close(&self, code: CloseCode, reason: &str) {
        let reason = &reason[..reason.floor_char_boundary(MAX_REASON)];
        self.open(|queue| {
            queue.stage = Stage::Closing;
            if code == CloseCode::Status {
                return queue.begin(OpCode::Control(Control::Close), 0);
            }
            queue.begin(OpCode::Control(Control::Close), 2 + reason.len());
            queue.copy(&u16::from(code).to_be_bytes());
            queue.copy(reason.as_bytes());
        });
    }

    /// Ends the body when all that is queued was taken.
    pub(crate) fn end(&self) {
        let mut queue = self.0.borrow_mut();
        queue.stage = Stage::Ending;
        wake(&mut queue.http);
    }

    /// Ends the connection now, whatever is queued.
    pub(crate) fn abort(&self) {
        let mut queue = self.0.borrow_mut();
        queue.stage = Stage::Ending;
        queue.clear();
        // The HTTP layer may hold bytes that the peer does not take, and then does not ask for the end of the body.
        if let Some(wire) = queue.wire.take() {
            // Without this the system would keep what the peer does not take, and the peer would not hear of the end behind it.
            // An error of either means that the connection is already gone.
            let _ = set_socket_linger(&wire, Some(Duration::ZERO));
            let _ = wire.shutdown(Shutdown::Both);
        }
        wake(&mut queue.http);
    }

    /// Whether the HTTP layer has sent everything and closed the connection, as far as that can be told: `false` means
    /// that it still holds bytes which the peer does not take.
    pub(crate) fn is_shut(&self) -> bool {
        let queue = self.0.borrow();
        // To write nothing is an error on a socket that was shut down, and nothing otherwise.
        queue.wire.as_ref().is_none_or(|mut wire| wire.write(&[]).is_err())
    }

    /// Bytes that the HTTP layer has not taken.
    pub(crate) fn buffered(&self) -> usize {
        self.0.borrow().buffered
    }

    /// When the HTTP layer last took something, or when the first that waits came to wait.
    pub(crate) fn moved(&self) -> Instant {
        self.0.borrow().moved
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.0.borrow().gone
    }

    /// Whether the queue was high and is low again; says so once.
    pub(crate) fn take_writable(&self) -> bool {
        std::mem::take(&mut self.0.borrow_mut().writable)
    }

    /// Wakes the task when the HTTP layer goes, or when the queue is low again.
    pub(crate) fn register(&self, cx: &Context<'_>) {
        register(&mut self.0.borrow_mut().user, cx);
    }

    /// Queues something, unless nothing may follow what is queued.
    fn open(&self, send: impl FnOnce(&mut Queue)) {
        let mut queue = self.0.borrow_mut();
        if queue.stage == Stage::Open && !queue.gone {
            let waited = queue.buffered > 0;
            send(&mut queue);
            if !waited {
                queue.moved = Instant::now();
            }
            if queue.tail.len() >= LARGE {
                // Growing it further would copy it again and again.
                queue.cut(true);
            }
            queue.was_high |= queue.buffered >= queue.high_water;
            wake(&mut queue.http);
        }
    }
}

impl Queue {
    fn begin(&mut self, opcode: OpCode, length: usize) {
        self.tail.reserve(LEAST_TAIL.max(length.min(LARGE)));
        let before = self.tail.len();
        put_header(&mut self.tail, opcode, length);
        self.buffered += self.tail.len() - before;
    }

    fn copy(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        self.buffered += bytes.len();
    }

    fn push(&mut self, bytes: Bytes, ends_frame: bool) {
        self.buffered += bytes.len();
        self.parts.push_back(Part { bytes, ends_frame });
    }

    /// Puts the tail behind the parts.
    fn cut(&mut self, ends_frame: bool) {
        if !self.tail.is_empty() {
            let bytes = std::mem::take(&mut self.tail).freeze();
            self.parts.push_back(Part { bytes, ends_frame });
        }
    }

    fn clear(&mut self) {
        self.parts = VecDeque::new();
        self.tail = BytesMut::new();
        self.pongs = Vec::new();
        self.buffered = 0;
    }

    fn take(&mut self) -> Option<Bytes> {
        if !self.within_frame && !self.pongs.is_empty() {
            let mut frames = BytesMut::with_capacity(self.pongs.iter().map(pong_len).sum());
            for pong in std::mem::take(&mut self.pongs) {
                put_header(&mut frames, OpCode::Control(Control::Pong), pong.as_slice().len());
                frames.extend_from_slice(pong.as_slice());
            }
            self.buffered -= frames.len();
            return Some(frames.freeze());
        }
        if self.parts.is_empty() {
            self.cut(true);
        }
        let part = self.parts.front_mut()?;
        let piece = part.bytes.split_to(part.bytes.len().min(PIECE));
        self.within_frame = !(part.bytes.is_empty() && part.ends_frame);
        if part.bytes.is_empty() {
            self.parts.pop_front();
        }
        self.buffered -= piece.len();
        Some(piece)
    }
}

/// What a tail is begun with: room for a few short answers.
const LEAST_TAIL: usize = 512;

fn pong_len(payload: &ControlPayload) -> usize {
    2 + payload.as_slice().len()
}

fn put_header(bytes: &mut BytesMut, opcode: OpCode, length: usize) {
    let header = FrameHeader {
        is_final: true,
        rsv1: false,
        rsv2: false,
        rsv3: false,
        opcode,
        mask: None,
    };
    // Memory takes every write.
    let _ = header.format(length as u64, &mut bytes.writer());
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

fn register(waker: &mut Option<Waker>, cx: &Context<'_>) {
    if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *waker = Some(cx.waker().clone());
    }
}

impl MessageBody for OutboundBody {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        let mut queue = self.0.borrow_mut();
        if let Some(piece) = queue.take() {
            queue.moved = Instant::now();
            if queue.was_high && queue.buffered < queue.high_water / 2 {
                queue.was_high = false;
                queue.writable = true;
            }
            if queue.writable {
                wake(&mut queue.user);
            }
            return Poll::Ready(Some(Ok(piece)));
        }
        if queue.stage == Stage::Ending {
            // Behind the body actix-http waits for the peer to close the connection, which a WebSocket's peer leaves to
            // the server. What is queued is sent before it looks at the connection again.
            if let Some(wire) = &queue.wire {
                let _ = wire.shutdown(Shutdown::Read);
            }
            return Poll::Ready(None);
        }
        register(&mut queue.http, cx);
        Poll::Pending
    }
}

impl Drop for OutboundBody {
    fn drop(&mut self) {
        let mut queue = self.0.borrow_mut();
        queue.gone = true;
        queue.clear();
        if queue.stage != Stage::Ending {
            // A second handle that is kept would keep the connection.
            queue.wire = None;
        }
        wake(&mut queue.user);
    }
}

#[cfg(test)]
mod tests;
