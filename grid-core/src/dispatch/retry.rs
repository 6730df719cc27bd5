//! Whether a request that did not get its answer is sent again.
//!
//! Retries multiply load just when there is too much of it. So all requests of a node, or of a client, share one budget:
//! each request adds a fifth of a retry to it, so that a grid in trouble sees at most a fifth more requests, and a part
//! comes back with time, so that a quiet node can retry too (as Finagle's RetryBudget does).

use std::time::Duration;

/// How an attempt ended without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    /// It surely did not run: it was never sent, or the node does not host the model, or the replica ended before.
    NotRun,
    /// The replica has more to do than it can.
    Overloaded,
    /// The node was lost after it was sent: it may have run.
    Lost,
}

/// Retries that are left at the start, and most that are ever saved up.
const MOST: u64 = 1000;
/// Retries that come back in each second.
const PER_SECOND: u64 = 10;
/// What one request adds, in thousandths of a retry.
const PER_REQUEST: u64 = 200;
/// Most attempts of one request. A request that was refused by so many replicas one after the other fails for a reason.
pub const MOST_ATTEMPTS: u32 = 8;

/// The retries that are left, for all requests together.
#[derive(Clone, Debug)]
pub struct RetryBudget {
    thousandths: u64,
    filled: Duration,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            thousandths: MOST * 1000,
            filled: Duration::ZERO,
        }
    }
}

impl RetryBudget {
    /// A request comes.
    pub fn request(&mut self) {
        self.add(PER_REQUEST);
    }

    fn add(&mut self, thousandths: u64) {
        self.thousandths = self.thousandths.saturating_add(thousandths).min(MOST * 1000);
    }

    /// Whether a request may be sent once more, after `attempts` that missed; takes the retry from the budget then. What
    /// may have run is sent again only when running twice does no harm (`is_stateless`).
    pub fn may_retry(&mut self, now: Duration, miss: Miss, attempts: u32, is_stateless: bool) -> bool {
        let since = now.saturating_sub(self.filled);
        if since >= Duration::from_secs(1) {
            self.filled = now;
            self.add(since.as_secs().saturating_mul(PER_SECOND * 1000));
        }
        let is_allowed = match miss {
            Miss::NotRun | Miss::Overloaded => true,
            Miss::Lost => is_stateless,
        };
        if !is_allowed || attempts >= MOST_ATTEMPTS || self.thousandths < 1000 {
            return false;
        }
        self.thousandths -= 1000;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_run_is_sent_again_only_where_that_does_no_harm() {
        let mut budget = RetryBudget::default();
        assert!(budget.may_retry(Duration::ZERO, Miss::Lost, 1, true));
        assert!(!budget.may_retry(Duration::ZERO, Miss::Lost, 1, false));
        assert!(budget.may_retry(Duration::ZERO, Miss::NotRun, 1, false));
        assert!(!budget.may_retry(Duration::ZERO, Miss::NotRun, MOST_ATTEMPTS, false));
    }

    #[test]
    fn when_all_fail_at_most_a_fifth_more_is_sent() {
        let mut budget = RetryBudget::default();
        let mut retries = 0;
        for _ in 0..100_000 {
            budget.request();
            retries += u64::from(budget.may_retry(Duration::ZERO, Miss::Overloaded, 1, true));
        }
        assert!(retries <= MOST + 20_000, "{retries}");
    }

    #[test]
    fn a_quiet_node_gets_retries_back_with_time_and_never_more_than_there_are() {
        let mut budget = RetryBudget::default();
        let spent = |budget: &mut RetryBudget, now| {
            (0..5000)
                .filter(|_| budget.may_retry(now, Miss::NotRun, 1, true))
                .count()
        };
        assert_eq!(spent(&mut budget, Duration::ZERO), 1000);
        assert_eq!(spent(&mut budget, Duration::from_secs(3)), 30);
        assert_eq!(spent(&mut budget, Duration::from_secs(1_000_000)), 1000);
    }
}
