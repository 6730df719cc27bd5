//! One connection: sends the request, reads a status and a length, and lets the body go by.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long a connection may take to be made: on loopback it takes more only while the server's backlog is full.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Heads over this size are given up: a server under test sends some 200 bytes.
const MAX_HEAD: usize = 64 * 1024;
/// How much of a body is kept for the message about a status other than 200.
const KEPT_OF_AN_ERROR: usize = 1024;

/// A complete answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) length: usize,
    /// The body where it was asked for, its beginning where the status is not 200.
    pub(super) body: Option<Vec<u8>>,
    /// The server said that it closes the connection.
    pub(super) closes: bool,
}

pub(super) struct Connection {
    pub(super) stream: TcpStream,
    /// When the request in flight was sent or due; none while idle.
    pub(super) in_flight_since: Option<Instant>,
    written: usize,
    /// A head that came in pieces, until it is whole.
    partial_head: Vec<u8>,
    /// The answer whose body is coming in, and the bytes still to come.
    coming: Option<(Answer, usize)>,
}

impl Connection {
    pub(super) fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            in_flight_since: None,
            written: 0,
            partial_head: Vec::new(),
            coming: None,
        })
    }

    pub(super) fn begin(&mut self, request: &[u8], since: Instant) -> io::Result<()> {
        self.in_flight_since = Some(since);
        self.written = 0;
        self.write(request)
    }

    /// Writes what the socket takes; called again when it takes more.
    pub(super) fn write(&mut self, request: &[u8]) -> io::Result<()> {
        while self.written < request.len() {
            match self.stream.write(&request[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads until the answer is whole or nothing more is there. `to_the_end` reads on after a short read: the peer's close
    /// came with the same event and brings no other.
    pub(super) fn read(&mut self, scratch: &mut [u8], keep_body: bool, to_the_end: bool) -> io::Result<Option<Answer>> {
        loop {
            match self.stream.read(scratch) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    if let Some(answer) = self.take(&scratch[..count], keep_body)? {
                        self.in_flight_since = None;
                        return Ok(Some(answer));
                    }
                    if count < scratch.len() && !to_the_end {
                        return Ok(None);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&mut self, bytes: &[u8], keep_body: bool) -> io::Result<Option<Answer>> {
        if self.in_flight_since.is_none() {
            return Err(wrong("bytes without a request"));
        }
        if self.coming.is_some() {
            return self.take_body(bytes);
        }
        if self.partial_head.is_empty() {
            return match parse_head(bytes, keep_body)? {
                Some((answer, head)) => self.begin_body(answer, &bytes[head..]),
                None => {
                    self.partial_head.extend_from_slice(bytes);
                    Ok(None)
                }
            };
        }
        self.partial_head.extend_from_slice(bytes);
        match parse_head(&self.partial_head, keep_body)? {
            Some((answer, head)) => {
                let received = std::mem::take(&mut self.partial_head);
                self.begin_body(answer, &received[head..])
            }
            None if self.partial_head.len() > MAX_HEAD => Err(wrong("a response head without end")),
            None => Ok(None),
        }
    }

    fn begin_body(&mut self, answer: Answer, bytes: &[u8]) -> io::Result<Option<Answer>> {
        let length = answer.length;
        if answer.body.is_none() && bytes.len() == length {
            return Ok(Some(answer));
        }
        self.coming = Some((answer, length));
        self.take_body(bytes)
    }

    fn take_body(&mut self, bytes: &[u8]) -> io::Result<Option<Answer>> {
        let Some((mut answer, left)) = self.coming.take() else {
            return Ok(None);
        };
        let Some(left) = left.checked_sub(bytes.len()) else {
            return Err(wrong("more bytes than the content length says"));
        };
        if let Some(body) = &mut answer.body
            && (answer.status == 200 || body.len() < KEPT_OF_AN_ERROR)
        {
            body.extend_from_slice(bytes);
        }
        if left == 0 {
            return Ok(Some(answer));
        }
        self.coming = Some((answer, left));
        Ok(None)
    }
}

/// The answer that a whole head announces, and the head's length.
fn parse_head(bytes: &[u8], keep_body: bool) -> io::Result<Option<(Answer, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(wrong(&format!("a response head that is none ({error})"))),
    };
    let mut length = None;
    let mut closes = false;
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            length = std::str::from_utf8(header.value)
                .ok()
                .and_then(|text| text.trim().parse().ok());
        } else if header.name.eq_ignore_ascii_case("connection") {
            closes = header.value.eq_ignore_ascii_case(b"close");
        }
    }
    let length: usize =
        length.ok_or_else(|| wrong("a response without a content length, which is all that is read here"))?;
    let status = response.code.unwrap_or_default();
    let body = (keep_body || status != 200).then(Vec::new);
    Ok(Some((
        Answer {
            status,
            length,
            body,
            closes,
        },
        head,
    )))
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
