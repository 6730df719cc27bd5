//! Hybrid logical clocks: stamps that follow the wall clock where they can, and order what follows from what where they
//! cannot (Kulkarni, Demirbas, Madappa, Avva, Leone 2014).

use serde::{Deserialize, Serialize};

use crate::cluster::NodeName;

/// When something was said, and by whom. Later stamps win; no two nodes ever make the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stamp {
    /// Milliseconds since 1970.
    pub wall: u64,
    /// Counts what was said within one millisecond, or while the wall clock stood back.
    pub counter: u32,
    /// Who said it.
    pub node: NodeName,
}

/// A stamp that is further ahead of this node's wall clock than clocks may differ.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a stamp of node {node} is {ahead} ms ahead of this node's clock, more than the {MAX_AHEAD} ms that are taken; set the clocks right"
)]
pub struct StampAhead {
    /// Who made it.
    pub node: NodeName,
    /// By how much.
    pub ahead: u64,
}

/// How far a stamp may be ahead of this node's wall clock, in milliseconds. Without a bound, one clock that is a year
/// ahead would own the catalog for a year.
pub const MAX_AHEAD: u64 = 60_000;

/// The clock of one node.
#[derive(Clone, Debug)]
pub struct Clock {
    node: NodeName,
    wall: u64,
    counter: u32,
}

impl Clock {
    /// A clock that has seen nothing.
    pub fn new(node: NodeName) -> Self {
        Self {
            node,
            wall: 0,
            counter: 0,
        }
    }

    /// A stamp above every one that was made or seen here.
    pub fn stamp(&mut self, wall: u64) -> Stamp {
        if wall > self.wall {
            (self.wall, self.counter) = (wall, 0);
        } else if let Some(counter) = self.counter.checked_add(1) {
            self.counter = counter;
        } else {
            (self.wall, self.counter) = (self.wall + 1, 0);
        }
        Stamp {
            wall: self.wall,
            counter: self.counter,
            node: self.node.clone(),
        }
    }

    /// Takes note of a stamp that another node made.
    ///
    /// # Errors
    /// When it is too far ahead; it is not taken note of then.
    pub fn observe(&mut self, stamp: &Stamp, wall: u64) -> Result<(), StampAhead> {
        let ahead = stamp.wall.saturating_sub(wall);
        if ahead > MAX_AHEAD {
            return Err(StampAhead {
                node: stamp.node.clone(),
                ahead,
            });
        }
        if (stamp.wall, stamp.counter) > (self.wall, self.counter) {
            (self.wall, self.counter) = (stamp.wall, stamp.counter);
        }
        Ok(())
    }
}
