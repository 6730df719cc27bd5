//! One simulated node: the product's membership, agent and dispatch, and around them what carries out their decisions.

mod effects;
mod mesh;
mod router;
mod sequences;
mod store;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use grid_core::agent::{Agent, AgentOptions};
use grid_core::cluster::{Addresses, Capacity, Digest, NodeId, Now, ReplicaStage, Standing};
use grid_core::membership::{Membership, MembershipOptions, Swim};
use grid_core::model::ReplicaCount;
use grid_core::placement::Cause;
use grid_core::wire::codec::encode;
use grid_core::wire::handshake::Peer;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};
use turmoil::net::UdpSocket;

use crate::history::{Belief, Event};
use crate::links::{Inbound, Pool, Spawner, listen};
use crate::world::{Command, EPOCH, Machine, World};
use router::Router;
pub(crate) use router::body_of;
use sequences::Sequences;
pub(crate) use sequences::numbers;
use store::Store;

/// Gossip and mesh.
pub const MESH: u16 = 7000;
/// Requests of clients: it stands for HTTP.
pub const GATEWAY: u16 = 8000;

/// How long a node that does not answer is waited for. The product's default is longer; here time is dear.
pub const GRACE: Duration = Duration::from_secs(5);

/// Between two tries to find others: while there are none, and later.
const SEEK: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(10)];

/// A node that leaves gives up after so long what nobody takes.
const LEAVING: Duration = Duration::from_secs(60);

/// A node, in one of its lives. A clone is another handle of it.
#[derive(Clone)]
pub struct Node(Rc<Inner>);

struct Inner {
    world: Rc<World>,
    machine: Rc<Machine>,
    spawner: Spawner,
    /// Begin of this life, on the host's clock.
    began: Instant,
    address: SocketAddr,
    socket: UdpSocket,
    pool: Pool,
    inbound: Inbound,
    /// The main loop has something new to wait for.
    changed: Notify,
    core: RefCell<Core>,
    wakes: Cell<u64>,
    datagrams: Cell<u64>,
}

/// What is borrowed for a moment and never across an await.
struct Core {
    id: NodeId,
    swim: Swim,
    agent: Agent,
    store: Store,
    router: Router,
    sequences: Sequences,
    seek: Duration,
    /// When it was told to leave.
    leaves: Option<Duration>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Node").field(&self.0.machine.name).finish()
    }
}

/// Runs a node on the host of `machine` until the host ends.
///
/// # Errors
/// When its sockets cannot be bound.
pub async fn run(world: Rc<World>, machine: Rc<Machine>) -> turmoil::Result {
    let panicked = {
        let (world, whose) = (Rc::clone(&world), machine.name.to_string());
        move |message| {
            let whose = whose.clone();
            world.record(Event::Panicked { whose, message });
        }
    };
    let spawner = Spawner {
        freezer: Rc::clone(&machine.freezer),
        panicked: Rc::new(panicked),
    };
    let socket = UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, MESH)).await?;
    let node = Node::new(world, machine, spawner.clone(), socket);
    node.0.machine.node.replace(Some(node.clone()));
    let (mesh, at_mesh) = mpsc::unbounded_channel();
    let (gateway, at_gateway) = mpsc::unbounded_channel();
    let identity = Peer::Node(node.0.core.borrow().id.clone());
    let inbound = || Rc::clone(&node.0.inbound);
    spawner.spawn(listen(MESH, spawner.clone(), identity.clone(), inbound(), mesh));
    spawner.spawn(listen(GATEWAY, spawner.clone(), identity, inbound(), gateway));
    spawner.spawn(node.clone().serve_mesh(at_mesh));
    spawner.spawn(node.clone().serve_gateway(at_gateway));
    spawner.spawn(node.clone().look_around());
    spawner.wrap(node.main()).await;
    // Nothing more happens here until the host is crashed, or started again.
    std::future::pending().await
}

impl Node {
    fn new(world: Rc<World>, machine: Rc<Machine>, spawner: Spawner, socket: UdpSocket) -> Self {
        let address = SocketAddr::new(turmoil::lookup(machine.name.as_str()), MESH);
        let wall = wall(&world, &machine);
        let mut disk = machine.disk.borrow_mut();
        disk.generation = wall.max(disk.generation + 1);
        let id = NodeId {
            name: machine.name.clone(),
            generation: disk.generation,
        };
        let budget = machine.budget.get();
        world.record(Event::Started {
            node: id.name.clone(),
            generation: id.generation,
            budget,
        });
        let now = Now {
            monotonic: Duration::ZERO,
            wall,
        };
        let Digest(entropy) = Digest::of(&world.random().to_le_bytes());
        let swim = Swim::new(&MembershipOptions {
            grid: crate::links::grid(),
            node: id.clone(),
            mesh: address,
            key: crate::links::key(),
            entropy,
            self_doubt: true,
        });
        let options = AgentOptions {
            node: id.clone(),
            addresses: Addresses {
                mesh: address,
                http: Some(SocketAddr::new(address.ip(), GATEWAY)),
                grpc: None,
            },
            zone: String::new(),
            capacity: Capacity {
                memory: budget,
                compute: 100,
            },
            grace: GRACE,
            has_seeds: true,
        };
        let mut agent = Agent::new(options, disk.catalog.clone(), now);
        agent.artifacts(disk.artifacts.iter().copied().collect());
        drop(disk);
        let core = Core {
            id: id.clone(),
            swim,
            agent,
            store: Store::new(budget),
            router: Router::default(),
            sequences: Sequences::new(id.clone()),
            seek: Duration::ZERO,
            leaves: None,
        };
        Self(Rc::new(Inner {
            pool: Pool::new(spawner.clone(), Peer::Node(id)),
            world,
            machine,
            spawner,
            began: Instant::now(),
            address,
            socket,
            inbound: Inbound::default(),
            changed: Notify::new(),
            core: RefCell::new(core),
            wakes: Cell::new(0),
            datagrams: Cell::new(0),
        }))
    }

    fn now(&self) -> Now {
        let elapsed = Instant::now() - self.0.began;
        Now {
            // In whole milliseconds: what is finer differs from run to run.
            monotonic: Duration::from_millis(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)),
            wall: wall(&self.0.world, &self.0.machine),
        }
    }

    async fn main(self) {
        let mut buffer = [0; grid_core::membership::MAX_DATAGRAM];
        loop {
            self.0.wakes.set(self.0.wakes.get() + 1);
            self.hear_commands();
            self.tick();
            if self.is_gone() {
                return self.part().await;
            }
            let wake = self.0.began + self.next_wake();
            // A wake-up that is due already is one that was forgotten: it shows in the count of them.
            let wake = wake.max(Instant::now() + Duration::from_millis(1));
            tokio::select! {
                biased;
                got = self.0.socket.recv_from(&mut buffer) => if let Ok((length, from)) = got {
                    self.datagram(from, &buffer[..length]);
                },
                () = self.0.machine.told.notified() => {}
                () = self.0.changed.notified() => {}
                () = sleep_until(wake) => {}
            }
            // After a freeze, all that waits comes before the timers.
            while let Ok((length, from)) = self.0.socket.try_recv_from(&mut buffer) {
                self.datagram(from, &buffer[..length]);
            }
        }
    }

    fn datagram(&self, from: SocketAddr, bytes: &[u8]) {
        self.0.core.borrow_mut().swim.datagram(self.now(), from, bytes);
        self.carry_out();
    }

    fn next_wake(&self) -> Duration {
        let core = self.0.core.borrow();
        let leaving = core.leaves.map(|_| self.now().monotonic + Duration::from_millis(250));
        let all = [
            core.swim.next_wake(),
            Some(core.agent.next_wake()),
            Some(core.seek),
            leaving,
        ];
        all.into_iter().flatten().min().unwrap_or(Duration::MAX)
    }

    fn tick(&self) {
        let now = self.now();
        let mut core = self.0.core.borrow_mut();
        if core.seek <= now.monotonic {
            let others = core.agent.view().up().count() > 1;
            core.seek = now.monotonic + SEEK[usize::from(others)];
            let seeds = self.0.world.machines.borrow();
            let seeds = seeds
                .iter()
                .take(3)
                .map(|machine| turmoil::lookup(machine.name.as_str()));
            let seeds: Vec<SocketAddr> = seeds.map(|at| SocketAddr::new(at, MESH)).collect();
            core.swim.join(now, &seeds);
        }
        if core.swim.next_wake().is_some_and(|at| at <= now.monotonic) {
            core.swim.tick(now);
        }
        if core.agent.next_wake() <= now.monotonic {
            core.agent.tick(now, self.0.world.random());
        }
        drop(core);
        self.carry_out();
    }

    fn hear_commands(&self) {
        while let Some(command) = self.next_command() {
            let now = self.now();
            let mut core = self.0.core.borrow_mut();
            match command {
                Command::Deploy(model, deployment) => {
                    core.keep_content(&self.0.machine, deployment.content);
                    core.agent.deploy(now, model, deployment);
                }
                Command::TakeBack(model) => core.agent.take_back(now, model),
                Command::Budget(bytes) => {
                    core.store.budget = bytes;
                    let node = self.0.machine.name.clone();
                    self.0.world.record(Event::Budget { node, bytes });
                    let compute = 100;
                    core.agent.set_capacity(now, Capacity { memory: bytes, compute });
                }
                Command::Leave => {
                    core.leaves = Some(now.monotonic);
                    core.agent.leave(now);
                }
            }
            drop(core);
            self.carry_out();
        }
    }

    fn next_command(&self) -> Option<Command> {
        self.0.machine.commands.borrow_mut().pop_front()
    }

    /// Whether it was told to leave, and nothing keeps it.
    fn is_gone(&self) -> bool {
        let now = self.now().monotonic;
        let core = self.0.core.borrow();
        core.leaves
            .is_some_and(|since| core.agent.has_left() || since + LEAVING <= now)
    }

    /// The end of a node that leaves: it takes nothing new, finishes what runs, and says farewell.
    async fn part(&self) {
        self.leave_sequences().await;
        self.0
            .inbound
            .borrow()
            .iter()
            .for_each(grid_client::link::Link::go_away);
        for _ in 0..50 {
            if self.0.core.borrow().router.under_way == 0 && self.0.core.borrow().store.runs() == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.0.core.borrow_mut().swim.leave(self.now());
        self.carry_out();
        tokio::time::sleep(Duration::from_millis(100)).await;
        self.0.machine.left.set(true);
    }

    /// What it believes now.
    pub fn belief(&self) -> Belief {
        let core = self.0.core.borrow();
        let (view, intents) = (core.agent.view(), core.agent.intents());
        let up: Vec<_> = view.up().map(|snapshot| snapshot.name().clone()).collect();
        let known = view.nodes().filter(|node| node.standing == Standing::Up);
        let digest = |text: String| Digest::of(text.as_bytes());
        let deployed = core.agent.catalog().deployments().map(|(model, deployment)| {
            let wanted = match deployment.replicas {
                ReplicaCount::Exactly(count) => up.len().min(count as usize),
                ReplicaCount::EveryNode => up.len(),
            };
            let mut up = view.up();
            let has_source = up.any(|snapshot| snapshot.artifacts.contains(&deployment.content));
            (model.clone(), deployment.content, wanted, has_source)
        });
        let ready = view.node(&core.id.name).and_then(|node| node.snapshot.as_ref());
        let ready = ready.into_iter().flat_map(|snapshot| &snapshot.replicas);
        let ready = ready.filter(|replica| replica.stage == ReplicaStage::Ready);
        let assignment = core.agent.assignment();
        // More replicas than nodes are wanted on purpose: one on each node then.
        let no_room = assignment
            .unplaced
            .iter()
            .filter(|unplaced| !matches!(unplaced.cause, Cause::NoNode { .. }));
        Belief {
            node: core.id.name.clone(),
            view: Digest::of(&encode(
                &known.map(|node| (node.id.clone(), node.heard_of)).collect::<Vec<_>>(),
            )),
            catalog: core.agent.catalog().digest(),
            intents: digest(format!("{intents:?}")),
            deployed: deployed.collect(),
            serving: ready
                .filter(|replica| core.store.serves(&replica.model, &replica.content))
                .map(|replica| (replica.model.clone(), replica.content))
                .collect(),
            unplaced: no_room.count() + assignment.waiting.len() + assignment.stuck.len(),
            wakes: self.0.wakes.get(),
            datagrams: self.0.datagrams.get(),
            up,
        }
    }

    /// What it believes in more words, for a person.
    pub fn describe(&self) -> String {
        let core = self.0.core.borrow();
        let replicas = core.agent.handoff().replicas();
        let intents = core.agent.intents();
        format!(
            "{}: intents {intents:?}\n  replicas {replicas:?}\n  view {:?}\n  {:?}",
            core.id,
            core.agent.view().heads(),
            core.agent.assignment()
        )
    }
}

fn wall(world: &World, machine: &Machine) -> u64 {
    (EPOCH + world.now()).saturating_add_signed(machine.skew.get())
}
