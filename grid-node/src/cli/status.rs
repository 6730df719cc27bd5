//! `grid-node status`: what a node knows of its grid, for people.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use grid_core::config::ByteSize;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Most bytes of an answer.
const MOST_BYTES: usize = 256 << 20;

pub(super) fn status(node: &str, json: bool) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let asked = runtime.block_on(async {
        let address = address(node)?;
        let answer = tokio::time::timeout(PATIENCE, get(&address)).await;
        answer.unwrap_or_else(|_| Err(format!("{address} did not answer within {PATIENCE:?}")))
    });
    match asked.and_then(|body| shown(&body, json)) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

/// The address itself, or that in a config file.
fn address(node: &str) -> Result<String, String> {
    let path = Path::new(node);
    if !path.is_file() {
        return Ok(node.trim_start_matches("http://").trim_end_matches('/').to_owned());
    }
    let config = super::read(path).map_err(|problems| problems.join("\n"))?;
    let mut listen = config.http.listen;
    if listen.ip().is_unspecified() {
        listen = SocketAddr::from(([127, 0, 0, 1], listen.port()));
    }
    Ok(listen.to_string())
}

async fn get(address: &str) -> Result<Bytes, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{address}: {error}");
    let stream = TcpStream::connect(address).await.map_err(|error| failed(&error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(&error))?;
    let request = Request::get("/v2/grid")
        .header("host", address)
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(&error))?;
    let answered = async {
        let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MOST_BYTES).collect().await;
        let body = body.map_err(|error| failed(&error))?.to_bytes();
        match status.is_success() {
            true => Ok(body),
            false => Err(failed(&String::from_utf8_lossy(&body))),
        }
    };
    // The connection drives itself only beside what is asked on it.
    tokio::select! {
        answered = answered => answered,
        error = connection => Err(error.err().map_or_else(|| failed(&"it closed the connection"), |error| failed(&error))),
    }
}

fn shown(body: &[u8], json: bool) -> Result<String, String> {
    let status: Value = serde_json::from_slice(body).map_err(|error| format!("the answer is no JSON: {error}"))?;
    if json {
        return Ok(format!("{status:#}\n"));
    }
    let mut text = String::new();
    let _ = writeln!(
        text,
        "grid {}, as node {} knows it\n",
        word(&status["grid"]),
        word(&status["node"])
    );
    let nodes = rows(&status["nodes"], |node| {
        let state = match node["down_seconds"].as_u64() {
            Some(seconds) => format!("{} for {seconds} s", word(&node["state"])),
            None if node["linked"] == false => format!("{}, no link", word(&node["state"])),
            None => word(&node["state"]),
        };
        vec![
            word(&node["name"]),
            state,
            word(&node["zone"]),
            format!("{} of {}", bytes(&node["memory_used"]), bytes(&node["memory"])),
            node["replicas"].to_string(),
            word(&node["http"]),
            word(&node["mesh"]),
        ]
    });
    table(
        &mut text,
        &["NODE", "STATE", "ZONE", "MEMORY", "REPLICAS", "HTTP", "MESH"],
        &nodes,
    );
    let shards = rows(&status["shards"], |shard| {
        let replicas = shard["replicas"].as_array().into_iter().flatten();
        let replicas = replicas.map(|replica| {
            let (node, state) = (word(&replica["node"]), word(&replica["state"]));
            match replica["in_flight"].as_u64() {
                Some(0) | None => format!("{node} {state}"),
                Some(in_flight) => format!("{node} {state} ({in_flight} in flight)"),
            }
        });
        let wanted = shard["wanted"]
            .as_u64()
            .map_or("every node".to_owned(), |wanted| wanted.to_string());
        vec![
            format!("{} {}", word(&shard["model"]), word(&shard["version"])),
            wanted,
            replicas.collect::<Vec<_>>().join(", "),
            word(&shard["problem"]),
        ]
    });
    table(&mut text, &["SHARD", "WANTED", "REPLICAS", "PROBLEM"], &shards);
    let moves = rows(&status["moves"], |a_move| {
        vec![
            format!("{} {}", word(&a_move["model"]), word(&a_move["version"])),
            word(&a_move["from"]),
            word(&a_move["to"]),
            word(&a_move["state"]),
            word(&a_move["reason"]),
        ]
    });
    table(&mut text, &["MOVE", "FROM", "TO", "STATE", "REASON"], &moves);
    let troubles = rows(&status["troubles"], |trouble| {
        vec![format!("{} s ago", trouble["seconds_ago"]), word(&trouble["what"])]
    });
    table(&mut text, &["TROUBLE", ""], &troubles);
    Ok(text)
}

fn rows(list: &Value, row: impl Fn(&Value) -> Vec<String>) -> Vec<Vec<String>> {
    list.as_array().into_iter().flatten().map(row).collect()
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}

fn bytes(value: &Value) -> String {
    let bytes = value.as_u64().unwrap_or(0);
    // Rounded to what a person reads.
    let unit = [1u64 << 40, 1 << 30, 1 << 20, 1 << 10]
        .into_iter()
        .find(|unit| bytes >= 10 * unit);
    ByteSize(unit.map_or(bytes, |unit| bytes / unit * unit)).to_string()
}

/// Writes a table whose columns are as wide as their widest cell, if there is anything in it.
fn table(text: &mut String, head: &[&str], rows: &[Vec<String>]) {
    if rows.is_empty() {
        return;
    }
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let head = head.iter().map(|cell| (*cell).to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text.push('\n');
}
