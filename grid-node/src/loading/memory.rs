//! The node's memory budget, as a guard that cannot be forgotten.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use dashmap::DashMap;
use grid_core::memory::{MemoryLedger, OverBudget, ReservationId, estimate};
use metrics::gauge;
use parking_lot::Mutex;

use crate::runtime::Artifact;

/// The content of a file, as far as it can be told without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Content {
    bytes: u64,
    modified: Option<SystemTime>,
}

/// What the last load of a file was measured to take. It holds for that content only.
#[derive(Clone, Copy, Debug)]
struct Measured {
    content: Content,
    bytes: u64,
}

/// The budget of a node. Clones share it.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    ledger: Arc<Mutex<MemoryLedger>>,
    /// By path, so that it does not grow with every content that a file ever had.
    measured: Arc<DashMap<PathBuf, Measured>>,
    /// Bytes held beside models. Changed under the lock of the ledger only.
    held: Arc<AtomicU64>,
}

impl MemoryBudget {
    /// A budget of so many bytes.
    pub fn new(bytes: u64) -> Self {
        gauge!("grid_memory_budget_bytes").set(bytes as f64);
        Self {
            ledger: Arc::new(Mutex::new(MemoryLedger::new(bytes))),
            measured: Arc::default(),
            held: Arc::default(),
        }
    }

    /// Changes the budget. What is reserved stays.
    pub fn set(&self, bytes: u64) {
        gauge!("grid_memory_budget_bytes").set(bytes as f64);
        self.ledger.lock().set_budget(bytes);
    }

    /// Bytes of the budget, and how many of them are reserved.
    pub fn usage(&self) -> (u64, u64) {
        let ledger = self.ledger.lock();
        (ledger.budget(), ledger.reserved())
    }

    /// Reserves what a load of the file is expected to take: what it was measured to take before, else what is
    /// declared, else an estimate; and never less than what whoever asks for it counts on (`least`), so that what has
    /// room by the caller's books has room by these.
    ///
    /// # Errors
    /// When less is free.
    pub fn reserve(
        &self,
        artifact: &Artifact,
        modified: Option<SystemTime>,
        declared: Option<u64>,
        least: Option<u64>,
    ) -> Result<Reservation, OverBudget> {
        let content = Content {
            bytes: artifact.bytes,
            modified,
        };
        let measured = self.measured.get(&artifact.path).map(|measured| *measured);
        let known = measured
            .filter(|measured| measured.content == content)
            .map(|measured| measured.bytes);
        let expected = known.or(declared).unwrap_or_else(|| estimate(artifact.bytes));
        let bytes = expected.max(least.unwrap_or(0));
        let id = self.ledger.lock().reserve(bytes)?;
        self.publish();
        Ok(Reservation {
            id,
            bytes,
            known,
            path: artifact.path.clone(),
            content,
            budget: self.clone(),
        })
    }

    /// Takes a part of the budget for something other than a model.
    ///
    /// # Errors
    /// When less is free.
    pub fn hold(&self, bytes: u64) -> Result<HeldMemory, OverBudget> {
        let bytes = bytes.next_multiple_of(GRAIN);
        let id = {
            let mut ledger = self.ledger.lock();
            within_share(&ledger, self.held.load(Ordering::Relaxed), bytes)?;
            let id = ledger.reserve(bytes)?;
            self.held.fetch_add(bytes, Ordering::Relaxed);
            id
        };
        self.publish();
        Ok(HeldMemory {
            id,
            bytes,
            budget: self.clone(),
        })
    }

    fn publish(&self) {
        gauge!("grid_memory_reserved_bytes").set(self.usage().1 as f64);
    }
}

/// A part of the budget that grows and shrinks with what it is for; returned when this is dropped.
#[derive(Debug)]
pub struct HeldMemory {
    id: ReservationId,
    bytes: u64,
    budget: MemoryBudget,
}

/// What held memory is counted in: finer would be a look at the ledger for every few bytes.
const GRAIN: u64 = 4 << 10;

impl HeldMemory {
    /// Makes it so many bytes.
    ///
    /// # Errors
    /// When the budget cannot hold them; it then stays as it was.
    pub fn resize(&mut self, bytes: u64) -> Result<(), OverBudget> {
        let bytes = bytes.next_multiple_of(GRAIN);
        if bytes != self.bytes {
            let mut ledger = self.budget.ledger.lock();
            let others = self.budget.held.load(Ordering::Relaxed) - self.bytes;
            within_share(&ledger, others, bytes)?;
            ledger.settle(self.id, bytes)?;
            self.budget.held.store(others + bytes, Ordering::Relaxed);
            drop(ledger);
            self.bytes = bytes;
            self.budget.publish();
        }
        Ok(())
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// What is held beside models must leave models their place: all of it together may take one part in so many.
const HELD_SHARE: u64 = 4;

fn within_share(ledger: &MemoryLedger, held: u64, more: u64) -> Result<(), OverBudget> {
    let share = ledger.budget() / HELD_SHARE;
    let free = share.saturating_sub(held);
    if more <= free {
        return Ok(());
    }
    Err(OverBudget {
        needed: more,
        free,
        budget: share,
    })
}

impl Drop for HeldMemory {
    fn drop(&mut self) {
        let mut ledger = self.budget.ledger.lock();
        ledger.release(self.id);
        self.budget.held.fetch_sub(self.bytes, Ordering::Relaxed);
        drop(ledger);
        self.budget.publish();
    }
}

/// A part of the budget, returned when this is dropped.
#[derive(Debug)]
pub struct Reservation {
    id: ReservationId,
    bytes: u64,
    known: Option<u64>,
    path: PathBuf,
    content: Content,
    budget: MemoryBudget,
}

impl Reservation {
    /// Bytes reserved.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Replaces the reservation by what the process was measured to grow by, and returns by how much that is more.
    ///
    /// A later load of the same file may grow the process less, as it finds memory that an earlier one freed and the
    /// system did not take back: so the largest figure seen counts, and never less than the file. A figure that is refused is not kept: it may hold what
    /// serving took in the same moment, and would keep the file out for good.
    ///
    /// # Errors
    /// When the budget cannot hold it.
    pub fn settle(&mut self, grown: u64) -> Result<i64, OverBudget> {
        let measured = grown.max(self.content.bytes).max(self.known.unwrap_or(0));
        self.budget.ledger.lock().settle(self.id, measured)?;
        self.budget.measured.insert(
            self.path.clone(),
            Measured {
                content: self.content,
                bytes: measured,
            },
        );
        let error = i64::try_from(measured).unwrap_or(i64::MAX) - i64::try_from(self.bytes).unwrap_or(i64::MAX);
        self.bytes = measured;
        self.budget.publish();
        Ok(error)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.ledger.lock().release(self.id);
        self.budget.publish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Format;

    fn artifact(bytes: u64) -> Artifact {
        Artifact {
            path: "model.onnx".into(),
            format: Format::Onnx,
            bytes,
        }
    }

    #[test]
    fn a_dropped_reservation_is_returned_and_its_measure_is_used_again() {
        let budget = MemoryBudget::new(10 << 20);
        let mut first = budget.reserve(&artifact(1000), None, None, None).unwrap();
        assert_eq!(first.settle(3 << 20), Ok((3 << 20) - estimate(1000) as i64));
        assert_eq!(budget.usage().1, 3 << 20);
        drop(first);
        assert_eq!(budget.usage().1, 0);
        let second = budget.reserve(&artifact(1000), None, None, None).unwrap();
        assert_eq!(second.bytes(), 3 << 20);
    }

    #[test]
    fn a_load_that_grew_past_the_budget_is_refused_and_may_be_tried_again() {
        let budget = MemoryBudget::new(4 << 20);
        let mut reservation = budget.reserve(&artifact(1000), None, None, None).unwrap();
        assert!(reservation.settle(5 << 20).is_err());
        drop(reservation);
        assert_eq!(budget.usage().1, 0);
        let again = budget.reserve(&artifact(1000), None, None, None).unwrap();
        assert_eq!(again.bytes(), estimate(1000), "the refused figure is not kept");
    }

    #[test]
    fn a_measure_holds_for_its_content_only_and_one_is_kept_for_each_file() {
        let budget = MemoryBudget::new(10 << 20);
        let mut first = budget.reserve(&artifact(1000), None, None, None).unwrap();
        first.settle(3 << 20).unwrap();
        let changed = Some(SystemTime::UNIX_EPOCH);
        let mut second = budget.reserve(&artifact(1000), changed, None, None).unwrap();
        assert_eq!(second.bytes(), estimate(1000));
        second.settle(2 << 20).unwrap();
        assert_eq!(budget.measured.len(), 1);
        let third = budget.reserve(&artifact(1000), changed, None, None).unwrap();
        assert_eq!(third.bytes(), 2 << 20);
    }
}
