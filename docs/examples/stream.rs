//! Plain requests and a sequence over one WebSocket, in Rust, with `tungstenite` and `serde_json`:
//!
//!     cargo run --release -p grid-tests --example stream [ADDRESS]
//!
//! needs a node: `cargo run --release -p grid-node -- run configs/quickstart.toml`. The protocol is docs/streaming.md.

use std::error::Error;
use std::net::TcpStream;

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

type Socket = WebSocket<TcpStream>;

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8000".to_owned());
    let connection = TcpStream::connect(&address)?;
    connection.set_nodelay(true)?;
    let (mut socket, _) = tungstenite::client(format!("ws://{address}/v2/models/vitals/stream"), connection)?;
    println!("{}", receive(&mut socket)?); // "ready": what the server allows

    // Plain requests: any number without waiting, answered by their ids in the order in which they finish.
    for id in ["first", "second"] {
        send(&mut socket, &json!({"id": id, "inputs": [sample([72.0, 97.0, 15.0])]}))?;
    }
    for _ in 0..2 {
        let answer = receive(&mut socket)?;
        println!("{}: {}", answer["id"], answer["outputs"][0]["data"]);
    }

    // A sequence: the model's state is kept by the server, so that each sample is judged by those before it.
    send(&mut socket, &json!({"type": "start"}))?;
    let started = receive(&mut socket)?;
    let id = &started["sequence_id"];
    for number in 1..=40 {
        // The oxygen falls at the end.
        let oxygen = if number > 38 {
            80.0
        } else {
            97.0 + f64::from(number % 3) * 0.2
        };
        let parameters = json!({"sequence_id": id, "sequence_number": number, "sequence_end": number == 40});
        send(
            &mut socket,
            &json!({"inputs": [sample([72.0, oxygen, 15.0])], "parameters": parameters}),
        )?;
    }
    loop {
        let answer = receive(&mut socket)?;
        match answer["type"].as_str() {
            Some("output") if answer["outputs"][1]["data"][0] == 1 => {
                println!("alarm at message {}", answer["parameters"]["sequence_number"]);
            }
            Some("output") => {}
            _ => {
                println!("{answer}");
                break;
            }
        }
    }
    socket.close(None)?;
    Ok(())
}

fn sample(vitals: [f64; 3]) -> Value {
    json!({"name": "sample", "datatype": "FP32", "shape": [1, 3], "data": vitals})
}

fn send(socket: &mut Socket, message: &Value) -> Result<(), tungstenite::Error> {
    socket.send(Message::text(message.to_string()))
}

fn receive(socket: &mut Socket) -> Result<Value, Box<dyn Error>> {
    loop {
        if let Message::Text(text) = socket.read()? {
            return Ok(serde_json::from_str(&text)?);
        }
    }
}
