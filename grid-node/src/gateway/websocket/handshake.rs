//! The request that turns an HTTP connection into a WebSocket, and the answers to one that does not.

use std::any::Any;
use std::cell::RefCell;
use std::net::TcpStream;
use std::os::fd::AsFd;

use actix_web::dev::Extensions;
use actix_web::http::header::{
    ALLOW, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use actix_web::http::{Method, StatusCode, Version};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

/// The protocol that is spoken over the WebSocket. A client that names none is taken to speak it.
pub const SUBPROTOCOL: &str = "grid.v1";

const VERSION: HeaderValue = HeaderValue::from_static("13");
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// Why a handshake was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeRefusal {
    /// A WebSocket is asked for with GET.
    #[error("a WebSocket is asked for with the method GET")]
    Method,
    /// The request does not ask for a WebSocket.
    #[error(
        "this path is a WebSocket: expected the headers `Upgrade: websocket` and `Connection: Upgrade`, over HTTP/1.1"
    )]
    NoUpgrade,
    /// The request has a body.
    #[error("header Transfer-Encoding: a request for a WebSocket has no body")]
    Body,
    /// The request names no version of the WebSocket protocol.
    #[error("header Sec-WebSocket-Version: expected `13`, found none")]
    NoVersion,
    /// The request asks for another version of the WebSocket protocol.
    #[error("header Sec-WebSocket-Version: expected `13`")]
    Version,
    /// The request's key is missing, or is not one.
    #[error("header Sec-WebSocket-Key: expected 16 bytes in base64")]
    Key,
    /// The client speaks other protocols only.
    #[error("header Sec-WebSocket-Protocol: expected `grid.v1`, or no such header")]
    Protocol,
}

impl HandshakeRefusal {
    /// The response that says so.
    pub fn response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoUpgrade | Self::Version => StatusCode::UPGRADE_REQUIRED,
            Self::Body | Self::NoVersion | Self::Key | Self::Protocol => StatusCode::BAD_REQUEST,
        });
        match self {
            Self::Method => response.insert_header((ALLOW, HeaderValue::from_static("GET"))),
            Self::NoUpgrade => response.insert_header((UPGRADE, WEBSOCKET)),
            Self::Version => response
                .insert_header((UPGRADE, WEBSOCKET))
                .insert_header((SEC_WEBSOCKET_VERSION, VERSION)),
            Self::Protocol => response.insert_header((SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL))),
            Self::Body | Self::NoVersion | Self::Key => &mut response,
        }
        .json(serde_json::json!({ "error": self.to_string() }))
    }
}

/// Checks the request, and begins the response.
pub(super) fn handshake(request: &HttpRequest) -> Result<HttpResponseBuilder, HandshakeRefusal> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err(HandshakeRefusal::Method);
    }
    // The same reading of the header as in actix-http, which hands out what follows the head only if it sees an upgrade.
    let upgrades = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"websocket");
    if request.version() != Version::HTTP_11 || !headers.get_all(UPGRADE).any(upgrades) || !request.head().upgrade() {
        return Err(HandshakeRefusal::NoUpgrade);
    }
    if headers.contains_key(TRANSFER_ENCODING) {
        return Err(HandshakeRefusal::Body);
    }
    match headers.get(SEC_WEBSOCKET_VERSION) {
        None => return Err(HandshakeRefusal::NoVersion),
        Some(version) if version != VERSION => return Err(HandshakeRefusal::Version),
        Some(_) => {}
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or(HandshakeRefusal::Key)?;
    if !STANDARD.decode(key.as_bytes()).is_ok_and(|key| key.len() == 16) {
        return Err(HandshakeRefusal::Key);
    }
    let mut response = HttpResponse::build(StatusCode::SWITCHING_PROTOCOLS);
    response
        .upgrade(WEBSOCKET)
        .insert_header((SEC_WEBSOCKET_ACCEPT, accept_key(key.as_bytes())));
    match offered(headers) {
        None => {}
        Some(true) => {
            response.insert_header((SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL)));
        }
        Some(false) => return Err(HandshakeRefusal::Protocol),
    }
    Ok(response)
}

/// Whether the client offers our protocol; `None` when it offers none at all.
fn offered(headers: &HeaderMap) -> Option<bool> {
    let mut names = headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|name| !name.is_empty())
        .peekable();
    names.peek()?;
    Some(names.any(|name| name == SUBPROTOCOL.as_bytes()))
}

/// RFC 6455, 4.2.2, step 5.4.
fn accept_key(key: &[u8]) -> String {
    let digest = Sha1::new()
        .chain_update(key)
        .chain_update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11")
        .finalize();
    STANDARD.encode(digest)
}

/// A second handle of a connection, for the one that turns it into a WebSocket to take.
struct Handle(RefCell<Option<TcpStream>>);

/// Keeps a second handle of each connection; meant for `HttpServer::on_connect`.
///
/// actix-http has no way to end an upgraded connection: behind the end of a response it waits for the peer to close, while
/// the peer of a WebSocket waits for the server, until the time for disconnecting is over; and it waits for ever for a peer
/// that takes no bytes. A [`Socket`](super::Socket) ends its connection with this handle. Without one it works, but each
/// of its ends takes that time. The price is one file descriptor more for each connection.
pub fn keep_handle(connection: &dyn Any, data: &mut Extensions) {
    if let Some(stream) = connection.downcast_ref::<actix_web::rt::net::TcpStream>()
        && let Ok(handle) = stream.as_fd().try_clone_to_owned()
    {
        data.insert(Handle(RefCell::new(Some(TcpStream::from(handle)))));
    }
}

/// Takes the handle that [`keep_handle`] kept.
pub(super) fn take_handle(request: &HttpRequest) -> Option<TcpStream> {
    request.conn_data::<Handle>()?.0.borrow_mut().take()
}

#[cfg(test)]
mod tests;
