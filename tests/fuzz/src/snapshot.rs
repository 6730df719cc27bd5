//! Whatever the agents of other nodes say to an agent: snapshots, catalogs, questions and answers.

use std::time::Duration;

use grid_core::agent::{Agent, AgentOptions, Answer, Ask, Effect};
use grid_core::catalog::{Catalog, Entry};
use grid_core::cluster::{Addresses, Capacity, Digest, NodeId, NodeSnapshot, Now};
use grid_core::model::ModelId;
use grid_core::wire::codec;

use crate::calls::decoded;
use crate::input::Input;
use crate::sealing::{NOW, address};

/// What is done next, in a seed.
pub mod step {
    /// Membership says that a node is there. Followed by which, and its generation.
    pub const UP: u8 = 0;
    /// Membership says that it is gone: which, and its generation.
    pub const DOWN: u8 = 1;
    /// A node says that it has something new: which, its generation, a version, a byte of its catalog's digest.
    pub const HEARD: u8 = 2;
    /// An [`Answer`](grid_core::agent::Answer) to the oldest question that is open, or to one that nobody asked.
    pub const ANSWER: u8 = 3;
    /// An [`Ask`](grid_core::agent::Ask).
    pub const ASK: u8 = 4;
    /// Time passes: so many tenths of a second.
    pub const WAIT: u8 = 5;
    /// The oldest load ends: whether well, and how many MiB it takes.
    pub const LOADED: u8 = 6;
    /// Nobody answers the oldest question.
    pub const SILENCE: u8 = 7;
    /// How many there are.
    pub const COUNT: u8 = 8;
}

/// Most time that passes in one run: what is done in it is mostly done after the first seconds.
const LONGEST: Duration = Duration::from_secs(40);

/// The agent and what it waits for.
struct Scene {
    agent: Agent,
    now: Now,
    asked: Vec<(NodeId, Ask)>,
    loads: Vec<(ModelId, Digest)>,
    unloads: Vec<ModelId>,
}

/// The agent's own node.
///
/// # Panics
/// Never: the name is one.
pub fn node(index: u8, generation: u8) -> NodeId {
    NodeId {
        name: format!("n{}", index % 8).parse().expect("a name"),
        generation: generation.into(),
    }
}

/// Takes in what the bytes say.
///
/// # Panics
/// When something does not hold.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let options = AgentOptions {
        node: node(0, 1),
        addresses: Addresses {
            mesh: address(0),
            http: None,
            grpc: None,
        },
        zone: String::new(),
        capacity: Capacity {
            memory: 1 << 30,
            compute: 100,
        },
        grace: Duration::from_secs(5),
        has_seeds: true,
    };
    let mut scene = Scene {
        agent: Agent::new(options, Vec::new(), NOW),
        now: NOW,
        asked: Vec::new(),
        loads: Vec::new(),
        unloads: Vec::new(),
    };
    while !input.is_empty() {
        scene.step(&mut input);
        scene.settle();
    }
    scene.wait(Duration::from_secs(10));
    scene.agent.leave(scene.now);
    scene.settle();
}

impl Scene {
    fn step(&mut self, input: &mut Input<'_>) {
        let now = self.now;
        match input.byte() % step::COUNT {
            step::UP => {
                let index = input.byte();
                self.agent.up(now, node(index, input.byte()), address(index % 8));
            }
            step::DOWN => {
                let id = node(input.byte(), input.byte());
                self.agent.down(now, &id, input.byte() % 2 == 1);
            }
            step::HEARD => {
                let id = node(input.byte(), input.byte());
                let version = input.byte().into();
                self.agent.heard(now, &id, version, Digest([input.byte(); 32]));
            }
            step::ANSWER => {
                let Some(answer) = decoded::<Answer>("answer", input.piece()) else {
                    return;
                };
                merges(&answer);
                let (from, ask) = match self.asked.is_empty() {
                    true => (node(1, 1), Ask::Entries(Vec::new())),
                    false => self.asked.remove(0),
                };
                self.agent.answered(now, now.monotonic, &from, &ask, answer);
            }
            step::ASK => {
                let Some(ask) = decoded::<Ask>("ask", input.piece()) else {
                    return;
                };
                let answer = self.agent.asked(now, &ask);
                let sent = codec::encode(&answer);
                assert_eq!(codec::decode("answer", &sent), Ok(answer));
            }
            step::WAIT => self.wait(Duration::from_millis(100) * u32::from(input.byte())),
            step::LOADED => {
                let (well, bytes) = (input.byte().is_multiple_of(2), u64::from(input.byte()) << 20);
                if self.loads.is_empty() {
                    return;
                }
                let (model, content) = self.loads.remove(0);
                match well {
                    true => self.agent.replica_loaded(now, &model, content, bytes),
                    false => {
                        // Found to take too much, or broken.
                        let took = (bytes > 0).then_some(bytes);
                        let reason = "it is broken".to_owned();
                        self.agent.replica_failed(now, &model, content, reason, took);
                    }
                }
            }
            _ if !self.asked.is_empty() => {
                let (from, ask) = self.asked.remove(0);
                self.agent.unanswered(&from, &ask);
            }
            _ => {}
        }
    }

    fn wait(&mut self, span: Duration) {
        let end = (self.now.monotonic + span).min(NOW.monotonic + LONGEST);
        let mut wakes = 0;
        loop {
            let at = self.agent.next_wake();
            if at > end {
                break;
            }
            self.pass(at.max(self.now.monotonic));
            self.agent.tick(self.now, wakes);
            self.settle();
            wakes += 1;
            assert!(wakes < 1000, "it wakes {wakes} times in {span:?}");
        }
        self.pass(end);
    }

    fn pass(&mut self, until: Duration) {
        let passed = until - self.now.monotonic;
        self.now.wall += u64::try_from(passed.as_millis()).expect("a short time");
        self.now.monotonic = until;
    }

    /// Takes note of what the agent wants, and ends what it unloads.
    fn settle(&mut self) {
        while let Some(effect) = self.agent.poll() {
            match effect {
                Effect::Ask { to, ask, .. } => self.asked.push((to, ask)),
                Effect::Load { model, deployment, .. } => self.loads.push((model, deployment.content)),
                Effect::Unload { model } => self.unloads.push(model),
                Effect::Notice(notice) => assert!(!notice.to_string().is_empty()),
                Effect::Head { .. } | Effect::Keep | Effect::Routes => {}
            }
        }
        for model in std::mem::take(&mut self.unloads) {
            self.agent.replica_unloaded(self.now, &model);
        }
        self.check();
    }

    fn check(&self) {
        let (agent, nodes) = (&self.agent, self.agent.placed_nodes().len());
        let own = agent
            .view()
            .node(agent.name())
            .and_then(|known| known.snapshot.as_ref());
        let own = own.expect("a node knows itself");
        let sent = codec::encode(own);
        assert_eq!(codec::decode::<NodeSnapshot>("snapshot", &sent).as_ref(), Ok(own));
        for owners in &agent.assignment().owners {
            assert!(owners.iter().all(|owner| *owner < nodes), "{owners:?} of {nodes} nodes");
        }
        for known in agent.view().nodes() {
            let snapshot = known.snapshot.as_ref();
            assert!(snapshot.is_none_or(|snapshot| snapshot.node == known.id));
        }
    }
}

/// Two copies of the catalog that hear the same in opposite orders, or twice, are the same.
fn merges(answer: &Answer) {
    let Answer::Entries(entries) = answer else { return };
    let merged = |entries: &mut dyn Iterator<Item = &(ModelId, Entry)>| {
        let mut catalog = Catalog::default();
        for (model, entry) in entries {
            catalog.merge(model.clone(), entry.clone());
        }
        catalog
    };
    let forth = merged(&mut entries.iter());
    let twice = merged(&mut entries.iter().chain(entries));
    assert_eq!(forth.digest(), twice.digest());
    // Two entries with one stamp do not come from nodes that keep to the rules, and which of them stays is open.
    let stamps: std::collections::BTreeSet<_> = entries.iter().map(|(model, entry)| (model, &entry.stamp)).collect();
    if stamps.len() == entries.len() {
        let back = merged(&mut entries.iter().rev());
        assert_eq!(forth.digest(), back.digest());
        assert!(forth.differing(back.buckets()).is_empty());
    }
    let kept: Vec<_> = forth.entries().collect();
    assert_eq!(Catalog::default().differing(forth.buckets()).len(), 0);
    assert!(forth.differing(&[]).len() == kept.len());
}
