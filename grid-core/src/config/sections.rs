//! Reads each section of a node's config: which keys there are, what they hold, and what must agree.

use std::path::PathBuf;
use std::time::Duration;

use super::diagnostics::Problem;
use super::grid::grid;
use super::kinds::{self, Refused};
use super::reader::Section;
use super::tree::Value;
use super::units::TimeSpan;
use super::{
    ComputeSettings, GrpcSettings, HttpSettings, LimitSettings, LoadPolicy, LogFormat, LogSettings, MAX_QUEUE,
    MAX_SEQUENCES, MemorySettings, ModelSettings, NodeConfig, NodeSettings, Places, RUNTIMES, RuntimeSettings, Secret,
    SequenceSettings, SupervisionSettings, WebSocketSettings,
};

/// Most threads of one kind. More than any machine has cores: a larger number is a slip.
const MAX_THREADS: usize = 1024;

pub(super) const ADDRESS: &str = "an address and port such as \"127.0.0.1:8000\"";

const MODEL_NAME: &str = "a name of letters, digits, '.', '_' or '-'";

pub(super) fn node_config(mut root: Section<'_>) -> NodeConfig {
    let section = root.section("node");
    let is_named = section.has("name");
    let node = node(section);
    let grid = grid(root.section("grid"));
    if grid.listen.is_some() && !is_named {
        let expected = "a `name` that no other node of its grid has";
        root.refuse("node", Problem::value(expected, "nothing"));
    }
    NodeConfig {
        node,
        http: http(root.section("http")),
        grpc: grpc(root.section("grpc")),
        grid,
        models: models(root.section("models")),
        memory: memory(root.section("memory")),
        compute: compute(root.section("compute")),
        runtime: runtime(root.section("runtime")),
        limits: limits(root.section("limits")),
        sequences: sequences(root.section("sequences")),
        websocket: websocket(root.section("websocket")),
        supervision: supervision(root.section("supervision")),
        log: log(root.section("log")),
        places: Places::default(),
    }
}

fn node(mut section: Section<'_>) -> NodeSettings {
    let default = NodeSettings::default();
    let name = section.read("name", kinds::parsed(MODEL_NAME));
    NodeSettings {
        name: name.unwrap_or(default.name),
        data_dir: section.read("data_dir", kinds::path).unwrap_or(default.data_dir),
    }
}

fn http(mut section: Section<'_>) -> HttpSettings {
    let default = HttpSettings::default();
    HttpSettings {
        listen: section.read("listen", kinds::parsed(ADDRESS)).unwrap_or(default.listen),
        workers: section.read("workers", kinds::whole(1..=MAX_THREADS)),
        max_body: section.read("max_body", kinds::size(1)).unwrap_or(default.max_body),
        admin_token: section.read("admin_token", secret),
        max_connections: section
            .read("max_connections", kinds::whole(1..=1_000_000))
            .unwrap_or(default.max_connections),
        drain_timeout: section
            .read("drain_timeout", kinds::time_span(Duration::ZERO))
            .unwrap_or(default.drain_timeout),
    }
}

fn grpc(mut section: Section<'_>) -> GrpcSettings {
    GrpcSettings {
        listen: section.read("listen", kinds::parsed(ADDRESS)),
    }
}

/// A secret never stands in an error, not even a wrong one: it may be the right one with a slip.
pub(super) fn secret(value: &Value) -> Result<Secret, Refused> {
    let found = match value {
        Value::Text(text) if text.chars().count() >= Secret::MIN_CHARS => return Ok(Secret::new(text.as_str())),
        Value::Text(text) => format!("one of {}", text.chars().count()),
        Value::Integer { .. } | Value::Number(_) | Value::Boolean(_) | Value::Date(_) => {
            "a value without quotes".to_owned()
        }
        Value::List(_) | Value::Table(_) => value.found(),
    };
    let expected = format!("a text of at least {} characters", Secret::MIN_CHARS);
    Err(Problem::value(expected, found).into())
}

fn models(mut section: Section<'_>) -> ModelSettings {
    const REPOSITORY: &str = "a path or a list of paths";
    let repositories = section.require("repository", REPOSITORY, |value| {
        let repositories = match value {
            Value::Text(_) => vec![kinds::path(value)?],
            _ => kinds::list(REPOSITORY, kinds::path)(value)?,
        };
        if repositories.is_empty() {
            return Err(Problem::value("at least one path", value.found()).into());
        }
        match doubled(&repositories) {
            Some(path) => Err(Problem::value("each path once", format!("{path:?} twice")).into()),
            None => Ok(repositories),
        }
    });
    ModelSettings {
        repositories: repositories.unwrap_or_default(),
        load: section.read("load", load_policy).unwrap_or_default(),
    }
}

fn doubled(paths: &[PathBuf]) -> Option<&PathBuf> {
    paths
        .iter()
        .enumerate()
        .find(|(index, path)| paths[..*index].contains(path))
        .map(|(_, path)| path)
}

fn load_policy(value: &Value) -> Result<LoadPolicy, Refused> {
    const EXPECTED: &str = "\"all\", \"none\" or a list of model names";
    match value {
        Value::Text(_) => kinds::word(&[("all", LoadPolicy::All), ("none", LoadPolicy::None)])(value)
            .map_err(|_| Problem::value(EXPECTED, value.found()).into()),
        _ => kinds::list(EXPECTED, kinds::parsed(MODEL_NAME))(value).map(LoadPolicy::Only),
    }
}

fn memory(mut section: Section<'_>) -> MemorySettings {
    MemorySettings {
        budget: section.read("budget", kinds::size(1)),
    }
}

fn compute(mut section: Section<'_>) -> ComputeSettings {
    let default = ComputeSettings::default();
    ComputeSettings {
        threads: section.read("threads", kinds::whole(1..=MAX_THREADS)),
        inline_below: section
            .read("inline_below", kinds::time_span(Duration::ZERO))
            .unwrap_or(default.inline_below),
    }
}

fn runtime(mut section: Section<'_>) -> RuntimeSettings {
    let names = RUNTIMES.map(|name| (name, name.to_owned()));
    RuntimeSettings {
        onnxruntime: section.read("onnxruntime", kinds::path),
        prefer: section.read("prefer", kinds::word(&names)),
    }
}

/// The shortest time that bounds anything: the clock of timers ticks in milliseconds.
const TICK: Duration = Duration::from_millis(1);

fn limits(mut section: Section<'_>) -> LimitSettings {
    let default = LimitSettings::default();
    let queue = section
        .read("queue", kinds::whole(1..=MAX_QUEUE))
        .unwrap_or(default.queue);
    let timeout = section.read("timeout", kinds::time_span(TICK));
    let max_timeout = section
        .read("max_timeout", kinds::time_span(TICK))
        .unwrap_or(default.max_timeout);
    at_most(&section, ("timeout", timeout), ("max_timeout", max_timeout));
    LimitSettings {
        queue,
        timeout: timeout.unwrap_or(default.timeout.min(max_timeout)),
        max_timeout,
    }
}

fn sequences(mut section: Section<'_>) -> SequenceSettings {
    let default = SequenceSettings::default();
    SequenceSettings {
        max: section
            .read("max", kinds::whole(1..=MAX_SEQUENCES))
            .unwrap_or(default.max),
        life: section.read("life", kinds::time_span(TICK)).unwrap_or(default.life),
        window: section
            .read("window", kinds::whole(1..=65_536))
            .unwrap_or(default.window),
        window_bytes: section
            .read("window_bytes", kinds::size(1))
            .unwrap_or(default.window_bytes),
    }
}

fn websocket(mut section: Section<'_>) -> WebSocketSettings {
    let default = WebSocketSettings::default();
    WebSocketSettings {
        max_in_flight: section
            .read("max_in_flight", kinds::whole(1..=1_000_000))
            .unwrap_or(default.max_in_flight),
        max_buffered: section
            .read("max_buffered", kinds::size(1))
            .unwrap_or(default.max_buffered),
        idle_timeout: section
            .read("idle_timeout", kinds::time_span(TICK))
            .unwrap_or(default.idle_timeout),
        ping_interval: section
            .read("ping_interval", kinds::time_span(TICK))
            .unwrap_or(default.ping_interval),
        pong_timeout: section
            .read("pong_timeout", kinds::time_span(TICK))
            .unwrap_or(default.pong_timeout),
        send_timeout: section
            .read("send_timeout", kinds::time_span(TICK))
            .unwrap_or(default.send_timeout),
        allow_origins: section
            .read(
                "allow_origins",
                kinds::list("a list of origins such as [\"https://app.example.org\"]", kinds::text),
            )
            .unwrap_or_default(),
    }
}

fn supervision(mut section: Section<'_>) -> SupervisionSettings {
    let default = SupervisionSettings::default();
    let backoff = section.read("backoff", kinds::time_span(TICK));
    let max_backoff = section
        .read("max_backoff", kinds::time_span(TICK))
        .unwrap_or(default.max_backoff);
    at_most(&section, ("backoff", backoff), ("max_backoff", max_backoff));
    SupervisionSettings {
        max_restarts: section
            .read("max_restarts", kinds::whole(0..=1000))
            .unwrap_or(default.max_restarts),
        window: section.read("window", kinds::time_span(TICK)).unwrap_or(default.window),
        backoff: backoff.unwrap_or(default.backoff.min(max_backoff)),
        max_backoff,
    }
}

fn at_most(section: &Section<'_>, (key, span): (&str, Option<Duration>), (bound_key, bound): (&str, Duration)) {
    if let Some(span) = span.filter(|span| *span > bound)
        && !section.was_refused(bound_key)
    {
        let expected = format!("at most `{bound_key}` ({})", TimeSpan(bound));
        section.refuse(key, Problem::value(expected, format!("\"{}\"", TimeSpan(span))));
    }
}

fn log(mut section: Section<'_>) -> LogSettings {
    let default = LogSettings::default();
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    LogSettings {
        format: section.read("format", kinds::word(&formats)).unwrap_or(default.format),
        level: section.read("level", kinds::text).unwrap_or(default.level),
    }
}
