//! A running node: its threads, its actors, its gateways, from start to drained.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actix::{Actor, Addr};
use grid_core::config::NodeConfig;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

use crate::actors::{Catalog, Rescan, Routes, ShardSupervisor, Stop, SupervisorOptions};
use crate::compute::Pool;
use crate::gateway::{self, Exported, Gateway};
use crate::loading::{Loader, MemoryBudget, compute_threads, memory_limit};
use crate::runtime::Runtimes;
use crate::standing::{Stage, Standing};
use crate::telemetry::Prometheus;

/// Share of the machine's or container's memory that models may take when no budget is configured, in percent. The
/// rest is for request bodies, stacks, the code, and what runtimes need while they run.
const DEFAULT_BUDGET_PERCENT: u64 = 80;

/// How often recorded samples are folded into their histogram buckets.
const FOLD_METRICS: Duration = Duration::from_secs(1);

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The HTTP address cannot be bound.
    #[error("http.listen: {address} cannot be bound: {source}{hint}", hint = bind_hint(source))]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system gives no thread, or something else that every process needs.
    #[error("{what}: {source}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The metrics cannot be recorded.
    #[error("metrics: {0}")]
    Metrics(String),
}

impl StartError {
    /// The key of the config that another value of would help, if there is one.
    pub fn key(&self) -> Option<&'static str> {
        match self {
            Self::Bind { .. } => Some("http.listen"),
            Self::System { .. } | Self::Metrics(_) => None,
        }
    }
}

fn bind_hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "; another process listens there: stop it, or choose another port",
        std::io::ErrorKind::PermissionDenied => "; ports below 1024 need privileges: choose a higher one",
        std::io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
        _ => "",
    }
}

fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> StartError {
    move |source| StartError::System { what, source }
}

/// A node in this process. Dropping it without [`Node::stop`] stops it without draining.
#[derive(Debug)]
pub struct Node {
    config: Arc<NodeConfig>,
    address: SocketAddr,
    routes: Arc<Routes>,
    standing: Arc<Standing>,
    runtimes: Vec<String>,
    supervisor: Addr<ShardSupervisor>,
    orders: mpsc::UnboundedSender<Order>,
    thread: Option<JoinHandle<()>>,
}

/// What went wrong, once it is known.
pub(crate) type Problems = oneshot::Receiver<Vec<String>>;

#[derive(Debug)]
enum Order {
    /// Tells when the first load has ended.
    Loaded(oneshot::Sender<Vec<String>>),
    Rescan(oneshot::Sender<Vec<String>>),
    Stop,
}

/// What the node's thread reports once it runs.
struct Started {
    supervisor: Addr<ShardSupervisor>,
}

impl Node {
    /// Starts a node and returns when its gateway answers. Models are loaded after that: see [`Node::loaded`].
    ///
    /// # Errors
    /// When the address cannot be bound, or the system gives no threads.
    pub fn start(config: NodeConfig) -> Result<Self, StartError> {
        let runtimes = Runtimes::of_config(&config);
        Self::start_with(config, runtimes)
    }

    /// The same, with runtimes that the app chose: see [`Runtimes::with`].
    ///
    /// # Errors
    /// When the address cannot be bound, or the system gives no threads.
    pub fn start_with(config: NodeConfig, runtimes: Runtimes) -> Result<Self, StartError> {
        let prometheus = Prometheus::install().map_err(StartError::Metrics)?;
        let listener = bind(config.http.listen)?;
        let address = listener.local_addr().map_err(system("the address of the listener"))?;
        let config = Arc::new(config);
        let options = SupervisorOptions {
            routes: Arc::default(),
            pool: Pool::start(compute_threads(&config)).map_err(system("compute threads"))?,
            loader: Loader::start().map_err(system("the loader thread"))?,
            runtimes: Arc::new(runtimes),
            budget: memory_budget(&config),
            config: Arc::clone(&config),
        };
        let standing: Arc<Standing> = Arc::default();
        let routes = Arc::clone(&options.routes);
        let runtimes = options.runtimes.report();
        let (orders, queue) = mpsc::unbounded_channel();
        let (report, started) = std::sync::mpsc::channel();
        let shared = Arc::clone(&standing);
        let thread = std::thread::Builder::new()
            .name("node".to_owned())
            .spawn(move || {
                let system = actix::System::new();
                system.block_on(run(options, shared, listener, prometheus, queue, report));
            })
            .map_err(system("the node's thread"))?;
        match started.recv() {
            Ok(Ok(Started { supervisor })) => Ok(Self {
                config,
                address,
                routes,
                standing,
                runtimes,
                supervisor,
                orders,
                thread: Some(thread),
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(system("the node's thread")(std::io::Error::other(
                "it ended while it started",
            ))),
        }
    }

    /// The address that the HTTP gateway listens on, with the port that was chosen for port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it was started with.
    pub fn config(&self) -> &NodeConfig {
        &self.config
    }

    /// Lines that say which runtimes were found.
    pub fn runtimes(&self) -> &[String] {
        &self.runtimes
    }

    /// What the node serves.
    pub fn routes(&self) -> &Arc<Routes> {
        &self.routes
    }

    /// Requests accepted and unanswered, whatever they are for.
    pub fn requests(&self) -> usize {
        self.standing.requests()
    }

    /// The supervisor of its shard actors.
    pub fn supervisor(&self) -> &Addr<ShardSupervisor> {
        &self.supervisor
    }

    /// Waits until what is loaded at start is loaded, and returns what went wrong. Blocks.
    pub fn loaded(&self) -> Vec<String> {
        waited_for(self.loaded_later().blocking_recv())
    }

    /// Looks at the repositories again, and returns when all is loaded and unloaded that they ask for, with what went
    /// wrong. Blocks.
    pub fn rescan(&self) -> Vec<String> {
        waited_for(self.rescan_later().blocking_recv())
    }

    /// [`Node::loaded`] for who has other things to listen to meanwhile.
    pub(crate) fn loaded_later(&self) -> Problems {
        self.order(Order::Loaded)
    }

    /// [`Node::rescan`] likewise. The rescan goes on when this is dropped.
    pub(crate) fn rescan_later(&self) -> Problems {
        self.order(Order::Rescan)
    }

    fn order(&self, order: impl FnOnce(oneshot::Sender<Vec<String>>) -> Order) -> Problems {
        let (reply, problems) = oneshot::channel();
        // The thread of a node that has ended drops the reply, which is what its receiver sees.
        let _ = self.orders.send(order(reply));
        problems
    }

    /// Drains the node: readiness becomes false, what was accepted is answered to the last byte, memory is freed. Returns
    /// when all has ended, at the latest a tenth of a second after the configured drain timeout. What still runs then is
    /// left to its thread.
    pub fn stop(mut self) {
        let _ = self.orders.send(Order::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic on that thread has been reported on its own.
            let _ = thread.join();
        }
    }
}

/// What models may take on a node with this configuration.
pub(crate) fn memory_budget(config: &NodeConfig) -> MemoryBudget {
    let of_machine = || Some(memory_limit()? / 100 * DEFAULT_BUDGET_PERCENT);
    MemoryBudget::new(config.memory.budget.or_else(of_machine).unwrap_or(u64::MAX))
}

fn waited_for(problems: Result<Vec<String>, oneshot::error::RecvError>) -> Vec<String> {
    problems.unwrap_or_else(|_| vec!["the node has stopped".to_owned()])
}

fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).map_err(|source| StartError::Bind { address, source })
}

async fn run(
    options: SupervisorOptions,
    standing: Arc<Standing>,
    listener: TcpListener,
    prometheus: Prometheus,
    mut orders: mpsc::UnboundedReceiver<Order>,
    report: std::sync::mpsc::Sender<Result<Started, StartError>>,
) {
    let config = Arc::clone(&options.config);
    let supervisor = ShardSupervisor::new(options.clone()).start();
    let catalog = Catalog::new(Arc::clone(&config), options.loader.clone(), supervisor.clone()).start();
    let gateway = Gateway {
        config: Arc::clone(&config),
        routes: Arc::clone(&options.routes),
        pool: options.pool.clone(),
        catalog: catalog.clone(),
        standing: Arc::clone(&standing),
        prometheus: prometheus.clone(),
        exported: Exported::default(),
    };
    let served = listener
        .try_clone()
        .and_then(|listener| gateway::serve(gateway, listener));
    let server = match served {
        Ok(server) => server,
        Err(source) => {
            let _ = report.send(Err(system("the HTTP gateway")(source)));
            return;
        }
    };
    let server_handle = server.handle();
    actix::spawn(server);
    let _ = report.send(Ok(Started {
        supervisor: supervisor.clone(),
    }));
    actix::spawn(async move {
        let mut ticks = tokio::time::interval(FOLD_METRICS);
        loop {
            ticks.tick().await;
            prometheus.fold();
        }
    });
    let (loaded, first) = watch::channel(None);
    {
        let (catalog, standing, loader) = (catalog.clone(), Arc::clone(&standing), options.loader.clone());
        actix::spawn(async move {
            let problems = catalog.send(Rescan).await.unwrap_or_default();
            standing.enter(Stage::Serving);
            loader.stand_back();
            loaded.send_replace(Some(problems));
        });
    }
    while let Some(order) = orders.recv().await {
        match order {
            Order::Loaded(reply) => {
                let mut first = first.clone();
                actix::spawn(async move {
                    if let Ok(problems) = first.wait_for(Option::is_some).await {
                        let _ = reply.send(problems.clone().unwrap_or_default());
                    }
                });
            }
            Order::Rescan(reply) => {
                let catalog = catalog.clone();
                actix::spawn(async move {
                    let _ = reply.send(catalog.send(Rescan).await.unwrap_or_default());
                });
            }
            Order::Stop => {
                drain(&config, &standing, &listener, &server_handle, &supervisor).await;
                break;
            }
        }
    }
}

/// Ends the service in order: first nobody new is taken, then what was accepted is answered, then memory is freed.
///
/// actix's own graceful stop comes last. It closes every connection that idles at that moment, and on a busy one that is
/// the moment between an answer and the next request, which is on its way then and would be lost. Connections that exist
/// are therefore served on, each answer asking for their end; the listener is closed before the first of these answers,
/// so that whoever connects anew goes elsewhere at once.
async fn drain(
    config: &NodeConfig,
    standing: &Standing,
    listener: &TcpListener,
    server: &actix_web::dev::ServerHandle,
    supervisor: &Addr<ShardSupervisor>,
) {
    info!(requests = standing.requests(), "draining");
    let give_up = Instant::now() + config.http.drain_timeout;
    // So that the acceptor does not stumble over a listener that takes nothing.
    server.pause().await;
    if let Err(error) = rustix::net::shutdown(listener, rustix::net::Shutdown::Both) {
        warn!(%error, "new connections are not refused before the end of the drain");
    }
    standing.enter(Stage::Draining);
    let mut quiet_since = None;
    loop {
        let now = Instant::now();
        quiet_since = (standing.requests() == 0).then(|| quiet_since.unwrap_or(now));
        let is_quiet = quiet_since.is_some_and(|since| now - since >= DRAIN_QUIET);
        if is_quiet || now >= give_up {
            break;
        }
        tokio::time::sleep(DRAIN_POLL.min(give_up - now)).await;
    }
    if standing.requests() > 0 {
        warn!(
            requests = standing.requests(),
            "the drain timeout passed; these requests are dropped"
        );
    }
    // An answer is sent when its last byte is, which actix waits for and nobody else sees.
    let left = || (give_up + LAST_WORDS).saturating_duration_since(Instant::now());
    if tokio::time::timeout(left(), server.stop(true)).await.is_err() {
        warn!("the drain timeout passed; answers that are still being read are cut");
    }
    if tokio::time::timeout(left(), supervisor.send(Stop)).await.is_err() {
        warn!("the drain timeout passed; the memory of models is left to the system");
    }
    info!("drained");
}

/// How long a drain whose timeout has passed may still take, to tell those parts to end that have not.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// How often a drain looks whether requests are left.
const DRAIN_POLL: Duration = Duration::from_millis(25);
/// For how long no request may have been there at the end of a drain: a client that has had an answer, and not yet one
/// that asks for the end of its connection, may have sent the next one in the meantime.
const DRAIN_QUIET: Duration = Duration::from_millis(250);
