//! The way to a grid: the client library that apps embed, and the link that nodes and apps share.
//!
//! [`GridClient`] connects to any live node, learns who hosts what, and sends each request straight to the least loaded
//! replica. [`link`] is the connection beneath; [`replica`] is one attempt of a request on one replica, by the rules that
//! nodes follow too.

#![forbid(unsafe_code)]

mod client;
pub mod link;
pub mod replica;
mod sequence;

pub use client::{Answer, ClientError, ClientOptions, GridClient, Model, Outputs, Request, StreamedOutput, Streaming};
pub use sequence::{
    Outcome, SequenceOptions, SequenceOutcomes, SequencePlace, SequenceSender, SequenceStream, StartSequence,
};
