//! Sequences that each send a message every so often, whatever the server does: an open loop over a few WebSockets.
//!
//! The phases of the sequences are spread evenly over the period, and neighbours in time are on different sockets, as if
//! nobody had arranged them. A latency counts from when its message was due. Messages that are due within
//! [`BETWEEN_WAKES`] are sent together, which delays some of them by so much and is counted as well: to wake for each would
//! cost the server's cores more.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use serde_json::json;

use super::pipelined::open;
use super::poller::{Events, Poller};
use super::report::Recorder;
use super::socket::{Finder, Message, NUMBER, Socket, Template, json_of};
use super::window::{FineTimer, Window};
use super::{DRAIN_LIMIT, LoadError, LoadReport, SCRATCH};

/// Shortest rest between two looks at what is due.
const BETWEEN_WAKES: Duration = Duration::from_micros(250);
/// A run is given up when so many periods' messages are unanswered: below the window of a sequence, which is 64.
const MOST_BEHIND: u64 = 32;

/// Sequences: what they send, where, and how often.
pub struct StreamLoad<'a> {
    /// Where the server listens.
    pub address: SocketAddr,
    /// Their model.
    pub model: &'a str,
    /// How many.
    pub streams: usize,
    /// The name of the first; the others follow.
    pub first: u64,
    /// Over how many connections.
    pub sockets: usize,
    /// Between two messages of one sequence.
    pub period: Duration,
    /// The message; the number in it is the name of its sequence.
    pub message: Template,
    /// What stands behind the message of this number, from 1.
    pub tensors: Box<dyn Fn(u64) -> &'a [u8] + 'a>,
    /// What the outcome of the message of this number must be: it is given its JSON and its raw tensors. Every outcome is
    /// looked at, so it ought to be quick.
    pub check: StreamCheck<'a>,
}

type StreamCheck<'a> = Box<dyn Fn(u64, &[u8], &[u8]) -> Result<(), String> + 'a>;

/// Sequences that were started, and live while this does and a while longer.
pub struct Streams<'a> {
    load: StreamLoad<'a>,
    poller: Poller,
    sockets: Vec<Socket>,
    /// Messages that each has sent in the runs before this one.
    before: u64,
    /// Outcomes of each.
    outcomes: Vec<u64>,
    sequence: Finder,
    number: Finder,
    scratch: Vec<u8>,
}

impl<'a> Streams<'a> {
    /// Connects.
    pub fn connect(load: StreamLoad<'a>) -> Result<Self, LoadError> {
        if load.streams == 0 || load.sockets == 0 || load.period.is_zero() {
            return Err(LoadError::Invalid("a load needs a stream, a connection and a period"));
        }
        let poller = Poller::new()?;
        let mut sockets = Vec::new();
        for index in 0..load.sockets {
            let socket = open(load.address, load.model)?;
            poller.watch(&socket.stream, index)?;
            sockets.push(socket);
        }
        Ok(Self {
            poller,
            sockets,
            before: 0,
            outcomes: vec![0; load.streams],
            sequence: Finder::new("\"sequence_id\":\""),
            number: Finder::new("\"sequence_number\":"),
            scratch: vec![0; SCRATCH],
            load,
        })
    }

    /// Starts the sequences, and waits until all are.
    pub fn start(&mut self) -> Result<(), LoadError> {
        let start = Template::text(&json!({"type": "start", "sequence_id": NUMBER}).to_string());
        for stream in 0..self.load.streams {
            let socket = stream % self.load.sockets;
            start.put(self.load.first + stream as u64, self.sockets[socket].outgoing());
        }
        for socket in &mut self.sockets {
            socket.flush()?;
        }
        let (mut started, give_up) = (0, Instant::now() + DRAIN_LIMIT);
        let mut events = Events::of(self.load.sockets);
        while started < self.load.streams {
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(LoadError::Invalid("not all sequences were started in time"));
            }
            for (index, _) in self.poller.wait(&mut events, left)? {
                let socket = &mut self.sockets[index];
                socket.flush()?;
                socket.read(&mut self.scratch, |message, _| {
                    let json = message.payload;
                    if json.starts_with(b"{\"type\":\"started\"") {
                        started += 1;
                    } else if !json.starts_with(b"{\"type\":\"ready\"") {
                        return Err(LoadError::WrongAnswer(String::from_utf8_lossy(json).into_owned()));
                    }
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    /// Sends so many messages of each sequence, of which the first few are not counted, on the calling thread. Returns
    /// when all are answered, when the first one has another outcome than outputs, or when the server is far behind; the
    /// last two are errors in the report.
    pub fn run(&mut self, messages: u64, uncounted: u64) -> Result<LoadReport, LoadError> {
        let _slack = FineTimer::set();
        let streams = self.load.streams as u64;
        let periods = |count: u64| self.load.period.mul_f64(count as f64);
        let start = Instant::now();
        let counted = messages.saturating_sub(uncounted);
        let mut run = Run {
            start,
            interval: self.load.period.as_nanos() as f64 / streams as f64,
            streams,
            uncounted,
            recorder: Recorder::new()?,
            window: Window::new(start + periods(uncounted), periods(counted)),
            sent: 0,
            answered: 0,
            failed: false,
        };
        let all = messages * streams;
        let mut events = Events::of(self.load.sockets);
        let mut touched = vec![false; self.load.sockets];
        loop {
            let now = Instant::now();
            run.window.observe(now);
            while run.sent < all && run.due(run.sent) <= now {
                let (stream, number) = (run.sent % streams, run.sent / streams + 1 + self.before);
                let socket = stream as usize % self.load.sockets;
                let outgoing = self.sockets[socket].outgoing();
                self.load.message.put(self.load.first + stream, outgoing);
                outgoing.extend_from_slice((self.load.tensors)(number));
                touched[socket] = true;
                run.sent += 1;
            }
            for (touched, socket) in touched.iter_mut().zip(&mut self.sockets) {
                if std::mem::take(touched) {
                    socket.flush()?;
                }
            }
            if run.answered == all || run.failed {
                break;
            }
            if run.sent - run.answered > streams * MOST_BEHIND || now > run.window.to + DRAIN_LIMIT {
                run.recorder
                    .failed(DRAIN_LIMIT, None, || "the server is far behind".to_owned());
                break;
            }
            let next = if run.sent < all {
                run.due(run.sent)
            } else {
                now + DRAIN_LIMIT
            };
            let rest = next.saturating_duration_since(now).max(BETWEEN_WAKES);
            for (index, flags) in self.poller.wait(&mut events, rest)? {
                if flags.contains(EventFlags::IN) {
                    self.read(index, &mut run)?;
                }
                self.sockets[index].flush()?;
                if flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
                    return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
                }
            }
        }
        self.before += messages;
        Ok(run.recorder.report(&run.window, 0))
    }

    fn read(&mut self, socket: usize, run: &mut Run) -> Result<(), LoadError> {
        let now = Instant::now();
        self.sockets[socket].read(&mut self.scratch, |Message { payload, is_binary }, _| {
            let (json, tensors) = json_of(payload, is_binary).map_err(LoadError::WrongAnswer)?;
            let unexpected = || String::from_utf8_lossy(json).into_owned();
            let wrong = || LoadError::WrongAnswer(unexpected());
            if !json.starts_with(b"{\"type\":\"output\"") {
                run.failed = true;
                run.recorder.failed(Duration::ZERO, None, unexpected);
                return Ok(());
            }
            let stream = self
                .sequence
                .find(json)
                .ok_or_else(wrong)?
                .wrapping_sub(self.load.first);
            let number = self.number.find(json).ok_or_else(wrong)?;
            let outcomes = self.outcomes.get_mut(stream as usize).ok_or_else(wrong)?;
            *outcomes += 1;
            if number != *outcomes || number <= self.before {
                return Err(wrong());
            }
            (self.load.check)(number, json, tensors).map_err(LoadError::WrongAnswer)?;
            run.outcome(stream, number - 1 - self.before, now);
            Ok(())
        })
    }
}

struct Run {
    start: Instant,
    /// Nanoseconds from one message to the next, of whatever sequence.
    interval: f64,
    streams: u64,
    uncounted: u64,
    recorder: Recorder,
    window: Window,
    sent: u64,
    answered: u64,
    failed: bool,
}

impl Run {
    /// When a message is due, counted over all sequences.
    fn due(&self, place: u64) -> Instant {
        self.start + Duration::from_nanos((place as f64 * self.interval) as u64)
    }

    fn outcome(&mut self, stream: u64, round: u64, now: Instant) {
        self.answered += 1;
        if self.window.contains(now) {
            self.recorder.arrived_in_window();
        }
        if round >= self.uncounted {
            let due = self.due(round * self.streams + stream);
            self.recorder.answered(now - due);
        }
    }
}
