use std::io;
use std::process::Command;

use super::*;

/// A store on a disk that tells `free` bytes less what was written since.
fn store(data: &Path, reserve: u64, free: Arc<AtomicU64>) -> ArtifactStore {
    let surroundings = Surroundings {
        free: Box::new(move |_| Ok::<_, io::Error>(free.load(Ordering::Relaxed))),
        settled: Duration::ZERO,
    };
    ArtifactStore::open_in(data, ArtifactOptions { reserve }, surroundings).unwrap()
}

#[test]
fn a_disk_without_room_is_told_before_anything_is_fetched() {
    let (one, data, repository) = (Node::new(), tempfile::tempdir().unwrap(), repository());
    let (listing, content) = describe(&one.store, &repository, 7);
    let free = Arc::new(AtomicU64::new(listing.bytes() + 99));
    let other = store(data.path(), 100, Arc::clone(&free));
    let error = other.begin(listing.clone()).err().unwrap();
    let expected = format!(
        "{}/artifacts: the disk is full: {} bytes are needed, {} are free, and 100 of them are kept for others",
        data.path().display(),
        listing.bytes(),
        listing.bytes() + 99
    );
    assert_eq!(error.to_string(), expected);
    assert!(error.can_retry());
    assert!(!other.0.folders.partial(content).exists());
    free.fetch_add(1, Ordering::Relaxed);
    assert_whole(&fetch(&one.store, &other, &listing), &repository);
}

#[test]
fn what_other_downloads_still_need_is_left_to_them() {
    let (one, data, repository) = (Node::new(), tempfile::tempdir().unwrap(), repository());
    let (large, small) = (
        describe(&one.store, &repository, 7).0,
        describe(&one.store, &repository, 1).0,
    );
    let other = store(data.path(), 0, Arc::new(AtomicU64::new(large.bytes())));
    let partial = other.begin(large.clone()).unwrap();
    let error = other.begin(small.clone()).err().unwrap();
    assert!(
        matches!(error, ArtifactError::Full { needed, reserved, .. } if (needed, reserved) == (small.bytes(), large.bytes())),
        "{error}"
    );
    drop(partial);
    assert!(other.begin(small).is_ok());
}

#[test]
fn a_disk_that_fills_meanwhile_ends_the_download_and_the_next_one_resumes() {
    let (one, data, repository) = (Node::new(), tempfile::tempdir().unwrap(), repository());
    let (listing, content) = describe(&one.store, &repository, 7);
    let free = Arc::new(AtomicU64::new(listing.bytes()));
    let other = store(data.path(), 0, Arc::clone(&free));
    let old = fetch(&one.store, &other, &describe(&one.store, &repository, 1).0);
    let mut partial = other.begin(listing.clone()).unwrap();
    let fills = |_: &NodeName, chunk: &ChunkRequest, bytes: Bytes| {
        if chunk.file == 2 && chunk.offset > 0 {
            free.store(5, Ordering::Relaxed);
        }
        bytes
    };
    let error = fetch_from(&one.store, &mut partial, &["a"], fills).unwrap_err();
    let FetchError::Disk { reason, .. } = error else {
        panic!("the disk is at fault: {error}");
    };
    assert!(
        reason.contains("the disk is full") && reason.contains(" 5 are free"),
        "{reason}"
    );
    drop(partial);
    assert!(other.get(content).is_none());
    assert!(other.get(old.digest()).is_some(), "the old one serves on");
    free.store(listing.bytes(), Ordering::Relaxed);
    let mut partial = other.begin(listing.clone()).unwrap();
    let travelled = fetch_from(&one.store, &mut partial, &["a"], |_, _, bytes| bytes).unwrap();
    assert!(travelled < listing.bytes());
    assert_whole(&partial.finish().unwrap(), &repository);
}

/// A file system of one MiB, where the test may mount one.
struct Small(tempfile::TempDir);

impl Small {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mount = ["-t", "tmpfs", "-o", "size=1m", "none"];
        let mounted = Command::new("mount").args(mount).arg(folder.path()).output();
        mounted
            .is_ok_and(|output| output.status.success())
            .then_some(Self(folder))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).output();
    }
}

#[test]
fn a_disk_that_is_really_full_is_told_as_one() {
    let Some(small) = Small::mount() else {
        eprintln!("not run: no file system may be mounted here");
        return;
    };
    let (one, repository) = (Node::new(), repository());
    let (listing, _) = describe(&one.store, &repository, 7);
    let honest = open(small.0.path());
    assert!(
        matches!(honest.begin(listing.clone()), Err(ArtifactError::Full { .. })),
        "two MiB on one"
    );
    drop(honest);
    // A disk that tells of more room than it has: others write to it, or there is a quota.
    let other = store(small.0.path(), 0, Arc::new(AtomicU64::new(u64::MAX)));
    let mut partial = other.begin(listing.clone()).unwrap();
    let error = fetch_from(&one.store, &mut partial, &["a"], |_, _, bytes| bytes).unwrap_err();
    assert!(error.to_string().contains("the disk is full"), "{error}");
    drop(partial);
    let partial = other.begin(listing).unwrap();
    assert_eq!(
        partial.present()[1],
        "another model".len() as u64,
        "what was written stays"
    );
}
