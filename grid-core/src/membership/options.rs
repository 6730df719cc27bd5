//! What a node's membership is made of.

use std::net::SocketAddr;

use crate::cluster::{ClusterKey, GridName, NodeId};

/// What a node's membership is made of.
#[derive(Clone, Debug)]
pub struct MembershipOptions {
    /// The grid it belongs to. Datagrams of nodes of another one are refused.
    pub grid: GridName,
    /// The node, in the life that begins.
    pub node: NodeId,
    /// Where others reach its gossip and its mesh.
    pub mesh: SocketAddr,
    /// The secret of the grid.
    pub key: ClusterKey,
    /// Random bytes, fresh for each start: all that is drawn comes from them, so with the same ones all happens again.
    pub entropy: [u8; 32],
    /// Whether the node trusts itself less when it is slow. Only measurements turn it off.
    pub self_doubt: bool,
}
