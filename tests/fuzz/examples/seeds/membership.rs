//! What three nodes send each other while they meet, one falls silent, and one leaves.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use grid_core::cluster::Digest;
use grid_core::membership::{Head, Membership, MembershipEffect, Swim};
use grid_core::wire::codec::encode;
use grid_fuzz::gossip;
use grid_fuzz::input::piece;
use grid_fuzz::sealing::{NOW, address, open, options};

use crate::{Add, Result};

pub(crate) fn seeds(add: Add<'_>) -> Result {
    let mut nodes: Vec<Swim> = (1..=3u8)
        .map(|index| {
            Swim::new(&options(
                ["a", "b", "c"][usize::from(index) - 1],
                10 + u64::from(index),
                index,
            ))
        })
        .collect();
    let mut now = NOW;
    let mut heard: Vec<(SocketAddr, Vec<u8>)> = Vec::new();
    for second in 0..40u64 {
        now.monotonic = Duration::from_secs(second);
        now.wall = NOW.wall + 1000 * second;
        match second {
            0 => (1..3).for_each(|node| nodes[node].join(now, &[address(1)])),
            5 => nodes[1].set_head(
                now,
                Head {
                    version: 3,
                    catalog: Digest([5; 32]),
                },
            ),
            30 => nodes[1].leave(now),
            _ => {}
        }
        let living = if second < 15 { 3 } else { 2 };
        for node in &mut nodes[..living] {
            node.tick(now);
        }
        loop {
            let mut sent = Vec::new();
            for (index, node) in (1u8..).zip(&mut nodes) {
                while let Some(effect) = node.poll() {
                    if let MembershipEffect::Send { to, bytes } = effect {
                        sent.push((index, to, bytes));
                    }
                }
            }
            if sent.is_empty() {
                break;
            }
            for (from, to, bytes) in sent {
                if to == address(1) {
                    heard.push((address(from), bytes.clone()));
                }
                let place = (1u8..)
                    .zip(&mut nodes[..living])
                    .find(|(index, _)| address(*index) == to);
                if let Some((_, node)) = place {
                    node.datagram(now, address(from), &bytes);
                }
            }
        }
    }
    let mut all = Vec::new();
    let mut kinds = BTreeMap::new();
    for (index, (from, bytes)) in heard.iter().enumerate() {
        let SocketAddr::V4(from) = from else { continue };
        let [.., sender] = from.ip().octets();
        let plain = open(bytes).ok_or("a datagram of ours")?;
        // The grid's name with its length, the clock in nine bytes, the kind.
        let (_, behind) = plain.split_at_checked(5 + 9).ok_or("a preamble")?;
        let (kind, payload) = behind.split_first().ok_or("a kind")?;
        let step = [&[gossip::step::DATAGRAM + kind, 0, sender][..], &piece(payload)].concat();
        all.extend(&step);
        if index % 8 == 0 {
            all.extend([gossip::step::WAIT, 5]);
        }
        let count: &mut u32 = kinds.entry((*kind, payload.len() / 32)).or_default();
        *count += 1;
        if *count == 1 {
            let name = format!("kind-{kind}-{index}");
            add("gossip", &name, [&step[..], &[gossip::step::WAIT, 30]].concat());
            add("datagram", &name, bytes.clone());
        }
    }
    all.truncate(12 << 10);
    add("gossip", "all", all);
    let own = [gossip::step::HEAD, 1, gossip::step::JOIN, 2, gossip::step::WAIT, 100];
    add("gossip", "alone", own.to_vec());
    let preamble = encode(&("elsewhere", NOW.wall, 0u32));
    let other = [&[gossip::step::PLAIN, 2][..], &piece(&preamble)].concat();
    add("gossip", "other-grid", other);
    add(
        "datagram",
        "other-protocol",
        b"grd\x02 and what the future holds".to_vec(),
    );
    add("datagram", "http", b"GET / HTTP/1.1\r\n\r\n".to_vec());
    Ok(())
}
