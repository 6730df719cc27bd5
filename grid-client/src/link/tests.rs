//! Links over pipes in memory, on one thread.

mod endings;
mod hostile;
mod limits;
mod round_trips;

use std::sync::Arc;

use grid_core::cluster::NodeId;
use grid_core::tensor::{AlignedBytes, Buffer};
use grid_core::wire::handshake::{Handshake, Peer};
use parking_lot::Mutex;
use tokio::io::DuplexStream;
use tokio::task::JoinHandle;

use super::*;

fn options() -> LinkOptions {
    LinkOptions::new("grid".parse().unwrap(), Peer::Client, [1; 32])
}

fn node_options() -> LinkOptions {
    let node = NodeId {
        name: "node".parse().unwrap(),
        generation: 3,
    };
    LinkOptions {
        identity: Peer::Node(node),
        ..options()
    }
}

/// Answers with what came.
fn echo(incoming: Incoming, mut reply: Reply) {
    let sent = reply.send(incoming.head.to_vec(), vec![incoming.body], true);
    assert!(matches!(sent, Ok(()) | Err(ReplyError::Cancelled)), "{sent:?}");
}

/// Keeps the replies, for the test to answer.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<(Incoming, Reply)>>>);

impl Kept {
    fn service(&self) -> impl Service + Send + use<> {
        let kept = Arc::clone(&self.0);
        move |incoming, reply| kept.lock().push((incoming, reply))
    }

    /// Waits until so many have come, and takes them.
    async fn take(&self, count: usize) -> Vec<(Incoming, Reply)> {
        while self.0.lock().len() < count {
            tokio::task::yield_now().await;
        }
        std::mem::take(&mut *self.0.lock())
    }
}

struct Pair {
    left: Link,
    right: Link,
    left_driver: JoinHandle<Closed>,
    right_driver: JoinHandle<Closed>,
}

/// Two ends over a pipe that holds `pipe` bytes.
async fn pair(
    pipe: usize,
    (left, left_service): (LinkOptions, impl Service + Send + 'static),
    (right, right_service): (LinkOptions, impl Service + Send + 'static),
) -> Pair {
    let (near, far) = tokio::io::duplex(pipe);
    let near = tokio::io::split(near);
    let (left, right) = tokio::join!(
        connect_serving(near, &left, left_service),
        accept(far, &right, right_service)
    );
    let ((left, left_driver), (right, right_driver)) = (left.unwrap(), right.unwrap());
    Pair {
        left,
        right,
        left_driver: tokio::spawn(left_driver),
        right_driver: tokio::spawn(right_driver),
    }
}

async fn serving(service: impl Service + Send + 'static) -> Pair {
    pair(64 << 10, (options(), NoService), (node_options(), service)).await
}

/// A link whose other end is the bare pipe, after the handshake.
async fn bare(pipe: usize, options: &LinkOptions) -> (Link, Driver, DuplexStream) {
    let (mut near, far) = tokio::io::duplex(pipe);
    let handshake = Handshake::connecting(options.key, options.versions, &options.hello());
    let (mut reader, mut writer) = tokio::io::split(&mut near);
    let (shaken, accepted) = tokio::join!(
        handshake::shake(&mut reader, &mut writer, handshake, options),
        accept(far, options, echo)
    );
    shaken.unwrap();
    let (link, driver) = accepted.unwrap();
    (link, driver, near)
}

fn body(length: usize) -> Buffer {
    let mut body = AlignedBytes::zeroed(length);
    for (index, byte) in body.as_mut_slice().iter_mut().enumerate() {
        *byte = (index % 251) as u8;
    }
    body.freeze()
}

/// The only answer.
async fn answer(mut exchange: Exchange) -> Result<Incoming, ExchangeError> {
    let answer = exchange.next().await.unwrap();
    assert!(exchange.next().await.is_none());
    answer
}
