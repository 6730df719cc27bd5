//! Digests of files in repositories, remembered over restarts: a start need not read gigabytes again.
//!
//! A file is taken for the one that was hashed when its size, its inode and both its times are the same. The time of the
//! last modification alone is not enough: tools that copy set it, and the weights of a model trained again have the same
//! size. The time of the last change of the inode cannot be set. Neither tells two changes within one tick of the file
//! system's clock apart, so a file that was changed just before it was hashed is not remembered (as git does with its index).

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use grid_core::cluster::Digest;
use grid_core::wire::codec;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{ArtifactError, disk};

/// In front of the file: another form is another number, and an unknown one is no loss.
const FORMAT: u8 = 1;

/// With more than that, those that this run of the node has not used are forgotten.
const MOST: usize = 16_384;

/// By what a file is known to be the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    /// Its size.
    pub(super) bytes: u64,
    inode: u64,
    /// Seconds and nanoseconds since 1970.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Seen {
    /// What the system says of a file.
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            bytes: metadata.len(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Opens a file that must be this one.
    pub(super) fn open(&self, path: &Path) -> Result<File, ArtifactError> {
        // Before it is opened: opening a pipe would wait for its writer.
        self.check(path, &path.metadata().map_err(ArtifactError::at(path))?)?;
        let file = File::open(path).map_err(ArtifactError::at(path))?;
        self.check_open(path, &file)?;
        Ok(file)
    }

    /// Whether an open file is still this one.
    pub(super) fn check_open(&self, path: &Path, file: &File) -> Result<(), ArtifactError> {
        self.check(path, &file.metadata().map_err(ArtifactError::at(path))?)
    }

    fn check(&self, path: &Path, metadata: &Metadata) -> Result<(), ArtifactError> {
        match metadata.is_file() && Self::of(metadata) == *self {
            true => Ok(()),
            false => Err(ArtifactError::Changed { path: path.to_owned() }),
        }
    }

    /// Whether it was last touched so long ago that a change since would show.
    fn has_settled(&self, settled: Duration) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let (seconds, nanoseconds) = self.modified.max(self.changed);
        let touched = u64::try_from(seconds).map(|seconds| {
            let nanoseconds = u32::try_from(nanoseconds).unwrap_or(0);
            Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanoseconds.into()))
        });
        match (now, touched) {
            (Ok(now), Ok(touched)) => touched.saturating_add(settled) <= now,
            _ => false,
        }
    }
}

struct Entry {
    seen: Seen,
    digest: Digest,
    used: bool,
}

#[derive(Default)]
struct Entries {
    of: HashMap<PathBuf, Entry>,
    /// Whether something is not in the file yet.
    unsaved: bool,
    /// Bytes hashed since the start.
    hashed: u64,
}

/// The digests, and the file that keeps them.
pub(super) struct Remembered {
    file: PathBuf,
    settled: Duration,
    entries: Mutex<Entries>,
}

impl Remembered {
    /// What the file says; nothing, if it is not there or not what was written.
    pub(super) fn open(file: PathBuf, settled: Duration) -> Self {
        let mut entries = Entries::default();
        for (path, seen, digest) in load(&file).unwrap_or_default() {
            let path = PathBuf::from(OsString::from_vec(path));
            let used = false;
            entries.of.insert(path, Entry { seen, digest, used });
        }
        Self {
            file,
            settled,
            entries: Mutex::new(entries),
        }
    }

    /// The digest of a file, read if it is not remembered.
    pub(super) fn digest_of(&self, path: &Path) -> Result<(Seen, Digest), ArtifactError> {
        let seen = Seen::of(&path.metadata().map_err(ArtifactError::at(path))?);
        if let Some(entry) = self.entries.lock().of.get_mut(path)
            && entry.seen == seen
        {
            entry.used = true;
            return Ok((seen, entry.digest));
        }
        let mut file = seen.open(path)?;
        let (digest, bytes) = disk::digest_of(&mut file).map_err(ArtifactError::at(path))?;
        seen.check_open(path, &file)?;
        if bytes != seen.bytes {
            return Err(ArtifactError::Changed { path: path.to_owned() });
        }
        let mut entries = self.entries.lock();
        entries.hashed += bytes;
        if seen.has_settled(self.settled) {
            let used = true;
            entries.of.insert(path.to_owned(), Entry { seen, digest, used });
            entries.unsaved = true;
        }
        Ok((seen, digest))
    }

    /// Writes the file, if there is something new.
    pub(super) fn save(&self) -> Result<(), ArtifactError> {
        let mut entries = self.entries.lock();
        if !entries.unsaved {
            return Ok(());
        }
        if entries.of.len() > MOST {
            entries.of.retain(|_, entry| entry.used);
        }
        let list = entries.of.iter();
        let list: Vec<_> = list
            .map(|(path, entry)| (path.as_os_str().as_bytes(), entry.seen, entry.digest))
            .collect();
        let bytes = codec::encode(&(FORMAT, list));
        // A digest that rotted on the disk would give a content a name that is not its.
        let bytes = [&Digest::of(&bytes).0[..], &bytes].concat();
        disk::write_whole(&self.file, &bytes)?;
        entries.unsaved = false;
        Ok(())
    }

    /// Bytes of files hashed since the start.
    #[cfg(test)]
    pub(super) fn hashed(&self) -> u64 {
        self.entries.lock().hashed
    }
}

fn load(file: &Path) -> Option<Vec<(Vec<u8>, Seen, Digest)>> {
    let bytes = std::fs::read(file).ok()?;
    let (digest, bytes) = bytes.split_first_chunk::<32>()?;
    if Digest::of(bytes) != Digest(*digest) {
        return None;
    }
    let (format, entries) = codec::decode::<(u8, Vec<_>)>("remembered digests", bytes).ok()?;
    (format == FORMAT).then_some(entries)
}
