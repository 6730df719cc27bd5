//! One download: which peer is asked for which chunk, and what is done with what comes.
//!
//! Wanted: (A) it ends, whatever the sources do; (B) with one honest source that stays, it ends well; (C) what lies on disk
//! already is not asked for again; (D) memory is bounded, however fast the sources and however slow the disk; (E) a source
//! that sends wrong bytes is found out.
//!
//! A file is written from its beginning on, so that its length on disk says all that a resumed download must know. Chunks of
//! several sources come in any order; those that come early are held, and count in [`FetchLimits::in_play`] until they are
//! written.
//!
//! A digest covers a whole file. When a file with chunks of several sources is wrong, nobody can tell whose were; then it is
//! fetched again from one source alone. If it is wrong again, it is that one's fault. Each attempt at a file so ends
//! well or is followed by one with fewer sources, which gives (A).
//!
//! A source that failed is not asked again in this download. The next one resumes where this one ended.

mod file;

use std::collections::BTreeSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use self::file::{Progress, Stage};
use super::Listing;
use crate::cluster::{Digest, NodeName};

/// Most bytes of one chunk. Large enough that the way there and back is nothing beside the transfer, small enough that
/// a dozen may be held in memory.
pub const CHUNK: u32 = 1 << 20;

/// Longest reason that is kept of why a source failed; it may be a peer's own text.
const LONGEST_REASON: usize = 500;

/// A part of a file of a content, as a peer is asked for it. The answer is exactly its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ChunkRequest {
    /// Which content.
    pub content: Digest,
    /// Which file, as counted in its listing.
    pub file: u32,
    /// Where the chunk begins in the file.
    pub offset: u64,
    /// How long it is: 1 to [`CHUNK`].
    pub length: u32,
}

/// How much a download may have under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchLimits {
    /// Chunks that are asked for, held or being written, together.
    pub in_play: usize,
    /// Chunks that one source is asked for at a time.
    pub per_source: usize,
}

impl Default for FetchLimits {
    /// Three MiB on their way keep a link of 10 Gbit/s busy over 2 ms there and back; four sources at that are more than a
    /// disk takes, and twelve MiB are little beside any model that takes long to fetch.
    fn default() -> Self {
        Self {
            in_play: 12,
            per_source: 3,
        }
    }
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask a source for a chunk; then [`Fetch::received`] or [`Fetch::source_failed`].
    Ask {
        /// Whom.
        source: NodeName,
        /// For what.
        chunk: ChunkRequest,
    },
    /// Write bytes at the end of what is written of a file; then [`Fetch::written`] or [`Fetch::disk_failed`]. Writes are
    /// carried out in the order in which they are given.
    Write {
        /// To which file.
        file: u32,
        /// Where: as many bytes are there already.
        offset: u64,
        /// What.
        bytes: Bytes,
    },
    /// All of a file is written: verify its digest; then [`Fetch::verified`].
    Verify {
        /// Which file.
        file: u32,
    },
    /// Nothing until something was reported.
    Wait,
    /// Every file is there, and its digest right.
    Done,
    /// It cannot be had now. What was written may stay for another download to resume.
    Failed(FetchError),
}

/// Why a content could not be fetched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// No source is left.
    #[error("content {content:?} could not be fetched from any node: {}", told(.reasons))]
    NoSource {
        /// What was wanted.
        content: Digest,
        /// Who was asked, and why not any more.
        reasons: Vec<(NodeName, String)>,
    },
    /// The disk refused.
    #[error("content {content:?} could not be stored: {reason}")]
    Disk {
        /// What was wanted.
        content: Digest,
        /// What was said.
        reason: String,
    },
}

fn told(reasons: &[(NodeName, String)]) -> String {
    if reasons.is_empty() {
        return "none has it".to_owned();
    }
    let reasons: Vec<_> = reasons.iter().map(|(node, why)| format!("{node}: {why}")).collect();
    reasons.join("; ")
}

#[derive(Debug)]
struct Source {
    name: NodeName,
    outstanding: usize,
    failed: Option<String>,
}

/// The state of one download. After each report, and in the beginning, [`Fetch::next_step`] is called until it says
/// [`Step::Wait`], [`Step::Done`] or [`Step::Failed`].
#[derive(Debug)]
pub struct Fetch {
    content: Digest,
    limits: FetchLimits,
    files: Vec<Progress>,
    sources: Vec<Source>,
    /// What sources are asked for, by their place: source, file, offset.
    outstanding: BTreeSet<(usize, usize, u64)>,
    /// Chunks asked for, held or being written.
    in_play: usize,
    failed: Option<FetchError>,
}

impl Fetch {
    /// A download of this content. `present` says for each file how many bytes of it lie on disk, 0 where it is too short;
    /// `sources` are asked in this order while they are equally busy.
    pub fn new(
        listing: &Listing,
        present: &[u64],
        sources: impl IntoIterator<Item = NodeName>,
        limits: FetchLimits,
    ) -> Self {
        let present = present.iter().copied().chain(std::iter::repeat(0));
        let files = listing.files().iter().zip(present);
        let mut fetch = Self {
            content: listing.digest(),
            limits: FetchLimits {
                in_play: limits.in_play.max(1),
                per_source: limits.per_source.max(1),
            },
            files: files
                .map(|(file, present)| Progress::new(file.bytes, present))
                .collect(),
            sources: Vec::new(),
            outstanding: BTreeSet::new(),
            in_play: 0,
            failed: None,
        };
        sources.into_iter().for_each(|source| fetch.add_source(source));
        fetch
    }

    /// A further node has the content. One that has failed stays so.
    pub fn add_source(&mut self, name: NodeName) {
        if !self.sources.iter().any(|source| source.name == name) {
            self.sources.push(Source {
                name,
                outstanding: 0,
                failed: None,
            });
        }
    }

    /// How many bytes are written, and how many there are.
    pub fn progress(&self) -> (u64, u64) {
        let sum = |bytes: fn(&Progress) -> u64| self.files.iter().map(bytes).sum();
        (sum(|file| file.written), sum(|file| file.bytes))
    }

    /// What is to be done next.
    pub fn next_step(&mut self) -> Step {
        if let Some(error) = &self.failed {
            return Step::Failed(error.clone());
        }
        for (index, file) in self.files.iter_mut().enumerate() {
            if let Some((offset, bytes)) = file.next_write() {
                let file = index as u32;
                return Step::Write { file, offset, bytes };
            }
            if file.stage == Stage::Fetching && file.written == file.bytes {
                file.stage = Stage::Verifying;
                return Step::Verify { file: index as u32 };
            }
        }
        if let Some(step) = self.ask() {
            return step;
        }
        let is_live = |source: &Source| source.failed.is_none();
        if !self.sources.iter().any(is_live) && self.files.iter().any(|file| file.next_chunk().is_some()) {
            let failed = |source: &Source| Some((source.name.clone(), source.failed.clone()?));
            let error = FetchError::NoSource {
                content: self.content,
                reasons: self.sources.iter().filter_map(failed).collect(),
            };
            self.failed = Some(error.clone());
            return Step::Failed(error);
        }
        match self.files.iter().all(|file| file.stage == Stage::Verified) {
            true => Step::Done,
            false => Step::Wait,
        }
    }

    /// The next chunk that someone may be asked for. Those asked for before come first: others may be held behind them.
    fn ask(&mut self) -> Option<Step> {
        if self.in_play >= self.limits.in_play {
            return None;
        }
        let find = |again: bool| {
            let candidates = self.files.iter().enumerate();
            let mut candidates = candidates.filter(|(_, file)| file.again.is_empty() != again);
            candidates.find_map(|(index, file)| Some((index, file.next_chunk()?, self.source_for(file)?)))
        };
        let (index, offset, source) = find(true).or_else(|| find(false))?;
        let file = &mut self.files[index];
        file.asked(offset, source);
        self.in_play += 1;
        self.sources[source].outstanding += 1;
        self.outstanding.insert((source, index, offset));
        Some(Step::Ask {
            source: self.sources[source].name.clone(),
            chunk: ChunkRequest {
                content: self.content,
                file: index as u32,
                offset,
                length: self.files[index].length_at(offset),
            },
        })
    }

    /// Whom to ask for a chunk of this file: the least busy, or the one that it is fetched from alone.
    fn source_for(&self, file: &Progress) -> Option<usize> {
        let free = |source: &Source| source.failed.is_none() && source.outstanding < self.limits.per_source;
        match file.alone_from {
            Some(only) => free(&self.sources[only]).then_some(only),
            None => {
                let sources = self.sources.iter().enumerate().filter(|(_, source)| free(source));
                let least = sources.min_by_key(|(_, source)| source.outstanding);
                least.map(|(index, _)| index)
            }
        }
    }

    /// A source answered a request with these bytes.
    ///
    /// An answer of a source that has failed is too late and dropped. One to something that was not asked, or of another
    /// length, makes its source fail.
    pub fn received(&mut self, source: &NodeName, chunk: &ChunkRequest, bytes: Bytes) {
        let Some(place) = self.live(source) else { return };
        let file = chunk.file as usize;
        let was_asked = chunk.content == self.content && self.outstanding.contains(&(place, file, chunk.offset));
        if !was_asked {
            return self.fail(place, "it answered what it was not asked".to_owned());
        }
        let expected = self.files[file].length_at(chunk.offset);
        if bytes.len() != expected as usize {
            let found = bytes.len();
            return self.fail(place, format!("it sent {found} bytes where {expected} were asked for"));
        }
        self.outstanding.remove(&(place, file, chunk.offset));
        self.sources[place].outstanding -= 1;
        self.files[file].received(chunk.offset, bytes, place);
    }

    /// A source refused, broke off or took too long: it is asked for nothing more, and others for what it owes.
    pub fn source_failed(&mut self, source: &NodeName, reason: String) {
        if let Some(place) = self.live(source) {
            self.fail(place, reason);
        }
    }

    fn live(&self, name: &NodeName) -> Option<usize> {
        let is_live = |source: &Source| source.name == *name && source.failed.is_none();
        self.sources.iter().position(is_live)
    }

    fn fail(&mut self, place: usize, reason: String) {
        let source = &mut self.sources[place];
        source.failed = Some(reason.chars().take(LONGEST_REASON).collect());
        source.outstanding = 0;
        let owed: Vec<_> = self
            .outstanding
            .range((place, 0, 0)..(place + 1, 0, 0))
            .copied()
            .collect();
        for chunk @ (_, file, offset) in owed {
            self.outstanding.remove(&chunk);
            self.in_play -= 1;
            self.files[file].again.insert(offset);
        }
        for file in &mut self.files {
            file.alone_from.take_if(|only| *only == place);
        }
    }

    /// The oldest write of this file that was not reported yet was carried out.
    pub fn written(&mut self, file: u32) {
        if self.files.get_mut(file as usize).is_some_and(Progress::wrote) {
            self.in_play -= 1;
        }
    }

    /// The disk refused a write, or anything else that this download needs. It ends.
    pub fn disk_failed(&mut self, reason: String) {
        let content = self.content;
        self.failed.get_or_insert(FetchError::Disk { content, reason });
    }

    /// A file's digest is right; or it is not, for this reason, and the file was removed.
    pub fn verified(&mut self, file: u32, result: Result<(), String>) {
        let Some(progress) = self.files.get_mut(file as usize) else {
            return;
        };
        if progress.stage != Stage::Verifying {
            return;
        }
        let Err(reason) = result else {
            progress.stage = Stage::Verified;
            return;
        };
        if progress.bytes == 0 {
            // No source can send anything that would help.
            return self.disk_failed(reason);
        }
        if let Some(culprit) = progress.start_again()
            && self.sources[culprit].failed.is_none()
        {
            self.fail(culprit, reason);
        }
    }
}

#[cfg(test)]
mod tests;
