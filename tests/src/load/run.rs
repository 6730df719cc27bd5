//! The loop: one thread, one epoll, all connections.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;

use super::connection::{Answer, Connection};
use super::poller::{Events, Poller};
use super::report::Recorder;
use super::window::{FineTimer, Window};
use super::{Check, DRAIN_LIMIT, Load, LoadError, LoadReport, Pace, SCRATCH};

struct Run<'a> {
    load: &'a Load,
    check: &'a Check,
    poller: Poller,
    /// None where the server went away and takes no new connection.
    connections: Vec<Option<Connection>>,
    /// Connections whose first answer was looked at. A connection that replaces a broken one is looked at again.
    checked: Vec<bool>,
    idle: VecDeque<usize>,
    length: Option<usize>,
    recorder: Recorder,
    scratch: Vec<u8>,
    timetable: Timetable,
    window: Window,
}

/// When requests are due.
struct Timetable {
    start: Instant,
    pace: Pace,
    /// Requests of the open loop that were sent.
    sent: u64,
}

pub(super) fn run(load: &Load, check: &Check, pace: Pace) -> Result<LoadReport, LoadError> {
    if load.connections == 0 || load.duration.is_zero() {
        return Err(LoadError::Invalid("a load needs a connection and a duration"));
    }
    let _slack = matches!(pace, Pace::Every { .. }).then(FineTimer::set);
    let mut run = Run {
        load,
        check,
        poller: Poller::new()?,
        connections: Vec::with_capacity(load.connections),
        checked: vec![false; load.connections],
        idle: (0..load.connections).collect(),
        length: None,
        recorder: Recorder::new()?,
        scratch: vec![0; SCRATCH],
        timetable: Timetable {
            start: Instant::now(),
            pace,
            sent: 0,
        },
        window: Window::new(Instant::now(), Duration::ZERO),
    };
    for index in 0..load.connections {
        let connection = run.open(index)?;
        run.connections.push(Some(connection));
    }
    let start = Instant::now();
    run.timetable.start = start;
    run.window = Window::new(start + load.warm_up, load.duration);
    run.until_drained()
}

impl Run<'_> {
    fn open(&self, index: usize) -> Result<Connection, LoadError> {
        let connect = |source| LoadError::Connect {
            address: self.load.address,
            source,
        };
        let connection = Connection::open(self.load.address).map_err(connect)?;
        self.poller.watch(&connection.stream, index)?;
        Ok(connection)
    }

    fn until_drained(mut self) -> Result<LoadReport, LoadError> {
        let mut events = Events::of(self.load.connections);
        loop {
            let now = Instant::now();
            self.window.observe(now);
            self.send_due(now)?;
            if self.window.is_over() && (self.is_drained() || now >= self.window.to + DRAIN_LIMIT) {
                break;
            }
            if self.idle.is_empty() && self.lost() == self.connections.len() {
                break;
            }
            let limit = self.next_wake(now).saturating_duration_since(now);
            for (index, flags) in self.poller.wait(&mut events, limit)? {
                self.handle(index, flags)?;
            }
        }
        Ok(self.report())
    }

    /// Whether no request of the window is in flight, nor waits for a free connection.
    fn is_drained(&self) -> bool {
        self.idle.len() + self.lost() == self.connections.len() && self.timetable.next_before(self.window.to).is_none()
    }

    fn lost(&self) -> usize {
        self.connections
            .iter()
            .filter(|connection| connection.is_none())
            .count()
    }

    /// Starts what is due on the connections that are free.
    fn send_due(&mut self, now: Instant) -> Result<(), LoadError> {
        // Each once: a connection that breaks at once is idle again, and its turn comes when the events were looked at.
        for _ in 0..self.idle.len() {
            let Some(since) = self.timetable.take_due(now, self.window.to) else {
                break;
            };
            if let Some(index) = self.idle.pop_front() {
                self.begin(index, since)?;
            }
        }
        Ok(())
    }

    fn begin(&mut self, index: usize, since: Instant) -> Result<(), LoadError> {
        let Some(connection) = &mut self.connections[index] else {
            return Ok(());
        };
        match connection.begin(&self.load.request, since) {
            Ok(()) => Ok(()),
            Err(error) => self.broken(index, &error),
        }
    }

    fn next_wake(&self, now: Instant) -> Instant {
        let boundary = if now < self.window.from {
            self.window.from
        } else if now < self.window.to {
            self.window.to
        } else {
            self.window.to + DRAIN_LIMIT
        };
        match self.timetable.next_before(self.window.to) {
            Some(due) if !self.idle.is_empty() => due.min(boundary),
            _ => boundary,
        }
    }

    fn handle(&mut self, index: usize, flags: EventFlags) -> Result<(), LoadError> {
        let hung_up = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        let Some(connection) = &mut self.connections[index] else {
            return Ok(());
        };
        let Some(since) = connection.in_flight_since else {
            // A server may close a connection that idles.
            if hung_up {
                self.idle.retain(|idle| *idle != index);
                self.reopen(index)?;
            }
            return Ok(());
        };
        if flags.contains(EventFlags::OUT)
            && let Err(error) = connection.write(&self.load.request)
        {
            return self.broken(index, &error);
        }
        if !hung_up && !flags.contains(EventFlags::IN) {
            return Ok(());
        }
        let keep_body = !self.checked[index];
        match connection.read(&mut self.scratch, keep_body, hung_up) {
            Ok(None) => Ok(()),
            Ok(Some(answer)) => {
                let now = Instant::now();
                self.answered(index, &answer, since, now)?;
                if hung_up || answer.closes {
                    return self.reopen(index);
                }
                self.free(index, now)
            }
            Err(error) => self.broken(index, &error),
        }
    }

    fn answered(&mut self, index: usize, answer: &Answer, since: Instant, now: Instant) -> Result<(), LoadError> {
        let latency = now - since;
        let counts = self.window.contains(since);
        if answer.status != 200 {
            if counts {
                self.recorder.failed(latency, Some(answer.status), || {
                    let body = answer.body.as_deref().unwrap_or_default();
                    format!("status {}: {}", answer.status, String::from_utf8_lossy(body))
                });
            }
            return Ok(());
        }
        if !self.checked[index] {
            if let Some(check) = &self.check.body {
                check(answer.body.as_deref().unwrap_or_default()).map_err(LoadError::WrongAnswer)?;
            }
            self.checked[index] = true;
        }
        let expected = *self.length.get_or_insert(answer.length);
        if answer.length != expected && !self.check.any_length {
            if counts {
                let why = || format!("a body of {} bytes, and the first one had {expected}", answer.length);
                self.recorder.failed(latency, None, why);
            }
            return Ok(());
        }
        if self.window.contains(now) {
            self.recorder.arrived_in_window();
        }
        if counts {
            self.recorder.answered(latency);
        }
        Ok(())
    }

    /// The connection can carry the next request; if one is due, it does.
    fn free(&mut self, index: usize, now: Instant) -> Result<(), LoadError> {
        match self.timetable.take_due(now, self.window.to) {
            Some(since) => self.begin(index, since),
            None => {
                self.idle.push_back(index);
                Ok(())
            }
        }
    }

    /// The connection broke under a request. The next one is sent by the loop, not from here: a server that breaks each
    /// connection must not make this recurse.
    fn broken(&mut self, index: usize, error: &io::Error) -> Result<(), LoadError> {
        let now = Instant::now();
        let since = self.connections[index]
            .as_ref()
            .and_then(|connection| connection.in_flight_since);
        if let Some(since) = since.filter(|since| self.window.contains(*since)) {
            self.recorder
                .failed(now - since, None, || format!("the connection broke: {error}"));
        }
        self.reopen(index)
    }

    /// Replaces a connection that ended by a new, idle one; a server that takes none loses it.
    fn reopen(&mut self, index: usize) -> Result<(), LoadError> {
        self.checked[index] = false;
        self.connections[index] = None;
        match self.open(index) {
            Ok(connection) => {
                self.connections[index] = Some(connection);
                self.idle.push_back(index);
                Ok(())
            }
            Err(LoadError::Connect { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn report(mut self) -> LoadReport {
        let now = Instant::now();
        for since in self
            .connections
            .iter()
            .flatten()
            .filter_map(|connection| connection.in_flight_since)
        {
            if self.window.contains(since) {
                self.recorder.failed(now - since, None, || "no answer".to_owned());
            }
        }
        while let Some(due) = self.timetable.next_before(self.window.to).filter(|due| *due <= now) {
            self.timetable.sent += 1;
            if self.window.contains(due) {
                self.recorder
                    .failed(now - due, None, || "never sent: no connection was free".to_owned());
            }
        }
        let lost = self.lost();
        self.recorder.report(&self.window, lost)
    }
}

impl Timetable {
    /// When the next request is due, if that is before `end`.
    fn next_before(&self, end: Instant) -> Option<Instant> {
        match self.pace {
            Pace::Closed => None,
            Pace::Every { nanoseconds } => {
                let due = self.start + Duration::from_nanos((self.sent as f64 * nanoseconds) as u64);
                (due < end).then_some(due)
            }
        }
    }

    /// Takes the next request that is due now, and says since when.
    fn take_due(&mut self, now: Instant, end: Instant) -> Option<Instant> {
        match self.pace {
            Pace::Closed => (now < end).then_some(now),
            Pace::Every { .. } => {
                let due = self.next_before(end).filter(|due| *due <= now)?;
                self.sent += 1;
                Some(due)
            }
        }
    }
}
