//! What all of a simulation shares: the seed's randomness, the history, and the machines that nodes run on.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use grid_core::catalog::{Deployment, Entry};
use grid_core::cluster::{Digest, NodeName};
use grid_core::model::ModelId;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tokio::sync::Notify;

use crate::freeze::Freezer;
use crate::history::{Event, Record};
use crate::node::Node;

/// The wall clock at the start of every simulation, in milliseconds since 1970.
pub const EPOCH: u64 = 1_700_000_000_000;

/// What survives a crash.
#[derive(Debug, Default)]
pub struct Disk {
    /// The last generation.
    pub generation: u64,
    /// The catalog.
    pub catalog: Vec<(ModelId, Entry)>,
    /// Contents.
    pub artifacts: BTreeSet<Digest>,
}

/// Something that an operator, or the machine, tells a node.
#[derive(Clone, Debug)]
pub enum Command {
    /// Deploy this; its content is put on the node's disk.
    Deploy(ModelId, Deployment),
    /// Take this back.
    TakeBack(ModelId),
    /// The memory budget is another one.
    Budget(u64),
    /// Leave the grid.
    Leave,
}

/// Where a node runs. It outlives the node's lives.
#[derive(Debug)]
pub struct Machine {
    /// The node's name, and the machine's on the simulated network.
    pub name: NodeName,
    /// What survives a crash.
    pub disk: RefCell<Disk>,
    /// Whether its tasks run.
    pub freezer: Rc<Freezer>,
    /// How many times slower than usual its disk is.
    pub slow: Cell<u32>,
    /// How far its wall clock is off, in milliseconds.
    pub skew: Cell<i64>,
    /// The memory budget of its node.
    pub budget: Cell<u64>,
    /// The next loads here that fail.
    pub failing: Cell<u32>,
    /// What its node has been told and has not heard.
    pub commands: RefCell<VecDeque<Command>>,
    /// Wakes its node for a command.
    pub told: Notify,
    /// Its node, while one runs.
    pub node: RefCell<Option<Node>>,
    /// Its node has left for good.
    pub left: Cell<bool>,
    /// Nothing runs on it, and it says so to who wants to connect.
    pub refuses: Cell<bool>,
}

impl Machine {
    /// A machine.
    pub fn new(name: NodeName, budget: u64) -> Self {
        Self {
            name,
            disk: RefCell::default(),
            freezer: Rc::default(),
            slow: Cell::new(1),
            skew: Cell::new(0),
            budget: Cell::new(budget),
            failing: Cell::new(0),
            commands: RefCell::default(),
            told: Notify::new(),
            node: RefCell::default(),
            left: Cell::new(false),
            refuses: Cell::new(false),
        }
    }

    /// Whether a node runs on it, frozen or not.
    pub fn is_running(&self) -> bool {
        self.node.borrow().is_some()
    }

    /// Tells its node.
    pub fn tell(&self, command: Command) {
        self.commands.borrow_mut().push_back(command);
        self.told.notify_one();
    }
}

/// What all of a simulation shares.
#[derive(Debug)]
pub struct World {
    rng: RefCell<StdRng>,
    /// The virtual time between steps, in milliseconds.
    pub at: Cell<u64>,
    history: RefCell<Vec<Record>>,
    /// The machines, in the order in which they joined.
    pub machines: RefCell<Vec<Rc<Machine>>>,
    /// The part of datagrams that is lost.
    pub loss: Cell<f64>,
    /// Between whom all datagrams are lost.
    pub cuts: RefCell<BTreeSet<(NodeName, NodeName)>>,
    /// Models that clients ask for.
    pub asked_for: RefCell<Vec<ModelId>>,
    /// Whether clients go on making requests.
    pub is_open: Cell<bool>,
    /// Clients ask once more where the answer says that it may help.
    pub clients_retry: Cell<bool>,
    /// By how much replicas surprise: see the scenario.
    pub surprise: Cell<u64>,
    requests: Cell<u64>,
    sequences: Cell<u64>,
}

impl World {
    /// A world in which nothing has happened.
    pub fn new(seed: u64) -> Self {
        Self {
            rng: RefCell::new(StdRng::seed_from_u64(seed)),
            at: Cell::new(0),
            history: RefCell::default(),
            machines: RefCell::default(),
            loss: Cell::new(0.0),
            cuts: RefCell::default(),
            asked_for: RefCell::default(),
            is_open: Cell::new(false),
            clients_retry: Cell::new(true),
            surprise: Cell::new(0),
            requests: Cell::new(0),
            sequences: Cell::new(0),
        }
    }

    /// Virtual time in milliseconds, within a host and between steps.
    pub fn now(&self) -> u64 {
        let within = turmoil::sim_elapsed().map(|elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
        within.unwrap_or(self.at.get())
    }

    /// Takes down what happened.
    pub fn record(&self, event: Event) {
        let at = self.now();
        self.history.borrow_mut().push(Record { at, event });
    }

    /// What has happened so far.
    pub fn history(&self) -> std::cell::Ref<'_, Vec<Record>> {
        self.history.borrow()
    }

    /// What has happened.
    pub fn into_history(self) -> Vec<Record> {
        self.history.into_inner()
    }

    /// A random number.
    pub fn random(&self) -> u64 {
        self.rng.borrow_mut().next_u64()
    }

    /// A random number of a range.
    pub fn between(&self, low: u64, high: u64) -> u64 {
        self.rng.borrow_mut().random_range(low..=high)
    }

    /// Whether something happens that does so in this part of all cases.
    pub fn happens(&self, part: f64) -> bool {
        part > 0.0 && self.rng.borrow_mut().random_bool(part)
    }

    /// Whether a datagram on this way is lost.
    pub fn is_lost(&self, from: &NodeName, to: &NodeName) -> bool {
        let cuts = self.cuts.borrow();
        let is_cut = cuts.contains(&(from.clone(), to.clone())) || cuts.contains(&(to.clone(), from.clone()));
        is_cut || self.happens(self.loss.get())
    }

    /// The number of a new request.
    pub fn next_request(&self) -> u64 {
        self.requests.set(self.requests.get() + 1);
        self.requests.get()
    }

    /// The number of a new sequence.
    pub fn next_sequence(&self) -> u64 {
        self.sequences.set(self.sequences.get() + 1);
        self.sequences.get()
    }

    /// Whether a machine that cannot be connected to shows that no node runs on it. (turmoil lets connections to a host
    /// that has crashed time out.)
    pub fn refuses(&self, from: &NodeName, to: &NodeName) -> bool {
        let cuts = self.cuts.borrow();
        let is_cut = cuts.contains(&(from.clone(), to.clone())) || cuts.contains(&(to.clone(), from.clone()));
        !is_cut && self.machine(to).is_some_and(|machine| machine.refuses.get())
    }

    /// A machine by its node's name.
    pub fn machine(&self, name: &NodeName) -> Option<Rc<Machine>> {
        self.machines
            .borrow()
            .iter()
            .find(|machine| machine.name == *name)
            .cloned()
    }
}
