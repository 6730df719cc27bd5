//! What a scenario does to a grid.

use std::fmt;

use grid_core::model::ModelId;

/// Something that is done to the grid. Nodes are told by their place among those that joined.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// This part of all datagrams is lost.
    Loss(f64),
    /// Messages take up to so many milliseconds.
    Delay(u64),
    /// Nothing goes between these nodes and the others; clients reach all.
    Partition(Vec<usize>),
    /// Every partition is over.
    Heal,
    /// The process of a node is killed.
    Crash(usize),
    /// The machine of a node is cut off and dies: nobody hears that its connections end.
    PowerCut(usize),
    /// A node that does not run is started.
    Restart(usize),
    /// A node stands still.
    Freeze(usize),
    /// It goes on.
    Thaw(usize),
    /// A disk is so many times slower.
    SlowDisk(usize, u32),
    /// A wall clock is off by so many milliseconds.
    Skew(usize, i64),
    /// A memory budget is so many hundredths of what it was at first.
    Budget(usize, u64),
    /// The next loads on a node fail.
    FailLoads(usize, u32),
    /// A node leaves in good order.
    Leave(usize),
    /// A new node joins.
    Join,
    /// A node is told to deploy this model with so many replicas and this revision of its content.
    Deploy {
        /// Who is told.
        at: usize,
        /// Which model.
        model: ModelId,
        /// Which content.
        revision: u64,
        /// How many replicas.
        replicas: u32,
    },
    /// A node is told to take a model back.
    TakeBack {
        /// Who is told.
        at: usize,
        /// Which model.
        model: ModelId,
    },
}

impl Fault {
    /// Whether an operator does it, and no request may fail for it.
    pub fn is_planned(&self) -> bool {
        matches!(
            self,
            Self::Leave(_) | Self::Join | Self::Deploy { .. } | Self::TakeBack { .. } | Self::Budget(..) | Self::Heal
        )
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// A plan: what is done when, in milliseconds since the safety phase began, in order.
pub type Plan = Vec<(u64, Fault)>;
