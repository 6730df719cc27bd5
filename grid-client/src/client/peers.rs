//! Links to nodes: opened when something is to be sent there, kept while it is used, and made anew when they are lost.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use grid_core::cluster::{NodeId, NodeSnapshot};
use grid_core::wire::call::{Call, Reply};
use grid_core::wire::handshake::Peer as Identity;
use parking_lot::Mutex;
use tokio::net::{TcpStream, ToSocketAddrs};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::debug;

use super::{Core, after};
use crate::link::{Link, LinkError, NoService, connect_serving};

/// Waits between attempts: the first, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// The next of growing waits.
pub(crate) struct Backoff(Duration);

impl Backoff {
    pub(crate) fn new() -> Self {
        Self(BACKOFF.0)
    }

    /// Jittered, so that clients that lost one node do not all come back to it at once.
    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.0.mul_f64(0.5 + rand::random::<f64>());
        self.0 = (self.0 * 2).min(BACKOFF.1);
        wait
    }
}

/// A node, as long as it lives this life of it at this address.
pub(crate) struct Peer {
    pub(crate) id: NodeId,
    pub(crate) at: SocketAddr,
    state: Mutex<State>,
    gone: watch::Sender<bool>,
}

struct State {
    link: Option<Link>,
    used: Instant,
    /// A task keeps the link open.
    is_kept: bool,
}

impl Peer {
    pub(crate) fn new(id: NodeId, at: SocketAddr) -> Self {
        Self {
            id,
            at,
            state: Mutex::new(State {
                link: None,
                used: Instant::now(),
                is_kept: false,
            }),
            gone: watch::Sender::new(false),
        }
    }

    /// Whether it is this life of a node, at this address.
    pub(crate) fn is_of(&self, node: &NodeSnapshot) -> bool {
        self.id == node.node && self.at == node.addresses.mesh
    }

    /// The link, if it is open.
    pub(crate) fn link(&self) -> Option<Link> {
        self.state.lock().link.clone().filter(Link::is_open)
    }

    /// Whether a link is open or looked for.
    #[cfg(test)]
    pub(crate) fn is_kept(&self) -> bool {
        self.state.lock().is_kept
    }

    /// It is used now: its link is opened, and stays open for a while.
    pub(crate) fn want(self: &Arc<Self>, core: &Arc<Core>) {
        let mut state = self.state.lock();
        state.used = Instant::now();
        if !std::mem::replace(&mut state.is_kept, true) {
            core.runtime.spawn(keep(Arc::clone(core), Arc::clone(self)));
        }
    }

    /// The node is not there any more.
    pub(crate) fn forget(&self) {
        self.gone.send_replace(true);
    }

    /// Gives the link up when it was not used for `idle`, and returns it; the time until then otherwise.
    fn give_up(&self, idle: Duration) -> Result<Option<Link>, Instant> {
        let mut state = self.state.lock();
        let until = after(state.used, idle);
        if Instant::now() < until {
            return Err(until);
        }
        state.is_kept = false;
        Ok(state.link.take())
    }
}

async fn keep(core: Arc<Core>, peer: Arc<Peer>) {
    let (mut gone, mut closed) = (peer.gone.subscribe(), core.closed.subscribe());
    let take = || peer.state.lock().link.take();
    tokio::select! {
        // Nodes may be wrong about one that they do not reach: what it has may still be answered.
        _ = gone.wait_for(|gone| *gone) => take().iter().for_each(Link::go_away),
        _ = closed.wait_for(|closed| *closed) => take().iter().for_each(Link::close),
        () = keep_while_used(&core, &peer) => {}
    }
}

async fn keep_while_used(core: &Core, peer: &Peer) {
    let mut backoff = Backoff::new();
    loop {
        match open(core, peer.at).await {
            Ok((link, id)) if id == peer.id => {
                backoff = Backoff::new();
                peer.state.lock().link = Some(link.clone());
                core.changed();
                tokio::select! {
                    reason = link.closed() => debug!(node = %peer.id, %reason, "a link was lost"),
                    () = until_idle(core, peer) => {
                        // What still runs on it is finished first.
                        link.go_away();
                        return;
                    }
                }
                peer.state.lock().link = None;
                core.changed();
                core.poll_now.notify_one();
            }
            Ok((link, other)) => {
                debug!(node = %peer.id, %other, "another node is at its address");
                link.close();
                core.poll_now.notify_one();
            }
            Err(error) => debug!(node = %peer.id, %error, "no link"),
        }
        if peer.give_up(core.options.idle).is_ok() {
            return;
        }
        sleep(backoff.next()).await;
    }
}

async fn until_idle(core: &Core, peer: &Peer) {
    while let Err(until) = peer.give_up(core.options.idle) {
        sleep_until(until).await;
    }
}

/// Opens a link to whichever node is at this address; a name is resolved anew each time.
pub(crate) async fn open(core: &Core, at: impl ToSocketAddrs) -> Result<(Link, NodeId), LinkError> {
    let patience = core.options.patience;
    let stream = timeout(patience, TcpStream::connect(at)).await;
    let stream = stream.map_err(|_| LinkError::TimedOut(patience))??;
    stream.set_nodelay(true)?;
    let (link, driver) = connect_serving(stream.into_split(), &core.link, NoService).await?;
    core.runtime.spawn(driver);
    match link.peer().peer.clone() {
        Identity::Node(id) => Ok((link, id)),
        Identity::Client => {
            link.close();
            Err(LinkError::Io(std::io::Error::other(
                "not a node is at this address, but a client",
            )))
        }
    }
}

/// One short question with one answer. Why there is none, otherwise.
pub(crate) async fn ask(link: &Link, call: &Call, within: Duration) -> Result<Reply, String> {
    let mut exchange = link.ask(call, Vec::new(), Some(within));
    match timeout(within, exchange.next()).await {
        Err(_) => Err(format!("no answer within {within:?}")),
        Ok(None) => Err("it ended without a word".to_owned()),
        Ok(Some(Err(error))) => Err(error.to_string()),
        Ok(Some(Ok(incoming))) => match incoming.unpack() {
            Ok((reply, _)) => Ok(reply),
            Err(error) => Err(error.to_string()),
        },
    }
}
