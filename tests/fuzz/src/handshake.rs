//! What comes first on a connection of the mesh, at either end of it.

use grid_core::wire::frame::{HEADER, Header};
use grid_core::wire::handshake::{Agreed, Handshake, HandshakeError, Hello, Peer, Purpose, Versions};

use crate::input::{Chunking, Input};

/// The key of the mesh.
pub const KEY: [u8; 32] = [1; 32];

/// What one end says first. Nothing is drawn, so that a transcript in the corpus stays right.
///
/// # Panics
/// Never: the name is one.
pub fn hello(nonce: u8) -> Hello {
    Hello {
        grid: "grid".parse().expect("a name"),
        peer: Peer::Client,
        purpose: Purpose::Requests,
        nonce: [nonce; 32],
    }
}

/// The nonces of this end and of the other.
pub const NONCES: (u8, u8) = (1, 2);

struct Outcome {
    result: Result<Option<(Agreed, Vec<u8>)>, HandshakeError>,
    sent: Vec<u8>,
}

/// Takes the bytes in as those of the other end: whether this one connects, the chunking, then what arrives.
///
/// # Panics
/// When something does not hold.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let connects = input.byte() % 2 == 1;
    let chunking = input.chunking();
    let arrives = input.rest();
    let limit = (64 << 10) + 8 * arrives.len();
    let (whole, chunked) = crate::memory::within(limit, || {
        let whole = shake(connects, Input::new(&[]).chunking(), arrives);
        (whole, shake(connects, chunking, arrives))
    });
    match (&whole.result, &chunked.result) {
        (Err(one), Err(other)) => {
            // The text of what is no handshake is as much of it as had arrived.
            assert_eq!(std::mem::discriminant(one), std::mem::discriminant(other));
            assert!(!one.to_string().is_empty() && !other.to_string().is_empty());
        }
        (one, other) => {
            assert_eq!(one, other, "in one piece, and in chunks");
            assert_eq!(whole.sent, chunked.sent);
        }
    }
    for bytes in arrives.windows(HEADER).take(64) {
        let bytes = bytes.try_into().expect("as many bytes");
        match Header::decode(bytes) {
            Ok(header) => assert_eq!(header.encode(), *bytes),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

fn shake(connects: bool, chunking: Chunking<'_>, arrives: &[u8]) -> Outcome {
    let (versions, own) = (Versions::default(), hello(NONCES.0));
    let mut handshake = match connects {
        true => Handshake::connecting(KEY, versions, &own),
        false => Handshake::accepting(KEY, versions, &own),
    };
    let mut taken = 0;
    for chunk in chunking.of(arrives) {
        taken += chunk.len();
        match handshake.receive(chunk) {
            Ok(None) => {}
            ended => {
                let mut result = ended;
                if let Ok(Some((_, behind))) = &mut result {
                    behind.extend_from_slice(&arrives[taken..]);
                }
                let sent = handshake.take_output();
                return Outcome { result, sent };
            }
        }
    }
    Outcome {
        result: Ok(None),
        sent: handshake.take_output(),
    }
}
