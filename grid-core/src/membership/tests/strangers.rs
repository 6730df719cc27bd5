//! Those who must not get in, and bytes that must do nothing.

use std::time::Duration;

use proptest::prelude::*;

use super::network::{Network, address};
use super::options;
use crate::cluster::{ClusterKey, Now};
use crate::membership::seal::{Kind, Seal};
use crate::membership::{Membership, MembershipEffect, MembershipOptions, Swim, Trouble};

const SECOND: Duration = Duration::from_secs(1);

/// Two nodes and a third that is started with these options; all troubles of each.
fn with_third(change: impl FnOnce(&mut MembershipOptions)) -> (Network, Vec<Vec<Trouble>>) {
    let mut network = Network::grid(1, 2, true);
    network.start(2, change);
    network.run(SECOND * 100);
    let troubles = troubles(&network);
    (network, troubles)
}

fn troubles(network: &Network) -> Vec<Vec<Trouble>> {
    let of = |log: &Vec<(Duration, MembershipEffect)>| {
        let troubles = log.iter().filter_map(|(_, effect)| match effect {
            MembershipEffect::Trouble(trouble) => Some(trouble.clone()),
            _ => None,
        });
        troubles.collect()
    };
    network.nodes.iter().map(|node| of(&node.log)).collect()
}

fn never_merged(network: &Network) {
    assert_eq!(network.nodes[0].view.len(), 1);
    assert!(network.nodes[2].view.is_empty());
    let downs = network.declared_down(Duration::ZERO);
    assert!(downs.is_empty(), "{downs:?}");
}

#[test]
fn a_node_with_another_key_stays_out_and_is_told_of_now_and_then() {
    let (network, troubles) = with_third(|options| options.key = ClusterKey::from_bytes([8; 32]));
    never_merged(&network);
    assert_eq!(troubles[0], vec![Trouble::WrongKey { from: address(2) }; 4]);
}

#[test]
fn a_node_of_another_grid_stays_out() {
    let (network, troubles) = with_third(|options| options.grid = "elsewhere".parse().unwrap());
    never_merged(&network);
    let other = Trouble::OtherGrid {
        from: address(2),
        found: "elsewhere".parse().unwrap(),
    };
    assert_eq!(troubles[0], vec![other; 4]);
}

#[test]
fn a_node_whose_clock_is_off_is_told_of_and_stays_out_if_it_is_far_off() {
    for (off, refused) in [(20_000, false), (-20_000, false), (120_000, true), (-120_000, true)] {
        let mut network = Network::grid(1, 2, true);
        network.start(2, |_| {});
        network.nodes[2].clock_off = off;
        network.run(SECOND * 20);
        let troubles = troubles(&network);
        assert_eq!(troubles[0].len(), 1, "{troubles:?}");
        let Trouble::ClockOff {
            node,
            by,
            refused: found,
        } = &troubles[0][0]
        else {
            panic!("{troubles:?}")
        };
        assert_eq!((node, *found), (&network.nodes[2].peer.id, refused));
        assert!((by - off).abs() < 1000, "{by}");
        match refused {
            true => never_merged(&network),
            false => assert!(network.all_know_all()),
        }
    }
}

#[test]
fn of_two_nodes_with_one_name_both_are_told_and_one_takes_part() {
    let (network, troubles) = with_third(|options| options.node.name = "node-0001".parse().unwrap());
    let same_name = |at| Trouble::SameName {
        name: "node-0001".parse().unwrap(),
        at,
    };
    assert!(troubles[1].contains(&same_name(address(2))), "{troubles:?}");
    assert!(troubles[2].contains(&same_name(address(1))), "{troubles:?}");
    // The later start stands, and the names do not change hands again and again.
    assert_eq!(network.nodes[0].view["node-0001"], network.nodes[2].peer);
    let changes = network.nodes[0].log.len();
    assert!(changes < 10, "{:?}", network.nodes[0].log);
}

#[test]
fn two_nodes_of_one_name_and_nobody_else_never_see_each_other() {
    let mut network = Network::new(1);
    network.start(0, |options| options.node.name = "same".parse().unwrap());
    network.start(1, |options| options.node.name = "same".parse().unwrap());
    network.run(SECOND * 10);
    assert!(network.nodes.iter().all(|node| node.view.is_empty()));
    let troubles = troubles(&network);
    assert!(
        troubles
            .iter()
            .all(|node| matches!(node[..], [Trouble::SameName { .. }])),
        "{troubles:?}"
    );
}

#[test]
fn another_protocol_and_what_is_no_gossip_are_told_apart() {
    let mut swim = Swim::new(&options("a", 1));
    let now = Now {
        monotonic: Duration::ZERO,
        wall: 0,
    };
    let from = address(9);
    swim.datagram(now, from, b"grd\x02 and what the future holds");
    swim.datagram(now, from, b"GET / HTTP/1.1\r\n\r\n");
    let said: Vec<_> = std::iter::from_fn(|| swim.poll()).collect();
    let other = Trouble::OtherProtocol {
        from,
        found: 2,
        ours: 1,
    };
    let expected = [other, Trouble::Stranger { from }].map(MembershipEffect::Trouble);
    assert_eq!(said, expected);
}

#[test]
fn a_datagram_sent_again_later_does_not_bring_back_a_node_that_is_gone() {
    let mut network = Network::grid(2, 3, true);
    let mut recorded = vec![];
    // What node 2 says while it lives: it asks to join.
    network.with(2, |swim, now| {
        let mut copy = Swim::new(&options("x", 1));
        copy.join(now, &[address(0)]);
        swim.join(now, &[address(0)]);
    });
    let gone = network.nodes[2].peer.clone();
    let mut options = options(gone.id.name.as_str(), gone.id.generation);
    options.grid = "simulated".parse().unwrap();
    options.mesh = gone.mesh;
    let wall = 1_700_000_000_000 + u64::try_from(network.now.as_millis()).unwrap();
    let mut swim = Swim::new(&options);
    let now = Now {
        monotonic: network.now,
        wall,
    };
    swim.join(now, &[address(0)]);
    while let Some(effect) = swim.poll() {
        if let MembershipEffect::Send { bytes, .. } = effect {
            recorded.push(bytes);
        }
    }
    assert_eq!(recorded.len(), 1);
    network.crash(2);
    assert!(network.run_until(SECOND * 10, |network| network.all_miss(2)));
    let since = network.now;
    for wait in [0, 20, 60] {
        network.run(SECOND * wait);
        network.with(0, |swim, now| swim.datagram(now, gone.mesh, &recorded[0]));
        network.run(SECOND);
    }
    let ups = network.nodes[0].log.iter();
    let ups = ups.filter(|(at, effect)| *at >= since && matches!(effect, MembershipEffect::Up(_)));
    assert_eq!(ups.count(), 0);
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..1600), magic: bool) {
        let mut swim = Swim::new(&options("a", 1));
        let now = Now { monotonic: Duration::ZERO, wall: 0 };
        let bytes = if magic { [b"grd\x01", &bytes[..]].concat() } else { bytes };
        swim.datagram(now, address(1), &bytes);
        prop_assert!(matches!(swim.poll(), Some(MembershipEffect::Trouble(_))));
        prop_assert_eq!(swim.poll(), None);
    }

    #[test]
    fn no_bytes_sealed_with_our_key_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..1200), kind in 0..3usize, cut in 0..200usize, flip in 0..200usize,
    ) {
        let mut other = options("b", 2);
        other.mesh = address(2);
        let now = Now { monotonic: Duration::ZERO, wall: 0 };
        let mut swim = Swim::new(&options("a", 1));
        let mut seal = Seal::new(&other);
        let kind = [Kind::Gossip, Kind::Superseded, Kind::Item][kind];
        swim.datagram(now, address(2), &seal.seal(0, kind, &bytes));
        // And one that is nearly right.
        let mut peer = Swim::new(&other);
        peer.join(now, &[address(1)]);
        let Some(MembershipEffect::Send { bytes, .. }) = peer.poll() else { panic!("it asks to join") };
        let mut payload = seal.open(&bytes).unwrap().payload;
        payload.truncate(payload.len().saturating_sub(cut % 8));
        if let Some(byte) = payload.get_mut(flip) {
            *byte ^= 1 << (cut % 8);
        }
        payload.extend(bytes);
        payload.truncate(1200);
        swim.datagram(now, address(2), &seal.seal(0, Kind::Gossip, &payload));
        swim.tick(now);
    }
}
