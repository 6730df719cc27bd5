//! Datagrams whose seal is right and whose content is anything: a node of another release, or one that was taken over.

use std::time::Duration;

use grid_core::cluster::{Digest, Now};
use grid_core::membership::{Head, MAX_DATAGRAM, Membership, MembershipEffect, Swim};
use grid_core::wire::codec::encode;

use crate::input::Input;
use crate::sealing::{NOW, address, open, options, seal};

/// Kinds of payloads that there are; one more is none.
const KINDS: u8 = 6;

/// What is done next, in a seed.
pub mod step {
    /// To this added a kind: a datagram of it. Followed by how many half seconds its clock is off (signed), the sender, and
    /// the payload.
    pub const DATAGRAM: u8 = 0;
    /// Bytes without a preamble.
    pub const PLAIN: u8 = super::KINDS;
    /// Time passes: so many tenths of a second.
    pub const WAIT: u8 = super::KINDS + 1;
    /// The node says something of itself.
    pub const HEAD: u8 = super::KINDS + 2;
    /// The node asks to join.
    pub const JOIN: u8 = super::KINDS + 3;
}

/// Most that one step may bring about: a packet brings up some dozens of nodes, and each of them is greeted and heard of.
const MOST_EFFECTS: usize = 4096;

/// Takes in what the bytes say.
///
/// # Panics
/// When something does not hold.
pub fn run(data: &[u8]) {
    // In some 64 KiB of datagrams are at most some thousand nodes, of some hundred bytes.
    crate::memory::within(32 << 20, || steps(data));
}

fn steps(data: &[u8]) {
    let mut input = Input::new(data);
    let mut swim = Swim::new(&options("a", 10, 1));
    let mut now = NOW;
    let mut generation = 10;
    let mut version = 0;
    while !input.is_empty() {
        match input.byte() % (KINDS + 4) {
            step::WAIT => wait(
                &mut swim,
                &mut now,
                Duration::from_millis(100) * u32::from(input.byte()),
            ),
            step::HEAD => {
                version += 1;
                let catalog = Digest([input.byte(); 32]);
                swim.set_head(now, Head { version, catalog });
            }
            step::JOIN => swim.join(now, &[address(input.byte())]),
            step::PLAIN => swim.datagram(now, address(input.byte()), &seal(input.piece())),
            kind => {
                let off = i64::from(input.byte().cast_signed()) * 500;
                let from = address(input.byte());
                let wall = now.wall.saturating_add_signed(off);
                let preamble = encode(&(options("a", 10, 1).grid, wall, u32::from(kind)));
                let datagram = seal(&[&preamble, input.piece()].concat());
                swim.datagram(now, from, &datagram);
            }
        }
        check(&mut swim, &mut generation);
    }
    // It goes on: nothing that it took in stops its clock or makes it turn on the spot.
    wait(&mut swim, &mut now, Duration::from_secs(20));
    swim.leave(now);
    check(&mut swim, &mut generation);
}

fn wait(swim: &mut Swim, now: &mut Now, span: Duration) {
    let end = now.monotonic + span;
    let mut wakes = 0;
    while let Some(at) = swim.next_wake().filter(|at| *at <= end) {
        pass(now, at.max(now.monotonic));
        swim.tick(*now);
        while let Some(effect) = swim.poll() {
            checked(effect);
        }
        wakes += 1;
        assert!(wakes < 10_000, "it wakes {wakes} times in {span:?}");
    }
    pass(now, end);
}

fn pass(now: &mut Now, until: Duration) {
    let passed = until - now.monotonic;
    now.wall += u64::try_from(passed.as_millis()).expect("a short time");
    now.monotonic = until;
}

fn check(swim: &mut Swim, generation: &mut u64) {
    let mut count = 0;
    while let Some(effect) = swim.poll() {
        count += 1;
        assert!(count <= MOST_EFFECTS, "more than {MOST_EFFECTS} effects of one step");
        if let MembershipEffect::Renewed(node) = &effect {
            assert!(node.generation > *generation, "{node} after generation {generation}");
            *generation = node.generation;
        }
        checked(effect);
    }
}

fn checked(effect: MembershipEffect) {
    match effect {
        MembershipEffect::Send { bytes, .. } => {
            assert!(bytes.len() <= MAX_DATAGRAM, "a datagram of {} bytes", bytes.len());
            assert!(open(&bytes).is_some(), "a datagram that does not open");
        }
        MembershipEffect::Trouble(trouble) => assert!(!trouble.to_string().is_empty()),
        MembershipEffect::Up(_)
        | MembershipEffect::Down { .. }
        | MembershipEffect::Head { .. }
        | MembershipEffect::Renewed(_) => {}
    }
}
