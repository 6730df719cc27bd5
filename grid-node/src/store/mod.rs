//! Model repositories on disk: which models there are, in which versions, and what is wrong with the rest.
//!
//! ```text
//! REPOSITORY/NAME/model.toml            optional
//! REPOSITORY/NAME/VERSION/model.onnx    VERSION: a whole number from 1 up
//! ```
//!
//! One model that is wrong hides no other: whatever can be served is found, and every problem names the path and what
//! was expected there. Links are followed. Hidden folders are skipped, and so are files that are none of the above.

pub mod artifacts;
mod problem;
mod version;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use grid_core::model::manifest::Manifest;
use grid_core::model::{ModelName, Version};

pub use problem::StoreProblem;

use crate::runtime::Artifact;

/// Name of a model's manifest.
pub const MANIFEST: &str = "model.toml";

/// Name of a version's model file. A folder with exactly one other `*.onnx` file serves that one.
pub const MODEL_FILE: &str = "model.onnx";

/// What the repositories hold.
#[derive(Debug, Default)]
pub struct Scan {
    /// What can be served.
    pub models: BTreeMap<ModelName, FoundModel>,
    /// What cannot.
    pub problems: Vec<StoreProblem>,
}

/// A model in a repository.
#[derive(Clone, Debug)]
pub struct FoundModel {
    /// The name of its folder.
    pub name: ModelName,
    /// Its folder.
    pub folder: PathBuf,
    /// What its `model.toml` says, or the default.
    pub manifest: Manifest,
    /// Its versions, at least one.
    pub versions: BTreeMap<Version, Artifact>,
    /// For each version, when the last of the files that its size counts was modified, where the disk tells.
    pub modified: BTreeMap<Version, Option<SystemTime>>,
}

impl FoundModel {
    /// The manifest's file, for messages; it need not exist.
    pub fn manifest_file(&self) -> PathBuf {
        self.folder.join(MANIFEST)
    }
}

/// Looks through the repositories. Reads folders and manifests, opens no model. Blocks on the disk.
pub fn scan(repositories: &[PathBuf]) -> Scan {
    let mut scan = Scan::default();
    let mut folders: BTreeMap<ModelName, Vec<PathBuf>> = BTreeMap::new();
    for repository in repositories {
        match subfolders(repository, |name| !name.starts_with('.'), &mut scan.problems) {
            Ok(found) => {
                for folder in found {
                    match model_name(&folder) {
                        Ok(name) => folders.entry(name).or_default().push(folder),
                        Err(problem) => scan.problems.push(problem),
                    }
                }
            }
            Err(error) => {
                let (path, reason) = (repository.clone(), error.to_string());
                let looked_from = path.is_relative().then(|| std::env::current_dir().ok()).flatten();
                scan.problems.push(StoreProblem::Repository {
                    path,
                    reason,
                    looked_from,
                });
            }
        }
    }
    for (name, mut folders) in folders {
        match (folders.pop(), folders.is_empty()) {
            (Some(folder), true) => {
                if let Some(model) = model(name.clone(), folder, &mut scan.problems) {
                    scan.models.insert(name, model);
                }
            }
            (last, _) => {
                folders.extend(last);
                scan.problems.push(StoreProblem::Doubled { name, folders });
            }
        }
    }
    scan
}

fn model_name(folder: &Path) -> Result<ModelName, StoreProblem> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    name.parse().map_err(|_| StoreProblem::Name {
        folder: folder.to_owned(),
    })
}

fn model(name: ModelName, folder: PathBuf, problems: &mut Vec<StoreProblem>) -> Option<FoundModel> {
    let manifest = read_manifest(&folder.join(MANIFEST), problems);
    let before = problems.len();
    let (versions, modified) = version::find(&folder, problems);
    if versions.is_empty() {
        // Where a version was found and is wrong, that is the reason, and it is told.
        if problems.len() == before {
            let misplaced = version::model_files(&folder).unwrap_or_default();
            problems.push(StoreProblem::NoVersion { folder, misplaced });
        }
        return None;
    }
    let manifest = manifest?;
    match manifest.default_version {
        Some(version) if !versions.contains_key(&version) => {
            let manifest_file = folder.join(MANIFEST);
            let present = versions.keys().copied().collect();
            let origin = manifest.places.origin("default_version");
            problems.push(StoreProblem::default_version(&manifest_file, origin, version, present));
            None
        }
        _ => Some(FoundModel {
            name,
            folder,
            manifest,
            versions,
            modified,
        }),
    }
}

/// A manifest is a page; no more than this is read of a file that is called one. The parser refuses it then.
const LONGEST_MANIFEST: u64 = (1 << 20) + 1;

fn read_manifest(path: &Path, problems: &mut Vec<StoreProblem>) -> Option<Manifest> {
    // A link that leads nowhere is not the same as no manifest.
    if path
        .symlink_metadata()
        .is_err_and(|error| error.kind() == ErrorKind::NotFound)
    {
        return Some(Manifest::default());
    }
    let mut unreadable = |reason: String| {
        let path = path.to_owned();
        problems.push(StoreProblem::Unreadable { path, reason });
        None
    };
    // Opening a pipe would wait for its writer.
    match path.metadata() {
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => return unreadable("not a file".to_owned()),
        Err(error) => return unreadable(error.to_string()),
    }
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LONGEST_MANIFEST).read_to_end(&mut bytes));
    if let Err(error) = read {
        return unreadable(error.to_string());
    }
    let Ok(text) = String::from_utf8(bytes) else {
        return unreadable("not UTF-8 text".to_owned());
    };
    match Manifest::parse(&path.display().to_string(), &text) {
        Ok(manifest) => Some(manifest),
        Err(diagnostics) => {
            problems.extend(diagnostics.into_iter().map(Box::new).map(StoreProblem::Manifest));
            None
        }
    }
}

/// The folders in `folder` whose names are wanted, in the order of the names. A wanted entry that cannot be looked at
/// (a link that leads nowhere) becomes a problem of its own.
fn subfolders(
    folder: &Path,
    wanted: impl Fn(&str) -> bool,
    problems: &mut Vec<StoreProblem>,
) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in entries(folder)? {
        if !path.file_name().is_some_and(|name| wanted(&name.to_string_lossy())) {
            continue;
        }
        match path.metadata() {
            Ok(metadata) if metadata.is_dir() => found.push(path),
            Ok(_) => {}
            Err(error) => problems.push(StoreProblem::unreadable(&path, &error)),
        }
    }
    Ok(found)
}

/// Everything in `folder`, in the order of the names: what is found must not depend on the order of the disk.
fn entries(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = std::fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    Ok(paths)
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().and_then(OsStr::to_str) == Some(extension)
}

#[cfg(test)]
mod tests;
