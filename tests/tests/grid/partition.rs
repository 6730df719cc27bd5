//! A network that falls into two, and comes together.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use grid_tests::grid::{
    Callers, CallersOptions, Grid, KEY, MODELS, Network, NodePlan, Recording, copy_model, question, repository_of,
};

use grid_tests::stream::Stream;
use serde_json::Value;

use crate::{BINARY, CALLERS};

#[test]
fn both_sides_of_a_partition_serve_and_become_one_grid_again() {
    let network = match Network::new(3) {
        Ok(network) => network,
        Err(reason) => {
            assert_ne!(
                std::env::var("CI").as_deref(),
                Ok("true"),
                "CI must test everything: {reason}"
            );
            eprintln!("SKIPPED both_sides_of_a_partition_serve_and_become_one_grid_again: {reason}");
            return;
        }
    };
    // A thread of its own: it lives in the network.
    thread::scope(|scope| {
        let tested = scope.spawn(|| {
            network.enter().expect("a namespace that was just made");
            fall_apart_and_come_together(&network);
        });
        tested.join().expect("the test");
    });
}

fn fall_apart_and_come_together(network: &Network) {
    let repository = repository_of(&MODELS);
    copy_model("vitals", &repository.path().join("vitals"));
    let mut grid = Grid::new(BINARY);
    let mesh = |node| SocketAddr::new(network.grid_address(node), 7000);
    for (node, name) in ["a", "b", "c"].into_iter().enumerate() {
        let plan = NodePlan {
            name: name.to_owned(),
            repository: repository.path().to_owned(),
            grid: "test".to_owned(),
            key: KEY.to_owned(),
            seeds: (0..3).map(|place| mesh(place).to_string()).collect(),
            mesh: mesh(node),
            memory: None,
            onnxruntime: None,
            namespace: Some(network.namespace(node).to_owned()),
        };
        grid.add(plan, SocketAddr::new(network.line_address(node), 8000));
    }
    grid.start_all();
    let before = grid.rests();
    let of_side = |side: &[usize]| CallersOptions {
        nodes: side.iter().map(|place| grid.addresses()[*place]).collect(),
        ..grid.callers(CALLERS / 4, &MODELS)
    };
    // The side with two nodes holds a replica of everything, and never stops serving; the other serves what it holds.
    let two = Callers::start(of_side(&[1, 2]));
    let held: Vec<&str> = before
        .shards
        .iter()
        .filter(|shard| shard.ready().contains("a") && shard.model != "vitals")
        .map(|shard| shard.model.as_str())
        .collect();
    let one = Callers::start(CallersOptions {
        questions: held.iter().map(|model| question(model)).collect(),
        ..of_side(&[0])
    });
    two.go_on(500);
    let recording = Recording::load();
    let connect = |place: usize| Stream::connect(grid.addresses()[place], "vitals").expect("a connection");
    let mut cut_off = connect(0);
    let token = cut_off.start("bed").expect("a sequence");
    for number in 1..=10 {
        step(&mut cut_off, &recording, number);
    }
    network.cut(0);
    two.go_on(500);
    grid.rests_as(&["b", "c"]);
    grid.rests_as(&["a"]);
    // Alone, it has taken over what it did not hold, from its repository.
    for model in MODELS {
        let alone = question(model).ask(grid.addresses()[0], Duration::from_secs(10));
        assert!(alone.is_ok(), "{alone:?}\n{}", grid.logs());
    }
    // The sequence goes on on the side of the two. The other goes on with it too, and none of that counts.
    let mut stream = connect(1);
    stream.resume("bed", &token, 10).expect("a connection");
    let resumed = heard(&mut stream, &["resumed", "error"]);
    assert_eq!(resumed["next"], 11, "{resumed}");
    for number in 11..=20 {
        step(&mut stream, &recording, number);
    }
    cut_off.send(&recording.message("bed", 11)).expect("a connection");
    let output = heard(&mut cut_off, &["output", "fenced"]);
    assert_eq!(durable(&output), 10, "{output}");
    network.heal(0);
    let after = grid.rests();
    loop {
        let said = cut_off.receive().expect("a message");
        assert!(durable(&said) <= 10, "{said}");
        if said["type"] == "fenced" {
            break;
        }
    }
    for number in 21..=30 {
        step(&mut stream, &recording, number);
    }
    assert_eq!(before.deployed(), after.deployed());
    two.go_on(500);
    for report in [one.stop(), two.stop()] {
        assert_eq!(report.failed, 0, "{report:#?}\n{}", grid.logs());
    }
}

/// One message and its output.
fn step(stream: &mut Stream, recording: &Recording, number: u64) {
    stream.send(&recording.message("bed", number)).expect("a connection");
    let output = heard(stream, &["output", "error", "fenced"]);
    recording
        .check(&output, number)
        .unwrap_or_else(|reason| panic!("{reason}"));
}

/// The next message of one of these types.
fn heard(stream: &mut Stream, types: &[&str]) -> Value {
    loop {
        let said = stream.receive().expect("a message");
        if types.iter().any(|wanted| said["type"] == *wanted) {
            return said;
        }
    }
}

/// What the message says is durable, if it says so.
fn durable(said: &Value) -> u64 {
    let of_output = said["parameters"]["sequence_durable"].as_u64();
    of_output.or(said["sequence_durable"].as_u64()).unwrap_or(0)
}
