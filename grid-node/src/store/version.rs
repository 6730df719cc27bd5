//! The version folders of a model, and the model file in each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use grid_core::model::Version;

use super::problem::StoreProblem;
use super::{MODEL_FILE, entries, has_extension, subfolders};
use crate::runtime::{Artifact, Format};

/// The versions that can be served, and when each was last modified. Folders whose names are no numbers are none of
/// ours.
pub(super) fn find(
    folder: &Path,
    problems: &mut Vec<StoreProblem>,
) -> (BTreeMap<Version, Artifact>, BTreeMap<Version, Option<SystemTime>>) {
    let (mut versions, mut modified) = (BTreeMap::new(), BTreeMap::new());
    let is_number = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    let folders = subfolders(folder, is_number, problems).unwrap_or_else(|error| {
        problems.push(StoreProblem::unreadable(folder, &error));
        Vec::new()
    });
    for folder in folders {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        // `01` and `1` would be the same version in two folders.
        let version = name.parse::<Version>().ok().filter(|_| !name.starts_with('0'));
        let Some(version) = version else {
            problems.push(StoreProblem::Version { folder: folder.clone() });
            continue;
        };
        match artifact(&folder) {
            Ok((artifact, at)) => {
                versions.insert(version, artifact);
                modified.insert(version, at);
            }
            Err(problem) => problems.push(problem),
        }
    }
    (versions, modified)
}

/// The `*.onnx` files in a folder.
pub(super) fn model_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = entries(folder)?;
    // A link that leads nowhere stays: reading its size tells what is wrong better than its absence would.
    files.retain(|path| has_extension(path, "onnx") && path.metadata().map_or(true, |metadata| metadata.is_file()));
    Ok(files)
}

pub(super) fn artifact(folder: &Path) -> Result<(Artifact, Option<SystemTime>), StoreProblem> {
    let unreadable = |error: &std::io::Error| StoreProblem::unreadable(folder, error);
    let mut files = model_files(folder).map_err(|error| unreadable(&error))?;
    if files.len() > 1
        && let Some(index) = files.iter().position(|path| path.ends_with(MODEL_FILE))
    {
        files = vec![files.swap_remove(index)];
    }
    let path = match files.pop() {
        Some(path) if files.is_empty() => path,
        last => {
            files.extend(last);
            let folder = folder.to_owned();
            return Err(StoreProblem::ModelFile { folder, found: files });
        }
    };
    let metadata = path
        .metadata()
        .map_err(|error| StoreProblem::unreadable(&path, &error))?;
    let (mut bytes, mut modified) = (metadata.len(), metadata.modified().ok());
    for beside in entries(folder).map_err(|error| unreadable(&error))? {
        if holds_external_data(&beside) {
            let metadata = beside
                .metadata()
                .map_err(|error| StoreProblem::unreadable(&beside, &error))?;
            bytes = bytes.saturating_add(metadata.len());
            modified = modified.max(metadata.modified().ok());
        }
    }
    let artifact = Artifact {
        path,
        format: Format::Onnx,
        bytes,
    };
    Ok((artifact, modified))
}

/// Whether this is a file of tensors that a model file beside it refers to, by the names that exporters give them:
/// `model.onnx.data`, `weights.bin`, `model.onnx_data`.
fn holds_external_data(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let named = [&b".data"[..], b".bin", b"_data"]
        .iter()
        .any(|ending| name.ends_with(ending));
    named && !path.is_dir()
}
