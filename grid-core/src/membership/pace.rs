//! How fast the gossip goes, by the size of the grid.

use std::num::{NonZeroU8, NonZeroU32, NonZeroUsize};
use std::time::Duration;

use foca::Config;

/// How long a life that was declared down is remembered, so that nothing old brings it back. The names of the dead cost
/// about a hundred bytes each.
pub(super) const REMEMBER_DOWN: Duration = Duration::from_secs(24 * 3600);

/// How often each node passes on what it hears, beyond the logarithm of the size. Told `t` times by each of `n` nodes,
/// each time to a random one, a node misses news with probability `exp(-t)`: with `t = ln n + 7`, one piece of news in
/// a thousand misses somebody. foca (and memberlist) have `4 log10 n`, with which in a grid of 20, when all heads
/// change at once, about every other time somebody misses one.
const SURE_TRANSMISSIONS: f64 = 7.0;

/// Time that a suspect has to object, for each factor of ten in size. foca has 4 s; with 2.5 s a crash in a small grid
/// is known within about 5 s, and a suspect is told three times by whom it has to convince.
const SUSPICION: Duration = Duration::from_millis(2500);

/// Sizes are told apart by powers of two: the settings go by the logarithm.
pub(super) fn size_class(nodes: usize) -> u32 {
    let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
    nodes.checked_next_power_of_two().unwrap_or(u32::MAX).max(1)
}

/// The settings for a grid of about this many nodes. Over all sizes the probes have one pace and all that is periodic
/// goes on, which foca asks for when settings change. Gossip is every 200 ms to 3 nodes while there is something to
/// say.
pub(super) fn settings(size_class: u32, max_packet: usize) -> Config {
    let size = NonZeroU32::new(size_class).unwrap_or(NonZeroU32::MIN);
    let mut config = Config::new_lan(size);
    config.max_transmissions = transmissions(size);
    config.suspect_to_down_after = SUSPICION.mul_f64(f64::from(size.get()).log10().max(1.0));
    config.remove_down_after = Some(REMEMBER_DOWN);
    config.max_packet_size = NonZeroUsize::new(max_packet).unwrap_or(NonZeroUsize::MIN);
    config.notify_down_members = true;
    config
}

fn transmissions(size: NonZeroU32) -> NonZeroU8 {
    let wanted = f64::from(size.get()).ln().ceil() + SURE_TRANSMISSIONS;
    // At most ln(2^32) + 7.
    NonZeroU8::new(wanted as u8).unwrap_or(NonZeroU8::MAX)
}

/// The settings with which a node says farewell: it has no later round to say it again.
pub(super) fn farewell(mut config: Config) -> Config {
    config.max_transmissions = NonZeroU8::MAX;
    config.num_indirect_probes = config.num_indirect_probes.saturating_add(3);
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suspects_have_longer_the_larger_the_grid() {
        assert_eq!(settings(size_class(3), 1000).suspect_to_down_after, SUSPICION);
        assert_eq!(settings(size_class(3), 1000).max_transmissions.get(), 9);
        let large = settings(size_class(1000), 1000);
        assert_eq!(large.suspect_to_down_after.as_secs(), 7);
        assert_eq!(large.max_transmissions.get(), 14);
    }
}
