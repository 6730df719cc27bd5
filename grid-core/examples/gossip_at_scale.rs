//! How soon all nodes of a grid know of a crash, what gossip costs each, and how often a healthy node is declared down, in
//! virtual time:
//!
//! ```sh
//! cargo run --release -p grid-core --example gossip_at_scale [-- LARGEST_GRID]
//! ```

mod api {
    pub(super) use grid_core::cluster::{ClusterKey, NodeId, Now};
    pub(super) use grid_core::membership::{Membership, MembershipEffect, MembershipOptions, Peer, Swim};
}
#[path = "../src/membership/tests/network.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod network;

use std::time::{Duration, Instant};

use network::{Network, false_downs};

const SECOND: Duration = Duration::from_secs(1);

/// Larger grids begin with nodes that know each other: that a thousand join within seconds took longer to simulate than
/// anybody waited. What is measured begins later in both, when nothing is left to be told.
const JOINING: usize = 200;

fn bytes_sent(network: &Network) -> u64 {
    network.nodes.iter().map(|node| node.bytes_sent).sum()
}

fn per_node_second(bytes: u64, nodes: usize, time: Duration) -> f64 {
    bytes as f64 / nodes as f64 / time.as_secs_f64()
}

fn main() {
    let largest = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(1000);
    println!(
        "nodes | how they met | first knows | all know | idle B/s a node | B/s a node from crash to all | falsely down | took"
    );
    for nodes in [3, 10, 50, 200, 1000].into_iter().filter(|nodes| *nodes <= largest) {
        // The mean of several crashes where that is cheap.
        let rounds = match nodes {
            ..=50 => 10,
            51..=200 => 3,
            _ => 1,
        };
        let begun = Instant::now();
        let (mut first, mut last, mut idle, mut busy, mut falsely) = (0.0, 0.0f64, 0.0, 0.0, 0);
        for seed in 0..rounds {
            let mut network = match nodes {
                ..=JOINING => Network::grid(seed, nodes, true),
                _ => Network::long_together(seed, nodes, true),
            };
            let before = bytes_sent(&network);
            network.run(SECOND * 10);
            idle += per_node_second(bytes_sent(&network) - before, nodes, SECOND * 10) / rounds as f64;

            let (at, before) = (network.now, bytes_sent(&network));
            network.crash(nodes - 1);
            let gone = network.nodes[nodes - 1].peer.id.name.to_string();
            let someone = |network: &Network| network.living().any(|node| !node.view.contains_key(&gone));
            assert!(network.run_until(SECOND * 60, someone), "nobody noticed");
            first += (network.now - at).as_secs_f64() / rounds as f64;
            assert!(
                network.run_until(SECOND * 60, |network| network.all_miss(nodes - 1)),
                "not all noticed"
            );
            let time = network.now - at;
            last += time.as_secs_f64() / rounds as f64;
            busy += per_node_second(bytes_sent(&network) - before, nodes, time) / rounds as f64;
            falsely += network.declared_down(at).len() - 1;
        }
        let took = begun.elapsed().as_secs_f64();
        let met = match nodes {
            ..=JOINING => "by joining",
            _ => "known from the start",
        };
        println!("{nodes} | {met} | {first:.1} s | {last:.1} s | {idle:.0} | {busy:.0} | {falsely} | {took:.1} s");
    }

    println!("\npauses of 0.5 s to | lives declared down in an hour, 20 nodes: with self-doubt | without");
    for longest in [3, 5] {
        let hour = |self_doubt| false_downs(1, 20, self_doubt, SECOND * 20, SECOND * longest, SECOND * 3600);
        println!("{longest} s | {} | {}", hour(true), hour(false));
    }
}
