//! A running node: its threads, its actors, its gateways, from start to drained.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actix::{Actor, Addr};
use grid_core::config::NodeConfig;
use grid_core::dispatch::retry::RetryBudget;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

use crate::actors::{
    Catalog, InGrid, Rescan, RouterOptions, Routes, Sessions, SetCapacity, ShardSupervisor, Stop, SupervisorOptions,
};
use crate::compute::Pool;
use crate::gateway::{self, Exported, Gateway, grpc};
use crate::joining::{Bringing, Joined, Ready, caught_up, compute_weight};
use crate::loading::{Loader, MemoryBudget, compute_threads, memory_limit};
use crate::runtime::Runtimes;
use crate::standing::{Stage, Standing};
use crate::telemetry::Prometheus;

/// Share of the machine's or container's memory that models may take when no budget is configured, in percent. The
/// rest is for request bodies, stacks, the code, and what runtimes need while they run.
const DEFAULT_BUDGET_PERCENT: u64 = 80;

/// How often recorded samples are folded into their histogram buckets, and ended sequences are forgotten.
const UPKEEP: Duration = Duration::from_secs(1);

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address of a gateway cannot be bound.
    #[error("{key}: {address} cannot be bound: {source}{hint}", hint = bind_hint(source))]
    Bind {
        /// The key of the config that names it.
        key: &'static str,
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
    /// What a node of a grid needs is not there.
    #[error("{key}: {reason}")]
    Grid {
        /// The key of the config that names it.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The metrics cannot be recorded.
    #[error("metrics: {0}")]
    Metrics(String),
}

impl StartError {
    /// The key of the config that another value of would help, if there is one.
    pub fn key(&self) -> Option<&'static str> {
        match self {
            Self::Bind { key, .. } | Self::Grid { key, .. } => Some(key),
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
    grpc_address: Option<SocketAddr>,
    mesh_address: Option<SocketAddr>,
    routes: Arc<Routes>,
    budget: MemoryBudget,
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
    Capacity {
        memory: u64,
        compute: Option<u32>,
    },
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
        let (http, address) = bind("http.listen", config.http.listen)?;
        let grpc = config
            .grpc
            .listen
            .map(|address| bind("grpc.listen", address))
            .transpose()?;
        let (grpc, grpc_address) = grpc.unzip();
        let ready = Ready::of_config(&config)?;
        let mesh_address = ready.as_ref().map(|ready| ready.address);
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
        let budget = options.budget.clone();
        let runtimes = options.runtimes.report();
        let (orders, queue) = mpsc::unbounded_channel();
        let (report, started) = std::sync::mpsc::channel();
        let shared = Arc::clone(&standing);
        let thread = std::thread::Builder::new()
            .name("node".to_owned())
            .spawn(move || {
                let system = actix::System::new();
                system.block_on(run(
                    options,
                    shared,
                    Listeners {
                        http,
                        grpc,
                        grid: ready,
                    },
                    prometheus,
                    queue,
                    report,
                ));
            })
            .map_err(system("the node's thread"))?;
        match started.recv() {
            Ok(Ok(Started { supervisor })) => Ok(Self {
                config,
                address,
                grpc_address,
                mesh_address,
                routes,
                budget,
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

    /// The address that the gRPC gateway listens on, if there is one.
    pub fn grpc_address(&self) -> Option<SocketAddr> {
        self.grpc_address
    }

    /// The address that the mesh and the gossip listen on, if the node is one of a grid.
    pub fn mesh_address(&self) -> Option<SocketAddr> {
        self.mesh_address
    }

    /// Bytes of the memory budget, and how many of them are reserved.
    pub fn memory(&self) -> (u64, u64) {
        self.budget.usage()
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

    /// Takes over what of a config can change while a node runs: its memory budget and, in a grid, its speed.
    pub fn reconfigure(&self, config: &NodeConfig) {
        let memory = memory_bytes(config);
        if memory != self.budget.usage().0 {
            info!(bytes = memory, "the memory budget changes");
            self.budget.set(memory);
        }
        // As at a start: a key that was taken out means its default again.
        let compute = Some(compute_weight(config));
        let _ = self.orders.send(Order::Capacity { memory, compute });
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
    MemoryBudget::new(memory_bytes(config))
}

fn memory_bytes(config: &NodeConfig) -> u64 {
    let of_machine = || Some(memory_limit()? / 100 * DEFAULT_BUDGET_PERCENT);
    config.memory.budget.or_else(of_machine).unwrap_or(u64::MAX)
}

fn waited_for(problems: Result<Vec<String>, oneshot::error::RecvError>) -> Vec<String> {
    problems.unwrap_or_else(|_| vec!["the node has stopped".to_owned()])
}

/// Where the gateways listen.
struct Listeners {
    http: TcpListener,
    grpc: Option<TcpListener>,
    grid: Option<Ready>,
}

impl Listeners {
    /// Where HTTP and gRPC are.
    fn addresses(&self) -> (SocketAddr, Option<SocketAddr>) {
        let of = |listener: &TcpListener| listener.local_addr().ok();
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        (of(&self.http).unwrap_or(nowhere), self.grpc.as_ref().and_then(of))
    }
}

/// Binds an address; also tells which port was chosen for port 0.
fn bind(key: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        let address = listener.local_addr()?;
        Ok((listener, address))
    });
    bound.map_err(|source| StartError::Bind { key, address, source })
}

async fn run(
    options: SupervisorOptions,
    standing: Arc<Standing>,
    mut listeners: Listeners,
    prometheus: Prometheus,
    mut orders: mpsc::UnboundedReceiver<Order>,
    report: std::sync::mpsc::Sender<Result<Started, StartError>>,
) {
    let config = Arc::clone(&options.config);
    let supervisor = ShardSupervisor::new(options.clone()).start();
    let retries: Arc<Mutex<RetryBudget>> = Arc::default();
    let sessions = Arc::new(Sessions::new(config.sequences.clone(), options.budget.clone()));
    let addresses = listeners.addresses();
    let joined = listeners.grid.take().map(|ready| {
        let store = ready.store();
        let bringing = Bringing {
            options: &options,
            router: RouterOptions {
                routes: Arc::clone(&options.routes),
                pool: options.pool.clone(),
                place: 0,
                retries: Arc::clone(&retries),
            },
            supervisor: supervisor.clone(),
            standing: Arc::clone(&standing),
            http: addresses.0,
            grpc: addresses.1,
            sessions: Arc::clone(&sessions),
        };
        Ok((Joined::join(ready, bringing)?, store))
    });
    let joined = match joined.transpose() {
        Ok(joined) => joined,
        Err(error) => {
            let _ = report.send(Err(error));
            return;
        }
    };
    let in_grid = joined.as_ref().map(|(joined, store)| InGrid {
        actor: joined.actor.clone(),
        store: Arc::clone(store),
        routes: Arc::clone(&options.routes),
    });
    let joined = joined.map(|(joined, _)| joined);
    let catalog = Catalog::new(Arc::clone(&config), options.loader.clone(), supervisor.clone(), in_grid).start();
    let gateway = Gateway {
        config: Arc::clone(&config),
        routes: Arc::clone(&options.routes),
        pool: options.pool.clone(),
        sessions: Arc::clone(&sessions),
        retries,
        grid: joined.as_ref().map(|joined| joined.actor.clone()),
        budget: options.budget.clone(),
        catalog: catalog.clone(),
        standing: Arc::clone(&standing),
        prometheus: prometheus.clone(),
        exported: Exported::default(),
    };
    let gateways = match Gateways::serve(gateway, listeners).await {
        Ok(gateways) => gateways,
        Err(error) => {
            let _ = report.send(Err(error));
            return;
        }
    };
    let _ = report.send(Ok(Started {
        supervisor: supervisor.clone(),
    }));
    actix::spawn(async move {
        let mut ticks = tokio::time::interval(UPKEEP);
        loop {
            ticks.tick().await;
            prometheus.fold();
            sessions.sweep();
        }
    });
    let (loaded, first) = watch::channel(None);
    {
        let (catalog, standing, loader) = (catalog.clone(), Arc::clone(&standing), options.loader.clone());
        let grid = joined.as_ref().map(|joined| joined.actor.clone());
        actix::spawn(async move {
            let problems = catalog.send(Rescan).await.unwrap_or_default();
            if let Some(grid) = grid {
                caught_up(&grid).await;
            }
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
            Order::Capacity { memory, compute } => {
                if let Some(joined) = &joined {
                    let memory = Some(memory);
                    joined.actor.do_send(SetCapacity { memory, compute });
                }
            }
            Order::Stop => {
                let timeout = config.http.drain_timeout;
                let give_up = Instant::now() + timeout;
                if let Some(joined) = &joined {
                    info!("moving what this node hosts to others");
                    standing.enter(Stage::Leaving);
                    joined.leave(timeout.mul_f64(SHARE_TO_MOVE)).await;
                    // Last, so that they are away for as short as can be.
                    let left = give_up.saturating_duration_since(Instant::now());
                    joined.leave_sequences(left / 2).await;
                    joined.farewell().await;
                }
                drain(give_up, &standing, &gateways, &supervisor).await;
                break;
            }
        }
    }
}

/// The gateways of a node while they run.
struct Gateways {
    listener: TcpListener,
    http: actix_web::dev::ServerHandle,
    grpc: Option<grpc::Server>,
}

impl Gateways {
    async fn serve(gateway: Gateway, listeners: Listeners) -> Result<Self, StartError> {
        let grpc = match listeners.grpc {
            Some(listener) => {
                let served = grpc::serve(gateway.clone(), listener).await;
                Some(served.map_err(system("the gRPC gateway"))?)
            }
            None => None,
        };
        let listener = listeners.http;
        let served = listener
            .try_clone()
            .and_then(|listener| gateway::serve(gateway, listener));
        let server = served.map_err(system("the HTTP gateway"))?;
        let http = server.handle();
        actix::spawn(server);
        Ok(Self { listener, http, grpc })
    }
}

/// Ends the service in order: first nobody new is taken, then what was accepted is answered, then memory is freed.
///
/// actix's own graceful stop comes last. It closes every connection that idles at that moment, and on a busy one that is
/// the moment between an answer and the next request, which is on its way then and would be lost. Connections that exist
/// are therefore served on, each answer asking for their end; the listener is closed before the first of these answers,
/// so that whoever connects anew goes elsewhere at once.
async fn drain(give_up: Instant, standing: &Standing, gateways: &Gateways, supervisor: &Addr<ShardSupervisor>) {
    info!(requests = standing.requests(), "draining");
    // So that the acceptor does not stumble over a listener that takes nothing.
    gateways.http.pause().await;
    // The acceptor hears of it on a thread of its own, and does not say when it has.
    tokio::time::sleep(ACCEPTOR_HEARS).await;
    if let Err(error) = rustix::net::shutdown(&gateways.listener, rustix::net::Shutdown::Both) {
        warn!(%error, "new connections are not refused before the end of the drain");
    }
    standing.enter(Stage::Draining);
    // HTTP/2 has a word for it: a client learns which of its calls are still answered, and loses none.
    if let Some(grpc) = &gateways.grpc {
        grpc.drain();
    }
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
    let answered = async {
        // At once, so that a reader who is slow over one of them costs the other nothing.
        let grpc = async {
            if let Some(grpc) = &gateways.grpc {
                grpc.drained().await;
            }
        };
        tokio::join!(grpc, gateways.http.stop(true))
    };
    if tokio::time::timeout(left(), answered).await.is_err() {
        warn!("the drain timeout passed; answers that are still being read are cut");
    }
    if tokio::time::timeout(left(), supervisor.send(Stop)).await.is_err() {
        warn!("the drain timeout passed; the memory of models is left to the system");
    }
    info!("drained");
}

/// How long a drain whose timeout has passed may still take, to tell those parts to end that have not.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Of the drain timeout, how much others may take to load what this node hosts. The rest is for sequences to come to a step
/// boundary, and for what was accepted to be answered.
const SHARE_TO_MOVE: f64 = 0.75;

/// How long the acceptor may take to hear that it is to pause. One that is slower logs errors that mean nothing.
const ACCEPTOR_HEARS: Duration = Duration::from_millis(20);

/// How often a drain looks whether requests are left.
const DRAIN_POLL: Duration = Duration::from_millis(25);
/// For how long no request may have been there at the end of a drain: a client that has had an answer, and not yet one
/// that asks for the end of its connection, may have sent the next one in the meantime.
const DRAIN_QUIET: Duration = Duration::from_millis(250);
