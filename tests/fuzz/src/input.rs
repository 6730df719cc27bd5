//! Reads the fuzzer's bytes as several things. Every sequence of bytes is a valid input: what is missing is zero or empty.

/// What is left of the fuzzer's bytes.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of them.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// The next `length` bytes, or as many as there are.
    pub fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A piece of bytes with its length in two bytes before it.
    pub fn piece(&mut self) -> &'a [u8] {
        let length = u16::from_le_bytes([self.byte(), self.byte()]);
        self.take(length.into())
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// In which pieces bytes arrive: a count, and as many lengths.
    pub fn chunking(&mut self) -> Chunking<'a> {
        let count = self.byte();
        Chunking(self.take(count.into()))
    }
}

/// Lengths of chunks, over and over again; none for one chunk.
#[derive(Clone, Copy)]
pub struct Chunking<'a>(&'a [u8]);

impl<'a> Chunking<'a> {
    /// The bytes in chunks.
    pub fn of(self, mut bytes: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let mut lengths = self.0.iter().cycle();
        std::iter::from_fn(move || {
            let length = lengths.next().map_or(bytes.len(), |length| usize::from(*length) + 1);
            let (chunk, rest) = bytes.split_at(length.min(bytes.len()));
            bytes = rest;
            (!chunk.is_empty()).then_some(chunk)
        })
    }
}

/// Writes a piece as [`Input::piece`] reads it, for a corpus.
///
/// # Panics
/// When it is longer than two bytes can say.
pub fn piece(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("a piece of a seed is short");
    [&length.to_le_bytes(), bytes].concat()
}
