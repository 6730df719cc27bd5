//! Where the body of an incoming message is put together.
//!
//! It begins on a 64-byte boundary, so that tensors which the sender placed at multiples of 64 can be used in place.

use crate::tensor::{AlignedBytes, Buffer};

use super::frame::HEADER;

/// Most memory that is reserved on the word of a header alone. Beyond it what is reserved is at most twice what has arrived.
///
/// A page of it is only touched when bytes for it arrive. With 1 MiB instead, a body of 4 MiB was copied twice while it grew.
pub const MAX_RESERVED: usize = 4 << 20;

/// A body that is arriving.
pub struct Assembly {
    bytes: AlignedBytes,
    total: usize,
    /// Bytes that have arrived; beyond them `bytes` may have room that is being written.
    arrived: usize,
}

/// More bytes came than the head had announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{extra} bytes more than the message's head announced")]
pub struct Overflow {
    /// How many more.
    pub extra: usize,
}

impl Assembly {
    /// A body of `total` bytes, of which none has arrived.
    pub fn new(total: usize) -> Self {
        Self {
            bytes: AlignedBytes::default(),
            total,
            arrived: 0,
        }
    }

    /// Bytes of the whole body.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Bytes that have arrived.
    pub fn arrived(&self) -> usize {
        self.arrived
    }

    /// Whether all of it is there.
    pub fn is_complete(&self) -> bool {
        self.arrived == self.total
    }

    /// Checks that `more` bytes fit, before they are read.
    ///
    /// # Errors
    /// When the body is shorter.
    pub fn check(&self, more: usize) -> Result<(), Overflow> {
        match more.saturating_sub(self.total - self.arrived) {
            0 => Ok(()),
            extra => Err(Overflow { extra }),
        }
    }

    fn reserve(&mut self, more: usize) {
        let needed = self.arrived + more;
        if needed > self.bytes.capacity() {
            // The header of the frame behind may be read along with the last bytes.
            let target = (self.total.min(MAX_RESERVED.max(2 * self.arrived)) + HEADER).max(needed);
            self.bytes.reserve(target - self.bytes.len());
        }
    }

    /// Appends bytes that arrived.
    ///
    /// # Errors
    /// When the body is shorter; then nothing is appended.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Overflow> {
        self.check(bytes.len())?;
        self.reserve(bytes.len());
        self.bytes.resize(self.arrived);
        self.bytes.extend_from_slice(bytes);
        self.arrived += bytes.len();
        Ok(())
    }

    /// Room for `more` bytes behind those that have arrived, to read into. It may reach past the body's end: then what
    /// [`filled`](Self::filled) returns lies beyond it.
    pub fn room(&mut self, more: usize) -> &mut [u8] {
        self.reserve(more);
        self.bytes.resize(self.arrived + more);
        &mut self.bytes.as_mut_slice()[self.arrived..]
    }

    /// Takes `count` bytes that were read into the [`room`](Self::room), and returns those of them beyond the first `body`,
    /// which are not the body's.
    ///
    /// # Panics
    /// When there was less room.
    pub fn filled(&mut self, count: usize, body: usize) -> &[u8] {
        let start = self.arrived;
        self.arrived += count.min(body).min(self.total - start);
        &self.bytes.as_slice()[self.arrived..start + count]
    }

    /// The body; `None` if it is not complete.
    pub fn finish(mut self) -> Option<Buffer> {
        if !self.is_complete() {
            return None;
        }
        self.bytes.resize(self.total);
        Some(self.bytes.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::ALIGNMENT;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bodies_in_pieces_pushed_or_read_come_out_whole_and_aligned(
            pieces in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..300), any::<bool>(), 0..HEADER), 0..12)
        ) {
            let whole: Vec<u8> = pieces.iter().flat_map(|(bytes, ..)| bytes.clone()).collect();
            let mut assembly = Assembly::new(whole.len());
            for (bytes, pushed, behind) in &pieces {
                if *pushed {
                    prop_assert_eq!(assembly.push(bytes), Ok(()));
                    continue;
                }
                let count = bytes.len() + behind;
                let room = assembly.room(bytes.len() + HEADER);
                room[..bytes.len()].copy_from_slice(bytes);
                room[bytes.len()..count].fill(7);
                prop_assert_eq!(assembly.filled(count, bytes.len()), vec![7; *behind]);
            }
            prop_assert!(assembly.is_complete());
            prop_assert_eq!(assembly.push(&[1]), Err(Overflow { extra: 1 }));
            let body = assembly.finish().unwrap();
            prop_assert_eq!(body.as_slice(), whole);
            prop_assert_eq!(body.as_slice().as_ptr() as usize % 64, 0);
        }
    }

    #[test]
    fn an_announced_length_alone_costs_no_more_than_the_reserve() {
        let mut assembly = Assembly::new(1 << 31);
        assert_eq!(assembly.bytes.capacity(), 0);
        assembly.push(&[1]).unwrap();
        assert!(assembly.bytes.capacity() <= MAX_RESERVED + ALIGNMENT);
        // And one that fits is never moved.
        let mut assembly = Assembly::new(MAX_RESERVED);
        assembly.push(&[1]).unwrap();
        let capacity = assembly.bytes.capacity();
        assembly.room(MAX_RESERVED - 1 + HEADER);
        assert_eq!(assembly.bytes.capacity(), capacity);
    }
}
