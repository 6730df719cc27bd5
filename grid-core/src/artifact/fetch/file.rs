//! How far one file of a download is.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::CHUNK;

/// Where a file stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Bytes are missing, or not written yet.
    Fetching,
    /// All is written; its digest is being verified.
    Verifying,
    /// It is right.
    Verified,
}

/// How far one file is. `written <= released <= asked <= bytes`, each where a chunk ends.
#[derive(Debug)]
pub(super) struct Progress {
    /// Its size.
    pub(super) bytes: u64,
    /// Up to here it is on disk.
    pub(super) written: u64,
    /// Up to here it was given out to be written.
    released: u64,
    /// Up to here someone was asked for it.
    asked: u64,
    /// Chunks below `asked` that their source owes and will not send.
    pub(super) again: BTreeSet<u64>,
    /// Chunks that came, by offset, and are not given out yet.
    held: BTreeMap<u64, Bytes>,
    pub(super) stage: Stage,
    /// Sources of what is there; `None` stands for what lay on disk before.
    origins: BTreeSet<Option<usize>>,
    /// Once it was wrong with bytes of several origins, it is fetched from one source.
    alone: bool,
    /// Which that is.
    pub(super) alone_from: Option<usize>,
}

impl Progress {
    pub(super) fn new(bytes: u64, present: u64) -> Self {
        let present = present.min(bytes);
        Self {
            bytes,
            written: present,
            released: present,
            asked: present,
            again: BTreeSet::new(),
            held: BTreeMap::new(),
            stage: Stage::Fetching,
            origins: (present > 0).then_some(None).into_iter().collect(),
            alone: false,
            alone_from: None,
        }
    }

    /// How long the chunk at this offset is.
    pub(super) fn length_at(&self, offset: u64) -> u32 {
        let rest = self.bytes.saturating_sub(offset);
        rest.min(CHUNK.into()) as u32
    }

    /// Where the next chunk begins that someone must be asked for.
    pub(super) fn next_chunk(&self) -> Option<u64> {
        let fresh = (self.asked < self.bytes).then_some(self.asked);
        self.again.first().copied().or(fresh)
    }

    /// That chunk is asked for from this source.
    pub(super) fn asked(&mut self, offset: u64, source: usize) {
        if !self.again.remove(&offset) {
            self.asked = offset + u64::from(self.length_at(offset));
        }
        if self.alone {
            self.alone_from = Some(source);
        }
    }

    /// A chunk that was asked for came.
    pub(super) fn received(&mut self, offset: u64, bytes: Bytes, source: usize) {
        self.held.insert(offset, bytes);
        self.origins.insert(Some(source));
    }

    /// The next bytes to write, if they are there.
    pub(super) fn next_write(&mut self) -> Option<(u64, Bytes)> {
        let offset = self.released;
        let bytes = self.held.remove(&offset)?;
        self.released += bytes.len() as u64;
        Some((offset, bytes))
    }

    /// A write was carried out. Whether there was one.
    pub(super) fn wrote(&mut self) -> bool {
        let was_given = self.written < self.released;
        if was_given {
            self.written += u64::from(self.length_at(self.written));
        }
        was_given
    }

    /// All of it is wrong: from the beginning. Returns the source whose fault it is, where that is certain.
    pub(super) fn start_again(&mut self) -> Option<usize> {
        let origins = std::mem::take(&mut self.origins);
        *self = Self {
            alone: self.alone || origins.len() > 1,
            ..Self::new(self.bytes, 0)
        };
        match (origins.first(), origins.len()) {
            (Some(only), 1) => *only,
            _ => None,
        }
    }
}
