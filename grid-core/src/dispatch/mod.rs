//! Which replica a request goes to, and whether its queue takes it.
//!
//! The cost of a replica is the time until it would have served one more request: `(in flight + 1) × service time ÷
//! capacity`. Of few candidates the cheapest is taken; of many the cheaper of two random ones, because many routers that
//! all see the same cheapest replica would rush to it together (Mitzenmacher 2001).

pub mod remote;
pub mod retry;

use std::time::Duration;

/// A replica as a router sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Requests accepted and not answered.
    pub in_flight: usize,
    /// Smoothed time that one request takes of it, queueing excluded; `None` before its first.
    pub service: Option<Duration>,
    /// Relative speed; 100 is one ordinary replica.
    pub capacity: u32,
}

impl Load {
    /// Time until one more request would be served, in nanoseconds. `unknown` stands for a service time that is not known
    /// yet: the longest of its siblings, so that a replica that has just started does not draw all requests to itself.
    pub fn cost(&self, unknown: Duration) -> u64 {
        let service = self.service.unwrap_or(unknown);
        let service = u64::try_from(service.as_nanos()).unwrap_or(u64::MAX).max(1);
        let waiting = self.in_flight as u64 + 1;
        waiting.saturating_mul(service).saturating_mul(100) / u64::from(self.capacity.max(1))
    }
}

/// Up to this many candidates all are looked at: a look costs a few nanoseconds, and two random ones of so few would
/// often be the same or miss an idle one.
pub const LOOK_AT_ALL: usize = 8;

/// The candidate to send to; `None` if there is none. `start` is where a router begins to look, and so decides ties: a
/// router that always begins at its own place keeps to replicas whose memory is warm in its cache. `entropy` is used
/// among many candidates only.
pub fn choose(candidates: usize, start: usize, entropy: u64, cost: impl Fn(usize) -> u64) -> Option<usize> {
    match candidates {
        0 => None,
        1 => Some(0),
        count if count <= LOOK_AT_ALL => (0..count)
            .map(|step| (start + step) % count)
            .min_by_key(|&index| cost(index)),
        count => {
            // The two halves of the entropy give two different candidates.
            let first = (entropy >> 32) as usize % count;
            let second = (first + 1 + (entropy & 0xffff_ffff) as usize % (count - 1)) % count;
            Some(if cost(second) < cost(first) { second } else { first })
        }
    }
}

/// The next value of an exponentially weighted moving average with weight 1/8, the one of TCP's round-trip time
/// (RFC 6298). The first sample stands for itself.
pub fn smooth(previous: Duration, sample: Duration) -> Duration {
    if previous.is_zero() {
        sample
    } else {
        (previous * 7 + sample) / 8
    }
}

/// The same, for a figure that must not follow a single outlier: a sample over four times the average counts as four times
/// the average. A run that was preempted takes a thousand times as long as it would have, and says nothing about the
/// next; one that has really become longer is believed after a few.
pub fn smooth_steadily(previous: Duration, sample: Duration) -> Duration {
    if previous.is_zero() {
        sample
    } else {
        smooth(previous, sample.min(previous * 4))
    }
}

/// The time that a request would wait behind `ahead` others, each taking `service` of one instance.
pub fn expected_wait(ahead: usize, service: Duration) -> Duration {
    service.saturating_mul(u32::try_from(ahead).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn of_few_candidates_the_cheapest_is_chosen(costs in prop::collection::vec(0u64..10, 1..=LOOK_AT_ALL), start: usize, entropy: u64) {
            let start = start % 1000;
            let chosen = choose(costs.len(), start, entropy, |index| costs[index]).unwrap();
            prop_assert_eq!(costs[chosen], *costs.iter().min().unwrap());
        }

        #[test]
        fn of_many_candidates_one_is_chosen_and_never_the_dearest_of_all_when_it_stands_alone(
            count in LOOK_AT_ALL + 1..100, dear: usize, entropy: u64,
        ) {
            let dear = dear % count;
            let chosen = choose(count, 0, entropy, |index| u64::from(index == dear)).unwrap();
            prop_assert!(chosen < count && chosen != dear);
        }
    }

    #[test]
    fn ties_go_to_the_routers_own_place() {
        assert_eq!(choose(4, 2, 0, |_| 7), Some(2));
        assert_eq!(choose(0, 2, 0, |_| 7), None);
    }

    #[test]
    fn a_slower_replica_costs_more_with_the_same_requests_in_flight() {
        let load = |service_ms, capacity| Load {
            in_flight: 3,
            service: Some(Duration::from_millis(service_ms)),
            capacity,
        };
        let cost = |service_ms, capacity| load(service_ms, capacity).cost(Duration::ZERO);
        assert!(cost(2, 100) > cost(1, 100));
        assert_eq!(cost(2, 200), cost(1, 100));
        assert_eq!(cost(u64::MAX, 1), u64::MAX);
        let unmeasured = Load {
            service: None,
            ..load(1, 100)
        };
        assert_eq!(unmeasured.cost(Duration::from_millis(2)), cost(2, 100));
    }

    #[test]
    fn smoothing_follows_a_change_and_begins_with_the_first_sample() {
        let ms = Duration::from_millis;
        assert_eq!(smooth(Duration::ZERO, ms(8)), ms(8));
        assert_eq!(smooth(ms(8), ms(16)), ms(9));
    }

    #[test]
    fn steady_smoothing_shrugs_off_an_outlier_and_believes_a_change() {
        let us = Duration::from_micros;
        let normal = us(10);
        let after_outlier = smooth_steadily(normal, us(4_000));
        assert!(after_outlier < us(15), "{after_outlier:?}");
        let mut average = normal;
        let runs = (1..).find(|_| {
            average = smooth_steadily(average, us(4_000));
            average > us(50)
        });
        assert!(runs.is_some_and(|runs| runs <= 6), "{runs:?}");
    }
}
