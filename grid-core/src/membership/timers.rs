//! What foca wants to be reminded of.

use std::collections::BTreeMap;
use std::time::Duration;

use foca::Timer;

use super::packet::Identity;

/// foca's timers by time; those of one time in the order in which they were set.
#[derive(Default)]
pub(super) struct Timers {
    due: BTreeMap<(Duration, u64), Timer<Identity>>,
    set: u64,
}

impl Timers {
    pub(super) fn set(&mut self, at: Duration, timer: Timer<Identity>) {
        self.due.insert((at, self.set), timer);
        self.set += 1;
    }

    pub(super) fn next(&self) -> Option<Duration> {
        self.due.first_key_value().map(|(key, _)| key.0)
    }

    /// Takes out one that is due at `now`.
    pub(super) fn due(&mut self, now: Duration) -> Option<Timer<Identity>> {
        let first = self.due.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    /// Puts all off by as much.
    pub(super) fn put_off(&mut self, by: Duration) {
        let due = std::mem::take(&mut self.due);
        self.due = due
            .into_iter()
            .map(|((at, set), timer)| ((at + by, set), timer))
            .collect();
    }

    pub(super) fn clear(&mut self) {
        self.due.clear();
    }
}
