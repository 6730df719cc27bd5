//! Frames of RFC 6455, as far as our server sends them and a client needs them.

use std::io;

use super::wrong;

/// What a frame is: its opcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text = 0x1,
    Binary = 0x2,
    Close = 0x8,
    Ping = 0x9,
    Pong = 0xA,
}

/// A frame of the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) kind: Kind,
    pub(super) payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The frame that the bytes begin with, and its length; `None` while its end has not come.
    pub(super) fn parse(bytes: &'a [u8]) -> io::Result<Option<(Self, usize)>> {
        let &[first, second, ..] = bytes else {
            return Ok(None);
        };
        let kind = match first {
            0x81 => Kind::Text,
            0x82 => Kind::Binary,
            0x88 => Kind::Close,
            0x89 => Kind::Ping,
            0x8A => Kind::Pong,
            // A fragment, a reserved bit or an unknown opcode: the server sends each message in one frame.
            _ => return Err(wrong(&format!("a frame that begins with {first:#04x}"))),
        };
        let (header, length) = match second {
            0..=125 => (2, usize::from(second)),
            126 => match bytes.get(2..4) {
                Some(length) => (4, length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))),
                None => return Ok(None),
            },
            127 => match bytes.get(2..10) {
                Some(length) => (10, length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))),
                None => return Ok(None),
            },
            _ => return Err(wrong("a masked frame of the server")),
        };
        let end = header + length;
        let payload = bytes.get(header..end);
        Ok(payload.map(|payload| (Self { kind, payload }, end)))
    }
}

/// Begins a frame of the client, masked with a key of zeros.
pub(super) fn put_header(into: &mut Vec<u8>, kind: Kind, length: usize) {
    into.push(0x80 | kind as u8);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(length @ 0..=125), _) => into.push(0x80 | length),
        (_, Ok(length)) => {
            into.push(0x80 | 126);
            into.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            into.push(0x80 | 127);
            into.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    into.extend_from_slice(&[0; 4]);
}
