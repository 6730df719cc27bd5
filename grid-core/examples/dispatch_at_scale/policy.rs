//! The policies that are compared, each as one client would follow it.

use std::time::Duration;

use grid_core::dispatch::choose;
use grid_core::dispatch::remote::{RemoteReplica, Report};
use grid_core::dispatch::retry::RetryBudget;
use rand::RngExt;
use rand::rngs::SmallRng;

use crate::prequal::Pool;
use crate::server::{INSTANCES, Server};
use crate::{MS, Nanos};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    RoundRobin,
    Random,
    /// The fewest requests of this client's own.
    LeastLoaded,
    /// The one of two with fewer of this client's own.
    TwoChoices,
    /// The product's code.
    Ours,
    Prequal,
    /// Sees every server as it is at that moment: a floor that no policy can reach.
    AllKnowing,
}

impl Policy {
    pub(crate) const ALL: [Self; 7] = [
        Self::RoundRobin,
        Self::Random,
        Self::LeastLoaded,
        Self::TwoChoices,
        Self::Ours,
        Self::Prequal,
        Self::AllKnowing,
    ];
}

/// A client and what it knows of the servers.
pub(crate) struct Client {
    policy: Policy,
    next: usize,
    replicas: Vec<RemoteReplica>,
    costs: Vec<u64>,
    pub(crate) pool: Pool,
    pub(crate) budget: RetryBudget,
}

impl Client {
    pub(crate) fn new(policy: Policy, servers: usize, rng: &mut SmallRng) -> Self {
        Self {
            policy,
            next: rng.random_range(0..servers),
            replicas: vec![RemoteReplica::default(); servers],
            costs: Vec::new(),
            pool: Pool::new(servers),
            budget: RetryBudget::default(),
        }
    }

    /// The server for a request that `tried` have missed already.
    pub(crate) fn pick(
        &mut self,
        now: Nanos,
        there: &[usize],
        tried: &[usize],
        servers: &[Server],
        rng: &mut SmallRng,
    ) -> usize {
        // All policies send a request elsewhere that was missed, not only ours.
        let own = |index: usize| match tried.contains(&there[index]) {
            true => usize::MAX,
            false => self.replicas[there[index]].in_flight(),
        };
        let count = there.len();
        let start = rng.random_range(0..count);
        let around = (0..count).map(|step| (start + step) % count);
        let index = match self.policy {
            Policy::RoundRobin => {
                self.next += 1;
                self.next % count
            }
            Policy::Random => start,
            Policy::LeastLoaded => around.min_by_key(|&index| own(index)).unwrap_or(start),
            Policy::TwoChoices => {
                let other = (start + rng.random_range(1..count.max(2))) % count;
                if own(other) < own(start) { other } else { start }
            }
            Policy::Ours => return self.ours(now, there, tried, rng),
            Policy::Prequal => return self.pool.pick(there, tried, rng),
            Policy::AllKnowing => {
                let cost = |index: usize| {
                    let server = &servers[there[index]];
                    let bad = server.health != crate::server::Health::Serves;
                    let speed = server.speed * server.cores.min(INSTANCES as f64);
                    let slowest = (server.in_flight() + 1).max(speed.ceil() as usize) as f64 / speed;
                    (bad, (slowest * 1e6) as u64)
                };
                around.min_by_key(|&index| cost(index)).unwrap_or(start)
            }
        };
        there[index]
    }

    /// As `attempt_among` of a node's router does for replicas on other nodes.
    fn ours(&mut self, now: Nanos, there: &[usize], tried: &[usize], rng: &mut SmallRng) -> usize {
        let now = Duration::from_nanos(now);
        let known = there.iter().filter_map(|&server| self.replicas[server].service());
        let unknown = known.max().unwrap_or_default();
        self.costs.clear();
        self.costs
            .extend(there.iter().map(|server| match tried.contains(server) {
                true => u64::MAX,
                false => self.replicas[*server].cost(now, unknown),
            }));
        let cost = |index: usize| self.costs[index];
        // Routers begin at different places.
        let start = self.next;
        there[choose(there.len(), start, rng.random(), cost).expect("there are servers")]
    }

    pub(crate) fn sent(&mut self, server: usize) {
        self.replicas[server].sent();
    }

    pub(crate) fn ended(&mut self, server: usize) {
        self.replicas[server].ended();
    }

    pub(crate) fn answered(&mut self, now: Nanos, server: usize, report: Report, way: Nanos) {
        let replica = &mut self.replicas[server];
        replica.reports(Duration::from_nanos(now), report);
        replica.measured_way(Duration::from_nanos(way));
    }

    pub(crate) fn failed(&mut self, now: Nanos, server: usize, report: Report, retry_after: Option<Duration>) {
        let replica = &mut self.replicas[server];
        replica.reports(Duration::from_nanos(now), report);
        replica.failed(Duration::from_nanos(now), retry_after);
        // Prequal shuns servers that fail; its paper does not say how, so: for as long as we do.
        self.pool.shun(
            server,
            now + retry_after.map_or(1000 * MS, |after| after.as_nanos() as Nanos),
        );
    }

    /// Servers to ask how they are, for a request that is sent now.
    pub(crate) fn probes(&self, there: &[usize], rng: &mut SmallRng) -> Vec<usize> {
        match self.policy {
            Policy::Prequal => (0..crate::prequal::PROBES)
                .map(|_| there[rng.random_range(0..there.len())])
                .collect(),
            _ => Vec::new(),
        }
    }
}
