//! Contents on disk, by digest: those fetched from peers, and those of the repositories as far as they were described.
//!
//! ```text
//! DATA/artifacts/contents/DIGEST/    whole: listing, model.toml, version/…   never written again
//! DATA/artifacts/partial/DIGEST/     being fetched, or left by a fetch that ended; laid out the same
//! DATA/artifacts/discarded/          being removed
//! DATA/artifacts/digests             of files in repositories; see `remembered`
//! ```
//!
//! A content comes to its place by one rename, after its digests were verified and it was on the disk, and leaves by one
//! rename too: a crash leaves nothing half. What goes wrong with one content touches no other, so the version that serves goes
//! on serving.
//!
//! Everything here blocks on the disk; it is for threads that may. No lock is held while contents are read or written.

mod content;
mod disk;
mod partial;
mod problem;
mod remembered;
mod repository;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use bytes::Bytes;
use grid_core::artifact::{CHUNK, ChunkRequest, ListedFile, Listing};
use grid_core::cluster::Digest;
use grid_core::model::Version;
use parking_lot::Mutex;

pub use content::StoredContent;
pub use partial::Partial;
pub use problem::ArtifactError;

use super::FoundModel;
use content::Stored;
use disk::{Folders, Surroundings};
use remembered::Remembered;
use repository::Described;

/// What an [`ArtifactStore`] is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArtifactOptions {
    /// Bytes of the disk that downloads leave free.
    pub reserve: u64,
}

impl Default for ArtifactOptions {
    /// What else a node keeps (its catalog, its logs) is some MiB; a disk that is full to the last byte stops all of it.
    fn default() -> Self {
        Self { reserve: 256 << 20 }
    }
}

/// The contents of this node. Clones are the same store.
#[derive(Clone)]
pub struct ArtifactStore(Arc<Shared>);

struct Shared {
    options: ArtifactOptions,
    surroundings: Surroundings,
    folders: Folders,
    remembered: Remembered,
    index: Mutex<Index>,
}

#[derive(Default)]
struct Index {
    stored: HashMap<Digest, Arc<Stored>>,
    /// By the version's folder: several may have the same content.
    described: HashMap<PathBuf, Arc<Described>>,
    /// Contents being fetched, and how many bytes each still needs.
    fetched: HashMap<Digest, Arc<AtomicU64>>,
}

/// What [`ArtifactStore::collect`] did.
#[derive(Debug, Default)]
pub struct Collected {
    /// Contents that are gone.
    pub contents: Vec<Digest>,
    /// Downloads that were broken off long ago, and are gone.
    pub partials: Vec<Digest>,
    /// What could not be removed.
    pub problems: Vec<ArtifactError>,
}

impl Index {
    fn described(&self, content: Digest) -> Option<&Arc<Described>> {
        self.described.values().find(|described| described.content == content)
    }
}

impl Shared {
    /// A file of a stored content with the same bytes.
    fn file_of(&self, wanted: &ListedFile) -> Option<PathBuf> {
        let index = self.index.lock();
        index.stored.values().find_map(|stored| {
            let mut files = stored.listing.files().iter();
            let same = files.find(|file| file.digest == wanted.digest && file.bytes == wanted.bytes)?;
            Some(stored.folder.join(same.path.as_str()))
        })
    }
}

impl ArtifactStore {
    /// Opens the store of this data directory, or makes it. Finishes what a crash interrupted.
    ///
    /// # Errors
    /// When its folders cannot be made or read. A content that is damaged is none: it is removed, with a warning.
    pub fn open(data_dir: &Path, options: ArtifactOptions) -> Result<Self, ArtifactError> {
        Self::open_in(data_dir, options, Surroundings::default())
    }

    fn open_in(data_dir: &Path, options: ArtifactOptions, surroundings: Surroundings) -> Result<Self, ArtifactError> {
        let folders = Folders::open(data_dir.join("artifacts"))?;
        let mut index = Index::default();
        for (content, folder) in disk::named_by_digests(&folders.contents())? {
            match Stored::open(content, folder.clone()) {
                Ok(stored) => drop(index.stored.insert(content, Arc::new(stored))),
                Err(error) if error.is_damage() => {
                    tracing::warn!(%content, %error, "a damaged content is removed");
                    disk::remove(&folders.discard(&folder)?);
                }
                Err(error) => tracing::warn!(%content, %error, "a content cannot be read"),
            }
        }
        for (content, folder) in disk::named_by_digests(&folders.partials())? {
            // Without its listing nobody can tell what its files are to become.
            if content::read_listing(content, &folder).is_err_and(|error| error.is_damage()) {
                disk::remove(&folders.discard(&folder)?);
            }
        }
        Ok(Self(Arc::new(Shared {
            options,
            remembered: Remembered::open(folders.root().join("digests"), surroundings.settled),
            surroundings,
            folders,
            index: Mutex::new(index),
        })))
    }

    /// What the content of a model version in a repository is. From then on it can be read, until one of its files changes.
    ///
    /// Files that were described before and have not changed are not read again, also after a restart.
    ///
    /// # Errors
    /// When a file cannot be read or changes meanwhile, or when the files are no content.
    pub fn describe(&self, found: &FoundModel, version: Version) -> Result<(Listing, Digest), ArtifactError> {
        let described = repository::describe(found, version, &self.0.remembered)?;
        if let Err(error) = self.0.remembered.save() {
            // They are read again after the next start, which is slower and not wrong.
            tracing::warn!(%error, "the digests of model files could not be saved");
        }
        let told = (described.listing.clone(), described.content);
        // In place of what lay there before.
        let folder = described.folder.clone();
        self.0.index.lock().described.insert(folder, Arc::new(described));
        Ok(told)
    }

    /// Begins to fetch a content, or goes on where an earlier download ended.
    ///
    /// # Errors
    /// When the disk has not enough room or refuses, or when it is being fetched already.
    pub fn begin(&self, listing: Listing) -> Result<Partial, ArtifactError> {
        Partial::begin(&self.0, listing)
    }

    /// A whole content of the store, to be used.
    pub fn get(&self, content: Digest) -> Option<StoredContent> {
        let stored = Arc::clone(self.0.index.lock().stored.get(&content)?);
        stored.touch();
        Some(StoredContent(stored))
    }

    /// The listing of a content that can be read.
    pub fn listing(&self, content: Digest) -> Option<Listing> {
        let index = self.0.index.lock();
        let stored = index.stored.get(&content).map(|stored| &stored.listing);
        let listing = stored.or_else(|| index.described(content).map(|described| &described.listing));
        listing.cloned()
    }

    /// The contents that can be read, sorted.
    pub fn contents(&self) -> Vec<Digest> {
        let index = self.0.index.lock();
        let described = index.described.values().map(|described| described.content);
        let mut contents: Vec<_> = index.stored.keys().copied().chain(described).collect();
        contents.sort_unstable();
        contents.dedup();
        contents
    }

    /// Reads what a peer asks for.
    ///
    /// # Errors
    /// When this node has no such content or the content no such bytes, or when its files in the repository have
    /// changed. In the last case the content is not offered any more, unless it is elsewhere too.
    pub fn read(&self, chunk: &ChunkRequest) -> Result<Bytes, ArtifactError> {
        let stored = self.0.index.lock().stored.get(&chunk.content).cloned();
        if let Some(stored) = stored {
            stored.touch();
            let file = check(chunk, &stored.listing)?;
            let path = stored.folder.join(file.path.as_str());
            let file = File::open(&path).map_err(ArtifactError::at(&path))?;
            return read_at(&path, &file, chunk);
        }
        let mut failed = ArtifactError::Unknown(chunk.content);
        loop {
            let described = self.0.index.lock().described(chunk.content).cloned();
            let Some(described) = described else { return Err(failed) };
            check(chunk, &described.listing)?;
            match read_described(&described, chunk) {
                Ok(bytes) => return Ok(bytes),
                Err(error) => failed = error,
            }
            // It may have been described again meanwhile.
            let is_other = |_: &PathBuf, now: &mut Arc<Described>| !Arc::ptr_eq(now, &described);
            self.0.index.lock().described.retain(is_other);
        }
    }

    /// Removes what was not used since then and is not to be kept: contents that nobody holds, and partial ones that
    /// nobody fetches. Reading a content for a peer is a use, and so is the start of the node.
    ///
    /// # Errors
    /// When the folders cannot be read.
    pub fn collect(&self, keep: &HashSet<Digest>, unused_since: SystemTime) -> Result<Collected, ArtifactError> {
        let folders = &self.0.folders;
        let (mut collected, mut discarded) = (Collected::default(), Vec::new());
        let mut discard = |folder: &Path, problems: &mut Vec<ArtifactError>| {
            let moved = folders.discard(folder).map_err(|problem| problems.push(problem));
            moved.map(|to| discarded.push(to)).is_ok()
        };
        // Under the lock only renames: who takes a content from the index finds it there.
        self.0.index.lock().stored.retain(|content, stored| {
            let is_used = Arc::strong_count(stored) > 1 || stored.last_used() >= unused_since;
            let goes = !is_used && !keep.contains(content) && discard(&stored.folder, &mut collected.problems);
            collected.contents.extend(goes.then_some(*content));
            !goes
        });
        collected.contents.sort_unstable();
        for (content, folder) in disk::named_by_digests(&folders.partials())? {
            let touched =
                content::read_listing(content, &folder).map(|listing| partial::last_touched(&folder, &listing));
            let is_old = touched.is_ok_and(|touched| touched < unused_since);
            let index = self.0.index.lock();
            let is_fetched = index.fetched.contains_key(&content);
            if is_old && !is_fetched && !keep.contains(&content) && discard(&folder, &mut collected.problems) {
                collected.partials.push(content);
            }
        }
        discarded.iter().for_each(|folder| disk::remove(folder));
        Ok(collected)
    }
}

/// The file that a chunk is of, if the content has such bytes.
fn check<'a>(chunk: &ChunkRequest, listing: &'a Listing) -> Result<&'a ListedFile, ArtifactError> {
    let end = chunk.offset.checked_add(chunk.length.into());
    let file = listing.files().get(chunk.file as usize);
    let file = file.filter(|file| chunk.length <= CHUNK && end.is_some_and(|end| end <= file.bytes));
    file.ok_or(ArtifactError::OutOfRange {
        content: chunk.content,
        file: chunk.file,
        offset: chunk.offset,
        length: chunk.length,
    })
}

/// Reads from a repository what must be there unchanged.
fn read_described(described: &Described, chunk: &ChunkRequest) -> Result<Bytes, ArtifactError> {
    let (path, seen) = &described.files[chunk.file as usize];
    let file = seen.open(path)?;
    let bytes = read_at(path, &file, chunk)?;
    // Written to while it was read, perhaps.
    seen.check_open(path, &file)?;
    Ok(bytes)
}

fn read_at(path: &Path, file: &File, chunk: &ChunkRequest) -> Result<Bytes, ArtifactError> {
    let mut bytes = vec![0; chunk.length as usize];
    file.read_exact_at(&mut bytes, chunk.offset)
        .map_err(ArtifactError::at(path))?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests;
