use super::*;

/// After everything that was done so far.
fn later() -> SystemTime {
    SystemTime::now() + Duration::from_secs(60)
}

#[test]
fn what_is_unused_is_collected_and_what_is_in_use_or_wanted_is_not() {
    let (one, other, repository) = (Node::new(), Node::new(), repository());
    let content = |version| describe(&one.store, &repository, version);
    let (first, seventh) = (content(1), content(7));
    let in_use = fetch(&one.store, &other.store, &first.0);
    drop(fetch(&one.store, &other.store, &seventh.0));
    let long_ago = SystemTime::now() - Duration::from_secs(60);
    let nothing = HashSet::new();
    let collect = |keep: &HashSet<Digest>, since| other.store.collect(keep, since).unwrap().contents;
    assert_eq!(collect(&nothing, long_ago), [], "used since");
    assert_eq!(collect(&[seventh.1].into(), later()), [], "wanted");
    assert_eq!(collect(&nothing, later()), [seventh.1]);
    assert_eq!(other.entries("contents"), [first.1.to_string()]);
    assert_eq!(other.entries("discarded"), [] as [&str; 0]);
    assert!(other.store.get(seventh.1).is_none());
    drop(in_use);
    assert_eq!(collect(&nothing, later()), [first.1]);
    // What is in the repository is not the store's to collect.
    assert_eq!(one.store.collect(&nothing, later()).unwrap().contents, []);
    assert_eq!(one.store.contents().len(), 2);
}

#[test]
fn a_download_that_was_broken_off_is_collected_in_its_time() {
    let (one, other, repository) = (Node::new(), Node::new(), repository());
    let (listing, content) = describe(&one.store, &repository, 7);
    let mut partial = other.store.begin(listing).unwrap();
    partial.write(0, 0, b"inst").unwrap();
    let nothing = HashSet::new();
    let collect = |keep: &HashSet<Digest>, since| other.store.collect(keep, since).unwrap().partials;
    assert_eq!(collect(&nothing, later()), [], "it is being fetched");
    drop(partial);
    let long_ago = SystemTime::now() - Duration::from_secs(60);
    assert_eq!(collect(&nothing, long_ago), [], "touched since");
    assert_eq!(collect(&[content].into(), later()), [], "wanted");
    assert_eq!(collect(&nothing, later()), [content]);
    assert_eq!(other.entries("partial"), [] as [&str; 0]);
}

#[test]
fn what_a_crash_left_is_removed_at_the_next_start_and_other_files_are_left_alone() {
    let (one, mut other, repository) = (Node::new(), Node::new(), repository());
    let (listing, content) = describe(&one.store, &repository, 7);
    let path = fetch(&one.store, &other.store, &listing).folder().to_owned();
    let artifacts = other.data.path().join("artifacts");
    let name = Digest::of(b"other").to_string();
    // Cut off before the listing was written, with the listing of another content, and while it was removed.
    for left in ["partial", "contents", "discarded"] {
        fs::create_dir_all(artifacts.join(left).join(&name).join("version")).unwrap();
    }
    fs::write(artifacts.join("contents").join(&name).join("listing"), listing.encode()).unwrap();
    fs::write(artifacts.join("contents/README"), "mine").unwrap();
    other = other.restarted();
    assert_eq!(other.entries("partial"), [] as [&str; 0]);
    assert_eq!(other.entries("discarded"), [] as [&str; 0]);
    assert_eq!(other.entries("contents"), ["README".to_owned(), content.to_string()]);
    assert_eq!(other.store.contents(), [content]);

    File::options()
        .write(true)
        .open(path.join("version/model.onnx"))
        .unwrap()
        .set_len(3)
        .unwrap();
    other = other.restarted();
    assert_eq!(other.store.contents(), [], "a file is too short");
    assert_whole(&fetch(&one.store, &other.store, &listing), &repository);
}

#[test]
fn many_read_at_once_while_what_they_do_not_read_is_collected() {
    let (one, other, repository) = (Node::new(), Node::new(), repository());
    let (listing, _) = describe(&one.store, &repository, 7);
    let read = fetch(&one.store, &other.store, &listing);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let third = Node::new();
                assert_whole(&fetch(&other.store, &third.store, &listing), &repository);
            });
        }
        for text in ["x", "y", "z"] {
            let repository = Repository::new(&[("m/1/model.onnx", text)]);
            let (listing, content) = describe(&one.store, &repository, 1);
            drop(fetch(&one.store, &other.store, &listing));
            let collected = other.store.collect(&HashSet::new(), later()).unwrap();
            assert_eq!(collected.contents, [content]);
        }
    });
    drop(read);
}

#[test]
fn bytes_that_a_content_does_not_have_are_refused() {
    let (one, repository) = (Node::new(), repository());
    let (listing, content) = describe(&one.store, &repository, 7);
    let whole = ChunkRequest {
        content,
        file: 1,
        offset: 0,
        length: listing.files()[1].bytes as u32,
    };
    assert_eq!(one.store.read(&whole).unwrap(), "another model");
    for wrong in [
        ChunkRequest { file: 4, ..whole },
        ChunkRequest {
            file: u32::MAX,
            ..whole
        },
        ChunkRequest { offset: 1, ..whole },
        ChunkRequest {
            offset: u64::MAX,
            ..whole
        },
        ChunkRequest {
            length: CHUNK + 1,
            file: 2,
            ..whole
        },
    ] {
        assert!(
            matches!(one.store.read(&wrong), Err(ArtifactError::OutOfRange { .. })),
            "{wrong:?}"
        );
    }
    let content = Digest::of(b"nobody has it");
    assert!(matches!(
        one.store.read(&ChunkRequest { content, ..whole }),
        Err(ArtifactError::Unknown(_))
    ));
}
