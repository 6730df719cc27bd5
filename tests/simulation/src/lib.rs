//! Whole grids in virtual time.
//!
//! Each simulated node runs the product's own decisions (membership, agent, dispatch, sequences) and the product's own mesh link, over
//! the sockets of turmoil. What is simulated by a small model is what would touch the machine: loads, runs, memory, and
//! artifacts. All that is drawn comes from one seed, so a run that fails is run again by its number.
//!
//! A [`Scenario`](scenario::Scenario) has a safety phase, in which things go wrong by its plan, then a phase without
//! faults in which the grid has to come to rest. What happened is a [history](history::Record); each of the
//! [invariants] is a pure function over it.

#![forbid(unsafe_code)]

pub mod client;
pub mod fault;
pub mod freeze;
pub mod history;
pub mod invariants;
pub mod links;
pub mod node;
pub mod random;
pub mod scenario;
pub mod sequence;
pub mod world;
