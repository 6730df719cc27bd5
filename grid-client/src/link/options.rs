//! What a link is made with.

use std::time::Duration;

use grid_core::cluster::GridName;
use grid_core::wire::handshake::{Hello, Peer, Purpose, Versions};

/// Bounds of one link.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Most bytes of a message's body, in both directions.
    pub max_message: usize,
    /// Bytes that messages being put together may take beyond one window each; the oldest is exempt.
    pub assembly_budget: u64,
    /// Most exchanges that the other end may have under way.
    pub max_exchanges: usize,
    /// Most bytes that wait to be written, of requests. One message is always taken.
    pub max_queued: usize,
    /// Most bytes of one exchange's answers that wait to be written. One answer is always taken.
    pub max_queued_answers: usize,
    /// After so long without a byte from the other end a ping is sent.
    pub ping_interval: Duration,
    /// After so long without a sign of life since a ping the link is closed.
    pub pong_timeout: Duration,
    /// Within so long the handshake must end.
    pub handshake_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message: 256 << 20,
            assembly_budget: 256 << 20,
            max_exchanges: 1024,
            max_queued: 256 << 20,
            max_queued_answers: 8 << 20,
            ping_interval: Duration::from_secs(2),
            pong_timeout: Duration::from_secs(4),
            handshake_timeout: Duration::from_secs(5),
        }
    }
}

impl Limits {
    /// Those of links on which nodes and clients send requests. A node that freezes, or is cut off, is noticed within 0.9 s,
    /// so that what was under way there can go elsewhere; it takes connections and says nothing, so that a handshake is not
    /// waited for either.
    pub fn of_requests() -> Self {
        Self {
            ping_interval: Duration::from_millis(300),
            pong_timeout: Duration::from_millis(600),
            handshake_timeout: Duration::from_secs(2),
            ..Self::default()
        }
    }
}

/// What a link is made with.
#[derive(Clone)]
pub struct LinkOptions {
    /// Which grid.
    pub grid: GridName,
    /// Who this end is.
    pub identity: Peer,
    /// What the link is for; the connecting end's word counts.
    pub purpose: Purpose,
    /// The key of the mesh.
    pub key: [u8; 32],
    /// Protocol versions that this end speaks.
    pub versions: Versions,
    /// Bounds.
    pub limits: Limits,
    /// Draws the nonce of a link: it must never be the same twice. A simulation brings its own.
    pub entropy: fn() -> [u8; 32],
}

impl LinkOptions {
    /// A link for requests, with the usual bounds.
    pub fn new(grid: GridName, identity: Peer, key: [u8; 32]) -> Self {
        Self {
            grid,
            identity,
            purpose: Purpose::Requests,
            key,
            versions: Versions::default(),
            limits: Limits::default(),
            entropy: rand::random,
        }
    }

    pub(super) fn hello(&self) -> Hello {
        Hello {
            grid: self.grid.clone(),
            peer: self.identity.clone(),
            purpose: self.purpose,
            nonce: (self.entropy)(),
        }
    }
}

impl std::fmt::Debug for LinkOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the key.
        f.debug_struct("LinkOptions")
            .field("grid", &self.grid)
            .field("identity", &self.identity)
            .field("purpose", &self.purpose)
            .field("versions", &self.versions)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
