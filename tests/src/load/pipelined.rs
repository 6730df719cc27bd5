//! A closed loop over WebSockets: so many requests are in flight on each, and each answer sends the next.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;

use super::poller::{Events, Poller};
use super::report::Recorder;
use super::socket::{Finder, Message, Socket, Template, json_of};
use super::window::Window;
use super::{DRAIN_LIMIT, LoadError, LoadReport, SCRATCH};

/// One in so many answers is looked at, beside the first of each socket.
const SAMPLED: u64 = 256;

/// Requests over WebSockets: what to send, where, and for how long.
#[derive(Clone, Debug)]
pub struct PipelinedLoad<'a> {
    /// Where the server listens.
    pub address: SocketAddr,
    /// Whose stream is opened.
    pub model: &'a str,
    /// Connections.
    pub sockets: usize,
    /// Requests in flight on each.
    pub depth: usize,
    /// The request; the number in it is its `id`.
    pub request: Template,
    /// How long to send before anything is counted.
    pub warm_up: Duration,
    /// How long the counted window is.
    pub duration: Duration,
}

/// Says what is wrong with an answer, of which it is given the JSON and what is raw behind it.
pub type MessageCheck<'a> = dyn Fn(&[u8], &[u8]) -> Result<(), String> + 'a;

impl PipelinedLoad<'_> {
    /// Runs on the calling thread. The first answer on each socket and a sample of the others must pass the check, whatever
    /// their length. One that does not ends the run, and so does a broken connection.
    pub fn run_checked(&self, check: &MessageCheck<'_>) -> Result<LoadReport, LoadError> {
        if self.sockets == 0 || self.depth == 0 || self.duration.is_zero() {
            return Err(LoadError::Invalid(
                "a load needs a connection, a request and a duration",
            ));
        }
        let poller = Poller::new()?;
        let mut lanes = Vec::new();
        for index in 0..self.sockets {
            let socket = open(self.address, self.model)?;
            poller.watch(&socket.stream, index)?;
            lanes.push(Lane {
                socket,
                since: vec![None; self.depth],
                answers: 0,
            });
        }
        let mut run = Run {
            load: self,
            check,
            recorder: Recorder::new()?,
            window: Window::new(Instant::now() + self.warm_up, self.duration),
            in_flight: 0,
            id: Finder::new("\"id\":\""),
        };
        run.until_drained(&poller, &mut lanes)?;
        Ok(run.recorder.report(&run.window, 0))
    }
}

/// Connects.
pub(super) fn open(address: SocketAddr, model: &str) -> Result<Socket, LoadError> {
    Socket::open(address, model).map_err(|source| LoadError::Connect { address, source })
}

/// A socket and what is in flight on it.
struct Lane {
    socket: Socket,
    /// When the request of each number was sent.
    since: Vec<Option<Instant>>,
    answers: u64,
}

struct Run<'a> {
    load: &'a PipelinedLoad<'a>,
    check: &'a MessageCheck<'a>,
    recorder: Recorder,
    window: Window,
    in_flight: usize,
    id: Finder,
}

impl Run<'_> {
    fn until_drained(&mut self, poller: &Poller, lanes: &mut [Lane]) -> Result<(), LoadError> {
        for lane in &mut *lanes {
            let now = Instant::now();
            for number in 0..self.load.depth {
                self.load.request.put(number as u64, lane.socket.outgoing());
                lane.since[number] = Some(now);
                self.in_flight += 1;
            }
            lane.socket.flush()?;
        }
        let mut events = Events::of(self.load.sockets);
        let mut scratch = vec![0; SCRATCH];
        loop {
            let now = Instant::now();
            self.window.observe(now);
            if self.window.is_over() && (self.in_flight == 0 || now >= self.window.to + DRAIN_LIMIT) {
                break;
            }
            let boundary = [self.window.from, self.window.to, self.window.to + DRAIN_LIMIT];
            let boundary = boundary.into_iter().find(|boundary| *boundary > now).unwrap_or(now);
            for (index, flags) in poller.wait(&mut events, boundary - now)? {
                let lane = &mut lanes[index];
                if flags.contains(EventFlags::IN) {
                    self.read(lane, &mut scratch)?;
                }
                lane.socket.flush()?;
                if flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
                    return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
                }
            }
        }
        let now = Instant::now();
        for since in lanes.iter().flat_map(|lane| &lane.since).flatten() {
            if self.window.contains(*since) {
                self.recorder.failed(now - *since, None, || "no answer".to_owned());
            }
        }
        Ok(())
    }

    fn read(&mut self, lane: &mut Lane, scratch: &mut [u8]) -> Result<(), LoadError> {
        let now = Instant::now();
        let Lane { socket, since, answers } = lane;
        socket.read(scratch, |message, outgoing| {
            let Some(number) = self.answered(&message, since, answers, now)? else {
                return Ok(());
            };
            if now < self.window.to {
                self.load.request.put(number as u64, outgoing);
                since[number] = Some(now);
                self.in_flight += 1;
            }
            Ok(())
        })
    }

    /// Counts an answer. Returns its number; `None` for a message that is no answer.
    fn answered(
        &mut self,
        message: &Message<'_>,
        since: &mut [Option<Instant>],
        answers: &mut u64,
        now: Instant,
    ) -> Result<Option<usize>, LoadError> {
        let (json, tensors) = json_of(message.payload, message.is_binary).map_err(LoadError::WrongAnswer)?;
        if json.starts_with(b"{\"type\":\"ready\"") {
            return Ok(None);
        }
        let unexpected = || LoadError::WrongAnswer(String::from_utf8_lossy(json).into_owned());
        let number = self.id.find(json).ok_or_else(unexpected)? as usize;
        let sent = since.get_mut(number).and_then(Option::take).ok_or_else(unexpected)?;
        self.in_flight -= 1;
        let counts = self.window.contains(sent);
        if !json.starts_with(b"{\"type\":\"output\"") {
            if counts {
                let why = || String::from_utf8_lossy(json).into_owned();
                self.recorder.failed(now - sent, None, why);
            }
            return Ok(Some(number));
        }
        if answers.is_multiple_of(SAMPLED) {
            (self.check)(json, tensors).map_err(LoadError::WrongAnswer)?;
        }
        *answers += 1;
        if self.window.contains(now) {
            self.recorder.arrived_in_window();
        }
        if counts {
            self.recorder.answered(now - sent);
        }
        Ok(Some(number))
    }
}
