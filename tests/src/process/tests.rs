use std::os::unix::fs::PermissionsExt;
use std::sync::MutexGuard;

use super::*;

/// A script that is still open for writing cannot run, and a child that another test forks meanwhile holds it open.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A shell script in the place of the node, for as long as the guard lives.
fn script(text: &str) -> (Script, PathBuf) {
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("node");
    fs::write(&file, format!("#!/bin/sh\n{text}\n")).expect("a script");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("an executable script");
    (
        Script {
            _directory: directory,
            _turn: turn,
        },
        file,
    )
}

struct Script {
    _directory: TempDir,
    _turn: MutexGuard<'static, ()>,
}

/// A listener that is always ready, and how a script says so.
fn ready_elsewhere() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("the port");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = (&stream).read(&mut [0; 4096]);
            let _ = io::Write::write_all(&mut &stream, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        }
    });
    format!("echo 'credit_risk 1 ready'; echo 'listening on http://{address} (2 models)'")
}

#[test]
fn the_address_is_read_from_the_line_that_tells_it() {
    let address = Some(([127, 0, 0, 1], 4711).into());
    assert_eq!(
        listening_address("listening on http://127.0.0.1:4711", LISTENING),
        address
    );
    assert_eq!(
        listening_address("INFO listening on http://127.0.0.1:4711/ since now", LISTENING),
        address
    );
    assert_eq!(listening_address("listening on grpc://127.0.0.1:4711", LISTENING), None);
    assert_eq!(
        listening_address("listening on grpc://127.0.0.1:4711", LISTENING_GRPC),
        address
    );
}

#[test]
fn a_node_that_ends_early_tells_its_output() {
    let (_keep, binary) = script("echo 'unknown key `htpp`' >&2; exit 3");
    let error = NodeCommand::with_config_text(binary, "").start().expect_err("it ended");
    assert!(
        matches!(&error, ProcessError::Ended { status, .. } if status.code() == Some(3)),
        "{error}"
    );
}

#[test]
fn a_node_that_says_nothing_is_given_up_and_killed() {
    let (_keep, binary) = script("exec sleep 60");
    let command = NodeCommand::with_config_text(binary, "").ready_within(Duration::from_millis(200));
    assert!(matches!(command.start(), Err(ProcessError::TooLate { .. })));
}

#[test]
fn a_node_is_started_measured_signalled_and_waited_for() {
    let say = ready_elsewhere();
    let (_keep, binary) = script(&format!(
        "trap 'echo draining; exit 0' TERM; cat $2; {say}; while :; do sleep 0.01; done"
    ));
    let command = NodeCommand::with_config_text(binary, "text = 1");
    let mut node = command.start().expect("a node");
    assert!(node.ready_after() > Duration::ZERO);
    assert!(node.output().contains("text = 1"));
    let usage = node.usage().expect("its usage");
    assert!(usage.resident_bytes > 0 && usage.peak_resident_bytes >= usage.resident_bytes);
    node.terminate().expect("a signal");
    let status = node.wait(Duration::from_secs(10)).expect("its end");
    assert_eq!(status.code(), Some(0));
    assert!(node.signal(Signal::HUP).is_err());
}

#[test]
fn a_dropped_node_is_gone() {
    let (_keep, binary) = script(&format!("{}; exec sleep 60", ready_elsewhere()));
    let node = NodeCommand::with_config_text(binary, "").start().expect("a node");
    let id = node.id();
    drop(node);
    assert!(Usage::of(id).is_err());
}
