//! A client of `grid.v1`, as small as tests need it: blocking, in JSON.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

/// Longest that a test waits for a message.
const PATIENCE: Duration = Duration::from_secs(20);

/// One connection for one model.
#[derive(Debug)]
pub struct Stream(WebSocket<TcpStream>);

/// Why there is no message.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The connection is broken, was closed, or nothing came for too long.
    #[error(transparent)]
    WebSocket(#[from] Box<tungstenite::Error>),
    /// The connection could not be made.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The handshake failed.
    #[error("handshake: {0}")]
    Handshake(String),
    /// A message is no JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// The server closed the connection, with this code.
    #[error("closed with {0}")]
    Closed(u16),
}

impl Stream {
    /// Connects, and takes the server's first message.
    pub fn connect(address: SocketAddr, model: &str) -> Result<Self, StreamError> {
        Self::connect_within(address, model, PATIENCE)
    }

    /// The same; no message may then take longer than this to come.
    pub fn connect_within(address: SocketAddr, model: &str, patience: Duration) -> Result<Self, StreamError> {
        let connection = TcpStream::connect_timeout(&address, patience)?;
        connection.set_read_timeout(Some(patience))?;
        connection.set_nodelay(true)?;
        let url = format!("ws://{address}/v2/models/{model}/stream");
        let connected = tungstenite::client(url, connection);
        let (socket, _) = connected.map_err(|error| StreamError::Handshake(error.to_string()))?;
        let mut stream = Self(socket);
        stream.receive()?;
        Ok(stream)
    }

    /// Sends a message.
    pub fn send(&mut self, message: &Value) -> Result<(), StreamError> {
        Ok(self.0.send(Message::text(message.to_string())).map_err(Box::new)?)
    }

    /// Sends a request with the input `x` of a scripted model.
    pub fn infer(&mut self, id: &str, x: f32) -> Result<(), StreamError> {
        self.send(&json!({"id": id, "inputs": [input(x)]}))
    }

    /// Sends a message of a sequence.
    pub fn message(&mut self, sequence: &str, number: u64, x: f32) -> Result<(), StreamError> {
        let parameters = json!({"sequence_id": sequence, "sequence_number": number});
        self.send(&json!({"inputs": [input(x)], "parameters": parameters}))
    }

    /// Waits for the next message.
    pub fn receive(&mut self) -> Result<Value, StreamError> {
        loop {
            match self.0.read().map_err(Box::new)? {
                Message::Text(text) => return Ok(serde_json::from_str(&text)?),
                Message::Close(frame) => {
                    return Err(StreamError::Closed(frame.map_or(1005, |frame| frame.code.into())));
                }
                _ => {}
            }
        }
    }

    /// Starts a sequence and returns its token.
    pub fn start(&mut self, sequence: &str) -> Result<String, StreamError> {
        self.send(&json!({"type": "start", "sequence_id": sequence}))?;
        let started = self.receive()?;
        assert_eq!(started["type"], "started", "{started}");
        Ok(started["sequence_token"].as_str().unwrap_or_default().to_owned())
    }

    /// Asks to go on with a sequence. The answer comes as a message.
    pub fn resume(&mut self, sequence: &str, token: &str, last: u64) -> Result<(), StreamError> {
        self.send(&json!({"type": "resume", "sequence_id": sequence, "sequence_token": token, "last": last}))
    }

    /// Ends the connection without a word.
    pub fn break_off(self) {
        // An error means that it is broken already.
        let _ = self.0.get_ref().shutdown(std::net::Shutdown::Both);
    }
}

fn input(x: f32) -> Value {
    json!({"name": "x", "shape": [1], "datatype": "FP32", "data": [x]})
}

/// The first value of the output `y` of a message.
pub fn y(message: &Value) -> Option<f32> {
    message["outputs"][0]["data"][0].as_f64().map(|value| value as f32)
}
