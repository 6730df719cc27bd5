//! Why a content cannot be described, stored or read.

use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use grid_core::artifact::{InvalidListing, ListedPath};
use grid_core::cluster::Digest;
use grid_core::model::ModelId;

/// Why a content cannot be described, stored or read. What was stored before is as it was.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The system refused.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        source: Error,
    },
    /// The disk has not enough room.
    #[error(
        "{folder}: the disk is full: {needed} bytes are needed, {free} are free, and {reserved} of them are kept for others",
        folder = .folder.display()
    )]
    Full {
        /// Where they were to be stored.
        folder: PathBuf,
        /// Bytes that are still to be written.
        needed: u64,
        /// Bytes that are free on that disk.
        free: u64,
        /// Bytes that are left free for others: the reserve, and what other downloads still need.
        reserved: u64,
    },
    /// A file that was fetched is not what its listing says. It was removed.
    #[error("{file} of content {content:?}: expected a file with the SHA-256 digest {expected}, found {found}")]
    WrongDigest {
        /// Of which content.
        content: Digest,
        /// Which file.
        file: ListedPath,
        /// What the listing says.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// A file is not all there yet.
    #[error("{file} of content {content:?}: expected {expected} bytes, found {found}")]
    Incomplete {
        /// Of which content.
        content: Digest,
        /// Which file.
        file: ListedPath,
        /// Its size.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// Bytes were to be written elsewhere than behind those that are there, or beyond the end.
    #[error("{file} of content {content:?}: {length} bytes at {offset} do not follow the {present} that are there")]
    OutOfPlace {
        /// Of which content.
        content: Digest,
        /// Which file.
        file: ListedPath,
        /// Where they were to be written.
        offset: u64,
        /// How many.
        length: usize,
        /// How many bytes are there.
        present: u64,
    },
    /// A file of a repository is not the one that was described any more.
    #[error("{path}: changed since it was described", path = .path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The files are no content: too many, or one with a name that cannot travel.
    #[error("{place}: {problem}", place = .place.display())]
    Listing {
        /// Where they lie, or the one with the name.
        place: PathBuf,
        /// What is wrong.
        problem: InvalidListing,
    },
    /// A file's name is no text.
    #[error("{path}: expected a file name in UTF-8", path = .path.display())]
    Name {
        /// The file.
        path: PathBuf,
    },
    /// The repository does not hold that version.
    #[error("{0} is not in the repository")]
    NoVersion(ModelId),
    /// This node does not have that content.
    #[error("content {0:?} is not on this node")]
    Unknown(Digest),
    /// The content has no such bytes.
    #[error("content {content:?} has no {length} bytes at {offset} of file {file}")]
    OutOfRange {
        /// Which content.
        content: Digest,
        /// Which file, as counted in its listing.
        file: u32,
        /// Where they were to begin.
        offset: u64,
        /// How many.
        length: u32,
    },
    /// The content is being fetched already.
    #[error("content {0:?} is being fetched already")]
    BeingFetched(Digest),
}

impl ArtifactError {
    /// What becomes an [`ArtifactError`] with the path that it is about.
    pub(super) fn at(path: &Path) -> impl FnOnce(Error) -> Self + use<'_> {
        |source| Self::Io {
            path: path.to_owned(),
            source,
        }
    }

    /// Whether a content's folder surely is not what was written, rather than not readable at the moment.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == ErrorKind::NotFound,
            _ => true,
        }
    }

    /// Whether the same call may succeed later, when nobody does anything about it.
    pub fn can_retry(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() != ErrorKind::PermissionDenied,
            // Contents are collected, downloads end, and a wrong file is fetched from another node.
            Self::Full { .. } | Self::BeingFetched(_) | Self::WrongDigest { .. } | Self::Incomplete { .. } => true,
            // After the next look at the repository.
            Self::Changed { .. } | Self::NoVersion(_) | Self::Unknown(_) => true,
            Self::OutOfPlace { .. } | Self::Listing { .. } | Self::Name { .. } | Self::OutOfRange { .. } => false,
        }
    }
}
