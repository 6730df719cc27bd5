//! A network that falls into two, and comes together.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use grid_tests::grid::{Callers, CallersOptions, Grid, KEY, MODELS, Network, NodePlan, question, repository_of};

use crate::{BINARY, CALLERS};

#[test]
fn both_sides_of_a_partition_serve_and_become_one_grid_again() {
    let network = match Network::new(3) {
        Ok(network) => network,
        Err(reason) => {
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
    let mut grid = Grid::new(BINARY);
    let mesh = |node| SocketAddr::new(network.grid_address(node), 7000);
    for (node, name) in ["a", "b", "c"].into_iter().enumerate() {
        let plan = NodePlan {
            name: name.to_owned(),
            repository: repository.path().to_owned(),
            grid: "test".to_owned(),
            key: KEY.to_owned(),
            seeds: (0..3).map(mesh).collect(),
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
        .filter(|shard| shard.ready().contains("a"))
        .map(|shard| shard.model.as_str())
        .collect();
    let one = Callers::start(CallersOptions {
        questions: held.iter().map(|model| question(model)).collect(),
        ..of_side(&[0])
    });
    two.go_on(500);
    network.cut(0);
    two.go_on(500);
    grid.rests_as(&["b", "c"]);
    grid.rests_as(&["a"]);
    // Alone, it has taken over what it did not hold, from its repository.
    for model in MODELS {
        let alone = question(model).ask(grid.addresses()[0], Duration::from_secs(10));
        assert!(alone.is_ok(), "{alone:?}\n{}", grid.logs());
    }
    network.heal(0);
    let after = grid.rests();
    assert_eq!(before.deployed(), after.deployed());
    two.go_on(500);
    for report in [one.stop(), two.stop()] {
        assert_eq!(report.failed, 0, "{report:#?}\n{}", grid.logs());
    }
}
