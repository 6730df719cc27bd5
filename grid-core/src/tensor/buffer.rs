//! Memory that tensors lie in: aligned once when it is made, then shared and sliced without copying.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

/// Alignment of every [`AlignedBytes`] allocation: a cache line, and enough for AVX-512 loads.
pub const ALIGNMENT: usize = 64;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Block([u8; ALIGNMENT]);

/// A growable byte buffer whose first byte lies on a 64-byte boundary.
///
/// A request body is read into one of these with its tensor part on such a boundary, so that a runtime can use the
/// tensor where it lies.
#[derive(Clone, Default)]
pub struct AlignedBytes {
    blocks: Vec<Block>,
    len: usize,
}

impl AlignedBytes {
    /// An empty buffer with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            blocks: Vec::with_capacity(capacity.div_ceil(ALIGNMENT)),
            len: 0,
        }
    }

    /// A buffer of `len` zero bytes.
    pub fn zeroed(len: usize) -> Self {
        Self {
            blocks: vec![Block::zeroed(); len.div_ceil(ALIGNMENT)],
            len,
        }
    }

    /// A buffer that holds a copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buffer = Self::with_capacity(bytes.len());
        buffer.extend_from_slice(bytes);
        buffer
    }

    /// Appends `bytes`, writing each of them once.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let filled = self.len % ALIGNMENT;
        let (head, rest) = bytes.split_at(if filled == 0 {
            0
        } else {
            bytes.len().min(ALIGNMENT - filled)
        });
        if let Some(last) = self.blocks.last_mut().filter(|_| filled > 0) {
            last.0[filled..filled + head.len()].copy_from_slice(head);
        }
        let (whole, tail) = rest.as_chunks::<ALIGNMENT>();
        self.blocks.extend(whole.iter().copied().map(Block));
        if !tail.is_empty() {
            let mut block = Block::zeroed();
            block.0[..tail.len()].copy_from_slice(tail);
            self.blocks.push(block);
        }
        self.len += bytes.len();
    }

    /// Bytes that fit without moving those that are held.
    pub fn capacity(&self) -> usize {
        self.blocks.capacity() * ALIGNMENT
    }

    /// Makes room for `more` bytes, and for no further ones.
    pub fn reserve(&mut self, more: usize) {
        let blocks = (self.len + more).div_ceil(ALIGNMENT);
        self.blocks.reserve_exact(blocks.saturating_sub(self.blocks.len()));
    }

    /// Makes it `len` bytes long. What is added is some bytes, to be written over.
    pub fn resize(&mut self, len: usize) {
        self.blocks.resize(len.div_ceil(ALIGNMENT), Block::zeroed());
        self.len = len;
    }

    /// Bytes held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.blocks)[..self.len]
    }

    /// The bytes, to write.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.blocks)[..self.len]
    }

    /// Ends the writing: the bytes become shared and immutable.
    pub fn freeze(self) -> Buffer {
        let len = self.len;
        Buffer {
            bytes: Arc::new(self),
            start: 0,
            end: len,
        }
    }
}

/// Immutable shared bytes; a clone or a [`slice`](Buffer::slice) costs a reference count.
#[derive(Clone)]
pub struct Buffer {
    bytes: Arc<AlignedBytes>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// The part from `start` to `end`, sharing the memory; `None` if that reaches past the end.
    pub fn slice(&self, start: usize, end: usize) -> Option<Self> {
        if start > end || end > self.len() {
            return None;
        }
        Some(Self {
            bytes: Arc::clone(&self.bytes),
            start: self.start + start,
            end: self.start + end,
        })
    }

    /// The same bytes in memory of their own, where they are a part of something larger that would be kept with them.
    pub fn compact(&self) -> Self {
        if self.len() == self.bytes.len() {
            return self.clone();
        }
        AlignedBytes::copy_of(self.as_slice()).freeze()
    }

    /// Bytes held.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes.as_slice()[self.start..self.end]
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn appended_pieces_read_back_in_order_and_aligned(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..150), 0..8)) {
            let mut buffer = AlignedBytes::default();
            for piece in &pieces {
                buffer.extend_from_slice(piece);
            }
            prop_assert_eq!(buffer.as_slice(), pieces.concat());
            prop_assert_eq!(buffer.as_slice().as_ptr() as usize % ALIGNMENT, 0);
        }
    }

    #[test]
    fn a_buffer_is_cut_and_made_longer_with_what_it_holds_kept() {
        let mut buffer = AlignedBytes::copy_of(&[1; 70]);
        buffer.resize(65);
        buffer.reserve(100);
        assert!(buffer.capacity() >= 165);
        buffer.extend_from_slice(&[2; 2]);
        assert_eq!(buffer.as_slice(), [&[1; 65][..], &[2; 2]].concat());
        buffer.resize(200);
        assert_eq!(
            (buffer.len(), &buffer.as_slice()[..67]),
            (200, &[&[1; 65][..], &[2; 2]].concat()[..])
        );
    }

    #[test]
    fn a_slice_past_the_end_is_refused() {
        let buffer = AlignedBytes::copy_of(&[1, 2, 3]).freeze();
        assert_eq!(buffer.slice(1, 3).unwrap().as_slice(), &[2, 3]);
        assert!(buffer.slice(1, 4).is_none());
        assert!(buffer.slice(3, 2).is_none());
    }
}
