//! Sequences through the client library, with messages in flight while their home dies: the `vitals` model, and its
//! recorded outputs.

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use grid_client::{ClientError, Outcome, SequencePlace};
use grid_core::tensor::Tensor;
use grid_tests::embedded::{eventually, get};
use grid_tests::grid::{Grid, repository_of, values};
use grid_tests::repository_root;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::BINARY;
use crate::client::{connect, runtime};

/// Longest that an outcome is waited for.
const PATIENCE: Duration = Duration::from_secs(90);

struct Step {
    sample: Tensor,
    score: Vec<f64>,
}

fn steps() -> Vec<Step> {
    let text = fs::read_to_string(repository_root().join("configs/models/vitals/stream.json")).expect("a recording");
    let recording: Value = serde_json::from_str(&text).expect("JSON");
    let numbers = |of: &Value| -> Vec<f64> {
        let numbers = of.as_array().expect("numbers");
        numbers
            .iter()
            .map(|number| number.as_f64().expect("a number"))
            .collect()
    };
    let step = |step: &Value| {
        let sample: Vec<f32> = numbers(&step["sample"]).iter().map(|&value| value as f32).collect();
        Step {
            sample: Tensor::from_values([1, sample.len()].into(), &sample).expect("a row"),
            score: numbers(&step["score"]),
        }
    };
    recording["steps"]
        .as_array()
        .expect("a list")
        .iter()
        .map(step)
        .collect()
}

/// Between two messages.
const PACE: Duration = Duration::from_millis(20);

type Word = Result<Outcome, ClientError>;

/// A sequence that is fed at a pace, and read as its outcomes come, whatever the test does meanwhile.
struct Feed {
    /// Messages up to this one may be sent.
    until: watch::Sender<usize>,
    words: mpsc::UnboundedReceiver<Word>,
    feeding: JoinHandle<Result<(), ClientError>>,
    /// Where it stands by what was read.
    place: mpsc::UnboundedReceiver<SequencePlace>,
    /// When each message was sent, and the longest that one waited for its outcome.
    waits: Arc<Mutex<(Vec<Instant>, Duration)>>,
}

/// A grid of three, and a sequence.
struct Bed {
    grid: Grid,
    runtime: Runtime,
    steps: Arc<Vec<Step>>,
    feed: Feed,
    read: u64,
    _repository: TempDir,
}

impl Bed {
    fn new() -> Self {
        let repository = repository_of(&["vitals"]);
        let grid = Grid::of(BINARY, &["a", "b", "c"], repository.path());
        let (runtime, steps) = (runtime(), Arc::new(steps()));
        let feed = begin(&runtime, &grid, &steps, None);
        Self {
            grid,
            runtime,
            steps,
            feed,
            read: 0,
            _repository: repository,
        }
    }

    #[track_caller]
    fn next(&mut self) -> Option<Word> {
        let word = async { tokio::time::timeout(PATIENCE, self.feed.words.recv()).await };
        let word = self.runtime.block_on(word);
        word.unwrap_or_else(|_| panic!("no outcome {}\n{}", self.read + 1, self.grid.logs()))
    }

    /// Messages up to that number are sent from now on, while the test does something else.
    fn feeds_to(&self, number: u64) {
        self.feed.until.send_replace(number as usize);
    }

    /// The outcomes up to that number come: the next one each time, and what the model run in one piece gives.
    #[track_caller]
    fn reads_to(&mut self, number: u64) {
        self.feeds_to(number);
        while self.read < number {
            let outcome = self.next().expect("it goes on");
            let outcome = outcome.unwrap_or_else(|error| panic!("{error}\n{}", self.grid.logs()));
            self.read += 1;
            assert_eq!(outcome.number, self.read);
            let outputs = outcome.outputs.expect("outputs");
            let found = values(outputs.get("score").expect("a score"));
            let expected = &self.steps[self.read as usize - 1].score;
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                assert!(
                    (found - expected).abs() <= 1e-4 * expected.abs().max(1.0),
                    "{}: {found} {expected}",
                    self.read
                );
            }
        }
    }

    /// Reads the rest, to its end.
    #[track_caller]
    fn ends(mut self, what: &str) {
        self.reads_to(self.steps.len() as u64);
        assert_eq!(self.next(), None);
        let fed = self
            .runtime
            .block_on(&mut self.feed.feeding)
            .expect("it does not panic");
        assert_eq!(fed, Ok(()));
        let (_, longest) = &*self.feed.waits.lock().expect("nobody panics with it");
        println!(
            "{what}: {} messages, the longest wait for an outcome {longest:.1?}",
            self.read
        );
    }

    /// The nodes on which it lives.
    fn homes(&self) -> Vec<usize> {
        let lives = |place: &usize| {
            let metrics = get(self.grid.nodes()[*place].http(), "/metrics");
            let metrics = metrics.map(|response| response.text()).unwrap_or_default();
            let value = |line: &str| line.strip_prefix("grid_sequences{model=\"vitals\"} ")?.parse().ok();
            metrics.lines().find_map(value).unwrap_or(0.0) > 0.0
        };
        (0..3).filter(lives).collect()
    }

    #[track_caller]
    fn home(&self) -> usize {
        let homes = self.homes();
        assert_eq!(homes.len(), 1, "a sequence has one home: {homes:?}");
        homes[0]
    }
}

/// Begins, or goes on: the client is told nothing but where the sequence stands.
fn begin(runtime: &Runtime, grid: &Grid, steps: &Arc<Vec<Step>>, place: Option<SequencePlace>) -> Feed {
    let client = connect(runtime, grid);
    let stream = runtime.block_on(async {
        let sequence = client.model("vitals").await?.sequence("bed");
        match place {
            None => sequence.start().await,
            Some(place) => sequence.resume(place).await,
        }
    });
    let (mut sender, mut outcomes) = stream.expect("it begins").split();
    let steps = Arc::clone(steps);
    let first = place.map_or(0, |place| place.next as usize - 1);
    let waits = Arc::<Mutex<(Vec<Instant>, Duration)>>::default();
    let (sent, came) = (Arc::clone(&waits), Arc::clone(&waits));
    let (until, mut may) = watch::channel(first);
    let (word, words) = mpsc::unbounded_channel();
    let (stands, place) = mpsc::unbounded_channel();
    runtime.spawn(async move {
        while let Some(outcome) = outcomes.next().await {
            if let Ok(outcome) = &outcome {
                let mut waits = came.lock().expect("nobody panics with it");
                let waited = waits.0[outcome.number as usize - 1 - first].elapsed();
                waits.1 = waits.1.max(waited);
            }
            // A test that has ended reads no more.
            let _ = stands.send(outcomes.place());
            let _ = word.send(outcome);
        }
    });
    let feeding = runtime.spawn(async move {
        for (index, step) in steps.iter().enumerate().skip(first) {
            let input = [("sample", step.sample.clone())];
            if may.wait_for(|until| *until > index).await.is_err() {
                return Ok(());
            }
            tokio::time::sleep(PACE).await;
            sent.lock().expect("nobody panics with it").0.push(Instant::now());
            match index + 1 == steps.len() {
                true => sender.send_last(input).await?,
                false => sender.send(input).await?,
            };
        }
        Ok(())
    });
    Feed {
        until,
        words,
        feeding,
        place,
        waits,
    }
}

#[test]
fn a_sequence_of_a_client_goes_on_when_its_home_is_killed_without_gap_or_repeat() {
    let mut bed = Bed::new();
    bed.reads_to(20);
    let home = bed.home();
    bed.feeds_to(60);
    bed.grid.node(home).kill();
    bed.reads_to(60);
    // And once more: what it has now was copied anew.
    bed.grid.rests();
    bed.grid.start(home);
    bed.grid.rests();
    let home = bed.home();
    bed.feeds_to(120);
    bed.grid.node(home).kill();
    bed.ends("the home is killed twice");
}

#[test]
fn a_sequence_of_a_client_goes_on_when_its_home_freezes_and_the_home_that_wakes_has_lost_it() {
    let mut bed = Bed::new();
    bed.reads_to(20);
    let home = bed.home();
    bed.feeds_to(60);
    bed.grid.node(home).process().freeze().unwrap();
    bed.reads_to(60);
    bed.feeds_to(90);
    bed.grid.node(home).process().resume().unwrap();
    bed.reads_to(90);
    bed.grid.rests();
    eventually("the home that woke has let it go", || !bed.homes().contains(&home));
    bed.ends("the home freezes");
}

#[test]
fn a_sequence_of_a_client_goes_on_when_its_home_leaves() {
    let mut bed = Bed::new();
    bed.reads_to(20);
    let home = bed.home();
    bed.feeds_to(120);
    bed.grid.node(home).stop();
    bed.ends("the home leaves");
}

#[test]
fn a_sequence_of_a_client_goes_on_when_all_nodes_are_restarted_in_turn() {
    let mut bed = Bed::new();
    for place in 0..3 {
        bed.reads_to(20 * (place as u64 + 1));
        bed.feeds_to(20 * (place as u64 + 1) + 10);
        bed.grid.node(place).stop();
        bed.grid.start(place);
        bed.grid.rests();
    }
    bed.ends("all nodes are restarted in turn");
}

#[test]
fn a_sequence_is_resumed_by_another_client_from_its_place() {
    let mut bed = Bed::new();
    bed.reads_to(30);
    // As if it had read ten less when it ended: a node keeps what is not run again.
    let places = std::iter::from_fn(|| bed.feed.place.try_recv().ok());
    let place = places.take(20).last().unwrap();
    assert_eq!(place.next, 21);
    bed.feed = begin(&bed.runtime, &bed.grid, &bed.steps, Some(place));
    bed.read = 20;
    bed.ends("another client goes on");
}

#[test]
fn a_sequence_that_all_nodes_have_lost_ends_with_that_word_and_its_name_can_be_used_again() {
    let mut bed = Bed::new();
    bed.reads_to(20);
    bed.feeds_to(120);
    for place in 0..3 {
        bed.grid.node(place).kill();
    }
    bed.grid.start_all();
    let error = loop {
        match bed.next().expect("a word") {
            Ok(outcome) => assert!(outcome.number > 20),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), "sequence_unknown", "{error}");
    assert_eq!(bed.next(), None);
    (bed.feed, bed.read) = (begin(&bed.runtime, &bed.grid, &bed.steps, None), 0);
    bed.ends("all nodes are killed at once, and it starts anew");
}
