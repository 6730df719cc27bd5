//! Which replica a request goes to, and whether its queue takes it.
//!
//! The cost of a replica is the time until it would have served one more request: `(in flight + 1) × service time ÷
//! capacity`. The cheapest is taken.
//!
//! Not the cheaper of two random ones (Mitzenmacher 2001): that keeps many routers from rushing together to what all see
//! as the cheapest, but here each knows replicas by the answers to its own requests alone, so each sees another one as the
//! cheapest. And the answers that are fresh enough to be worth something are few: two random replicas rarely have one.
//! `examples/dispatch_at_scale` compares: of 100 replicas at 1.7 of their allocation, the 99th percentile was four times
//! as long with the cheaper of two by the same cost.

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
        let waiting = (self.in_flight as u64 + 1).saturating_mul(THOUSAND);
        cost_of(waiting, self.service.unwrap_or(unknown), self.capacity)
    }
}

/// Averages of requests are counted in thousandths of one.
const THOUSAND: u64 = 1000;

/// Time until `waiting` thousandths of a request are served, in nanoseconds.
fn cost_of(waiting: u64, service: Duration, capacity: u32) -> u64 {
    let service = u64::try_from(service.as_nanos()).unwrap_or(u64::MAX).max(1);
    let cost = u128::from(waiting) * u128::from(service) / u128::from(THOUSAND / 100 * u64::from(capacity.max(1)));
    u64::try_from(cost).unwrap_or(u64::MAX)
}

/// Of so many usable candidates the cheapest is found; more are not looked at. A look costs some ten nanoseconds, and a
/// request that goes to another node some ten thousand.
pub const LOOK_AT_ALL: usize = 128;

/// The cheapest candidate; `None` if there is none. `start` is where a router begins to look, and so decides ties: a
/// router that always begins at its own place keeps to replicas whose memory is warm in its cache. Of more than
/// [`LOOK_AT_ALL`] candidates, `entropy` decides which are looked at. Those that cost `u64::MAX` cannot be used and are
/// passed over: where few are left, one of these is found.
pub fn choose(candidates: usize, start: usize, entropy: u64, cost: impl Fn(usize) -> u64) -> Option<usize> {
    if candidates <= 1 {
        return candidates.checked_sub(1);
    }
    let start = match candidates <= LOOK_AT_ALL {
        true => start % candidates,
        false => (entropy % candidates as u64) as usize,
    };
    let mut best = (u64::MAX, start);
    let mut usable = 0;
    for index in (start..candidates).chain(0..start) {
        let cost = cost(index);
        if cost < best.0 {
            best = (cost, index);
        }
        usable += usize::from(cost < u64::MAX);
        if usable == LOOK_AT_ALL {
            break;
        }
    }
    Some(best.1)
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
        fn of_many_candidates_one_that_can_be_used_is_found_even_if_it_is_the_only_one(
            count in 1usize..1000, usable: usize, start in 0usize..1000, entropy: u64,
        ) {
            let usable = usable % count;
            let cost = |index| if index == usable { 7 } else { u64::MAX };
            prop_assert_eq!(choose(count, start, entropy, cost), Some(usable));
        }

        #[test]
        fn of_many_candidates_one_is_chosen_and_never_the_dearest_of_all_when_it_stands_alone(
            count in LOOK_AT_ALL + 1..1000, dear: usize, entropy: u64,
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
