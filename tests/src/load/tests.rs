mod websockets;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{Check, InferRequest, Load, LoadError, http_request};

/// Serves on threads: `answer` gets the number of the request, counted over all connections, and says what to write;
/// `None` closes the connection.
fn serve(answer: impl Fn(usize) -> Option<Vec<u8>> + Send + Sync + 'static) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("the port");
    let served = Arc::new(AtomicUsize::new(0));
    let (counter, answer) = (served.clone(), Arc::new(answer));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (counter, answer) = (counter.clone(), answer.clone());
            thread::spawn(move || serve_connection(stream.ok()?, &counter, &*answer));
        }
    });
    (address, served)
}

fn serve_connection(stream: TcpStream, served: &AtomicUsize, answer: &dyn Fn(usize) -> Option<Vec<u8>>) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut writer = stream;
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        writer.write_all(&answer(served.fetch_add(1, Ordering::SeqCst))?).ok()?;
    }
}

fn response(status: u16, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status} Some Reason\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn load(address: SocketAddr, connections: usize) -> Load {
    Load {
        address,
        connections,
        request: http_request("POST", "/", &[], b"question"),
        warm_up: Duration::from_millis(50),
        duration: Duration::from_millis(300),
    }
}

#[test]
fn a_closed_loop_counts_what_the_server_served() {
    let (address, served) = serve(|_| Some(response(200, "answer")));
    let report = load(address, 4)
        .run_checked(&Check::equals(b"answer".to_vec()))
        .expect("a report");
    assert_eq!(report.errors, 0, "{:?}", report.first_error);
    assert!(report.requests > 0, "{report:?}");
    assert!(report.requests <= served.load(Ordering::SeqCst) as u64);
    assert!(report.p50 <= report.p99 && report.p99 <= report.p999 && report.p999 <= report.max);
    assert!(report.cpu_seconds_of_generator > 0.0);
    assert!(
        (report.requests_per_second * 0.3 - report.requests as f64).abs() <= 8.0,
        "{report:?}"
    );
}

#[test]
fn other_statuses_are_errors_by_status() {
    let (address, _) = serve(|number| Some(response(if number % 2 == 0 { 200 } else { 503 }, "same")));
    let report = load(address, 1).run().expect("a report");
    assert!(report.requests > 0 && report.errors > 0);
    assert_eq!(report.errors_by_status.get(&503), Some(&report.errors));
    assert_eq!(report.first_error.as_deref(), Some("status 503: same"));
}

#[test]
fn a_wrong_first_answer_ends_the_run() {
    let (address, _) = serve(|_| Some(response(200, "wrong")));
    let outcome = load(address, 1).run_checked(&Check::equals(b"right".to_vec()));
    assert!(matches!(outcome, Err(LoadError::WrongAnswer(why)) if why.contains("wrong") && why.contains("right")));
}

#[test]
fn an_answer_of_another_length_is_an_error_unless_any_will_do() {
    let answer = |number| Some(response(200, if number == 0 { "first" } else { "later ones" }));
    let (address, _) = serve(answer);
    let report = load(address, 1).run().expect("a report");
    assert!(report.requests == 0 && report.errors > 0);
    let (address, _) = serve(answer);
    let report = load(address, 1)
        .run_checked(&Check::default().of_any_length())
        .expect("a report");
    assert!(report.requests > 0 && report.errors == 0);
}

#[test]
fn a_broken_connection_is_an_error_and_is_replaced() {
    let (address, _) = serve(|number| (number % 3 != 2).then(|| response(200, "answer")));
    let report = load(address, 2).run().expect("a report");
    assert!(report.requests > 0 && report.errors > 0, "{report:?}");
    assert_eq!(report.connections_lost, 0);
    assert!(report.first_error.is_some_and(|error| error.contains("broke")));
}

#[test]
fn a_server_that_goes_away_ends_the_run_with_what_was_counted() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("the port");
    thread::spawn(move || {
        let (stream, _) = listener.accept().ok()?;
        drop(listener);
        let start = Instant::now();
        serve_connection(stream, &AtomicUsize::new(0), &move |_| {
            (start.elapsed() < Duration::from_millis(200)).then(|| response(200, "answer"))
        })
    });
    let report = load(address, 1).run().expect("a report");
    assert_eq!(report.connections_lost, 1);
    assert_eq!(report.errors, 1, "{report:?}");
    assert!(report.requests > 0);
}

#[test]
fn a_server_that_closes_after_each_answer_is_followed() {
    let close = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
    let (address, _) = serve(move |_| Some(close.to_vec()));
    let report = load(address, 2).run().expect("a report");
    assert!(report.requests > 0);
    assert_eq!(report.errors, 0, "{:?}", report.first_error);
}

#[test]
fn large_bodies_go_both_ways() {
    let body = "x".repeat(3 << 20);
    let expected = body.clone();
    let (address, _) = serve(move |_| Some(response(200, &body)));
    let mut load = load(address, 2);
    load.request = http_request("POST", "/", &[], &vec![b'y'; 5 << 20]);
    let report = load
        .run_checked(&Check::equals(expected.into_bytes()))
        .expect("a report");
    assert!(report.requests > 0);
    assert_eq!(report.errors, 0, "{:?}", report.first_error);
}

#[test]
fn an_open_loop_keeps_its_timetable() {
    let (address, _) = serve(|_| Some(response(200, "answer")));
    let report = load(address, 8).run_at(1_000.0, &Check::default()).expect("a report");
    assert!((299..=301).contains(&report.requests), "{report:?}");
    assert_eq!(report.errors, 0);
}

#[test]
fn an_open_loop_shows_a_stall_to_every_request_that_was_due_meanwhile() {
    let stall = Duration::from_millis(200);
    let (address, _) = serve(move |number| {
        if number == 150 {
            thread::sleep(stall);
        }
        Some(response(200, "answer"))
    });
    let report = load(address, 1).run_at(1_000.0, &Check::default()).expect("a report");
    // 200 of the 300 requests were due while the server stood still; a closed loop sees one slow request.
    assert_eq!(report.requests + report.errors, 300, "{report:?}");
    assert!(report.p50 > stall / 10, "{report:?}");
    assert!(report.p99 > stall * 8 / 10, "{report:?}");
}

#[test]
fn requests_that_nobody_answers_are_errors_and_not_forgotten() {
    let (address, _) = serve(|number| {
        if number > 50 {
            thread::sleep(Duration::from_secs(60));
        }
        Some(response(200, "answer"))
    });
    let report = load(address, 1).run_at(1_000.0, &Check::default()).expect("a report");
    assert!(report.errors > 200, "{report:?}");
    assert_eq!(report.requests + report.errors, 300, "{report:?}");
    assert!(report.p50 > Duration::from_secs(1));
}

#[test]
fn nothing_that_listens_is_an_error() {
    let address = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port");
    assert!(matches!(load(address, 1).run(), Err(LoadError::Connect { .. })));
}

const SAMPLE: &str = r#"{"inputs": [
    {"name": "a", "shape": [2, 2], "datatype": "FP32", "data": [[1.0, 2], [3, 4.5]]},
    {"name": "b", "shape": [2], "datatype": "BYTES", "data": ["x", "yz"]}]}"#;

/// The head, and the body.
fn halves(request: &[u8]) -> (String, &[u8]) {
    let end = request
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .expect("an end of the head")
        + 4;
    (String::from_utf8_lossy(&request[..end]).into_owned(), &request[end..])
}

#[test]
fn a_binary_request_has_the_tensors_behind_the_json() {
    let request = InferRequest::from_json("m", SAMPLE.as_bytes())
        .and_then(|sample| sample.binary())
        .expect("a request");
    let (head, body) = halves(&request);
    let mut tensors: Vec<u8> = [1.0_f32, 2.0, 3.0, 4.5]
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect();
    tensors.extend(b"\x01\0\0\0x\x02\0\0\0yz");
    assert!(head.starts_with("POST /v2/models/m/infer HTTP/1.1\r\n"));
    assert!(body.ends_with(&tensors));
    let header = body.len() - tensors.len();
    assert!(head.contains(&format!("Inference-Header-Content-Length: {header}\r\n")));
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
    let json: serde_json::Value = serde_json::from_slice(&body[..header]).expect("JSON");
    assert_eq!(json["inputs"][0]["parameters"]["binary_data_size"], 16);
    assert_eq!(json["inputs"][1]["parameters"]["binary_data_size"], 11);
    assert_eq!(json["parameters"]["binary_data_output"], true);
}

#[test]
fn rows_are_repeated_or_left_out() {
    let sample = InferRequest::from_json("m", SAMPLE.as_bytes()).expect("a request");
    for (rows, expected) in [(1, vec!["x"]), (3, vec!["x", "yz", "x"])] {
        let request = sample.clone().with_version(7).with_rows(rows).json();
        let (head, body) = halves(&request);
        assert!(head.starts_with("POST /v2/models/m/versions/7/infer "));
        let json: serde_json::Value = serde_json::from_slice(body).expect("JSON");
        assert_eq!(json["inputs"][0]["shape"], serde_json::json!([rows, 2]));
        assert_eq!(json["inputs"][1]["data"], serde_json::json!(expected));
    }
}
