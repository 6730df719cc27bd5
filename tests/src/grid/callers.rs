//! Callers of a grid: connections spread over its nodes, on which one question after the other is asked and each answer
//! compared with the right one.
//!
//! Not [`Load`](crate::load::Load): that one measures one server, and a request on a connection that breaks is an error
//! of it. A caller of a grid has more than one node to ask: when its connection breaks, or none is taken, it asks the
//! next node, and a request has failed only when its deadline has passed without the right answer, or another one came.
//!
//! A caller on a thread of its own waits for its answer, which costs more than an event loop does; both sides of a ratio
//! pay that.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::Value;

use crate::load::InferRequest;
use crate::process::{HttpError, read_head};

/// Another runtime rounds otherwise, and another batch too.
const TOLERANCE: f64 = 1e-4;
/// How long a connection may take to be made: on loopback it takes more only where nobody answers.
const CONNECT: Duration = Duration::from_secs(1);
/// How long a caller rests that no node took.
const REST: Duration = Duration::from_millis(5);
/// Requests after which a caller that had to leave its node tries it again, so that load comes back to who comes back.
const HOME_AGAIN: u32 = 50;
/// Failures whose reasons are kept.
const KEPT_FAILURES: usize = 10;
/// The longest latency that is told apart from a longer one.
const LONGEST: Duration = Duration::from_secs(120);

/// A request, and what its answer must say.
#[derive(Clone, Debug)]
pub struct Question {
    model: String,
    request: Vec<u8>,
    expected: Value,
}

impl Question {
    /// Asks `model` what the sample of the model in `folder` asks, and expects what is written there.
    ///
    /// # Panics
    /// When the folder has no sample or no expectation.
    pub fn of(model: &str, folder: &Path) -> Self {
        let request = InferRequest::from_sample(model, &folder.join("sample.json")).expect("a sample");
        let expected = std::fs::read(folder.join("expected.json")).expect("an expectation");
        Self {
            model: model.to_owned(),
            request: request.json(),
            expected: serde_json::from_slice(&expected).expect("an expectation in JSON"),
        }
    }

    /// The model that is asked.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Asks one node, on a connection of its own.
    ///
    /// # Errors
    /// What was wrong with the answer, if there was any.
    pub fn ask(&self, node: SocketAddr, within: Duration) -> Result<(), String> {
        let deadline = Instant::now() + within;
        let failed = |error: HttpError| format!("{node}: {error:?}");
        let mut stream = connect(node, deadline).map_err(failed)?;
        let answer = exchange(&mut stream, &self.request, deadline).map_err(failed)?;
        self.check(answer.status, &answer.body)
    }

    fn check(&self, status: u16, body: &[u8]) -> Result<(), String> {
        let text = || String::from_utf8_lossy(&body[..body.len().min(500)]);
        if status != 200 {
            return Err(format!("{} was answered with {status}: {}", self.model, text()));
        }
        let answer: Value = serde_json::from_slice(body).map_err(|error| format!("{error}: {}", text()))?;
        let is_right = answer["model_name"] == self.model.as_str() && self.is_answered_by(&answer);
        is_right
            .then_some(())
            .ok_or_else(|| format!("{} was answered wrongly: {}", self.model, text()))
    }

    fn is_answered_by(&self, answer: &Value) -> bool {
        let outputs = |of: &Value| of["outputs"].as_array().cloned().unwrap_or_default();
        let (expected, given) = (outputs(&self.expected), outputs(answer));
        let is_near = |(a, b): (&Value, &Value)| match (a.as_f64(), b.as_f64()) {
            (Some(a), Some(b)) => (a - b).abs() < TOLERANCE,
            _ => false,
        };
        let same = |(a, b): (&Value, &Value)| {
            let numbers = |of: &Value| of["data"].as_array().cloned().unwrap_or_default();
            let (left, right) = (numbers(a), numbers(b));
            a["name"] == b["name"] && left.len() == right.len() && left.iter().zip(&right).all(is_near)
        };
        !given.is_empty() && expected.len() == given.len() && expected.iter().zip(&given).all(same)
    }
}

/// Who asks what, whom, and how often.
#[derive(Clone, Debug)]
pub struct CallersOptions {
    /// The nodes; callers begin evenly spread over them.
    pub nodes: Vec<SocketAddr>,
    /// How many call at once, each on a connection of its own.
    pub callers: usize,
    /// What they ask, in turns.
    pub questions: Vec<Question>,
    /// How long after a request was sent, or was due, its answer must be there.
    pub deadline: Duration,
    /// Requests that are due a second, of all callers together; none for a closed loop, in which each caller asks as soon
    /// as it has its answer.
    pub per_second: Option<f64>,
}

/// Callers at work. Dropping them stops them.
#[derive(Debug)]
pub struct Callers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    options: CallersOptions,
    start: Instant,
    stop: AtomicBool,
    /// Requests of the open loop that were taken from the timetable.
    taken: AtomicU64,
    answered: AtomicU64,
    tally: Mutex<Tally>,
}

#[derive(Debug)]
struct Tally {
    latencies: Histogram<u64>,
    failed: u64,
    resent: u64,
    failures: Vec<String>,
    since: Instant,
}

/// What callers saw.
#[derive(Clone, Debug)]
pub struct CallersReport {
    /// Requests, failed ones too.
    pub requests: u64,
    /// Requests without their right answer by their deadline.
    pub failed: u64,
    /// What was wrong with the first of them, and when after the start.
    pub failures: Vec<String>,
    /// How often a request was sent again since its connection broke, or none was taken.
    pub resent: u64,
    /// Requests a second.
    pub per_second: f64,
    /// Half of the requests took at most so long, from when they were due.
    pub p50: Duration,
    /// 99 in 100 requests took at most so long.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

impl CallersReport {
    /// Fails the test when any request failed, or none was made.
    #[track_caller]
    pub fn assert_none_failed(&self) {
        assert!(self.requests > 0, "nothing was asked");
        assert_eq!(self.failed, 0, "of {} requests; {:#?}", self.requests, self.failures);
    }
}

impl Callers {
    /// Starts them.
    pub fn start(options: CallersOptions) -> Self {
        let shared = Arc::new(Shared {
            start: Instant::now(),
            stop: AtomicBool::new(false),
            taken: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            tally: Mutex::new(Tally::new()),
            options,
        });
        let caller = |number: usize| {
            let shared = Arc::clone(&shared);
            let nodes = shared.options.nodes.len();
            let mut caller = Caller {
                home: number % nodes,
                at: number % nodes,
                away: 0,
                turn: number,
                stream: None,
                last_right: vec![Vec::new(); shared.options.questions.len()],
                shared,
            };
            thread::spawn(move || caller.call())
        };
        Self {
            threads: (0..shared.options.callers).map(caller).collect(),
            shared,
        }
    }

    /// Requests that were answered rightly so far.
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Waits until so many more were answered: what went before has had its effect then.
    #[track_caller]
    pub fn go_on(&self, more: u64) {
        let enough = self.answered() + more;
        let answered = || self.answered() >= enough || !self.shared.tally().failures.is_empty();
        crate::embedded::eventually("requests are answered", answered);
    }

    /// What they saw since the start, or since this was last called.
    pub fn take(&self) -> CallersReport {
        std::mem::replace(&mut *self.shared.tally(), Tally::new()).report()
    }

    /// Stops them when each has its answer. What they saw since the start, or since [`Callers::take`].
    pub fn stop(mut self) -> CallersReport {
        self.end();
        self.take()
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the next request is due, or none when it is over.
    fn next_due(&self) -> Option<Instant> {
        if self.stop.load(Ordering::Relaxed) {
            return None;
        }
        let Some(per_second) = self.options.per_second else {
            return Some(Instant::now());
        };
        let place = self.taken.fetch_add(1, Ordering::Relaxed);
        let due = self.start + Duration::from_secs_f64(place as f64 / per_second);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        Some(due)
    }
}

impl Tally {
    fn new() -> Self {
        Self {
            latencies: Histogram::new_with_bounds(1_000, LONGEST.as_nanos() as u64, 3).expect("bounds that fit"),
            failed: 0,
            resent: 0,
            failures: Vec::new(),
            since: Instant::now(),
        }
    }

    fn report(self) -> CallersReport {
        let quantile = |q| Duration::from_nanos(self.latencies.value_at_quantile(q));
        CallersReport {
            requests: self.latencies.len(),
            failed: self.failed,
            resent: self.resent,
            per_second: self.latencies.len() as f64 / self.since.elapsed().as_secs_f64(),
            p50: quantile(0.5),
            p99: quantile(0.99),
            max: Duration::from_nanos(self.latencies.max()),
            failures: self.failures,
        }
    }
}

struct Caller {
    shared: Arc<Shared>,
    /// The node that it prefers, and the one that it is at.
    home: usize,
    at: usize,
    /// Requests since it is not at home.
    away: u32,
    turn: usize,
    stream: Option<TcpStream>,
    /// The last right answer to each question: the same bytes need no second look.
    last_right: Vec<Vec<u8>>,
}

impl Caller {
    fn call(&mut self) {
        while let Some(due) = self.shared.next_due() {
            let place = self.turn % self.shared.options.questions.len();
            self.turn += 1;
            let asked = self.at;
            let (outcome, resent) = self.ask(place, due);
            let took = due.elapsed();
            if outcome.is_ok() {
                self.shared.answered.fetch_add(1, Ordering::Relaxed);
            }
            let mut tally = self.shared.tally();
            tally.latencies.saturating_record(took.as_nanos() as u64);
            tally.resent += resent;
            if let Err(reason) = outcome {
                tally.failed += 1;
                if tally.failures.len() < KEPT_FAILURES {
                    let after = self.shared.start.elapsed();
                    let node = self.shared.options.nodes[asked];
                    tally.failures.push(format!(
                        "after {after:?}, first asked of {node}, within {took:?}: {reason}"
                    ));
                }
            }
        }
    }

    fn ask(&mut self, place: usize, due: Instant) -> (Result<(), String>, u64) {
        let shared = Arc::clone(&self.shared);
        let question = &shared.options.questions[place];
        let deadline = due + shared.options.deadline;
        self.go_home_again();
        for resent in 0.. {
            match self.exchange(&question.request, deadline) {
                Ok((status, body)) => {
                    if status == 200 && body == self.last_right[place] {
                        return (Ok(()), resent);
                    }
                    let checked = question.check(status, &body);
                    if checked.is_ok() {
                        self.last_right[place] = body;
                    }
                    return (checked, resent);
                }
                Err(error) => {
                    self.stream = None;
                    if Instant::now() >= deadline {
                        return (
                            Err(format!("{} had no answer by its deadline: {error:?}", question.model)),
                            resent,
                        );
                    }
                    self.at = (self.at + 1) % shared.options.nodes.len();
                    if self.at == self.home {
                        thread::sleep(REST);
                    }
                }
            }
        }
        unreachable!("it is sent again until its deadline")
    }

    fn go_home_again(&mut self) {
        if self.at == self.home {
            self.away = 0;
            return;
        }
        self.away += 1;
        if self.away >= HOME_AGAIN {
            (self.away, self.at, self.stream) = (0, self.home, None);
        }
    }

    fn exchange(&mut self, request: &[u8], deadline: Instant) -> Result<(u16, Vec<u8>), HttpError> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(connect(self.shared.options.nodes[self.at], deadline)?),
        };
        let answer = exchange(stream, request, deadline)?;
        if answer.closes {
            // The node leaves; the next one is asked next.
            self.stream = None;
            self.at = (self.at + 1) % self.shared.options.nodes.len();
        }
        Ok((answer.status, answer.body))
    }
}

struct Answer {
    status: u16,
    body: Vec<u8>,
    closes: bool,
}

fn connect(node: SocketAddr, deadline: Instant) -> Result<TcpStream, HttpError> {
    let stream = TcpStream::connect_timeout(&node, left(deadline).min(CONNECT))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn exchange(stream: &mut TcpStream, request: &[u8], deadline: Instant) -> Result<Answer, HttpError> {
    stream.set_read_timeout(Some(left(deadline)))?;
    stream.set_write_timeout(Some(left(deadline)))?;
    stream.write_all(request)?;
    let (head, mut body) = read_head(stream)?;
    let length: usize = head
        .header("content-length")
        .and_then(|length| length.parse().ok())
        .ok_or_else(|| HttpError::Malformed("a response without a content length".to_owned()))?;
    let received = body.len();
    body.resize(length, 0);
    if received < length {
        stream.read_exact(&mut body[received..])?;
    }
    Ok(Answer {
        status: head.status,
        body,
        closes: head
            .header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close")),
    })
}

/// The time that is left; a moment where none is, since a limit of none means for ever.
fn left(deadline: Instant) -> Duration {
    deadline
        .saturating_duration_since(Instant::now())
        .max(Duration::from_millis(1))
}
