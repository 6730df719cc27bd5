use super::*;

fn paths(listing: &Listing) -> Vec<&str> {
    listing.files().iter().map(|file| file.path.as_str()).collect()
}

#[test]
fn a_content_is_the_manifest_and_all_that_lies_in_the_versions_folder() {
    let (node, repository) = (Node::new(), repository());
    repository.write("m/7/.hidden", "x");
    repository.write("m/7/.git/config", "x");
    let (listing, content) = describe(&node.store, &repository, 7);
    let expected = [
        "model.toml",
        "version/model.onnx",
        "version/model.onnx.data",
        "version/vocabulary/words.txt",
    ];
    assert_eq!(paths(&listing), expected);
    assert_eq!(listing.digest(), content);
    assert_eq!(listing.files()[1].digest, Digest::of(b"another model"));
    assert_eq!(node.store.listing(content), Some(listing));
    assert_eq!(node.store.contents(), [content]);
    let error = node.store.describe(&repository.scan().models["m"], 3).unwrap_err();
    assert_eq!(error.to_string(), "m version 3 is not in the repository");
}

#[test]
fn the_same_files_are_the_same_content_under_any_version_and_without_a_manifest_another() {
    let node = Node::new();
    let repository = Repository::new(&[("m/1/model.onnx", "x"), ("m/2/model.onnx", "x")]);
    let (one, two) = (
        describe(&node.store, &repository, 1),
        describe(&node.store, &repository, 2),
    );
    assert_eq!(one, two);
    repository.write("m/model.toml", "");
    assert_ne!(describe(&node.store, &repository, 1).1, one.1);
}

#[test]
fn files_are_not_read_again_after_a_restart_unless_they_changed() {
    let (mut node, repository) = (Node::new(), repository());
    let first = describe(&node.store, &repository, 7);
    assert_eq!(node.store.0.remembered.hashed(), first.0.bytes());
    node = node.restarted();
    assert_eq!(describe(&node.store, &repository, 7), first);
    assert_eq!(node.store.0.remembered.hashed(), 0);

    // Another file in its place, of the same length, and as if it had been modified at the same time.
    let path = repository.path("m/7/model.onnx");
    let modified = path.metadata().unwrap().modified().unwrap();
    repository.write("new", "ANOTHER MODEL");
    fs::rename(repository.path("new"), &path).unwrap();
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_modified(modified)
        .unwrap();
    assert_ne!(describe(&node.store, &repository, 7), first);
    assert_eq!(node.store.0.remembered.hashed(), 13, "that file alone");
}

#[test]
fn digests_that_rotted_on_the_disk_are_not_believed() {
    let (mut node, repository) = (Node::new(), repository());
    let first = describe(&node.store, &repository, 7);
    let digests = node.data.path().join("artifacts/digests");
    let mut bytes = fs::read(&digests).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&digests, bytes).unwrap();
    node = node.restarted();
    assert_eq!(describe(&node.store, &repository, 7), first);
    assert_eq!(node.store.0.remembered.hashed(), first.0.bytes());
}

#[test]
fn a_file_that_was_just_changed_is_read_again() {
    let (data, repository) = (tempfile::tempdir().unwrap(), repository());
    let surroundings = Surroundings {
        settled: Duration::from_secs(3600),
        ..Surroundings::default()
    };
    let store = ArtifactStore::open_in(data.path(), OPTIONS, surroundings).unwrap();
    let bytes = describe(&store, &repository, 7).0.bytes();
    describe(&store, &repository, 7);
    assert_eq!(store.0.remembered.hashed(), 2 * bytes);
}

#[test]
fn a_file_that_changed_since_is_refused_and_its_content_not_offered_any_more() {
    let (node, repository) = (Node::new(), repository());
    let (_, content) = describe(&node.store, &repository, 7);
    let chunk = ChunkRequest {
        content,
        file: 1,
        offset: 2,
        length: 5,
    };
    assert_eq!(node.store.read(&chunk).unwrap(), "other");
    repository.write("m/7/model.onnx", "of another length");
    let error = node.store.read(&chunk).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("m/7/model.onnx: changed since it was described"),
        "{error}"
    );
    assert_eq!(node.store.contents(), []);
    assert!(matches!(node.store.read(&chunk), Err(ArtifactError::Unknown(_))));
    let (_, new) = describe(&node.store, &repository, 7);
    assert_eq!(node.store.contents(), [new]);
    repository.write("m/model.toml", "instances = 3");
    let (_, newer) = describe(&node.store, &repository, 7);
    assert_eq!(
        node.store.contents(),
        [newer],
        "what lay in the same folder before is gone"
    );
}

#[test]
fn a_content_that_lies_in_two_folders_is_read_while_one_is_unchanged() {
    let node = Node::new();
    let repository = Repository::new(&[("m/1/model.onnx", "x"), ("m/2/model.onnx", "x")]);
    let (_, content) = describe(&node.store, &repository, 1);
    describe(&node.store, &repository, 2);
    let chunk = ChunkRequest {
        content,
        file: 0,
        offset: 0,
        length: 1,
    };
    for version in ["m/1/model.onnx", "m/2/model.onnx"] {
        assert_eq!(node.store.read(&chunk).unwrap(), "x");
        repository.write(version, "of another length");
    }
    assert!(matches!(node.store.read(&chunk), Err(ArtifactError::Changed { .. })));
}

#[test]
fn files_that_cannot_be_part_of_a_content_are_told() {
    let (node, repository) = (Node::new(), repository());
    let told = |expected: &str| {
        let found = &repository.scan().models["m"];
        let error = node.store.describe(found, 1).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    let link = repository.path("m/1/around");
    std::os::unix::fs::symlink(".", &link).unwrap();
    told("around");
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    told("m/1/around: No such file");
    fs::remove_file(&link).unwrap();
    repository.write("m/1/a\nb", "");
    told("m/1/a\nb: expected `model.toml` or a relative path");
}
