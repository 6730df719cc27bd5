//! What a person should know of, said seldom enough to be read.

use std::net::SocketAddr;
use std::time::Duration;

use crate::cluster::{GridName, NodeId, NodeName};

/// Something that a person should know of, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Datagrams that are none of a grid's.
    #[error("{from} sends datagrams that are not a grid's; see what runs there, or close this port to it")]
    Stranger {
        /// Who sends them.
        from: SocketAddr,
    },
    /// A datagram that does not open with our key.
    #[error(
        "a datagram from {from} does not open with our cluster key; give both nodes the same key, or take one out of the \
         other's seeds"
    )]
    WrongKey {
        /// Who sent it.
        from: SocketAddr,
    },
    /// A node of another protocol version.
    #[error("{from} speaks version {found} of the gossip protocol and we version {ours}; bring both to one release")]
    OtherProtocol {
        /// Who does.
        from: SocketAddr,
        /// Its version.
        found: u8,
        /// Our version.
        ours: u8,
    },
    /// A node of another grid, with our key.
    #[error(
        "{from} belongs to the grid {found:?} and not to ours; correct its grid's name, or take it out of the seeds"
    )]
    OtherGrid {
        /// Who does.
        from: SocketAddr,
        /// The grid it belongs to.
        found: GridName,
    },
    /// A datagram that opens with our key and holds something else than it should.
    #[error("a datagram from {from} is not understood ({reason}); see whether it runs another release than we do")]
    Malformed {
        /// Who sent it.
        from: SocketAddr,
        /// What is wrong with it.
        reason: String,
    },
    /// Another node has our name.
    #[error("another node named {name:?} runs at {at}; give each its own name, since only one of them can take part")]
    SameName {
        /// Our name.
        name: NodeName,
        /// Where the other one is.
        at: SocketAddr,
    },
    /// A node whose clock is not ours.
    #[error(
        "the clock of {node} is {} ms {} ours; set the clocks by NTP{}",
        .by.unsigned_abs(),
        if *.by < 0 { "behind" } else { "ahead of" },
        if *.refused { ", until then we take nothing from it" } else { "" }
    )]
    ClockOff {
        /// Whose.
        node: NodeId,
        /// By how much in milliseconds: its clock less ours.
        by: i64,
        /// It is off by so much that its datagrams might be old ones, sent again by someone else: they have no effect.
        refused: bool,
    },
}

/// The time in which the same is said once.
const QUIET: Duration = Duration::from_secs(30);

/// Different things remembered as said. What comes beyond that within [`QUIET`] is not said at all: addresses are
/// easily forged, and the first 64 tell the story.
const MAX_SAID: usize = 64;

/// What has been said lately, and of whom.
#[derive(Debug, Default)]
pub(super) struct Said(Vec<(u8, SocketAddr, Duration)>);

impl Said {
    /// Whether to say `kind` of `whom` now. If so, it counts as said.
    pub(super) fn admit(&mut self, now: Duration, kind: u8, whom: SocketAddr) -> bool {
        self.0.retain(|(.., at)| now.saturating_sub(*at) < QUIET);
        let known = self.0.iter().any(|said| (said.0, said.1) == (kind, whom));
        let admitted = !known && self.0.len() < MAX_SAID;
        if admitted {
            self.0.push((kind, whom, now));
        }
        admitted
    }
}

impl Trouble {
    /// Tells the kinds apart, for [`Said`].
    pub(super) fn kind(&self) -> u8 {
        match self {
            Self::Stranger { .. } => 0,
            Self::WrongKey { .. } => 1,
            Self::OtherProtocol { .. } => 2,
            Self::OtherGrid { .. } => 3,
            Self::Malformed { .. } => 4,
            Self::SameName { .. } => 5,
            Self::ClockOff { .. } => 6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_once_in_a_while_and_a_flood_of_addresses_is_cut_short() {
        let mut said = Said::default();
        let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        assert!(said.admit(Duration::ZERO, 1, address(1)));
        assert!(!said.admit(Duration::from_secs(29), 1, address(1)));
        assert!(said.admit(Duration::from_secs(29), 2, address(1)));
        assert!(said.admit(Duration::from_secs(30), 1, address(1)));
        let later = Duration::from_secs(100);
        let admitted = (0..1000).filter(|port| said.admit(later, 1, address(*port))).count();
        assert_eq!(admitted, MAX_SAID);
    }

    #[test]
    fn a_clock_that_is_off_is_told_with_its_direction() {
        let trouble = Trouble::ClockOff {
            node: NodeId {
                name: "a".parse().unwrap(),
                generation: 3,
            },
            by: -12_000,
            refused: false,
        };
        assert_eq!(
            trouble.to_string(),
            "the clock of a#3 is 12000 ms behind ours; set the clocks by NTP"
        );
    }
}
