//! What the store asks of a disk: room, files that are whole or not there, and removal that a crash cannot halve.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use grid_core::cluster::Digest;

use super::ArtifactError;

/// Bytes read at a time to be hashed.
const HASHED_AT_ONCE: usize = 1 << 18;

/// Tells how many bytes are free where a folder lies.
type Free = Box<dyn Fn(&Path) -> io::Result<u64> + Send + Sync>;

/// What tests replace.
pub(super) struct Surroundings {
    /// Bytes that are free.
    pub(super) free: Free,
    /// How long ago a file must have been changed for its stamps to be trusted; see [`super::remembered`].
    pub(super) settled: Duration,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self {
            free: Box::new(free_bytes),
            settled: Duration::from_secs(2),
        }
    }
}

fn free_bytes(folder: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(folder)?;
    // Those that any user may take, not those kept for root.
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// The folders of a store.
pub(super) struct Folders {
    root: PathBuf,
    discarded: AtomicU64,
}

impl Folders {
    /// Makes those that are missing, and finishes what was being removed when the node last ended.
    pub(super) fn open(root: PathBuf) -> Result<Self, ArtifactError> {
        let folders = Self {
            root,
            discarded: AtomicU64::new(0),
        };
        let discarded = folders.discarded();
        match fs::remove_dir_all(&discarded) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(ArtifactError::at(&discarded)(error)),
            _ => {}
        }
        for folder in [discarded, folders.contents(), folders.partials()] {
            fs::create_dir_all(&folder).map_err(ArtifactError::at(&folder))?;
        }
        Ok(folders)
    }

    /// Everything.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Whole contents, each in a folder named by its digest.
    pub(super) fn contents(&self) -> PathBuf {
        self.root.join("contents")
    }

    /// Those being fetched, likewise.
    pub(super) fn partials(&self) -> PathBuf {
        self.root.join("partial")
    }

    fn discarded(&self) -> PathBuf {
        self.root.join("discarded")
    }

    /// Where a content lies when it is whole.
    pub(super) fn content(&self, content: Digest) -> PathBuf {
        self.contents().join(content.to_string())
    }

    /// Where a content lies while it is fetched.
    pub(super) fn partial(&self, content: Digest) -> PathBuf {
        self.partials().join(content.to_string())
    }

    /// Takes a folder away, at once for everybody who looks; [`remove`] then removes it, or the next start.
    pub(super) fn discard(&self, folder: &Path) -> Result<PathBuf, ArtifactError> {
        let number = self.discarded.fetch_add(1, Ordering::Relaxed);
        let to = self.discarded().join(number.to_string());
        fs::rename(folder, &to).map_err(ArtifactError::at(folder))?;
        Ok(to)
    }
}

/// Removes a folder that was discarded. What cannot be removed is tried again at the next start.
pub(super) fn remove(discarded: &Path) {
    if let Err(error) = fs::remove_dir_all(discarded) {
        tracing::warn!(path = %discarded.display(), %error, "a content that is not needed any more could not be removed");
    }
}

/// The folders in a folder that are named by digests.
pub(super) fn named_by_digests(folder: &Path) -> Result<Vec<(Digest, PathBuf)>, ArtifactError> {
    let mut found = Vec::new();
    for path in super::super::entries(folder).map_err(ArtifactError::at(folder))? {
        let digest = path.file_name().and_then(|name| name.to_str()?.parse().ok());
        found.extend(digest.map(|digest| (digest, path)));
    }
    Ok(found)
}

/// Writes a file so that after a crash it has either these bytes or those that it had before.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), ArtifactError> {
    let part = path.with_extension("part");
    let write = || {
        let mut file = File::create(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&part, path)
    };
    write().map_err(ArtifactError::at(path))?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Waits until a folder's entries are on the disk.
pub(super) fn sync_folder(folder: &Path) -> Result<(), ArtifactError> {
    let opened = File::open(folder).and_then(|folder| folder.sync_all());
    opened.map_err(ArtifactError::at(folder))
}

/// The digest of what is left of a file, and how many bytes that are.
pub(super) fn digest_of(file: &mut File) -> io::Result<(Digest, u64)> {
    use sha2::Digest as _;
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; HASHED_AT_ONCE];
    let mut total = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((Digest(hasher.finalize().into()), total)),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                total += count as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
