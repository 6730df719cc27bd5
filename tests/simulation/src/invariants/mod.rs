//! What must hold: one file each, and each a pure function over the history.

pub mod convergence;
mod hosting;
mod idle;
mod memory;
mod moves;
mod outcomes;
mod panics;
mod planned;
mod sequences;
mod serving;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::history::Record;
use crate::scenario::Scenario;

/// Something that should not have happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which invariant is violated.
    pub invariant: &'static str,
    /// When, in milliseconds.
    pub at: u64,
    /// How.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { invariant, at, what } = self;
        write!(f, "{invariant} is violated at {}.{:03}: {what}", at / 1000, at % 1000)
    }
}

/// An invariant: what of a history violates it.
type Invariant = fn(&Scenario, &[Record]) -> Vec<(u64, String)>;

/// All of them, by name.
const ALL: [(&str, Invariant); 10] = [
    ("no panics", panics::check),
    ("one outcome for each request", outcomes::check),
    ("runs only where the shard is", hosting::check),
    ("memory within the budget", memory::check),
    ("make before break", serving::check),
    ("planned moves lose no request", planned::check),
    ("sequences gapless", sequences::check),
    ("few moves", moves::check),
    ("nothing spins", idle::check),
    ("convergence", convergence::check),
];

/// Looks at what happened.
pub fn check(scenario: &Scenario, history: &[Record]) -> Vec<Violation> {
    let found = ALL.iter().flat_map(|(invariant, check)| {
        let violations = check(scenario, history).into_iter();
        violations.map(|(at, what)| Violation { invariant, at, what })
    });
    found.collect()
}
