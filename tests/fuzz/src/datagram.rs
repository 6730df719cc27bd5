//! A datagram of whomever: without the key it does nothing but be told of.

use grid_core::membership::{MAX_DATAGRAM, Membership, MembershipEffect, Swim};

use crate::sealing::{NOW, address, open, options};

/// Takes the bytes in as a datagram.
pub fn run(data: &[u8]) {
    let mut swim = Swim::new(&options("a", 1, 1));
    crate::memory::within(64 << 10, || swim.datagram(NOW, address(2), data));
    let effects: Vec<_> = std::iter::from_fn(|| swim.poll()).collect();
    if data.len() <= MAX_DATAGRAM && open(data).is_some() {
        // Whose content does more is `gossip`'s.
        return;
    }
    match &effects[..] {
        [MembershipEffect::Trouble(trouble)] => assert!(!trouble.to_string().is_empty()),
        other => panic!("{other:?}"),
    }
}
