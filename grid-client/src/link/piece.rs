//! What is written, in the order in which it is written: slices of many owners, never copied together.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;
use grid_core::tensor::{ALIGNMENT, Buffer};
use grid_core::wire::frame::HEADER;
use grid_core::wire::message::next_offset;

static ZEROS: [u8; ALIGNMENT] = [0; ALIGNMENT];

/// Most pieces of one vectored write.
pub(super) const MAX_SLICES: usize = 32;

/// Bytes to be written.
pub(super) enum Piece {
    Header([u8; HEADER]),
    Bytes(Bytes),
    Buffer(Buffer),
    /// Padding in front of a tensor: less than 64 bytes.
    Zeros(usize),
}

impl Piece {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Header(bytes) => bytes,
            Self::Bytes(bytes) => bytes,
            Self::Buffer(buffer) => buffer.as_slice(),
            Self::Zeros(count) => &ZEROS[..*count],
        }
    }

    /// The first `count` bytes, leaving the rest.
    fn split_to(&mut self, count: usize) -> Self {
        match self {
            Self::Header(_) => unreachable!("bodies hold no headers"),
            Self::Bytes(bytes) => Self::Bytes(bytes.split_to(count)),
            Self::Buffer(buffer) => {
                let within = "the caller asks for less than there is";
                let first = buffer.slice(0, count).expect(within);
                *buffer = buffer.slice(count, buffer.len()).expect(within);
                Self::Buffer(first)
            }
            Self::Zeros(left) => {
                *left -= count;
                Self::Zeros(count)
            }
        }
    }
}

/// Pieces in a row.
#[derive(Default)]
pub(super) struct Pieces {
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that have been written.
    offset: usize,
    len: usize,
}

impl Pieces {
    /// A body of these parts, each but the empty ones from a multiple of 64 on; `None` if it is larger than any may be.
    pub(super) fn body(parts: Vec<Buffer>) -> Option<Self> {
        let mut pieces = Self::default();
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            let padding = next_offset(pieces.len)? - pieces.len;
            pieces.len.checked_add(padding)?.checked_add(part.len())?;
            if padding > 0 {
                pieces.push(Piece::Zeros(padding));
            }
            pieces.push(Piece::Buffer(part));
        }
        Some(pieces)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn push(&mut self, piece: Piece) {
        self.len += piece.as_slice().len();
        self.pieces.push_back(piece);
    }

    /// Moves the first `count` bytes, or all if there are less, behind those of `target`.
    pub(super) fn move_to(&mut self, mut count: usize, target: &mut Self) {
        while count > 0
            && let Some(first) = self.pieces.front_mut()
        {
            let length = first.as_slice().len();
            let moved = if length <= count {
                self.pieces.pop_front()
            } else {
                Some(first.split_to(count))
            };
            let moved_len = length.min(count);
            self.len -= moved_len;
            count -= moved_len;
            if let Some(moved) = moved {
                target.push(moved);
            }
        }
    }

    /// The first pieces as slices; how many.
    pub(super) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; MAX_SLICES]) -> usize {
        let mut count = 0;
        for (slot, piece) in slices.iter_mut().zip(&self.pieces) {
            let skip = if count == 0 { self.offset } else { 0 };
            *slot = IoSlice::new(&piece.as_slice()[skip..]);
            count += 1;
        }
        count
    }

    /// Takes away what was written.
    pub(super) fn advance(&mut self, mut written: usize) {
        self.len -= written;
        while let Some(first) = self.pieces.front() {
            let left = first.as_slice().len() - self.offset;
            if written < left {
                self.offset += written;
                return;
            }
            written -= left;
            self.offset = 0;
            self.pieces.pop_front();
        }
    }
}
