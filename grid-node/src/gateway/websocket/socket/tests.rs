use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpServer};
use grid_core::tensor::AlignedBytes;

use super::*;
use crate::gateway::websocket::keep_handle;

/// How long a test waits for what has to happen.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longer than a test waits: what needs it to be over does not happen.
const NEVER: Duration = Duration::from_secs(600);
const HIGH_WATER: usize = 1 << 20;

fn options() -> SocketOptions {
    SocketOptions {
        max_message: 8 << 20,
        ping_interval: NEVER,
        pong_timeout: NEVER,
        send_timeout: NEVER,
        high_water: HIGH_WATER,
        room: Box::new(|_| true),
    }
}

/// A server of which each socket is handed to `converse`, on a thread of its own.
struct Server {
    address: std::net::SocketAddr,
    handle: ServerHandle,
    thread: Option<JoinHandle<()>>,
    said: Receiver<String>,
}

impl Server {
    fn start<F, R>(options: fn() -> SocketOptions, converse: F) -> Self
    where
        F: Fn(Socket, Sender<String>) -> R + Clone + Send + 'static,
        R: Future<Output = ()> + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (say, said) = channel();
        let (started, start) = channel();
        let thread = std::thread::spawn(move || {
            let server = HttpServer::new(move || {
                let (converse, say) = (converse.clone(), say.clone());
                let handler = move |request: HttpRequest, payload: web::Payload| {
                    let (converse, say) = (converse.clone(), say.clone());
                    async move {
                        let (response, socket) = accept(&request, payload, options()).unwrap();
                        actix_web::rt::spawn(converse(socket, say));
                        response
                    }
                };
                App::new().route("/", web::get().to(handler))
            })
            .workers(1)
            .disable_signals()
            .on_connect(keep_handle)
            .h1_allow_half_closed(false)
            .client_disconnect_timeout(NEVER)
            .shutdown_timeout(0)
            .listen(listener)
            .unwrap();
            actix_web::rt::System::new().block_on(async {
                let server = server.run();
                started.send(server.handle()).unwrap();
                server.await.unwrap();
            });
        });
        Self {
            address,
            handle: start.recv_timeout(PATIENCE).unwrap(),
            thread: Some(thread),
            said,
        }
    }

    fn said(&self) -> String {
        self.said.recv_timeout(PATIENCE).unwrap()
    }

    fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut client = Client(stream);
        client.write(
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
              Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        );
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.extend(client.read::<1>());
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The command is sent by the call; the future only waits.
        drop(self.handle.stop(false));
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))));
    }
}

struct Client(TcpStream);

impl Client {
    fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// Sends a frame, under the mask that changes nothing.
    fn send(&mut self, first: u8, payload: &[u8]) {
        let mut bytes = vec![first, 0x80 | 127];
        if payload.len() < 126 {
            bytes[1] = 0x80 | payload.len() as u8;
        } else if let Ok(length) = u16::try_from(payload.len()) {
            bytes[1] = 0x80 | 126;
            bytes.extend_from_slice(&length.to_be_bytes());
        } else {
            bytes.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(payload);
        self.write(&bytes);
    }

    fn read<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn receive(&mut self) -> (u8, Vec<u8>) {
        let [first, second] = self.read();
        let length = match second {
            126 => u64::from(u16::from_be_bytes(self.read())),
            127 => u64::from_be_bytes(self.read()),
            short => u64::from(short),
        };
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload).unwrap();
        (first, payload)
    }

    fn expect_close(&mut self, code: u16) -> String {
        let (first, payload) = self.receive();
        assert_eq!((first, &payload[..2]), (CLOSE, &code.to_be_bytes()[..]));
        String::from_utf8(payload[2..].to_vec()).unwrap()
    }

    /// The server has closed the connection, not reset it.
    fn expect_end(&mut self) {
        assert_eq!(self.0.read(&mut [0]).unwrap(), 0);
    }
}

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

/// Sends everything back, and says how the connection ended.
async fn echo(mut socket: Socket, say: Sender<String>) {
    let mut read = true;
    loop {
        match socket.next(read).await {
            Event::Text(text) => socket.send_text(&text),
            Event::Binary(message) => socket.send_binary([Bytes::copy_from_slice(message.as_slice())]),
            Event::Writable => {}
            Event::Ended(ended) => return drop(say.send(format!("{ended:?}"))),
        }
        read = socket.buffered() < HIGH_WATER;
    }
}

#[test]
fn messages_come_and_go_and_a_close_is_answered_with_the_end_of_the_connection() {
    let server = Server::start(options, echo);
    let mut client = server.connect();
    for size in [0, 5, 125, 126, 65535, 65536, 3 << 20] {
        let text = vec![b'x'; size];
        let mut sender = Client(client.0.try_clone().unwrap());
        let sent = text.clone();
        let sending = std::thread::spawn(move || {
            sender.send(TEXT, &sent);
            sender.send(BINARY, &sent);
        });
        assert!(client.receive() == (TEXT, text.clone()), "text of {size}");
        assert!(client.receive() == (BINARY, text), "binary of {size}");
        sending.join().unwrap();
    }
    client.send(PING, b"there?");
    assert_eq!(client.receive(), (PONG, b"there?".to_vec()));
    client.send(CLOSE, b"\x03\xe9going");
    assert_eq!(client.expect_close(1001), "");
    client.expect_end();
    assert_eq!(server.said(), "Closed { code: Away, reason: \"going\" }");
}

#[test]
fn thousands_of_messages_at_once_are_answered_in_order() {
    let server = Server::start(options, echo);
    let mut client = server.connect();
    let mut sender = Client(client.0.try_clone().unwrap());
    let sending = std::thread::spawn(move || {
        let many: Vec<u8> = (0..5000u32)
            .flat_map(|n| [&[BINARY, 0x84, 0, 0, 0, 0][..], &n.to_le_bytes()].concat())
            .collect();
        sender.write(&many);
    });
    for n in 0..5000u32 {
        assert_eq!(client.receive(), (BINARY, n.to_le_bytes().to_vec()));
    }
    sending.join().unwrap();
}

#[test]
fn a_flood_of_pings_gets_an_answer_to_the_last() {
    let server = Server::start(options, echo);
    let mut client = server.connect();
    let mut sender = Client(client.0.try_clone().unwrap());
    let sending = std::thread::spawn(move || {
        let many: Vec<u8> = (0..20_000u32)
            .flat_map(|n| [&[PING, 0x84, 0, 0, 0, 0][..], &n.to_le_bytes()].concat())
            .collect();
        sender.write(&many);
    });
    while client.receive() != (PONG, 19_999u32.to_le_bytes().to_vec()) {}
    sending.join().unwrap();
}

#[test]
fn a_broken_rule_is_told_and_ends_the_connection() {
    let server = Server::start(options, echo);
    let mut client = server.connect();
    client.send(TEXT, b"before");
    client.send(TEXT | 0x40, b"reserved");
    assert_eq!(client.receive(), (TEXT, b"before".to_vec()));
    assert!(client.expect_close(1002).contains("reserved bits"));
    client.expect_end();
    assert!(server.said().starts_with("Refused { code: Protocol"));
}

#[test]
fn a_message_over_the_limit_is_told_while_the_client_still_sends_it() {
    let server = Server::start(options, echo);
    let mut client = server.connect();
    let mut header = vec![BINARY, 0x80 | 127];
    header.extend_from_slice(&(9u64 << 20).to_be_bytes());
    header.extend_from_slice(&[0; 4]);
    client.write(&header);
    client.write(&[0; 100_000]);
    client.expect_close(1009);
    client.expect_end();
    assert!(server.said().starts_with("Refused { code: Size"));
}

#[test]
fn a_message_that_there_is_no_room_for_is_told_to_come_again() {
    let options = || {
        let mut room = 1usize << 20;
        SocketOptions {
            room: Box::new(move |grown| {
                room = room.saturating_sub(grown);
                room > 0
            }),
            ..options()
        }
    };
    let server = Server::start(options, echo);
    let mut client = server.connect();
    for _ in 0..1000 {
        client.send(TEXT, &[b'x'; 1100]);
        client.receive();
    }
    client.send(BINARY, &[0; 1 << 20]);
    client.expect_close(1013);
    client.expect_end();
    assert!(server.said().starts_with("Refused { code: Again"));
}

#[test]
fn the_room_asked_for_adds_up_to_the_length_of_the_message() {
    let server = Server::start(options, |mut socket, say| async move {
        let asked = std::rc::Rc::new(std::cell::Cell::new(0));
        let counter = std::rc::Rc::clone(&asked);
        socket.room = Box::new(move |grown| {
            counter.set(counter.get() + grown);
            true
        });
        while let Event::Binary(message) = socket.next(true).await {
            let _ = say.send(format!("{} {}", message.len(), asked.take()));
        }
    });
    let mut client = server.connect();
    for _ in 0..3 {
        client.send(BINARY, &[1; 1 << 20]);
        assert_eq!(server.said(), format!("{0} {0}", 1 << 20));
    }
}

#[test]
fn the_server_closes_with_a_reason_behind_what_was_sent() {
    let server = Server::start(options, |socket, say| async move {
        let large = Bytes::from(vec![7; 4 << 20]);
        socket.send_binary([Bytes::from_static(b"head"), large.clone(), Bytes::from_static(b"tail")]);
        socket.close(CloseCode::Away, &"ü".repeat(100)).await;
        let _ = say.send("closed".to_owned());
    });
    let mut client = server.connect();
    let (first, payload) = client.receive();
    assert_eq!((first, payload.len()), (BINARY, 8 + (4 << 20)));
    assert!(payload.starts_with(b"head\x07") && payload.ends_with(b"\x07tail"));
    assert_eq!(client.expect_close(1001), "ü".repeat(61));
    client.send(CLOSE, b"\x03\xe9");
    client.expect_end();
    assert_eq!(server.said(), "closed");
}

#[test]
fn a_close_that_nobody_answers_ends_all_the_same() {
    let server = Server::start(options, |socket, say| async move {
        socket.close(CloseCode::Normal, "").await;
        let _ = say.send("closed".to_owned());
    });
    let mut client = server.connect();
    client.expect_close(1000);
    client.expect_end();
    assert_eq!(server.said(), "closed");
}

#[test]
fn a_socket_that_is_dropped_tells_the_client() {
    let server = Server::start(options, |socket, _| async move { drop(socket) });
    let mut client = server.connect();
    client.expect_close(1011);
    client.expect_end();
}

#[test]
fn a_client_that_goes_away_is_noticed_while_nobody_reads() {
    let server = Server::start(options, |mut socket, say| async move {
        let _ = say.send("not reading".to_owned());
        let _ = say.send(format!("{:?}", socket.next(false).await));
    });
    let mut client = server.connect();
    client.send(TEXT, b"never read");
    assert_eq!(server.said(), "not reading");
    drop(client);
    assert_eq!(server.said(), "Ended(Lost)");
}

#[test]
fn a_client_that_goes_away_behind_unread_bytes_is_noticed_by_a_ping() {
    let options = || SocketOptions {
        ping_interval: Duration::from_millis(20),
        ..options()
    };
    let server = Server::start(options, |mut socket, say| async move {
        let _ = say.send(format!("{:?}", socket.next(false).await));
    });
    let mut client = server.connect();
    client.send(BINARY, &[0; 100_000]);
    drop(client);
    assert_eq!(server.said(), "Ended(Lost)");
}

#[test]
fn what_a_client_sends_is_held_up_while_nobody_reads_and_read_later() {
    let server = Server::start(options, |mut socket, say| async move {
        let unread = tokio::time::timeout(Duration::from_millis(100), socket.next(false)).await;
        let _ = say.send(format!("{unread:?}").split('(').next().unwrap_or_default().to_owned());
        echo(socket, say).await;
    });
    let mut client = server.connect();
    client.send(TEXT, b"later");
    assert_eq!(server.said(), "Err");
    assert_eq!(client.receive(), (TEXT, b"later".to_vec()));
}

#[test]
fn a_client_that_takes_nothing_is_cut() {
    let options = || SocketOptions {
        send_timeout: Duration::from_millis(100),
        ..options()
    };
    let server = Server::start(options, |mut socket, say| async move {
        let large = Bytes::from(vec![0; 64 << 20]);
        socket.send_binary([large]);
        let _ = say.send(format!("{:?}", socket.next(true).await));
    });
    let mut client = server.connect();
    assert_eq!(server.said(), "Ended(SlowReader)");
    let mut received = Vec::new();
    // Ended or reset, but not a message.
    let _ = client.0.read_to_end(&mut received);
    assert!(received.len() < 64 << 20);
}

#[test]
fn a_client_that_does_not_answer_a_ping_is_cut() {
    let options = || SocketOptions {
        ping_interval: Duration::from_millis(10),
        pong_timeout: Duration::from_millis(200),
        ..options()
    };
    let server = Server::start(options, echo);
    let mut client = server.connect();
    assert_eq!(client.receive(), (PING, vec![]));
    assert_eq!(server.said(), "NoPong");
    client.expect_end();
}

#[test]
fn a_full_queue_says_when_it_is_low_again() {
    let server = Server::start(options, |mut socket, say| async move {
        let buffer = AlignedBytes::zeroed(16 << 20).freeze();
        socket.send_binary([Bytes::copy_from_slice(buffer.as_slice())]);
        let _ = say.send((socket.buffered() >= HIGH_WATER).to_string());
        let event = socket.next(false).await;
        let _ = say.send(format!("{event:?} {}", socket.buffered() < HIGH_WATER / 2));
        echo(socket, say).await;
    });
    let mut client = server.connect();
    assert_eq!(server.said(), "true");
    assert_eq!(client.receive().1.len(), 16 << 20);
    assert_eq!(server.said(), "Writable true");
}
