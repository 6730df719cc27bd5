//! What a client is made with.

use std::time::Duration;

use grid_core::cluster::{ClusterKey, GridName};

use crate::link::Limits;

/// What a client is made with. The name and the key are the grid's; everything else has a default:
/// `ClientOptions { timeout, ..ClientOptions::new(grid, key) }`.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Which grid: a node of another one is refused.
    pub grid: GridName,
    /// The grid's key.
    pub key: ClusterKey,
    /// The time that a request has which names none.
    pub timeout: Duration,
    /// Within so long [`GridClient::connect`](super::GridClient::connect) must have found a node that answers.
    pub connect_timeout: Duration,
    /// How long one attempt to connect to one node may take, and one answer of a node about the grid.
    pub patience: Duration,
    /// How often a node is asked whether the grid has changed. While it has not, the answer is a few bytes.
    pub poll: Duration,
    /// A link that was not used for so long is closed.
    pub idle: Duration,
    /// How long a model, a version of one, or a sequence is waited for that no node knows, and none has known since
    /// this client was made: it may just have been deployed.
    pub unknown_model: Duration,
    /// Bounds of the links. A node that freezes is noticed by their pings.
    pub limits: Limits,
}

impl ClientOptions {
    /// The usual options.
    pub fn new(grid: GridName, key: ClusterKey) -> Self {
        Self {
            grid,
            key,
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            patience: Duration::from_secs(2),
            poll: Duration::from_secs(1),
            idle: Duration::from_secs(60),
            unknown_model: Duration::from_secs(2),
            limits: Limits::of_requests(),
        }
    }
}
