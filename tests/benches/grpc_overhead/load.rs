//! A load generator for unary gRPC on loopback: HTTP/2 connections with some calls in flight on each, one message for ever,
//! one thread.
//!
//! No client library, for the reason of `grid_tests::load`: what the generator spends comes out of the cores that both
//! servers share, and draws the ratio towards 1. This one writes prebuilt frames into which only the stream's number is
//! put, and of an answer reads the frame heads and compares the length of the message. What it does as real clients do: the
//! header fields go into the server's table with the first call, and are a byte each from then on; what is due on a
//! connection goes out in one write.
//!
//! What it leaves out: it holds far less in flight than a window, so the server's flow control never stops it; and it reads
//! no header fields. It needs none: a call that fails has no message (a unary call that has one ended well).

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::{ClockId, clock_gettime};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD: usize = 9;
/// What HTTP/2 begins with, for a connection and for each stream.
const WINDOW: usize = 65_535;
/// The most that a window may be, less what it begins with.
const WIDENED: u32 = (1 << 31) - 1 - WINDOW as u32;
/// How long a server may be silent.
const PATIENCE: Duration = Duration::from_secs(10);

mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const WINDOW_UPDATE: u8 = 8;
}

mod flag {
    pub(super) const ACK: u8 = 1;
    pub(super) const END_STREAM: u8 = 1;
    pub(super) const END_HEADERS: u8 = 4;
}

/// What to send, where, and for how long.
pub(super) struct Load<'a> {
    pub(super) address: SocketAddr,
    pub(super) connections: usize,
    /// Calls in flight on each connection.
    pub(super) depth: usize,
    /// The path of the method.
    pub(super) method: &'a str,
    /// The message, without its length.
    pub(super) message: &'a [u8],
    pub(super) warm_up: Duration,
    pub(super) duration: Duration,
}

/// What a run measured.
pub(super) struct Report {
    /// Answers, those before the window too.
    pub(super) in_all: u64,
    /// Answers within the window, a second.
    pub(super) per_second: f64,
    pub(super) p50: Duration,
    pub(super) p99: Duration,
    /// CPU time of the generator's thread within the window, as a share of a core.
    pub(super) generator: f64,
    /// The message of the first answer.
    pub(super) answer: Vec<u8>,
}

impl Load<'_> {
    /// Keeps as many calls in flight as it may, each with the next one sent as soon as it is answered.
    ///
    /// # Errors
    /// When a connection breaks, a call fails, or an answer has another length than the first.
    pub(super) fn run(&self) -> io::Result<Report> {
        let frames = Frames::new(self)?;
        let mut connections = Vec::new();
        for _ in 0..self.connections {
            connections.push(Connection::open(self.address)?);
        }
        let mut tally = Tally::new(Instant::now() + self.warm_up, self.duration);
        for connection in &mut connections {
            for _ in 0..self.depth {
                connection.call(&frames);
            }
            connection.flush()?;
        }
        while tally.goes_on() || tally.in_all == 0 {
            for index in ready(&connections)? {
                connections[index].turn(&frames, &mut tally)?;
            }
        }
        Ok(tally.report())
    }
}

/// The connections that have something to read.
fn ready(connections: &[Connection]) -> io::Result<Vec<usize>> {
    // Reading waits as well, and is one call to the kernel less.
    if connections.len() == 1 {
        return Ok(vec![0]);
    }
    let mut watched: Vec<_> = connections
        .iter()
        .map(|connection| PollFd::from_borrowed_fd(connection.stream.as_fd(), PollFlags::IN))
        .collect();
    let limit = rustix::time::Timespec {
        tv_sec: PATIENCE.as_secs() as i64,
        tv_nsec: 0,
    };
    if poll(&mut watched, Some(&limit))? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let ready = watched.iter().enumerate();
    Ok(ready
        .filter(|(_, socket)| !socket.revents().is_empty())
        .map(|(index, _)| index)
        .collect())
}

/// The frames of a call. The number of the stream is missing.
struct Frames {
    /// Of a connection's first call.
    first: Vec<u8>,
    later: Vec<u8>,
    /// Length of the frame that ends both, and has the message.
    data: usize,
}

impl Frames {
    fn new(load: &Load<'_>) -> io::Result<Self> {
        let (method, message) = (load.method, load.message);
        if load.depth * (message.len() + 5) > WINDOW / 2 {
            return Err(io::Error::other("the messages in flight do not fit into a window"));
        }
        // Indices of HPACK's static table, RFC 7541, appendix A.
        let (post, http) = (0x83, 0x86);
        let mut fields = vec![post, http];
        let named = [
            (4, method),
            (1, "localhost"),
            (31, "application/grpc"),
            (58, "grid-bench"),
        ];
        for (name, value) in named {
            fields.push(0x40 | name);
            literal(&mut fields, value);
        }
        fields.push(0x40);
        literal(&mut fields, "te");
        literal(&mut fields, "trailers");
        // The five that were just put into the table, which counts from the newest: 66 is `:path`.
        let indexed = [post, http, 0x80 | 66, 0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62];
        let mut data = Vec::new();
        let prefixed = [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat();
        frame(&mut data, kind::DATA, flag::END_STREAM, &prefixed);
        let of = |fields: &[u8]| {
            let mut frames = Vec::new();
            frame(&mut frames, kind::HEADERS, flag::END_HEADERS, fields);
            frames.extend_from_slice(&data);
            frames
        };
        Ok(Self {
            first: of(&fields),
            later: of(&indexed),
            data: data.len(),
        })
    }
}

/// A string of HPACK as it is, of fewer than 127 bytes.
fn literal(fields: &mut Vec<u8>, text: &str) {
    fields.push(text.len() as u8);
    fields.extend_from_slice(text.as_bytes());
}

/// Writes a frame of the connection itself, or one whose stream is still missing.
fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags, 0, 0, 0, 0]);
    out.extend_from_slice(payload);
}

struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
    /// Where in `received` the next frame begins, and where what was read ends.
    from: usize,
    to: usize,
    out: Vec<u8>,
    next: u32,
    calls: Vec<Call>,
    /// Bytes of messages that the server was not told that they are read.
    untold: u32,
}

struct Call {
    stream: u32,
    sent: Instant,
    /// Bytes of its answer.
    received: usize,
}

impl Connection {
    fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut out = PREFACE.to_vec();
        frame(&mut out, kind::SETTINGS, 0, &[]);
        frame(&mut out, kind::WINDOW_UPDATE, 0, &WIDENED.to_be_bytes());
        Ok(Self {
            stream,
            received: vec![0; 256 * 1024],
            from: 0,
            to: 0,
            out,
            next: 1,
            calls: Vec::new(),
            untold: 0,
        })
    }

    fn call(&mut self, frames: &Frames) {
        let bytes = if self.next == 1 { &frames.first } else { &frames.later };
        let start = self.out.len();
        self.out.extend_from_slice(bytes);
        let data = self.out.len() - frames.data;
        for head in [start, data] {
            self.out[head + 5..head + FRAME_HEAD].copy_from_slice(&self.next.to_be_bytes());
        }
        self.calls.push(Call {
            stream: self.next,
            sent: Instant::now(),
            received: 0,
        });
        self.next += 2;
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.stream.write_all(&self.out)?;
            self.out.clear();
        }
        Ok(())
    }

    /// Reads what has come, and writes what follows from it.
    fn turn(&mut self, frames: &Frames, tally: &mut Tally) -> io::Result<()> {
        let count = self.stream.read(&mut self.received[self.to..])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.to += count;
        tally.now = Instant::now();
        while let Some(end) = self.frame_end() {
            self.take(end, frames, tally)?;
            self.from = end;
        }
        self.received.copy_within(self.from..self.to, 0);
        (self.from, self.to) = (0, self.to - self.from);
        self.flush()
    }

    /// Where the next frame ends, if it is whole.
    fn frame_end(&self) -> Option<usize> {
        let [a, b, c] = *self.received[self.from..self.to].first_chunk()?;
        let end = self.from + FRAME_HEAD + u32::from_be_bytes([0, a, b, c]) as usize;
        (end <= self.to).then_some(end)
    }

    fn take(&mut self, end: usize, frames: &Frames, tally: &mut Tally) -> io::Result<()> {
        let (head, payload) = self.received[self.from..end].split_at(FRAME_HEAD);
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        match kind {
            kind::DATA | kind::HEADERS => {
                let place = self.calls.iter().position(|call| call.stream == stream);
                let place = place.ok_or_else(|| io::Error::other("an answer to a call that was not made"))?;
                if kind == kind::DATA {
                    tally.data(payload);
                    self.calls[place].received += payload.len();
                    self.untold += payload.len() as u32;
                }
                if flags & flag::END_STREAM != 0 {
                    let call = self.calls.swap_remove(place);
                    tally.answered(&call)?;
                    self.call(frames);
                }
            }
            kind::SETTINGS if flags & flag::ACK == 0 => frame(&mut self.out, kind::SETTINGS, flag::ACK, &[]),
            kind::PING if flags & flag::ACK == 0 => frame(&mut self.out, kind::PING, flag::ACK, payload),
            kind::SETTINGS | kind::PING | kind::WINDOW_UPDATE => {}
            other => {
                return Err(io::Error::other(format!(
                    "a frame of kind {other} for stream {stream}: {payload:?}"
                )));
            }
        }
        if self.untold > WIDENED / 2 {
            frame(&mut self.out, kind::WINDOW_UPDATE, 0, &self.untold.to_be_bytes());
            self.untold = 0;
        }
        Ok(())
    }
}

/// Counts while a run lasts.
struct Tally {
    now: Instant,
    from: Instant,
    length: Duration,
    /// The thread's CPU time when the window was seen to open.
    opened: Option<Duration>,
    in_all: u64,
    answered: u64,
    latencies: Histogram<u64>,
    /// The first answer, with what precedes its message: every other is as long.
    answer: Vec<u8>,
}

impl Tally {
    fn new(from: Instant, length: Duration) -> Self {
        Self {
            now: Instant::now(),
            from,
            length,
            opened: None,
            in_all: 0,
            answered: 0,
            latencies: Histogram::new_with_bounds(100, 60_000_000_000, 3).expect("these bounds fit"),
            answer: Vec::new(),
        }
    }

    fn goes_on(&mut self) -> bool {
        if self.opened.is_none() && self.now >= self.from {
            self.opened = Some(thread_cpu());
        }
        self.now < self.from + self.length
    }

    fn data(&mut self, payload: &[u8]) {
        // A small answer is one frame.
        if self.answer.is_empty() {
            self.answer = payload.to_vec();
        }
    }

    fn answered(&mut self, call: &Call) -> io::Result<()> {
        if call.received == 0 || call.received != self.answer.len() {
            let expected = self.answer.len();
            let found = call.received;
            return Err(io::Error::other(format!(
                "expected an answer of {expected} bytes, found one of {found}: 0 means that the call failed"
            )));
        }
        self.in_all += 1;
        if self.now >= self.from {
            self.answered += 1;
            let latency = self.now - call.sent;
            self.latencies.saturating_record(latency.as_nanos() as u64);
        }
        Ok(())
    }

    fn report(self) -> Report {
        let quantile = |q| Duration::from_nanos(self.latencies.value_at_quantile(q));
        let seconds = (self.now - self.from).as_secs_f64();
        let cpu = self.opened.map_or(Duration::ZERO, |opened| thread_cpu() - opened);
        Report {
            in_all: self.in_all,
            per_second: self.answered as f64 / seconds,
            p50: quantile(0.5),
            p99: quantile(0.99),
            generator: cpu.as_secs_f64() / seconds,
            answer: self.answer.get(5..).unwrap_or_default().to_vec(),
        }
    }
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
