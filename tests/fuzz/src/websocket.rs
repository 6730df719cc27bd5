//! The bytes of a WebSocket: frames, the messages in them, and what these say in `grid.v1`.

use bytes::Bytes;
use grid_core::InferError;

use crate::input::{Chunking, Input};
use crate::rest::codec::{ClientMessage, RequestBody, decode_message};
use crate::rest_body::{check, told};
use crate::socket::frames::{FrameReader, Incoming};

/// Most bytes of a message.
const MAX_MESSAGE: usize = 64 << 10;

/// How the bytes are taken in, in a seed.
pub mod form {
    /// As the bytes of a connection.
    pub const CONNECTION: u8 = 0;
    /// As one text message.
    pub const TEXT: u8 = 1;
    /// As one binary message.
    pub const BINARY: u8 = 2;
    /// How many there are.
    pub const COUNT: u8 = 3;
}

/// Takes the bytes in: the form, the chunking, then what arrives.
///
/// # Panics
/// When something does not hold.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let form = input.byte() % form::COUNT;
    let chunking = input.chunking();
    let arrives = input.rest();
    let opcode = match form {
        form::CONNECTION => {
            let limit = (3 << 20) + 8 * arrives.len();
            let chunked = crate::memory::within(limit, || read(chunking, arrives));
            assert_eq!(
                read(Input::new(&[]).chunking(), arrives),
                chunked,
                "in one chunk, and in several"
            );
            return chunked.iter().for_each(understood);
        }
        form::TEXT if std::str::from_utf8(arrives).is_err() => return,
        form::TEXT => 0x81,
        _ => 0x82,
    };
    if arrives.len() > MAX_MESSAGE {
        return;
    }
    // One message comes out as it went in, however it is masked and wherever the connection's bytes are cut.
    let messages = read(chunking, &frame(opcode, [0x37, 0xfa, 0x21, 0x3d], arrives));
    match &messages[..] {
        [Message::Text(bytes) | Message::Binary(bytes)] => assert_eq!(bytes, arrives),
        other => panic!("{other:?}"),
    }
    messages.iter().for_each(understood);
}

/// One frame of a client.
///
/// # Panics
/// When the payload is longer than 64 bits can say.
pub fn frame(opcode: u8, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![opcode];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | u8::try_from(length).expect("a short one")),
        length if length < 1 << 16 => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(length).expect("a middling one").to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend(u64::try_from(length).expect("a long one").to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// What a peer sent, in a form that can be compared.
#[derive(Debug, PartialEq)]
enum Message {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    Close(u16, String),
    Violation(u16, &'static str),
}

fn read(chunking: Chunking<'_>, arrives: &[u8]) -> Vec<Message> {
    let mut reader = FrameReader::new(MAX_MESSAGE);
    let mut messages = Vec::new();
    for chunk in chunking.of(arrives) {
        reader.push(Bytes::copy_from_slice(chunk));
        loop {
            let message = match reader.next() {
                Ok(None) => break,
                Ok(Some(Incoming::Text(text))) => Message::Text(text.to_vec()),
                Ok(Some(Incoming::Binary(bytes))) => {
                    aligned(&bytes);
                    Message::Binary(bytes.as_slice().to_vec())
                }
                Ok(Some(Incoming::Ping(payload))) => Message::Ping(payload.as_slice().to_vec()),
                Ok(Some(Incoming::Pong)) => Message::Pong,
                Ok(Some(Incoming::Close { code, reason })) => Message::Close(code.into(), reason),
                Err(violation) => Message::Violation(violation.code.into(), violation.reason),
            };
            let last = matches!(message, Message::Close(..) | Message::Violation(..));
            messages.push(message);
            if last {
                reader.push(Bytes::copy_from_slice(chunk));
                assert!(matches!(reader.next(), Ok(None)), "nothing comes after the end");
                assert_eq!(reader.held(), 0);
                return messages;
            }
        }
        assert!(reader.held() <= MAX_MESSAGE);
    }
    messages
}

/// The raw tensors of a message lie where a runtime can use them.
fn aligned(message: &grid_core::tensor::Buffer) {
    if let Ok(body) = RequestBody::from_message(message)
        && let Some(binary) = body.binary()
    {
        assert_eq!(binary.as_slice().as_ptr() as usize % grid_core::tensor::ALIGNMENT, 0);
    }
}

fn understood(message: &Message) {
    let body: Result<RequestBody, InferError> = match message {
        Message::Text(text) => {
            assert!(std::str::from_utf8(text).is_ok());
            Ok(RequestBody::from_json(Bytes::copy_from_slice(text)))
        }
        Message::Binary(bytes) => {
            let bytes = grid_core::tensor::AlignedBytes::copy_of(bytes).freeze();
            RequestBody::from_message(&bytes)
        }
        Message::Ping(payload) => return assert!(payload.len() <= 125),
        Message::Violation(_, reason) => return assert!(!reason.is_empty()),
        Message::Pong | Message::Close(..) => return,
    };
    let body = match body {
        Ok(body) => body,
        Err(error) => return told(&error),
    };
    let limit = (64 << 10) + 64 * (body.json().len() + body.binary().map_or(0, |binary| binary.len()));
    match crate::memory::within(limit, || decode_message(&body)) {
        Ok(ClientMessage::Infer(request)) => check(&request),
        Ok(_) => {}
        Err(refused) => told(&refused.error),
    }
}
