//! One WebSocket as a load generator sees it: messages are bytes made before, and answers are looked at where they lie.
//!
//! Not tungstenite, which the tests use: it makes and masks each frame anew and hands out each answer in memory of its own,
//! on a machine whose two cores the server needs. The masking key is zero, which is as good as any other to a server: it
//! unmasks all the same.

mod frame;
mod message;
#[cfg(test)]
mod tests;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::process::{Response, read_head};

use frame::{Frame, Kind};

pub(super) use message::{Finder, json_of};
pub use message::{NUMBER, Template, output_values};

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to the stream of a model.
pub(super) struct Socket {
    pub(super) stream: TcpStream,
    /// Frames to be sent, and how much of them is.
    outgoing: Vec<u8>,
    written: usize,
    /// The beginning of a frame whose end has not come.
    partial: Vec<u8>,
}

/// A whole message of the server.
pub(super) struct Message<'a> {
    pub(super) is_binary: bool,
    pub(super) payload: &'a [u8],
}

impl Socket {
    pub(super) fn open(address: SocketAddr, model: &str) -> io::Result<Self> {
        let mut stream = TcpStream::connect_timeout(&address, HANDSHAKE_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
        let request = format!(
            "GET /v2/models/{model}/stream HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: grid.v1\r\n\r\n"
        );
        stream.write_all(request.as_bytes())?;
        let (response, partial): (Response, Vec<u8>) = read_head(&mut stream).map_err(io::Error::other)?;
        if response.status != 101 {
            return Err(wrong(&format!("the handshake was answered with {}", response.status)));
        }
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            outgoing: Vec::new(),
            written: 0,
            partial,
        })
    }

    /// Where frames are put that [`Self::flush`] sends.
    pub(super) fn outgoing(&mut self) -> &mut Vec<u8> {
        &mut self.outgoing
    }

    /// Writes what the connection takes; called again when it takes more.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while self.written < self.outgoing.len() {
            match self.stream.write(&self.outgoing[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.outgoing.clear();
        self.written = 0;
        Ok(())
    }

    /// Takes every message that is there. `each` may put frames into the buffer that it is given, to be flushed.
    pub(super) fn read<E: From<io::Error>>(
        &mut self,
        scratch: &mut [u8],
        mut each: impl FnMut(Message<'_>, &mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        loop {
            // What came with the handshake is looked at before the connection is.
            if !self.partial.is_empty() {
                let bytes = std::mem::take(&mut self.partial);
                let taken = self.take(&bytes, &mut each)?;
                self.partial = bytes;
                self.partial.drain(..taken);
            }
            let count = match self.stream.read(scratch) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            let bytes = &scratch[..count];
            if self.partial.is_empty() {
                let taken = self.take(bytes, &mut each)?;
                self.partial.extend_from_slice(&bytes[taken..]);
            } else {
                self.partial.extend_from_slice(bytes);
            }
            if count < scratch.len() && self.partial.is_empty() {
                return Ok(());
            }
        }
    }

    /// The messages whose last byte is there. Returns how many bytes they were.
    fn take<E: From<io::Error>>(
        &mut self,
        bytes: &[u8],
        each: &mut impl FnMut(Message<'_>, &mut Vec<u8>) -> Result<(), E>,
    ) -> Result<usize, E> {
        let mut taken = 0;
        while let Some((Frame { kind, payload }, length)) = Frame::parse(&bytes[taken..])? {
            taken += length;
            let is_binary = kind == Kind::Binary;
            match kind {
                Kind::Text | Kind::Binary => each(Message { is_binary, payload }, &mut self.outgoing)?,
                Kind::Ping => {
                    frame::put_header(&mut self.outgoing, Kind::Pong, payload.len());
                    self.outgoing.extend_from_slice(payload);
                }
                Kind::Pong => {}
                Kind::Close => {
                    let why = String::from_utf8_lossy(payload.get(2..).unwrap_or_default());
                    return Err(wrong(&format!("the server closed the connection: {why}")).into());
                }
            }
        }
        Ok(taken)
    }
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
