//! The datagram around the gossip: encrypted and authenticated with the key of the grid.
//!
//! ```text
//! "grd" version(1) nonce(24) | grid name, sender's wall clock, kind, payload | tag(16)
//!  authenticated             | encrypted and authenticated
//! ```
//!
//! Why not DTLS: gossip goes to another node each time, and a handshake with each would cost more than the gossip.
//!
//! A datagram that someone recorded and sends again opens like the first time. Three things make it harmless: one whose
//! clock is more than [`MAX_CLOCK_OFF_MS`] from ours is refused; what is younger speaks of a life of a node that is
//! either the present one, of which SWIM's incarnations tell old from new, or was declared down, which is remembered
//! for [`REMEMBER_DOWN`](super::pace::REMEMBER_DOWN), much longer than a minute, or is outranked by a higher
//! generation.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use serde::{Deserialize, Serialize};

use super::{MAX_DATAGRAM, MembershipOptions};
use crate::cluster::{Digest, GridName};
use crate::wire::codec::{decode_first, encode};

/// Version of all that is in a datagram.
pub(super) const PROTOCOL: u8 = 1;

/// What every datagram of a grid begins with, whatever its version.
const MAGIC: [u8; 3] = *b"grd";
const HEADER: usize = MAGIC.len() + 1;
const NONCE: usize = 24;
const TAG: usize = 16;

/// A datagram from a clock that is farther from ours may be an old one, and is refused.
pub(super) const MAX_CLOCK_OFF_MS: u64 = 60_000;

/// What the payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    /// A packet of foca's.
    Gossip,
    /// A [`Superseded`](super::packet::Superseded).
    Superseded,
    /// An [`Item`](super::packet::Item), told to one node only.
    Item,
    /// Asks for a page of the list of nodes.
    Ask,
    /// A page of the list of nodes.
    Page,
}

#[derive(Serialize, Deserialize)]
struct Preamble {
    grid: GridName,
    wall: u64,
    kind: Kind,
}

/// What was in a datagram.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) wall: u64,
    pub(super) kind: Kind,
    pub(super) payload: Vec<u8>,
}

/// Why a datagram was not opened.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Stranger,
    OtherProtocol(u8),
    WrongKey,
    Malformed(String),
    OtherGrid(GridName),
}

/// Seals and opens the datagrams of one node.
pub(super) struct Seal {
    cipher: XChaCha20Poly1305,
    grid: GridName,
    nonce_prefix: [u8; 16],
    sealed: u64,
}

impl Seal {
    pub(super) fn new(options: &MembershipOptions) -> Self {
        // A nonce must never be used twice with one key. It need not be secret: 128 bits that no other life of any node
        // has (even if its entropy were the same by mistake), and a count.
        let Digest(life) = Digest::of(&encode(&("nonce", options.entropy, &options.node)));
        let mut nonce_prefix = [0; 16];
        nonce_prefix.copy_from_slice(&life[..16]);
        Self {
            cipher: XChaCha20Poly1305::new(&options.key.gossip().into()),
            grid: options.grid.clone(),
            nonce_prefix,
            sealed: 0,
        }
    }

    /// Most bytes of payload that fit a datagram.
    pub(super) fn capacity(&self) -> usize {
        let preamble = Preamble {
            grid: self.grid.clone(),
            wall: u64::MAX,
            kind: Kind::Item,
        };
        MAX_DATAGRAM - HEADER - NONCE - TAG - encode(&preamble).len()
    }

    pub(super) fn seal(&mut self, wall: u64, kind: Kind, payload: &[u8]) -> Vec<u8> {
        let grid = self.grid.clone();
        let mut plain = encode(&Preamble { grid, wall, kind });
        plain.extend_from_slice(payload);
        let mut datagram = Vec::with_capacity(HEADER + NONCE + plain.len() + TAG);
        datagram.extend_from_slice(&MAGIC);
        datagram.push(PROTOCOL);
        datagram.extend_from_slice(&self.nonce_prefix);
        datagram.extend_from_slice(&self.sealed.to_le_bytes());
        self.sealed += 1;
        let mut nonce = XNonce::default();
        nonce.copy_from_slice(&datagram[HEADER..]);
        let aad = &datagram[..HEADER];
        let sealed = self.cipher.encrypt(&nonce, Payload { msg: &plain, aad });
        datagram.extend_from_slice(&sealed.expect("a datagram is far below the 256 GiB that the cipher takes"));
        datagram
    }

    pub(super) fn open(&self, datagram: &[u8]) -> Result<Opened, Refused> {
        if datagram.len() > MAX_DATAGRAM || !datagram.starts_with(&MAGIC) {
            return Err(Refused::Stranger);
        }
        let (header, rest) = datagram.split_at_checked(HEADER).ok_or(Refused::Stranger)?;
        if header[MAGIC.len()] != PROTOCOL {
            return Err(Refused::OtherProtocol(header[MAGIC.len()]));
        }
        let (prefix, msg) = rest.split_at_checked(NONCE).ok_or(Refused::Stranger)?;
        let mut nonce = XNonce::default();
        nonce.copy_from_slice(prefix);
        let opened = self.cipher.decrypt(&nonce, Payload { msg, aad: header });
        let mut plain = opened.map_err(|_| Refused::WrongKey)?;
        let (preamble, used) = decode_first::<Preamble, MAX_DATAGRAM>("preamble", &plain)
            .map_err(|error| Refused::Malformed(error.to_string()))?;
        if preamble.grid != self.grid {
            return Err(Refused::OtherGrid(preamble.grid));
        }
        plain.drain(..used);
        Ok(Opened {
            wall: preamble.wall,
            kind: preamble.kind,
            payload: plain,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::options;
    use super::*;

    #[test]
    fn a_datagram_opens_with_the_key_and_the_name_of_the_grid_only() {
        let mut seal = Seal::new(&options("a", 1));
        let datagram = seal.seal(77, Kind::Item, b"payload");
        let opened = Seal::new(&options("b", 2)).open(&datagram).unwrap();
        assert_eq!(
            (opened.wall, opened.kind, &opened.payload[..]),
            (77, Kind::Item, &b"payload"[..])
        );

        let mut other = options("b", 2);
        other.key = crate::cluster::ClusterKey::from_bytes([9; 32]);
        assert_eq!(Seal::new(&other).open(&datagram).unwrap_err(), Refused::WrongKey);

        let mut other = options("b", 2);
        other.grid = "elsewhere".parse().unwrap();
        let refused = Seal::new(&other).open(&datagram).unwrap_err();
        assert_eq!(refused, Refused::OtherGrid(seal.grid.clone()));
    }

    #[test]
    fn no_byte_of_a_datagram_can_be_changed() {
        let mut seal = Seal::new(&options("a", 1));
        let datagram = seal.seal(77, Kind::Gossip, b"payload");
        for index in 0..datagram.len() {
            let mut changed = datagram.clone();
            changed[index] ^= 1;
            assert!(seal.open(&changed).is_err(), "byte {index}");
            assert!(seal.open(&datagram[..index]).is_err(), "the first {index} bytes");
        }
    }

    #[test]
    fn the_largest_payload_fits_and_nonces_do_not_repeat() {
        let mut seal = Seal::new(&options("a", 1));
        let payload = vec![1; seal.capacity()];
        let first = seal.seal(u64::MAX, Kind::Gossip, &payload);
        assert_eq!(first.len(), MAX_DATAGRAM);
        let second = seal.seal(u64::MAX, Kind::Gossip, &payload);
        assert_ne!(first[HEADER..HEADER + NONCE], second[HEADER..HEADER + NONCE]);
        let next_life = Seal::new(&options("a", 2)).seal(0, Kind::Gossip, &payload);
        assert_ne!(first[HEADER..HEADER + NONCE], next_life[HEADER..HEADER + NONCE]);
    }
}
