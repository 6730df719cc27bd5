//! When a shard actor that ended is started again.
//!
//! The restart intensity of Erlang's supervisors (at most `max_restarts` within `window`, then quarantine), with
//! exponential back-off between restarts, spread by jitter so that instances that fell together do not rise together.
//! What Erlang gives up for good is tried again here after `window`: what made it end may have been a client that has
//! gone.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How often and how fast a child is restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartPolicy {
    /// Restarts allowed within `window`; one more quarantines the child for as long as `window`.
    pub max_restarts: u32,
    /// The time in which restarts count together. A child that runs this long is stable: its back-off starts anew.
    pub window: Duration,
    /// Wait before the first restart.
    pub backoff: Duration,
    /// Longest wait before a restart.
    pub max_backoff: Duration,
}

/// What to do with a child that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Start it again after this time.
    RestartAfter(Duration),
    /// It ends too often: leave it down until `window` has passed, or until a person or a new version changes
    /// something. By then its exits have left the window, so it is tried with a clean record.
    Quarantine,
}

/// The exits of one child within the window.
#[derive(Clone, Debug, Default)]
pub struct RestartHistory {
    exits: VecDeque<Instant>,
}

impl RestartHistory {
    /// A child ended at `now`. `jitter` is a random number from 0 up to, not including, 1: the wait is between half and
    /// the whole of the exponential back-off.
    pub fn on_exit(&mut self, policy: &RestartPolicy, now: Instant, jitter: f64) -> Verdict {
        while self
            .exits
            .front()
            .is_some_and(|exit| now.saturating_duration_since(*exit) >= policy.window)
        {
            self.exits.pop_front();
        }
        let recent = u32::try_from(self.exits.len()).unwrap_or(u32::MAX);
        if recent >= policy.max_restarts {
            return Verdict::Quarantine;
        }
        self.exits.push_back(now);
        let doubled = policy
            .backoff
            .saturating_mul(1u32.checked_shl(recent).unwrap_or(u32::MAX));
        let wait = doubled.min(policy.max_backoff);
        Verdict::RestartAfter(wait.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY: RestartPolicy = RestartPolicy {
        max_restarts: 3,
        window: Duration::from_secs(60),
        backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(10),
    };

    #[test]
    fn waits_double_and_the_fourth_exit_quarantines() {
        let now = Instant::now();
        let mut history = RestartHistory::default();
        for expected in [100, 200, 400] {
            let wait = Duration::from_millis(expected).mul_f64(0.5);
            assert_eq!(history.on_exit(&POLICY, now, 0.0), Verdict::RestartAfter(wait));
        }
        assert_eq!(history.on_exit(&POLICY, now, 0.0), Verdict::Quarantine);
    }

    #[test]
    fn a_stable_window_starts_the_count_anew() {
        let now = Instant::now();
        let mut history = RestartHistory::default();
        for _ in 0..3 {
            history.on_exit(&POLICY, now, 0.5);
        }
        let later = now + POLICY.window;
        assert_eq!(
            history.on_exit(&POLICY, later, 0.0),
            Verdict::RestartAfter(POLICY.backoff / 2)
        );
    }

    #[test]
    fn after_a_quarantine_of_a_window_the_record_is_clean() {
        let now = Instant::now();
        let mut history = RestartHistory::default();
        while history.on_exit(&POLICY, now, 0.0) != Verdict::Quarantine {}
        let verdict = history.on_exit(&POLICY, now + POLICY.window, 0.0);
        assert_eq!(verdict, Verdict::RestartAfter(POLICY.backoff / 2));
    }

    proptest! {
        #[test]
        fn never_more_restarts_in_a_window_than_allowed_and_no_wait_over_the_most(
            gaps_ms in prop::collection::vec(0u64..40_000, 1..60), jitter in 0.0f64..1.0,
        ) {
            let mut now = Instant::now();
            let mut history = RestartHistory::default();
            let mut restarts: Vec<Instant> = vec![];
            for gap in gaps_ms {
                now += Duration::from_millis(gap);
                if let Verdict::RestartAfter(wait) = history.on_exit(&POLICY, now, jitter) {
                    prop_assert!(wait <= POLICY.max_backoff);
                    restarts.push(now);
                    let recent = restarts.iter().filter(|at| now.duration_since(**at) < POLICY.window).count();
                    prop_assert!(recent <= POLICY.max_restarts as usize);
                }
            }
        }
    }
}
