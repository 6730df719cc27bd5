//! What is wrong in a repository.

use std::fmt;
use std::path::{Path, PathBuf};

use grid_core::config::{Diagnostic, Origin, Problem};
use grid_core::model::{ModelName, Version};

use super::{MANIFEST, MODEL_FILE};

/// Something in a repository that cannot be served. Displays as path, what was found and what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreProblem {
    /// A repository's folder cannot be read: missing, most often.
    Repository {
        /// As it was configured and resolved.
        path: PathBuf,
        /// What the system said.
        reason: String,
        /// The working directory, where the path depends on it.
        looked_from: Option<PathBuf>,
    },
    /// A model's folder has a name that is no model name.
    Name {
        /// The folder.
        folder: PathBuf,
    },
    /// Two repositories hold a model of the same name; neither is served.
    Doubled {
        /// The name.
        name: ModelName,
        /// Its folders.
        folders: Vec<PathBuf>,
    },
    /// Something wrong in a `model.toml`; the model is not served.
    Manifest(Box<Diagnostic>),
    /// A model's folder without any version; the model is not served.
    NoVersion {
        /// The model's folder.
        folder: PathBuf,
        /// Model files that lie there directly, where a version's folder should be between.
        misplaced: Vec<PathBuf>,
    },
    /// A folder whose name is digits but no version; it is not served.
    Version {
        /// The folder.
        folder: PathBuf,
    },
    /// A version's folder without a model file, or with several; it is not served.
    ModelFile {
        /// The version's folder.
        folder: PathBuf,
        /// The model files there are.
        found: Vec<PathBuf>,
    },
    /// A file or folder that cannot be read.
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
}

impl StoreProblem {
    pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        Self::Unreadable {
            path: path.to_owned(),
            reason: error.to_string(),
        }
    }

    /// A manifest's `default_version` that is not there.
    pub(super) fn default_version(manifest: &Path, origin: Origin, version: Version, present: Vec<Version>) -> Self {
        let present: Vec<_> = present.iter().map(Version::to_string).collect();
        Self::Manifest(Box::new(Diagnostic {
            file: manifest.display().to_string(),
            origin,
            key: "default_version".to_owned(),
            problem: Problem::Value {
                expected: format!("one of the versions in the repository ({})", present.join(", ")),
                found: format!("the integer {version}"),
                nearest: None,
            },
        }))
    }
}

impl StoreProblem {
    /// Whether it is about the model of that name, as far as its place tells.
    pub fn concerns(&self, model: &str) -> bool {
        let lies_in = |path: &Path| path.components().any(|part| part.as_os_str() == model);
        match self {
            Self::Repository { .. } => false,
            Self::Doubled { name, .. } => name.as_str() == model,
            Self::Manifest(diagnostic) => lies_in(Path::new(&diagnostic.file)),
            Self::Name { folder }
            | Self::NoVersion { folder, .. }
            | Self::Version { folder }
            | Self::ModelFile { folder, .. } => lies_in(folder),
            Self::Unreadable { path, .. } => lies_in(path),
        }
    }

    /// Whether the model of that name, or a version of it, may be there although the scan did not find it.
    pub fn may_hide(&self, model: &str) -> bool {
        matches!(self, Self::Repository { .. }) || self.concerns(model)
    }
}

impl fmt::Display for StoreProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repository {
                path,
                reason,
                looked_from,
            } => {
                write!(f, "{}: expected a folder of models: {reason}", path.display())?;
                match looked_from {
                    Some(folder) => write!(f, " (looked from {})", folder.display()),
                    None => Ok(()),
                }
            }
            Self::Name { folder } => write!(
                f,
                "{}: expected a model's folder to be named by letters, digits, '.', '_' or '-', at most {} of them",
                folder.display(),
                grid_core::model::MAX_MODEL_NAME
            ),
            Self::Doubled { name, folders } => {
                write!(f, "{name}: expected in one repository, found in {}", paths(folders))
            }
            Self::Manifest(diagnostic) => diagnostic.fmt(f),
            Self::NoVersion { folder, misplaced } => {
                let expected = folder.join("1").join(MODEL_FILE);
                write!(f, "{}: no version; expected {}", folder.display(), expected.display())?;
                match misplaced.is_empty() {
                    true => Ok(()),
                    false => write!(f, ", found {}", paths(misplaced)),
                }
            }
            Self::Version { folder } => write!(
                f,
                "{}: expected a version's folder to be named by a whole number from 1 to {}, without leading zeros",
                folder.display(),
                Version::MAX
            ),
            Self::ModelFile { folder, found } if found.is_empty() => {
                let expected = folder.join(MODEL_FILE);
                write!(
                    f,
                    "{}: no model file; expected {}",
                    folder.display(),
                    expected.display()
                )
            }
            Self::ModelFile { folder, found } => write!(
                f,
                "{}: expected {MODEL_FILE} or one file of another name, found {}",
                folder.display(),
                paths(found)
            ),
            Self::Unreadable { path, reason } if path.ends_with(MANIFEST) => {
                write!(f, "{}: expected a manifest: {reason}", path.display())
            }
            Self::Unreadable { path, reason } => write!(f, "{}: {reason}", path.display()),
        }
    }
}

impl std::error::Error for StoreProblem {}

fn paths(paths: &[PathBuf]) -> String {
    let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    paths.join(" and ")
}
