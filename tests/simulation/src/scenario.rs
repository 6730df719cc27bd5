//! Runs a whole grid by a plan.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use grid_core::catalog::Deployment;
use grid_core::cluster::{Digest, NodeName};
use grid_core::model::{ModelId, ReplicaCount};
use turmoil::Sim;

use crate::fault::{Fault, Plan};
use crate::history::{Belief, Event, Phase, Record};
use crate::invariants::{self, Violation, convergence};
use crate::world::{Command, Machine, World};
use crate::{client, links, node};

/// Virtual time of one step: messages and what they cause come at least so far apart.
const STEP: Duration = Duration::from_millis(10);
/// How often all nodes are asked what they believe, in milliseconds.
const SAMPLE: u64 = 500;
/// Longest way of a message in a grid that is well, in milliseconds.
const DELAY: u64 = 20;
/// Time that a grid has to come up, in milliseconds.
const START: u64 = 40_000;
/// Time between the last request and the end, in milliseconds: each request has its outcome by then.
const REST: u64 = 6_000;

/// A model of a scenario.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its id.
    pub id: ModelId,
    /// What a replica takes.
    pub bytes: u64,
    /// How many replicas it has at first.
    pub replicas: u32,
}

/// The id of the model of this number.
pub fn model(number: usize) -> ModelId {
    ModelId {
        name: format!("model-{number}").parse().expect("it is a name"),
        version: 1,
    }
}

/// What is run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// All that is drawn comes from it.
    pub seed: u64,
    /// Nodes at first.
    pub nodes: usize,
    /// Memory budget of each.
    pub budget: u64,
    /// What is deployed at first.
    pub models: Vec<Model>,
    /// What is done.
    pub plan: Plan,
    /// Shortest length of the safety phase, in milliseconds.
    pub safety: u64,
    /// All that is done is planned: no request may fail.
    pub only_planned: bool,
    /// There is room for all that is deployed, so that nothing waits in the end.
    pub has_room: bool,
    /// A replica turns out to take up to so many hundredths more than was expected, or half as much less; on each node
    /// something else, and the same each time.
    pub surprise: u64,
}

impl Scenario {
    /// A grid of so many nodes with four models, to which nothing happens.
    pub fn new(seed: u64, nodes: usize) -> Self {
        let models = (0..4).map(|number| Model {
            id: model(number),
            bytes: (60 + 20 * number as u64) << 20,
            replicas: 1 + u32::try_from(number).unwrap_or(0) % 3,
        });
        Self {
            seed,
            nodes,
            budget: 2 << 30,
            models: models.collect(),
            plan: Plan::new(),
            safety: 0,
            only_planned: false,
            has_room: true,
            surprise: 0,
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What happened.
    pub history: Vec<Record>,
    /// What should not have.
    pub violations: Vec<Violation>,
    /// What the nodes believed in the end, in words; only if something was wrong.
    pub minds: Vec<String>,
}

impl Report {
    /// The whole history as text.
    pub fn trace(&self) -> String {
        self.history.iter().map(|record| format!("{record}\n")).collect()
    }

    /// Panics with what a person needs, if something was wrong.
    ///
    /// # Panics
    /// If something was wrong.
    pub fn check(&self) {
        assert!(self.violations.is_empty(), "{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let beliefs = |record: &&Record| !matches!(record.event, Event::Believes(_));
        let quiet = |event: &Event| {
            matches!(
                event,
                Event::Sent { .. }
                    | Event::RunBegun { .. }
                    | Event::RunEnded { .. }
                    | Event::Outcome { result: Ok(()), .. }
                    | Event::SequenceOutcome { .. }
                    | Event::SequenceHeld { .. }
                    | Event::SequenceWord { .. }
            )
        };
        let told: Vec<_> = self
            .history
            .iter()
            .filter(beliefs)
            .filter(|record| !quiet(&record.event))
            .collect();
        writeln!(f, "the end of the trace, without requests that went well and beliefs:")?;
        for record in &told[told.len().saturating_sub(80)..] {
            writeln!(f, "{record}")?;
        }
        for mind in &self.minds {
            writeln!(f, "{mind}")?;
        }
        // Of a hundred alike, the first tell the story.
        for violation in self.violations.iter().take(6) {
            writeln!(f, "seed {}: {violation}", self.seed)?;
        }
        Ok(())
    }
}

struct Run<'a> {
    sim: Sim<'a>,
    world: Rc<World>,
    scenario: &'a Scenario,
    sampled: u64,
}

/// Runs a scenario to its end, and looks at what happened.
pub fn run(scenario: &Scenario) -> Report {
    links::seed_nonces(scenario.seed);
    let mut builder = turmoil::Builder::new();
    builder
        .rng_seed(scenario.seed)
        .epoch(std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000))
        .simulation_duration(Duration::from_secs(3600))
        .tick_duration(STEP)
        .tcp_capacity(8192)
        .udp_capacity(4096)
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(DELAY));
    let mut run = Run {
        sim: builder.build(),
        world: Rc::new(World::new(scenario.seed)),
        scenario,
        sampled: 0,
    };
    run.world.clients_retry.set(!scenario.only_planned);
    run.world.surprise.set(scenario.surprise);
    run.all_phases();
    let minds = run.minds();
    let history = run.world.history().clone();
    drop(run);
    let violations = invariants::check(scenario, &history);
    Report {
        seed: scenario.seed,
        minds: if violations.is_empty() { Vec::new() } else { minds },
        history,
        violations,
    }
}

impl Run<'_> {
    fn all_phases(&mut self) {
        self.phase(Phase::Start);
        (0..self.scenario.nodes).for_each(|_| self.join());
        let world = Rc::clone(&self.world);
        self.sim.host(client::HOST, move || client::run(Rc::clone(&world)));
        for model in &self.scenario.models {
            self.deploy(0, &model.id, 0, model.replicas);
        }
        // Whether it came up is told by the same invariant as at the end.
        self.until_settled(START);
        let models = self.scenario.models.iter().map(|model| model.id.clone());
        self.world.asked_for.replace(models.collect());
        self.world.is_open.set(true);
        self.phase(Phase::Safety);
        let began = self.now();
        for (at, fault) in &self.scenario.plan {
            self.until(began + at);
            self.apply(fault);
        }
        self.until(began + self.scenario.safety);
        self.make_well();
        self.phase(Phase::Quiet);
        self.until_settled(convergence::BOUND + convergence::REST);
        self.world.is_open.set(false);
        self.phase(Phase::End);
        self.until(self.now() + REST);
    }

    fn now(&self) -> u64 {
        self.world.at.get()
    }

    fn phase(&self, phase: Phase) {
        self.world.record(Event::Phase(phase));
    }

    fn until(&mut self, end: u64) {
        while self.now() < end {
            self.step();
        }
    }

    /// Runs until the grid has been at rest for as long as it must be, or the time is over.
    fn until_settled(&mut self, bound: u64) {
        let began = self.now();
        while self.now() < began + bound {
            self.until(self.now() + SAMPLE);
            let history = self.world.history();
            if convergence::is_at_rest(self.scenario, &history, began, self.now()) {
                return;
            }
        }
    }

    fn step(&mut self) {
        if let Err(error) = self.sim.step() {
            let (whose, message) = (String::from("a host"), error.to_string());
            self.world.record(Event::Panicked { whose, message });
        }
        let at = u64::try_from(self.sim.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.world.at.set(at);
        let gone: Vec<Rc<Machine>> = self.machines(|machine| machine.left.get() && machine.is_running());
        gone.iter().for_each(|machine| self.stop(machine));
        if at >= self.sampled + SAMPLE {
            self.sampled = at;
            for machine in self.machines(Machine::is_running) {
                let belief: Option<Belief> = machine.node.borrow().as_ref().map(node::Node::belief);
                belief
                    .into_iter()
                    .for_each(|belief| self.world.record(Event::Believes(Box::new(belief))));
            }
        }
    }

    fn machines(&self, which: impl Fn(&Machine) -> bool) -> Vec<Rc<Machine>> {
        let machines = self.world.machines.borrow();
        machines.iter().filter(|machine| which(machine)).cloned().collect()
    }

    fn machine(&self, index: usize) -> Rc<Machine> {
        Rc::clone(&self.world.machines.borrow()[index])
    }

    /// A machine, if a node runs on it.
    fn running(&self, index: usize) -> Option<Rc<Machine>> {
        Some(self.machine(index)).filter(|machine| machine.is_running())
    }

    fn minds(&self) -> Vec<String> {
        let running = self.machines(Machine::is_running);
        let minds = running
            .iter()
            .map(|machine| machine.node.borrow().as_ref().map(node::Node::describe));
        minds.flatten().collect()
    }

    fn join(&mut self) {
        let name: NodeName = {
            let machines = self.world.machines.borrow();
            format!("n{}", machines.len()).parse().expect("it is a name")
        };
        let machine = Rc::new(Machine::new(name, self.scenario.budget));
        self.world.machines.borrow_mut().push(Rc::clone(&machine));
        let (world, name) = (Rc::clone(&self.world), machine.name.to_string());
        self.sim
            .host(name, move || node::run(Rc::clone(&world), Rc::clone(&machine)));
    }

    fn stop(&mut self, machine: &Machine) {
        machine.node.replace(None);
        machine.commands.take();
        self.sim.crash(machine.name.as_str());
        machine.freezer.thaw();
        self.world.record(Event::Gone {
            node: machine.name.clone(),
            left: machine.left.get(),
        });
    }

    fn restart(&mut self, machine: &Machine) {
        if !machine.is_running() && !machine.left.get() {
            machine.refuses.set(false);
            self.sim.bounce(machine.name.as_str());
        }
    }

    fn deploy(&self, at: usize, model: &ModelId, revision: u64, replicas: u32) {
        let bytes = self.scenario.models.iter().find(|known| known.id == *model);
        let memory = bytes.map_or(100 << 20, |known| known.bytes);
        let deployment = Deployment {
            content: Digest::of(format!("{model} {revision}").as_bytes()),
            size: memory,
            memory,
            replicas: ReplicaCount::Exactly(replicas),
            weight: 100,
        };
        self.machine(at).tell(Command::Deploy(model.clone(), deployment));
    }

    /// Does something to the grid, if it can be done to it.
    fn apply(&mut self, fault: &Fault) {
        self.world.record(Event::Fault {
            what: fault.to_string(),
            planned: fault.is_planned(),
        });
        match fault {
            Fault::Loss(part) => self.world.loss.set(*part),
            Fault::Delay(most) => self.sim.set_max_message_latency(Duration::from_millis(*most)),
            Fault::Partition(side) => self.partition(side),
            Fault::Heal => self.heal(None),
            Fault::Crash(node) | Fault::PowerCut(node) => {
                if let Some(machine) = self.running(*node) {
                    match fault {
                        Fault::PowerCut(_) => self.isolate(&machine),
                        _ => machine.refuses.set(true),
                    }
                    self.stop(&machine);
                }
            }
            Fault::Restart(node) => {
                let machine = self.machine(*node);
                self.heal(Some(&machine.name));
                self.restart(&machine);
            }
            Fault::Freeze(node) => self.machine(*node).freezer.freeze(),
            Fault::Thaw(node) => self.machine(*node).freezer.thaw(),
            Fault::SlowDisk(node, times) => self.machine(*node).slow.set(*times),
            Fault::Skew(node, by) => self.machine(*node).skew.set(*by),
            Fault::Budget(node, percent) => {
                let machine = self.machine(*node);
                machine.budget.set(self.scenario.budget * percent / 100);
                if machine.is_running() {
                    machine.tell(Command::Budget(machine.budget.get()));
                }
            }
            Fault::FailLoads(node, count) => self.machine(*node).failing.set(*count),
            Fault::Leave(node) => {
                if let Some(machine) = self.running(*node) {
                    machine.tell(Command::Leave);
                }
            }
            Fault::Join => self.join(),
            Fault::Deploy {
                at,
                model,
                revision,
                replicas,
            } => {
                if self.running(*at).is_some() {
                    self.deploy(*at, model, *revision, *replicas);
                }
            }
            Fault::TakeBack { at, model } => {
                self.world.asked_for.borrow_mut().retain(|asked| asked != model);
                if let Some(machine) = self.running(*at) {
                    machine.tell(Command::TakeBack(model.clone()));
                }
            }
        }
    }

    /// Nothing goes between these nodes and the others. What TCP has sent arrives when the partition is over, as TCP sends
    /// it again until it does; turmoil would lose it and break the connection for good. Datagrams are lost.
    fn partition(&self, side: &[usize]) {
        let machines = self.world.machines.borrow();
        let (here, there): (Vec<usize>, Vec<usize>) = (0..machines.len()).partition(|index| side.contains(index));
        for near in &here {
            for far in &there {
                let (near, far) = (&machines[*near].name, &machines[*far].name);
                self.sim.hold(near.as_str(), far.as_str());
                self.world.cuts.borrow_mut().insert((near.clone(), far.clone()));
            }
        }
    }

    /// Nothing goes to a machine or comes from it any more, clients included, and nothing ever will of what was sent.
    fn isolate(&self, machine: &Machine) {
        self.sim.partition(machine.name.as_str(), client::HOST);
        for other in self.machines(|other| other.name != machine.name) {
            self.sim.partition(machine.name.as_str(), other.name.as_str());
        }
    }

    /// Joins the ways between all nodes again, or those of one.
    fn heal(&self, only: Option<&NodeName>) {
        let concerns = |name: &NodeName| only.is_none_or(|only| only == name);
        self.world
            .cuts
            .borrow_mut()
            .retain(|(near, far)| !concerns(near) && !concerns(far));
        let machines = self.world.machines.borrow();
        for (index, near) in machines.iter().enumerate() {
            if concerns(&near.name) {
                self.sim.release(near.name.as_str(), client::HOST);
            }
            for far in &machines[index + 1..] {
                if concerns(&near.name) || concerns(&far.name) {
                    self.sim.release(near.name.as_str(), far.name.as_str());
                }
            }
        }
    }

    /// Ends all faults. What an operator did stays: who left has left, and a budget that was halved stays so.
    fn make_well(&mut self) {
        self.world.loss.set(0.0);
        self.sim.set_max_message_latency(Duration::from_millis(DELAY));
        self.heal(None);
        for machine in self.machines(|_| true) {
            machine.slow.set(1);
            machine.failing.set(0);
            machine.freezer.thaw();
            self.restart(&machine);
        }
    }
}
