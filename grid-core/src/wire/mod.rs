//! What travels between nodes, and between clients and nodes: the codec, frames and messages.
//!
//! Every number that comes in is hostile: whatever is decoded here is bounded before anything is allocated for it.

pub mod assembly;
pub mod call;
pub mod codec;
pub mod credit;
pub mod envelope;
pub mod frame;
pub mod handshake;
pub mod message;
pub mod sequence;
