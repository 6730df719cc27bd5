//! Links to other nodes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::ArbiterHandle;
use arc_swap::{ArcSwap, ArcSwapOption};
use dashmap::DashMap;
use grid_client::link::{Exchange, ExchangeError, Limits, Link, LinkOptions, NoService, connect_serving};
use grid_core::cluster::{NodeId, NodeName};
use grid_core::tensor::Buffer;
use grid_core::wire::call::{Call, Reply};
use grid_core::wire::handshake::Purpose;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{debug, info};

/// How long a connection attempt may take.
const CONNECT: Duration = Duration::from_secs(2);

/// Waits between attempts: the first, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// What the links of a node are made with.
#[derive(Clone)]
pub(crate) struct PeersOptions {
    /// Follows this node's generation.
    pub(crate) link: Arc<ArcSwap<LinkOptions>>,
    /// Bounds of the links for requests.
    pub(crate) limits: Limits,
    /// Where links live; each goes to the next one.
    pub(crate) arbiters: Vec<ArbiterHandle>,
    /// Told when a link comes up or is lost.
    pub(crate) changes: mpsc::UnboundedSender<NodeName>,
}

/// The links of this node to others. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Peers {
    options: Arc<PeersOptions>,
    peers: Arc<DashMap<NodeName, Arc<Peer>>>,
    /// Lives of nodes whose host refuses connections to where they listened: their processes are gone.
    gone: Arc<DashMap<NodeName, u64>>,
}

/// One other node, as long as it lives this life of it.
pub(crate) struct Peer {
    pub(crate) id: NodeId,
    at: SocketAddr,
    requests: ArcSwapOption<Link>,
    bulk: ArcSwapOption<Link>,
    /// Closed when the peer is not wanted any more.
    wanted: watch::Sender<bool>,
}

/// Why a call brought no reply.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("no link to it is open")]
    NoLink,
    #[error("{0}")]
    Exchange(#[from] ExchangeError),
    #[error("its reply makes no sense: {0}")]
    Nonsense(String),
    #[error("it did not answer within {0:?}")]
    TimedOut(Duration),
}

impl Peers {
    pub(crate) fn new(options: PeersOptions) -> Self {
        Self {
            options: Arc::new(options),
            peers: Arc::default(),
            gone: Arc::default(),
        }
    }

    /// The link to a node, made if there is none. A node that lives another life gets another one.
    pub(crate) fn meet(&self, id: &NodeId, at: SocketAddr) -> Arc<Peer> {
        let mut place = self.peers.entry(id.name.clone());
        if let dashmap::Entry::Occupied(known) = &mut place {
            let known = known.get();
            if known.id.generation > id.generation || (known.id == *id && known.at == at) {
                return Arc::clone(known);
            }
            known.wanted.send_replace(false);
        }
        let peer = Arc::new(Peer {
            id: id.clone(),
            at,
            requests: ArcSwapOption::empty(),
            bulk: ArcSwapOption::empty(),
            wanted: watch::Sender::new(true),
        });
        place.insert(Arc::clone(&peer));
        for purpose in [Purpose::Requests, Purpose::Bulk] {
            self.keep(Arc::clone(&peer), purpose);
        }
        peer
    }

    /// The peer of that name.
    pub(crate) fn get(&self, name: &NodeName) -> Option<Arc<Peer>> {
        self.peers.get(name).map(|peer| Arc::clone(&peer))
    }

    /// Whether the process of that life of a node is provably gone, as far as was noticed.
    pub(crate) fn is_gone(&self, id: &NodeId) -> bool {
        self.gone.get(&id.name).is_some_and(|gone| *gone >= id.generation)
    }

    /// Ends the links to a node that is gone for good.
    pub(crate) fn forget(&self, id: &NodeId) {
        if let Some((_, peer)) = self.peers.remove_if(&id.name, |_, peer| peer.id == *id) {
            peer.wanted.send_replace(false);
        }
    }

    /// Ends the links to nodes that are not wanted any more.
    pub(crate) fn retain(&self, is_wanted: impl Fn(&NodeName) -> bool) {
        self.peers.retain(|name, peer| {
            let wanted = is_wanted(name);
            if !wanted {
                peer.wanted.send_replace(false);
            }
            wanted
        });
    }

    /// Keeps a link open, on an arbiter of its own, as long as the peer is wanted.
    fn keep(&self, peer: Arc<Peer>, purpose: Purpose) {
        let place = peer.at.port() as usize + usize::from(purpose == Purpose::Bulk);
        let arbiter = &self.options.arbiters[place % self.options.arbiters.len()];
        let (options, gone) = (Arc::clone(&self.options), Arc::clone(&self.gone));
        arbiter.spawn(async move {
            let mut wanted = peer.wanted.subscribe();
            let linked = link_for_ever(&options, &gone, &peer, purpose);
            tokio::select! {
                _ = wanted.wait_for(|wanted| !wanted) => {}
                () = linked => {}
            }
            if let Some(link) = peer.slot(purpose).swap(None) {
                link.close();
            }
        });
    }
}

async fn link_for_ever(options: &PeersOptions, gone: &DashMap<NodeName, u64>, peer: &Peer, purpose: Purpose) {
    let (first, longest) = BACKOFF;
    let mut backoff = first;
    loop {
        match open(options, peer, purpose).await {
            Ok((link, driver)) => {
                backoff = first;
                gone.remove(&peer.id.name);
                peer.slot(purpose).store(Some(Arc::new(link.clone())));
                let _ = options.changes.send(peer.id.name.clone());
                let closed = link.closed().await;
                peer.slot(purpose).store(None);
                driver.abort();
                let _ = options.changes.send(peer.id.name.clone());
                info!(node = %peer.id, ?purpose, reason = %closed, "a link was lost");
            }
            Err(problem) => {
                debug!(node = %peer.id, ?purpose, reason = problem.reason, "no link");
                if problem.proves_gone && gone.insert(peer.id.name.clone(), peer.id.generation).is_none() {
                    let _ = options.changes.send(peer.id.name.clone());
                }
            }
        }
        // Jittered, so that nodes that lost one peer do not all come back to it at once.
        tokio::time::sleep(backoff.mul_f64(0.5 + rand::random::<f64>())).await;
        backoff = (backoff * 2).min(longest);
    }
}

async fn open(options: &PeersOptions, peer: &Peer, purpose: Purpose) -> Result<(Link, JoinHandle<()>), Problem> {
    let connected = tokio::time::timeout(CONNECT, TcpStream::connect(peer.at)).await;
    let stream = connected
        .map_err(|_| format!("{} did not answer within {CONNECT:?}", peer.at))?
        .map_err(|error| Problem {
            // Its host answers, and nothing listens there.
            proves_gone: error.kind() == std::io::ErrorKind::ConnectionRefused,
            reason: error.to_string(),
        })?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let mut link = LinkOptions {
        purpose,
        ..LinkOptions::clone(&options.link.load())
    };
    if purpose == Purpose::Requests {
        link.limits = options.limits.clone();
    }
    let (link, driver) = connect_serving(stream.into_split(), &link, NoService)
        .await
        .map_err(|error| error.to_string())?;
    match &link.peer().peer {
        grid_core::wire::handshake::Peer::Node(id) if *id == peer.id => {}
        other => {
            let follows = |id: &NodeId| id.name == peer.id.name && id.generation > peer.id.generation;
            return Err(Problem {
                proves_gone: matches!(other, grid_core::wire::handshake::Peer::Node(id) if follows(id)),
                reason: format!("at its address is {other:?}"),
            });
        }
    }
    let driver = tokio::task::spawn_local(async move {
        driver.await;
    });
    Ok((link, driver))
}

/// Why a link was not opened.
struct Problem {
    reason: String,
    /// Whether it shows that the process is gone.
    proves_gone: bool,
}

impl From<String> for Problem {
    fn from(reason: String) -> Self {
        Self {
            reason,
            proves_gone: false,
        }
    }
}

impl Peer {
    fn slot(&self, purpose: Purpose) -> &ArcSwapOption<Link> {
        match purpose {
            Purpose::Requests => &self.requests,
            Purpose::Bulk => &self.bulk,
        }
    }

    /// The link for requests, if it is open.
    pub(crate) fn link(&self) -> Option<Arc<Link>> {
        self.requests.load_full().filter(|link| link.is_open())
    }

    /// Whether requests can be sent.
    pub(crate) fn is_linked(&self) -> bool {
        self.requests.load().as_ref().is_some_and(|link| link.is_open())
    }

    /// One call with one reply, over the link for requests.
    pub(crate) async fn call(
        &self,
        call: &Call,
        body: Vec<Buffer>,
        within: Duration,
    ) -> Result<(Reply, Buffer), CallError> {
        let link = self.link().ok_or(CallError::NoLink)?;
        reply(link.ask(call, body, Some(within)), within).await
    }

    /// The same over the link for bulk.
    pub(crate) async fn call_in_bulk(&self, call: &Call, within: Duration) -> Result<(Reply, Buffer), CallError> {
        let link = self.bulk.load_full().ok_or(CallError::NoLink)?;
        reply(link.ask(call, Vec::new(), Some(within)), within).await
    }
}

async fn reply(mut exchange: Exchange, within: Duration) -> Result<(Reply, Buffer), CallError> {
    let next = tokio::time::timeout(within, exchange.next()).await;
    let incoming = next.map_err(|_| CallError::TimedOut(within))?;
    let incoming = incoming.ok_or_else(|| CallError::Nonsense("it ended without a word".to_owned()))??;
    incoming
        .unpack()
        .map_err(|error| CallError::Nonsense(error.to_string()))
}
