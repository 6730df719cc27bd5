//! Nodes that come, crash, freeze, leave and are cut off.

use std::time::Duration;

use rand::RngExt;

use super::network::{Network, address, false_downs};
use crate::cluster::{Digest, NodeId};
use crate::membership::{Head, Membership, MembershipEffect};

const SECOND: Duration = Duration::from_secs(1);

/// How long until all know of the crash of a node, and of no other.
fn crash(seed: u64, nodes: usize, limit: Duration) -> Duration {
    let mut network = Network::grid(seed, nodes, true);
    let at = network.now;
    network.crash(nodes - 1);
    assert!(network.run_until(limit, |network| network.all_miss(nodes - 1)));
    assert_eq!(network.declared_down(at).len(), 1);
    network.now - at
}

#[test]
fn nodes_that_have_long_been_together_learn_of_a_crash() {
    let mut network = Network::long_together(1, 30, true);
    network.crash(29);
    assert!(network.run_until(SECOND * 20, |network| network.all_miss(29)));
}

#[test]
fn nodes_that_know_one_address_come_to_know_all() {
    let mut network = Network::new(1);
    (0..10).for_each(|index| network.start(index, |_| {}));
    assert!(network.run_until(SECOND * 10, Network::all_know_all));
}

#[test]
fn a_newcomer_soon_knows_more_nodes_than_one_datagram_holds() {
    let mut network = Network::grid(13, 120, true);
    network.start(120, |_| {});
    assert!(network.run_until(SECOND * 3, |network| network.nodes[120].view.len() == 120));
    network.run(SECOND * 30);
    assert!(
        network
            .nodes
            .iter()
            .flat_map(|node| &node.log)
            .all(|(_, effect)| !matches!(effect, MembershipEffect::Trouble(_)))
    );
}

#[test]
fn a_join_that_gets_lost_is_tried_again() {
    let mut network = Network::new(2);
    network.loss = 1.0;
    (0..3).for_each(|index| network.start(index, |_| {}));
    network.run(SECOND * 5);
    assert!(network.nodes.iter().all(|node| node.view.is_empty()));
    network.loss = 0.3;
    assert!(network.run_until(SECOND * 30, Network::all_know_all));
}

#[test]
fn a_crash_is_known_to_all_in_time() {
    for seed in 0..5 {
        crash(seed, 3, SECOND * 8);
        crash(seed, 10, SECOND * 8);
    }
    crash(9, 50, SECOND * 12);
}

#[test]
fn lost_datagrams_declare_nobody_down() {
    let mut network = Network::grid(3, 10, true);
    let since = network.now;
    network.loss = 0.05;
    network.run(SECOND * 600);
    assert!(network.declared_down(since).is_empty());
}

#[test]
fn a_farewell_is_heard_at_once_and_told_from_a_crash() {
    let mut network = Network::grid(4, 10, true);
    network.with(9, |swim, now| swim.leave(now));
    let gone = network.nodes[9].peer.id.clone();
    network.crash(9);
    assert!(network.run_until(SECOND, |network| network.all_miss(9)));
    let down = MembershipEffect::Down { node: gone, left: true };
    for node in network.living() {
        assert_eq!(node.log.iter().filter(|(_, effect)| *effect == down).count(), 1);
    }
}

#[test]
fn a_node_that_starts_again_replaces_its_earlier_life_at_once() {
    let mut network = Network::grid(5, 5, true);
    network.crash(4);
    network.start(4, |_| {});
    assert!(network.run_until(SECOND * 3, Network::all_know_all));
}

#[test]
fn a_node_that_forgot_its_generation_is_given_a_higher_one() {
    let mut network = Network::grid(6, 5, true);
    network.crash(4);
    // Once while its earlier life is thought to be up, and once when that is known to be down.
    for wait in [Duration::ZERO, SECOND * 30] {
        let before = network.nodes[4].peer.id.generation;
        network.crash(4);
        network.run(wait);
        network.start(4, |options| options.node.generation = 1);
        assert!(network.run_until(SECOND * 5, Network::all_know_all));
        assert!(network.nodes[4].peer.id.generation > before);
    }
}

#[test]
fn halves_that_were_cut_off_find_together_again() {
    for seed in 0..3 {
        let mut network = Network::grid(seed, 8, true);
        (4..8).for_each(|index| network.nodes[index].part = 1);
        let apart = |network: &Network| network.nodes.iter().all(|node| node.view.len() == 3);
        assert!(network.run_until(SECOND * 60, apart));
        network.run(SECOND * 60);
        (4..8).for_each(|index| network.nodes[index].part = 0);
        assert!(network.run_until(SECOND * 90, Network::all_know_all));
    }
}

#[test]
fn two_nodes_that_lost_each_other_find_together_again() {
    let mut network = Network::grid(8, 2, true);
    network.nodes[1].part = 1;
    assert!(network.run_until(SECOND * 30, |network| {
        network.nodes.iter().all(|node| node.view.is_empty())
    }));
    network.nodes[1].part = 0;
    assert!(network.run_until(SECOND * 40, Network::all_know_all));
}

#[test]
fn a_frozen_node_wakes_as_a_new_generation_and_accuses_nobody() {
    for seed in 0..5 {
        let mut network = Network::grid(seed, 5, true);
        let (since, before) = (network.now, network.nodes[4].peer.id.clone());
        network.freeze(4, SECOND * 10);
        assert!(network.run_until(SECOND * 9, |network| {
            (0..4).all(|node| network.nodes[node].view.len() == 3)
        }));
        assert!(network.run_until(SECOND * 10, Network::all_know_all));
        let after = &network.nodes[4].peer.id;
        assert!(after.generation > before.generation);
        let renewed = MembershipEffect::Renewed(after.clone());
        assert!(network.nodes[4].log.iter().any(|(_, effect)| *effect == renewed));
        assert_eq!(
            network.declared_down(since).into_iter().collect::<Vec<NodeId>>(),
            [before]
        );
    }
}

#[test]
fn heads_reach_everybody_and_the_newest_stays() {
    let mut network = Network::grid(10, 20, true);
    let head = |version: u64| Head {
        version,
        catalog: Digest::of(&version.to_le_bytes()),
    };
    network.loss = 0.05;
    for version in 1..=3 {
        (0..20).for_each(|index| network.with(index, |swim, now| swim.set_head(now, head(version))));
        let pause = Duration::from_millis(network.rng.random_range(0..300));
        network.run(pause);
    }
    let has_all = |network: &Network, from: usize| {
        network.nodes.iter().enumerate().skip(from).all(|(own, node)| {
            (0..20).filter(|other| *other != own).all(|other| {
                let id = &network.nodes[other].peer.id;
                let versions = node.log.iter().filter_map(|(_, effect)| match effect {
                    MembershipEffect::Head { node, head } if node == id => Some(head.version),
                    _ => None,
                });
                let versions: Vec<u64> = versions.collect();
                assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
                versions.last() == Some(&3)
            })
        })
    };
    assert!(network.run_until(SECOND * 10, |network| has_all(network, 0)));
    // One that comes later is told too.
    network.loss = 0.0;
    network.start(20, |_| {});
    assert!(network.run_until(SECOND * 10, |network| has_all(network, 20)));
}

#[test]
fn a_node_that_is_paused_now_and_then_declares_fewer_down_when_it_doubts_itself() {
    let count = |self_doubt| -> usize {
        let hour = |seed| false_downs(seed, 8, self_doubt, SECOND * 20, SECOND * 3, SECOND * 900);
        (0..2).map(hour).sum()
    };
    let (with, without) = (count(true), count(false));
    assert!(with < without, "{with} with self-doubt, {without} without");
}

#[test]
fn an_idle_grid_sends_and_wakes_little() {
    let mut network = Network::grid(11, 3, true);
    let before: u64 = network.nodes.iter().map(|node| node.bytes_sent).sum();
    network.run(SECOND * 100);
    let after: u64 = network.nodes.iter().map(|node| node.bytes_sent).sum();
    assert!((after - before) / 300 < 400, "{} B/s a node", (after - before) / 300);
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let history = || {
        let mut network = Network::grid(12, 6, true);
        network.loss = 0.1;
        network.freeze(2, SECOND * 8);
        network.run(SECOND * 60);
        network.nodes.into_iter().map(|node| node.log).collect::<Vec<_>>()
    };
    assert_eq!(history(), history());
    assert_eq!(address(258).to_string(), "10.0.1.2:7000");
}
