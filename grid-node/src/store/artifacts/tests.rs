use std::fs;
use std::sync::atomic::Ordering;
use std::time::Duration;

use grid_core::artifact::{Fetch, FetchError, FetchLimits, Step};
use grid_core::cluster::NodeName;
use grid_core::model::ModelId;

use super::super::tests::Repository;
use super::*;

mod described;
mod disk_full;
mod fetched;
mod kept;

const OPTIONS: ArtifactOptions = ArtifactOptions { reserve: 0 };

/// A store in this data directory, which trusts the stamps of files that were just written.
fn open(data: &Path) -> ArtifactStore {
    let surroundings = Surroundings {
        settled: Duration::ZERO,
        ..Surroundings::default()
    };
    ArtifactStore::open_in(data, OPTIONS, surroundings).unwrap()
}

/// A data directory and its store.
struct Node {
    store: ArtifactStore,
    data: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let store = open(data.path());
        Self { store, data }
    }

    /// The node after a restart.
    fn restarted(self) -> Self {
        drop(self.store);
        let store = open(self.data.path());
        Self { store, data: self.data }
    }

    /// Names in a folder of the store.
    fn entries(&self, folder: &str) -> Vec<String> {
        let folder = self.data.path().join("artifacts").join(folder);
        let paths = super::super::entries(&folder).unwrap();
        paths
            .iter()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect()
    }
}

/// A repository with one model of two versions: files of several chunks, an empty one, and a manifest.
fn repository() -> Repository {
    let large: String = (0..2 * CHUNK / 8 + 5).map(|number| format!("{number:08}")).collect();
    Repository::new(&[
        ("m/model.toml", "instances = 2\ndefault_version = 7"),
        ("m/1/model.onnx", "a model"),
        ("m/7/model.onnx", "another model"),
        ("m/7/model.onnx.data", &large),
        ("m/7/vocabulary/words.txt", ""),
    ])
}

fn describe(store: &ArtifactStore, repository: &Repository, version: Version) -> (Listing, Digest) {
    store.describe(&repository.scan().models["m"], version).unwrap()
}

fn id(version: Version) -> ModelId {
    let name = "m".parse().unwrap();
    ModelId { name, version }
}

fn node_name(name: &str) -> NodeName {
    name.parse().unwrap()
}

/// Fetches from one store into another. `changed` may do something to what travels.
fn fetch_from(
    from: &ArtifactStore,
    partial: &mut Partial,
    sources: &[&str],
    changed: impl Fn(&NodeName, &ChunkRequest, Bytes) -> Bytes,
) -> Result<u64, FetchError> {
    let sources = sources.iter().map(|name| node_name(name));
    let mut fetch = Fetch::new(partial.listing(), partial.present(), sources, FetchLimits::default());
    let mut travelled = 0;
    loop {
        match partial.advance(&mut fetch) {
            Step::Ask { source, chunk } => match from.read(&chunk) {
                Ok(bytes) => {
                    travelled += bytes.len() as u64;
                    fetch.received(&source, &chunk, changed(&source, &chunk, bytes));
                }
                Err(error) => fetch.source_failed(&source, error.to_string()),
            },
            Step::Done => return Ok(travelled),
            Step::Failed(error) => return Err(error),
            other => panic!("nothing is under way: {other:?}"),
        }
    }
}

/// Fetches all of a content.
fn fetch(from: &ArtifactStore, to: &ArtifactStore, listing: &Listing) -> StoredContent {
    let mut partial = to.begin(listing.clone()).unwrap();
    fetch_from(from, &mut partial, &["a"], |_, _, bytes| bytes).unwrap();
    partial.finish().unwrap()
}

/// Asserts that a content is there as it was in the repository.
fn assert_whole(content: &StoredContent, repository: &Repository) {
    for file in content.listing().files() {
        let stored = fs::read(content.folder().join(file.path.as_str())).unwrap();
        let original = match file.path.as_str().strip_prefix("version/") {
            Some(path) => format!("m/7/{path}"),
            None => "m/model.toml".to_owned(),
        };
        assert!(stored == fs::read(repository.path(&original)).unwrap(), "{}", file.path);
    }
}
