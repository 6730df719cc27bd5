//! The client library: from a model's name to the least loaded replica that answers.
//!
//! A client knows what nodes know of who hosts what, and decides with the same code. It holds no lock while it waits.

mod dispatch;
mod error;
mod options;
pub(crate) mod peers;
mod request;
mod routes;
#[cfg(test)]
pub(crate) mod tests;
mod topology;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use grid_core::cluster::NodeName;
use grid_core::dispatch::retry::RetryBudget;
use grid_core::model::{ModelName, Version};
use grid_core::wire::call::Topology;
use grid_core::wire::handshake::Peer as Identity;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout, timeout_at};

pub use error::ClientError;
pub use options::ClientOptions;
pub use request::{Answer, Model, Outputs, Request, StreamedOutput, Streaming};
pub(crate) use routes::{Described, Found, Route};

use crate::link::LinkOptions;
use peers::Peer;
use routes::{RouteTable, Unknown};
use topology::Trouble;

/// How long a request that nobody takes waits at most before it looks again: nodes that refused it may take it by then.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Longer than anything waits. A moment that lies further ahead may be none that the clock can tell.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The moment so long after another one, however long that is.
pub(crate) fn after(moment: Instant, wait: Duration) -> Instant {
    moment + wait.min(FOR_EVER)
}

/// A client of a grid. A clone costs a reference count; all clones share links, what is known, and one retry budget. It
/// ends with the last clone, and with the last model, request and sequence that was made from it.
#[derive(Clone)]
pub struct GridClient {
    alive: Arc<Alive>,
}

struct Alive(Arc<Core>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.closed.send_replace(true);
    }
}

/// What the handles and the tasks of a client share.
pub(crate) struct Core {
    pub(crate) options: ClientOptions,
    seeds: Vec<String>,
    link: LinkOptions,
    runtime: Handle,
    /// Times of the retry budget and of replicas are counted from here.
    start: Instant,
    /// Where this client begins to look among equals, so that clients do not all begin with the same replica.
    place: usize,
    retries: Mutex<RetryBudget>,
    known: Mutex<Option<Arc<Topology>>>,
    peers: Mutex<HashMap<NodeName, Arc<Peer>>>,
    routes: Mutex<RouteTable>,
    /// Raised whenever a request that waits may find somebody.
    changes: watch::Sender<u64>,
    /// Asks for the topology before its time.
    pub(crate) poll_now: Notify,
    closed: watch::Sender<bool>,
    trouble: Mutex<Option<Trouble>>,
}

impl Core {
    /// Something changed that routes are made of.
    fn changed(&self) {
        self.routes.lock().forget_routes();
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Tells of every change from now on.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The nodes that are up, as far as is known.
    pub(crate) fn topology(&self) -> Option<Arc<Topology>> {
        self.known.lock().clone()
    }

    /// The node of that name, if it is up; its link is opened.
    pub(crate) fn peer(self: &Arc<Self>, name: &NodeName) -> Option<Arc<Peer>> {
        let topology = self.topology()?;
        let node = topology.nodes.iter().find(|node| node.name() == name)?;
        let mut peers = self.peers.lock();
        let made = || Arc::new(Peer::new(node.node.clone(), node.addresses.mesh));
        let peer = match peers.entry(name.clone()) {
            // The topology may be older than what the peers were last held to: a peer of a life that is over would stay.
            Entry::Occupied(mut known) => {
                if !known.get().is_of(node) {
                    known.insert(made()).forget();
                }
                Arc::clone(known.get())
            }
            Entry::Vacant(place) => Arc::clone(place.insert(made())),
        };
        drop(peers);
        peer.want(self);
        Some(peer)
    }
}

impl GridClient {
    /// Connects to a grid through any of these nodes (`host:port` of their mesh), and learns who is in it. Names are
    /// resolved anew with each attempt; the addresses are tried in turn, now and whenever all links are lost.
    ///
    /// Must be called within a tokio runtime with I/O and time; the client's tasks live on it. Cancel-safe.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when all addresses refuse this client, [`ClientError::Unreachable`] when none answers within
    /// [`ClientOptions::connect_timeout`], [`ClientError::NoSeeds`].
    pub async fn connect<S: Into<String>>(
        seeds: impl IntoIterator<Item = S>,
        options: ClientOptions,
    ) -> Result<Self, ClientError> {
        let within = options.connect_timeout;
        let client = Self::start(seeds, options)?;
        let core = client.core();
        let connected = async {
            let mut changes = core.watch();
            loop {
                if core.topology().is_some() {
                    return Ok(());
                }
                if let Some(trouble) = core.trouble.lock().as_ref().filter(|trouble| trouble.is_refused) {
                    return Err(ClientError::Refused(trouble.reason.clone()));
                }
                // Its sender lives in the core.
                let _ = changes.changed().await;
            }
        };
        match timeout(within, connected).await {
            Ok(connected) => connected.map(|()| client.clone()),
            Err(_) => Err(ClientError::Unreachable {
                waited: within,
                reason: core.why_unreachable(),
            }),
        }
    }

    /// As [`connect`](Self::connect), without waiting for a node: requests wait, each as long as it has time.
    ///
    /// # Errors
    /// [`ClientError::NoSeeds`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start<S: Into<String>>(
        seeds: impl IntoIterator<Item = S>,
        options: ClientOptions,
    ) -> Result<Self, ClientError> {
        let seeds: Vec<String> = seeds.into_iter().map(Into::into).collect();
        if seeds.is_empty() {
            return Err(ClientError::NoSeeds);
        }
        let core = Arc::new(Core {
            link: LinkOptions {
                limits: options.limits.clone(),
                ..LinkOptions::new(options.grid.clone(), Identity::Client, options.key.mesh())
            },
            options,
            seeds,
            runtime: Handle::current(),
            start: Instant::now(),
            place: usize::from(rand::random::<u16>()),
            retries: Mutex::default(),
            known: Mutex::default(),
            peers: Mutex::default(),
            routes: Mutex::default(),
            changes: watch::Sender::new(0),
            poll_now: Notify::new(),
            closed: watch::Sender::new(false),
            trouble: Mutex::default(),
        });
        core.runtime.spawn(topology::watch(Arc::clone(&core)));
        Ok(Self {
            alive: Arc::new(Alive(core)),
        })
    }

    /// A model of the grid, in the version that its manifest prefers, else the newest that is ready.
    /// [`Model::version`] asks for a certain one.
    ///
    /// Waits until somebody hosts it ready. Cancel-safe.
    ///
    /// # Errors
    /// [`ClientError::ModelName`]; [`InferError::NotFound`](grid_core::InferError::NotFound) when no node has heard of it for
    /// [`ClientOptions::unknown_model`]; [`ClientError::NoReplica`] when nobody has it ready within
    /// [`ClientOptions::timeout`].
    pub async fn model(&self, name: &str) -> Result<Model, ClientError> {
        let name: ModelName = name.parse()?;
        let core = self.core();
        core.route(&name, None, core.options.timeout).await?;
        Ok(Model::new(self.clone(), name))
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.alive.0
    }
}

impl Core {
    /// Waits for a route: so long, but for a model that no node knows only as long as [`ClientOptions::unknown_model`].
    pub(crate) async fn route(
        self: &Arc<Self>,
        name: &ModelName,
        version: Option<Version>,
        within: Duration,
    ) -> Result<Arc<Route>, ClientError> {
        let began = Instant::now();
        let mut changes = self.watch();
        let mut unknown = Unknown::default();
        loop {
            changes.borrow_and_update();
            let waiting = match self.find(name, version) {
                Found::Route(route) => return Ok(route),
                Found::Waiting(waiting) => waiting,
            };
            let until = unknown
                .until(&waiting, self)
                .map_or(after(began, within), |until| until.min(after(began, within)));
            if timeout_at(until, changes.changed()).await.is_err() {
                return Err(waiting.into_error(name, began.elapsed()));
            }
        }
    }

    fn why_unreachable(&self) -> String {
        let trouble = self.trouble.lock().clone();
        trouble.map_or_else(|| "no address has answered yet".to_owned(), |trouble| trouble.reason)
    }

    fn may_retry(&self, miss: grid_core::dispatch::retry::Miss, attempts: u32) -> bool {
        // What is sent this way keeps nothing between requests, so running twice does no harm.
        self.retries
            .lock()
            .may_retry(self.start.elapsed(), miss, attempts, true)
    }
}

impl std::fmt::Debug for GridClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let core = self.core();
        f.debug_struct("GridClient")
            .field("grid", &core.options.grid)
            .field("seeds", &core.seeds)
            .finish_non_exhaustive()
    }
}
