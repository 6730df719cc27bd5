//! From the bytes of a connection to messages: the reading half of RFC 6455, server side, without I/O.
//!
//! tungstenite parses the headers. Its own message reader is not used: it hands out binary messages wherever they came to
//! lie, and tensors must begin on a 64-byte boundary. The codec of actix-http is not used either: it reserves what a header
//! announces, ignores the reserved bits, and looks at the UTF-8 of a text when all of it is there.
//!
//! Every number here is hostile. What is held is bounded by what has arrived, by [`MAX_RESERVED`] and by the message
//! limit; a fragment or a header alone costs nothing.

mod assembly;

use std::io::Cursor;

use bytes::{Buf, Bytes, BytesMut};
use grid_core::tensor::Buffer;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use assembly::{BinaryAssembly, NotUtf8, TextAssembly, unmask};

/// Most memory that is reserved on the word of a frame header alone.
const MAX_RESERVED: usize = 1 << 20;
/// The longest header of a frame.
const MAX_HEADER: usize = 14;
/// The longest payload of a control frame.
const MAX_CONTROL: usize = 125;

/// What a peer sent.
#[derive(Debug, Clone)]
pub(crate) enum Incoming {
    /// A whole text message; it is valid UTF-8.
    Text(Bytes),
    /// A whole binary message, laid out as [`BinaryAssembly`] says.
    Binary(Buffer),
    /// A ping; its payload goes back in a pong.
    Ping(ControlPayload),
    /// A pong, asked for or not.
    Pong,
    /// The peer's last frame. What arrives after it is ignored.
    Close {
        /// [`CloseCode::Status`] if there was none.
        code: CloseCode,
        /// Why, in the peer's words.
        reason: String,
    },
}

/// The payload of a control frame, in place: a flood of pings does not allocate.
#[derive(Clone, Copy)]
pub(crate) struct ControlPayload {
    bytes: [u8; MAX_CONTROL],
    len: u8,
}

impl ControlPayload {
    const EMPTY: Self = Self {
        bytes: [0; MAX_CONTROL],
        len: 0,
    };

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Appends `bytes`, which the check of the header keeps within the array, and returns them to be unmasked.
    fn push(&mut self, bytes: &[u8]) -> &mut [u8] {
        let start = usize::from(self.len);
        let end = (start + bytes.len()).min(MAX_CONTROL);
        let added = &mut self.bytes[start..end];
        added.copy_from_slice(&bytes[..end - start]);
        self.len = end as u8;
        added
    }
}

impl std::fmt::Debug for ControlPayload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ControlPayload({} bytes)", self.len)
    }
}

/// A rule that the peer broke, as it is told to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) code: CloseCode,
    pub(crate) reason: &'static str,
}

const fn protocol(reason: &'static str) -> Violation {
    Violation {
        code: CloseCode::Protocol,
        reason,
    }
}

const TOO_BIG: Violation = Violation {
    code: CloseCode::Size,
    reason: "the message is over the limit",
};

impl From<NotUtf8> for Violation {
    fn from(_: NotUtf8) -> Self {
        Self {
            code: CloseCode::Invalid,
            reason: "a text must be valid UTF-8",
        }
    }
}

/// The frame whose payload is being read.
#[derive(Debug, Clone, Copy)]
struct Frame {
    is_final: bool,
    control: Option<Control>,
    /// Turned so that its first byte is for the next byte of the payload.
    mask: [u8; 4],
    /// Bytes of the payload that have not arrived.
    left: usize,
}

/// The data message that is being read, over all its fragments.
#[derive(Debug)]
enum Message {
    None,
    Text(TextAssembly),
    Binary(BinaryAssembly),
}

/// Reads frames out of the chunks in which a connection's bytes arrive.
#[derive(Debug)]
pub(crate) struct FrameReader {
    max_message: usize,
    chunk: Bytes,
    /// A header that a chunk ended in.
    header: [u8; MAX_HEADER],
    header_len: usize,
    frame: Option<Frame>,
    control: ControlPayload,
    message: Message,
    message_len: usize,
    /// Where the texts of one chunk are put. It is made as large as what is left of the chunk, so that all its texts
    /// share one allocation and an idle connection keeps none.
    texts: BytesMut,
    over: bool,
}

impl FrameReader {
    /// A reader at the start of a connection that takes messages of at most `max_message` bytes.
    pub(crate) fn new(max_message: usize) -> Self {
        Self {
            max_message,
            chunk: Bytes::new(),
            header: [0; MAX_HEADER],
            header_len: 0,
            frame: None,
            control: ControlPayload::EMPTY,
            message: Message::None,
            message_len: 0,
            texts: BytesMut::new(),
            over: false,
        }
    }

    /// Takes what arrived. Meant to be called when [`next`](Self::next) has no more; otherwise the bytes are copied.
    pub(crate) fn push(&mut self, chunk: Bytes) {
        if self.over {
            return;
        }
        if self.chunk.is_empty() {
            self.chunk = chunk;
        } else {
            let mut joined = BytesMut::with_capacity(self.chunk.len() + chunk.len());
            joined.extend_from_slice(&self.chunk);
            joined.extend_from_slice(&chunk);
            self.chunk = joined.freeze();
        }
    }

    /// Bytes held of a data message that is not complete.
    pub(crate) fn held(&self) -> usize {
        match &self.message {
            Message::None => 0,
            Message::Text(text) => text.len(),
            Message::Binary(binary) => binary.len(),
        }
    }

    /// The next thing that the peer sent, if all of it has arrived.
    ///
    /// # Errors
    /// When the peer broke a rule. That, like a close frame, is the last thing that comes.
    pub(crate) fn next(&mut self) -> Result<Option<Incoming>, Violation> {
        let next = self.read();
        if matches!(next, Err(_) | Ok(Some(Incoming::Close { .. }))) {
            // Whatever else was sent is not looked at, and not kept.
            *self = Self {
                over: true,
                ..Self::new(0)
            };
        }
        next
    }

    fn read(&mut self) -> Result<Option<Incoming>, Violation> {
        loop {
            let frame = match self.frame {
                Some(frame) => frame,
                None => match self.read_header()? {
                    Some(frame) => *self.frame.insert(frame),
                    None => {
                        self.texts = BytesMut::new();
                        return Ok(None);
                    }
                },
            };
            if frame.left > 0 && self.chunk.is_empty() {
                self.texts = BytesMut::new();
                return Ok(None);
            }
            if let Some(control) = frame.control {
                if let Some(done) = self.read_control(frame, control)? {
                    return Ok(Some(done));
                }
            } else if let Some(done) = self.read_data(frame)? {
                return Ok(Some(done));
            }
        }
    }

    /// The header of the next frame, if it has arrived and is allowed here.
    fn read_header(&mut self) -> Result<Option<Frame>, Violation> {
        let parsed = if self.header_len == 0 {
            let mut cursor = Cursor::new(self.chunk.as_ref());
            let parsed = parse(&mut cursor)?;
            if parsed.is_some() {
                let read = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
                self.chunk.advance(read.min(self.chunk.len()));
            }
            parsed
        } else {
            None
        };
        let parsed = match parsed {
            Some(parsed) => parsed,
            None => match self.join_header()? {
                Some(parsed) => parsed,
                None => return Ok(None),
            },
        };
        self.check(&parsed.0, parsed.1).map(Some)
    }

    /// Completes a header that a chunk ended in, byte by byte, or keeps what there is of one.
    fn join_header(&mut self) -> Result<Option<(FrameHeader, u64)>, Violation> {
        while self.chunk.has_remaining() && self.header_len < MAX_HEADER {
            self.header[self.header_len] = self.chunk.get_u8();
            self.header_len += 1;
            if let Some(parsed) = parse(&mut Cursor::new(&self.header[..self.header_len]))? {
                self.header_len = 0;
                return Ok(Some(parsed));
            }
        }
        Ok(None)
    }

    /// What a header may say, given what came before it.
    fn check(&mut self, header: &FrameHeader, length: u64) -> Result<Frame, Violation> {
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(protocol(
                "the reserved bits belong to extensions, and none was agreed on",
            ));
        }
        let Some(mask) = header.mask else {
            return Err(protocol("a client must mask its frames"));
        };
        if length >> 63 != 0 {
            return Err(protocol("the length of a frame has 63 bits"));
        }
        let control = match header.opcode {
            OpCode::Control(control) => {
                if !header.is_final {
                    return Err(protocol("a control frame must not be fragmented"));
                }
                if length > MAX_CONTROL as u64 {
                    return Err(protocol("a control frame holds at most 125 bytes"));
                }
                self.control = ControlPayload::EMPTY;
                Some(control)
            }
            OpCode::Data(data) => {
                let room = self.max_message.saturating_sub(self.message_len);
                if length > room as u64 {
                    return Err(TOO_BIG);
                }
                match (data, &self.message) {
                    (Data::Continue, Message::None) => return Err(protocol("there is no message to continue")),
                    (Data::Continue, _) => {}
                    (_, Message::Text(_) | Message::Binary(_)) => {
                        return Err(protocol("a message began before the one before it ended"));
                    }
                    (Data::Text, Message::None) => self.message = Message::Text(TextAssembly::default()),
                    (Data::Binary, Message::None) => self.message = Message::Binary(BinaryAssembly::default()),
                    (Data::Reserved(_), Message::None) => return Err(protocol("unknown opcode")),
                }
                self.message_len += length as usize;
                None
            }
        };
        Ok(Frame {
            is_final: header.is_final,
            control,
            mask,
            left: usize::try_from(length).map_err(|_| TOO_BIG)?,
        })
    }

    /// Takes what has arrived of the frame's payload out of the chunk.
    fn take(&mut self, frame: Frame) -> (Bytes, Frame) {
        let arrived = self.chunk.split_to(frame.left.min(self.chunk.len()));
        let mut rest = Frame {
            left: frame.left - arrived.len(),
            ..frame
        };
        rest.mask.rotate_left(arrived.len() % 4);
        self.frame = (rest.left > 0).then_some(rest);
        (arrived, rest)
    }

    fn read_control(&mut self, frame: Frame, control: Control) -> Result<Option<Incoming>, Violation> {
        let (arrived, rest) = self.take(frame);
        unmask(self.control.push(&arrived), frame.mask);
        if rest.left > 0 {
            return Ok(None);
        }
        match control {
            Control::Ping => Ok(Some(Incoming::Ping(self.control))),
            Control::Pong => Ok(Some(Incoming::Pong)),
            Control::Close => closing(self.control.as_slice()).map(Some),
            Control::Reserved(_) => Err(protocol("unknown opcode")),
        }
    }

    fn read_data(&mut self, frame: Frame) -> Result<Option<Incoming>, Violation> {
        let left_in_chunk = self.chunk.len();
        let (arrived, rest) = self.take(frame);
        let ended = rest.left == 0 && frame.is_final;
        match &mut self.message {
            Message::Text(text) if ended && text.is_empty() => {
                // Most texts: whole, in one frame of one chunk.
                if self.texts.capacity() < arrived.len() {
                    self.texts = BytesMut::with_capacity(left_in_chunk);
                }
                self.texts.extend_from_slice(&arrived);
                unmask(&mut self.texts, frame.mask);
                let whole = self.texts.split().freeze();
                std::str::from_utf8(&whole).map_err(|_| NotUtf8)?;
                self.end_message();
                return Ok(Some(Incoming::Text(whole)));
            }
            Message::Text(text) => text.push(&arrived, frame.mask, rest.left)?,
            Message::Binary(binary) => binary.push(&arrived, frame.mask, rest.left),
            Message::None => return Err(protocol("there is no message to continue")),
        }
        if !ended {
            return Ok(None);
        }
        match self.end_message() {
            Message::Text(text) => Ok(Some(Incoming::Text(text.finish()?))),
            Message::Binary(binary) => Ok(Some(Incoming::Binary(binary.finish()))),
            Message::None => Ok(None),
        }
    }

    fn end_message(&mut self) -> Message {
        self.message_len = 0;
        std::mem::replace(&mut self.message, Message::None)
    }
}

/// Parses a header; `None` if not all of it is there.
fn parse<T: AsRef<[u8]>>(cursor: &mut Cursor<T>) -> Result<Option<(FrameHeader, u64)>, Violation> {
    // The only thing that it refuses: reading from memory does not fail.
    let Some((header, length)) = FrameHeader::parse(cursor).map_err(|_| protocol("unknown opcode"))? else {
        return Ok(None);
    };
    if header.len(length) as u64 != cursor.position() {
        return Err(protocol("a length must be written in the fewest bytes"));
    }
    Ok(Some((header, length)))
}

fn closing(payload: &[u8]) -> Result<Incoming, Violation> {
    let (code, reason) = match payload {
        [] => (CloseCode::Status, &[][..]),
        [_] => return Err(protocol("a close code has two bytes")),
        [high, low, reason @ ..] => (CloseCode::from(u16::from_be_bytes([*high, *low])), reason),
    };
    if !payload.is_empty() && !code.is_allowed() {
        return Err(protocol("the close code must not be sent"));
    }
    let reason = std::str::from_utf8(reason).map_err(|_| NotUtf8)?.to_owned();
    Ok(Incoming::Close { code, reason })
}

#[cfg(test)]
mod tests;
