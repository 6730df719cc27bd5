//! Datagrams and seeds.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::fut::wrap_stream;
use actix::{ActorFutureExt, ActorStreamExt, AsyncContext, Context, WrapFuture};
use futures_util::stream;
use grid_client::link::{LinkOptions, NoService, connect_serving};
use grid_core::cluster::NodeName;
use grid_core::membership::{MAX_DATAGRAM, Membership};
use tokio::net::{TcpStream, UdpSocket, lookup_host};
use tokio::sync::mpsc;
use tracing::debug;

use super::{GridActor, mapped, now};
use crate::mesh::since_start;

/// How often seeds are asked while nobody is there, and how often when somebody is.
const JOIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// When a node that finds nobody looks whether the mesh of its seeds answers.
const PROBE: Duration = Duration::from_secs(6);

/// Most datagrams that are taken at once.
const MOST: usize = 1024;

impl GridActor {
    pub(super) fn listen(&mut self, socket: Arc<UdpSocket>, ctx: &mut Context<Self>) {
        self.socket = Some(Arc::clone(&socket));
        let readable = stream::unfold(socket, |socket| async {
            // An error is seen, and taken off the socket, by the read that follows.
            if socket.readable().await.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Some(((), socket))
        });
        let read = wrap_stream::<_, Self>(readable).map(|(), this, ctx| {
            if this.take_datagrams() {
                this.go_on(ctx);
            }
        });
        ctx.spawn(read.finish());
    }

    /// Takes what lies in the socket. Returns whether there was anything.
    pub(super) fn take_datagrams(&mut self) -> bool {
        let Some(socket) = self.socket.clone() else {
            return false;
        };
        // One byte more than the largest, so that a larger one is seen to be.
        let mut buffer = [0; MAX_DATAGRAM + 1];
        for taken in 0..MOST {
            match socket.try_recv_from(&mut buffer) {
                Ok((length, from)) => self.membership.datagram(now(), mapped(from), &buffer[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return taken > 0,
                // Of a datagram that was sent: nobody listens there. Membership finds that out its own way.
                Err(error) => debug!(%error, "the gossip's socket"),
            }
        }
        true
    }

    pub(super) fn send_datagram(&self, to: SocketAddr, bytes: &[u8]) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.try_send_to(bytes, to)
        {
            debug!(%to, %error, "a datagram was not sent");
        }
    }

    pub(super) fn watch_links(&mut self, changes: mpsc::UnboundedReceiver<NodeName>, ctx: &mut Context<Self>) {
        let changes = stream::unfold(changes, |mut changes| async {
            let node = changes.recv().await?;
            Some((node, changes))
        });
        let changed = wrap_stream::<_, Self>(changes).map(|_, this, ctx| {
            this.routes_due = true;
            this.go_on(ctx);
        });
        ctx.spawn(changed.finish());
    }

    pub(super) fn is_alone(&self) -> bool {
        self.agent.view().up().count() <= 1
    }

    pub(super) fn next_join(&self) -> Duration {
        let (alone, together) = JOIN;
        let wait = if self.is_alone() { alone } else { together };
        match self.config.grid.seeds.is_empty() {
            true => Duration::MAX,
            false => self.joined.map_or(Duration::ZERO, |joined| joined + wait),
        }
    }

    /// Asks the seeds to take this node in: for ever, since the first time may be lost, and a grid that fell into two
    /// finds together only so.
    pub(super) fn join_if_due(&mut self, ctx: &mut Context<Self>) {
        if self.next_join() > since_start() {
            return;
        }
        self.joined = Some(since_start());
        let seeds = self.seeds();
        let resolved = async move {
            let (mut addresses, mut unknown) = (Vec::new(), Vec::new());
            for seed in seeds {
                match tokio::time::timeout(Duration::from_secs(5), lookup_host(&seed)).await {
                    Ok(Ok(found)) => addresses.extend(found.map(mapped)),
                    Ok(Err(error)) => unknown.push(format!("the seed `{seed}` is not found: {error}")),
                    Err(_) => unknown.push(format!("the seed `{seed}` is not found: no name server answers")),
                }
            }
            (addresses, unknown)
        };
        let joined = resolved.into_actor(self).map(|(addresses, unknown), this, ctx| {
            for trouble in unknown {
                this.troubles.note(trouble);
            }
            this.membership.join(now(), &addresses);
            this.probe_if_alone(addresses, ctx);
            this.go_on(ctx);
        });
        ctx.spawn(joined);
    }

    /// A node that finds nobody looks whether a seed's mesh answers: then the gossip is blocked on the way.
    fn probe_if_alone(&mut self, seeds: Vec<SocketAddr>, ctx: &mut Context<Self>) {
        let due = self.probed.unwrap_or(Duration::ZERO) + PROBE;
        if !self.is_alone() || due > since_start() {
            return;
        }
        self.probed = Some(since_start());
        let own = self
            .agent
            .view()
            .node(self.agent.name())
            .and_then(|node| node.snapshot.as_ref());
        let own = own.map(|own| own.addresses.mesh);
        let link = self.link.load_full();
        let probe = async move {
            for seed in seeds.into_iter().filter(|seed| Some(*seed) != own) {
                match probe(seed, &link).await {
                    Ok(()) => {
                        let port = seed.port();
                        return Some(format!(
                            "{seed} answers by TCP, but no gossip comes through: UDP port {port} may be blocked on the way there \
                             or back"
                        ));
                    }
                    Err(reason) => debug!(%seed, reason, "a seed's mesh does not answer"),
                }
            }
            None
        };
        let probed = probe.into_actor(self).map(|trouble, this, _| {
            if let Some(trouble) = trouble.filter(|_| this.is_alone()) {
                this.troubles.note(trouble);
            }
        });
        ctx.spawn(probed);
    }
}

async fn probe(seed: SocketAddr, link: &LinkOptions) -> Result<(), String> {
    let connected = async {
        let stream = TcpStream::connect(seed).await.map_err(|error| error.to_string())?;
        let (link, driver) = connect_serving(stream.into_split(), link, NoService)
            .await
            .map_err(|error| error.to_string())?;
        link.close();
        driver.await;
        Ok(())
    };
    let within = Duration::from_secs(2);
    tokio::time::timeout(within, connected)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {within:?}")))
}
