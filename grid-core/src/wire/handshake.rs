//! How two ends of a link come to know each other, without I/O: bytes in, bytes out.
//!
//! Both say who they are, then both prove that they hold the mesh key, which never travels:
//!
//! 1. the connecting end sends its [`Hello`];
//! 2. the accepting end sends its own and its proof: an HMAC-SHA256 over both hellos, which hold fresh nonces;
//! 3. the connecting end sends its proof.
//!
//! Each role proves under a label of its own, so that a proof cannot be sent back as one's own. Nothing is encrypted here:
//! that is for TLS, beneath.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::codec::{self, CodecError};
use super::frame::{HEADER, Header, Kind, VERSION};
use crate::cluster::{GridName, NodeId};

/// What a hello begins with, in every version of the protocol.
const MAGIC: &[u8; 8] = b"GRIDMESH";
/// Most bytes of one payload: a hello has two names and some numbers.
const MAX_HANDSHAKE_PAYLOAD: u32 = 1024;
const PROOF: usize = 32;

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Peer {
    /// A node of the grid.
    Node(NodeId),
    /// An app, with the client library.
    Client,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => node.fmt(f),
            Self::Client => f.write_str("a client"),
        }
    }
}

/// What a link is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// Requests and answers.
    Requests,
    /// Artifacts and hand-offs, which must not hold up requests.
    Bulk,
}

/// What each end says first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Which grid.
    pub grid: GridName,
    /// Who speaks.
    pub peer: Peer,
    /// What the link is for; the connecting end decides.
    pub purpose: Purpose,
    /// Drawn for this link alone.
    pub nonce: [u8; 32],
}

/// Protocol versions that one end speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The oldest.
    pub min: u8,
    /// The newest.
    pub max: u8,
}

impl Default for Versions {
    fn default() -> Self {
        Self {
            min: VERSION,
            max: VERSION,
        }
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.min == self.max {
            true => write!(f, "{}", self.min),
            false => write!(f, "{} to {}", self.min, self.max),
        }
    }
}

/// Why no link came about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The other end's key is another one.
    #[error("its key is not the key of this grid")]
    WrongKey,
    /// The other end belongs to another grid.
    #[error("it belongs to grid `{found}`, expected `{expected}`")]
    OtherGrid {
        /// The grid of this end.
        expected: GridName,
        /// The grid of the other end.
        found: GridName,
    },
    /// There is no version that both speak.
    #[error("it speaks protocol versions {found}, this end {expected}")]
    NoCommonVersion {
        /// What this end speaks.
        expected: Versions,
        /// What the other end speaks.
        found: Versions,
    },
    /// The other end speaks something else.
    #[error("it does not speak the mesh protocol; it began with {0:?}")]
    NotOurProtocol(String),
    /// The other end breaks off, for this reason.
    #[error("it refused: {0}")]
    Refused(String),
    /// The other end sent something that has no place here.
    #[error("its {0:?} frame came out of turn")]
    OutOfTurn(Kind),
    /// The other end's hello cannot be read.
    #[error("{0}")]
    Malformed(#[from] CodecError),
}

/// What came out of a handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The protocol version to speak.
    pub version: u8,
    /// What the other end said.
    pub hello: Hello,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Connecting,
    Accepting,
}

impl Role {
    const fn label(self) -> &'static [u8] {
        match self {
            Self::Connecting => b"grid mesh link: connecting",
            Self::Accepting => b"grid mesh link: accepting",
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::Connecting => Self::Accepting,
            Self::Accepting => Self::Connecting,
        }
    }
}

/// One end's side of a handshake. See the module's documentation.
pub struct Handshake {
    role: Role,
    key: [u8; 32],
    versions: Versions,
    grid: GridName,
    /// The payload of the own hello.
    own: Vec<u8>,
    /// The other end's, with its payload, once it came.
    other: Option<(Agreed, Vec<u8>)>,
    received: Vec<u8>,
    to_send: Vec<u8>,
    over: bool,
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the key.
        f.debug_struct("Handshake")
            .field("role", &self.role)
            .field("other", &self.other)
            .finish_non_exhaustive()
    }
}

impl Handshake {
    /// The connecting end's side.
    pub fn connecting(key: [u8; 32], versions: Versions, hello: &Hello) -> Self {
        let mut handshake = Self::new(Role::Connecting, key, versions, hello);
        handshake.send_hello();
        handshake
    }

    /// The accepting end's side.
    pub fn accepting(key: [u8; 32], versions: Versions, hello: &Hello) -> Self {
        Self::new(Role::Accepting, key, versions, hello)
    }

    fn new(role: Role, key: [u8; 32], versions: Versions, hello: &Hello) -> Self {
        let mut own = MAGIC.to_vec();
        own.extend([versions.min, versions.max]);
        own.extend(codec::encode(hello));
        Self {
            role,
            key,
            versions,
            grid: hello.grid.clone(),
            own,
            other: None,
            received: Vec::new(),
            to_send: Vec::new(),
            over: false,
        }
    }

    /// What is to be sent, also after an error: then it tells the other end.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.to_send)
    }

    /// Takes bytes that arrived. When the handshake is complete: what was agreed, and the bytes behind it, which belong to
    /// the link.
    ///
    /// # Errors
    /// When there will be no link. Nothing may be given to it then.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Option<(Agreed, Vec<u8>)>, HandshakeError> {
        if self.over {
            return Ok(None);
        }
        self.received.extend_from_slice(bytes);
        let result = self.advance();
        self.over = !matches!(result, Ok(None));
        if let Err(error) = &result {
            self.refuse(error);
        }
        result
    }

    fn advance(&mut self) -> Result<Option<(Agreed, Vec<u8>)>, HandshakeError> {
        while let Some((kind, payload)) = self.frame()? {
            match (kind, self.other.take()) {
                (Kind::Refused, _) => {
                    let text = String::from_utf8_lossy(&payload).into_owned();
                    return Err(HandshakeError::Refused(text));
                }
                (Kind::Hello, None) => self.hello(payload)?,
                (Kind::Proof, Some((agreed, hello))) => {
                    let proof = self.mac(self.role.other(), &hello).verify_slice(&payload);
                    proof.map_err(|_| HandshakeError::WrongKey)?;
                    if self.role == Role::Connecting {
                        self.send_proof(&hello);
                    }
                    return Ok(Some((agreed, std::mem::take(&mut self.received))));
                }
                (kind, _) => return Err(HandshakeError::OutOfTurn(kind)),
            }
        }
        Ok(None)
    }

    fn hello(&mut self, payload: Vec<u8>) -> Result<(), HandshakeError> {
        // Before anything is checked, so that the other end can tell for itself what does not fit.
        if self.role == Role::Accepting {
            self.send_hello();
        }
        let Some((&[min, max], rest)) = payload
            .strip_prefix(MAGIC)
            .and_then(|versioned| versioned.split_first_chunk::<2>())
        else {
            return Err(HandshakeError::NotOurProtocol(beginning(&payload)));
        };
        let version = max.min(self.versions.max);
        if version < min.max(self.versions.min) {
            return Err(HandshakeError::NoCommonVersion {
                expected: self.versions,
                found: Versions { min, max },
            });
        }
        let hello: Hello = codec::decode("hello", rest)?;
        if hello.grid != self.grid {
            return Err(HandshakeError::OtherGrid {
                expected: self.grid.clone(),
                found: hello.grid,
            });
        }
        if self.role == Role::Accepting {
            self.send_proof(&payload);
        }
        self.other = Some((Agreed { version, hello }, payload));
        Ok(())
    }

    /// The next frame, if all of it has arrived.
    fn frame(&mut self) -> Result<Option<(Kind, Vec<u8>)>, HandshakeError> {
        // What is no frame of a handshake is told by its length and kind, even if less than a header ever comes.
        let Some((&[l0, l1, l2, l3, _version, code], _)) = self.received.split_first_chunk::<6>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let kind = Kind::from_code(code).filter(|kind| matches!(kind, Kind::Hello | Kind::Proof | Kind::Refused));
        let Some(kind) = kind.filter(|_| length <= MAX_HANDSHAKE_PAYLOAD) else {
            return Err(HandshakeError::NotOurProtocol(beginning(&self.received)));
        };
        let end = HEADER + length as usize;
        if self.received.len() < end {
            return Ok(None);
        }
        let payload = self.received[HEADER..end].to_vec();
        self.received.drain(..end);
        Ok(Some((kind, payload)))
    }

    fn send(&mut self, kind: Kind, payload: &[u8]) {
        let header = Header {
            payload: payload.len() as u32,
            ..Header::new(kind, 0)
        };
        self.to_send.extend(header.encode());
        self.to_send.extend(payload);
    }

    fn send_hello(&mut self) {
        let own = std::mem::take(&mut self.own);
        self.send(Kind::Hello, &own);
        self.own = own;
    }

    fn send_proof(&mut self, other: &[u8]) {
        let proof: [u8; PROOF] = self.mac(self.role, other).finalize().into_bytes().into();
        self.send(Kind::Proof, &proof);
    }

    /// Tells the other end, unless it broke off itself or would not understand.
    fn refuse(&mut self, error: &HandshakeError) {
        if !matches!(error, HandshakeError::Refused(_) | HandshakeError::NotOurProtocol(_)) {
            let text = error.to_string();
            self.send(Kind::Refused, text.as_bytes());
        }
    }

    fn mac(&self, role: Role, other: &[u8]) -> Hmac<Sha256> {
        let (connecting, accepting) = match self.role {
            Role::Connecting => (&self.own[..], other),
            Role::Accepting => (other, &self.own[..]),
        };
        // HMAC fills a key up to its block with zeros.
        let mut block = [0; 64];
        block[..self.key.len()].copy_from_slice(&self.key);
        let mut mac = <Hmac<Sha256> as KeyInit>::new(&block.into());
        for part in [role.label(), connecting, accepting] {
            // With their lengths, so that no two pairs of hellos run together to the same bytes.
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac
    }
}

/// The first bytes as text, for an error.
fn beginning(bytes: &[u8]) -> String {
    let first = &bytes[..bytes.len().min(32)];
    String::from_utf8_lossy(first).chars().take(32).collect()
}

#[cfg(test)]
mod tests;
