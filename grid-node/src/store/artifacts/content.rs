//! Contents that are whole and in the store.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use grid_core::artifact::{Listing, VERSION_FOLDER};
use grid_core::cluster::Digest;
use grid_core::model::ModelId;
use parking_lot::Mutex;

use super::super::{FoundModel, MANIFEST, StoreProblem, read_manifest, version};
use super::ArtifactError;

/// Name of the file that keeps a content's listing, in its folder. No listed path is that.
pub(super) const LISTING: &str = "listing";

/// A content in the store. Nothing in its folder is ever written again.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) content: Digest,
    pub(super) folder: PathBuf,
    pub(super) listing: Listing,
    last_used: Mutex<SystemTime>,
}

impl Stored {
    pub(super) fn new(content: Digest, folder: PathBuf, listing: Listing) -> Self {
        Self {
            content,
            folder,
            listing,
            last_used: Mutex::new(SystemTime::now()),
        }
    }

    /// Opens one that an earlier run of the node stored. Its start counts as a use: what is wanted of it is known only later.
    ///
    /// Its files were on the disk before they got their place, so their sizes are looked at and not their digests.
    pub(super) fn open(content: Digest, folder: PathBuf) -> Result<Self, ArtifactError> {
        let listing = read_listing(content, &folder)?;
        for file in listing.files() {
            let path = folder.join(file.path.as_str());
            let found = path.metadata().map_err(ArtifactError::at(&path))?.len();
            if found != file.bytes {
                return Err(ArtifactError::Incomplete {
                    content,
                    file: file.path.clone(),
                    expected: file.bytes,
                    found,
                });
            }
        }
        Ok(Self::new(content, folder, listing))
    }

    pub(super) fn touch(&self) {
        *self.last_used.lock() = SystemTime::now();
    }

    pub(super) fn last_used(&self) -> SystemTime {
        *self.last_used.lock()
    }
}

/// The listing in a content's folder, whole or partial.
pub(super) fn read_listing(content: Digest, folder: &Path) -> Result<Listing, ArtifactError> {
    let path = folder.join(LISTING);
    let bytes = fs::read(&path).map_err(ArtifactError::at(&path))?;
    Listing::decode(content, &bytes).map_err(|problem| ArtifactError::Listing { place: path, problem })
}

/// A content in the store, in use: as long as this or a clone of it is there, it is not collected. Whoever has loaded a
/// model from it keeps it as long as the model may be loaded again.
#[derive(Clone, Debug)]
pub struct StoredContent(pub(super) Arc<Stored>);

impl StoredContent {
    /// Its name.
    pub fn digest(&self) -> Digest {
        self.0.content
    }

    /// Its files.
    pub fn listing(&self) -> &Listing {
        &self.0.listing
    }

    /// The folder that it lies in.
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// The content as if a repository held it as this model version and no other, so that plans to load it are made as for
    /// those of a repository.
    ///
    /// The manifest's `default_version` may be one that is not in it: a content is one version.
    ///
    /// # Errors
    /// All that is wrong with its manifest and its model file.
    pub fn found_model(&self, id: &ModelId) -> Result<FoundModel, Vec<StoreProblem>> {
        let folder = self.folder().to_owned();
        let mut problems = Vec::new();
        let manifest = read_manifest(&folder.join(MANIFEST), &mut problems);
        let artifact = version::artifact(&folder.join(VERSION_FOLDER)).map_err(|problem| problems.push(problem));
        match (manifest, artifact) {
            (Some(manifest), Ok((artifact, modified))) => Ok(FoundModel {
                name: id.name.clone(),
                folder,
                manifest,
                versions: [(id.version, artifact)].into(),
                modified: [(id.version, modified)].into(),
            }),
            _ => Err(problems),
        }
    }
}
