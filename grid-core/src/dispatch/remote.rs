//! The load of a replica on another node, as one router knows it.
//!
//! It knows its own requests at once and those of others only from what answers say, which grows old. So what the last
//! answer said fades into what this replica's answers say on average: after [`HALF_LIFE`] half of it. It must not fade
//! into nothing: whoever was not heard of lately would seem the idlest of all.
//!
//! A replica that seems slow gets no requests, and so nothing is heard of it any more, and it seems slow for ever. So the
//! cost of one that has none of this router's requests halves with each [`FORGOTTEN`] of silence, until it is tried again:
//! the worse it was, the later. One that has just come counts as the slowest of its siblings and starts the same way.

use std::time::Duration;

use super::{THOUSAND, cost_of, smooth};

/// When the last report of others' requests counts half, and their average the other half. Simulated from 30 ms to 1 s,
/// it changes little.
pub const HALF_LIFE: Duration = Duration::from_millis(100);

/// When the cost of a replica that nothing is heard of counts half. A second was too short in a grid of a hundred, where a
/// router hears of each but now and then: the worst were tried all the time. With ten, one that was slow is left idle long
/// after it has become quick.
pub const FORGOTTEN: Duration = Duration::from_secs(5);

/// What a failure costs that names no time: the replica is avoided for so long, unless all are. Each further one without
/// an answer between doubles it, up to [`MOST_DOUBLINGS`] times: where most replicas fail, trying each of them every
/// second took more retries than there are.
pub const PENALTY: Duration = Duration::from_secs(1);
/// A replica that works again is so found after 12 s at most.
pub const MOST_DOUBLINGS: u32 = 3;

/// What an answer tells of its replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Requests that it has accepted and not answered, from whomever.
    pub in_flight: usize,
    /// Instances that serve them side by side.
    pub instances: usize,
    /// What one request takes of an instance; `None` before the first.
    pub service: Option<Duration>,
}

/// A replica on another node. Times are since any fixed moment.
#[derive(Clone, Debug, Default)]
pub struct RemoteReplica {
    in_flight: usize,
    /// Requests of others when they were last reported, and on average, in thousandths.
    others: u64,
    others_on_average: u64,
    /// When it last reported, or was first looked at.
    heard: Option<Duration>,
    instances: usize,
    service: Option<Duration>,
    /// What the way takes beside queue and run.
    way: Duration,
    avoided_until: Duration,
    /// Failures without an answer between that named no time.
    failures: u32,
}

impl RemoteReplica {
    /// A request is sent to it.
    pub fn sent(&mut self) {
        self.in_flight += 1;
    }

    /// A request that was sent has ended, whichever way.
    pub fn ended(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// An answer reports its load. To be called before the request has [`ended`](Self::ended): the replica does not count
    /// a request any more when it answers.
    pub fn reports(&mut self, now: Duration, report: Report) {
        let own = self.in_flight.saturating_sub(1);
        self.others = (report.in_flight.saturating_sub(own) as u64).saturating_mul(THOUSAND);
        self.others_on_average = match self.instances {
            0 => self.others,
            _ => self.others_on_average - self.others_on_average / 8 + self.others / 8,
        };
        self.heard = Some(now);
        self.instances = report.instances.max(1);
        self.service = report.service.or(self.service);
        self.avoided_until = Duration::ZERO;
    }

    /// What the way of an answered request took beside queue and run.
    pub fn measured_way(&mut self, way: Duration) {
        self.failures = 0;
        self.way = smooth(self.way, way);
    }

    /// It failed, or says that it may be tried after a while. Who fails at once would otherwise seem the quickest.
    pub fn failed(&mut self, now: Duration, retry_after: Option<Duration>) {
        let span = match retry_after {
            Some(retry_after) => retry_after.min(PENALTY * 10),
            None => {
                let doublings = self.failures.min(MOST_DOUBLINGS);
                self.failures = doublings + 1;
                let span = PENALTY * (1 << doublings);
                // Up to half as long again, by the moment's last digits: those that failed together are tried one by one,
                // and not by a single request after the other until it has no attempts left.
                span + span / 2048 * (now.subsec_nanos() % 1024)
            }
        };
        self.avoided_until = self.avoided_until.max(now + span);
    }

    /// Requests of this router.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// What one request takes of an instance, as far as is known.
    pub fn service(&self) -> Option<Duration> {
        self.service
    }

    /// Time until one more request would be answered, in nanoseconds: comparable with [`Load::cost`](super::Load::cost). The first call is
    /// taken for the moment when it came.
    pub fn cost(&mut self, now: Duration, unknown: Duration) -> u64 {
        let age = now.saturating_sub(*self.heard.get_or_insert(now));
        let average = self.others_on_average;
        let others = match self.others >= average {
            true => average + faded(self.others - average, age, HALF_LIFE),
            false => average - faded(average - self.others, age, HALF_LIFE),
        };
        let waiting = (self.in_flight as u64 + 1)
            .saturating_mul(THOUSAND)
            .saturating_add(others);
        let capacity = u32::try_from(self.instances.max(1).saturating_mul(100)).unwrap_or(u32::MAX);
        let cost = cost_of(waiting, self.service.unwrap_or(unknown), capacity);
        // One request is enough to ask how it is: a replica that hangs must not seem better with each second.
        let cost = if self.in_flight == 0 {
            faded(cost, age, FORGOTTEN)
        } else {
            cost
        };
        // Never equal to a local replica of the same load: between equals, the one without a way wins.
        let way = nanoseconds(self.way).max(1);
        let avoided = nanoseconds(self.avoided_until.saturating_sub(now));
        cost.saturating_add(way).saturating_add(avoided)
    }
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// What is left after `age` of what halves in each `half_life`; on a straight line between two halvings.
fn faded(value: u64, age: Duration, half_life: Duration) -> u64 {
    let (age, half_life) = (nanoseconds(age), nanoseconds(half_life));
    let halvings = u32::try_from(age / half_life).unwrap_or(u32::MAX);
    let left = value.checked_shr(halvings).unwrap_or(0);
    // In thousandths: the product of two times would not fit.
    let since = age % half_life * THOUSAND / half_life;
    left - (left / 2 / THOUSAND * since + left / 2 % THOUSAND * since / THOUSAND)
}

#[cfg(test)]
mod tests {
    use super::super::{Load, choose};
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn replica(in_flight: usize) -> RemoteReplica {
        let mut replica = RemoteReplica::default();
        replica.reports(
            Duration::ZERO,
            Report {
                in_flight,
                instances: 1,
                service: Some(MS),
            },
        );
        replica
    }

    fn report(in_flight: usize, service: Duration) -> Report {
        Report {
            in_flight,
            instances: 1,
            service: Some(service),
        }
    }

    #[test]
    fn the_last_report_fades_into_the_average_and_not_into_nothing() {
        let mut replica = replica(8);
        replica.sent();
        replica.reports(Duration::ZERO, report(0, MS));
        let mut cost = |at| replica.cost(at, Duration::ZERO) / 100_000;
        assert_eq!(cost(Duration::ZERO), 20, "its own request and the next");
        let later = cost(HALF_LIFE * 4);
        assert!(
            (80..90).contains(&later),
            "{later}: both of those, and nearly 7 others on average"
        );
    }

    #[test]
    fn a_burst_long_ago_is_forgotten() {
        let mut replica = replica(1000);
        assert_eq!(replica.cost(FORGOTTEN * 10, Duration::ZERO) / 1_000_000, 0);
    }

    #[test]
    fn own_requests_are_not_counted_twice_and_do_not_age() {
        let mut replica = replica(0);
        replica.sent();
        replica.sent();
        let two_of_us = Report {
            in_flight: 1,
            instances: 2,
            service: None,
        };
        replica.reports(MS, two_of_us);
        let cost = replica.cost(Duration::from_secs(9), Duration::ZERO);
        assert_eq!(cost / 100_000, 15, "3 × 1 ms ÷ 2 instances");
        replica.ended();
        assert_eq!(replica.in_flight(), 1);
    }

    #[test]
    fn the_answered_request_is_not_taken_for_one_of_others_places() {
        let mut replica = RemoteReplica::default();
        replica.sent();
        replica.reports(MS, report(1, MS));
        replica.ended();
        assert_eq!(
            replica.cost(MS, MS) / 1_000_000,
            2,
            "one of another router, and the next"
        );
    }

    #[test]
    fn a_replica_that_seemed_slow_is_tried_again_with_one_request() {
        let mut slow = replica(0);
        slow.reports(Duration::ZERO, report(0, 100 * MS));
        let quick = MS.as_nanos() as u64;
        assert!(slow.cost(FORGOTTEN * 6, MS) > quick);
        assert!(
            slow.cost(FORGOTTEN * 7, MS) < quick,
            "a hundred times slower: after seven halvings"
        );
        slow.sent();
        assert!(slow.cost(FORGOTTEN * 60, MS) > 100 * quick, "until it is heard of");
    }

    #[test]
    fn a_new_replica_starts_slow_and_starts() {
        let mut new = RemoteReplica::default();
        let came = Duration::from_secs(1000);
        assert!(new.cost(came, 10 * MS) >= 10_000_000, "as the slowest of its siblings");
        assert!(new.cost(came + FORGOTTEN * 4, 10 * MS) < 1_000_000);
        new.sent();
        assert!(new.cost(came + FORGOTTEN * 4, 10 * MS) > 10_000_000, "one at a time");
    }

    #[test]
    fn a_replica_that_fails_fast_is_tried_less_and_less_until_it_answers() {
        let mut replicas = [replica(0), replica(50)];
        let mut fails = |seconds: std::ops::Range<u32>, tried: &mut u32| {
            for step in seconds.start * 100..seconds.end * 100 {
                let now = 10 * MS * step;
                replicas[1].reports(now, report(50, MS));
                let costs = [replicas[0].cost(now, MS), replicas[1].cost(now, MS)];
                if choose(2, 0, 0, |index| costs[index]) == Some(0) {
                    *tried += 1;
                    replicas[0].reports(now, report(0, MS));
                    replicas[0].failed(now, None);
                }
            }
        };
        let (mut first, mut later) = (0, 0);
        fails(0..20, &mut first);
        fails(20..100, &mut later);
        assert!((2..=5).contains(&first), "{first} in 20 s");
        assert!((8..=11).contains(&later), "{later} in 80 s");
        replicas[0].measured_way(MS);
        replicas[0].reports(100_000 * MS, report(0, MS));
        replicas[0].failed(100_000 * MS, None);
        let again = replicas[0].cost(100_000 * MS, MS);
        assert!(
            again < 1_100_000_000,
            "an answer makes it a first failure again: {again}"
        );
    }

    #[test]
    fn where_all_failed_the_one_that_may_be_tried_first_is_used() {
        let mut replicas = [replica(0), replica(0), replica(0)];
        for (replica, at) in replicas.iter_mut().zip([30, 10, 20]) {
            replica.failed(at * MS, Some(PENALTY));
        }
        let costs = replicas.each_mut().map(|replica| replica.cost(40 * MS, MS));
        assert_eq!(choose(3, 0, 0, |index| costs[index]), Some(1));
    }

    #[test]
    fn nothing_overflows_or_is_worth_more_later() {
        let mut replica = replica(usize::MAX);
        replica.reports(Duration::ZERO, report(usize::MAX, Duration::MAX));
        assert_eq!(replica.cost(Duration::ZERO, MS), u64::MAX);
        assert!(replica.cost(Duration::MAX, Duration::MAX) < u64::MAX);
        let ages = (0..4000).map(|step| faded(1_000_000, MS * step, HALF_LIFE));
        assert!(ages.is_sorted_by(|before, after| before >= after));
        assert_eq!(faded(1_000_000, HALF_LIFE * 2, HALF_LIFE), 250_000);
    }

    #[test]
    fn a_failure_is_a_long_latency_and_an_answer_ends_it() {
        let mut replica = replica(0);
        replica.failed(MS, None);
        assert!(replica.cost(2 * MS, Duration::ZERO) > 900_000_000);
        replica.failed(MS, Some(Duration::from_secs(1_000_000)));
        assert!(
            replica.cost(MS, Duration::ZERO) < 11_000_000_000,
            "no replica is out for ever by its own word"
        );
        replica.reports(
            2 * MS,
            Report {
                in_flight: 0,
                instances: 1,
                service: None,
            },
        );
        assert!(replica.cost(2 * MS, Duration::ZERO) < 2_000_000);
    }

    #[test]
    fn an_equal_local_replica_is_cheaper() {
        let local = Load {
            in_flight: 0,
            service: Some(MS),
            capacity: 100,
        };
        assert!(replica(0).cost(Duration::ZERO, Duration::ZERO) > local.cost(Duration::ZERO));
    }
}
