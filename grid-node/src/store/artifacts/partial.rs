//! Contents that are being fetched.
//!
//! The folder of a partial content is laid out like that of a whole one. A file is written from its beginning on, so its
//! length is all that must be known to go on with it. After a crash of the whole machine bytes may be missing before that
//! length; the digest finds that out, and the file is fetched again.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use grid_core::artifact::{Fetch, ListedFile, Listing, Step};
use grid_core::cluster::Digest;

use super::content::{LISTING, Stored, StoredContent, read_listing};
use super::{ArtifactError, Shared, disk};

/// A content that is being fetched; for one thread at a time. Dropped before [`Partial::finish`] it stays as it is, and
/// the next [`super::ArtifactStore::begin`] goes on with it.
pub struct Partial {
    store: Arc<Shared>,
    listing: Listing,
    content: Digest,
    folder: PathBuf,
    /// Bytes of each file that are there.
    present: Vec<u64>,
    verified: Vec<bool>,
    /// The file that was written last, to be written on.
    open: Option<(usize, File)>,
    lease: Lease,
}

/// Says that a content is being fetched, and how many bytes of it are missing, which others leave room for.
struct Lease {
    store: Arc<Shared>,
    content: Digest,
    missing: Arc<AtomicU64>,
}

impl Lease {
    fn take(store: &Arc<Shared>, content: Digest) -> Result<Self, ArtifactError> {
        let missing = Arc::<AtomicU64>::default();
        let mut index = store.index.lock();
        if index.fetched.contains_key(&content) {
            return Err(ArtifactError::BeingFetched(content));
        }
        index.fetched.insert(content, Arc::clone(&missing));
        Ok(Self {
            store: Arc::clone(store),
            content,
            missing,
        })
    }

    /// Fails if the disk cannot take as many bytes with what it must keep free.
    fn check_room(&self, needed: u64, also_for_others: bool) -> Result<(), ArtifactError> {
        let mut reserved = self.store.options.reserve;
        if also_for_others {
            let index = self.store.index.lock();
            let others = index.fetched.iter().filter(|(content, _)| **content != self.content);
            let missing = others.map(|(_, missing)| missing.load(Ordering::Relaxed));
            reserved = missing.fold(reserved, u64::saturating_add);
        }
        let folder = self.store.folders.root();
        let free = (self.store.surroundings.free)(folder).map_err(ArtifactError::at(folder))?;
        match needed.saturating_add(reserved) <= free {
            true => Ok(()),
            false => Err(ArtifactError::Full {
                folder: folder.to_owned(),
                needed,
                free,
                reserved,
            }),
        }
    }

    /// What a failed write is told as.
    fn write_failed(&self, path: &Path, error: io::Error) -> ArtifactError {
        if !matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
            return ArtifactError::at(path)(error);
        }
        let folder = self.store.folders.root().to_owned();
        ArtifactError::Full {
            free: (self.store.surroundings.free)(&folder).unwrap_or(0),
            folder,
            needed: self.missing.load(Ordering::Relaxed),
            reserved: self.store.options.reserve,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.store.index.lock().fetched.remove(&self.content);
    }
}

impl Partial {
    pub(super) fn begin(store: &Arc<Shared>, listing: Listing) -> Result<Self, ArtifactError> {
        let content = listing.digest();
        let lease = Lease::take(store, content)?;
        let folder = store.folders.partial(content);
        if folder.exists() && read_listing(content, &folder).is_err() {
            disk::remove(&store.folders.discard(&folder)?);
        }
        let mut partial = Self {
            store: Arc::clone(store),
            content,
            present: vec![0; listing.files().len()],
            verified: vec![false; listing.files().len()],
            open: None,
            lease,
            folder,
            listing,
        };
        let known = partial.find_present()?;
        let is_new = partial.present.iter().all(|present| *present == 0);
        let linked: u64 = known.iter().map(|(file, _)| partial.listing.files()[*file].bytes).sum();
        let needed = partial.missing().saturating_sub(linked);
        let room = partial.lease.check_room(needed, true);
        let begun = room.and_then(|()| partial.make(&known));
        if let Err(error) = begun {
            if is_new && partial.folder.exists() {
                disk::remove(&store.folders.discard(&partial.folder)?);
            }
            return Err(error);
        }
        partial.count_missing();
        Ok(partial)
    }

    /// Looks what lies in the folder, and returns where whole files that do not are found in other contents: a model whose
    /// manifest was changed need not be fetched again.
    fn find_present(&mut self) -> Result<Vec<(usize, PathBuf)>, ArtifactError> {
        let mut known = Vec::new();
        for (index, file) in self.listing.files().iter().enumerate() {
            let path = self.folder.join(file.path.as_str());
            match path.symlink_metadata() {
                Ok(metadata) if metadata.len() <= file.bytes => self.present[index] = metadata.len(),
                Ok(_) => fs::remove_file(&path).map_err(ArtifactError::at(&path))?,
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    known.extend(self.store.file_of(file).map(|path| (index, path)));
                }
                Err(error) => return Err(ArtifactError::at(&path)(error)),
            }
        }
        Ok(known)
    }

    /// Makes what is missing of the folder.
    fn make(&mut self, known: &[(usize, PathBuf)]) -> Result<(), ArtifactError> {
        for folder in self.folders() {
            fs::create_dir_all(&folder).map_err(|error| self.lease.write_failed(&folder, error))?;
        }
        let listing = self.folder.join(LISTING);
        if !listing.exists() {
            disk::write_whole(&listing, &self.listing.encode())?;
        }
        for (index, from) in known {
            let to = self.path(*index);
            // A second name for the same bytes: whole files are never written. Where it does not work, they are fetched.
            if fs::hard_link(from, &to).is_ok() {
                self.present[*index] = self.listing.files()[*index].bytes;
            }
        }
        for (index, file) in self.listing.files().iter().enumerate() {
            let path = self.path(index);
            if file.bytes == 0 && !path.exists() {
                File::create(&path).map_err(|error| self.lease.write_failed(&path, error))?;
            }
        }
        Ok(())
    }

    /// The folder, and those in it that hold files; each before those in it.
    fn folders(&self) -> BTreeSet<PathBuf> {
        let paths = (0..self.present.len()).map(|index| self.path(index));
        let mut folders: BTreeSet<PathBuf> = BTreeSet::new();
        for path in paths {
            let around = path.ancestors().skip(1);
            folders.extend(
                around
                    .take_while(|folder| folder.starts_with(&self.folder))
                    .map(Path::to_owned),
            );
        }
        folders
    }

    fn path(&self, index: usize) -> PathBuf {
        self.folder.join(self.listing.files()[index].path.as_str())
    }

    fn missing(&self) -> u64 {
        self.listing.bytes().saturating_sub(self.present.iter().sum())
    }

    fn count_missing(&self) {
        self.lease.missing.store(self.missing(), Ordering::Relaxed);
    }

    fn file(&self, file: u32) -> Result<(usize, &ListedFile), ArtifactError> {
        let index = file as usize;
        let listed = self.listing.files().get(index).ok_or(ArtifactError::OutOfRange {
            content: self.content,
            file,
            offset: 0,
            length: 0,
        })?;
        Ok((index, listed))
    }

    /// What is fetched.
    pub fn listing(&self) -> &Listing {
        &self.listing
    }

    /// How many bytes of each file are there: what [`grid_core::artifact::Fetch`] begins with.
    pub fn present(&self) -> &[u64] {
        &self.present
    }

    /// Writes the next bytes of a file.
    ///
    /// # Errors
    /// When the disk is full or refuses, or when they do not follow what is there.
    pub fn write(&mut self, file: u32, offset: u64, bytes: &[u8]) -> Result<(), ArtifactError> {
        let (index, listed) = self.file(file)?;
        let present = self.present[index];
        let length = bytes.len();
        if offset != present || listed.bytes - present < length as u64 {
            return Err(ArtifactError::OutOfPlace {
                content: self.content,
                file: listed.path.clone(),
                offset,
                length,
                present,
            });
        }
        let path = self.path(index);
        // What others have written since the beginning counts too.
        self.lease.check_room(length as u64, false)?;
        let opened = match self.open.take() {
            Some((open, file)) if open == index => Ok(file),
            _ => OpenOptions::new().create(true).truncate(false).write(true).open(&path),
        };
        let written = opened.and_then(|file| file.write_all_at(bytes, offset).map(|()| file));
        let opened = written.map_err(|error| self.lease.write_failed(&path, error))?;
        self.open = Some((index, opened));
        self.present[index] += length as u64;
        self.count_missing();
        Ok(())
    }

    /// Reads a file that is all there, and compares its digest. A wrong one is removed, to be fetched from the beginning.
    ///
    /// # Errors
    /// When it is wrong or not all there, or cannot be read.
    pub fn verify(&mut self, file: u32) -> Result<(), ArtifactError> {
        let (index, listed) = self.file(file)?;
        let (content, listed) = (self.content, listed.clone());
        let incomplete = |found| ArtifactError::Incomplete {
            content,
            file: listed.path.clone(),
            expected: listed.bytes,
            found,
        };
        if self.present[index] != listed.bytes {
            return Err(incomplete(self.present[index]));
        }
        self.open = None;
        let path = self.path(index);
        let read = File::open(&path).and_then(|mut file| disk::digest_of(&mut file));
        let (found, _) = read.map_err(ArtifactError::at(&path))?;
        if found == listed.digest {
            self.verified[index] = true;
            return Ok(());
        }
        // Removed and not emptied: it may be a whole file of another content too.
        fs::remove_file(&path).map_err(ArtifactError::at(&path))?;
        self.present[index] = 0;
        self.count_missing();
        Err(ArtifactError::WrongDigest {
            content,
            file: listed.path,
            expected: listed.digest,
            found,
        })
    }

    /// Carries out what a download wants of the disk and reports it, until something else is to be done: the step is
    /// never one to write or to verify.
    pub fn advance(&mut self, fetch: &mut Fetch) -> Step {
        loop {
            match fetch.next_step() {
                Step::Write { file, offset, bytes } => match self.write(file, offset, &bytes) {
                    Ok(()) => fetch.written(file),
                    Err(error) => fetch.disk_failed(error.to_string()),
                },
                Step::Verify { file } => match self.verify(file) {
                    Ok(()) => fetch.verified(file, Ok(())),
                    Err(wrong @ ArtifactError::WrongDigest { .. }) => fetch.verified(file, Err(wrong.to_string())),
                    Err(error) => fetch.disk_failed(error.to_string()),
                },
                other => return other,
            }
        }
    }

    /// Verifies what has not been verified, waits until all is on the disk, and moves it to its place in one step: after
    /// a crash at any point it is there or it is not.
    ///
    /// # Errors
    /// When something is missing or wrong, or the disk refuses. What is right stays, for the next download.
    pub fn finish(mut self) -> Result<StoredContent, ArtifactError> {
        for index in 0..self.verified.len() {
            if !self.verified[index] {
                self.verify(index as u32)?;
            }
        }
        for index in 0..self.verified.len() {
            let path = self.path(index);
            let synced = File::open(&path).and_then(|file| file.sync_all());
            synced.map_err(|error| self.lease.write_failed(&path, error))?;
        }
        self.folders()
            .iter()
            .rev()
            .try_for_each(|folder| disk::sync_folder(folder))?;
        let folders = &self.store.folders;
        let place = folders.content(self.content);
        let mut index = self.store.index.lock();
        if let Some(stored) = index.stored.get(&self.content).cloned() {
            drop(index);
            disk::remove(&folders.discard(&self.folder)?);
            return Ok(StoredContent(stored));
        }
        if place.exists() {
            // One that could not be read at the start. It is removed at the next.
            folders.discard(&place)?;
        }
        fs::rename(&self.folder, &place).map_err(ArtifactError::at(&place))?;
        let stored = Arc::new(Stored::new(self.content, place, self.listing.clone()));
        index.stored.insert(self.content, Arc::clone(&stored));
        // The lease needs the index when it is dropped.
        drop(index);
        disk::sync_folder(&folders.contents())?;
        disk::sync_folder(&folders.partials())?;
        Ok(StoredContent(stored))
    }
}

/// When something of a partial content was last written.
pub(super) fn last_touched(folder: &Path, listing: &Listing) -> SystemTime {
    let files = listing.files().iter().map(|file| folder.join(file.path.as_str()));
    let all = files.chain([folder.join(LISTING)]);
    let modified = all.filter_map(|path| path.metadata().ok()?.modified().ok());
    modified.max().unwrap_or(SystemTime::UNIX_EPOCH)
}
