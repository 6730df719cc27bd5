//! Sequences on this node: one actor for each.
//!
//! A session actor holds a sequence of `grid-core`, runs its steps one after the other through the router, and tells
//! whoever reads. Its state lives with it and not with an instance of the model: every step brings the state along and
//! takes the new one back, so that any instance can run it, steps of different sequences run together, and an instance
//! that crashes costs no sequence its past.
//!
//! Messages come from two sides: from a *reader*, a connection that stays (WebSocket), sends and is told of every outcome,
//! and can come back after a break; and from *callers*, each with one message and one outcome (REST, gRPC).

mod actor;
mod bringing;
mod calls;
mod company;
mod copies;
mod image;
mod keeping;
mod message;
mod registry;

pub(crate) use company::Company;
pub use message::{
    AnswerForm, MAX_REQUEST_ID, Reader, ReaderEvents, SequenceEvent, SequenceMessage, SequenceOrder, Stamp,
    StepOutcome, Ticket, Told, Wanted, WantedOutput, pick,
};
pub use registry::{Attachment, Resumed, Sessions};
