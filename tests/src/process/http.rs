//! One request, one answer, one connection: for asking a node about itself. Loads are the load generator's.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long a node may take to connect and answer.
const LIMIT: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Its headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The connection failed.
    #[error("no answer")]
    Connection(#[from] io::Error),
    /// What came is no HTTP/1.1 response.
    #[error("what came is no response: {0}")]
    Malformed(String),
}

impl Response {
    /// The value of a header, asked for in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Result<serde_json::Value> {
        serde_json::from_slice(&self.body)
    }
}

/// Sends the bytes of a request on a new connection and reads one response: as long as its content length says or, where
/// it has none, until the server closes.
pub fn exchange(address: SocketAddr, request: &[u8]) -> Result<Response, HttpError> {
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.write_all(request)?;
    let deadline = Instant::now() + LIMIT;
    let mut received = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        if let Some((mut response, head)) = parse_head(&received)? {
            let length: Option<usize> = response.header("content-length").and_then(|length| length.parse().ok());
            if let Some(length) = length.filter(|length| received.len() >= head + length) {
                response.body = received[head..head + length].to_vec();
                return Ok(response);
            }
        }
        let count = stream.read(&mut piece)?;
        if count == 0 {
            break;
        }
        received.extend_from_slice(&piece[..count]);
        if Instant::now() > deadline {
            return Err(HttpError::Malformed("a response without end".to_owned()));
        }
    }
    let (mut response, head) =
        parse_head(&received)?.ok_or_else(|| HttpError::Malformed("closed within the head".to_owned()))?;
    if response.header("content-length").is_some() || response.header("transfer-encoding").is_some() {
        return Err(HttpError::Malformed(
            "closed within the body, or a chunked body, which is not read here".to_owned(),
        ));
    }
    response.body = received[head..].to_vec();
    Ok(response)
}

/// Reads the head of a response, and what came behind it so far.
pub(crate) fn read_head(stream: &mut TcpStream) -> Result<(Response, Vec<u8>), HttpError> {
    let mut received = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Err(HttpError::Malformed("closed within the head".to_owned()));
        }
        received.extend_from_slice(&piece[..count]);
        if let Some((response, head)) = parse_head(&received)? {
            return Ok((response, received.split_off(head)));
        }
    }
}

fn parse_head(bytes: &[u8]) -> Result<Option<(Response, usize)>, HttpError> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Response::new(&mut headers);
    let head = match parsed
        .parse(bytes)
        .map_err(|error| HttpError::Malformed(error.to_string()))?
    {
        httparse::Status::Complete(head) => head,
        httparse::Status::Partial => return Ok(None),
    };
    let status = parsed.code.unwrap_or_default();
    let header = |header: &httparse::Header<'_>| {
        (
            header.name.to_ascii_lowercase(),
            String::from_utf8_lossy(header.value).into_owned(),
        )
    };
    let headers = parsed.headers.iter().map(header).collect();
    Ok(Some((
        Response {
            status,
            headers,
            body: Vec::new(),
        },
        head,
    )))
}
