//! The decisions of the grid.
//!
//! Nothing in this crate does I/O, reads a clock, starts a thread or draws a random number: time, entropy and events
//! come in as arguments, decisions go out as values. So everything here can be simulated and property-tested.

#![forbid(unsafe_code)]

pub mod agent;
pub mod artifact;
pub mod batching;
pub mod catalog;
pub mod cluster;
pub mod config;
pub mod dispatch;
pub mod error;
pub mod handoff;
pub mod membership;
pub mod memory;
pub mod model;
pub mod placement;
pub mod scheduling;
pub mod sequence;
pub mod supervision;
pub mod tensor;
pub mod wire;

pub use error::InferError;
