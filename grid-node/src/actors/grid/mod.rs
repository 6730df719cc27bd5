//! The actor that takes this node's part in its grid: membership and the agent, with sockets, clocks and loads around
//! them.
//!
//! It decides nothing: datagrams, answers, the ends of loads and the time go in, effects come out and are carried out.

mod content;
mod effects;
mod elsewhere;
mod gossip;
mod kept;
mod messages;
mod status;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use actix::{Actor, ActorFutureExt, Addr, AsyncContext, Context, SpawnHandle, WrapFuture};
use arc_swap::ArcSwap;
use grid_client::link::LinkOptions;
use grid_core::agent::{Agent, AgentOptions};
use grid_core::cluster::{Addresses, Capacity, ClusterKey, Digest, Member, NodeId, Now};
use grid_core::config::NodeConfig;
use grid_core::membership::{Membership, MembershipOptions, Swim};
use grid_core::model::ModelId;
use grid_core::wire::call::Topology;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::actors::routes::Routes;
use crate::actors::shard_supervisor::ShardSupervisor;
use crate::loading::Plan;
use crate::mesh::{Peers, since_start};
use crate::store::artifacts::{ArtifactStore, StoredContent};

pub use kept::{Kept, KeptError};
pub(crate) use messages::{Asked, Deployed, Found, HowFarJoined, Instead, TakeBack};
pub use messages::{Leave, SetCapacity, Status};
pub use status::{GridStatus, Move, NodeStatus, ReplicaStatus, ShardStatus, TroubleStatus};

use elsewhere::Elsewheres;
use status::Troubles;

/// How often the store is looked through, and how long something lies in it unused.
const COLLECT: Duration = Duration::from_secs(600);
const UNUSED: Duration = Duration::from_secs(3600);

/// What the grid actor is made with.
pub(crate) struct GridOptions {
    pub(crate) config: Arc<NodeConfig>,
    pub(crate) key: ClusterKey,
    pub(crate) addresses: Addresses,
    pub(crate) capacity: Capacity,
    pub(crate) kept: Kept,
    pub(crate) supervisor: Addr<ShardSupervisor>,
    pub(crate) routes: Arc<Routes>,
    pub(crate) store: Arc<ArtifactStore>,
    pub(crate) peers: Peers,
    /// Links come up and are lost.
    pub(crate) link_changes: mpsc::UnboundedReceiver<grid_core::cluster::NodeName>,
    /// What links are made with: follows this node's generation.
    pub(crate) link: Arc<ArcSwap<LinkOptions>>,
    pub(crate) socket: std::net::UdpSocket,
    /// What clients are told.
    pub(crate) topology: Arc<ArcSwap<Topology>>,
    /// This node in its present life.
    pub(crate) node: Arc<ArcSwap<NodeId>>,
    /// The nodes of the grid, for sequences.
    pub(crate) members: watch::Sender<Arc<Vec<Member>>>,
}

/// The grid actor. See the module's documentation.
pub struct GridActor {
    config: Arc<NodeConfig>,
    agent: Agent,
    membership: Swim,
    kept: Kept,
    supervisor: Addr<ShardSupervisor>,
    routes: Arc<Routes>,
    store: Arc<ArtifactStore>,
    peers: Peers,
    link: Arc<ArcSwap<LinkOptions>>,
    socket: Option<Arc<UdpSocket>>,
    unbound: Option<std::net::UdpSocket>,
    link_changes: Option<mpsc::UnboundedReceiver<grid_core::cluster::NodeName>>,
    topology: Arc<ArcSwap<Topology>>,
    node: Arc<ArcSwap<NodeId>>,
    members: watch::Sender<Arc<Vec<Member>>>,
    /// Contents that this node's repositories hold, as what is loaded from them.
    repository: HashMap<Digest, Arc<Plan>>,
    /// Contents of the store that models were loaded from.
    in_use: HashMap<ModelId, StoredContent>,
    elsewhere: Elsewheres,
    /// Who waits for this node to have left.
    leaving: Vec<tokio::sync::oneshot::Sender<()>>,
    troubles: Troubles,
    /// Seeds whose mesh answers while their gossip does not.
    probed: Option<Duration>,
    joined: Option<Duration>,
    wake: Option<(Duration, SpawnHandle)>,
    routes_due: bool,
    keep_due: bool,
    /// Replicas that were reported as quarantined.
    quarantined: BTreeMap<ModelId, bool>,
}

/// Both clocks of this node.
pub(crate) fn now() -> Now {
    let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Now {
        monotonic: since_start(),
        // Before 1970 no clock is right.
        wall: wall.map_or(0, |wall| u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)),
    }
}

impl GridActor {
    pub(crate) fn new(options: GridOptions) -> Self {
        let now = now();
        let node = NodeId::clone(&options.node.load());
        let settings = &options.config.grid;
        let membership = Swim::new(&MembershipOptions {
            grid: settings.name.clone(),
            node: node.clone(),
            mesh: options.addresses.mesh,
            key: options.key,
            entropy: rand::random(),
            self_doubt: true,
        });
        let agent = Agent::new(
            AgentOptions {
                node,
                addresses: options.addresses,
                zone: settings.zone.clone(),
                capacity: options.capacity,
                grace: settings.grace,
                has_seeds: !settings.seeds.is_empty(),
            },
            options.kept.catalog(),
            now,
        );
        Self {
            config: options.config,
            agent,
            membership,
            kept: options.kept,
            supervisor: options.supervisor,
            routes: options.routes,
            store: options.store,
            peers: options.peers,
            link: options.link,
            socket: None,
            unbound: Some(options.socket),
            link_changes: Some(options.link_changes),
            topology: options.topology,
            node: options.node,
            members: options.members,
            repository: HashMap::new(),
            in_use: HashMap::new(),
            elsewhere: Elsewheres::default(),
            leaving: Vec::new(),
            troubles: Troubles::default(),
            probed: None,
            joined: None,
            wake: None,
            routes_due: true,
            keep_due: false,
            quarantined: BTreeMap::new(),
        }
    }

    /// Where nodes look for this one first.
    fn seeds(&self) -> Vec<String> {
        self.config.grid.seeds.clone()
    }

    /// Carries out what follows from what has just happened, and sets the alarm for what is due next.
    fn go_on(&mut self, ctx: &mut Context<Self>) {
        self.carry_out(ctx);
        let now = since_start();
        let due = self
            .membership
            .next_wake()
            .into_iter()
            .chain([self.agent.next_wake(), self.next_join()])
            .min()
            .unwrap_or(now)
            // One that is due already is due in a moment: the others' messages come between.
            .max(now + Duration::from_millis(1));
        if self.wake.is_some_and(|(at, _)| at == due) {
            return;
        }
        if let Some((_, handle)) = self.wake.take() {
            ctx.cancel_future(handle);
        }
        let handle = ctx.run_later(due - now, Self::woken);
        self.wake = Some((due, handle));
    }

    fn woken(&mut self, ctx: &mut Context<Self>) {
        self.wake = None;
        // After a freeze the answers to what this node asked lie in the socket: they count before the time does.
        self.take_datagrams();
        self.membership.tick(now());
        self.agent.tick(now(), rand::random());
        self.join_if_due(ctx);
        self.report_quarantine();
        self.go_on(ctx);
    }

    /// Frees what lies in the store for nothing. What is deployed stays: others may want it from here.
    fn collect(&mut self, ctx: &mut Context<Self>) {
        let keep: HashSet<Digest> = self
            .agent
            .catalog()
            .deployments()
            .map(|(_, deployed)| deployed.content)
            .collect();
        let store = Arc::clone(&self.store);
        let unused_since = SystemTime::now() - UNUSED;
        let collected = tokio::task::spawn_blocking(move || store.collect(&keep, unused_since));
        let collected = collected.into_actor(self).map(|collected, this, ctx| {
            match collected {
                Ok(Ok(collected)) if !collected.contents.is_empty() || !collected.partials.is_empty() => {
                    info!(contents = ?collected.contents, partials = ?collected.partials, "removed from the store");
                }
                Ok(Err(error)) => warn!(%error, "the store is not collected"),
                _ => {}
            }
            this.agent.artifacts(this.store.contents());
            this.go_on(ctx);
        });
        ctx.spawn(collected);
    }

    fn report_quarantine(&mut self) {
        let replicas: Vec<ModelId> = self.agent.handoff().replicas().keys().cloned().collect();
        for model in replicas {
            let state = self.routes.here(&model).map(|route| route.state.clone());
            let quarantined = state == Some(crate::actors::routes::ReplicaState::Quarantined);
            if self.quarantined.insert(model.clone(), quarantined).unwrap_or(false) != quarantined {
                self.agent.replica_quarantined(now(), &model, quarantined);
            }
        }
        let replicas = self.agent.handoff().replicas();
        self.quarantined.retain(|model, _| replicas.contains_key(model));
    }
}

impl Actor for GridActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(1 << 16);
        if let Some(socket) = self.unbound.take() {
            match UdpSocket::from_std(socket) {
                Ok(socket) => self.listen(Arc::new(socket), ctx),
                Err(error) => warn!(%error, "the gossip does not listen"),
            }
        }
        if let Some(changes) = self.link_changes.take() {
            self.watch_links(changes, ctx);
        }
        self.agent.artifacts(self.store.contents());
        ctx.run_interval(COLLECT, Self::collect);
        self.woken(ctx);
    }
}

/// The address of one socket as its own kind.
pub(crate) fn mapped(address: SocketAddr) -> SocketAddr {
    // A socket of all protocols shows IPv4 peers in IPv6's way.
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
