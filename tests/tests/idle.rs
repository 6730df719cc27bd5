//! What a node costs when nobody asks it anything.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use grid_tests::load::http_request;
use grid_tests::process::NodeCommand;
use grid_tests::repository_root;

/// A tenth of one core. One loop that spins takes all of it.
const MOST: Duration = Duration::from_millis(100);

#[test]
fn an_idle_node_does_not_spin() {
    let models = repository_root().join("configs/models");
    let text = format!("models.repository = '{}'", models.display());
    let node = NodeCommand::with_config_text(env!("CARGO_BIN_EXE_grid-node-under-test"), text)
        .start()
        .expect("a node");
    let sample = std::fs::read_to_string(models.join("digits/sample.json")).expect("a sample");
    assert_eq!(
        node.post("/v2/models/digits/infer", &sample).expect("an answer").status,
        200
    );
    let _open: Vec<TcpStream> = (0..8).map(|_| keep_alive(node.address())).collect();
    let cpu = || node.usage().expect("a process that runs").cpu;
    let (start, before) = (Instant::now(), cpu());
    thread::sleep(Duration::from_secs(1));
    let (took, used) = (start.elapsed(), cpu() - before);
    assert!(used < MOST, "it used {used:?} of {took:?}");
}

/// A connection that has had an answer and stays open.
fn keep_alive(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("a connection");
    let request = http_request("GET", "/v2/health/live", &[], b"");
    stream.write_all(&request).expect("a node that reads");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200");
    stream
}
