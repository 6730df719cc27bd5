//! The Open Inference Protocol v2 over gRPC: Triton's `inference.GRPCInferenceService`, for its clients as they are.
//!
//! On at `grpc.listen`, off without it. It has a tokio runtime of its own beside actix: HTTP/2 multiplexes many calls on one
//! connection, and a runtime that moves tasks between its threads keeps them all busy, where actix would serve all of one
//! connection on one thread. A call runs on one of these threads from its bytes to its answer, quick models too; nothing
//! is spawned for it, so dropping what serves it (the client cancelled, reset the stream or went away) cancels it down to
//! the lane that it waits in.
//!
//! | file | what it knows |
//! |---|---|
//! | `server` | connections, draining |
//! | `body`, `wire` | messages on their way in: how long, how many, how much memory; bytes to messages |
//! | `service` | the methods |
//! | `infer`, `stream` | one inference; many on one stream |
//! | `tensors`, `parameters` | messages to tensors and settings |
//! | `status` | errors to statuses |
//! | `models` | metadata, configuration, statistics, index |
//! | `generated` | made of `proto/inference.proto` |
//!
//! **Time.** A request has the smallest of the call's `grpc-timeout` and its own parameter `timeout` (microseconds), and no
//! more than `limits.max_timeout`. **Size.** A message has the limit of `http.max_body`. **Permission.** Loads and unloads
//! need what they need over HTTP: this machine, or the token in the metadata `authorization: Bearer TOKEN`.

mod body;
#[rustfmt::skip] // It is as its generator writes it.
pub mod generated;
mod identity;
mod infer;
mod models;
mod parameters;
mod server;
mod service;
mod status;
mod stream;
mod tensors;
mod wire;

pub(crate) use server::{Server, serve};
