//! The client library against real grids: what an app that embeds it sees of nodes that die, freeze, leave and come back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use grid_client::{ClientError, ClientOptions, GridClient, StreamedOutput};
use grid_core::tensor::Tensor;
use grid_tests::embedded::{EmbeddedNode, Repository};
use grid_tests::grid::{Grid, KEY, MODELS, Sample};
use tokio::runtime::Runtime;

use crate::three;

/// Tasks that infer through one client while something happens.
const TASKS: usize = 16;
/// The time that each request has: no test waits for it.
const DEADLINE: Duration = Duration::from_secs(60);
/// Longest that is waited for a number of answers.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn runtime() -> Runtime {
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    threads.worker_threads(2).enable_all().build().expect("a runtime")
}

pub(crate) fn options() -> ClientOptions {
    ClientOptions {
        timeout: DEADLINE,
        ..ClientOptions::new("test".parse().expect("a name"), KEY.parse().expect("a key"))
    }
}

pub(crate) fn seeds(grid: &Grid) -> Vec<String> {
    (0..3).map(|place| grid.mesh(place).to_string()).collect()
}

/// A client that knows all nodes.
pub(crate) fn connect(runtime: &Runtime, grid: &Grid) -> GridClient {
    let connected = runtime.block_on(GridClient::connect(seeds(grid), options()));
    connected.unwrap_or_else(|error| panic!("{error}\n{}", grid.logs()))
}

async fn ask(client: &GridClient, sample: &Sample) -> Result<String, String> {
    let answer = async {
        let model = client.model(&sample.model).await?;
        model.infer(sample.inputs.iter().cloned()).await
    };
    let answer = answer.await.map_err(|error| error.to_string())?;
    sample.check(&answer.outputs)?;
    Ok(answer.node.to_string())
}

#[test]
fn every_model_is_answered_rightly_by_a_node_that_hosts_it() {
    let (grid, _repository) = three();
    let runtime = runtime();
    let client = connect(&runtime, &grid);
    let status = grid.rests();
    for model in MODELS {
        let node = runtime.block_on(ask(&client, &Sample::of(model))).unwrap();
        let hosts = status.shard(model).expect("it is deployed").ready();
        assert!(
            hosts.contains(node.as_str()),
            "{model} was answered by {node}, not {hosts:?}"
        );
    }
}

#[test]
fn one_seed_that_lives_is_enough() {
    let (mut grid, _repository) = three();
    grid.node(0).kill();
    // A second address has never had a node.
    let seeds = [grid.mesh(0), grid.mesh(7), grid.mesh(2)].map(|address| address.to_string());
    let runtime = runtime();
    let client = runtime.block_on(GridClient::connect(seeds, options())).unwrap();
    for model in MODELS {
        runtime.block_on(ask(&client, &Sample::of(model))).unwrap();
    }
}

#[test]
fn what_a_client_is_refused_for_is_named() {
    let (grid, _repository) = three();
    let runtime = runtime();
    let refused = |options| {
        runtime
            .block_on(GridClient::connect(seeds(&grid), options))
            .unwrap_err()
    };
    let error = refused(ClientOptions {
        key: "ab".repeat(32).parse().unwrap(),
        ..options()
    });
    assert!(matches!(error, ClientError::Refused(_)), "{error}");
    assert!(error.to_string().contains("key"), "{error}");
    let error = refused(ClientOptions {
        grid: "other".parse().unwrap(),
        ..options()
    });
    assert!(matches!(error, ClientError::Refused(_)), "{error}");
    let text = error.to_string();
    assert!(text.contains("`test`") && text.contains("`other`"), "{error}");
    let nobody = ClientOptions {
        connect_timeout: Duration::from_millis(500),
        ..options()
    };
    let nowhere = [grid.mesh(7).to_string()];
    let error = runtime.block_on(GridClient::connect(nowhere, nobody)).unwrap_err();
    assert!(error.can_retry() && error.to_string().contains("refused"), "{error}");
}

#[test]
fn what_is_wrong_with_a_request_is_named() {
    let (grid, _repository) = three();
    let runtime = runtime();
    let client = connect(&runtime, &grid);
    let error = runtime.block_on(client.model("credit_rsk")).unwrap_err();
    assert_eq!(error.kind(), "not_found");
    assert!(error.to_string().contains("did you mean `credit_risk`?"), "{error}");
    let model = runtime.block_on(client.model("credit_risk")).unwrap();
    let wrong = |name: &str, tensor| runtime.block_on(model.infer([(name, tensor)])).unwrap_err();
    let row = |width: usize| Tensor::from_values([1, width].into(), &vec![0f32; width]).unwrap();
    for (error, words) in [
        (wrong("feature", row(54)), ["`feature`", "expected `features`"]),
        (wrong("features", row(53)), ["`features`", "54"]),
        (
            wrong("features", Tensor::from_values([1].into(), &[1i64]).unwrap()),
            ["`features`", "expected datatype FP32, found INT64"],
        ),
    ] {
        assert!(words.iter().all(|word| error.to_string().contains(word)), "{error}");
        assert!(!error.can_retry());
    }
    let error = runtime
        .block_on(model.version(9).infer([("features", row(54))]))
        .unwrap_err();
    assert_eq!(error.kind(), "not_found", "{error}");
    assert!(error.to_string().contains("version 9; it has 1"), "{error}");
}

#[test]
fn outputs_of_a_model_of_several_steps_come_one_by_one() {
    let repository = Repository::default().with("steps", "", "steps = 1");
    let data = tempfile::TempDir::new().unwrap();
    let node = format!("[node]\nname = 'a'\ndata_dir = '{}'\n", data.path().display());
    let config = format!("{node}[grid]\nname = 'test'\nlisten = '127.0.0.1:0'\nkey = '{KEY}'\n");
    let node = EmbeddedNode::start(repository, &config);
    let runtime = runtime();
    let seed = node.node.mesh_address().expect("it is in a grid").to_string();
    runtime.block_on(async {
        let client = GridClient::connect([seed], options()).await.unwrap();
        let model = client.model("steps").await.unwrap();
        let x = Tensor::from_values([1].into(), &[3f32]).unwrap();
        let mut streaming = model.request().input("x", x).send_streaming();
        let (mut parts, mut last) = (0, 0);
        while let Some(output) = streaming.next().await {
            match output.unwrap() {
                StreamedOutput::Part(outputs) => {
                    assert!(last == 0 && outputs.get("y").is_some());
                    parts += 1;
                }
                StreamedOutput::Last(answer) => {
                    assert!(answer.output("y").is_some());
                    last += 1;
                }
            }
        }
        assert_eq!((parts, last), (2, 1));
    });
}

/// Tasks that ask one client for one model after the other.
struct Load {
    runtime: Runtime,
    shared: Arc<Shared>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    answered: AtomicU64,
    stop: AtomicBool,
    failures: Mutex<Vec<String>>,
    longest: Mutex<Duration>,
}

impl Load {
    fn start(grid: &Grid) -> Self {
        let runtime = runtime();
        let client = connect(&runtime, grid);
        let shared = Arc::<Shared>::default();
        let samples: Arc<Vec<Sample>> = Arc::new(MODELS.iter().map(|model| Sample::of(model)).collect());
        let task = |task: usize| {
            let (client, shared, samples) = (client.clone(), Arc::clone(&shared), Arc::clone(&samples));
            runtime.spawn(async move {
                for sample in samples.iter().cycle().skip(task) {
                    if shared.stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let begun = Instant::now();
                    if let Err(failure) = ask(&client, sample).await {
                        shared.failures.lock().expect("nobody panics with it").push(failure);
                    }
                    shared.answered.fetch_add(1, Ordering::Relaxed);
                    let mut longest = shared.longest.lock().expect("nobody panics with it");
                    *longest = longest.max(begun.elapsed());
                }
            })
        };
        let tasks = (0..TASKS).map(task).collect();
        Self { runtime, shared, tasks }
    }

    /// Waits until so many more are answered.
    #[track_caller]
    fn goes_on(&self, answers: u64) {
        let (begun, before) = (Instant::now(), self.shared.answered.load(Ordering::Relaxed));
        while self.shared.answered.load(Ordering::Relaxed) < before + answers {
            assert!(begun.elapsed() < PATIENCE, "requests are not answered");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[track_caller]
    fn none_failed(self, what: &str, grid: &Grid) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            self.runtime.block_on(task).expect("no task panics");
        }
        let failures = self.shared.failures.lock().expect("nobody panics with it");
        let answered = self.shared.answered.load(Ordering::Relaxed);
        assert!(failures.is_empty(), "{what}: {failures:#?}\n{}", grid.logs());
        let longest = *self.shared.longest.lock().expect("nobody panics with it");
        println!("{what}: {answered} requests, none failed, the longest took {longest:.2?}");
    }
}

#[test]
fn no_request_of_a_client_fails_when_a_node_is_killed() {
    let (mut grid, _repository) = three();
    let load = Load::start(&grid);
    for place in 0..3 {
        load.goes_on(200);
        grid.node(place).kill();
        load.goes_on(200);
        grid.rests();
        grid.start(place);
        grid.rests();
    }
    load.goes_on(200);
    load.none_failed("kills", &grid);
}

#[test]
fn no_request_of_a_client_fails_when_a_node_freezes_and_wakes() {
    let (mut grid, _repository) = three();
    let load = Load::start(&grid);
    load.goes_on(200);
    grid.node(1).process().freeze().unwrap();
    load.goes_on(500);
    // The others take it to be down: awake, it finds that out.
    grid.rests_as(&["a", "c"]);
    grid.node(1).process().resume().unwrap();
    load.goes_on(200);
    grid.rests();
    load.goes_on(200);
    load.none_failed("a freeze", &grid);
}

#[test]
fn no_request_of_a_client_fails_when_all_nodes_are_restarted_in_turn() {
    let (mut grid, _repository) = three();
    let load = Load::start(&grid);
    for place in 0..3 {
        load.goes_on(200);
        grid.node(place).stop();
        load.goes_on(200);
        grid.start(place);
        grid.rests();
    }
    load.goes_on(200);
    load.none_failed("a rolling restart", &grid);
}

#[test]
fn a_client_outlives_all_nodes_and_goes_on_with_those_that_come_up_after_them() {
    let (mut grid, _repository) = three();
    let load = Load::start(&grid);
    load.goes_on(200);
    for place in 0..3 {
        grid.node(place).kill();
    }
    grid.start_all();
    grid.rests();
    load.goes_on(200);
    load.none_failed("a restart of all at once", &grid);
}
