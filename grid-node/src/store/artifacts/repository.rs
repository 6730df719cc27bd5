//! Contents that lie in a model repository, which others may change at any time.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use grid_core::artifact::{InvalidListing, ListedFile, ListedPath, Listing, MANIFEST_PATH, MAX_FILES, VERSION_FOLDER};
use grid_core::cluster::Digest;
use grid_core::model::{ModelId, Version};

use super::super::{FoundModel, entries};
use super::ArtifactError;
use super::remembered::{Remembered, Seen};

/// A content in a repository, as it was when it was described.
#[derive(Debug)]
pub(super) struct Described {
    /// The version's folder.
    pub(super) folder: PathBuf,
    /// The content's name.
    pub(super) content: Digest,
    /// What is in it, and the manifest.
    pub(super) listing: Listing,
    /// Where each file of the listing lies, and what it was.
    pub(super) files: Vec<(PathBuf, Seen)>,
}

/// Describes a version. Reads what is not remembered.
///
/// Which files a model file needs is known to its runtime only, so everything in the version's folder belongs to the
/// content, also in folders in it. As in all repositories links are followed, and what is hidden is none of ours.
pub(super) fn describe(
    found: &FoundModel,
    version: Version,
    remembered: &Remembered,
) -> Result<Described, ArtifactError> {
    let model = found.versions.get(&version).map(|artifact| &artifact.path);
    let folder = model.and_then(|path| Some((path, path.parent()?)));
    let (model, folder) = folder.ok_or_else(|| {
        let name = found.name.clone();
        ArtifactError::NoVersion(ModelId { name, version })
    })?;
    let mut paths = Vec::new();
    let manifest = found.manifest_file();
    match manifest.symlink_metadata() {
        Ok(_) => paths.push((listed_path(MANIFEST_PATH, &manifest)?, manifest)),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(ArtifactError::at(&manifest)(error)),
    }
    collect(folder, VERSION_FOLDER, &mut paths)?;
    if !paths.iter().any(|(_, path)| path == model) {
        // Hidden, or gone since the repository was looked at. A content without its model would be of no use to anybody.
        return Err(ArtifactError::Changed { path: model.clone() });
    }
    let mut described = Vec::new();
    for (listed, path) in paths {
        let (seen, digest) = remembered.digest_of(&path)?;
        let file = ListedFile {
            path: listed,
            bytes: seen.bytes,
            digest,
        };
        described.push((file, (path, seen)));
    }
    described.sort_by(|(a, _), (b, _)| a.path.cmp(&b.path));
    let (listed, files) = described.into_iter().unzip();
    let listing = Listing::new(listed).map_err(|problem| no_content(folder, problem))?;
    Ok(Described {
        folder: folder.to_owned(),
        content: listing.digest(),
        listing,
        files,
    })
}

fn no_content(place: &Path, problem: InvalidListing) -> ArtifactError {
    let place = place.to_owned();
    ArtifactError::Listing { place, problem }
}

fn listed_path(listed: &str, path: &Path) -> Result<ListedPath, ArtifactError> {
    let listed = listed.parse().map_err(InvalidListing::Path);
    listed.map_err(|problem| no_content(path, problem))
}

/// The files in a folder, and their paths in the content. The length of a path bounds how deep folders lie in folders, a
/// link to a folder around it included.
fn collect(folder: &Path, listed: &str, found: &mut Vec<(ListedPath, PathBuf)>) -> Result<(), ArtifactError> {
    for path in entries(folder).map_err(ArtifactError::at(folder))? {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return Err(ArtifactError::Name { path });
        };
        if name.starts_with('.') {
            continue;
        }
        let listed = listed_path(&format!("{listed}/{name}"), &path)?;
        let metadata = path.metadata().map_err(ArtifactError::at(&path))?;
        if metadata.is_dir() {
            collect(&path, listed.as_str(), found)?;
        } else if metadata.is_file() {
            found.push((listed, path));
            if found.len() > MAX_FILES {
                return Err(no_content(folder, InvalidListing::TooMany(found.len())));
            }
        }
    }
    Ok(())
}
