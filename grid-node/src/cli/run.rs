//! `grid-node run`.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use futures_util::stream::{FuturesUnordered, StreamExt};
use grid_core::config::NodeConfig;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use crate::actors::{ReplicaState, VersionRoute};
use crate::node::Problems;
use crate::{Node, telemetry};

pub(super) fn run(path: &Path, config: NodeConfig) -> ExitCode {
    let (file, places) = (path.display().to_string(), config.places.clone());
    let place = |key| places.origin(key).within(&file);
    if let Err(error) = telemetry::init_logs(&config.log) {
        eprintln!("{}: {error}", place("log.level"));
        return ExitCode::from(super::INVALID);
    }
    // A panic inside a model is caught and answered; it belongs into the log like anything else.
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    raise_file_limit();
    let name = config.node.name.clone();
    let signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("signals cannot be received: {error}");
            return ExitCode::FAILURE;
        }
    };
    let node = match Node::start(config) {
        Ok(node) => node,
        Err(error) => {
            eprintln!("{}: {error}", error.key().map_or_else(|| file.clone(), place));
            return ExitCode::FAILURE;
        }
    };
    println!("node {name} listening on http://{}", node.address());
    if let Some(address) = node.grpc_address() {
        println!("node {name} listening on grpc://{address}");
    }
    if let Some(address) = node.mesh_address() {
        let grid = &node.config().grid;
        let advertised = grid.advertise.unwrap_or(address);
        println!(
            "node {name} is one of the grid {}: others reach it at {advertised}, by TCP and UDP",
            grid.name
        );
    }
    for line in node.runtimes() {
        println!("  {line}");
    }
    if let Some(runtime) = &node.config().runtime.prefer {
        println!("  models run in {runtime} unless their manifests name another: `runtime.prefer`");
    }
    serve(path, node, signals);
    ExitCode::SUCCESS
}

/// Lets the process open as many files as the system lets it. The usual soft limit of 1024 is for programs that use
/// `select`, and a connection takes two places.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, "the limit of open files stays where it is");
    }
}

/// The signals that a node answers to.
struct Signals {
    runtime: tokio::runtime::Runtime,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

enum Event {
    Stop(&'static str),
    Rescan,
    /// A load or a rescan has ended.
    Looked(Vec<String>),
}

impl Signals {
    /// Registered before the node starts, so that a signal that comes early drains it instead of killing it.
    fn new() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let (terminate, interrupt, hangup) = runtime.block_on(async {
            Ok::<_, std::io::Error>((
                signal(SignalKind::terminate())?,
                signal(SignalKind::interrupt())?,
                signal(SignalKind::hangup())?,
            ))
        })?;
        Ok(Self {
            runtime,
            terminate,
            interrupt,
            hangup,
        })
    }

    fn next(&mut self, looks: &mut FuturesUnordered<Problems>) -> Event {
        self.runtime.block_on(async {
            tokio::select! {
                _ = self.terminate.recv() => Event::Stop("SIGTERM"),
                _ = self.interrupt.recv() => Event::Stop("SIGINT"),
                _ = self.hangup.recv() => Event::Rescan,
                Some(problems) = looks.next() => Event::Looked(problems.unwrap_or_default()),
            }
        })
    }
}

/// Answers to signals until one ends the node, while models are loaded too.
fn serve(path: &Path, node: Node, mut signals: Signals) {
    let mut looks = FuturesUnordered::from_iter([node.loaded_later()]);
    loop {
        match signals.next(&mut looks) {
            Event::Rescan => {
                info!("SIGHUP: reading the config and looking at the model repositories");
                match super::read(path) {
                    Ok(config) => node.reconfigure(&config),
                    Err(problems) => {
                        for problem in problems {
                            warn!(problem, "the config is wrong and changes nothing");
                        }
                    }
                }
                looks.push(node.rescan_later());
            }
            Event::Looked(problems) => print!("{}", what_is_served(&node, &problems)),
            Event::Stop(name) => {
                println!("{name}: draining");
                node.stop();
                println!("drained");
                return;
            }
        }
    }
}

fn what_is_served(node: &Node, problems: &[String]) -> String {
    let mut text = String::new();
    let table = node.routes().read();
    let mut routes: Vec<_> = table.values().flat_map(|model| model.versions.values()).collect();
    routes.sort_by(|a, b| a.id.cmp(&b.id));
    for route in &routes {
        let _ = writeln!(text, "  {}", line(route, node.config()));
    }
    // What keeps a model from being served stands in its line.
    let told = |problem: &str| routes.iter().any(|route| route.state.reason() == problem);
    for problem in problems.iter().filter(|problem| !told(problem)) {
        let _ = writeln!(text, "  problem: {problem}");
    }
    let ready = routes.iter().filter(|route| route.state == ReplicaState::Ready);
    let mut samples = ready.filter_map(|route| {
        let folders = node.config().models.repositories.iter();
        let mut samples = folders.map(|folder| folder.join(route.id.name.as_str()).join("sample.json"));
        Some((route, samples.find(|sample| sample.is_file())?))
    });
    if let Some((route, sample)) = samples.next() {
        let (address, name) = (node.address(), &route.id.name);
        let _ = writeln!(
            text,
            "try: curl http://{address}/v2/models/{name}/infer -d @{}",
            sample.display()
        );
    }
    text
}

fn line(route: &VersionRoute, config: &NodeConfig) -> String {
    let what = match route.state {
        ReplicaState::Ready => {
            let why = super::why_this_runtime(&route.runtime, &route.manifest, config);
            match (route.lanes.len(), route.remotes.len()) {
                (0, remotes) => format!("on {remotes} other nodes, {}{why}", route.runtime),
                (lanes, 0) => format!("{lanes} × {}{why}", route.runtime),
                (lanes, remotes) => format!("{lanes} × {}{why}, and on {remotes} other nodes", route.runtime),
            }
        }
        _ => route.state.reason().to_owned(),
    };
    format!("{:<12} {} ({what})", route.state.name(), route.id)
}
