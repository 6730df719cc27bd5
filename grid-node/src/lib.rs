//! A node of the grid: it holds models in memory, each shard an actor under supervision, and answers inference requests.
//!
//! An app embeds a node with [`Node::start`]; the `grid-node` binary is a thin command line around it ([`cli`]).

pub mod actors;
mod bodies;
pub mod cli;
pub mod compute;
pub mod gateway;
mod joining;
pub mod loading;
pub mod mesh;
mod node;
pub mod runtime;
mod standing;
pub mod store;
pub mod telemetry;

pub use node::{Node, StartError};
pub use standing::Stage;
