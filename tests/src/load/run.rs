//! The loop: one thread, one epoll, all connections.

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::time::{ClockId, Timespec, clock_gettime};

use super::connection::{Answer, Connection};
use super::report::Recorder;
use super::{Check, Load, LoadError, LoadReport, Pace};

/// How long after the window the last answers are waited for; what is then missing counts as an error.
const DRAIN_LIMIT: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 10 });
/// How late the kernel may wake the open loop. Its default of 50 µs would be measured as latency of the server.
const TIMER_SLACK_NANOSECONDS: u64 = 1_000;
const SCRATCH: usize = 256 * 1024;

struct Run<'a> {
    load: &'a Load,
    check: &'a Check,
    epoll: OwnedFd,
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

/// The counted part of the run: from warm-up's end to the end of the duration.
struct Window {
    from: Instant,
    to: Instant,
    /// The thread's CPU time when the loop saw the window open, and close.
    opened: Option<Duration>,
    closed: Option<Duration>,
}

pub(super) fn run(load: &Load, check: &Check, pace: Pace) -> Result<LoadReport, LoadError> {
    if load.connections == 0 || load.duration.is_zero() {
        return Err(LoadError::Invalid("a load needs a connection and a duration"));
    }
    let _slack = matches!(pace, Pace::Every { .. }).then(FineTimer::set);
    let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(|error| system("make an epoll", error))?;
    let mut run = Run {
        load,
        check,
        epoll,
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
        window: Window {
            from: Instant::now(),
            to: Instant::now(),
            opened: None,
            closed: None,
        },
    };
    for index in 0..load.connections {
        let connection = run.open(index)?;
        run.connections.push(Some(connection));
    }
    let start = Instant::now();
    run.timetable.start = start;
    run.window.from = start + load.warm_up;
    run.window.to = run.window.from + load.duration;
    run.until_drained()
}

impl Run<'_> {
    fn open(&self, index: usize) -> Result<Connection, LoadError> {
        let connect = |source| LoadError::Connect {
            address: self.load.address,
            source,
        };
        let connection = Connection::open(self.load.address).map_err(connect)?;
        let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(
            &self.epoll,
            &connection.stream,
            EventData::new_u64(index as u64),
            interest,
        )
        .map_err(|error| system("watch a connection", error))?;
        Ok(connection)
    }

    fn until_drained(mut self) -> Result<LoadReport, LoadError> {
        let mut events = vec![MaybeUninit::<epoll::Event>::uninit(); self.load.connections.clamp(1, 1024)];
        loop {
            let now = Instant::now();
            self.window.observe(now);
            self.send_due(now)?;
            let over = self.window.closed.is_some();
            if over && (self.is_drained() || now >= self.window.to + DRAIN_LIMIT) {
                break;
            }
            if self.idle.is_empty() && self.lost() == self.connections.len() {
                break;
            }
            let timeout = duration_to_timespec(self.next_wake(now).saturating_duration_since(now));
            let ready = match epoll::wait(&self.epoll, events.as_mut_slice(), Some(&timeout)) {
                Ok((ready, _)) => ready,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(system("wait for its connections", error)),
            };
            for event in ready {
                self.handle(event.data.u64() as usize, event.flags)?;
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
        let cpu_now = thread_cpu();
        let cpu = self
            .window
            .closed
            .unwrap_or(cpu_now)
            .saturating_sub(self.window.opened.unwrap_or(cpu_now));
        let lost = self.lost();
        self.recorder.report(self.window.to - self.window.from, cpu, lost)
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

impl Window {
    fn contains(&self, moment: Instant) -> bool {
        (self.from..self.to).contains(&moment)
    }

    fn observe(&mut self, now: Instant) {
        if self.opened.is_none() && now >= self.from {
            self.opened = Some(thread_cpu());
        }
        if self.closed.is_none() && now >= self.to {
            self.closed = Some(thread_cpu());
        }
    }
}

/// Wakes the thread on time for as long as it lives.
struct FineTimer {
    before: u64,
}

impl FineTimer {
    fn set() -> Self {
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

fn duration_to_timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: duration.as_secs() as i64,
        tv_nsec: duration.subsec_nanos().into(),
    }
}

fn system(what: &'static str, error: rustix::io::Errno) -> LoadError {
    LoadError::System {
        what,
        source: error.into(),
    }
}
