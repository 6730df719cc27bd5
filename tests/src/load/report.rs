//! What a run measured.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::LoadError;
use super::window::Window;

/// The longest latency that is told apart from a longer one.
const LONGEST: Duration = Duration::from_secs(120);

/// What a run measured. A request belongs to the window by the moment at which it was sent (closed loop) or due (open loop).
#[derive(Clone, Debug)]
pub struct LoadReport {
    /// Requests of the window that were answered rightly, be it shortly after its end.
    pub requests: u64,
    /// Requests of the window that were not: other status, wrong length, broken connection, no answer.
    pub errors: u64,
    /// Answers other than 200, by status.
    pub errors_by_status: BTreeMap<u16, u64>,
    /// What the first error was.
    pub first_error: Option<String>,
    /// Connections that ended and that the server did not take anew: it is gone. A run without any connection ends early.
    pub connections_lost: usize,
    /// Length of the window in seconds.
    pub seconds: f64,
    /// Right answers that arrived within the window, a second.
    pub requests_per_second: f64,
    /// Half of the requests took at most so long. The latencies include requests that got an error or, counted until the
    /// generator gave up, none.
    pub p50: Duration,
    /// 99 in 100 requests took at most so long.
    pub p99: Duration,
    /// 999 in 1,000 requests took at most so long.
    pub p999: Duration,
    /// The longest that a request took.
    pub max: Duration,
    /// CPU time of the generator's thread within the window, user and system.
    pub cpu_seconds_of_generator: f64,
}

impl LoadReport {
    /// CPU time that the generator spent on one request.
    pub fn generator_cpu_per_request(&self) -> Duration {
        let answers = self.requests_per_second * self.seconds;
        if answers < 1.0 {
            return Duration::ZERO;
        }
        Duration::from_secs_f64(self.cpu_seconds_of_generator / answers)
    }
}

/// Counts while a run lasts.
pub(super) struct Recorder {
    latencies: Histogram<u64>,
    answered_in_window: u64,
    requests: u64,
    errors: u64,
    errors_by_status: BTreeMap<u16, u64>,
    first_error: Option<String>,
}

impl Recorder {
    pub(super) fn new() -> Result<Self, LoadError> {
        let latencies = Histogram::new_with_bounds(100, LONGEST.as_nanos() as u64, 3)
            .map_err(|_| LoadError::Invalid("the bounds of the latency histogram do not fit"))?;
        Ok(Self {
            latencies,
            answered_in_window: 0,
            requests: 0,
            errors: 0,
            errors_by_status: BTreeMap::new(),
            first_error: None,
        })
    }

    /// A right answer arrived within the window, whenever its request was sent.
    pub(super) fn arrived_in_window(&mut self) {
        self.answered_in_window += 1;
    }

    pub(super) fn answered(&mut self, latency: Duration) {
        self.requests += 1;
        self.took(latency);
    }

    pub(super) fn failed(&mut self, latency: Duration, status: Option<u16>, why: impl FnOnce() -> String) {
        self.errors += 1;
        if let Some(status) = status {
            *self.errors_by_status.entry(status).or_default() += 1;
        }
        if self.first_error.is_none() {
            self.first_error = Some(why());
        }
        self.took(latency);
    }

    fn took(&mut self, latency: Duration) {
        self.latencies.saturating_record(latency.as_nanos() as u64);
    }

    pub(super) fn report(self, window: &Window, connections_lost: usize) -> LoadReport {
        let quantile = |q| Duration::from_nanos(self.latencies.value_at_quantile(q));
        let seconds = window.length().as_secs_f64();
        LoadReport {
            requests: self.requests,
            errors: self.errors,
            connections_lost,
            seconds,
            requests_per_second: self.answered_in_window as f64 / seconds,
            p50: quantile(0.5),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: Duration::from_nanos(self.latencies.max()),
            cpu_seconds_of_generator: window.cpu().as_secs_f64(),
            errors_by_status: self.errors_by_status,
            first_error: self.first_error,
        }
    }
}
