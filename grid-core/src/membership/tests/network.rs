//! A network of nodes in virtual time: one queue of events, all randomness from one seed. Shared by the tests here and
//! by `examples/gossip_at_scale.rs`; what both need of the crate comes from `super::api`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::api::{ClusterKey, Membership, MembershipEffect, MembershipOptions, NodeId, Now, Peer, Swim};

const SECOND: Duration = Duration::from_secs(1);

/// Wall clock at the start.
const EPOCH: u64 = 1_700_000_000_000;

enum Event {
    Deliver {
        to: usize,
        from: SocketAddr,
        bytes: Vec<u8>,
    },
    Wake(usize),
    Join(usize),
    Thaw(usize),
}

pub(crate) struct SimNode {
    /// `None`: crashed.
    pub(crate) swim: Option<Swim>,
    pub(crate) peer: Peer,
    /// Who it believes to be up.
    pub(crate) view: BTreeMap<String, Peer>,
    /// All that it said but for what it sent.
    pub(crate) log: Vec<(Duration, MembershipEffect)>,
    pub(crate) seeds: Vec<SocketAddr>,
    /// Its wall clock less the right time, in milliseconds.
    pub(crate) clock_off: i64,
    pub(crate) bytes_sent: u64,
    /// Nodes that have the same number hear each other.
    pub(crate) part: u32,
    frozen: bool,
    inbox: Vec<(SocketAddr, Vec<u8>)>,
    wake_at: Option<Duration>,
}

pub(crate) struct Network {
    pub(crate) now: Duration,
    pub(crate) nodes: Vec<SimNode>,
    pub(crate) rng: SmallRng,
    /// Share of datagrams that get lost.
    pub(crate) loss: f64,
    pub(crate) self_doubt: bool,
    events: BTreeMap<(Duration, u64), Event>,
    count: u64,
}

pub(crate) fn address(index: usize) -> SocketAddr {
    let [.., a, b] = index.to_be_bytes();
    SocketAddr::from(([10, 0, a, b], 7000))
}

impl Network {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            now: Duration::ZERO,
            nodes: vec![],
            rng: SmallRng::seed_from_u64(seed),
            loss: 0.0,
            self_doubt: true,
            events: BTreeMap::new(),
            count: 0,
        }
    }

    /// A grid of nodes that all know each other.
    pub(crate) fn grid(seed: u64, nodes: usize, self_doubt: bool) -> Self {
        let mut network = Self::new(seed);
        network.self_doubt = self_doubt;
        for index in 0..nodes {
            network.start(index, |_| {});
            // As a real grid starts: not all in the same moment.
            network.run(SECOND / 50);
        }
        let joined = network.run_until(SECOND * 120, |network| network.all_know_all());
        assert!(joined, "{nodes} nodes have not all joined within two minutes");
        network.run(SECOND * 30);
        network
    }

    /// A grid of nodes that have long been together: each knows all others from its first moment. Nobody joins, so nothing
    /// of what joining costs is in it.
    pub(crate) fn long_together(seed: u64, nodes: usize, self_doubt: bool) -> Self {
        let mut network = Self::new(seed);
        network.self_doubt = self_doubt;
        for index in 0..nodes {
            network.add(index, |_| {});
        }
        let peers: Vec<Peer> = network.nodes.iter().map(|node| node.peer.clone()).collect();
        for index in 0..nodes {
            // Spread over a second, as their probes are.
            network.run(SECOND / u32::try_from(nodes).expect("few nodes"));
            network.with(index, |swim, now| swim.acquaint(now, peers.iter().cloned()));
            network.at(network.now, Event::Join(index));
        }
        network.run(SECOND * 30);
        assert!(network.all_know_all(), "somebody was forgotten");
        network
    }

    /// Starts a node that knows the first one's address.
    pub(crate) fn start(&mut self, index: usize, change: impl FnOnce(&mut MembershipOptions)) {
        self.add(index, change);
        self.at(self.now, Event::Join(index));
    }

    /// A node that runs and asks nobody to join it.
    fn add(&mut self, index: usize, change: impl FnOnce(&mut MembershipOptions)) {
        let mut options = MembershipOptions {
            grid: "simulated".parse().expect("a name"),
            node: NodeId {
                name: format!("node-{index:04}").parse().expect("a name"),
                generation: EPOCH + u64::try_from(self.now.as_millis()).expect("a short time"),
            },
            mesh: address(index),
            key: ClusterKey::from_bytes([7; 32]),
            entropy: std::array::from_fn(|_| self.rng.random()),
            self_doubt: self.self_doubt,
        };
        change(&mut options);
        let node = SimNode {
            swim: Some(Swim::new(&options)),
            peer: Peer {
                id: options.node.clone(),
                mesh: options.mesh,
            },
            view: BTreeMap::new(),
            log: vec![],
            seeds: vec![address(0)],
            clock_off: 0,
            bytes_sent: 0,
            part: 0,
            frozen: false,
            inbox: vec![],
            wake_at: None,
        };
        match index == self.nodes.len() {
            true => self.nodes.push(node),
            false => self.nodes[index] = node,
        }
    }

    pub(crate) fn crash(&mut self, index: usize) {
        self.nodes[index].swim = None;
    }

    /// Stops a node's process for a time. What is sent to it waits.
    pub(crate) fn freeze(&mut self, index: usize, time: Duration) {
        if !self.nodes[index].frozen {
            self.nodes[index].frozen = true;
            self.at(self.now + time, Event::Thaw(index));
        }
    }

    /// Calls a node.
    pub(crate) fn with(&mut self, index: usize, call: impl FnOnce(&mut Swim, Now)) {
        let now = self.now;
        let node = &mut self.nodes[index];
        let Some(swim) = &mut node.swim else { return };
        let wall = EPOCH + u64::try_from(now.as_millis()).expect("a short time");
        let wall = wall.saturating_add_signed(node.clock_off);
        call(swim, Now { monotonic: now, wall });
        let mut sent = vec![];
        while let Some(effect) = swim.poll() {
            match effect {
                MembershipEffect::Send { to, bytes } => {
                    node.bytes_sent += u64::try_from(bytes.len()).expect("a datagram");
                    sent.push((to, bytes));
                    continue;
                }
                MembershipEffect::Up(ref peer) => {
                    node.view.insert(peer.id.name.to_string(), peer.clone());
                }
                MembershipEffect::Down { node: ref gone, .. } => {
                    node.view.remove(gone.name.as_str());
                }
                MembershipEffect::Renewed(ref id) => node.peer.id = id.clone(),
                _ => {}
            }
            node.log.push((now, effect));
        }
        let (from, part) = (node.peer.mesh, node.part);
        if let Some(at) = swim.next_wake()
            && node.wake_at.is_none_or(|known| at < known || known <= now)
        {
            node.wake_at = Some(at);
            self.at(at.max(now), Event::Wake(index));
        }
        for (to, bytes) in sent {
            self.transmit(part, from, to, bytes);
        }
    }

    fn transmit(&mut self, part: u32, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        // Addresses are those of `address`, but for nodes that a test has placed elsewhere.
        let SocketAddr::V4(v4) = to else { return };
        let [_, _, a, b] = v4.ip().octets();
        let place = usize::from(u16::from_be_bytes([a, b]));
        let heard = |node: &SimNode| node.peer.mesh == to && node.part == part;
        if self.nodes.get(place).is_some_and(heard) && !self.rng.random_bool(self.loss) {
            let delay = Duration::from_micros(self.rng.random_range(200..2_000));
            self.at(self.now + delay, Event::Deliver { to: place, from, bytes });
        }
    }

    fn at(&mut self, at: Duration, event: Event) {
        self.events.insert((at, self.count), event);
        self.count += 1;
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Deliver { to, from, bytes } if self.nodes[to].frozen => self.nodes[to].inbox.push((from, bytes)),
            Event::Deliver { to, from, bytes } => self.with(to, |swim, now| swim.datagram(now, from, &bytes)),
            Event::Wake(index) => {
                if self.nodes[index].wake_at.is_some_and(|at| at <= self.now) && !self.nodes[index].frozen {
                    self.nodes[index].wake_at = None;
                    self.with(index, |swim, now| swim.tick(now));
                }
            }
            Event::Thaw(index) => {
                self.nodes[index].frozen = false;
                self.nodes[index].wake_at = None;
                // The worst order: the timers first, and then what waits in the socket.
                self.with(index, |swim, now| swim.tick(now));
                for (from, bytes) in std::mem::take(&mut self.nodes[index].inbox) {
                    self.with(index, |swim, now| swim.datagram(now, from, &bytes));
                }
            }
            Event::Join(index) => {
                let node = &self.nodes[index];
                if !node.frozen {
                    let seeds = node.seeds.clone();
                    self.with(index, |swim, now| swim.join(now, &seeds));
                }
                // As the gossip actor does.
                let again = if self.nodes[index].view.is_empty() { 1 } else { 30 };
                if self.nodes[index].swim.is_some() {
                    self.at(self.now + SECOND * again, Event::Join(index));
                }
            }
        }
    }

    /// Lets time pass until something holds. Whether it did within `limit`.
    pub(crate) fn run_until(&mut self, limit: Duration, mut holds: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + limit;
        // What is asked may be costly: it is asked at most a hundred times a second.
        let mut ask_at = self.now;
        loop {
            if self.now >= ask_at {
                ask_at = self.now + SECOND / 100;
                if holds(self) {
                    return true;
                }
            }
            match self.events.first_entry() {
                Some(first) if first.key().0 <= end => {
                    self.now = first.key().0;
                    let event = first.remove();
                    self.handle(event);
                }
                _ => {
                    self.now = end;
                    return holds(self);
                }
            }
        }
    }

    pub(crate) fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    pub(crate) fn living(&self) -> impl Iterator<Item = &SimNode> {
        self.nodes.iter().filter(|node| node.swim.is_some())
    }

    /// Each living node knows exactly the present lives of all others.
    pub(crate) fn all_know_all(&self) -> bool {
        let count = self.living().count();
        self.living().all(|node| {
            let knows = |other: &SimNode| node.view.get(other.peer.id.name.as_str()) == Some(&other.peer);
            let others = self.living().filter(|other| other.peer.id.name != node.peer.id.name);
            // The count first: it is cheap.
            node.view.len() + 1 == count && others.into_iter().all(knows)
        })
    }

    /// No living node has this one in its view.
    pub(crate) fn all_miss(&self, index: usize) -> bool {
        let gone = &self.nodes[index].peer;
        self.living()
            .all(|node| node.view.get(gone.id.name.as_str()) != Some(gone))
    }

    /// Lives that a node declared down or heard to be so since `since`.
    pub(crate) fn declared_down(&self, since: Duration) -> BTreeSet<NodeId> {
        let said = self.nodes.iter().flat_map(|node| &node.log);
        let downs = said.filter_map(|(at, effect)| match effect {
            MembershipEffect::Down { node, .. } if *at >= since => Some(node.clone()),
            _ => None,
        });
        downs.collect()
    }
}

/// Lives declared down in a grid in which nobody dies, but a process is paused now and then: each node about once in
/// `every`, for half a second up to `longest`.
pub(crate) fn false_downs(
    seed: u64,
    nodes: usize,
    self_doubt: bool,
    every: Duration,
    longest: Duration,
    time: Duration,
) -> usize {
    let mut network = Network::grid(seed, nodes, self_doubt);
    // The pauses are the same with and without self-doubt.
    let mut rng = SmallRng::seed_from_u64(seed);
    let since = network.now;
    let end = since + time;
    while network.now < end {
        let share = rng.random_range(0.0..2.0) / f64::from(u32::try_from(nodes).expect("few nodes"));
        network.run(every.mul_f64(share));
        let pause = rng.random_range(SECOND / 2..longest);
        network.freeze(rng.random_range(0..nodes), pause);
    }
    network.declared_down(since).len()
}
