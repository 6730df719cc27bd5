//! Grids of real node processes: started, watched by what they say of themselves, broken, and healed.
//!
//! Nodes of one grid share an address of loopback that no other grid of this machine has, so they can have the same ports
//! over restarts, and know them before they start. Each has a folder of its own for its config and its data, which lasts
//! as long as the grid does.

mod beds;
mod callers;
mod network;
mod sample;
mod status;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::load::http_request;
use crate::process::{NodeCommand, NodeProcess, Response};
use crate::repository_root;

pub use beds::{Beds, BedsReport, Recording};
pub use callers::{Callers, CallersOptions, CallersReport, Question};
pub use network::Network;
pub use sample::{Sample, values};
pub use status::{NodeStatus, ReplicaStatus, ShardStatus, Status, Trouble};

/// A cluster key. It protects nothing: it stands here.
pub const KEY: &str = "8f1d2c3b4a5968778695a4b3c2d1e0f00f1e2d3c4b5a69788796a5b4c3d2e1f0";

/// Models that every runtime runs, and that are small.
pub const MODELS: [&str; 3] = ["breast_cancer", "credit_risk", "digits"];

/// How long a grid may take to come to rest: ten times what it takes on two busy cores.
const REST: Duration = Duration::from_secs(120);
/// How long a node may take to leave, and to end.
const LEAVE: Duration = Duration::from_secs(60);
/// Between two looks at a grid.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);
/// Nodes whose ports every node knows as seeds.
const SEEDS: usize = 3;

static GRIDS: AtomicU8 = AtomicU8::new(0);

/// Nodes on one machine.
#[derive(Debug)]
pub struct Grid {
    binary: PathBuf,
    at: IpAddr,
    nodes: Vec<GridNode>,
}

/// One of them, running or not.
#[derive(Debug)]
pub struct GridNode {
    /// What its config says; takes effect when it is next started, or reads its config again.
    pub plan: NodePlan,
    folder: TempDir,
    http: SocketAddr,
    process: Option<NodeProcess>,
}

/// A node's config.
#[derive(Clone, Debug)]
pub struct NodePlan {
    /// `node.name`.
    pub name: String,
    /// `models.repository`.
    pub repository: PathBuf,
    /// `grid.name`.
    pub grid: String,
    /// `grid.key`.
    pub key: String,
    /// `grid.seeds`.
    pub seeds: Vec<String>,
    /// `grid.listen`.
    pub mesh: SocketAddr,
    /// `memory.budget`, in bytes.
    pub memory: Option<u64>,
    /// `runtime.onnxruntime`.
    pub onnxruntime: Option<PathBuf>,
    /// The network namespace that it runs in.
    pub namespace: Option<String>,
}

impl Grid {
    /// A grid without nodes, on an address of its own.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        let number = GRIDS.fetch_add(1, Ordering::Relaxed);
        let [.., high, low] = std::process::id().to_be_bytes();
        // Other processes of this machine test grids too; ports that cannot be had are told by the node.
        let at = Ipv4Addr::new(127, 64 + number % 128, high, low).into();
        Self {
            binary: binary.into(),
            at,
            nodes: Vec::new(),
        }
    }

    /// A grid of nodes of these names with one repository, started and at rest.
    ///
    /// # Panics
    /// When it does not start.
    #[track_caller]
    pub fn of(binary: impl Into<PathBuf>, names: &[&str], repository: &Path) -> Self {
        let mut grid = Self::new(binary);
        for name in names {
            grid.plan(name, repository);
        }
        grid.start_all();
        grid.rests();
        grid
    }

    /// Adds a node that does not run yet, and returns its place.
    pub fn plan(&mut self, name: &str, repository: &Path) -> usize {
        let place = self.nodes.len();
        let plan = NodePlan {
            name: name.to_owned(),
            repository: repository.to_owned(),
            grid: "test".to_owned(),
            key: KEY.to_owned(),
            seeds: (0..SEEDS).map(|place| self.mesh(place).to_string()).collect(),
            mesh: self.mesh(place),
            memory: None,
            onnxruntime: None,
            namespace: None,
        };
        let http = SocketAddr::new(self.at, 8000 + port(place));
        self.add(plan, http)
    }

    /// Adds a node with another place than the grid's own, and returns its place.
    pub fn add(&mut self, plan: NodePlan, http: SocketAddr) -> usize {
        let folder = TempDir::new().expect("a temporary directory can be made");
        self.nodes.push(GridNode {
            plan,
            folder,
            http,
            process: None,
        });
        self.nodes.len() - 1
    }

    /// Where the node at that place has its mesh and gossip, whether it is there or not.
    pub fn mesh(&self, place: usize) -> SocketAddr {
        SocketAddr::new(self.at, 7000 + port(place))
    }

    /// The nodes.
    pub fn nodes(&self) -> &[GridNode] {
        &self.nodes
    }

    /// One of them.
    pub fn node(&mut self, place: usize) -> &mut GridNode {
        &mut self.nodes[place]
    }

    /// Where all its nodes answer HTTP.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.http).collect()
    }

    /// Starts a node, again too, and waits until it is ready.
    #[track_caller]
    pub fn start(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        node.process = Some(
            node.command(&self.binary)
                .start()
                .unwrap_or_else(|error| panic!("{error}")),
        );
    }

    /// Starts a node, and waits only until its process answers.
    #[track_caller]
    pub fn start_joining(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        let live = http_request("GET", "/v2/health/live", &[("Connection", "close")], b"");
        let started = node.command(&self.binary).ready_when(live).start();
        node.process = Some(started.unwrap_or_else(|error| panic!("{error}")));
    }

    /// Starts all nodes that do not run, at once.
    #[track_caller]
    pub fn start_all(&mut self) {
        let binary = &self.binary;
        thread::scope(|scope| {
            let idle = self.nodes.iter_mut().filter(|node| node.process.is_none());
            let started: Vec<_> = idle
                .map(|node| scope.spawn(move || node.process = Some(node.command(binary).start().expect("it starts"))))
                .collect();
            for thread in started {
                thread.join().expect("every node starts");
            }
        });
    }

    /// Waits until all running nodes agree that just they are up, and that everything is where it should be.
    #[track_caller]
    pub fn rests(&self) -> Status {
        let running = self.nodes.iter().filter(|node| node.process.is_some());
        let names: Vec<&str> = running.map(|node| node.plan.name.as_str()).collect();
        self.rests_as(&names)
    }

    /// Waits until these nodes agree that just they are up, and that everything is where it should be.
    #[track_caller]
    pub fn rests_as(&self, names: &[&str]) -> Status {
        let begun = Instant::now();
        let up: BTreeSet<&str> = names.iter().copied().collect();
        loop {
            let statuses = self.nodes.iter().filter(|node| up.contains(node.plan.name.as_str()));
            let statuses: Result<Vec<Status>, String> = statuses.map(GridNode::status).collect();
            let unrest = match &statuses {
                Ok(statuses) => unrest(statuses, &up),
                Err(reason) => Some(reason.clone()),
            };
            match (unrest, statuses) {
                (None, Ok(mut statuses)) => return statuses.remove(0),
                (Some(reason), _) if begun.elapsed() > REST => {
                    panic!("the grid is not at rest with {names:?}: {reason}\n{}", self.logs())
                }
                _ => thread::sleep(BETWEEN_LOOKS),
            }
        }
    }

    /// Waits until a node says so of its grid.
    #[track_caller]
    pub fn until(&self, place: usize, what: &str, holds: impl Fn(&Status) -> bool) {
        let begun = Instant::now();
        let mut last = self.nodes[place].status();
        while !last.as_ref().is_ok_and(&holds) {
            assert!(
                begun.elapsed() < REST,
                "it did not come to hold: {what}: {last:#?}\n{}",
                self.logs()
            );
            thread::sleep(BETWEEN_LOOKS);
            last = self.nodes[place].status();
        }
    }

    /// What all nodes wrote.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            let _ = writeln!(text, "--- {}\n{}", node.plan.name, node.output());
        }
        text
    }

    /// Callers on all nodes, with as many questions as there are models.
    pub fn callers(&self, callers: usize, models: &[&str]) -> CallersOptions {
        CallersOptions {
            nodes: self.addresses(),
            callers,
            questions: models.iter().map(|model| question(model)).collect(),
            deadline: Duration::from_secs(10),
            per_second: None,
        }
    }

    /// Waits until every node answers the question rightly.
    #[track_caller]
    pub fn all_answer(&self, question: &Question) {
        let running = self.nodes.iter().filter(|node| node.process.is_some());
        for node in running {
            let begun = Instant::now();
            while let Err(reason) = question.ask(node.http, Duration::from_secs(10)) {
                assert!(begun.elapsed() < REST, "{}: {reason}\n{}", node.plan.name, self.logs());
                thread::sleep(BETWEEN_LOOKS);
            }
        }
    }
}

/// The question that the quickstart's model of that name has a sample for.
pub fn question(model: &str) -> Question {
    Question::of(model, &repository_root().join("configs/models").join(model))
}

/// A repository of these of the quickstart's models, to be changed at will.
///
/// # Panics
/// When they cannot be copied.
pub fn repository_of(models: &[&str]) -> TempDir {
    let folder = TempDir::new().expect("a temporary directory can be made");
    for model in models {
        copy_model(model, &folder.path().join(model));
    }
    folder
}

/// Copies one of the quickstart's models, over what is there.
///
/// # Panics
/// When it cannot be copied.
pub fn copy_model(model: &str, into: &Path) {
    copy_folder(&repository_root().join("configs/models").join(model), into).expect("a model that can be copied");
}

fn copy_folder(from: &Path, into: &Path) -> std::io::Result<()> {
    fs::create_dir_all(into)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = into.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn port(place: usize) -> u16 {
    10 * u16::try_from(place).expect("a test's grid is small")
}

fn unrest(statuses: &[Status], up: &BTreeSet<&str>) -> Option<String> {
    let of_one = |status: &Status| Some(format!("{} says: {}", status.node, status.unrest(up)?));
    let differs = || {
        let (first, others) = statuses.split_first()?;
        let other = others.iter().find(|other| other.deployed() != first.deployed())?;
        Some(format!("{} and {} differ in what is deployed", first.node, other.node))
    };
    statuses.iter().find_map(of_one).or_else(differs)
}

impl GridNode {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// Where it answers HTTP.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Its config file.
    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join("grid.toml")
    }

    /// The process.
    ///
    /// # Panics
    /// When it does not run.
    #[track_caller]
    pub fn process(&mut self) -> &mut NodeProcess {
        self.process.as_mut().expect("the node runs")
    }

    /// The last lines that it wrote.
    pub fn output(&self) -> String {
        self.process.as_ref().map(NodeProcess::output).unwrap_or_default()
    }

    /// What it says of its grid.
    ///
    /// # Errors
    /// Why it says nothing.
    pub fn status(&self) -> Result<Status, String> {
        let named = |error: &dyn std::fmt::Debug| format!("{}: {error:?}", self.plan.name);
        let response = crate::embedded::get(self.http, "/v2/grid").map_err(|error| named(&error))?;
        serde_json::from_slice(&response.body).map_err(|error| named(&error))
    }

    /// `POST path`.
    ///
    /// # Panics
    /// When it is not answered with 200.
    #[track_caller]
    pub fn post(&self, path: &str, json: &str) -> Response {
        let response = crate::embedded::post(self.http, path, json).expect("an answer");
        assert_eq!(response.status, 200, "{path}: {}", response.text());
        response
    }

    /// Writes its config, and has it read again.
    #[track_caller]
    pub fn reload(&mut self) {
        self.write_config();
        self.process().reload().expect("a signal");
    }

    /// Ends it as `kill -9` does.
    #[track_caller]
    pub fn kill(&mut self) {
        self.process().kill().expect("its end");
        self.process = None;
    }

    /// Asks it to leave, and waits until it has.
    #[track_caller]
    pub fn stop(&mut self) {
        let process = self.process();
        process.terminate().expect("a signal");
        let status = process.wait(LEAVE).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(status.code(), Some(0), "{}", process.output());
        self.process = None;
    }

    fn command(&self, binary: &Path) -> NodeCommand {
        self.write_config();
        let command = NodeCommand::with_config_file(binary, self.config_file())
            .env("GRID__HTTP__LISTEN", self.http.to_string())
            .env_remove("ORT_DYLIB_PATH")
            .env_remove("GRID__NODE__DATA_DIR");
        match &self.plan.namespace {
            // In a namespace of its own every port is free.
            Some(name) => command.in_namespace(name),
            None => command,
        }
    }

    fn write_config(&self) {
        let plan = &self.plan;
        let seeds: Vec<String> = plan.seeds.iter().map(|seed| format!("'{seed}'")).collect();
        // Callers know how long they wait; a node that was frozen must not give up what they still want.
        let memory = plan
            .memory
            .map(|bytes| format!("[memory]\nbudget = '{bytes}B'\n"))
            .unwrap_or_default();
        let runtime = plan
            .onnxruntime
            .as_ref()
            .map(|library| format!("[runtime]\nonnxruntime = '{}'\n", library.display()))
            .unwrap_or_default();
        let text = format!(
            "[node]\nname = '{}'\ndata_dir = 'data'\n[grid]\nname = '{}'\nlisten = '{}'\nkey = '{}'\nseeds = [{}]\n\
             [models]\nrepository = '{}'\n[limits]\ntimeout = '60s'\n{memory}{runtime}",
            plan.name,
            plan.grid,
            plan.mesh,
            plan.key,
            seeds.join(", "),
            plan.repository.display(),
        );
        fs::write(self.config_file(), text).expect("a config that can be written");
    }
}

/// A port of loopback that takes connections for another address, and none of its datagrams.
///
/// # Panics
/// When there is no free port.
pub fn tcp_only_to(target: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("its address");
    // Takes the datagrams, so that nobody learns from a refusal that there is no gossip.
    let swallow = UdpSocket::bind(address).expect("the same port");
    thread::spawn(move || {
        let _swallow = swallow;
        for stream in listener.incoming().flatten() {
            let Ok(other) = std::net::TcpStream::connect(target) else {
                continue;
            };
            for (mut from, mut to) in [
                (stream.try_clone(), other.try_clone()),
                (other.try_clone(), stream.try_clone()),
            ]
            .into_iter()
            .filter_map(|(from, to)| Some((from.ok()?, to.ok()?)))
            {
                thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    address
}
