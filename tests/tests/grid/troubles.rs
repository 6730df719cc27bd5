//! Grids that are set up wrongly: each trouble is named, in the log and by the grid's status, and nothing merges.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::time::{Duration, Instant, SystemTime};

use grid_core::cluster::{NodeId, Now};
use grid_core::membership::{Membership, MembershipEffect, MembershipOptions, Swim};
use grid_tests::embedded::{eventually, get};
use grid_tests::grid::{Grid, KEY, MODELS, question, repository_of, tcp_only_to};
use tempfile::TempDir;

use crate::BINARY;

/// Two nodes that run, the second of which was changed before.
fn two(change: impl FnOnce(&mut Grid)) -> (Grid, TempDir) {
    let repository = repository_of(&MODELS[..1]);
    let mut grid = Grid::new(BINARY);
    grid.plan("a", repository.path());
    grid.plan("b", repository.path());
    change(&mut grid);
    grid.start_all();
    (grid, repository)
}

/// Waits until the node names the trouble, in its log and in its status.
#[track_caller]
fn names(grid: &Grid, place: usize, words: &[&str]) {
    let node = &grid.nodes()[place];
    let has = |text: &str| words.iter().all(|word| text.contains(word));
    eventually("the trouble is in the status", || {
        node.status()
            .is_ok_and(|status| status.troubles.iter().any(|trouble| has(&trouble.what)))
    });
    assert!(node.output().lines().any(has), "{}", node.output());
}

/// Both serve by themselves, and neither takes the other for one of its grid.
#[track_caller]
fn stay_apart(grid: &Grid) {
    grid.all_answer(&question(MODELS[0]));
    for node in grid.nodes() {
        let status = node.status().expect("a status");
        assert_eq!(status.nodes.len(), 1, "{status:?}");
    }
}

#[test]
fn another_key_is_named_and_keeps_nodes_apart() {
    let (grid, _repository) = two(|grid| grid.node(1).plan.key = "ab".repeat(32));
    for (place, other) in [(0, 1), (1, 0)] {
        names(&grid, place, &["cluster key", &grid.mesh(other).to_string()]);
    }
    stay_apart(&grid);
}

#[test]
fn the_name_of_another_grid_is_named_and_keeps_nodes_apart() {
    let (grid, _repository) = two(|grid| grid.node(1).plan.grid = "other".to_owned());
    names(&grid, 0, &["belongs to the grid", "other", &grid.mesh(1).to_string()]);
    names(&grid, 1, &["belongs to the grid", "test", &grid.mesh(0).to_string()]);
    stay_apart(&grid);
}

#[test]
fn two_nodes_of_one_name_are_named_and_do_not_merge() {
    let (grid, _repository) = two(|grid| grid.node(1).plan.name = "a".to_owned());
    let named = |place: usize| {
        let status = grid.nodes()[place].status();
        status.is_ok_and(|status| {
            status
                .troubles
                .iter()
                .any(|trouble| trouble.what.contains("another node named \"a\""))
        })
    };
    eventually("one of them names it", || named(0) || named(1));
    stay_apart(&grid);
}

#[test]
fn a_node_whose_clock_is_far_off_is_named_and_kept_out() {
    let repository = repository_of(&MODELS[..1]);
    let grid = Grid::of(BINARY, &["a"], repository.path());
    // No process can be given another clock than the machine's. So the other node is this test: a real node's membership
    // on a real socket, an hour ahead.
    let socket = UdpSocket::bind(grid.mesh(1)).expect("a free port");
    let mut ahead = Swim::new(&MembershipOptions {
        grid: "test".parse().expect("a name"),
        node: NodeId {
            name: "early".parse().expect("a name"),
            generation: 1,
        },
        mesh: grid.mesh(1),
        key: KEY.parse().expect("a key"),
        entropy: [7; 32],
        self_doubt: true,
    });
    let (begun, right) = (Instant::now(), SystemTime::now().duration_since(SystemTime::UNIX_EPOCH));
    let wall = right.expect("a time after 1970") + Duration::from_secs(3600);
    let mut joins = || {
        let monotonic = begun.elapsed();
        let wall = u64::try_from((wall + monotonic).as_millis()).expect("a time in this age");
        ahead.join(Now { monotonic, wall }, &[grid.mesh(0)]);
        while let Some(effect) = ahead.poll() {
            if let MembershipEffect::Send { to, bytes } = effect {
                socket.send_to(&bytes, to).expect("a datagram");
            }
        }
    };
    let names_it = |text: &str| text.contains("clock of early") && text.contains("ahead of ours");
    let mut troubles = Vec::new();
    eventually("the trouble is in the status", || {
        joins();
        troubles = grid.nodes()[0].status().map_or(Vec::new(), |status| status.troubles);
        troubles.iter().any(|trouble| names_it(&trouble.what))
    });
    // The log says it as the status does: to be read, and not as a quotation.
    let logged = |trouble: &str| grid.nodes()[0].output().lines().any(|line| line.contains(trouble));
    assert!(
        troubles.iter().all(|trouble| logged(&trouble.what)),
        "{troubles:?}\n{}",
        grid.logs()
    );
    stay_apart(&grid);
}

#[test]
fn a_port_that_lets_no_datagram_through_is_named() {
    let mut port = 0;
    let (grid, _repository) = two(|grid| {
        let only_tcp = tcp_only_to(grid.mesh(0));
        port = only_tcp.port();
        grid.node(0).plan.seeds.clear();
        grid.node(1).plan.seeds = vec![only_tcp.to_string()];
    });
    names(&grid, 1, &[&format!("UDP port {port}")]);
    stay_apart(&grid);
    assert!(
        question(MODELS[0])
            .ask(grid.addresses()[0], Duration::from_secs(10))
            .is_ok()
    );
}

#[test]
fn a_node_that_joins_with_nothing_to_serve_is_not_ready_and_a_seed_that_is_not_found_is_named() {
    let (full, empty) = (repository_of(&MODELS[..1]), repository_of(&[]));
    let mut grid = Grid::new(BINARY);
    grid.plan("a", empty.path());
    grid.plan("b", full.path());
    grid.node(0).plan.seeds.push("no-such-host.invalid:7000".to_owned());
    grid.start_joining(0);
    let http = grid.addresses()[0];
    let readiness = || get(http, "/v2/health/ready").expect("an answer").status;
    // As long as a node waits at most for those that it knows of, and more: the time is what is tested.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        assert_eq!(readiness(), 503, "it is ready for nothing");
    }
    names(&grid, 0, &["no-such-host.invalid:7000", "not found"]);
    grid.start(1);
    eventually("it serves what the other has", || readiness() == 200);
    grid.all_answer(&question(MODELS[0]));
}

#[test]
fn a_seed_may_be_a_name() {
    let (mut grid, repository) = (Grid::new(BINARY), repository_of(&MODELS[..1]));
    grid.plan("a", repository.path());
    grid.plan("b", repository.path());
    // Freed a moment before the node takes it.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = port.local_addr().expect("its address");
    drop(port);
    grid.node(0).plan.mesh = address;
    // Otherwise it would find the other by itself.
    grid.node(0).plan.seeds.clear();
    grid.node(1).plan.seeds = vec![format!("localhost:{}", address.port())];
    grid.start_all();
    grid.rests();
}
