//! A server that sends each WebSocket message back, through the node's own socket: what the conformance suite talks to.
//!
//! Serves the path `/echo` on a free port of 127.0.0.1 until it is killed.

use std::time::Duration;

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use bytes::Bytes;
use grid_core::tensor::Buffer;
use grid_node::gateway::websocket::{Event, Socket, SocketOptions, accept, keep_handle};

/// The largest message of the suite has 16 MiB.
const MAX_MESSAGE: usize = 32 << 20;
const HIGH_WATER: usize = 1 << 20;

/// A message, as memory that can be sent.
struct Shared(Buffer);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let server = HttpServer::new(|| App::new().route("/echo", web::get().to(echo)))
        .workers(1)
        .on_connect(keep_handle)
        .h1_allow_half_closed(false)
        .client_disconnect_timeout(Duration::from_secs(2))
        .bind(("127.0.0.1", 0))?;
    for address in server.addrs() {
        println!("listening on ws://{address}");
    }
    server.run().await
}

async fn echo(request: HttpRequest, payload: web::Payload) -> HttpResponse {
    let options = SocketOptions {
        max_message: MAX_MESSAGE,
        ping_interval: Duration::from_secs(20),
        pong_timeout: Duration::from_secs(20),
        send_timeout: Duration::from_secs(20),
        high_water: HIGH_WATER,
        room: Box::new(|_| true),
    };
    match accept(&request, payload, options) {
        Ok((response, socket)) => {
            actix_web::rt::spawn(converse(socket));
            response
        }
        Err(refusal) => refusal.response(),
    }
}

async fn converse(mut socket: Socket) {
    let mut read = true;
    loop {
        match socket.next(read).await {
            Event::Text(text) => socket.send_text(&text),
            Event::Binary(message) => socket.send_binary([Bytes::from_owner(Shared(message))]),
            Event::Writable => {}
            Event::Ended(_) => return,
        }
        // After the high-water mark there will be an event when the queue is low again.
        read = socket.buffered() < HIGH_WATER;
    }
}
