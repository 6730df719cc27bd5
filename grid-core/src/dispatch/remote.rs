//! The load of a replica on another node, as one router knows it.
//!
//! It knows its own requests at once and those of others only from what answers say, which grows old. So what was reported
//! counts less the older it is: after [`HALF_LIFE`] half of it. A replica of which nothing was heard for a second counts
//! as one with this router's requests alone, and so is tried again.

use std::time::Duration;

use super::{Load, smooth};

/// When a report of others' requests counts half.
pub const HALF_LIFE: Duration = Duration::from_millis(100);

/// What a failure costs that names no time: the replica is avoided for so long, unless all are.
pub const PENALTY: Duration = Duration::from_secs(1);

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
    /// Requests of others, when they were last reported.
    others: usize,
    heard: Duration,
    instances: usize,
    service: Option<Duration>,
    /// What the way takes beside queue and run.
    way: Duration,
    avoided_until: Duration,
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

    /// An answer reports its load.
    pub fn reports(&mut self, now: Duration, report: Report) {
        self.others = report.in_flight.saturating_sub(self.in_flight);
        self.heard = now;
        self.instances = report.instances;
        self.service = report.service.or(self.service);
        self.avoided_until = Duration::ZERO;
    }

    /// What the way of an answered request took beside queue and run.
    pub fn measured_way(&mut self, way: Duration) {
        self.way = smooth(self.way, way);
    }

    /// It failed, or says that it may be tried after a while. Who fails at once would otherwise seem the quickest.
    pub fn failed(&mut self, now: Duration, retry_after: Option<Duration>) {
        self.avoided_until = self
            .avoided_until
            .max(now + retry_after.unwrap_or(PENALTY).min(PENALTY * 10));
    }

    /// Requests of this router.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// What one request takes of an instance, as far as is known.
    pub fn service(&self) -> Option<Duration> {
        self.service
    }

    /// Time until one more request would be answered, in nanoseconds: comparable with [`Load::cost`].
    pub fn cost(&self, now: Duration, unknown: Duration) -> u64 {
        let age = now.saturating_sub(self.heard);
        let halvings = u32::try_from(age.as_nanos() / HALF_LIFE.as_nanos()).unwrap_or(u32::MAX);
        let others = self.others.checked_shr(halvings).unwrap_or(0);
        let load = Load {
            in_flight: self.in_flight + others,
            service: self.service,
            capacity: u32::try_from(self.instances.max(1).saturating_mul(100)).unwrap_or(u32::MAX),
        };
        let avoided = self.avoided_until.saturating_sub(now);
        let nanoseconds = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        // Never equal to a local replica of the same load: between equals, the one without a way wins.
        let way = nanoseconds(self.way).max(1);
        load.cost(unknown)
            .saturating_add(way)
            .saturating_add(nanoseconds(avoided))
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn what_was_reported_counts_less_the_older_it_is() {
        let replica = replica(8);
        let cost = |at| replica.cost(at, Duration::ZERO) / 1_000_000;
        assert_eq!(cost(Duration::ZERO), 9);
        assert_eq!(cost(HALF_LIFE), 5);
        assert_eq!(cost(HALF_LIFE * 10), 1);
        assert_eq!(cost(Duration::MAX), 1);
    }

    #[test]
    fn own_requests_are_not_counted_twice_and_do_not_age() {
        let mut replica = replica(0);
        replica.sent();
        replica.sent();
        replica.reports(
            MS,
            Report {
                in_flight: 2,
                instances: 2,
                service: None,
            },
        );
        assert_eq!(
            replica.cost(Duration::from_secs(9), Duration::ZERO) / 100_000,
            15,
            "3 × 1 ms ÷ 2 instances"
        );
        replica.ended();
        assert_eq!(replica.in_flight(), 1);
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
