//! Which instance a free compute thread serves next.
//!
//! The problem: instances of several models share the compute threads, their runs cannot be interrupted, and a run of
//! one may be ten thousand times as long as one of another. Wanted:
//!
//! - (A) while several models have work, each gets compute time in proportion to its weight, whatever its run length;
//! - (B) a model that was idle has no claim on the time it did not use;
//! - (C) a model with short runs does not wait for the end of long ones of others.
//!
//! (A) and (B): start-time fair queueing (Goyal et al., SIGCOMM'96): each instance has a virtual time that advances by
//! `run time ÷ weight`, the one that is least advanced goes next, and one that wakes up is set forward to the present.
//!
//! (C) needs a free thread whenever a short run comes. So there is one thread more than there are cores, and no more long
//! runs at once than there are cores. When the last thread has a short run, the operating system divides the cores among
//! one thread too many for that short time; without such work it sleeps. Holding a core back instead would waste it.

use std::time::Duration;

/// Runs below this are short: well under what a person or a chain of calls notices, well over a thread switch.
pub const SHORT_RUN: Duration = Duration::from_millis(5);

/// A model's position in virtual time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    weight: u32,
    virtual_nanos: u64,
}

impl Share {
    /// A share of this weight, from 1 up.
    pub fn new(weight: u32) -> Self {
        Self {
            weight: weight.max(1),
            virtual_nanos: 0,
        }
    }

    /// Changes the weight, from 1 up, of what is charged from now on.
    pub fn set_weight(&mut self, weight: u32) {
        self.weight = weight.max(1);
    }

    fn virtual_time(&self, real: Duration) -> u64 {
        let nanos = u64::try_from(real.as_nanos()).unwrap_or(u64::MAX);
        nanos.saturating_mul(u64::from(DEFAULT_WEIGHT)) / u64::from(self.weight)
    }
}

/// The virtual clock of one set of compute threads.
#[derive(Clone, Copy, Debug, Default)]
pub struct FairClock {
    /// Virtual time of the last pick: the present.
    now: u64,
}

/// Weight of a model that names none. Virtual time is real time for such a model.
pub const DEFAULT_WEIGHT: u32 = 100;

impl FairClock {
    /// The instance has work again after having none.
    pub fn wake(&self, share: &mut Share) {
        share.virtual_nanos = share.virtual_nanos.max(self.now);
    }

    /// A run is about to use this much compute time, as far as is known.
    ///
    /// Charged when it starts: charged when it ends, a model whose run is under way would still look the least advanced to
    /// the other threads, and get them too.
    pub fn charge(&self, share: &mut Share, expected: Duration) {
        share.virtual_nanos = share.virtual_nanos.saturating_add(share.virtual_time(expected));
    }

    /// The run has ended: sets right what was charged for it.
    pub fn correct(&self, share: &mut Share, charged: Duration, ran: Duration) {
        let (charged, ran) = (share.virtual_time(charged), share.virtual_time(ran));
        share.virtual_nanos = share.virtual_nanos.saturating_add(ran).saturating_sub(charged);
    }

    /// The candidate to serve next: the least advanced; of equals the one with the least key, which had better be the
    /// order in which they became ready, as the instances of one model are always equal.
    pub fn pick<K: Ord>(&mut self, candidates: impl IntoIterator<Item = (K, Share)>) -> Option<K> {
        let least = candidates
            .into_iter()
            .map(|(key, share)| (share.virtual_nanos, key))
            .min();
        let (virtual_nanos, key) = least?;
        self.now = self.now.max(virtual_nanos);
        Some(key)
    }
}

/// Whether a run may be long. `None`: nobody knows yet how long it takes, so it may.
pub fn may_be_long(expected: Option<Duration>) -> bool {
    expected.is_none_or(|expected| expected >= SHORT_RUN)
}

/// Whether a run may start on a thread that is free, one of `cores + 1`, while `long` runs that may be long are under way.
///
/// Only those count: counting all that are under way, short runs that kept every thread busy kept long ones out for good.
pub fn may_start(long: usize, cores: usize, expected: Option<Duration>) -> bool {
    long < cores || !may_be_long(expected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn busy_models_get_time_by_weight_whatever_their_run_length(
            weights in prop::collection::vec(1u32..500, 2..5),
            runs_us in prop::collection::vec(1u64..5_000, 5),
        ) {
            let mut clock = FairClock::default();
            let mut shares: Vec<_> = weights.iter().map(|&weight| Share::new(weight)).collect();
            let mut used = vec![0f64; weights.len()];
            let longest = *runs_us.iter().max().unwrap() as f64;
            let total_weight: f64 = weights.iter().map(|&w| f64::from(w)).sum();
            let mut total = 0.0;
            while total < longest * total_weight * 4.0 {
                let index = clock.pick(shares.iter().copied().enumerate()).unwrap();
                clock.charge(&mut shares[index], Duration::from_micros(runs_us[index]));
                used[index] += runs_us[index] as f64;
                total += runs_us[index] as f64;
            }
            for (index, &weight) in weights.iter().enumerate() {
                let fair = total * f64::from(weight) / total_weight;
                // Off by at most about one run of its own and one of each other model, scaled by weight.
                let slack = longest * (1.0 + f64::from(weight));
                prop_assert!((used[index] - fair).abs() <= slack, "model {} used {} of a fair {}", index, used[index], fair);
            }
        }
    }

    #[test]
    fn a_model_whose_run_is_under_way_does_not_get_the_other_threads_too() {
        let mut clock = FairClock::default();
        let (long, short) = (Duration::from_millis(10), Duration::from_millis(1));
        let (mut first, mut second) = (Share::new(100), Share::new(100));
        assert_eq!(clock.pick([('a', first), ('b', second)]), Some('a'));
        clock.charge(&mut first, long);
        for _ in 0..9 {
            assert_eq!(clock.pick([('a', first), ('b', second)]), Some('b'));
            clock.charge(&mut second, short);
            clock.correct(&mut second, short, short);
        }
        // It was quicker than expected: the difference is given back.
        clock.correct(&mut first, long, short);
        assert_eq!(clock.pick([('a', first), ('b', second)]), Some('a'));
    }

    #[test]
    fn idleness_saves_up_nothing() {
        let mut clock = FairClock::default();
        let (mut busy, mut idle) = (Share::new(100), Share::new(100));
        for _ in 0..1000 {
            clock.pick([((), busy)]);
            clock.charge(&mut busy, Duration::from_millis(1));
        }
        clock.wake(&mut idle);
        let mut turns = 0;
        for _ in 0..100 {
            if clock.pick([(true, idle), (false, busy)]) == Some(true) {
                turns += 1;
                clock.charge(&mut idle, Duration::from_millis(1));
            } else {
                clock.charge(&mut busy, Duration::from_millis(1));
            }
        }
        assert!((45..=55).contains(&turns), "woken model got {turns} of 100 turns");
    }

    #[test]
    fn the_last_thread_is_kept_for_short_runs() {
        let seconds = |seconds| Some(Duration::from_secs_f64(seconds));
        assert!(may_start(1, 2, seconds(1.0)));
        assert!(may_start(1, 2, None));
        assert!(!may_start(2, 2, seconds(1.0)));
        assert!(!may_start(2, 2, None));
        assert!(may_start(2, 2, seconds(0.0003)));
    }
}
