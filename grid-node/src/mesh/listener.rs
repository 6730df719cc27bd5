//! The listening side of the mesh, and its threads.

use std::net::TcpListener;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::{Arbiter, ArbiterHandle};
use arc_swap::ArcSwap;
use grid_client::link::{Link, LinkOptions, accept_halves};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

use super::serve::{Answerer, LinkAnswerer};

/// Most links that others may have open to this node.
const MOST_LINKS: usize = 4096;

/// What the mesh of a node is made with.
pub(crate) struct MeshOptions {
    pub(crate) listener: TcpListener,
    /// Follows this node's generation.
    pub(crate) link: Arc<ArcSwap<LinkOptions>>,
}

/// The threads of the mesh, and the links that others opened.
pub(crate) struct Mesh {
    arbiters: Vec<Arbiter>,
    links: Arc<Mutex<Vec<Link>>>,
}

impl Mesh {
    /// Threads for links, that serve nothing yet.
    pub(crate) fn threads(count: usize) -> Self {
        Self {
            arbiters: (0..count.max(1)).map(|_| Arbiter::new()).collect(),
            links: Arc::default(),
        }
    }

    /// The threads.
    pub(crate) fn arbiters(&self) -> Vec<ArbiterHandle> {
        self.arbiters.iter().map(Arbiter::handle).collect()
    }

    /// Begins to answer on links that others open. `answerer` is called on each thread.
    pub(crate) fn serve(
        &self,
        options: MeshOptions,
        answerer: impl Fn() -> Answerer + Clone + Send + 'static,
    ) -> std::io::Result<()> {
        options.listener.set_nonblocking(true)?;
        let threads: Vec<_> = self
            .arbiters
            .iter()
            .map(|arbiter| {
                let (connections, mut incoming) = tokio::sync::mpsc::channel::<(std::net::TcpStream, _)>(64);
                let (link, links, answerer) = (Arc::clone(&options.link), Arc::clone(&self.links), answerer.clone());
                arbiter.spawn(async move {
                    let answerer = answerer();
                    while let Some((stream, place)) = incoming.recv().await {
                        let (link, links, answerer) = (link.load_full(), Arc::clone(&links), answerer.clone());
                        actix::spawn(async move {
                            serve(stream, &link, &links, answerer).await;
                            drop::<tokio::sync::OwnedSemaphorePermit>(place);
                        });
                    }
                });
                connections
            })
            .collect();
        let listener = options.listener;
        self.arbiters[0].spawn(async move {
            let listener = match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => listener,
                Err(error) => return warn!(%error, "the mesh does not listen"),
            };
            let places = Arc::new(Semaphore::new(MOST_LINKS));
            let mut next = 0;
            loop {
                let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                    return;
                };
                match listener.accept().await.and_then(|(stream, _)| stream.into_std()) {
                    Ok(stream) => {
                        next = (next + 1) % threads.len();
                        if threads[next].send((stream, place)).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        // Mostly too many open files: that passes, and spinning does not help.
                        warn!(%error, "a link was not accepted");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        });
        Ok(())
    }

    /// Takes no requests any more on links that others opened; what runs is finished.
    pub(crate) fn go_away(&self) {
        self.links.lock().iter().for_each(Link::go_away);
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        for arbiter in &self.arbiters {
            arbiter.stop();
        }
    }
}

async fn serve(stream: std::net::TcpStream, options: &LinkOptions, links: &Mutex<Vec<Link>>, answerer: Answerer) {
    let from = stream.peer_addr();
    let stream = match TcpStream::from_std(stream).and_then(|stream| stream.set_nodelay(true).map(|()| stream)) {
        Ok(stream) => stream,
        Err(error) => return debug!(%error, "a link ended before it began"),
    };
    let peer = Arc::new(OnceLock::new());
    let service = LinkAnswerer {
        answerer,
        peer: Arc::clone(&peer),
    };
    match accept_halves(stream.into_split(), options, service).await {
        Ok((link, driver)) => {
            let _ = peer.set(link.peer().peer.clone());
            {
                let mut links = links.lock();
                links.retain(Link::is_open);
                links.push(link.clone());
            }
            driver.await;
            debug!(peer = ?link.peer().peer, "a link of another node or client ended");
        }
        Err(error) => info!(?from, %error, "a link was refused"),
    }
}
