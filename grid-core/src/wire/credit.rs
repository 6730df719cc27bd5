//! Flow control: how many bytes of each exchange may be on their way.
//!
//! The problem: many exchanges share one connection, and a connection that is not read holds up all of them; so all is read at
//! once, and what may come must be bounded beforehand. Wanted:
//!
//! - (A) an exchange whose consumer is slow holds at most one window and one message, and holds up no other one;
//! - (B) what is being put together, beyond one window for each exchange, stays under a budget;
//! - (C) of the messages that want more than their window, the oldest always gets it, whatever the budget: at least that one
//!   finishes, then the next is the oldest, so that nothing waits for ever;
//! - (D) an exchange of small messages costs no credit frame.
//!
//! Heads count as well, each with [`HEAD_COST`] more than it is long: otherwise a stream of messages without a body would be
//! unbounded.

use std::collections::BTreeMap;

use super::frame::MAX_PAYLOAD;

/// What each exchange may send before it has been granted more. It is a part of the protocol's version: both sides count from it.
///
/// It must be more than twice the most that one head costs: a grant is held back until half a window is due.
pub const WINDOW: u64 = 1 << 20;

/// What a head costs more than its bytes: about what an empty message takes in memory.
pub const HEAD_COST: u64 = 128;

const _: () = assert!(WINDOW / 2 > MAX_PAYLOAD as u64 + HEAD_COST);

/// The sender's side of one exchange: what it may still send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendWindow(u64);

impl Default for SendWindow {
    fn default() -> Self {
        Self(WINDOW)
    }
}

impl SendWindow {
    /// Bytes that may be sent.
    pub fn left(&self) -> u64 {
        self.0
    }

    /// Takes what a head of that length costs; `false` if it must wait.
    pub fn take_head(&mut self, length: usize) -> bool {
        let left = self.0.checked_sub(length as u64 + HEAD_COST);
        self.0 = left.unwrap_or(self.0);
        left.is_some()
    }

    /// Takes as many of `wanted` bytes as may be sent.
    pub fn take(&mut self, wanted: usize) -> usize {
        let taken = wanted.min(usize::try_from(self.0).unwrap_or(usize::MAX));
        self.0 -= taken as u64;
        taken
    }

    /// Adds what the receiver granted.
    pub fn grant(&mut self, bytes: u32) {
        self.0 = self.0.saturating_add(u64::from(bytes));
    }
}

/// The sender sent more than it was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("exchange {exchange} sent {over} bytes more than it was granted")]
pub struct Overrun {
    /// Which exchange.
    pub exchange: u64,
    /// How many bytes.
    pub over: u64,
}

/// Bytes to be granted to an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Which exchange.
    pub exchange: u64,
    /// How many bytes more it may send.
    pub bytes: u32,
}

#[derive(Debug)]
struct Entry {
    /// Granted and not arrived.
    outstanding: u64,
    /// Of whole messages that the consumer has not taken.
    held: u64,
    /// Bytes that the message lacks which is being put together.
    missing: u64,
    /// Place among the messages that want more than their window, and what this one got.
    growing: Option<(u64, u64)>,
}

/// The receiver's side of all exchanges of a link. See the module's documentation.
#[derive(Debug)]
pub struct Ledger {
    budget: u64,
    /// What growing messages got beyond their window.
    granted: u64,
    entries: BTreeMap<u64, Entry>,
    /// Growing messages, oldest first.
    growing: BTreeMap<u64, u64>,
    next_place: u64,
    grants: Vec<Grant>,
}

impl Ledger {
    /// A ledger that grants at most `budget` bytes to messages that do not fit into their window, but for the oldest.
    pub fn new(budget: u64) -> Self {
        Self {
            budget,
            granted: 0,
            entries: BTreeMap::new(),
            growing: BTreeMap::new(),
            next_place: 0,
            grants: Vec::new(),
        }
    }

    /// What is to be granted since this was last called, in order.
    pub fn take_grants(&mut self) -> Vec<Grant> {
        std::mem::take(&mut self.grants)
    }

    /// Begins to count for an exchange.
    pub fn open(&mut self, exchange: u64) {
        self.entries.insert(
            exchange,
            Entry {
                outstanding: WINDOW,
                held: 0,
                missing: 0,
                growing: None,
            },
        );
    }

    /// A message's head of `length` bytes arrived; `body` bytes follow.
    ///
    /// # Errors
    /// When it was more than was granted. An exchange that is not counted is not checked either.
    pub fn head(&mut self, exchange: u64, length: usize, body: u64) -> Result<(), Overrun> {
        self.charge(exchange, length as u64 + HEAD_COST)?;
        if let Some(entry) = self.entries.get_mut(&exchange) {
            entry.missing = body;
        }
        self.top_up(exchange);
        Ok(())
    }

    /// `length` bytes of the body arrived.
    ///
    /// # Errors
    /// When it was more than was granted. An exchange that is not counted is not checked either.
    pub fn data(&mut self, exchange: u64, length: usize) -> Result<(), Overrun> {
        self.charge(exchange, length as u64)?;
        if let Some(entry) = self.entries.get_mut(&exchange) {
            entry.missing = entry.missing.saturating_sub(length as u64);
        }
        self.top_up(exchange);
        Ok(())
    }

    /// The message is whole, and waits with `cost` bytes for its consumer.
    pub fn hold(&mut self, exchange: u64, cost: u64) {
        self.shrink(exchange);
        if let Some(entry) = self.entries.get_mut(&exchange) {
            entry.missing = 0;
            entry.held = entry.held.saturating_add(cost);
        }
        self.top_up(exchange);
    }

    /// The consumer took a message that was held with `cost` bytes.
    pub fn consumed(&mut self, exchange: u64, cost: u64) {
        if let Some(entry) = self.entries.get_mut(&exchange) {
            entry.held = entry.held.saturating_sub(cost);
        }
        self.top_up(exchange);
    }

    /// Nothing more is taken of an exchange.
    pub fn close(&mut self, exchange: u64) {
        self.shrink(exchange);
        self.entries.remove(&exchange);
    }

    /// Bytes granted beyond the windows.
    pub fn granted(&self) -> u64 {
        self.granted
    }

    fn charge(&mut self, exchange: u64, cost: u64) -> Result<(), Overrun> {
        let Some(entry) = self.entries.get_mut(&exchange) else {
            return Ok(());
        };
        match entry.outstanding.checked_sub(cost) {
            Some(left) => entry.outstanding = left,
            None => {
                let over = cost - entry.outstanding;
                return Err(Overrun { exchange, over });
            }
        }
        Ok(())
    }

    /// The message does not grow any more: what it got is free for others.
    fn shrink(&mut self, exchange: u64) {
        let Some((place, got)) = self.entries.get_mut(&exchange).and_then(|entry| entry.growing.take()) else {
            return;
        };
        self.growing.remove(&place);
        self.granted -= got;
        let waiting: Vec<u64> = self.growing.values().copied().collect();
        for exchange in waiting {
            self.top_up(exchange);
            if self.granted >= self.budget {
                break;
            }
        }
    }

    fn top_up(&mut self, exchange: u64) {
        let Some(entry) = self.entries.get_mut(&exchange) else {
            return;
        };
        let due = WINDOW.saturating_sub(entry.held).saturating_sub(entry.outstanding);
        if due < WINDOW / 2 {
            return;
        }
        if entry.missing > 0 {
            if entry.outstanding >= entry.missing {
                return;
            }
            let (place, got) = entry.growing.unwrap_or((self.next_place, 0));
            if entry.growing.is_none() {
                self.next_place += 1;
                self.growing.insert(place, exchange);
            }
            entry.growing = Some((place, got));
            let is_oldest = self.growing.first_key_value().is_some_and(|(&first, _)| first == place);
            if !is_oldest && self.granted.saturating_add(due) > self.budget {
                return;
            }
            entry.growing = Some((place, got + due));
            self.granted += due;
        }
        entry.outstanding += due;
        self.grants.push(Grant {
            exchange,
            // At most a window.
            bytes: due as u32,
        });
    }
}

#[cfg(test)]
mod tests;
