//! How soon the compute for a request ends whose client takes it back or goes away: the target is one step, for 99 in 100.
//!
//! A node in this process serves scripted models whose runs note when they begin and end. Requests are left at moments that
//! fall evenly over the phases of a step, some steps after their first; measured is from just before the client's word, or
//! the end of its connection, to the end of the last step that had the request in it. The unit is the step that was asked
//! for. The step that is under way cannot be interrupted, so what the network and the wake-ups on the way take makes the
//! figure exceed one step as often as a step begins meanwhile: the last column counts those.
//!
//! - Models of several steps, alone, and while another model keeps every compute thread busy.
//! - A model of one step: at most the rest of its run.
//! - Requests that wait behind a run: none of them is to run.
//!
//! gRPC is not among the ways to leave yet: the harness has no client of it that can drop a call half-way without a runtime
//! of its own. It would be a [`Way`].
//!
//! `cargo bench -p grid-tests --bench cancellation -- [CANCELS]`

use std::error::Error;
use std::io::Write;
use std::net::TcpStream;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use grid_tests::bench::Arguments;
use grid_tests::embedded::{EmbeddedNode, Repository, infer_request};
use grid_tests::process::{HttpError, Response};
use grid_tests::stream::Stream;
use serde_json::json;

/// A step of the model that works in steps. Shorter than what a cancel takes, and there would be nothing to measure.
const STEP: Duration = Duration::from_millis(2);
/// The only step of the other one. From its length on a scripted run sleeps and takes no core.
const RUN: Duration = Duration::from_millis(20);
/// The compute has ended when no step has had the request for so long. Other models' turns lie between two steps.
const QUIET: Duration = Duration::from_millis(20);
/// Longest that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// Requests that wait together.
const WAITING: usize = 20;
const WAYS: [Way; 3] = [Way::Cancel, Way::SocketBroken, Way::HttpDropped];

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// How a client leaves a request.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// The word `cancel` on a WebSocket, which stays.
    Cancel,
    /// The end of its WebSocket's connection, without a word.
    SocketBroken,
    /// The end of the connection of its HTTP request.
    HttpDropped,
}

fn main() -> Result<()> {
    let cancels = Arguments::of_process().at(0, 300)?;
    println!(
        "from the cancel to the end of the compute, in steps; {cancels} cancels each; target: at most 1 for 99 in 100"
    );
    println!(
        "{:<34} {:>8} {:>7} {:>7} {:>7}   begun after it",
        "way", "step", "p50", "p99", "max"
    );
    for (label, model, step, busy) in [
        ("several steps", "steps", STEP, false),
        ("several steps, busy node", "steps", STEP, true),
        ("one step", "single", RUN, false),
    ] {
        println!("{label}");
        for way in WAYS {
            Row { model, step, way }.print(cancels, busy)?;
        }
    }
    println!("requests that waited: cancelled, and how many of them ran all the same");
    for way in WAYS {
        let (left, ran) = waiting(way, cancels)?;
        println!("  {:<32} {left:>8} {ran:>7}", way.name());
    }
    Ok(())
}

fn node() -> EmbeddedNode {
    let steps = format!("steps = 1\nrun_us = {}", STEP.as_micros());
    let single = format!("run_us = {}", RUN.as_micros());
    let repository = Repository::default()
        .with("steps", "instances = 1", &steps)
        .with("single", "instances = 1", &single)
        .with("beside", "", &steps);
    EmbeddedNode::start(repository, "limits.timeout = '1h'\nlimits.max_timeout = '1h'")
}

struct Row {
    model: &'static str,
    step: Duration,
    way: Way,
}

impl Row {
    fn print(&self, cancels: usize, busy: bool) -> Result<()> {
        let node = node();
        // More than fit into the instances, so that each has some whichever takes the first.
        let _beside: Vec<TcpStream> = (0..if busy { 8 } else { 0 })
            .map(|_| send(&node, "beside", 1e7))
            .collect::<Result<_>>()?;
        let (mut lengths, mut late) = (Vec::new(), 0);
        for number in 0..cancels {
            // The golden ratio spreads them over all phases.
            let phase = (number as f64 * 0.618_033_988_75).fract();
            // Of the model in steps this is how many it would take, and it takes that many only when a cancel is lost.
            let x = 10_000.0 + number as f32;
            let (length, begun_after) = self.measure(&node, x, phase)?;
            lengths.push(length.as_secs_f64() / self.step.as_secs_f64());
            late += begun_after;
        }
        lengths.sort_by(f64::total_cmp);
        let quantile = |share: f64| lengths[((lengths.len() - 1) as f64 * share).round() as usize];
        println!(
            "  {:<32} {:>5} ms {:>7.2} {:>7.2} {:>7.2}   {late}",
            self.way.name(),
            self.step.as_millis(),
            quantile(0.5),
            quantile(0.99),
            quantile(1.0),
        );
        Ok(())
    }

    /// From the moment at which the request was left to the end of its last step, and how many of its steps began after.
    fn measure(&self, node: &EmbeddedNode, x: f32, phase: f64) -> Result<(Duration, usize)> {
        let client = Client::send(self.way, node, self.model, &[x])?;
        let begun = await_some("its first step", || node.script.last_run_with(x))?.begun;
        let several = if self.model == "steps" {
            2.0 + 4.0 * phase
        } else {
            0.9 * phase
        };
        thread::sleep((begun + self.step.mul_f64(several)).saturating_duration_since(Instant::now()));
        let left = Instant::now();
        client.leave()?;
        let ended = await_some("the end of its steps", || {
            let ended = node.script.last_run_with(x)?.ended?;
            (ended.elapsed() > QUIET).then_some(ended)
        })?;
        let runs = node.script.runs_with(x);
        let late = runs.iter().filter(|run| run.begun > left).count();
        Ok((ended.saturating_duration_since(left), late))
    }
}

/// Requests that were left while they waited, and how many of them ran.
fn waiting(way: Way, cancels: usize) -> Result<(usize, usize)> {
    let node = node();
    let lane = &node.route("single").lanes[0];
    let (mut left, mut ran) = (0, 0);
    while left < cancels {
        let first = left as f32;
        let before = node.infer_later("single", 10_000.0 + first);
        await_some("the run before them", || node.script.last_run_with(10_000.0 + first))?;
        let x: Vec<f32> = (0..WAITING).map(|place| 20_000.0 + first + place as f32).collect();
        let client = Client::send(way, &node, "single", &x)?;
        await_some("their places", || (lane.waiting() >= WAITING).then_some(()))?;
        client.leave()?;
        answered(before)?;
        // It stands behind them: when it is answered, they have had their turn.
        answered(node.infer_later("single", 30_000.0 + first))?;
        ran += x.iter().filter(|x| node.script.has_run(**x)).count();
        left += WAITING;
    }
    Ok((left, ran))
}

fn answered(request: JoinHandle<Result<Response, HttpError>>) -> Result<()> {
    let response = request.join().map_err(|_| "a client panicked")??;
    match response.status {
        200 => Ok(()),
        status => Err(format!("status {status}: {}", response.text()).into()),
    }
}

/// Who has sent requests, and how it leaves them.
enum Client {
    Socket(Box<Stream>, Way, usize),
    Http(Vec<TcpStream>),
}

impl Client {
    /// Sends a request for each input. Inputs tell the requests apart.
    fn send(way: Way, node: &EmbeddedNode, model: &str, x: &[f32]) -> Result<Self> {
        if let Way::HttpDropped = way {
            let requests = x.iter().map(|x| send(node, model, *x));
            return Ok(Self::Http(requests.collect::<Result<_>>()?));
        }
        let mut stream = Stream::connect(node.address(), model)?;
        for (number, x) in x.iter().enumerate() {
            stream.infer(&number.to_string(), *x)?;
        }
        Ok(Self::Socket(Box::new(stream), way, x.len()))
    }

    fn leave(self) -> Result<()> {
        match self {
            Self::Http(connections) => drop(connections),
            Self::Socket(stream, Way::SocketBroken, _) => stream.break_off(),
            Self::Socket(mut stream, _, requests) => {
                for number in 0..requests {
                    stream.send(&json!({"type": "cancel", "id": number.to_string()}))?;
                }
                let mut cancelled = 0;
                // Outputs that were on their way come before.
                while cancelled < requests {
                    let message = stream.receive()?;
                    match message["kind"].as_str() {
                        Some("cancelled") => cancelled += 1,
                        None if message["final"] == false => {}
                        _ if message["final"] == true => cancelled += 1,
                        _ => return Err(format!("instead of `cancelled`: {message}").into()),
                    }
                }
            }
        }
        Ok(())
    }
}

/// Sends a request on a connection of its own, to be dropped.
fn send(node: &EmbeddedNode, model: &str, x: f32) -> Result<TcpStream> {
    let mut connection = TcpStream::connect(node.address())?;
    connection.set_nodelay(true)?;
    connection.write_all(&infer_request(model, &[x], &json!({})))?;
    Ok(connection)
}

fn await_some<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() > give_up {
            return Err(format!("it did not come: {what}").into());
        }
        thread::sleep(Duration::from_micros(100));
    }
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Cancel => "cancel on a WebSocket",
            Self::SocketBroken => "WebSocket's connection ended",
            Self::HttpDropped => "HTTP connection dropped",
        }
    }
}
