use super::*;

#[test]
fn a_fetched_content_is_the_one_that_was_described_and_makes_the_same_plan() {
    let (one, other, repository) = (Node::new(), Node::new(), repository());
    let (listing, content) = describe(&one.store, &repository, 7);
    let stored = fetch(&one.store, &other.store, &listing);
    assert_whole(&stored, &repository);
    assert_eq!(stored.digest(), content);
    assert_eq!(other.entries("partial"), [] as [&str; 0]);
    assert_eq!(other.store.contents(), [content]);

    let found = stored.found_model(&id(7)).unwrap();
    let original = &repository.scan().models["m"];
    assert_eq!(found.manifest.instances, Some(2));
    assert_eq!(found.versions[&7].bytes, original.versions[&7].bytes);
    assert_eq!(found.versions[&7].path, stored.folder().join("version/model.onnx"));
    // From there a third node can have it.
    let third = Node::new();
    assert_whole(&fetch(&other.restarted().store, &third.store, &listing), &repository);
}

#[test]
fn a_model_loads_from_where_it_was_fetched_to() {
    let (one, other) = (Node::new(), Node::new());
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/models");
    let scan = super::super::super::scan(&[models]);
    let (listing, _) = one.store.describe(&scan.models["digits"], 1).unwrap();
    let stored = fetch(&one.store, &other.store, &listing);
    let name = "digits".parse().unwrap();
    let found = stored.found_model(&ModelId { name, version: 1 }).unwrap();
    let config = grid_core::config::parse("test.toml", "models.repository = '.'", []).unwrap();
    let plans = crate::actors::plans(&found, &config);
    assert_eq!(plans.len(), 1);
    plans[0].open(&crate::runtime::Runtimes::of_config(&config)).unwrap();
}

#[test]
fn a_content_that_is_no_model_is_told_by_the_path_of_its_file() {
    let (one, other) = (Node::new(), Node::new());
    let repository = Repository::new(&[("m/1/model.onnx", "x")]);
    let found = &repository.scan().models["m"];
    repository.write("m/model.toml", "instances = 'many'");
    let (listing, _) = one.store.describe(found, 1).unwrap();
    let stored = fetch(&one.store, &other.store, &listing);
    let problems = stored.found_model(&id(1)).unwrap_err();
    let expected = stored.folder().join("model.toml").display().to_string();
    assert!(problems[0].to_string().starts_with(&expected), "{problems:?}");
}

#[test]
fn a_wrong_digest_is_told_and_the_file_is_fetched_from_another_node() {
    let (one, other, repository) = (Node::new(), Node::new(), repository());
    let old = fetch(&one.store, &other.store, &describe(&one.store, &repository, 1).0);
    let (listing, content) = describe(&one.store, &repository, 7);
    let damaged = |source: &NodeName, chunk: &ChunkRequest, bytes: Bytes| match source.as_str() {
        "liar" if chunk.file == 1 => Bytes::from(vec![b'x'; bytes.len()]),
        _ => bytes,
    };
    let mut partial = other.store.begin(listing.clone()).unwrap();
    let FetchError::NoSource { reasons, .. } = fetch_from(&one.store, &mut partial, &["liar"], damaged).unwrap_err()
    else {
        panic!("the source is at fault");
    };
    let expected = format!(
        "version/model.onnx of content {content:?}: expected a file with the SHA-256 digest {}, found {}",
        Digest::of(b"another model"),
        Digest::of(b"xxxxxxxxxxxxx")
    );
    assert_eq!(reasons, [(node_name("liar"), expected)]);
    assert_eq!(partial.present()[1], 0, "it was removed");
    assert!(partial.finish().is_err());
    assert!(other.store.get(content).is_none());
    assert_eq!(
        other.store.get(old.digest()).unwrap().folder(),
        old.folder(),
        "the old one is as it was"
    );

    let mut partial = other.store.begin(listing).unwrap();
    let all = partial.listing().bytes();
    let travelled = fetch_from(&one.store, &mut partial, &["liar", "honest"], damaged).unwrap();
    assert!(travelled < all, "what was right is kept");
    assert_whole(&partial.finish().unwrap(), &repository);
}

#[test]
fn a_download_that_ends_anywhere_is_resumed_with_what_is_missing() {
    let (one, repository) = (Node::new(), repository());
    let (listing, content) = describe(&one.store, &repository, 7);
    // A write may also have been cut short.
    for (ends_after, cut) in (0..6).flat_map(|chunks| [(chunks, 0), (chunks, 3)]) {
        let mut other = Node::new();
        let mut partial = other.store.begin(listing.clone()).unwrap();
        let mut fetch = Fetch::new(&listing, partial.present(), [node_name("a")], FetchLimits::default());
        for _ in 0..ends_after {
            let Step::Ask { source, chunk } = partial.advance(&mut fetch) else {
                break;
            };
            let bytes = one.store.read(&chunk).unwrap();
            fetch.received(&source, &chunk, bytes);
        }
        partial.advance(&mut fetch);
        let present = partial.present().to_vec();
        drop(partial);
        other = other.restarted();
        assert!(other.store.get(content).is_none());
        let folder = other.store.0.folders.partial(content);
        let data = folder.join("version/model.onnx.data");
        let shortened = data.metadata().map_or(0, |metadata| metadata.len().min(cut));
        if shortened > 0 {
            let file = File::options().write(true).open(&data).unwrap();
            file.set_len(present[2] - shortened).unwrap();
        }
        let mut partial = other.store.begin(listing.clone()).unwrap();
        let kept: u64 = present.iter().sum::<u64>() - shortened;
        assert_eq!(partial.present().iter().sum::<u64>(), kept);
        let travelled = fetch_from(&one.store, &mut partial, &["a"], |_, _, bytes| bytes).unwrap();
        assert_eq!(travelled + kept, listing.bytes());
        assert_whole(&partial.finish().unwrap(), &repository);
        assert_whole(&other.restarted().store.get(content).unwrap(), &repository);
    }
}

#[test]
fn bytes_that_a_crash_of_the_machine_lost_are_fetched_again() {
    let (one, other, repository) = (Node::new(), Node::new(), repository());
    let (listing, content) = describe(&one.store, &repository, 7);
    let mut partial = other.store.begin(listing.clone()).unwrap();
    fetch_from(&one.store, &mut partial, &["a"], |_, _, bytes| bytes).unwrap();
    drop(partial);
    let other = other.restarted();
    // The length had come to the disk and the bytes had not.
    let lost = vec![0; "another model".len()];
    fs::write(other.store.0.folders.partial(content).join("version/model.onnx"), lost).unwrap();
    let mut partial = other.store.begin(listing).unwrap();
    let travelled = fetch_from(&one.store, &mut partial, &["a"], |_, _, bytes| bytes).unwrap();
    assert_eq!(travelled, "another model".len() as u64);
    assert_whole(&partial.finish().unwrap(), &repository);
}

#[test]
fn a_changed_manifest_costs_no_second_transfer_of_the_weights() {
    let (one, other, repository) = (Node::new(), Node::new(), repository());
    let old = fetch(&one.store, &other.store, &describe(&one.store, &repository, 7).0);
    let manifest = "instances = 3";
    repository.write("m/model.toml", manifest);
    let (listing, content) = describe(&one.store, &repository, 7);
    let mut partial = other.store.begin(listing).unwrap();
    let travelled = fetch_from(&one.store, &mut partial, &["a"], |_, _, bytes| bytes).unwrap();
    assert_eq!(travelled, manifest.len() as u64);
    assert_whole(&partial.finish().unwrap(), &repository);
    // The two share bytes on the disk, and neither needs the other.
    drop(old);
    let keep = [content].into();
    let collected = other.store.collect(&keep, SystemTime::now()).unwrap();
    assert_eq!(collected.contents.len(), 1);
    assert_whole(&other.restarted().store.get(content).unwrap(), &repository);
}

#[test]
fn a_content_is_fetched_once_at_a_time_and_written_in_order() {
    let (one, other, repository) = (Node::new(), Node::new(), repository());
    let (listing, content) = describe(&one.store, &repository, 7);
    let mut partial = other.store.begin(listing.clone()).unwrap();
    let again = other.store.begin(listing.clone()).err().unwrap();
    assert_eq!(
        again.to_string(),
        format!("content {content:?} is being fetched already")
    );
    for (file, offset, bytes) in [(1, 1, "x"), (1, 0, "more than there is"), (9, 0, "x"), (3, 0, "x")] {
        assert!(partial.write(file, offset, bytes.as_bytes()).is_err());
    }
    assert!(matches!(
        partial.verify(1),
        Err(ArtifactError::Incomplete { found: 0, .. })
    ));
    assert!(matches!(partial.finish(), Err(ArtifactError::Incomplete { .. })));
    fetch(&one.store, &other.store, &listing);
    let partial = other.store.begin(listing).unwrap();
    assert_eq!(
        partial.finish().unwrap().digest(),
        content,
        "all of it was in the store"
    );
    assert_eq!(other.entries("partial"), [] as [&str; 0]);
}

#[test]
fn a_hostile_listing_writes_nothing_outside() {
    let file = ("version/../../../evil", 1u64, Digest::of(b"x"));
    let bytes = grid_core::wire::codec::encode(&(1u8, vec![file]));
    let error = Listing::decode(Digest::of(&bytes), &bytes).unwrap_err();
    assert!(error.to_string().contains("found \"version/../../../evil\""), "{error}");
}
