//! What the simulated network needs of the crate, under the name by which the example gives it too.

pub(super) use crate::cluster::{ClusterKey, NodeId, Now};
pub(super) use crate::membership::{Membership, MembershipEffect, MembershipOptions, Peer, Swim};
