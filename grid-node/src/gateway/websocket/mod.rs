//! WebSocket (RFC 6455): many requests over one connection, answered as they finish.
//!
//! [`Socket`] is one connection: messages in, messages out, pings, the end. It is made of `frames`, which parses what
//! arrives, and `outbound`, the queue of what leaves. None of them knows what a message means.

mod conversation;
mod farewell;
mod frames;
mod handshake;
mod liveness;
mod outbound;
mod protocol;
mod socket;
mod stream;

pub use handshake::{HandshakeRefusal, SUBPROTOCOL, keep_handle};
pub use socket::{CloseCode, Ended, Event, Socket, SocketOptions, accept};
pub(super) use stream::routes;
