//! The seal of datagrams once more, from its description alone: someone who holds the key and sends what no node would send.

use std::net::SocketAddr;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use grid_core::cluster::{ClusterKey, NodeId, Now};
use grid_core::membership::MembershipOptions;

/// Bytes before the nonce, and those of the nonce.
const HEADER: usize = 4;
const NONCE: usize = 24;

/// The time at which everything happens.
pub const NOW: Now = Now {
    monotonic: std::time::Duration::ZERO,
    wall: 1_700_000_000_000,
};

/// The key of the grid.
pub fn key() -> ClusterKey {
    ClusterKey::from_bytes([7; 32])
}

/// A node of the grid.
///
/// # Panics
/// When the name is none.
pub fn options(name: &str, generation: u64, last: u8) -> MembershipOptions {
    MembershipOptions {
        grid: "grid".parse().expect("a name"),
        node: NodeId {
            name: name.parse().expect("a name"),
            generation,
        },
        mesh: address(last),
        key: key(),
        entropy: [last; 32],
        self_doubt: true,
    }
}

/// Where a node is.
pub fn address(last: u8) -> SocketAddr {
    ([10, 0, 0, last], 7000).into()
}

fn cipher() -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(&key().gossip().into())
}

/// A datagram that opens and holds these bytes.
///
/// # Panics
/// When they are more than the cipher takes.
pub fn seal(plain: &[u8]) -> Vec<u8> {
    let mut datagram = b"grd\x01".to_vec();
    datagram.extend([0; NONCE]);
    let aad = &datagram[..HEADER];
    let sealed = cipher().encrypt(&XNonce::default(), Payload { msg: plain, aad });
    datagram.extend(sealed.expect("a datagram is short"));
    datagram
}

/// What a datagram holds, if it opens.
pub fn open(datagram: &[u8]) -> Option<Vec<u8>> {
    let aad = datagram.get(..HEADER).filter(|header| **header == *b"grd\x01")?;
    let mut nonce = XNonce::default();
    nonce.copy_from_slice(datagram.get(HEADER..HEADER + NONCE)?);
    let msg = &datagram[HEADER + NONCE..];
    cipher().decrypt(&nonce, Payload { msg, aad }).ok()
}
