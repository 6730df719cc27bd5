//! The node's memory budget, as a guard that cannot be forgotten.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use dashmap::DashMap;
use grid_core::memory::{MemoryLedger, OverBudget, ReservationId, estimate};
use metrics::gauge;
use parking_lot::Mutex;

use crate::runtime::Artifact;

/// A content of a file, as far as it can be told without reading it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct FileStamp {
    path: PathBuf,
    bytes: u64,
    modified: Option<SystemTime>,
}

/// The budget of a node. Clones share it.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    ledger: Arc<Mutex<MemoryLedger>>,
    /// What loads of a file were measured to take.
    measured: Arc<DashMap<FileStamp, u64>>,
}

impl MemoryBudget {
    /// A budget of so many bytes.
    pub fn new(bytes: u64) -> Self {
        gauge!("grid_memory_budget_bytes").set(bytes as f64);
        Self {
            ledger: Arc::new(Mutex::new(MemoryLedger::new(bytes))),
            measured: Arc::default(),
        }
    }

    /// Bytes of the budget, and how many of them are reserved.
    pub fn usage(&self) -> (u64, u64) {
        let ledger = self.ledger.lock();
        (ledger.budget(), ledger.reserved())
    }

    /// Reserves what a load of the file is expected to take: what it was measured to take before, else what is
    /// declared, else an estimate.
    ///
    /// # Errors
    /// When less is free.
    pub fn reserve(
        &self,
        artifact: &Artifact,
        modified: Option<SystemTime>,
        declared: Option<u64>,
    ) -> Result<Reservation, OverBudget> {
        let stamp = FileStamp {
            path: artifact.path.clone(),
            bytes: artifact.bytes,
            modified,
        };
        let known = self.measured.get(&stamp).map(|measured| *measured);
        let bytes = known.or(declared).unwrap_or_else(|| estimate(artifact.bytes));
        let id = self.ledger.lock().reserve(bytes)?;
        self.publish();
        Ok(Reservation {
            id,
            bytes,
            known,
            stamp,
            budget: self.clone(),
        })
    }

    fn publish(&self) {
        gauge!("grid_memory_reserved_bytes").set(self.usage().1 as f64);
    }
}

/// A part of the budget, returned when this is dropped.
#[derive(Debug)]
pub struct Reservation {
    id: ReservationId,
    bytes: u64,
    known: Option<u64>,
    stamp: FileStamp,
    budget: MemoryBudget,
}

impl Reservation {
    /// Bytes reserved.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Replaces the reservation by what the process was measured to grow by, and returns by how much that is more.
    ///
    /// A later load of the same file grows the process less, as it finds memory that an earlier one freed: so the
    /// largest figure seen counts, and never less than the file.
    ///
    /// # Errors
    /// When the budget cannot hold it.
    pub fn settle(&mut self, grown: u64) -> Result<i64, OverBudget> {
        let measured = grown.max(self.stamp.bytes).max(self.known.unwrap_or(0));
        self.budget.measured.insert(self.stamp.clone(), measured);
        self.budget.ledger.lock().settle(self.id, measured)?;
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
        let mut first = budget.reserve(&artifact(1000), None, None).unwrap();
        assert_eq!(first.settle(3 << 20), Ok((3 << 20) - estimate(1000) as i64));
        assert_eq!(budget.usage().1, 3 << 20);
        drop(first);
        assert_eq!(budget.usage().1, 0);
        let second = budget.reserve(&artifact(1000), None, None).unwrap();
        assert_eq!(second.bytes(), 3 << 20);
    }

    #[test]
    fn a_load_that_grew_past_the_budget_is_refused() {
        let budget = MemoryBudget::new(4 << 20);
        let mut reservation = budget.reserve(&artifact(1000), None, None).unwrap();
        assert!(reservation.settle(5 << 20).is_err());
        drop(reservation);
        assert_eq!(budget.usage().1, 0);
        assert!(
            budget.reserve(&artifact(1000), None, None).is_err(),
            "the measured figure is known now"
        );
    }
}
