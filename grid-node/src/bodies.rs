//! How much memory request bodies may hold at once.
//!
//! A limit for each body is not enough: as many connections as are allowed, each with a body just under the limit, would
//! hold more than the machine has. Small bodies are not counted, to keep their requests off a counter that all threads
//! share: the bound on connections bounds them.
//!
//! HTTP and gRPC each have one of these, and the mesh has a third.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of a body that are not counted, where a connection has one body at a time.
const SMALL: usize = 64 << 10;
/// The same on the mesh: a thousand exchanges on a link, and as many links, would hold too much of the larger size.
const SMALL_ON_THE_MESH: usize = 4 << 10;
/// Bodies of the largest size that are held at once.
const LARGEST_AT_ONCE: usize = 8;
/// Bytes that are held at once, however small the limit of a body is.
const LEAST: usize = 256 << 20;

/// The bodies of a node.
#[derive(Debug)]
pub(crate) struct Bodies {
    held: AtomicUsize,
    limit: usize,
    small: usize,
}

impl Bodies {
    /// Room for bodies of at most `largest` bytes each.
    pub(crate) fn new(largest: usize) -> Arc<Self> {
        Self::counted_from(SMALL, largest)
    }

    /// The same for the mesh, and as much: what a node can take of clients does not depend on the way that it comes, and a
    /// node that is asked by others has what they took over HTTP.
    pub(crate) fn of_mesh(largest: usize) -> Arc<Self> {
        Self::counted_from(SMALL_ON_THE_MESH, largest)
    }

    fn counted_from(small: usize, largest: usize) -> Arc<Self> {
        Arc::new(Self {
            held: AtomicUsize::new(0),
            limit: largest.saturating_mul(LARGEST_AT_ONCE).max(LEAST),
            small,
        })
    }

    /// A body that is about to be read.
    pub(crate) fn begin(self: &Arc<Self>) -> Held {
        Held {
            bodies: Arc::clone(self),
            bytes: 0,
            counted: 0,
        }
    }
}

/// What one body holds; given back when dropped.
#[derive(Debug)]
pub(crate) struct Held {
    bodies: Arc<Bodies>,
    bytes: usize,
    counted: usize,
}

impl Held {
    /// Makes room for more bytes of the body. `false` when all bodies together hold too much.
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        self.bytes = self.bytes.saturating_add(bytes);
        let more = self.bytes.saturating_sub(self.bodies.small) - self.counted;
        if more == 0 {
            return true;
        }
        self.counted += more;
        self.bodies.held.fetch_add(more, Ordering::Relaxed) + more <= self.bodies.limit
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.counted > 0 {
            self.bodies.held.fetch_sub(self.counted, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_hold_no_more_than_the_limit_together_and_give_all_back() {
        let bodies = Bodies::new(LEAST);
        let mut held: Vec<_> = (0..LARGEST_AT_ONCE).map(|_| bodies.begin()).collect();
        assert!(held.iter_mut().all(|body| body.grow(LEAST)));
        let mut one_more = bodies.begin();
        assert!(one_more.grow(SMALL), "a small one is always taken");
        assert!(!one_more.grow(LEAST));
        drop((held, one_more));
        assert_eq!(bodies.held.load(Ordering::Relaxed), 0);
    }
}
