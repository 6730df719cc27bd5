//! What a node keeps of its grid over restarts: its generation and the catalog, in its data folder.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use grid_core::catalog::{Catalog, Entry};
use grid_core::model::ModelId;
use grid_core::wire::codec;
use tracing::error;

/// What a file begins with: its kind and the version of its format.
const CATALOG: &[u8] = b"grid catalog 1\n";

/// What could not be kept, or not be read.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// The disk refused.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process uses the folder.
    #[error("{path} is in use by another process: each node needs a `node.data_dir` of its own", path = .0.display())]
    InUse(PathBuf),
    /// The file holds something else.
    #[error("{path}: expected {expected}; move the file away to start without it", path = .path.display())]
    Malformed {
        /// What.
        path: PathBuf,
        /// What should be in it.
        expected: String,
    },
}

/// The files of one node.
#[derive(Debug)]
pub struct Kept {
    folder: PathBuf,
    entries: Vec<(ModelId, Entry)>,
    generation: u64,
    /// Catalogs on their way to the disk.
    catalogs: mpsc::Sender<Vec<u8>>,
    /// Held while the node lives, so that no second one uses the folder.
    _lock: fs::File,
}

impl Kept {
    /// Opens the folder, and begins a new life: with a generation above every one before, and above the wall clock's
    /// milliseconds (`wall`), for when the folder was lost.
    ///
    /// # Errors
    /// When a file cannot be read or written, or another process uses the folder.
    pub fn open(data_dir: &Path, wall: u64) -> Result<Self, KeptError> {
        let folder = data_dir.join("grid");
        fs::create_dir_all(&folder).map_err(at(&folder))?;
        let path = folder.join("lock");
        let lock = fs::File::create(&path).map_err(at(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(KeptError::InUse(data_dir.to_owned())),
            Err(fs::TryLockError::Error(error)) => return Err(at(&path)(error)),
        }
        let entries = read_catalog(&folder.join("catalog"))?;
        let before = read_generation(&folder.join("generation"))?;
        let generation = wall.max(before.saturating_add(1));
        let kept = Self {
            catalogs: writer(folder.join("catalog")).map_err(at(&folder))?,
            folder,
            entries,
            generation,
            _lock: lock,
        };
        kept.keep_generation(generation)?;
        Ok(kept)
    }

    /// The generation of this life.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The catalog, as it was last kept.
    pub(super) fn catalog(&self) -> Vec<(ModelId, Entry)> {
        self.entries.clone()
    }

    /// Keeps a generation, before it is used.
    pub(super) fn keep_generation(&self, generation: u64) -> Result<(), KeptError> {
        write(&self.folder.join("generation"), format!("{generation}\n").as_bytes())
    }

    /// Keeps the catalog, soon.
    pub(super) fn keep_catalog(&self, catalog: &Catalog) {
        let entries: Vec<_> = catalog.entries().collect();
        let mut bytes = CATALOG.to_vec();
        bytes.extend(codec::encode(&entries));
        // The thread lives as long as this.
        let _ = self.catalogs.send(bytes);
    }
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> KeptError {
    let path = path.to_owned();
    move |source| KeptError::Io { path, source }
}

/// Writes catalogs as they come; of several that wait, the last.
fn writer(path: PathBuf) -> std::io::Result<mpsc::Sender<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel::<Vec<u8>>();
    std::thread::Builder::new().name("catalog".to_owned()).spawn(move || {
        while let Ok(first) = receiver.recv() {
            let newest = receiver.try_iter().last().unwrap_or(first);
            if let Err(error) = write(&path, &newest) {
                error!(%error, "the catalog was not kept: after a restart this node asks the others for it");
            }
        }
    })?;
    Ok(sender)
}

/// All of it or nothing, whenever the node dies.
fn write(path: &Path, bytes: &[u8]) -> Result<(), KeptError> {
    let part = path.with_extension("part");
    let written = fs::File::create(&part).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(at(&part))?;
    fs::rename(&part, path).map_err(at(path))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, KeptError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path)(error)),
    }
}

fn read_generation(path: &Path) -> Result<u64, KeptError> {
    let Some(bytes) = read(path)? else { return Ok(0) };
    let number = std::str::from_utf8(&bytes)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    number.ok_or_else(|| KeptError::Malformed {
        path: path.to_owned(),
        expected: "a whole number".to_owned(),
    })
}

fn read_catalog(path: &Path) -> Result<Vec<(ModelId, Entry)>, KeptError> {
    let Some(bytes) = read(path)? else {
        return Ok(Vec::new());
    };
    let malformed = |expected: String| KeptError::Malformed {
        path: path.to_owned(),
        expected,
    };
    let Some(encoded) = bytes.strip_prefix(CATALOG) else {
        return Err(malformed("a catalog of format 1".to_owned()));
    };
    let entries: Result<Vec<(ModelId, Entry)>, _> = codec::decode("catalog", encoded);
    entries.map_err(|error| malformed(format!("a catalog, and found that {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_life_has_a_higher_generation_even_when_the_clock_stood_back() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Kept::open(folder.path(), 1000).unwrap().generation(), 1000);
        assert_eq!(Kept::open(folder.path(), 10).unwrap().generation(), 1001);
        assert_eq!(Kept::open(folder.path(), 5000).unwrap().generation(), 5000);
    }

    #[test]
    fn a_folder_in_use_and_a_broken_file_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let first = Kept::open(folder.path(), 1).unwrap();
        assert!(matches!(Kept::open(folder.path(), 1), Err(KeptError::InUse(_))));
        drop(first);
        fs::write(folder.path().join("grid/generation"), "many").unwrap();
        let error = Kept::open(folder.path(), 1).unwrap_err().to_string();
        assert!(
            error.ends_with("grid/generation: expected a whole number; move the file away to start without it"),
            "{error}"
        );
    }
}
