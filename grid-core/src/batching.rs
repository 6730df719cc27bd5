//! The queue before one instance, and which of its requests are computed together.
//!
//! The problem: requests arrive one by one, a run over several rows costs less than several runs, and nobody wants to
//! wait. Wanted:
//!
//! - (A) an instance that is idle when a request arrives starts it at once, alone if need be;
//! - (B) requests that arrive while a run is under way are stacked into the next one, as many as are compatible and as
//!   `max_rows` allows, which is never passed;
//! - (C) after a run the instance may hold a batch that is not full for company, but nobody longer than `max_delay`
//!   from its arrival: only then is company to be expected, since the answers just given bring the next requests;
//! - (D) requests of higher priority go first, and within one priority the oldest; companions may overtake requests
//!   that are incompatible with the batch, but the first in the queue always leads the next batch, so none starves;
//! - (E) the queue is bounded.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Priority of requests that name none. Lower numbers go first.
pub const DEFAULT_PRIORITY: u32 = 1 << 16;

/// How requests of one model are queued and stacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchPolicy {
    /// Most rows in one run; 0: each request runs alone, whatever its rows.
    pub max_rows: usize,
    /// Longest that a request is held for company, from its arrival.
    pub max_delay: Duration,
    /// Most requests waiting.
    pub bound: usize,
}

/// What the queue knows of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Requests with the same key can be stacked; see [`crate::tensor::Tensor`]s that differ in their rows alone.
    pub key: u64,
    /// Size of the first dimension.
    pub rows: usize,
    /// Lower goes first.
    pub priority: u32,
    /// When it came.
    pub arrived: Instant,
}

/// The queue of one instance.
#[derive(Debug)]
pub struct BatchQueue<T> {
    policy: BatchPolicy,
    /// By priority, then by order of arrival.
    waiting: BTreeMap<(u32, u64), (Entry, T)>,
    arrivals: u64,
    last_run_ended: Option<Instant>,
}

/// What an instance that is free should do.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<T> {
    /// Nothing waits.
    Empty,
    /// Hold the batch for company; ask again at this time, or when a request arrives.
    HoldUntil(Instant),
    /// Run these together.
    Run(Vec<T>),
}

impl<T> BatchQueue<T> {
    /// An empty queue.
    pub fn new(policy: BatchPolicy) -> Self {
        Self {
            policy,
            waiting: BTreeMap::new(),
            arrivals: 0,
            last_run_ended: None,
        }
    }

    /// The policy it was made with.
    pub fn policy(&self) -> BatchPolicy {
        self.policy
    }

    /// Requests waiting.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes a request in, or gives it back when the queue is full.
    ///
    /// # Errors
    /// The request, unchanged, when `bound` requests wait already.
    pub fn push(&mut self, entry: Entry, item: T) -> Result<(), T> {
        if self.waiting.len() >= self.policy.bound {
            return Err(item);
        }
        self.arrivals += 1;
        self.waiting.insert((entry.priority, self.arrivals), (entry, item));
        Ok(())
    }

    /// A run of the instance has ended: what arrived before now arrived while it was busy.
    pub fn run_ended(&mut self, now: Instant) {
        self.last_run_ended = Some(now);
    }

    /// Takes out what `is_dead` says nobody waits for any more (cancelled, or past its deadline).
    pub fn sweep(&mut self, mut is_dead: impl FnMut(&T) -> bool) -> Vec<T> {
        self.waiting
            .extract_if(.., |_, (_, item)| is_dead(item))
            .map(|(_, (_, item))| item)
            .collect()
    }

    /// Takes everything out, in order.
    pub fn drain(&mut self) -> Vec<T> {
        std::mem::take(&mut self.waiting)
            .into_values()
            .map(|(_, item)| item)
            .collect()
    }

    /// What the instance, now free, should do. `slots` is how many requests it can take beside those that are already
    /// resident in it.
    pub fn next(&mut self, now: Instant, slots: usize) -> Next<T> {
        let Some((_, (lead, _))) = self.waiting.first_key_value() else {
            return Next::Empty;
        };
        if slots == 0 {
            return Next::Run(Vec::new());
        }
        let lead = *lead;
        let stacks = self.policy.max_rows > 0;
        // The lead has been checked against `max_rows` at admission; a lead over it would still run alone.
        let most = if stacks { self.policy.max_rows.min(slots) } else { 1 };
        let mut rows = lead.rows;
        let mut chosen = Vec::with_capacity(most.min(self.waiting.len()));
        let mut oldest = lead.arrived;
        let mut full = !stacks || rows >= self.policy.max_rows;
        for (position, (entry, _)) in &self.waiting {
            if chosen.len() == most {
                full = true;
                break;
            }
            if chosen.is_empty() {
                chosen.push(*position);
            } else if stacks && entry.key == lead.key {
                if rows + entry.rows > self.policy.max_rows {
                    full = true;
                    continue;
                }
                rows += entry.rows;
                oldest = oldest.min(entry.arrived);
                chosen.push(*position);
            }
        }
        full |= chosen.len() == most || rows >= self.policy.max_rows;

        let arrived_while_busy = self.last_run_ended.is_some_and(|ended| oldest <= ended);
        let hold_until = oldest + self.policy.max_delay;
        if !full && arrived_while_busy && now < hold_until {
            return Next::HoldUntil(hold_until);
        }
        Next::Run(
            chosen
                .iter()
                .filter_map(|position| self.waiting.remove(position))
                .map(|(_, item)| item)
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policy(max_rows: usize, delay_ms: u64) -> BatchPolicy {
        BatchPolicy {
            max_rows,
            max_delay: Duration::from_millis(delay_ms),
            bound: 100,
        }
    }

    fn entry(key: u64, rows: usize, arrived: Instant) -> Entry {
        Entry {
            key,
            rows,
            priority: DEFAULT_PRIORITY,
            arrived,
        }
    }

    #[test]
    fn an_idle_instance_never_waits() {
        let now = Instant::now();
        let mut queue = BatchQueue::new(policy(8, 50));
        queue.push(entry(0, 1, now), 'a').unwrap();
        assert_eq!(queue.next(now, usize::MAX), Next::Run(vec!['a']));
        queue.run_ended(now);
        let later = now + Duration::from_millis(1);
        queue.push(entry(0, 1, later), 'b').unwrap();
        assert_eq!(queue.next(later, usize::MAX), Next::Run(vec!['b']));
    }

    #[test]
    fn what_came_during_a_run_is_held_for_company_no_longer_than_the_delay() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut queue = BatchQueue::new(policy(3, 10));
        queue.push(entry(0, 1, at(0)), 'a').unwrap();
        queue.run_ended(at(4));
        assert_eq!(queue.next(at(4), usize::MAX), Next::HoldUntil(at(10)));
        queue.push(entry(0, 1, at(5)), 'b').unwrap();
        assert_eq!(queue.next(at(5), usize::MAX), Next::HoldUntil(at(10)));
        queue.push(entry(0, 1, at(6)), 'c').unwrap();
        assert_eq!(queue.next(at(6), usize::MAX), Next::Run(vec!['a', 'b', 'c']));
        queue.push(entry(0, 1, at(7)), 'd').unwrap();
        queue.run_ended(at(8));
        assert_eq!(queue.next(at(17), usize::MAX), Next::Run(vec!['d']));
    }

    #[test]
    fn higher_priority_goes_first_and_incompatible_requests_run_apart() {
        let now = Instant::now();
        let mut queue = BatchQueue::new(policy(8, 0));
        queue.push(entry(1, 1, now), 'a').unwrap();
        queue.push(entry(2, 1, now), 'b').unwrap();
        queue.push(entry(1, 1, now), 'c').unwrap();
        let urgent = Entry {
            priority: 1,
            ..entry(2, 1, now)
        };
        queue.push(urgent, 'd').unwrap();
        assert_eq!(queue.next(now, usize::MAX), Next::Run(vec!['d', 'b']));
        assert_eq!(queue.next(now, usize::MAX), Next::Run(vec!['a', 'c']));
        assert_eq!(queue.next(now, usize::MAX), Next::Empty);
    }

    #[test]
    fn a_full_queue_gives_the_request_back() {
        let now = Instant::now();
        let mut queue = BatchQueue::new(BatchPolicy {
            bound: 1,
            ..policy(0, 0)
        });
        assert_eq!(queue.push(entry(0, 1, now), 'a'), Ok(()));
        assert_eq!(queue.push(entry(0, 1, now), 'b'), Err('b'));
        assert_eq!(queue.sweep(|_| true), vec!['a']);
        assert_eq!(queue.push(entry(0, 1, now), 'b'), Ok(()));
    }

    proptest! {
        #[test]
        fn every_request_runs_once_in_batches_within_the_limit(
            requests in prop::collection::vec((0u64..3, 0usize..5, 0u32..3), 1..60),
            max_rows in 0usize..6,
            slots in 1usize..8,
        ) {
            let now = Instant::now();
            let mut queue = BatchQueue::new(policy(max_rows, 0));
            let mut expected = vec![];
            for (index, &(key, rows, priority)) in requests.iter().enumerate() {
                if max_rows > 0 && rows > max_rows { continue }
                queue.push(Entry { key, rows, priority, arrived: now }, index).unwrap();
                expected.push(index);
            }
            let mut seen = vec![];
            while let Next::Run(batch) = queue.next(now, slots) {
                prop_assert!(!batch.is_empty());
                prop_assert!(batch.len() <= slots.max(1));
                let rows: usize = batch.iter().map(|&index| requests[index].1).sum();
                prop_assert!(batch.len() == 1 || rows <= max_rows);
                prop_assert!(batch.iter().all(|&index| requests[index].0 == requests[batch[0]].0));
                seen.extend(batch);
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, expected);
        }
    }
}
