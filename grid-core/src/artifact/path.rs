//! Where a file lies in a content.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Path of a content's manifest. In a repository it lies above the version's folder, so a content keeps the two apart.
pub const MANIFEST_PATH: &str = "model.toml";

/// Folder in a content that holds what lies in the version's folder of a repository.
pub const VERSION_FOLDER: &str = "version";

/// Longest path in bytes: with the most files, an encoded listing stays far below what the codec decodes.
pub const MAX_PATH: usize = 512;

/// Longest name of a file or folder in bytes; file systems take no longer ones.
const MAX_NAME: usize = 255;

/// Path of a file in a content: [`MANIFEST_PATH`], or one that begins with [`VERSION_FOLDER`].
///
/// It never leaves the content's folder: names are joined by `/`, none is empty, none begins with a dot (which `..` does,
/// and hidden files are no part of a content), none has control characters. Peers send these, and files are written there.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ListedPath(Arc<str>);

/// Text that is no path of a file in a content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected `{MANIFEST_PATH}` or a relative path in `{VERSION_FOLDER}/` of at most {MAX_PATH} bytes, whose names are not \
     empty, do not begin with a dot and have no control characters, found {0:?}"
)]
pub struct InvalidPath(String);

impl ListedPath {
    /// The path as text, names joined by `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folders that it lies in, the innermost first.
    pub(super) fn folders(&self) -> impl Iterator<Item = &str> {
        fn folder(path: &str) -> Option<&str> {
            path.rsplit_once('/').map(|(folder, _)| folder)
        }
        std::iter::successors(folder(&self.0), |path| folder(path))
    }
}

fn is_name_of_file(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME && !name.starts_with('.') && !name.contains(char::is_control)
}

fn is_listed_path(path: &str) -> bool {
    if path.len() > MAX_PATH {
        return false;
    }
    match path.split_once('/') {
        None => path == MANIFEST_PATH,
        Some((first, rest)) => first == VERSION_FOLDER && rest.split('/').all(is_name_of_file),
    }
}

impl FromStr for ListedPath {
    type Err = InvalidPath;

    fn from_str(path: &str) -> Result<Self, Self::Err> {
        match is_listed_path(path) {
            true => Ok(Self(path.into())),
            false => Err(InvalidPath(path.chars().take(MAX_PATH).collect())),
        }
    }
}

impl TryFrom<String> for ListedPath {
    type Error = InvalidPath;

    fn try_from(path: String) -> Result<Self, Self::Error> {
        path.parse()
    }
}

impl From<ListedPath> for String {
    fn from(path: ListedPath) -> Self {
        path.as_str().to_owned()
    }
}

impl fmt::Display for ListedPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ListedPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_that_could_leave_the_folder_are_refused() {
        let long_name = format!("version/{}", "x".repeat(256));
        let long_path = format!("version/{}", "x/".repeat(300));
        for bad in [
            "",
            "/",
            "..",
            "version",
            "version/",
            "listing",
            "other/model.onnx",
            "/version/a",
            "version//a",
            "version/a/",
            "version/./a",
            "version/../a",
            "version/a/..",
            "version/.hidden",
            "version/a\0b",
            "version/a\nb",
            "../model.toml",
            "model.toml/a",
            &long_name,
            &long_path,
        ] {
            assert!(bad.parse::<ListedPath>().is_err(), "{bad:?}");
        }
        for good in [
            "model.toml",
            "version/model.onnx",
            "version/a b/ü..x",
            "version/version/a",
        ] {
            assert!(good.parse::<ListedPath>().is_ok(), "{good:?}");
        }
    }

    #[test]
    fn the_folders_of_a_path_are_told_from_the_innermost_outwards() {
        let path: ListedPath = "version/a/b/c".parse().unwrap();
        assert_eq!(
            path.folders().collect::<Vec<_>>(),
            ["version/a/b", "version/a", "version"]
        );
    }

    proptest! {
        #[test]
        fn no_accepted_path_has_a_component_that_is_not_a_plain_name(path in "(version/)?[a./\\\\\u{0}]{0,12}") {
            if let Ok(path) = path.parse::<ListedPath>() {
                let plain = |part| matches!(part, std::path::Component::Normal(_));
                prop_assert!(std::path::Path::new(path.as_str()).components().all(plain), "{path:?}");
            }
        }
    }
}
