//! A load generator for servers on loopback: HTTP/1.1 with keep-alive or WebSockets, one request for ever, one thread.
//!
//! Not `wrk`, `oha` or a client library: the generator shares two cores with the server that it measures, so what it costs
//! lowers both sides of a ratio and hides the difference between them. This one writes prebuilt bytes, reads a status and a
//! length, and asks the kernel for nothing else: edge-triggered epoll, one read and one write a request.
//! On two cores against a bare actix-web handler it spent 7 to 8 µs a request at 8 and 32 connections and 10 at one, of which
//! 0.6 µs outside the kernel; the same loop on tokio's current-thread runtime took 7 to 9 and 12 to 13.
//!
//! - A *closed loop* keeps one request in flight on each connection: what the server can do at that concurrency.
//! - An *open loop* has a timetable. A latency counts from the moment at which the request was due, not from when a
//!   connection was free to carry it, so a server that stalls cannot hide the requests that waited meanwhile.

mod connection;
mod infer_request;
mod pipelined;
mod poller;
mod report;
mod run;
mod socket;
mod streams;
#[cfg(test)]
mod tests;
mod window;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

pub use infer_request::{InferRequest, SampleError, http_request};
pub use pipelined::{MessageCheck, PipelinedLoad};
pub use report::LoadReport;
pub use socket::{NUMBER, Template, output_values};
pub use streams::{StreamLoad, Streams};

/// How long after the window the last answers are waited for; what is then missing counts as an error.
const DRAIN_LIMIT: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 10 });
/// Most bytes that are read at once.
const SCRATCH: usize = 256 * 1024;

/// What to send, where, and for how long.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where the server listens.
    pub address: SocketAddr,
    /// Connections, each with at most one request in flight.
    pub connections: usize,
    /// The whole request, head and body, as it goes over the wire.
    pub request: Vec<u8>,
    /// How long to send before anything is counted.
    pub warm_up: Duration,
    /// How long the counted window is.
    pub duration: Duration,
}

/// What an answer must be, beside having status 200.
///
/// A body is looked at once on each connection, so that checking costs nothing in the long run; its length is compared
/// on every answer.
#[derive(Default)]
pub struct Check {
    body: Option<BodyCheck>,
    any_length: bool,
}

type BodyCheck = Box<dyn Fn(&[u8]) -> Result<(), String>>;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The server took no connection.
    #[error("cannot connect to {address}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The operating system refused what the generator itself needs.
    #[error("the generator cannot {what}")]
    System {
        /// What it needed.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The answer has status 200 and is not the right one: no figure about it would mean anything.
    #[error("an answer that was looked at is wrong: {0}")]
    WrongAnswer(String),
    /// A WebSocket broke, and with it what was in flight.
    #[error("a connection broke: {0}")]
    Broken(#[from] io::Error),
    /// What was asked for cannot be run.
    #[error("{0}")]
    Invalid(&'static str),
}

/// When requests are sent.
#[derive(Clone, Copy, Debug)]
enum Pace {
    /// The next one as soon as the connection has its answer.
    Closed,
    /// One every so many nanoseconds, whatever the server does.
    Every { nanoseconds: f64 },
}

impl Load {
    /// Runs a closed loop on the calling thread.
    pub fn run(&self) -> Result<LoadReport, LoadError> {
        self.run_checked(&Check::default())
    }

    /// Runs a closed loop on the calling thread; the first answer on each connection must pass the check.
    pub fn run_checked(&self, check: &Check) -> Result<LoadReport, LoadError> {
        run::run(self, check, Pace::Closed)
    }

    /// Runs an open loop on the calling thread: so many requests are due a second, and each latency counts from when the
    /// request was due. A request waits while all connections are busy, so take enough of them.
    pub fn run_at(&self, per_second: f64, check: &Check) -> Result<LoadReport, LoadError> {
        if !per_second.is_finite() || per_second <= 0.0 {
            return Err(LoadError::Invalid(
                "the rate must be a positive number of requests a second",
            ));
        }
        run::run(
            self,
            check,
            Pace::Every {
                nanoseconds: 1e9 / per_second,
            },
        )
    }
}

impl Check {
    /// The body must be these bytes.
    pub fn equals(expected: Vec<u8>) -> Self {
        Self::holds(move |body| {
            if body == expected {
                return Ok(());
            }
            Err(format!(
                "expected {:?}, got {:?}",
                String::from_utf8_lossy(&expected),
                String::from_utf8_lossy(body)
            ))
        })
    }

    /// The body must pass this function, which says what is wrong with it.
    pub fn holds(body: impl Fn(&[u8]) -> Result<(), String> + 'static) -> Self {
        Self {
            body: Some(Box::new(body)),
            any_length: false,
        }
    }

    /// Lets answers differ in length: a batched model may round a number otherwise from batch to batch, and JSON then has
    /// a digit more or less.
    pub fn of_any_length(mut self) -> Self {
        self.any_length = true;
        self
    }
}
