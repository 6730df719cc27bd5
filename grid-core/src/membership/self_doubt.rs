//! A node that is unwell trusts its own suspicions less.
//!
//! SWIM takes silence for the other's fault. But a node that was paused, or is starved of CPU, finds on waking that its
//! timers are due, runs them, and only then reads the answers that had come in time: so a slow node declares healthy
//! ones down. Lifeguard (Dadgar, Phillips, Currey 2018, "Lifeguard: Local Health Awareness for More Accurate Failure
//! Detection") has a node keep a score of its own health and stretch its probes by it, and that is what is here; foca
//! has none of it. Two things differ:
//!
//! - Time in which the node did not run does not count: when timers are served late, all are put off by as much and a
//!   little more, so that what waits in the socket is read first. Lifeguard sees a pause only by the probes that fail
//!   of it.
//! - A failed probe raises the score only if the one before it had failed too, of another node. One node that is
//!   silent is probably gone, and doubting ourselves for that would delay its detection in a grid of three; two in a
//!   row are more likely our own fault. Suspicions are stretched like probes, as foca does not wait longer for want of
//!   witnesses.

use std::time::Duration;

use crate::cluster::NodeName;

/// Highest score, Lifeguard's "saturation". At it everything takes nine times as long.
const MAX_SCORE: u32 = 8;

/// Later than this and the node has not run in between. Well above what a busy scheduler does, well below what a probe
/// waits for its answer.
const LATE: Duration = Duration::from_millis(100);

/// Time to read what came during a pause.
const CATCH_UP: Duration = Duration::from_millis(200);

/// Time after a pause in which what is read may have waited in the socket.
const STALE: Duration = Duration::from_secs(2);

/// How well the node itself is.
#[derive(Debug)]
pub(super) struct SelfDoubt {
    enabled: bool,
    score: u32,
    failed: Option<NodeName>,
    /// The timers were put off already. They then run, however late: a node that is always late must still do its part.
    put_off: bool,
    paused: Option<Duration>,
}

impl SelfDoubt {
    pub(super) fn new(enabled: bool) -> Self {
        Self {
            enabled,
            score: 0,
            failed: None,
            put_off: false,
            paused: None,
        }
    }

    /// The node runs, at `now`; its next timer is due at `due`. Returns by how much all timers are to be put off.
    pub(super) fn runs(&mut self, now: Duration, due: Option<Duration>) -> Option<Duration> {
        let late = now.saturating_sub(due?);
        if late <= LATE {
            return None;
        }
        self.paused = Some(now);
        if !self.enabled || self.put_off {
            return None;
        }
        self.put_off = true;
        self.score = (self.score + 1).min(MAX_SCORE);
        Some(late + CATCH_UP)
    }

    /// Timers were served.
    pub(super) fn served(&mut self) {
        self.put_off = false;
    }

    /// A probe came to its end.
    pub(super) fn probed(&mut self, peer: NodeName, answered: bool) {
        if answered {
            self.score = self.score.saturating_sub(1);
            self.failed = None;
            return;
        }
        if self.failed.as_ref().is_some_and(|before| *before != peer) {
            self.score = (self.score + 1).min(MAX_SCORE);
        }
        self.failed = Some(peer);
    }

    /// What was said to take this long takes so long when we are as well as we are.
    pub(super) fn stretch(&self, wait: Duration) -> Duration {
        match self.enabled {
            true => wait * (1 + self.score),
            false => wait,
        }
    }

    /// What is read now may have come long ago.
    pub(super) fn reads_old(&self, now: Duration) -> bool {
        self.paused.is_some_and(|paused| now.saturating_sub(paused) < STALE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    #[test]
    fn time_in_which_the_node_did_not_run_does_not_count() {
        let mut doubt = SelfDoubt::new(true);
        assert_eq!(doubt.runs(SECOND + LATE, Some(SECOND)), None);
        assert_eq!(doubt.runs(SECOND * 4, Some(SECOND)), Some(SECOND * 3 + CATCH_UP));
        assert_eq!(doubt.stretch(SECOND), SECOND * 2);
    }

    #[test]
    fn a_node_that_is_always_late_still_serves_its_timers_every_other_time() {
        let mut doubt = SelfDoubt::new(true);
        assert!(doubt.runs(SECOND * 2, Some(SECOND)).is_some());
        assert!(doubt.runs(SECOND * 4, Some(SECOND * 2)).is_none());
        doubt.served();
        assert!(doubt.runs(SECOND * 6, Some(SECOND * 5)).is_some());
    }

    #[test]
    fn one_silent_node_is_its_own_fault_and_two_in_a_row_may_be_ours() {
        let mut doubt = SelfDoubt::new(true);
        doubt.probed(name("a"), false);
        doubt.probed(name("a"), false);
        assert_eq!(doubt.stretch(SECOND), SECOND);
        doubt.probed(name("b"), false);
        assert_eq!(doubt.stretch(SECOND), SECOND * 2);
        doubt.probed(name("c"), true);
        assert_eq!(doubt.stretch(SECOND), SECOND);
    }

    #[test]
    fn doubt_has_a_bound() {
        let mut doubt = SelfDoubt::new(true);
        for probe in 0..100 {
            doubt.probed(name(["a", "b"][probe % 2]), false);
        }
        assert_eq!(doubt.stretch(SECOND), SECOND * 9);
    }
}
