//! Where models run: a lane before each instance, and the threads that serve the lanes.
//!
//! A request reaches an instance in one of two ways. If the instance is free, nothing waits before it, and requests of
//! that size were measured to be quicker than a thread switch is worth, the caller's own thread runs it
//! ([`Lane::run_inline`]). Otherwise it waits in the lane until a thread of the [`Pool`] takes it, with others if they stack.

mod lane;
mod pool;
mod request;
mod service_time;
mod stats;
#[cfg(test)]
mod tests;

pub use lane::{Lane, LaneOptions};
pub use pool::Pool;
pub use request::{Answer, Outcome, Request, Timing};
pub use stats::RunStats;
