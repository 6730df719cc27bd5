//! A node that serves: one queue, some instances, and cores that it has to share with others.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use grid_core::dispatch::remote::Report;
use grid_core::dispatch::{expected_wait, smooth};

use crate::{MS, Nanos};

/// Cores that are a server's own whatever others do.
pub(crate) const ALLOCATED: f64 = 2.0;
/// Requests that run side by side, so the most cores that it can make use of.
pub(crate) const INSTANCES: usize = 6;
/// Latencies kept for each number of requests in flight, as Prequal's estimator wants them.
const KEPT: usize = 9;
const BUCKETS: usize = 64;

/// What a server does with requests.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    Serves,
    FailsFast,
    /// Not there yet: nobody knows of it.
    Absent,
}

struct Running {
    request: usize,
    begun: Nanos,
    arrived: Nanos,
    in_flight_then: usize,
}

struct Waiting {
    request: usize,
    work: f64,
    arrived: Nanos,
    in_flight_then: usize,
}

pub(crate) struct Server {
    pub(crate) health: Health,
    /// Cores that the neighbours leave it.
    pub(crate) cores: f64,
    /// Speed of a core; 1 is an ordinary one.
    pub(crate) speed: f64,
    /// Changes whenever the next completion does, which makes the announced one void.
    pub(crate) epoch: u64,
    queue: VecDeque<Waiting>,
    /// By the work that each instance has done when they finish: all that run advance alike, so the order stays.
    running: BinaryHeap<Reverse<(u64, usize)>>,
    slots: Vec<Option<Running>>,
    done_work: f64,
    updated: Nanos,
    service: Duration,
    latencies: Vec<VecDeque<Nanos>>,
}

/// A run that is over.
pub(crate) struct Finished {
    pub(crate) request: usize,
    pub(crate) queued: Nanos,
    pub(crate) computed: Nanos,
}

impl Server {
    pub(crate) fn new() -> Self {
        Self {
            health: Health::Serves,
            cores: INSTANCES as f64,
            speed: 1.0,
            epoch: 0,
            queue: VecDeque::new(),
            running: BinaryHeap::new(),
            slots: (0..INSTANCES).map(|_| None).collect(),
            done_work: 0.0,
            updated: 0,
            service: Duration::ZERO,
            latencies: vec![VecDeque::new(); BUCKETS],
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.queue.len() + self.running.len()
    }

    /// Work of one core, in nanoseconds, that each running request gets done in a nanosecond.
    fn rate(&self) -> f64 {
        self.speed * (self.cores / self.running.len().max(1) as f64).min(1.0)
    }

    /// To be called before anything changes.
    pub(crate) fn advance(&mut self, now: Nanos) {
        self.done_work += (now - self.updated) as f64 * self.rate();
        self.updated = now;
    }

    /// When the next run ends if nothing changes.
    pub(crate) fn next_end(&mut self) -> Option<(Nanos, u64)> {
        self.epoch += 1;
        let Reverse((target, _)) = self.running.peek()?;
        let left = (*target as f64 - self.done_work).max(0.0);
        Some((self.updated + (left / self.rate()).ceil() as Nanos, self.epoch))
    }

    /// How long to stay away, when a request that has so much time left would not be answered in time.
    pub(crate) fn refuses(&self, remaining: Nanos) -> Option<Duration> {
        let wait = expected_wait(self.in_flight(), self.service) / INSTANCES as u32;
        let excess = wait.checked_sub(Duration::from_nanos(remaining))?;
        Some(excess.max(Duration::from_millis(10)))
    }

    pub(crate) fn accept(&mut self, now: Nanos, request: usize, work: f64) {
        let in_flight_then = self.in_flight();
        self.queue.push_back(Waiting {
            request,
            work,
            arrived: now,
            in_flight_then,
        });
    }

    /// Begins what can run; `is_over` says which waiting requests are past their deadline and are not run.
    pub(crate) fn begin(&mut self, now: Nanos, is_over: impl Fn(usize) -> bool) -> Vec<usize> {
        let mut dropped = Vec::new();
        while self.running.len() < INSTANCES {
            let Some(next) = self.queue.pop_front() else { break };
            if is_over(next.request) {
                dropped.push(next.request);
                continue;
            }
            let slot = self
                .slots
                .iter()
                .position(Option::is_none)
                .expect("fewer run than there are slots");
            self.running.push(Reverse(((self.done_work + next.work) as u64, slot)));
            self.slots[slot] = Some(Running {
                request: next.request,
                begun: now,
                arrived: next.arrived,
                in_flight_then: next.in_flight_then,
            });
        }
        dropped
    }

    /// The run whose end was announced.
    pub(crate) fn finish(&mut self, now: Nanos) -> Finished {
        let Reverse((_, slot)) = self.running.pop().expect("a run was announced");
        let run = self.slots[slot].take().expect("it runs in a slot");
        let computed = now - run.begun;
        self.service = smooth(self.service, Duration::from_nanos(computed));
        let kept = &mut self.latencies[run.in_flight_then.min(BUCKETS - 1)];
        kept.push_back(now - run.arrived);
        if kept.len() > KEPT {
            kept.pop_front();
        }
        Finished {
            request: run.request,
            queued: run.begun - run.arrived,
            computed,
        }
    }

    /// What an answer tells, as a node's does: the answered request is not counted any more.
    pub(crate) fn report(&self) -> Report {
        Report {
            in_flight: self.in_flight(),
            instances: INSTANCES,
            service: Some(self.service).filter(|service| !service.is_zero()),
        }
    }

    /// Median of the latest latencies of requests that came with as many in flight as now, or nearly.
    pub(crate) fn latency_now(&self) -> Nanos {
        let here = self.in_flight().min(BUCKETS - 1);
        let near = (0..BUCKETS)
            .flat_map(|off| [here.checked_sub(off), Some(here + off)])
            .flatten()
            .find(|&bucket| self.latencies.get(bucket).is_some_and(|kept| !kept.is_empty()));
        let Some(near) = near else { return 13 * MS };
        let mut kept: Vec<Nanos> = self.latencies[near].iter().copied().collect();
        kept.sort_unstable();
        kept[kept.len() / 2]
    }
}
