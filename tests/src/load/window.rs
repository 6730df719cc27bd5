//! The counted part of a run, and the clocks that it is measured by.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// How late the kernel may wake an open loop. Its default of 50 µs would be measured as latency of the server.
const TIMER_SLACK_NANOSECONDS: u64 = 1_000;

/// From warm-up's end to the end of the duration.
pub(super) struct Window {
    pub(super) from: Instant,
    pub(super) to: Instant,
    /// The thread's CPU time when the loop saw the window open, and close.
    opened: Option<Duration>,
    closed: Option<Duration>,
}

impl Window {
    pub(super) fn new(from: Instant, length: Duration) -> Self {
        Self {
            from,
            to: from + length,
            opened: None,
            closed: None,
        }
    }

    pub(super) fn contains(&self, moment: Instant) -> bool {
        (self.from..self.to).contains(&moment)
    }

    pub(super) fn length(&self) -> Duration {
        self.to - self.from
    }

    pub(super) fn observe(&mut self, now: Instant) {
        if self.opened.is_none() && now >= self.from {
            self.opened = Some(thread_cpu());
        }
        if self.closed.is_none() && now >= self.to {
            self.closed = Some(thread_cpu());
        }
    }

    /// Whether the loop has seen its end.
    pub(super) fn is_over(&self) -> bool {
        self.closed.is_some()
    }

    /// CPU time that the thread spent within.
    pub(super) fn cpu(&self) -> Duration {
        let now = thread_cpu();
        let closed = self.closed.unwrap_or(now);
        closed.saturating_sub(self.opened.unwrap_or(now))
    }
}

/// Wakes the thread on time for as long as it lives.
pub(super) struct FineTimer {
    before: u64,
}

impl FineTimer {
    pub(super) fn set() -> Self {
        let before = rustix::thread::current_timer_slack().unwrap_or(0);
        // Without it latencies are some 50 µs too long, and nothing else is wrong.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(TIMER_SLACK_NANOSECONDS));
        Self { before }
    }
}

impl Drop for FineTimer {
    fn drop(&mut self) {
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(self.before));
    }
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
