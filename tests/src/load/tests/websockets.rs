//! The loops over WebSockets, against a server of tungstenite.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::Message;

use crate::load::{LoadError, LoadReport, NUMBER, PipelinedLoad, StreamLoad, Streams, Template, output_values};

/// Answers each message with what `answer` makes of it and of its place on the connection; `None` closes it.
fn serve(answer: impl Fn(usize, &Value) -> Option<Value> + Send + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("the port");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let answer = answer.clone();
            thread::spawn(move || {
                let stream = stream.ok()?;
                stream.set_nodelay(true).ok()?;
                let mut socket = tungstenite::accept(stream).ok()?;
                socket.send(Message::text(json!({"type": "ready"}).to_string())).ok()?;
                socket.send(Message::Ping(b"are you there".as_slice().into())).ok()?;
                let mut place = 0;
                loop {
                    let json = match socket.read().ok()? {
                        Message::Text(text) => serde_json::from_str(&text).ok()?,
                        Message::Binary(bytes) => {
                            let (length, rest) = bytes.split_first_chunk()?;
                            serde_json::from_slice(&rest[..u32::from_le_bytes(*length) as usize]).ok()?
                        }
                        Message::Pong(payload) if payload != b"are you there".as_slice() => return None,
                        _ => continue,
                    };
                    // In the order of the protocol, which the order of the keys here happens to be as well.
                    let text = match answer(place, &json)? {
                        Value::String(text) => text,
                        answer => answer.to_string(),
                    };
                    socket.send(Message::text(text)).ok()?;
                    place += 1;
                }
                #[expect(unreachable_code, reason = "it says what the closure returns")]
                Some(())
            });
        }
    });
    address
}

fn output(id: &Value, y: f64) -> Value {
    let id = id.as_str().unwrap_or_default();
    format!(r#"{{"type":"output","id":"{id}","outputs":[{{"name":"y","data":[{y:.1}]}}]}}"#).into()
}

fn pipelined(address: SocketAddr, depth: usize) -> Result<LoadReport, LoadError> {
    let load = PipelinedLoad {
        address,
        model: "m",
        sockets: 2,
        depth,
        request: Template::text(&json!({"id": NUMBER}).to_string()),
        warm_up: Duration::from_millis(50),
        duration: Duration::from_millis(200),
    };
    load.run_checked(&|json, tensors| match output_values(json, tensors)?.get("y") {
        Some(y) if *y == [1.0] => Ok(()),
        other => Err(format!("{other:?}")),
    })
}

#[test]
fn a_pipelined_loop_counts_what_was_answered() {
    let report = pipelined(serve(|_, request| Some(output(&request["id"], 1.0))), 16).expect("a report");
    assert!(report.requests > 100, "{report:?}");
    assert_eq!(report.errors, 0, "{:?}", report.first_error);
    assert!(report.p50 <= report.p99 && report.p99 <= report.max);
    assert!(report.cpu_seconds_of_generator > 0.0);
}

#[test]
fn an_error_is_counted_and_its_place_used_again() {
    let answer = |place, request: &Value| {
        let id = request["id"].as_str().unwrap_or_default();
        let error = format!(r#"{{"type":"error","id":"{id}","kind":"overloaded"}}"#);
        Some(if place % 2 == 0 {
            output(&request["id"], 1.0)
        } else {
            error.into()
        })
    };
    let report = pipelined(serve(answer), 1).expect("a report");
    assert!(report.requests > 0 && report.errors > 0, "{report:?}");
    assert!(report.first_error.is_some_and(|error| error.contains("overloaded")));
}

#[test]
fn a_wrong_answer_ends_a_pipelined_run_and_so_does_one_that_nobody_asked_for() {
    let wrong = serve(|_, request| Some(output(&request["id"], 2.0)));
    let stray = serve(|_, _| Some(output(&json!("00000077"), 1.0)));
    for address in [wrong, stray] {
        let outcome = pipelined(address, 4);
        assert!(matches!(outcome, Err(LoadError::WrongAnswer(_))), "{outcome:?}");
    }
}

#[test]
fn a_connection_that_ends_ends_a_pipelined_run() {
    let outcome = pipelined(
        serve(|place, request| (place < 50).then(|| output(&request["id"], 1.0))),
        4,
    );
    assert!(matches!(outcome, Err(LoadError::Broken(_))), "{outcome:?}");
}

/// A server of sequences, which stalls at a message of each connection, or answers it with an error.
fn sequences(stall_at: usize, stall: Duration, fails: bool) -> SocketAddr {
    let counts = std::sync::Arc::new(std::sync::Mutex::new(BTreeMap::new()));
    serve(move |place, message| {
        if message["type"] == "start" {
            return Some(json!({"type": "started"}).to_string().into());
        }
        if place == stall_at {
            thread::sleep(stall);
            if fails {
                return Some(r#"{"type":"error","kind":"model_failed"}"#.into());
            }
        }
        let id = message["parameters"]["sequence_id"].as_str()?.to_owned();
        let mut counts = counts.lock().ok()?;
        let number = counts.entry(id.clone()).or_insert(0);
        *number += 1;
        let place = format!(r#""sequence_id":"{id}","sequence_number":{number}"#);
        Some(format!(r#"{{"type":"output","parameters":{{{place}}}}}"#).into())
    })
}

fn streams(address: SocketAddr) -> Result<LoadReport, LoadError> {
    let message = json!({"parameters": {"sequence_id": NUMBER}});
    let load = StreamLoad {
        address,
        model: "m",
        streams: 4,
        first: 70,
        sockets: 1,
        period: Duration::from_millis(8),
        message: Template::binary(&message.to_string(), b"", 2),
        tensors: Box::new(|_| b"ab"),
        check: Box::new(|_, _, tensors| tensors.is_empty().then_some(()).ok_or_else(|| "tensors".to_owned())),
    };
    let mut streams = Streams::connect(load)?;
    streams.start()?;
    streams.run(5, 5)?;
    streams.run(30, 5)
}

#[test]
fn sequences_keep_their_timetable_and_go_on_with_their_numbers() {
    let report = streams(sequences(usize::MAX, Duration::ZERO, false)).expect("a report");
    assert_eq!((report.requests, report.errors), (25 * 4, 0), "{report:?}");
    assert!((report.seconds - 0.2).abs() < 1e-6, "{report:?}");
}

#[test]
fn a_stall_shows_in_every_message_that_was_due_meanwhile() {
    let stall = Duration::from_millis(100);
    // Behind four starts and the messages of 20 periods.
    let report = streams(sequences(4 + 80, stall, false)).expect("a report");
    assert_eq!((report.requests, report.errors), (25 * 4, 0), "{report:?}");
    // Half of the 100 messages were due within: a closed loop would see one.
    assert!(report.max >= stall, "{report:?}");
    assert!(report.p99 > stall * 8 / 10, "{report:?}");
}

#[test]
fn an_error_ends_a_run_of_sequences_and_is_told() {
    let report = streams(sequences(4 + 80, Duration::ZERO, true)).expect("a report");
    assert_eq!(report.errors, 1, "{report:?}");
    assert!(report.first_error.is_some_and(|error| error.contains("model_failed")));
}
