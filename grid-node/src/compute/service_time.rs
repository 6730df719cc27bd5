//! What runs of an instance take, learned as they happen.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use grid_core::dispatch::{smooth, smooth_steadily};

/// Size classes by the binary logarithm of the input bytes; the last takes all above 2 GiB.
const CLASSES: usize = 32;

/// Smoothed run times of one instance. Reading takes no lock. Two writers at once may lose one of their samples.
#[derive(Debug)]
pub(super) struct ServiceTime {
    /// Time of the instance that one request takes, stacked or not.
    per_request: AtomicNanos,
    /// Length of a run.
    per_run: AtomicNanos,
    /// Length of a run by the size of its inputs: a model may take microseconds for one row and seconds for a thousand,
    /// and only the former may run on a caller's thread.
    by_size: [AtomicNanos; CLASSES],
}

#[derive(Debug, Default)]
struct AtomicNanos(AtomicU64);

impl AtomicNanos {
    fn get(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    fn known(&self) -> Option<Duration> {
        Some(self.get()).filter(|time| !time.is_zero())
    }

    fn add(&self, sample: Duration, smooth: fn(Duration, Duration) -> Duration) {
        let smoothed = smooth(self.get(), sample);
        // At least one: zero stands for unknown.
        let nanos = u64::try_from(smoothed.as_nanos()).unwrap_or(u64::MAX).max(1);
        self.0.store(nanos, Ordering::Relaxed);
    }
}

fn class(bytes: usize) -> usize {
    (bytes.max(1).ilog2() as usize).min(CLASSES - 1)
}

impl ServiceTime {
    pub(super) fn new() -> Self {
        Self {
            per_request: AtomicNanos::default(),
            per_run: AtomicNanos::default(),
            by_size: std::array::from_fn(|_| AtomicNanos::default()),
        }
    }

    /// A step of the instance.
    pub(super) fn add_run(&self, ran: Duration) {
        self.per_run.add(ran, smooth);
    }

    /// The time of the instance that each of some requests took, which finished together.
    pub(super) fn add_requests(&self, each: Duration) {
        self.per_request.add(each, smooth);
    }

    /// A run that finished all its requests in its one step, by the size of their inputs.
    pub(super) fn add_size(&self, ran: Duration, bytes: usize) {
        self.by_size[class(bytes)].add(ran, smooth_steadily);
    }

    /// `None` before the first answer.
    pub(super) fn per_request(&self) -> Option<Duration> {
        self.per_request.known()
    }

    /// `None` before the first run.
    pub(super) fn per_run(&self) -> Option<Duration> {
        self.per_run.known()
    }

    /// `None` before the first run of that size.
    pub(super) fn of_size(&self, bytes: usize) -> Option<Duration> {
        self.by_size[class(bytes)].known()
    }
}
