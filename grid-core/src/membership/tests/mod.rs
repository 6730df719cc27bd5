//! Whole grids in virtual time, and what no datagram may do.

mod api;
mod faults;
mod network;
mod strangers;

use super::MembershipOptions;
use crate::cluster::{ClusterKey, NodeId};

pub(super) fn options(name: &str, generation: u64) -> MembershipOptions {
    MembershipOptions {
        grid: "grid".parse().unwrap(),
        node: NodeId {
            name: name.parse().unwrap(),
            generation,
        },
        mesh: ([127, 0, 0, 1], 7000).into(),
        key: ClusterKey::from_bytes([7; 32]),
        entropy: [3; 32],
        self_doubt: true,
    }
}
