//! The config of a node: TOML text and environment variables in, typed settings or *all* that is wrong with them out.
//!
//! Nothing here touches a file: the caller reads the text and hands over the variables. Every key has a default but
//! `models.repository`. Unknown keys are refused, and the error names the nearest known one.
//!
//! Relative paths are relative to the folder of the config file, not to the working directory: so a config and the
//! models beside it mean the same from wherever the node is started. [`parse`] keeps paths as they are written (paths
//! from the environment too), [`NodeConfig::resolve`] joins them to that folder.

mod diagnostics;
mod environment;
mod grid;
mod kinds;
mod reader;
mod sections;
#[cfg(test)]
mod tests;
mod tree;
mod units;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use diagnostics::{Diagnostic, Origin, Problem};
pub use environment::PREFIX as ENVIRONMENT_PREFIX;
pub use grid::GridSettings;
pub use reader::Places;
pub use units::{ByteSize, InvalidQuantity, LONGEST_TIME_SPAN, TimeSpan};

pub use diagnostics::nearest;
pub(crate) use diagnostics::written_key;
pub(crate) use kinds::{Refused, list, number, one_of, size, text, time_span, time_span_in, whole, word};
pub(crate) use reader::{Reader, Section};
pub(crate) use tree::{Value, read as read_toml};

use crate::cluster::NodeName;
use crate::model::ModelName;

/// Names of the runtimes that a config or a manifest can ask for.
pub const RUNTIMES: [&str; 2] = ["onnxruntime", "rten"];

/// Most requests that may wait for one instance: the bound of the bound, since room is set aside for each.
pub const MAX_QUEUE: usize = 1_000_000;

/// Most sequences of one model that may live on a node.
pub const MAX_SEQUENCES: usize = 10_000_000;

/// Reads a node's config. `file` is only used to name it in errors. Of `environment`, the variables that begin with
/// `GRID__` override keys: `GRID__HTTP__LISTEN` is `http.listen`; letter case is ignored, and a value is read as TOML
/// where that fits the key and else taken as text.
///
/// # Errors
/// Everything that is wrong, in the order of the file; if the text is not TOML, only that.
pub fn parse(
    file: &str,
    text: &str,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<NodeConfig, Vec<Diagnostic>> {
    let mut table = read_toml(file, text)?;
    let reader = Reader::new(file);
    environment::overlay(&mut table, environment, &reader);
    let config = sections::node_config(reader.root(table));
    reader.finish().map(|places| NodeConfig { places, ..config })
}

/// All settings of a node. The default names no model repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeConfig {
    /// `[node]`: who this node is.
    pub node: NodeSettings,
    /// `[http]`: the HTTP gateway.
    pub http: HttpSettings,
    /// `[grpc]`: the gRPC gateway.
    pub grpc: GrpcSettings,
    /// `[grid]`: the other nodes.
    pub grid: GridSettings,
    /// `[models]`: where models come from.
    pub models: ModelSettings,
    /// `[memory]`: how much of it models may take.
    pub memory: MemorySettings,
    /// `[compute]`: the threads that run models.
    pub compute: ComputeSettings,
    /// `[runtime]`: what runs models.
    pub runtime: RuntimeSettings,
    /// `[limits]`: bounds of requests.
    pub limits: LimitSettings,
    /// `[sequences]`: stateful streams.
    pub sequences: SequenceSettings,
    /// `[websocket]`: WebSocket connections.
    pub websocket: WebSocketSettings,
    /// `[supervision]`: what happens when a model crashes.
    pub supervision: SupervisionSettings,
    /// `[log]`: what is logged, and how.
    pub log: LogSettings,
    /// Where each key was set, for what turns out to be wrong later: a port that is in use, say.
    pub places: Places,
}

impl NodeConfig {
    /// Joins relative paths to `folder`, the folder of the config file. A runtime library named without a folder
    /// (`libonnxruntime.so`) is left to the system's search path.
    pub fn resolve(&mut self, folder: &Path) {
        let join = |path: &mut PathBuf| *path = folder.join(&*path);
        join(&mut self.node.data_dir);
        self.grid.key_file.iter_mut().for_each(join);
        self.models.repositories.iter_mut().for_each(join);
        if let Some(library) = self.runtime.onnxruntime.as_mut()
            && library.components().count() > 1
        {
            join(library);
        }
    }
}

/// `[node]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSettings {
    /// `name`: the node's name in logs, metrics, metadata and its grid. Default `node`; a node of a grid needs one of its
    /// own.
    pub name: NodeName,
    /// `data_dir`: folder for what the node keeps. Default `.grid/data`.
    pub data_dir: PathBuf,
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self {
            name: "node".parse().expect("a name"),
            data_dir: PathBuf::from(".grid/data"),
        }
    }
}

/// `[http]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSettings {
    /// `listen`: address and port. Default `127.0.0.1:8000`.
    pub listen: SocketAddr,
    /// `workers`: threads that serve connections, 1 to 1024. Default: one for each core.
    pub workers: Option<usize>,
    /// `max_body`: largest request body in bytes. Default `64MiB`.
    pub max_body: u64,
    /// `admin_token`: what a caller of the administrative routes must present, at least 16 characters. Default: none.
    pub admin_token: Option<Secret>,
    /// `max_connections`: connections open at once, 1 to 1,000,000. Default 10,000.
    pub max_connections: usize,
    /// `drain_timeout`: how long a stopping node waits for requests in flight. Default `30s`.
    pub drain_timeout: Duration,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8000)),
            workers: None,
            max_body: 64 << 20,
            admin_token: None,
            max_connections: 10_000,
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// `[grpc]`. Threads, the largest message, connections, the token and the time of a drain are those of `[http]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrpcSettings {
    /// `listen`: address and port. Default: none, and no gRPC.
    pub listen: Option<SocketAddr>,
}

/// A text that no log may show: `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Shortest secret that is taken.
    pub const MIN_CHARS: usize = 16;

    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether `candidate` is this secret, in a time that depends on its length alone: otherwise a caller could find
    /// the secret byte by byte with a stop-watch.
    pub fn matches(&self, candidate: &[u8]) -> bool {
        let secret = self.0.as_bytes();
        let differing = candidate
            .iter()
            .zip(secret.iter().cycle())
            .fold(0u8, |differing, (a, b)| std::hint::black_box(differing | (a ^ b)));
        candidate.len() == secret.len() && differing == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// `[models]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelSettings {
    /// `repository`: folders that hold models, one path or a list. Required.
    pub repositories: Vec<PathBuf>,
    /// `load`: which models are loaded at start. Default `"all"`.
    pub load: LoadPolicy,
}

/// Which models of the repositories are loaded at start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LoadPolicy {
    /// `"all"`: every one.
    #[default]
    All,
    /// `"none"`: none, until somebody asks for one.
    None,
    /// A list of names: these.
    Only(Vec<ModelName>),
}

impl LoadPolicy {
    /// Whether this model is loaded at start.
    pub fn includes(&self, name: &ModelName) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::Only(names) => names.contains(name),
        }
    }
}

/// `[memory]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemorySettings {
    /// `budget`: bytes that loaded models may take together. Default: taken from the machine or its control group.
    pub budget: Option<u64>,
}

/// `[compute]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComputeSettings {
    /// `threads`: threads that run models, 1 to 1024. Default: one for each core.
    pub threads: Option<usize>,
    /// `inline_below`: a model whose measured run is shorter may run on its caller's thread, which saves two hand-overs
    /// between threads. `"0us"` turns that off. Default `50us`.
    pub inline_below: Duration,
}

impl Default for ComputeSettings {
    fn default() -> Self {
        Self {
            threads: None,
            inline_below: Duration::from_micros(50),
        }
    }
}

/// `[runtime]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeSettings {
    /// `onnxruntime`: path of the ONNX Runtime library. Default: searched for.
    pub onnxruntime: Option<PathBuf>,
    /// `prefer`: the runtime that is tried first, one of [`RUNTIMES`]. Default: the node's choice.
    pub prefer: Option<String>,
}

/// `[limits]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitSettings {
    /// `queue`: requests that may wait for one instance, 1 to [`MAX_QUEUE`]. Default 1024.
    pub queue: usize,
    /// `timeout`: the time that a request has when it brings no deadline. Default `30s`, or `max_timeout` if shorter.
    pub timeout: Duration,
    /// `max_timeout`: the longest deadline that a request may bring. Default `5m`.
    pub max_timeout: Duration,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            queue: 1024,
            timeout: Duration::from_secs(30),
            max_timeout: Duration::from_secs(300),
        }
    }
}

/// `[sequences]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceSettings {
    /// `max`: sequences of one model that may live at once, 1 to [`MAX_SEQUENCES`]. Default 10,000.
    pub max: usize,
    /// `life`: how long a sequence lives without a message or a reader, and how long it can be resumed after its end.
    /// Default `60s`.
    pub life: Duration,
    /// `window`: messages of one sequence that may be unanswered, and answers that are kept for a reader that comes back, 1
    /// to 65,536. Default 64.
    pub window: usize,
    /// `window_bytes`: bytes of answers that are kept. Default `1MiB`.
    pub window_bytes: u64,
}

impl Default for SequenceSettings {
    fn default() -> Self {
        Self {
            max: 10_000,
            life: Duration::from_secs(60),
            window: 64,
            window_bytes: 1 << 20,
        }
    }
}

/// `[websocket]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSocketSettings {
    /// `max_in_flight`: requests of one connection that may be unanswered, 1 to 1,000,000; beyond it the connection is not
    /// read. Default 4096.
    pub max_in_flight: usize,
    /// `max_buffered`: bytes of answers that may wait for one reader; beyond it the connection is not read. Default `4MiB`.
    pub max_buffered: u64,
    /// `idle_timeout`: how long a connection may be open with nothing to do. Default `5m`.
    pub idle_timeout: Duration,
    /// `ping_interval`: how often a connection is asked for a sign of life. Default `20s`.
    pub ping_interval: Duration,
    /// `pong_timeout`: how long that sign may take. Default `20s`.
    pub pong_timeout: Duration,
    /// `send_timeout`: how long a reader may take nothing while answers wait for it. Default `30s`.
    pub send_timeout: Duration,
    /// `allow_origins`: web pages of these origins may connect beside those of the node itself; `"*"` lets all. Default:
    /// none.
    pub allow_origins: Vec<String>,
}

impl Default for WebSocketSettings {
    fn default() -> Self {
        Self {
            max_in_flight: 4096,
            max_buffered: 4 << 20,
            idle_timeout: Duration::from_secs(300),
            ping_interval: Duration::from_secs(20),
            pong_timeout: Duration::from_secs(20),
            send_timeout: Duration::from_secs(30),
            allow_origins: Vec::new(),
        }
    }
}

/// `[supervision]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SupervisionSettings {
    /// `max_restarts`: restarts within the window after which a model is quarantined, 0 to 1000. Default 5.
    pub max_restarts: u32,
    /// `window`: the window in which restarts are counted. Default `60s`.
    pub window: Duration,
    /// `backoff`: wait before the first restart; it doubles with each. At least `1ms`. Default `50ms`, or
    /// `max_backoff` if shorter.
    pub backoff: Duration,
    /// `max_backoff`: the longest wait before a restart. Default `10s`.
    pub max_backoff: Duration,
}

impl Default for SupervisionSettings {
    fn default() -> Self {
        Self {
            max_restarts: 5,
            window: Duration::from_secs(60),
            backoff: Duration::from_millis(50),
            max_backoff: Duration::from_secs(10),
        }
    }
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// `format`: for people or for machines. Default `"text"`.
    pub format: LogFormat,
    /// `level`: a filter directive of the `tracing` crate: `info`, `warn,grid_node=debug`. Default `info`.
    pub level: String,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            format: LogFormat::default(),
            level: "info".to_owned(),
        }
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// `"text"`: for people.
    #[default]
    Text,
    /// `"json"`: one object a line.
    Json,
}
