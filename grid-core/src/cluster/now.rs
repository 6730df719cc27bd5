//! The time, as the caller read it.

use std::time::Duration;

/// One reading of the node's two clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Time since the node's start. It never goes back; all waits are measured with it.
    pub monotonic: Duration,
    /// Wall clock, in milliseconds since 1970. It may jump; it is only ever compared with what other nodes say.
    pub wall: u64,
}
