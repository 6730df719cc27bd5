//! Whether a peer is still there: when to ping it, and when to give it up. No clock: the time comes in.

use std::time::Duration;

use tokio::time::Instant;

/// The shortest time that is taken for one: with none at all, a socket would do nothing but ping.
const LEAST: Duration = Duration::from_millis(1);
/// What is taken for a time that cannot be told.
const NEVER: Duration = Duration::from_secs(60 * 60 * 24 * 365);

/// What is to be done about a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing before then.
    Wait(Instant),
    /// To send a ping, and to look again.
    Ping,
    /// To give it up: bytes wait, and it takes none.
    SlowReader,
    /// To give it up: it does not answer.
    NoPong,
}

/// When a peer was heard of, and when it has to be.
#[derive(Debug)]
pub(super) struct Liveness {
    ping_interval: Duration,
    pong_timeout: Duration,
    send_timeout: Duration,
    heard: Instant,
    /// Since when something is to be heard: a ping was sent, and messages are read.
    asked: Option<Instant>,
    was_reading: bool,
}

impl Liveness {
    pub(super) fn new(now: Instant, ping_interval: Duration, pong_timeout: Duration, send_timeout: Duration) -> Self {
        let time = |time: Duration| time.clamp(LEAST, NEVER);
        Self {
            ping_interval: time(ping_interval),
            pong_timeout: time(pong_timeout),
            send_timeout: time(send_timeout),
            heard: now,
            asked: None,
            was_reading: true,
        }
    }

    /// Something arrived.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.asked = None;
    }

    /// What is to be done now. `read` tells whether what arrives is looked at; `waiting` since when bytes wait of which
    /// the peer takes none, if any wait.
    pub(super) fn look(&mut self, now: Instant, read: bool, waiting: Option<Instant>) -> Look {
        if read && !self.was_reading {
            // What arrived meanwhile was not looked at.
            self.asked = self.asked.map(|_| now);
        }
        self.was_reading = read;
        let slow = waiting.map(|since| since + self.send_timeout);
        if slow.is_some_and(|slow| now >= slow) {
            return Look::SlowReader;
        }
        let due = match self.asked {
            None => self.heard + self.ping_interval,
            // The ping may stand behind a large answer that the peer is taking.
            Some(asked) if read => waiting.map_or(asked, |moved| moved.max(asked)) + self.pong_timeout,
            // Nothing can be heard, but a ping to a peer that has gone brings a reset.
            Some(asked) => asked + self.ping_interval,
        };
        if now < due {
            return Look::Wait(slow.map_or(due, |slow| slow.min(due)));
        }
        if read && self.asked.is_some() {
            return Look::NoPong;
        }
        self.asked = Some(now);
        Look::Ping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: Duration = Duration::from_secs(20);
    const PONG: Duration = Duration::from_secs(10);
    const SEND: Duration = Duration::from_secs(30);
    const SECOND: Duration = Duration::from_secs(1);

    fn begin() -> (Instant, Liveness) {
        let now = Instant::now();
        (now, Liveness::new(now, PING, PONG, SEND))
    }

    #[test]
    fn a_silent_peer_is_pinged_and_then_given_up() {
        let (start, mut peer) = begin();
        assert_eq!(peer.look(start, true, None), Look::Wait(start + PING));
        let pinged = start + PING;
        assert_eq!(peer.look(pinged, true, None), Look::Ping);
        assert_eq!(peer.look(pinged, true, None), Look::Wait(pinged + PONG));
        assert_eq!(peer.look(pinged + PONG, true, None), Look::NoPong);
    }

    #[test]
    fn whatever_a_peer_sends_shows_that_it_is_there() {
        let (start, mut peer) = begin();
        peer.heard(start + SECOND);
        assert_eq!(peer.look(start + PING, true, None), Look::Wait(start + SECOND + PING));
        assert_eq!(peer.look(start + SECOND + PING, true, None), Look::Ping);
        peer.heard(start + PING + PONG);
        assert_eq!(
            peer.look(start + SECOND + PING + PONG, true, None),
            Look::Wait(start + PING + PONG + PING)
        );
    }

    #[test]
    fn a_pong_is_not_missed_behind_an_answer_that_the_peer_is_taking() {
        let (start, mut peer) = begin();
        let pinged = start + PING;
        assert_eq!(peer.look(pinged, true, Some(pinged)), Look::Ping);
        let moved = pinged + PONG - SECOND;
        assert_eq!(peer.look(pinged + PONG, true, Some(moved)), Look::Wait(moved + PONG));
    }

    #[test]
    fn a_peer_that_takes_nothing_is_given_up_whether_it_is_read_or_not() {
        for read in [false, true] {
            let (start, mut peer) = begin();
            let since = start + SECOND;
            assert_eq!(peer.look(since, read, Some(since)), Look::Wait(start + PING));
            peer.heard(start + PING);
            assert_eq!(peer.look(start + PING, read, Some(since)), Look::Wait(since + SEND));
            assert_eq!(peer.look(since + SEND, read, Some(since)), Look::SlowReader);
        }
    }

    #[test]
    fn a_peer_that_is_not_read_is_pinged_on_and_not_given_up() {
        let (start, mut peer) = begin();
        for round in 1..5 {
            let now = start + PING * round;
            assert_eq!(peer.look(now, false, None), Look::Ping);
            assert_eq!(peer.look(now, false, None), Look::Wait(now + PING));
        }
        let again = start + PING * 5;
        assert_eq!(
            peer.look(again, true, None),
            Look::Wait(again + PONG),
            "read again, it gets its time"
        );
    }

    #[test]
    fn no_time_is_too_short_or_too_long() {
        let now = Instant::now();
        let mut peer = Liveness::new(now, Duration::ZERO, Duration::MAX, Duration::MAX);
        assert_eq!(peer.look(now, true, None), Look::Wait(now + LEAST));
        assert_eq!(peer.look(now + LEAST, true, Some(now)), Look::Ping);
        assert!(matches!(peer.look(now + LEAST, true, Some(now)), Look::Wait(_)));
    }
}
