//! Who is in the grid: asked of any node that answers, for as long as the client lives.

use std::sync::Arc;
use std::time::Duration;

use grid_core::cluster::NodeSnapshot;
use grid_core::wire::call::{Call, Reply, Topology};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info};

use super::peers::{Backoff, ask, open};
use super::{Core, after};
use crate::link::{Link, LinkError};

/// Shortest time between two questions, however many requests find that what is known is old.
const AT_MOST_EVERY: Duration = Duration::from_millis(20);

/// Why no node answers.
#[derive(Clone, Debug, Default)]
pub(super) struct Trouble {
    /// What each address said.
    pub(super) reason: String,
    /// All of them refuse this client.
    pub(super) is_refused: bool,
}

/// Where news come from.
struct Source {
    link: Link,
    /// Nothing else is sent over it.
    is_own: bool,
}

impl Source {
    /// It is not asked any more.
    fn leave(self) {
        if self.is_own {
            self.link.close();
        }
    }
}

/// Keeps what is known of the grid up to date until the client is closed.
pub(super) async fn watch(core: Arc<Core>) {
    let mut closed = core.closed.subscribe();
    tokio::select! {
        _ = closed.wait_for(|closed| *closed) => {}
        () = ask_for_ever(&core) => {}
    }
}

async fn ask_for_ever(core: &Arc<Core>) {
    let mut backoff = Backoff::new();
    let mut first_seed = 0;
    loop {
        let source = match find_source(core, &mut first_seed).await {
            Ok(source) => source,
            Err(trouble) => {
                debug!(reason = trouble.reason, "no node answers");
                *core.trouble.lock() = Some(trouble);
                core.changed();
                sleep(backoff.next()).await;
                continue;
            }
        };
        let asked = Instant::now();
        ask_on(core, source, &mut backoff).await;
        // A node that takes links and answers nothing must not be asked in a loop.
        sleep_until(asked + backoff.next()).await;
    }
}

/// Asks one node again and again, until it does not answer.
async fn ask_on(core: &Arc<Core>, mut source: Source, backoff: &mut Backoff) {
    while source.link.is_open() {
        let asked = Instant::now();
        match news_of(core, &source.link).await {
            Ok(news) => {
                *backoff = Backoff::new();
                *core.trouble.lock() = None;
                if let Some(mut news) = news {
                    if core.loses_most(&news)
                        && let Some((other, contrary)) = contradicting(core, &source).await
                    {
                        info!(node = %source.link.peer().peer, "it has lost most nodes of the grid; another one is asked");
                        std::mem::replace(&mut source, other).leave();
                        news = contrary;
                    }
                    core.learn(news);
                }
            }
            Err(reason) => {
                debug!(reason, peer = %source.link.peer().peer, "another node is asked");
                break;
            }
        }
        tokio::select! {
            () = sleep_until(after(asked, core.options.poll)) => {}
            () = core.poll_now.notified() => sleep_until(asked + AT_MOST_EVERY).await,
            _ = source.link.closed() => break,
        }
    }
    source.leave();
}

/// What a node knows of the grid, if that is not what is known here.
async fn news_of(core: &Core, link: &Link) -> Result<Option<Topology>, String> {
    let known = core.known.lock().as_ref().map(|topology| topology.digest);
    match ask(link, &Call::Topology { known }, core.options.patience).await? {
        Reply::Topology(news) => Ok(news.map(|news| *news)),
        Reply::Refused(reason) => Err(reason),
        _ => Err("its reply is of another kind".to_owned()),
    }
}

/// Another node that does not see most of the grid gone, as the source does, and what it sees. A node that is cut off from
/// the others goes on answering, and would take all of them away from this client.
async fn contradicting(core: &Arc<Core>, source: &Source) -> Option<(Source, Topology)> {
    let linked: Vec<Link> = core.peers.lock().values().filter_map(|peer| peer.link()).collect();
    let mut seeds = core.seeds.iter();
    let mut linked = linked.into_iter();
    loop {
        let other = match linked.next() {
            Some(link) => Source { link, is_own: false },
            None => match open(core, seeds.next()?.as_str()).await {
                Ok((link, _)) => Source { link, is_own: true },
                Err(_) => continue,
            },
        };
        if other.link.peer().peer != source.link.peer().peer {
            let news = match news_of(core, &other.link).await {
                // It sees what is known here.
                Ok(None) => core.topology().map(|known| Topology::clone(&known)),
                Ok(news) => news,
                Err(_) => None,
            };
            if let Some(news) = news.filter(|news| !core.loses_most(news)) {
                return Some((other, news));
            }
        }
        other.leave();
    }
}

/// A node that can be asked: one that is linked already, else one of the seeds, else one that was known.
async fn find_source(core: &Arc<Core>, first_seed: &mut usize) -> Result<Source, Trouble> {
    let linked = core.peers.lock().values().find_map(|peer| peer.link());
    if let Some(link) = linked {
        return Ok(Source { link, is_own: false });
    }
    let known = core.known.lock().clone();
    let known = known.iter().flat_map(|topology| &topology.nodes);
    let known: Vec<String> = known.map(|node| node.addresses.mesh.to_string()).collect();
    let (after, from) = core.seeds.split_at(*first_seed % core.seeds.len());
    let mut reasons = Vec::new();
    let mut is_refused = true;
    for address in from.iter().chain(after).chain(&known) {
        // The next time the one behind it comes first: this one may take links and answer nothing.
        *first_seed += 1;
        match open(core, address.as_str()).await {
            Ok((link, node)) => {
                info!(%node, address, "connected to the grid");
                return Ok(Source { link, is_own: true });
            }
            Err(error) => {
                is_refused &= matches!(error, LinkError::Handshake(_));
                reasons.push(format!("{address}: {error}"));
            }
        }
    }
    Err(Trouble {
        reason: reasons.join("; "),
        is_refused,
    })
}

impl Core {
    /// Whether more than half of the nodes that are known are not among these.
    fn loses_most(&self, news: &Topology) -> bool {
        let Some(known) = self.topology() else { return false };
        let is_there = |node: &&NodeSnapshot| news.nodes.iter().any(|there| there.name() == node.name());
        let stay = known.nodes.iter().filter(is_there).count();
        stay < known.nodes.len().div_ceil(2)
    }

    /// What a node says of the grid.
    fn learn(self: &Arc<Self>, mut news: Topology) {
        let mut known = self.known.lock();
        if known.as_ref().is_some_and(|known| known.digest == news.digest) {
            return;
        }
        // The node that is asked now may have heard less of some others than the one before.
        for node in &mut news.nodes {
            let before = known.iter().flat_map(|known| &known.nodes);
            let newer = before
                .into_iter()
                .find(|before| before.name() == node.name() && before.age() > node.age());
            if let Some(newer) = newer {
                *node = newer.clone();
            }
        }
        let news = Arc::new(news);
        *known = Some(Arc::clone(&news));
        drop(known);
        self.peers.lock().retain(|_, peer| {
            let stays = news.nodes.iter().any(|node| peer.is_of(node));
            if !stays {
                peer.forget();
            }
            stays
        });
        self.routes.lock().keep_to(&news);
        self.changed();
    }
}
