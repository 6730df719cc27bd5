//! Links of the product over the simulated network: how they are made, kept, and used for one question.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use grid_client::link::{Closed, NoService};
use grid_client::link::{ExchangeError, Incoming, Link, LinkOptions, Reply, accept_halves, connect_serving};
use grid_core::cluster::{ClusterKey, Digest, GridName};
use grid_core::tensor::Buffer;
use grid_core::wire::handshake::Peer;
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, timeout};
use turmoil::net::{TcpListener, TcpStream};

use crate::freeze::{Freezer, Task};

/// Patience with a connection.
const CONNECT: Duration = Duration::from_secs(1);

thread_local! {
    /// Nonces of links: drawn in order, so that the same seed makes the same ones.
    static NONCES: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// Links of this thread draw their nonces from this seed from now on.
pub fn seed_nonces(seed: u64) {
    NONCES.set((seed, 0));
}

fn nonce() -> [u8; 32] {
    let (seed, count) = NONCES.get();
    NONCES.set((seed, count + 1));
    let Digest(bytes) = Digest::of(&[seed.to_le_bytes(), count.to_le_bytes()].concat());
    bytes
}

/// The grid of all simulations.
pub fn grid() -> GridName {
    "simulation".parse().expect("it is a name")
}

/// The key of all simulations.
pub fn key() -> ClusterKey {
    ClusterKey::from_bytes([7; 32])
}

/// What the links of one end are made with.
pub fn options(identity: Peer) -> LinkOptions {
    let mut options = LinkOptions::new(grid(), identity, key().mesh());
    options.entropy = nonce;
    options
}

/// What runs the tasks of one end.
#[derive(Clone)]
pub struct Spawner {
    /// Its tasks stand still with it.
    pub freezer: Rc<Freezer>,
    /// Who is told of a panic.
    pub panicked: Rc<dyn Fn(String)>,
}

impl std::fmt::Debug for Spawner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spawner").finish_non_exhaustive()
    }
}

impl Spawner {
    /// Runs a task on the host that this is called on.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        drop(tokio::task::spawn_local(self.wrap(task)));
    }

    /// A future that stands still with this end.
    pub fn wrap<F: Future<Output = ()>>(&self, task: F) -> Task<F> {
        let panicked = Rc::clone(&self.panicked);
        Task::new(task, Rc::clone(&self.freezer), move |message| panicked(message))
    }
}

/// What there is of a link to one address.
#[derive(Debug, Default)]
struct Known {
    link: Option<Link>,
    /// When none came about, so that not everybody who asks waits for one in vain.
    failed: Option<Instant>,
}

type Slot = Rc<Mutex<Known>>;

/// The links that one end has opened: one to each address, made when it is needed.
#[derive(Debug)]
pub struct Pool {
    spawner: Spawner,
    identity: RefCell<Peer>,
    slots: RefCell<BTreeMap<SocketAddr, Slot>>,
}

impl Pool {
    /// A pool without links.
    pub fn new(spawner: Spawner, identity: Peer) -> Self {
        Self {
            spawner,
            identity: RefCell::new(identity),
            slots: RefCell::default(),
        }
    }

    /// Who the end is, in links that are made from now on.
    pub fn set_identity(&self, identity: Peer) {
        self.identity.replace(identity);
    }

    /// Whether a link to this address is open.
    pub fn is_linked(&self, to: SocketAddr) -> bool {
        let slot = self.slots.borrow().get(&to).cloned();
        let known = slot.as_ref().and_then(|slot| slot.try_lock().ok());
        let link = known.as_ref().and_then(|known| known.link.as_ref());
        link.is_some_and(Link::is_open)
    }

    /// Opens a link to this address where none is open; whether there is one now.
    pub async fn reach(&self, to: SocketAddr) -> bool {
        self.link(to).await.is_some()
    }

    /// An open link to this address.
    async fn link(&self, to: SocketAddr) -> Option<Link> {
        let slot = Rc::clone(self.slots.borrow_mut().entry(to).or_default());
        let mut known = slot.lock().await;
        if let Some(link) = known.link.as_ref().filter(|link| link.is_open()) {
            return Some(link.clone());
        }
        known.link = None;
        if known.failed.is_some_and(|failed| Instant::now() < failed + CONNECT) {
            return None;
        }
        known.failed = Some(Instant::now() + CONNECT);
        let stream = timeout(CONNECT, TcpStream::connect(to)).await.ok()?.ok()?;
        let options = options(self.identity.borrow().clone());
        let made = timeout(CONNECT, connect_serving(stream.into_split(), &options, NoService));
        let (link, driver) = made.await.ok()?.ok()?;
        self.spawner.spawn(async move { drop(driver.await) });
        known.failed = None;
        known.link = Some(link.clone());
        Some(link)
    }

    /// One question and its one answer.
    ///
    /// # Errors
    /// When there is no answer, or not in time.
    pub async fn ask(
        &self,
        to: SocketAddr,
        head: Vec<u8>,
        body: Vec<Buffer>,
        patience: Duration,
    ) -> Result<Incoming, ExchangeError> {
        // Others may be waiting for the same link.
        let Ok(Some(link)) = timeout(patience, self.link(to)).await else {
            return Err(ExchangeError::NotSent(Closed::ByPeer));
        };
        let mut exchange = link.call(head, body, Some(patience));
        match timeout(patience, exchange.next()).await {
            Ok(Some(answer)) => answer,
            Ok(None) => Err(ExchangeError::Reset),
            Err(_late) => Err(ExchangeError::Lost(Closed::Silent(patience))),
        }
    }

    /// Closes the link to an address: its node is gone.
    pub fn close(&self, to: SocketAddr) {
        let slot = self.slots.borrow_mut().remove(&to);
        if let Some(link) = slot.as_ref().and_then(|slot| slot.try_lock().ok())
            && let Some(link) = &link.link
        {
            link.close();
        }
    }
}

/// A question that has come over a link.
#[derive(Debug)]
pub struct Asked {
    /// Its head.
    pub head: Bytes,
    /// Its body.
    pub body: Buffer,
    /// The time it has left.
    pub remaining: Option<Duration>,
    /// The way back.
    pub reply: Reply,
}

/// Links that others have opened.
pub type Inbound = Rc<RefCell<Vec<Link>>>;

/// Takes links on a port until the end of the host, and passes on what comes over them.
pub async fn listen(
    port: u16,
    spawner: Spawner,
    identity: Peer,
    inbound: Inbound,
    questions: mpsc::UnboundedSender<Asked>,
) {
    let Ok(listener) = TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, port)).await else {
        return;
    };
    while let Ok((stream, _)) = listener.accept().await {
        let (identity, questions, inbound) = (identity.clone(), questions.clone(), Rc::clone(&inbound));
        let task = async move {
            let service = move |incoming: Incoming, reply: Reply| {
                // The receiver lives as long as the host.
                let _gone = questions.send(Asked {
                    head: incoming.head,
                    body: incoming.body,
                    remaining: incoming.remaining,
                    reply,
                });
            };
            let options = options(identity);
            let made = timeout(CONNECT, accept_halves(stream.into_split(), &options, service));
            if let Ok(Ok((link, driver))) = made.await {
                inbound.borrow_mut().retain(Link::is_open);
                inbound.borrow_mut().push(link);
                driver.await;
            }
        };
        spawner.spawn(task);
    }
}
