//! A node as a child process: started from its binary and a config, watched from outside, and never left behind.
//!
//! The node is told by `GRID__HTTP__LISTEN` to take a free port and says on standard output which one it got. It is ended by
//! the handle of the child itself, so a test cannot hit a process that is not its own.

mod http;
mod measure;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::load::http_request;

pub(crate) use http::read_head;
pub use http::{HttpError, Response, exchange};
pub use measure::Usage;

/// The line on standard output that tells the address.
const LISTENING: &str = "listening on http://";
/// The line that follows it, of a node with gRPC.
const LISTENING_GRPC: &str = "listening on grpc://";
/// Lines of output that are kept for messages; older ones are dropped.
const KEPT_LINES: usize = 500;
/// How long to rest between two looks at a node that is not ready, or not gone, yet.
const BETWEEN_LOOKS: Duration = Duration::from_millis(2);

/// How to start a node.
#[derive(Debug)]
pub struct NodeCommand {
    binary: PathBuf,
    /// The network namespace that it runs in, if not this process's own.
    namespace: Option<String>,
    config: Config,
    environment: Vec<(OsString, Option<OsString>)>,
    ready_request: Vec<u8>,
    ready_within: Duration,
}

#[derive(Debug)]
enum Config {
    File(PathBuf),
    Text(String),
}

/// A node that runs. Dropping it kills it.
#[derive(Debug)]
pub struct NodeProcess {
    child: Child,
    address: SocketAddr,
    directory: TempDir,
    output: Output,
    readers: Vec<thread::JoinHandle<()>>,
    ready_after: Duration,
}

/// The last lines that the node wrote, in the order of their arrival.
type Output = Arc<Mutex<Vec<(Stream, String)>>>;

/// Which of its outputs a line stood on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Error,
}

/// A command that ran to its end.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its last lines on standard output.
    pub out: String,
    /// Its last lines on standard error.
    pub error: String,
}

/// Why there is no node, or no answer from it.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The system refused something.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The node ended before it was ready.
    #[error("the node ended ({status}) before it was ready; its output:\n{output}")]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// Its last lines.
        output: String,
    },
    /// The time was over.
    #[error("the node did not {what} within {limit:?}; its output:\n{output}")]
    TooLate {
        /// What was waited for.
        what: &'static str,
        /// For how long.
        limit: Duration,
        /// Its last lines.
        output: String,
    },
}

impl NodeCommand {
    /// Runs `BINARY run FILE`, with the file where it is, so that its relative paths hold. It has gRPC, on a free port too.
    pub fn with_config_file(binary: impl Into<PathBuf>, file: impl Into<PathBuf>) -> Self {
        // The port in the file may be taken, by the node of another test say.
        Self::new(binary.into(), Config::File(file.into())).env("GRID__GRPC__LISTEN", "127.0.0.1:0")
    }

    /// Runs `BINARY run FILE` with the text as a file in a directory of its own, which goes with the node.
    pub fn with_config_text(binary: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        Self::new(binary.into(), Config::Text(text.into()))
    }

    fn new(binary: PathBuf, config: Config) -> Self {
        let listen = ("GRID__HTTP__LISTEN".into(), Some("127.0.0.1:0".into()));
        Self {
            binary,
            namespace: None,
            config,
            environment: vec![listen],
            ready_request: http_request("GET", "/v2/health/ready", &[("Connection", "close")], b""),
            ready_within: Duration::from_secs(30),
        }
    }

    /// Sets an environment variable of the node. The later value of two holds.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), Some(value.into())));
        self
    }

    /// Takes an environment variable away that the node would inherit.
    pub fn env_remove(mut self, name: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), None));
        self
    }

    /// Runs the node in the network namespace of that name.
    pub fn in_namespace(mut self, name: impl Into<String>) -> Self {
        self.namespace = Some(name.into());
        self
    }

    /// How long the node may take to be ready: 30 seconds unless told otherwise.
    pub fn ready_within(mut self, limit: Duration) -> Self {
        self.ready_within = limit;
        self
    }

    /// Takes the node as ready when it answers this request with 200: its readiness unless told otherwise.
    pub fn ready_when(mut self, answered: Vec<u8>) -> Self {
        self.ready_request = answered;
        self
    }

    /// Starts the node and waits until it is ready.
    pub fn start(self) -> Result<NodeProcess, ProcessError> {
        let start = Instant::now();
        let (mut node, told) = self.spawn("run")?;
        match told.recv_timeout(self.ready_within) {
            Ok(address) => node.address = address,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                return Err(node.too_late("say where it listens", self.ready_within));
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let status = node.wait(self.ready_within)?;
                return Err(ProcessError::Ended {
                    status,
                    output: node.output(),
                });
            }
        }
        node.await_ready(&self.ready_request, start, self.ready_within)?;
        node.ready_after = start.elapsed();
        Ok(node)
    }

    /// Runs `BINARY SUBCOMMAND FILE` to its end, which it must come to by itself.
    pub fn finish(self, subcommand: &str) -> Result<Finished, ProcessError> {
        let (mut node, _) = self.spawn(subcommand)?;
        Ok(Finished {
            status: node.wait(self.ready_within)?,
            out: node.output_on(Stream::Out),
            error: node.output_on(Stream::Error),
        })
    }

    /// The process, and where it will tell its address.
    fn spawn(&self, subcommand: &str) -> Result<(NodeProcess, mpsc::Receiver<SocketAddr>), ProcessError> {
        let directory = TempDir::new().map_err(|source| system("make a temporary directory", source))?;
        let file = match &self.config {
            Config::File(file) => file.clone(),
            Config::Text(text) => {
                let file = directory.path().join("grid.toml");
                fs::write(&file, text).map_err(|source| system("write the config", source))?;
                file
            }
        };
        let mut command = match &self.namespace {
            // It becomes the node, so the id of the child is the node's.
            Some(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name]).arg(&self.binary);
                command
            }
            None => Command::new(&self.binary),
        };
        for (name, value) in &self.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let mut child = command
            .arg(subcommand)
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| system(format!("start {}", self.binary.display()), source))?;
        let output = Output::default();
        let (tell, told) = mpsc::channel();
        let out = collect(child.stdout.take(), Stream::Out, output.clone(), Some(tell));
        let error = collect(child.stderr.take(), Stream::Error, output.clone(), None);
        let node = NodeProcess {
            child,
            address: ([127, 0, 0, 1], 0).into(),
            directory,
            output,
            readers: out.into_iter().chain(error).collect(),
            ready_after: Duration::ZERO,
        };
        Ok((node, told))
    }
}

impl NodeProcess {
    /// Where it answers HTTP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it answers gRPC, if it does.
    pub fn grpc_address(&self) -> Option<SocketAddr> {
        let output = self.output_on(Stream::Out);
        output.lines().find_map(|line| listening_address(line, LISTENING_GRPC))
    }

    /// The directory of its own: the config text lies there, and it goes with the node.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// From the start of the process to the first 200 of what it was to answer, its readiness unless told otherwise.
    pub fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The last lines that it wrote, on both outputs.
    pub fn output(&self) -> String {
        self.lines(|_| true)
    }

    /// The last lines that it wrote on one of them.
    pub fn output_on(&self, stream: Stream) -> String {
        self.lines(|on| on == stream)
    }

    fn lines(&self, wanted: impl Fn(Stream) -> bool) -> String {
        let Ok(lines) = self.output.lock() else {
            return String::new();
        };
        let wanted = lines.iter().filter(|(stream, _)| wanted(*stream));
        wanted.map(|(_, line)| line.as_str()).collect::<Vec<_>>().join("\n")
    }

    /// `GET path` on a connection of its own.
    pub fn get(&self, path: &str) -> Result<Response, HttpError> {
        crate::embedded::get(self.address, path)
    }

    /// `POST path` with a JSON body on a connection of its own.
    pub fn post(&self, path: &str, json: &str) -> Result<Response, HttpError> {
        crate::embedded::post(self.address, path, json)
    }

    /// Sends a signal to the node; one that has ended takes none.
    pub fn signal(&mut self, signal: Signal) -> Result<(), ProcessError> {
        let cannot = |source| system(format!("send {signal:?}"), source);
        // An ended child that was waited for gives its id back to the system: ask first.
        if let Some(status) = self.child.try_wait().map_err(cannot)? {
            return Err(cannot(io::Error::other(format!("the node has ended ({status})"))));
        }
        kill_process(Pid::from_child(&self.child), signal).map_err(|error| cannot(error.into()))
    }

    /// Asks it to drain and end.
    pub fn terminate(&mut self) -> Result<(), ProcessError> {
        self.signal(Signal::TERM)
    }

    /// Freezes it until [`Self::resume`].
    pub fn freeze(&mut self) -> Result<(), ProcessError> {
        self.signal(Signal::STOP)
    }

    /// Lets a frozen node go on.
    pub fn resume(&mut self) -> Result<(), ProcessError> {
        self.signal(Signal::CONT)
    }

    /// Asks it to read its repository again.
    pub fn reload(&mut self) -> Result<(), ProcessError> {
        self.signal(Signal::HUP)
    }

    /// Ends it at once, as `kill -9` does.
    pub fn kill(&mut self) -> Result<ExitStatus, ProcessError> {
        self.child
            .kill()
            .and_then(|()| self.child.wait())
            .map_err(|source| system("kill the node", source))
    }

    /// Waits until it has ended. All that it wrote has been read then.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus, ProcessError> {
        let start = Instant::now();
        loop {
            match self
                .child
                .try_wait()
                .map_err(|source| system("wait for the node", source))?
            {
                Some(status) => {
                    for reader in self.readers.drain(..) {
                        // One that panicked has said so.
                        let _ = reader.join();
                    }
                    return Ok(status);
                }
                None if start.elapsed() >= limit => return Err(self.too_late("end", limit)),
                None => thread::sleep(BETWEEN_LOOKS),
            }
        }
    }

    /// What it uses of the machine.
    pub fn usage(&self) -> io::Result<Usage> {
        Usage::of(self.child.id())
    }

    fn await_ready(&mut self, request: &[u8], start: Instant, limit: Duration) -> Result<(), ProcessError> {
        loop {
            if exchange(self.address, request).is_ok_and(|response| response.status == 200) {
                return Ok(());
            }
            if let Some(status) = self
                .child
                .try_wait()
                .map_err(|source| system("wait for the node", source))?
            {
                return Err(ProcessError::Ended {
                    status,
                    output: self.output(),
                });
            }
            if start.elapsed() >= limit {
                return Err(self.too_late("get ready", limit));
            }
            thread::sleep(BETWEEN_LOOKS);
        }
    }

    fn too_late(&self, what: &'static str, limit: Duration) -> ProcessError {
        ProcessError::TooLate {
            what,
            limit,
            output: self.output(),
        }
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // It may have ended already; nothing is left to do about it then.
        let _ = self.kill();
    }
}

/// Reads an output to its end on a thread, so that the node never waits for a full pipe.
fn collect(
    pipe: Option<impl Read + Send + 'static>,
    stream: Stream,
    into: Output,
    tell: Option<mpsc::Sender<SocketAddr>>,
) -> Option<thread::JoinHandle<()>> {
    let pipe = pipe?;
    Some(thread::spawn(move || {
        let mut tell = tell;
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if let Some(address) = listening_address(&text, LISTENING)
                && let Some(tell) = tell.take()
            {
                let _ = tell.send(address);
            }
            if let Ok(mut lines) = into.lock() {
                if lines.len() == KEPT_LINES {
                    lines.remove(0);
                }
                lines.push((stream, text));
            }
            line.clear();
        }
    }))
}

fn listening_address(line: &str, after: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once(after)?;
    rest.split(|c: char| c.is_whitespace() || c == '/').next()?.parse().ok()
}

fn system(what: impl Into<String>, source: io::Error) -> ProcessError {
    ProcessError::System {
        what: what.into(),
        source,
    }
}
