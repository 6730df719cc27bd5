//! Sequences under way: patients' beds whose signals go to the model `vitals`, message by message, at whatever node takes
//! them. Each output is compared with that of the model run in one piece; numbers must come without gap or repeat.
//!
//! A bed does as `docs/streaming.md` tells clients to: when its connection breaks, falls silent, or is fenced off, it resumes
//! at the next node by name, token and the last number that it heard of.

use std::fs;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::repository_root;
use crate::stream::{Stream, StreamError};

/// The model.
const MODEL: &str = "vitals";
/// Messages that a bed has sent and not heard of, at most.
const IN_FLIGHT: u64 = 4;
/// A connection that owes outputs and says nothing for so long is given up: its node may be frozen.
const SILENCE: Duration = Duration::from_secs(1);
/// Longest that a sequence may be away.
const AWAY: Duration = Duration::from_secs(60);
/// Between two attempts.
const REST: Duration = Duration::from_millis(20);
/// Another batch rounds otherwise.
const TOLERANCE: f64 = 1e-4;
/// What went wrong first is kept.
const KEPT: usize = 10;

/// Samples of a patient, and what the model run in one piece says of them.
#[derive(Debug)]
pub struct Recording(Vec<Value>);

impl Recording {
    /// The recording that comes with the model.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn load() -> Self {
        let path = repository_root().join("configs/models").join(MODEL).join("stream.json");
        let text = fs::read_to_string(path).expect("a recording");
        let mut recording: Value = serde_json::from_str(&text).expect("a recording in JSON");
        let Value::Array(steps) = recording["steps"].take() else {
            panic!("a recording has steps")
        };
        Self(steps)
    }

    /// Messages in it.
    pub fn messages(&self) -> u64 {
        self.0.len() as u64
    }

    fn step(&self, number: u64) -> &Value {
        &self.0[usize::try_from(number).expect("a small number") - 1]
    }

    /// Message `number` of the sequence `id`, from 1.
    ///
    /// # Panics
    /// When the recording is shorter.
    pub fn message(&self, id: &str, number: u64) -> Value {
        let input = json!({"name": "sample", "datatype": "FP32", "shape": [1, 3], "data": self.step(number)["sample"]});
        let end = number == self.messages();
        let parameters = json!({"sequence_id": id, "sequence_number": number, "sequence_end": end});
        json!({"inputs": [input], "parameters": parameters})
    }

    /// Checks that an output is that of message `number`, with the right scores.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self, output: &Value, number: u64) -> Result<(), String> {
        let wrong = || format!("expected the output of message {number}, found {output}");
        let outputs = output["outputs"].as_array().ok_or_else(wrong)?;
        let score = outputs.iter().find(|output| output["name"] == "score");
        let found = score.and_then(|score| score["data"].as_array()).ok_or_else(wrong)?;
        let expected = self.step(number)["score"].as_array().ok_or_else(wrong)?;
        let is_near = |(found, expected): (&Value, &Value)| match (found.as_f64(), expected.as_f64()) {
            (Some(found), Some(expected)) => (found - expected).abs() <= TOLERANCE * expected.abs().max(1.0),
            _ => false,
        };
        let is_right = output["parameters"]["sequence_number"] == number
            && found.len() == expected.len()
            && found.iter().zip(expected).all(is_near);
        is_right.then_some(()).ok_or_else(wrong)
    }
}

/// Beds at work. Dropping them stops them.
#[derive(Debug)]
pub struct Beds {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    nodes: Vec<SocketAddr>,
    /// Between an output and the next message.
    pace: Duration,
    recording: Recording,
    stop: AtomicBool,
    outputs: AtomicU64,
    report: Mutex<BedsReport>,
}

/// What beds saw.
#[derive(Clone, Debug, Default)]
pub struct BedsReport {
    /// Outputs, each of them right.
    pub outputs: u64,
    /// Sequences that came to their end.
    pub ended: u64,
    /// For each time that a sequence went on elsewhere: from its last output before to the next new one.
    pub gaps: Vec<Duration>,
    /// Outputs that were not durable, and came twice.
    pub again: u64,
    /// What went wrong.
    pub wrong: Vec<String>,
}

impl BedsReport {
    /// Fails the test when anything went wrong, or nothing went on.
    #[track_caller]
    pub fn assert_right(&self) {
        assert!(self.outputs > 0, "there were no outputs");
        assert!(self.wrong.is_empty(), "{:#?}", self.wrong);
    }
}

impl Beds {
    /// So many sequences at once, evenly spread over the nodes; where one ends, the next one begins.
    pub fn start(nodes: Vec<SocketAddr>, beds: usize, pace: Duration) -> Self {
        let shared = Arc::new(Shared {
            nodes,
            pace,
            recording: Recording::load(),
            stop: AtomicBool::new(false),
            outputs: AtomicU64::new(0),
            report: Mutex::default(),
        });
        let bed = |number: usize| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let mut at = number;
                for patient in 0.. {
                    let mut bed = Bed::new(&shared, format!("bed-{number}-{patient}"), at);
                    if let Err(reason) = bed.last_to_its_end() {
                        let mut report = shared.report();
                        if report.wrong.len() < KEPT {
                            report.wrong.push(format!("{}: {reason}", bed.id));
                        }
                    }
                    if shared.stop.load(Ordering::Relaxed) {
                        return;
                    }
                    at = number;
                }
            })
        };
        Self {
            threads: (0..beds).map(bed).collect(),
            shared,
        }
    }

    /// Waits until there were so many more outputs.
    #[track_caller]
    pub fn go_on(&self, more: u64) {
        let outputs = || self.shared.outputs.load(Ordering::Relaxed);
        let enough = outputs() + more;
        crate::embedded::eventually("sequences go on", || {
            outputs() >= enough || !self.shared.report().wrong.is_empty()
        });
    }

    /// What they saw since the start, or since this was last called.
    pub fn take(&self) -> BedsReport {
        std::mem::take(&mut *self.shared.report())
    }

    /// Stops them where they are. What they saw since the start, or since [`Beds::take`].
    pub fn stop(mut self) -> BedsReport {
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

impl Drop for Beds {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn report(&self) -> MutexGuard<'_, BedsReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One sequence, from its start to its end.
struct Bed<'a> {
    shared: &'a Shared,
    id: String,
    /// The node that it is at, counted on beyond the last.
    at: usize,
    token: String,
    /// The last number that was heard of, and the highest that ever was.
    last: u64,
    highest: u64,
    sent: u64,
    last_output: Instant,
    is_away: bool,
}

/// Why a connection does not go on.
enum Broken {
    /// As networks and nodes break: elsewhere it goes on.
    Elsewhere(String),
    /// It must not be.
    Wrong(String),
}

impl From<StreamError> for Broken {
    fn from(error: StreamError) -> Self {
        Self::Elsewhere(error.to_string())
    }
}

impl<'a> Bed<'a> {
    fn new(shared: &'a Shared, id: String, at: usize) -> Self {
        Self {
            shared,
            id,
            at,
            token: String::new(),
            last: 0,
            highest: 0,
            sent: 0,
            last_output: Instant::now(),
            is_away: false,
        }
    }

    fn last_to_its_end(&mut self) -> Result<(), String> {
        let mut reason = String::new();
        while self.last_output.elapsed() < AWAY {
            let connected = self.connect();
            match connected.and_then(|mut stream| self.stay(&mut stream)) {
                Ok(()) => return Ok(()),
                Err(Broken::Wrong(reason)) => return Err(reason),
                Err(Broken::Elsewhere(why)) => reason = why,
            }
            if self.shared.stop.load(Ordering::Relaxed) && self.token.is_empty() {
                return Ok(());
            }
            self.is_away = !self.token.is_empty();
            self.at += 1;
            thread::sleep(REST);
        }
        Err(format!(
            "it was away for {AWAY:?}, after message {}: {reason}",
            self.last
        ))
    }

    /// A connection on which the sequence is read.
    fn connect(&mut self) -> Result<Stream, Broken> {
        let node = self.shared.nodes[self.at % self.shared.nodes.len()];
        let mut stream = Stream::connect_within(node, MODEL, SILENCE)?;
        if self.token.is_empty() {
            stream.send(&json!({"type": "start", "sequence_id": self.id}))?;
            let started = stream.receive()?;
            if started["type"] != "started" {
                return Err(broken_by(&started));
            }
            self.token = started["sequence_token"].as_str().unwrap_or_default().to_owned();
            self.last_output = Instant::now();
            return Ok(stream);
        }
        loop {
            stream.resume(&self.id, &self.token, self.last)?;
            let answer = stream.receive()?;
            if answer["kind"] == "sequence_ahead" {
                // What came after was not durable.
                let survived = answer["sequence_number"].as_u64().unwrap_or(u64::MAX);
                if survived >= self.last {
                    return Err(Broken::Wrong(format!("not behind {}: {answer}", self.last)));
                }
                self.shared.report().again += self.last - survived;
                self.last = survived;
                continue;
            }
            if answer["type"] != "resumed" {
                return Err(broken_by(&answer));
            }
            let next = answer["next"].as_u64().unwrap_or(0);
            if next <= self.last || next > self.sent + 1 {
                return Err(Broken::Wrong(format!(
                    "sent {}, heard {}: {answer}",
                    self.sent, self.last
                )));
            }
            self.sent = next - 1;
            return Ok(stream);
        }
    }

    /// Sends and hears, until it has ended or the connection does not go on.
    fn stay(&mut self, stream: &mut Stream) -> Result<(), Broken> {
        loop {
            while !self.is_over() && self.sent < self.last + IN_FLIGHT && self.sent < self.shared.recording.messages() {
                stream.send(&self.shared.recording.message(&self.id, self.sent + 1))?;
                self.sent += 1;
            }
            if self.is_over() && self.last == self.sent {
                return Ok(());
            }
            if let ControlFlow::Break(()) = self.hear(&stream.receive()?)? {
                return Ok(());
            }
        }
    }

    fn is_over(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    fn hear(&mut self, said: &Value) -> Result<ControlFlow<()>, Broken> {
        match said["type"].as_str() {
            Some("output") => {
                let checked = self.shared.recording.check(said, self.last + 1);
                checked.map_err(Broken::Wrong)?;
                self.last += 1;
                self.shared.outputs.fetch_add(1, Ordering::Relaxed);
                let mut report = self.shared.report();
                report.outputs += 1;
                if self.last > self.highest {
                    if std::mem::take(&mut self.is_away) {
                        report.gaps.push(self.last_output.elapsed());
                    }
                    self.highest = self.last;
                    self.last_output = Instant::now();
                }
                drop(report);
                thread::sleep(self.shared.pace);
                Ok(ControlFlow::Continue(()))
            }
            Some("durable") => Ok(ControlFlow::Continue(())),
            Some("ended") if said["last"] == self.shared.recording.messages() && said["last"] == self.last => {
                self.shared.report().ended += 1;
                Ok(ControlFlow::Break(()))
            }
            Some("fenced" | "moved") => Err(Broken::Elsewhere(said.to_string())),
            _ => Err(broken_by(said)),
        }
    }
}

/// An error that says that it may be tried again, or one that must not be.
fn broken_by(said: &Value) -> Broken {
    let text = said.to_string();
    match said["type"] == "error" && said["retry"] == true {
        true => Broken::Elsewhere(text),
        false => Broken::Wrong(text),
    }
}
