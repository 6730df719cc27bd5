//! The link: many exchanges over one connection, between nodes, and between clients and nodes.
//!
//! Why not HTTP/2: it copies bodies through its own buffers, which are not aligned, and a small round trip costs several
//! switches of tasks. Here a request is written by whoever asks and answered by whoever reads, and a body is read to where
//! its tensors are used.
//!
//! An exchange is one request and its answers. Either end may open exchanges, and any number at once. Each exchange that
//! was opened ends in exactly one way: with its last answer, or with an [`ExchangeError`] that says whether the request may
//! have run. How frames, credit and the handshake work is told in [`grid_core::wire`].
//!
//! [`connect`] and [`accept`] shake hands and return the handle and the [`Driver`], a future that whoever made the link must
//! poll (spawn) until it ends. Whoever makes a socket sets `TCP_NODELAY`.

mod driver;
mod error;
mod exchange;
mod handshake;
mod message;
mod options;
mod outbox;
mod piece;
mod reader;
mod reply;
mod shared;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use grid_core::tensor::Buffer;
use grid_core::wire::handshake::{Handshake, Hello};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

pub use driver::Driver;
pub use error::{Closed, ExchangeError, LinkError, ReplyError};
pub use exchange::{Exchange, Incoming};
pub use grid_core::wire::frame::ResetCode;
pub use options::{Limits, LinkOptions};
pub use reply::{NoService, Reply, Service};

use outbox::{OutMessage, Outbox};
use piece::Pieces;
use shared::Shared;

/// The reading half of a connection.
pub trait Reading: AsyncRead + Send + Unpin + 'static {}
impl<T: AsyncRead + Send + Unpin + 'static> Reading for T {}

/// The writing half of a connection.
pub trait Writing: AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncWrite + Send + Unpin + 'static> Writing for T {}

/// Makes a link over a connection that this end opened, and answers nothing.
///
/// # Errors
/// When the two ends do not come to a link; the error says why. Not cancel-safe: dropped, it leaves the connection unusable.
pub async fn connect<IO: Reading + Writing>(io: IO, options: &LinkOptions) -> Result<(Link, Driver), LinkError> {
    connect_serving(tokio::io::split(io), options, NoService).await
}

/// As [`connect`], over two halves, with a service for what the other end asks.
///
/// A socket's own halves do without the lock that [`tokio::io::split`] needs.
///
/// # Errors
/// As [`connect`].
pub async fn connect_serving<R: Reading, W: Writing>(
    (mut reader, mut writer): (R, W),
    options: &LinkOptions,
    service: impl Service + Send + 'static,
) -> Result<(Link, Driver), LinkError> {
    let handshake = Handshake::connecting(options.key, options.versions, &options.hello());
    let agreed = handshake::shake(&mut reader, &mut writer, handshake, options).await?;
    Ok(open((reader, writer), agreed, options, service, 1))
}

/// Makes a link over a connection that the other end opened.
///
/// # Errors
/// As [`connect`].
pub async fn accept<IO: Reading + Writing>(
    io: IO,
    options: &LinkOptions,
    service: impl Service + Send + 'static,
) -> Result<(Link, Driver), LinkError> {
    accept_halves(tokio::io::split(io), options, service).await
}

/// As [`accept`], over two halves; see [`connect_serving`].
///
/// # Errors
/// As [`connect`].
pub async fn accept_halves<R: Reading, W: Writing>(
    (mut reader, mut writer): (R, W),
    options: &LinkOptions,
    service: impl Service + Send + 'static,
) -> Result<(Link, Driver), LinkError> {
    let handshake = Handshake::accepting(options.key, options.versions, &options.hello());
    let agreed = handshake::shake(&mut reader, &mut writer, handshake, options).await?;
    Ok(open((reader, writer), agreed, options, service, 2))
}

fn open<R: Reading, W: Writing>(
    (reader, writer): (R, W),
    (agreed, behind): (grid_core::wire::handshake::Agreed, Vec<u8>),
    options: &LinkOptions,
    service: impl Service + Send + 'static,
    first_exchange: u64,
) -> (Link, Driver) {
    let outbox = Outbox::new(Box::new(writer), agreed.version, first_exchange);
    let shared = Arc::new(Shared::new(outbox, agreed.hello, options.limits.clone()));
    let driver = Driver::new(
        Arc::clone(&shared),
        Box::new(reader),
        Box::new(service),
        agreed.version,
        &behind,
    );
    (Link { shared }, driver)
}

/// A handle of a link; a clone costs a reference count. The link stays open when all handles are dropped.
#[derive(Clone, Debug)]
pub struct Link {
    shared: Arc<Shared>,
}

impl Link {
    /// Sends a request: a head of at most 64 KiB, and a body of these parts, each but the empty ones from a multiple of 64 bytes
    /// on. `remaining` is the time it has left.
    ///
    /// What can be written at once is written before it returns; it never waits. That nothing could be sent is told by the
    /// exchange, as its end.
    pub fn call(&self, head: Vec<u8>, body: Vec<Buffer>, remaining: Option<Duration>) -> Exchange {
        let body = Pieces::body(body).filter(|body| body.len() <= self.shared.limits.max_message);
        match body.and_then(|body| OutMessage::new(head, body, true, remaining)) {
            Some(message) => self.shared.call(message),
            None => Exchange::failed(ExchangeError::RequestTooLarge),
        }
    }

    /// Whether requests can be sent, as far as is known.
    pub fn is_open(&self) -> bool {
        let outbox = self.shared.out.lock();
        outbox.is_open() && !outbox.is_going_away()
    }

    /// Waits until the link is closed; why it is. Cancel-safe.
    pub async fn closed(&self) -> Closed {
        self.shared.until_closed().await
    }

    /// What the other end said of itself.
    pub fn peer(&self) -> &Hello {
        &self.shared.peer
    }

    /// How long the last ping took there and back; `None` before the first, as pings are only sent when nothing else is.
    pub fn round_trip(&self) -> Option<Duration> {
        self.shared.round_trip()
    }

    /// When something last came from the other end.
    pub fn last_heard(&self) -> Instant {
        self.shared.last_heard()
    }

    /// Opens and takes no exchanges any more. What runs is finished, then the link closes.
    pub fn go_away(&self) {
        self.shared.write(|outbox| {
            outbox.go_away();
            // Perhaps nothing runs.
            outbox.wake_driver();
        });
    }

    /// Closes the link now. What runs is lost.
    pub fn close(&self) {
        self.shared.close(Closed::Here, None);
    }
}
