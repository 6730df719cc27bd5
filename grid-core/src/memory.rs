//! The memory budget of a node: reserved before a model is loaded, returned when it is gone.
//!
//! What a model will take is not known before it is loaded, so the first reservation is an estimate from its file, and
//! is replaced by what the process was measured to grow by. The measured figure is kept for the next load of the same
//! file.

use std::collections::HashMap;

/// Whom a reservation belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReservationId(pub u64);

/// The budget cannot hold the reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("needs {needed} bytes, {free} of the memory budget of {budget} bytes are free")]
pub struct OverBudget {
    /// Bytes asked for.
    pub needed: u64,
    /// Bytes not reserved.
    pub free: u64,
    /// The whole budget.
    pub budget: u64,
}

/// Who has reserved how much of the budget.
#[derive(Clone, Debug)]
pub struct MemoryLedger {
    budget: u64,
    reserved: u64,
    reservations: HashMap<ReservationId, u64>,
    next: u64,
}

impl MemoryLedger {
    /// A ledger over `budget` bytes.
    pub fn new(budget: u64) -> Self {
        Self {
            budget,
            reserved: 0,
            reservations: HashMap::new(),
            next: 0,
        }
    }

    /// The whole budget in bytes.
    pub fn budget(&self) -> u64 {
        self.budget
    }

    /// Changes the budget. What is reserved stays, also where that is more: nothing new is reserved until it is less.
    pub fn set_budget(&mut self, budget: u64) {
        self.budget = budget;
    }

    /// Bytes reserved.
    pub fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Bytes not reserved.
    pub fn free(&self) -> u64 {
        self.budget.saturating_sub(self.reserved)
    }

    /// Reserves `bytes`.
    ///
    /// # Errors
    /// When fewer are free.
    pub fn reserve(&mut self, bytes: u64) -> Result<ReservationId, OverBudget> {
        if bytes > self.free() {
            return Err(OverBudget {
                needed: bytes,
                free: self.free(),
                budget: self.budget,
            });
        }
        self.next += 1;
        let id = ReservationId(self.next);
        self.reservations.insert(id, bytes);
        self.reserved += bytes;
        Ok(id)
    }

    /// Replaces a reservation's bytes by what was measured.
    ///
    /// # Errors
    /// When the budget cannot hold the measured figure; the reservation then stays as it was, and the caller unloads.
    pub fn settle(&mut self, id: ReservationId, measured: u64) -> Result<(), OverBudget> {
        let Some(bytes) = self.reservations.get_mut(&id) else {
            return Ok(());
        };
        let others = self.reserved - *bytes;
        let free = self.budget.saturating_sub(others);
        if measured > free {
            return Err(OverBudget {
                needed: measured,
                free,
                budget: self.budget,
            });
        }
        *bytes = measured;
        self.reserved = others + measured;
        Ok(())
    }

    /// Returns a reservation. Returning it twice does nothing.
    pub fn release(&mut self, id: ReservationId) {
        if let Some(bytes) = self.reservations.remove(&id) {
            self.reserved -= bytes;
        }
    }
}

/// Bytes to reserve for a model file that was never loaded before. Weights are held once, and a runtime's own structures
/// and scratch memory were seen to be between a tenth and a half of them, never under half a megabyte.
pub fn estimate(file_bytes: u64) -> u64 {
    const FLOOR: u64 = 1 << 20;
    file_bytes.saturating_add(file_bytes / 2).saturating_add(FLOOR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Reserve(u64),
        Settle(usize, u64),
        Release(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            prop_oneof![0..600u64, Just(u64::MAX)].prop_map(Step::Reserve),
            (any::<usize>(), 0..600u64).prop_map(|(index, bytes)| Step::Settle(index, bytes)),
            any::<usize>().prop_map(Step::Release),
        ];
        prop::collection::vec(step, 0..80)
    }

    proptest! {
        #[test]
        fn reservations_never_pass_the_budget_and_all_are_returned(steps in steps()) {
            let mut ledger = MemoryLedger::new(1000);
            let mut ids = vec![];
            for step in steps {
                match step {
                    Step::Reserve(bytes) => ids.extend(ledger.reserve(bytes)),
                    Step::Settle(index, bytes) if !ids.is_empty() => {
                        let _ = ledger.settle(ids[index % ids.len()], bytes);
                    }
                    Step::Release(index) if !ids.is_empty() => {
                        let id = ids[index % ids.len()];
                        ledger.release(id);
                        ledger.release(id);
                    }
                    _ => {}
                }
                prop_assert!(ledger.reserved() <= ledger.budget());
            }
            for id in ids {
                ledger.release(id);
            }
            prop_assert_eq!(ledger.reserved(), 0);
        }
    }
}
