//! What the fuzzer runs: for each kind of bytes that come from outside, a function that takes them in as the product does
//! and checks what must hold whatever they are.
//!
//! `tests/fuzz/run` builds and runs all of it. Bytes that are more than one thing (a choice, a chunking, several messages) are
//! read by [`input::Input`]; `examples/seeds.rs` writes the corpora, which are real values in that form.

pub mod calls;
pub mod config;
pub mod datagram;
pub mod frames;
pub mod gossip;
pub mod handshake;
pub mod input;
pub mod memory;
pub mod rest_body;
pub mod sealing;
pub mod snapshot;
pub mod websocket;

/// Sources of grid-node, which know nothing of the rest of it. Compiled here, since the whole node with its runtimes under
/// coverage would take minutes.
#[allow(dead_code, unused_imports)]
#[path = "../../../grid-node/src/gateway/rest"]
mod rest {
    pub mod codec;
}

#[allow(dead_code)]
#[path = "../../../grid-node/src/gateway/websocket"]
mod socket {
    pub(crate) mod frames;
}
