//! What an instance has done, for metrics and the statistics extension.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Sums over runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunStats {
    /// Runs.
    pub runs: u64,
    /// Requests that were answered with outputs.
    pub succeeded: u64,
    /// Requests that the model failed on.
    pub failed: u64,
    /// Rows of the answered requests.
    pub rows: u64,
    /// Time that the requests waited before their runs.
    pub queued: Duration,
    /// Length of the runs, counted once for each request in them.
    pub computed: Duration,
    /// Time from arrival to outcome of the requests that were answered with outputs.
    pub time_of_succeeded: Duration,
    /// The same of those that the model failed on.
    pub time_of_failed: Duration,
    /// When the last run ended.
    pub last_run: Option<Instant>,
    /// Runs and their length by the rows of a run.
    pub by_rows: BTreeMap<usize, (u64, Duration)>,
}

/// Distinct run sizes that are kept apart; what comes later is not: sizes are a client's to choose without stacking.
const MAX_SIZES: usize = 256;

impl RunStats {
    /// Counts a run of `rows` rows.
    pub(super) fn add_run(&mut self, rows: usize, ran: Duration, ended: Instant) {
        self.runs += 1;
        self.last_run = Some(ended);
        if self.by_rows.len() < MAX_SIZES || self.by_rows.contains_key(&rows) {
            let (count, length) = self.by_rows.entry(rows).or_default();
            *count += 1;
            *length += ran;
        }
    }

    /// Counts a request that a run finished.
    pub(super) fn add_request(&mut self, rows: usize, succeeded: bool, queued: Duration, computed: Duration) {
        self.queued += queued;
        self.computed += computed;
        if succeeded {
            self.succeeded += 1;
            // A shape without elements may claim any number of rows.
            self.rows = self.rows.saturating_add(rows as u64);
            self.time_of_succeeded += queued + computed;
        } else {
            self.failed += 1;
            self.time_of_failed += queued + computed;
        }
    }

    /// Adds the sums of another instance.
    pub fn merge(&mut self, other: &Self) {
        self.runs += other.runs;
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.rows += other.rows;
        self.queued += other.queued;
        self.computed += other.computed;
        self.time_of_succeeded += other.time_of_succeeded;
        self.time_of_failed += other.time_of_failed;
        self.last_run = self.last_run.max(other.last_run);
        for (rows, (count, length)) in &other.by_rows {
            if self.by_rows.len() < MAX_SIZES || self.by_rows.contains_key(rows) {
                let mine = self.by_rows.entry(*rows).or_default();
                mine.0 += count;
                mine.1 += *length;
            }
        }
    }
}
