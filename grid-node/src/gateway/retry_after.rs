//! When callers that were refused are told to come back: not all at once, or they meet again.

use std::time::Duration;

/// The wait and up to half as long again, by the `dice` of 0 to 1.
pub(crate) fn spread(wait: Duration, dice: f64) -> Duration {
    wait.saturating_add((wait / 2).mul_f64(dice.clamp(0.0, 1.0)))
}

/// The same in whole seconds, as `Retry-After` has them.
pub(crate) fn spread_seconds(seconds: u64, dice: f64) -> u64 {
    // Of one second, too, some are made two.
    let more = (seconds as f64 / 2.0 + 1.0) * dice.clamp(0.0, 1.0);
    seconds.saturating_add(more as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_refused_together_comes_back_over_half_the_wait_again() {
        let wait = Duration::from_millis(800);
        assert_eq!(
            [0.0, 0.5, 1.0].map(|dice| spread(wait, dice).as_millis()),
            [800, 1000, 1200]
        );
        assert_eq!(spread(Duration::MAX, 1.0), Duration::MAX);
        assert_eq!([0.0, 0.6, 0.7, 0.99].map(|dice| spread_seconds(1, dice)), [1, 1, 2, 2]);
        assert_eq!([0.0, 0.5, 0.99].map(|dice| spread_seconds(10, dice)), [10, 13, 15]);
    }
}
