//! The Open Inference Protocol v2 over REST: JSON, and the *binary tensor data extension*, both directions.
//!
//! Pure: bytes in, values out, and back. Nothing here knows of sockets, models or actors, so that the gateway, the
//! benches and the fuzzers run the same code.
//!
//! A request is read in one pass by the `cursor` of this module rather than by serde: the numbers of `data` go
//! from the text straight into the tensor's memory, and every refusal can name the tensor, the element and the text
//! that was found. serde_json does what is not on that path (escaped strings) and all the writing.

mod body;
mod classify;
mod cursor;
mod data;
mod decode;
mod encode;
mod errors;
mod leaf;
mod message;
mod number;
mod parameters;
#[cfg(test)]
mod tests;

pub use body::{BodyBuilder, HEADER_LENGTH, RequestBody};
pub use classify::{NotClassifiable, classify};
pub use decode::{DecodedRequest, MAX_DIMENSIONS, MAX_TENSORS, NamedTensors, RequestedOutput, decode};
pub use encode::{EncodeError, Encoded, MessageKind, OutputTensor, Place, Response, encode};
pub use errors::{error_body, retry_after, status};
pub use message::{ClientMessage, RefusedMessage, decode_message};
pub use parameters::Parameters;
