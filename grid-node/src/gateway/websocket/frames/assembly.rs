//! The memory that a message is put together in.

use bytes::{Bytes, BytesMut};
use grid_core::tensor::{ALIGNMENT, AlignedBytes, Buffer};

use super::MAX_RESERVED;

/// Takes the mask off `bytes`; `mask` begins at the first of them.
pub(super) fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    // Eight at a time, which the compiler makes a whole vector of.
    let [a, b, c, d] = mask;
    let key = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, tail) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ key).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(key.to_ne_bytes()) {
        *byte ^= key;
    }
}

/// Bytes that are not UTF-8, whatever follows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotUtf8;

/// A text message that came in pieces.
#[derive(Debug, Default)]
pub(super) struct TextAssembly {
    bytes: BytesMut,
    /// As many of them are whole characters.
    valid: usize,
}

impl TextAssembly {
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Appends masked bytes; `expected` more were announced.
    ///
    /// # Errors
    /// As soon as no bytes that follow could make it UTF-8.
    pub(super) fn push(&mut self, masked: &[u8], mask: [u8; 4], expected: usize) -> Result<(), NotUtf8> {
        if masked.is_empty() {
            return Ok(());
        }
        if self.bytes.is_empty() {
            self.bytes.reserve(reserved(masked.len(), expected));
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(masked);
        unmask(&mut self.bytes[start..], mask);
        match std::str::from_utf8(&self.bytes[self.valid..]) {
            Ok(_) => self.valid = self.bytes.len(),
            Err(error) if error.error_len().is_none() => self.valid += error.valid_up_to(),
            Err(_) => return Err(NotUtf8),
        }
        Ok(())
    }

    /// The whole text.
    ///
    /// # Errors
    /// When it ends within a character.
    pub(super) fn finish(self) -> Result<Bytes, NotUtf8> {
        if self.valid < self.bytes.len() {
            return Err(NotUtf8);
        }
        Ok(self.bytes.freeze())
    }
}

/// A binary message that is being put together.
///
/// Our binary messages are the length of their JSON (four bytes, little-endian), the JSON, and raw tensors. The message is
/// placed so that the tensors begin on a 64-byte boundary, and runtimes can use them where they lie. A message that is
/// something else is placed somewhere, which does not harm it.
#[derive(Debug, Default)]
pub(super) struct BinaryAssembly {
    /// The first bytes, until there are enough to tell where the message is to begin.
    prefix: [u8; PREFIX],
    prefix_len: usize,
    body: Option<Body>,
}

const PREFIX: usize = 4;

struct Body {
    bytes: AlignedBytes,
    padding: usize,
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Body({} bytes)", self.bytes.len() - self.padding)
    }
}

impl BinaryAssembly {
    pub(super) fn len(&self) -> usize {
        self.body
            .as_ref()
            .map_or(self.prefix_len, |body| body.bytes.len() - body.padding)
    }

    /// Appends masked bytes; `expected` more were announced.
    pub(super) fn push(&mut self, masked: &[u8], mut mask: [u8; 4], expected: usize) {
        let mut masked = masked;
        if self.body.is_none() {
            let (first, rest) = masked.split_at(masked.len().min(PREFIX - self.prefix_len));
            let added = &mut self.prefix[self.prefix_len..][..first.len()];
            added.copy_from_slice(first);
            unmask(added, mask);
            mask.rotate_left(first.len() % 4);
            self.prefix_len += first.len();
            masked = rest;
            if self.prefix_len == PREFIX {
                self.body = Some(Body::begin(self.prefix, reserved(masked.len(), expected)));
            }
        }
        if let Some(body) = &mut self.body {
            let start = body.bytes.len();
            body.bytes.extend_from_slice(masked);
            unmask(&mut body.bytes.as_mut_slice()[start..], mask);
        }
    }

    /// The whole message.
    pub(super) fn finish(self) -> Buffer {
        let Some(Body { bytes, padding }) = self.body else {
            return AlignedBytes::copy_of(&self.prefix[..self.prefix_len]).freeze();
        };
        let whole = bytes.freeze();
        whole.slice(padding, whole.len()).unwrap_or(whole)
    }
}

impl Body {
    fn begin(prefix: [u8; PREFIX], expected: usize) -> Self {
        let before_tensors = u64::from(u32::from_le_bytes(prefix)) + PREFIX as u64;
        let padding = before_tensors.wrapping_neg() as usize % ALIGNMENT;
        let mut bytes = AlignedBytes::with_capacity(padding + PREFIX + expected);
        bytes.extend_from_slice(&[0; ALIGNMENT][..padding]);
        bytes.extend_from_slice(&prefix);
        Self { bytes, padding }
    }
}

/// What to reserve when `arrived` bytes are there and `expected` more were announced.
fn reserved(arrived: usize, expected: usize) -> usize {
    arrived.saturating_add(expected).min(arrived.max(MAX_RESERVED))
}
