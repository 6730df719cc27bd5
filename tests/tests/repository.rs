//! What becomes of models when their repository changes, or they are loaded and unloaded while requests run.

use std::fs;
use std::pin::{Pin, pin};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use futures_executor::block_on;
use grid_core::model::ModelId;
use grid_node::actors::{Crash, FindShard, ReplicaState, Stop, Undeploy};
use grid_node::runtime::{Artifact, Model, OpenError, OpenOptions, Runtime};
use grid_tests::embedded::{EmbeddedNode, Repository, eventually, post, start_node, y};
use grid_tests::scripted::{PANICS, Script, ScriptedRuntime};

const ONE: &str = "instances = 1";
const GATED: &str = "gated = 1";

fn id(model: &str) -> ModelId {
    ModelId {
        name: model.parse().expect("a test's model has a right name"),
        version: 1,
    }
}

fn load(node: &EmbeddedNode, model: &str) -> u16 {
    let path = format!("/v2/repository/models/{model}/load");
    post(node.address(), &path, "").expect("the node answers").status
}

/// Whether a future is not ready yet, after everything that the supervisor was told before has been taken up.
fn is_pending<F: Future + Unpin>(node: &EmbeddedNode, future: &mut F) -> bool {
    node.find_shard(FindShard {
        id: id("m"),
        instance: 0,
    });
    let mut context = Context::from_waker(Waker::noop());
    Pin::new(future).poll(&mut context).is_pending()
}

/// A node whose only instance of `m` is busy at the gate with the input 1.
fn busy_node(config: &str) -> (EmbeddedNode, thread::JoinHandle<()>) {
    let node = EmbeddedNode::start(Repository::default().with("m", ONE, GATED), config);
    let first = node.infer_later("m", 1.0);
    eventually("the first request is at the gate", || node.script.at_gate() == 1);
    let first = thread::spawn(move || {
        let response = first.join().expect("it does not panic").expect("it is answered");
        assert_eq!(y(&response), Some(2.0), "{}", response.text());
    });
    (node, first)
}

/// A scripted runtime that takes its time over every version 2: until the door is opened.
#[derive(Clone, Default)]
struct SlowToOpen {
    runtime: Arc<ScriptedRuntime>,
    door: Arc<(Mutex<Door>, Condvar)>,
}

#[derive(Default)]
struct Door {
    waiting: bool,
    open: bool,
}

impl SlowToOpen {
    fn is_waiting(&self) -> bool {
        self.door.0.lock().expect("no holder panics").waiting
    }

    fn open_door(&self) {
        self.door.0.lock().expect("no holder panics").open = true;
        self.door.1.notify_all();
    }
}

impl Runtime for SlowToOpen {
    fn name(&self) -> &'static str {
        self.runtime.name()
    }

    fn version(&self) -> String {
        self.runtime.version()
    }

    fn open(&self, artifact: &Artifact, options: &OpenOptions) -> Result<Arc<dyn Model>, OpenError> {
        if artifact.path.ends_with("2/model.onnx") {
            let mut door = self.door.0.lock().expect("no holder panics");
            door.waiting = true;
            let limit = Duration::from_secs(60);
            let waited = self.door.1.wait_timeout_while(door, limit, |door| !door.open);
            drop(waited.expect("no holder panics"));
        }
        self.runtime.open(artifact, options)
    }
}

/// A node of models that are [`SlowToOpen`].
fn slow_node(repository: Repository) -> (EmbeddedNode, SlowToOpen) {
    let runtime = SlowToOpen::default();
    let node = EmbeddedNode {
        node: start_node(&repository, "", Arc::new(runtime.clone())),
        script: Script::default(),
        repository,
    };
    (node, runtime)
}

fn answering_version(node: &EmbeddedNode) -> String {
    let response = node.infer("m", 1.0).expect("the node answers");
    let json = response.json().expect("an answer is JSON");
    json["model_version"].as_str().unwrap_or(&response.text()).to_owned()
}

#[test]
fn what_serves_goes_on_while_its_repository_is_wrong() {
    let node = EmbeddedNode::start(Repository::default().with("m", ONE, "").with("other", ONE, ""), "");
    let folder = node.repository.path().to_owned();
    for manifest in ["instanzes = 1", "not TOML", "default_version = 9"] {
        fs::write(folder.join("m/model.toml"), manifest).unwrap();
        assert_eq!(node.node.rescan().len(), 1);
        assert_eq!(answering_version(&node), "1", "with {manifest}");
    }
    let away = folder.with_extension("away");
    fs::rename(&folder, &away).unwrap();
    assert_eq!(node.node.rescan().len(), 1);
    assert_eq!(answering_version(&node), "1", "without its repository");
    assert_eq!(node.infer("other", 1.0).unwrap().status, 200);
    fs::rename(&away, &folder).unwrap();

    node.repository.write("m", 1, ONE, "");
    assert_eq!(node.node.rescan(), Vec::<String>::new());
    assert_eq!(answering_version(&node), "1");
    fs::remove_dir_all(folder.join("m")).unwrap();
    assert_eq!(node.node.rescan(), Vec::<String>::new());
    assert_eq!(node.infer("m", 1.0).unwrap().status, 404, "now it is surely gone");
}

#[test]
fn a_model_in_two_repositories_goes_on_serving_and_is_named() {
    let second = Repository::default();
    let first = Repository::default().with("m", ONE, "");
    let config = format!(
        "models.repository = ['{}', '{}']",
        first.path().display(),
        second.path().display()
    );
    let config = grid_core::config::parse(
        "test.toml",
        &config,
        [("GRID__HTTP__LISTEN".to_owned(), "127.0.0.1:0".to_owned())],
    )
    .unwrap();
    let runtimes = grid_node::runtime::Runtimes::of_config(&config).with(Arc::new(ScriptedRuntime::default()));
    let node = EmbeddedNode {
        node: grid_node::Node::start_with(config, runtimes).unwrap(),
        script: Script::default(),
        repository: first,
    };
    assert_eq!(node.node.rescan(), Vec::<String>::new());
    second.write("m", 1, ONE, "");
    let problems = node.node.rescan();
    assert!(problems[0].contains("expected in one repository"), "{problems:?}");
    assert_eq!(answering_version(&node), "1");
}

#[test]
fn a_load_call_leaves_a_version_that_is_wrong_in_the_repository_serving() {
    let node = EmbeddedNode::start(Repository::default().with("m", ONE, ""), "");
    node.repository.write("m", 2, ONE, "");
    fs::remove_file(node.repository.path().join("m/1/model.onnx")).unwrap();
    assert_eq!(load(&node, "m"), 200);
    assert_eq!(node.route("m").state, ReplicaState::Ready);
    fs::remove_dir_all(node.repository.path().join("m/1")).unwrap();
    assert_eq!(load(&node, "m"), 200);
    assert!(
        node.node.routes().resolve("m", Some("1")).is_err(),
        "now it is surely gone"
    );
    assert_eq!(answering_version(&node), "2");
}

#[test]
fn a_version_that_is_gone_serves_until_the_one_in_its_place_does() {
    let (node, runtime) = slow_node(Repository::default().with("m", ONE, ""));
    fs::remove_dir_all(node.repository.path().join("m/1")).unwrap();
    node.repository.write("m", 2, ONE, "");
    thread::scope(|scope| {
        let rescan = scope.spawn(|| node.node.rescan());
        eventually("the new version is being loaded", || runtime.is_waiting());
        assert_eq!(answering_version(&node), "1");
        runtime.open_door();
        assert_eq!(rescan.join().unwrap(), Vec::<String>::new());
    });
    assert_eq!(answering_version(&node), "2");
    assert!(node.node.routes().resolve("m", Some("1")).is_err());
}

#[test]
fn a_new_default_version_takes_over_when_it_is_in_memory() {
    let repository = Repository::default().with("m", "instances = 1\ndefault_version = 1", "");
    let (node, runtime) = slow_node(repository);
    node.repository.write("m", 2, "instances = 1\ndefault_version = 2", "");
    thread::scope(|scope| {
        let rescan = scope.spawn(|| node.node.rescan());
        eventually("the new version is being loaded", || runtime.is_waiting());
        assert_eq!(answering_version(&node), "1");
        runtime.open_door();
        assert_eq!(rescan.join().unwrap(), Vec::<String>::new());
    });
    assert_eq!(answering_version(&node), "2");
}

#[test]
fn a_version_that_could_not_be_loaded_has_the_newest_manifest() {
    let node = EmbeddedNode::start(Repository::default().with("m", ONE, ""), "");
    node.repository
        .write("m", 2, "instances = 1\ndefault_version = 2", "garbage");
    assert_eq!(node.node.rescan().len(), 1);
    assert_eq!(answering_version(&node), "1", "the default is not there yet");
    node.repository
        .write("m", 2, "limits = { timeout = '3s' }\ndefault_version = 1", "garbage");
    assert_eq!(node.node.rescan().len(), 1);
    let failed = node.node.routes().resolve("m", Some("2")).unwrap();
    assert_eq!(failed.settings.timeout, Duration::from_secs(3));
    let table = node.node.routes().read();
    assert_eq!(
        table["m"].default_version,
        Some(1),
        "whatever the version says that has failed"
    );
}

#[test]
fn a_comment_in_a_manifest_reloads_nothing_and_new_external_data_does() {
    let node = EmbeddedNode::start(Repository::default().with("m", ONE, ""), "");
    let data = node.repository.path().join("m/1/model.onnx.data");
    fs::write(&data, "weights").unwrap();
    node.node.rescan();
    let lane = || Arc::clone(&node.route("m").lanes[0]);
    let before = lane();
    let manifest = node.repository.path().join("m/model.toml");
    fs::write(&manifest, format!("# a comment, and no more\n{ONE}")).unwrap();
    node.node.rescan();
    assert!(Arc::ptr_eq(&before, &lane()), "nothing has changed");
    let file = fs::File::options().append(true).open(&data).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.set_modified(modified + Duration::from_secs(60)).unwrap();
    node.node.rescan();
    assert!(!Arc::ptr_eq(&before, &lane()), "other weights of the same size");
}

#[test]
fn whoever_asks_for_an_unload_that_is_under_way_waits_for_its_end() {
    let (node, first) = busy_node("");
    let undeploy = || {
        let message = Undeploy {
            id: id("m"),
            forget: false,
        };
        node.node.supervisor().send(message)
    };
    let (mut one, mut two) = (pin!(undeploy()), pin!(undeploy()));
    assert!(is_pending(&node, &mut one) && is_pending(&node, &mut two));
    assert_eq!(node.route("m").state, ReplicaState::Draining);
    node.script.open_gate();
    block_on(two).unwrap();
    assert_eq!(node.route("m").state, ReplicaState::Unloaded);
    block_on(one).unwrap();
    first.join().unwrap();
}

#[test]
fn a_replaced_generation_is_counted_and_waited_for_until_it_is_drained() {
    let (node, first) = busy_node("");
    node.repository.write("m", 1, ONE, "run_us = 1");
    assert_eq!(node.node.rescan(), Vec::<String>::new());
    assert_eq!(y(&node.infer("m", 3.0).unwrap()), Some(6.0));
    let route = node.route("m");
    assert_eq!(route.lanes[0].in_flight(), 0);
    assert_eq!(route.in_flight(), 1, "the one in the old generation");
    assert_eq!(route.stats().succeeded, 1);
    let mut stop = pin!(node.node.supervisor().send(Stop));
    assert!(is_pending(&node, &mut stop));
    node.script.open_gate();
    block_on(stop).unwrap();
    first.join().unwrap();
    assert_eq!(node.route("m").state, ReplicaState::Unloaded);
    assert_eq!(node.route("m").stats().succeeded, 2);
    assert_eq!(node.route("m").in_flight(), 0);
}

#[test]
fn the_run_that_panicked_is_counted() {
    let node = EmbeddedNode::start(
        Repository::default().with("m", ONE, ""),
        "supervision = { backoff = '1ms' }",
    );
    for panics in 1..4 {
        assert_eq!(node.infer("m", PANICS).unwrap().status, 500);
        eventually("it is counted", || node.route("m").stats().failed == panics);
        eventually("it is back", || node.route("m").lanes.len() == 1);
    }
    assert_eq!(node.route("m").stats().runs, 3);
}

#[test]
fn a_load_call_revives_the_instances_that_are_quarantined_beside_others_that_serve() {
    let config = "supervision = { max_restarts = 0, window = '10m' }";
    let node = EmbeddedNode::start(Repository::default().with("m", "instances = 2", ""), config);
    let find = FindShard {
        id: id("m"),
        instance: 0,
    };
    node.find_shard(find).expect("it lives").do_send(Crash);
    eventually("one instance is left", || node.route("m").lanes.len() == 1);
    assert_eq!(node.route("m").state, ReplicaState::Ready);
    assert_eq!(load(&node, "m"), 200);
    assert_eq!(node.route("m").lanes.len(), 2);
}

#[test]
fn a_quarantined_instance_is_tried_again_after_the_window() {
    let config = "supervision = { max_restarts = 0, window = '50ms' }";
    let node = EmbeddedNode::start(Repository::default().with("m", ONE, ""), config);
    let before = Arc::clone(&node.route("m").lanes[0]);
    let find = FindShard {
        id: id("m"),
        instance: 0,
    };
    node.find_shard(find).expect("it lives").do_send(Crash);
    eventually("another instance serves", || {
        let route = node.route("m");
        route.lanes.first().is_some_and(|lane| !Arc::ptr_eq(lane, &before))
    });
    assert_eq!(y(&node.infer("m", 2.0).unwrap()), Some(4.0));
}

#[test]
fn a_long_run_that_outlasts_its_drain_holds_up_no_load_and_its_memory_is_free_in_the_end() {
    let (node, first) = busy_node("http.drain_timeout = '10ms'");
    let queued = node.infer_later("m", 2.0);
    eventually("the second request waits", || node.route("m").lanes[0].waiting() == 1);
    let address = node.address();
    let unload = thread::spawn(move || post(address, "/v2/repository/models/m/unload", ""));
    let refused = queued.join().unwrap().unwrap();
    assert_eq!(refused.status, 503, "the drain timeout has passed: {}", refused.text());
    node.repository.write("new", 1, ONE, "");
    assert_eq!(node.node.rescan(), Vec::<String>::new());
    assert_eq!(y(&node.infer("new", 2.0).unwrap()), Some(4.0));
    assert!(!unload.is_finished(), "the run still holds its memory");
    node.script.open_gate();
    assert_eq!(unload.join().unwrap().unwrap().status, 200);
    assert_eq!(node.route("m").state, ReplicaState::Unloaded);
    first.join().unwrap();
}

#[test]
fn an_instance_that_crashed_in_a_long_run_is_replaced_before_that_run_has_ended() {
    let (node, first) = busy_node("supervision = { backoff = '1ms' }\ncompute = { threads = 2 }");
    let before = Arc::clone(&node.route("m").lanes[0]);
    let find = FindShard {
        id: id("m"),
        instance: 0,
    };
    node.find_shard(find).expect("it lives").do_send(Crash);
    eventually("another instance serves", || {
        let route = node.route("m");
        route.lanes.first().is_some_and(|lane| !Arc::ptr_eq(lane, &before))
    });
    assert_eq!(node.script.at_gate(), 1, "the long run goes on");
    node.script.open_gate();
    first.join().unwrap();
    assert_eq!(y(&node.infer("m", 2.0).unwrap()), Some(4.0));
    eventually("both runs are counted", || node.route("m").stats().succeeded == 2);
}
