use proptest::prelude::*;

use super::super::ListedFile;
use super::*;

const MIB: u64 = CHUNK as u64;

fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

/// The byte at a place of a file, so that no file of many MiB need be kept.
fn content_of(file: usize, bytes: u64) -> Vec<u8> {
    (0..bytes).map(|at| (at / 7 + file as u64 * 31) as u8).collect()
}

fn listing(sizes: &[u64]) -> Listing {
    let files = sizes.iter().enumerate().map(|(file, &bytes)| ListedFile {
        path: format!("version/{file:03}").parse().unwrap(),
        bytes,
        digest: Digest::of(&content_of(file, bytes)),
    });
    Listing::new(files.collect()).unwrap()
}

fn asked(step: Step) -> (NodeName, ChunkRequest) {
    match step {
        Step::Ask { source, chunk } => (source, chunk),
        other => panic!("expected a request, found {other:?}"),
    }
}

fn bytes_of(chunk: &ChunkRequest) -> Bytes {
    let file = content_of(chunk.file as usize, chunk.offset + u64::from(chunk.length));
    Bytes::from(file).slice(chunk.offset as usize..)
}

fn write(fetch: &mut Fetch, at: u64) {
    let Step::Write { file, offset, .. } = fetch.next_step() else {
        panic!("expected a write at {at}");
    };
    assert_eq!(offset, at);
    fetch.written(file);
}

const LIMITS: FetchLimits = FetchLimits {
    in_play: 3,
    per_source: 2,
};

#[test]
fn a_resumed_download_asks_only_for_what_is_missing() {
    let listing = listing(&[3, 2 * MIB, MIB]);
    let mut fetch = Fetch::new(&listing, &[3, MIB + 5, 0], [node("a")], LIMITS);
    assert_eq!(fetch.next_step(), Step::Verify { file: 0 }, "all of it is there");
    let (_, rest) = asked(fetch.next_step());
    let expected = ChunkRequest {
        content: listing.digest(),
        file: 1,
        offset: MIB + 5,
        length: CHUNK - 5,
    };
    assert_eq!(rest, expected);
    assert_eq!(asked(fetch.next_step()).1.file, 2);
    assert_eq!(fetch.next_step(), Step::Wait);
    assert_eq!(fetch.progress(), (MIB + 8, 3 * MIB + 3));
}

#[test]
fn chunks_that_come_early_are_held_and_written_in_order() {
    let mut fetch = Fetch::new(&listing(&[4 * MIB]), &[], [node("a"), node("b")], LIMITS);
    let asks = [(); 3].map(|()| asked(fetch.next_step()));
    assert_eq!(asks.each_ref().map(|(source, _)| source.as_str()), ["a", "b", "a"]);
    assert_eq!(fetch.next_step(), Step::Wait, "three are in play");
    for (source, chunk) in asks[1..].iter().rev() {
        fetch.received(source, chunk, bytes_of(chunk));
        assert_eq!(fetch.next_step(), Step::Wait, "held chunks are in play");
    }
    fetch.received(&asks[0].0, &asks[0].1, bytes_of(&asks[0].1));
    (0..3).for_each(|at| write(&mut fetch, at * MIB));
    let (source, last) = asked(fetch.next_step());
    assert_eq!(last.offset, 3 * MIB);
    fetch.received(&source, &last, bytes_of(&last));
    write(&mut fetch, 3 * MIB);
    assert_eq!(fetch.next_step(), Step::Verify { file: 0 });
    assert_eq!(fetch.next_step(), Step::Wait);
    fetch.verified(0, Ok(()));
    assert_eq!(fetch.next_step(), Step::Done);
}

#[test]
fn what_a_failed_source_owes_is_asked_of_another_and_its_late_answer_is_dropped() {
    let mut fetch = Fetch::new(&listing(&[MIB]), &[], [node("a"), node("b")], LIMITS);
    let (a, chunk) = asked(fetch.next_step());
    fetch.source_failed(&a, "the link broke".to_owned());
    assert_eq!(asked(fetch.next_step()), (node("b"), chunk));
    fetch.received(&a, &chunk, bytes_of(&chunk));
    assert_eq!(fetch.next_step(), Step::Wait);
    fetch.add_source(a);
    fetch.source_failed(&node("b"), "it is stopping".to_owned());
    let Step::Failed(error) = fetch.next_step() else {
        panic!("nobody is left");
    };
    let text = error.to_string();
    assert!(
        text.ends_with("any node: a: the link broke; b: it is stopping"),
        "{text}"
    );
    fetch.add_source(node("c"));
    assert_eq!(fetch.next_step(), Step::Failed(error), "it has ended");
}

#[test]
fn an_answer_that_is_not_what_was_asked_makes_its_source_fail() {
    let sources = ["short", "long", "another", "twice", "honest"].map(node);
    let mut fetch = Fetch::new(&listing(&[9]), &[], sources, LIMITS);
    for (change, source) in [(-1, "short"), (1, "long")] {
        let (asked, chunk) = asked(fetch.next_step());
        assert_eq!(asked.as_str(), source);
        let length = (i64::from(chunk.length) + change) as usize;
        fetch.received(&asked, &chunk, vec![0; length].into());
    }
    let (another, chunk) = asked(fetch.next_step());
    fetch.received(&another, &ChunkRequest { file: 7, ..chunk }, Bytes::new());
    let (twice, chunk) = asked(fetch.next_step());
    fetch.received(&twice, &chunk, bytes_of(&chunk));
    fetch.received(&twice, &chunk, bytes_of(&chunk));
    write(&mut fetch, 0);
    assert_eq!(fetch.next_step(), Step::Verify { file: 0 });
    fetch.verified(0, Err("expected x, found y".to_owned()));
    assert_eq!(asked(fetch.next_step()).0.as_str(), "honest");
    fetch.source_failed(&node("honest"), "gone".to_owned());
    let Step::Failed(error) = fetch.next_step() else {
        panic!("nobody is left");
    };
    let expected = "short: it sent 8 bytes where 9 were asked for; long: it sent 10 bytes where 9 were asked for; \
                    another: it answered what it was not asked; twice: it answered what it was not asked; honest: gone";
    assert!(error.to_string().ends_with(expected), "{error}");
}

#[test]
fn a_wrong_file_of_several_sources_is_fetched_from_one_alone_until_the_liar_is_found() {
    let mut fetch = Fetch::new(&listing(&[2 * MIB]), &[], [node("liar"), node("honest")], LIMITS);
    // Everybody is asked for as much as may be before the first answer comes.
    let attempt = |fetch: &mut Fetch| {
        let (mut sources, mut asks) = (BTreeSet::new(), Vec::new());
        loop {
            match fetch.next_step() {
                Step::Ask { source, chunk } => {
                    sources.insert(source.to_string());
                    asks.push((source, chunk));
                }
                Step::Wait => {
                    let answers = asks.drain(..);
                    answers.for_each(|(source, chunk)| fetch.received(&source, &chunk, bytes_of(&chunk)));
                }
                Step::Write { file, .. } => fetch.written(file),
                Step::Verify { .. } => return sources.into_iter().collect::<Vec<_>>().join(" "),
                other => panic!("{other:?}"),
            }
        }
    };
    assert_eq!(attempt(&mut fetch), "honest liar");
    fetch.verified(0, Err("wrong".to_owned()));
    assert_eq!(attempt(&mut fetch), "liar", "one alone");
    fetch.verified(0, Err("wrong".to_owned()));
    assert_eq!(attempt(&mut fetch), "honest");
    fetch.verified(0, Ok(()));
    assert_eq!(fetch.next_step(), Step::Done);
}

#[test]
fn bytes_from_an_earlier_download_are_nobodys_fault() {
    let mut fetch = Fetch::new(&listing(&[9]), &[4], [node("a")], LIMITS);
    let (a, chunk) = asked(fetch.next_step());
    fetch.received(&a, &chunk, bytes_of(&chunk));
    write(&mut fetch, 4);
    assert_eq!(fetch.next_step(), Step::Verify { file: 0 });
    fetch.verified(0, Err("wrong".to_owned()));
    let (a, chunk) = asked(fetch.next_step());
    assert_eq!((a.as_str(), chunk.offset, chunk.length), ("a", 0, 9));
}

#[test]
fn a_disk_that_refuses_ends_it() {
    let mut fetch = Fetch::new(&listing(&[9]), &[], [node("a")], LIMITS);
    asked(fetch.next_step());
    fetch.disk_failed("no space left".to_owned());
    let Step::Failed(error) = fetch.next_step() else {
        panic!("the disk is full");
    };
    assert!(
        error.to_string().ends_with("could not be stored: no space left"),
        "{error}"
    );
}

/// What a source does with a request.
#[derive(Clone, Copy, Debug)]
enum Nature {
    Honest,
    /// Answers so many and then breaks.
    Breaks(usize),
    /// Sends wrong bytes of the right length, from so many on.
    Lies(usize),
    /// Sends too little.
    Short,
    /// Answers what it was not asked.
    Confused,
}

fn nature() -> impl Strategy<Value = Nature> {
    prop_oneof![
        Just(Nature::Honest),
        (0usize..6).prop_map(Nature::Breaks),
        (0usize..6).prop_map(Nature::Lies),
        Just(Nature::Short),
        Just(Nature::Confused),
    ]
}

/// A grid around a download: what is under way, and what lies on disk.
struct World {
    natures: Vec<Nature>,
    answered: Vec<usize>,
    asks: Vec<(NodeName, ChunkRequest)>,
    writes: Vec<u32>,
    verifications: Vec<u32>,
    disk: Vec<Vec<u8>>,
    /// Files that were wrong, and began again.
    begun_again: BTreeSet<u32>,
}

impl World {
    /// Takes everything that the download wants done.
    fn take(&mut self, fetch: &mut Fetch, limits: FetchLimits, present: &[u64]) -> Result<Option<Step>, TestCaseError> {
        loop {
            match fetch.next_step() {
                Step::Ask { source, chunk } => {
                    let live: Vec<_> = self.live(fetch).collect();
                    let same = |(_, other): &(NodeName, ChunkRequest)| {
                        (other.file, other.offset) == (chunk.file, chunk.offset)
                    };
                    prop_assert!(!live.iter().copied().any(same), "asked twice at once: {chunk:?}");
                    prop_assert!(chunk.length > 0 && chunk.length <= CHUNK);
                    let first = !self.begun_again.contains(&chunk.file);
                    let kept = present.get(chunk.file as usize).copied().unwrap_or(0);
                    prop_assert!(!first || chunk.offset >= kept, "asked for what was there");
                    let of_source = live.iter().filter(|(other, _)| *other == source).count();
                    prop_assert!(of_source < limits.per_source);
                    prop_assert!(live.len() + self.writes.len() < limits.in_play);
                    self.asks.push((source, chunk));
                }
                Step::Write { file, offset, bytes } => {
                    let disk = &mut self.disk[file as usize];
                    prop_assert_eq!(disk.len() as u64, offset, "written in order");
                    disk.extend_from_slice(&bytes);
                    self.writes.push(file);
                }
                Step::Verify { file } => self.verifications.push(file),
                Step::Wait => return Ok(None),
                end => return Ok(Some(end)),
            }
        }
    }

    /// What will be answered in time: the others' sources have failed, and their answers come too late.
    fn live(&self, fetch: &Fetch) -> impl Iterator<Item = &(NodeName, ChunkRequest)> {
        self.asks.iter().filter(|(source, _)| fetch.live(source).is_some())
    }

    /// One thing happens.
    fn happen(&mut self, fetch: &mut Fetch, listing: &Listing, which: usize) {
        let (asks, writes) = (self.asks.len(), self.writes.len());
        let which = which % (asks + writes + self.verifications.len());
        if which < asks {
            let (source, chunk) = self.asks.swap_remove(which);
            let place: usize = source.as_str()[1..].parse().unwrap();
            self.answered[place] += 1;
            let right = bytes_of(&chunk);
            let wrong = Bytes::from(right.iter().map(|byte| !byte).collect::<Vec<_>>());
            match self.natures[place] {
                Nature::Breaks(after) if self.answered[place] > after => {
                    fetch.source_failed(&source, "broke".to_owned());
                }
                Nature::Lies(after) if self.answered[place] > after => fetch.received(&source, &chunk, wrong),
                Nature::Short => fetch.received(&source, &chunk, right.slice(1..)),
                Nature::Confused => {
                    let offset = chunk.offset + 1;
                    fetch.received(&source, &ChunkRequest { offset, ..chunk }, right);
                }
                _ => fetch.received(&source, &chunk, right),
            }
        } else if which < asks + writes {
            // Of one file the oldest, which is the same message.
            fetch.written(self.writes.swap_remove(which - asks));
        } else {
            let file = self.verifications.swap_remove(which - asks - writes);
            let found = Digest::of(&self.disk[file as usize]);
            let is_right = found == listing.files()[file as usize].digest;
            if !is_right {
                self.disk[file as usize].clear();
                self.begun_again.insert(file);
            }
            fetch.verified(file, is_right.then_some(()).ok_or_else(|| "wrong digest".to_owned()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn whatever_sources_do_it_ends_and_well_if_one_is_honest(
        sizes in proptest::collection::vec(prop_oneof![Just(0), 1..9u64, MIB - 1..2 * MIB + 2, Just(4 * MIB)], 1..5),
        kept in proptest::collection::vec((0.0..1.0f64, any::<bool>()), 0..5),
        natures in proptest::collection::vec(nature(), 0..5),
        in_play in 1..6usize,
        per_source in 1..4usize,
        order: u64,
    ) {
        let listing = listing(&sizes);
        let limits = FetchLimits { in_play, per_source };
        let mut disk: Vec<Vec<u8>> = vec![Vec::new(); sizes.len()];
        for (file, (part, is_right)) in kept.iter().take(sizes.len()).enumerate() {
            disk[file] = content_of(file, (sizes[file] as f64 * part * 1.5).min(sizes[file] as f64) as u64);
            // What lies there may be rotten.
            disk[file].iter_mut().take(usize::from(!is_right)).for_each(|byte| *byte = !*byte);
        }
        let present: Vec<u64> = disk.iter().map(|bytes| bytes.len() as u64).collect();
        let sources = (0..natures.len()).map(|place| node(&format!("n{place}")));
        let mut fetch = Fetch::new(&listing, &present, sources, limits);
        let mut world = World {
            answered: vec![0; natures.len()],
            natures,
            asks: Vec::new(),
            writes: Vec::new(),
            verifications: Vec::new(),
            disk,
            begun_again: BTreeSet::new(),
        };
        let mut random = order | 1;
        let mut end = None;
        // At most four files of five chunks, eleven attempts at each, and for each chunk an answer and a write.
        for _ in 0..4 * 11 * (5 * 2 + 1) {
            end = world.take(&mut fetch, limits, &present)?;
            if end.is_some() {
                break;
            }
            prop_assert!(
                !(world.live(&fetch).next().is_none() && world.writes.is_empty() && world.verifications.is_empty()),
                "it waits for nothing"
            );
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            world.happen(&mut fetch, &listing, (random >> 33) as usize);
        }
        match end {
            Some(Step::Done) => for (file, bytes) in world.disk.iter().enumerate() {
                prop_assert_eq!(Digest::of(bytes), listing.files()[file].digest);
            },
            Some(Step::Failed(FetchError::NoSource { reasons, .. })) => {
                prop_assert_eq!(reasons.len(), world.natures.len());
                prop_assert!(!world.natures.iter().any(|nature| matches!(nature, Nature::Honest)));
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }
}
