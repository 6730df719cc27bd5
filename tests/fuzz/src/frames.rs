//! What arrives on a link behind the handshake: frames in any order, with any numbers, in any chunks.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use grid_client::link::{
    Closed, Driver, Incoming, Limits, Link, LinkError, LinkOptions, Reply, accept_halves, connect_serving,
};
use grid_core::tensor::AlignedBytes;
use grid_core::wire::handshake::{Handshake, Versions};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Runtime;

use crate::handshake::{KEY, NONCES, hello};
use crate::input::{Chunking, Input};

/// Most bytes of a message.
const MAX_MESSAGE: usize = 256 << 10;

thread_local! {
    /// In virtual time: a link that waits for a pong does so at once.
    static RUNTIME: RefCell<Runtime> = RefCell::new(
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O"),
    );
}

/// Takes the bytes in: whether this end connected, the chunking, then what arrives.
///
/// # Panics
/// When something does not hold.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let connects = input.byte() % 2 == 1;
    let chunking = input.chunking();
    let arrives = input.rest();
    // The buffer of the reader, the reserve of a body, and what each of some thousand small frames may leave.
    let limit = (24 << 20) + 64 * arrives.len();
    let closed = RUNTIME
        .with_borrow(|runtime| crate::memory::within(limit, || runtime.block_on(link(connects, chunking, arrives))));
    assert!(!closed.to_string().is_empty());
}

async fn link(connects: bool, chunking: Chunking<'_>, arrives: &[u8]) -> Closed {
    let answered = Arc::new(AtomicUsize::new(0));
    let served = Arc::clone(&answered);
    let echo = move |incoming: Incoming, mut reply: Reply| {
        assert!(incoming.body.len() <= MAX_MESSAGE);
        served.fetch_add(1, Ordering::Relaxed);
        // Every other one is dropped, which resets its exchange.
        if served.load(Ordering::Relaxed) % 2 == 1 {
            let _cancelled = reply.send(incoming.head.to_vec(), vec![incoming.body], true);
        }
    };
    let reader = Arrivals {
        chunks: std::iter::once(theirs(connects))
            .chain(chunking.of(arrives).map(<[u8]>::to_vec))
            .collect(),
    };
    let made: Result<(Link, Driver), LinkError> = match connects {
        true => connect_serving((reader, Sink), &options(), echo).await,
        false => accept_halves((reader, Sink), &options(), echo).await,
    };
    let (link, driver) = made.expect("the handshake is right");
    let body = AlignedBytes::zeroed(100).freeze();
    let mut exchanges = [link.call(vec![1], vec![body], None), link.call(vec![], vec![], None)];
    let closed = driver.await;
    for exchange in &mut exchanges {
        // Each ends, and with at most as many answers as can have arrived.
        let mut answers = 0;
        while let Some(answer) = exchange.next().await {
            if let Err(error) = answer {
                assert!(!error.to_string().is_empty());
            }
            answers += 1;
            assert!(answers <= 1 + arrives.len());
        }
    }
    closed
}

fn options() -> LinkOptions {
    let own = hello(NONCES.0);
    LinkOptions {
        limits: Limits {
            max_message: MAX_MESSAGE,
            assembly_budget: 1 << 20,
            max_exchanges: 16,
            max_queued: 1 << 20,
            max_queued_answers: 1 << 18,
            ..Limits::default()
        },
        entropy: || [NONCES.0; 32],
        ..LinkOptions::new(own.grid, own.peer, KEY)
    }
}

/// What the other end sends in the handshake.
fn theirs(connects: bool) -> Vec<u8> {
    let versions = Versions::default();
    let (own, other) = (hello(NONCES.0), hello(NONCES.1));
    let (mut here, mut there) = match connects {
        true => (
            Handshake::connecting(KEY, versions, &own),
            Handshake::accepting(KEY, versions, &other),
        ),
        false => (
            Handshake::accepting(KEY, versions, &own),
            Handshake::connecting(KEY, versions, &other),
        ),
    };
    let mut sent = Vec::new();
    for _ in 0..2 {
        let output = there.take_output();
        here.receive(&output).expect("a right handshake");
        sent.extend(output);
        there.receive(&here.take_output()).expect("a right handshake");
    }
    sent.extend(there.take_output());
    sent
}

/// Reads what arrives, chunk by chunk, then the end.
struct Arrivals {
    chunks: VecDeque<Vec<u8>>,
}

impl AsyncRead for Arrivals {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let chunks = &mut self.get_mut().chunks;
        if let Some(chunk) = chunks.front_mut() {
            let length = chunk.len().min(room.remaining());
            room.put_slice(&chunk[..length]);
            chunk.drain(..length);
            if chunk.is_empty() {
                chunks.pop_front();
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Takes whatever is written.
struct Sink;

impl AsyncWrite for Sink {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
