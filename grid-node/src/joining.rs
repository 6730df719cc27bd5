//! A node's place in a grid, from its config to the running actor.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Actor, Addr};
use arc_swap::ArcSwap;
use grid_client::link::{Limits, LinkOptions};
use grid_core::cluster::{Addresses, Capacity, ClusterKey, Digest, NodeId};
use grid_core::config::{GridSettings, NodeConfig};
use grid_core::wire::call::Topology;
use grid_core::wire::handshake::Peer;
use tokio::sync::{mpsc, watch};

use crate::actors::grid::{GridOptions, HowFarJoined, now};
use crate::actors::{
    Company, GridActor, Kept, Leave, RouterHandle, RouterOptions, Sessions, ShardSupervisor, SupervisorOptions,
};
use crate::bodies::Bodies;
use crate::loading::{available_cores, compute_threads};
use crate::mesh::{Answerer, GridCalls, Mesh, MeshOptions, Peers, PeersOptions};
use crate::node::StartError;
use crate::standing::Standing;
use crate::store::artifacts::{ArtifactOptions, ArtifactStore};

/// Most threads of the mesh: a link does little but move bytes, and runs what is quick.
const MOST_THREADS: usize = 4;

/// How long a node that starts waits at most for news of its grid: a few times what it takes.
const CATCH_UP: Duration = Duration::from_secs(10);

/// How often it looks whether it has them.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What is needed to join, bound and opened.
pub(crate) struct Ready {
    pub(crate) address: SocketAddr,
    listener: TcpListener,
    socket: UdpSocket,
    key: ClusterKey,
    kept: Kept,
    store: Arc<ArtifactStore>,
}

impl Ready {
    /// Binds and opens what the config says; `None` for a node that is alone.
    pub(crate) fn of_config(config: &NodeConfig) -> Result<Option<Self>, StartError> {
        let Some(listen) = config.grid.listen else {
            return Ok(None);
        };
        let key = read_key(&config.grid)?;
        let bind = |source| StartError::Bind {
            key: "grid.listen",
            address: listen,
            source,
        };
        let listener = TcpListener::bind(listen).map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        // The same port for both, also when the system chose it.
        let socket = UdpSocket::bind(address).map_err(bind)?;
        socket.set_nonblocking(true).map_err(bind)?;
        let in_data_dir = |reason: String| StartError::Grid {
            key: "node.data_dir",
            reason,
        };
        let kept = Kept::open(&config.node.data_dir, now().wall).map_err(|error| in_data_dir(error.to_string()))?;
        let store = ArtifactStore::open(&config.node.data_dir, ArtifactOptions::default());
        let store = store.map_err(|error| in_data_dir(error.to_string()))?;
        Ok(Some(Self {
            address,
            listener,
            socket,
            key,
            kept,
            store: Arc::new(store),
        }))
    }

    /// Where contents are kept.
    pub(crate) fn store(&self) -> Arc<ArtifactStore> {
        Arc::clone(&self.store)
    }
}

fn read_key(settings: &GridSettings) -> Result<ClusterKey, StartError> {
    let wrong = |key, reason| StartError::Grid { key, reason };
    if let Some(key) = &settings.key {
        return key
            .expose()
            .trim()
            .parse()
            .map_err(|error| wrong("grid.key", format!("{error}")));
    }
    let Some(path) = &settings.key_file else {
        return Err(wrong(
            "grid.key_file",
            "expected a file with the cluster key".to_owned(),
        ));
    };
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| wrong("grid.key_file", format!("{}: {error}", path.display())))?;
    text.trim()
        .parse()
        .map_err(|error| wrong("grid.key_file", format!("{}: {error}", path.display())))
}

/// What a node brings into its grid.
pub(crate) struct Bringing<'a> {
    pub(crate) options: &'a SupervisorOptions,
    pub(crate) router: RouterOptions,
    pub(crate) supervisor: Addr<ShardSupervisor>,
    pub(crate) standing: Arc<Standing>,
    pub(crate) http: SocketAddr,
    pub(crate) grpc: Option<SocketAddr>,
    pub(crate) sessions: Arc<Sessions>,
}

/// A node's place in its grid, while it runs.
pub(crate) struct Joined {
    pub(crate) actor: Addr<GridActor>,
    mesh: Mesh,
    sessions: Arc<Sessions>,
}

impl Joined {
    pub(crate) fn join(ready: Ready, bringing: Bringing<'_>) -> Result<Self, StartError> {
        let config = &bringing.options.config;
        let settings = &config.grid;
        // Behind port 0 the system chose one.
        let mesh_address = match settings.advertise {
            Some(address) => address,
            None => ready.address,
        };
        // What listens everywhere is reached where the mesh is.
        let reached = |address: SocketAddr| match address.ip().is_unspecified() {
            true => SocketAddr::new(mesh_address.ip(), address.port()),
            false => address,
        };
        let addresses = Addresses {
            mesh: mesh_address,
            http: Some(reached(bringing.http)),
            grpc: bringing.grpc.map(reached),
        };
        let id = NodeId {
            name: config.node.name.clone(),
            generation: ready.kept.generation(),
        };
        let node = Arc::new(ArcSwap::from_pointee(id.clone()));
        let link = LinkOptions::new(settings.name.clone(), Peer::Node(id), ready.key.mesh());
        let link = Arc::new(ArcSwap::from_pointee(link));
        let mesh = Mesh::threads(available_cores().min(MOST_THREADS));
        let (changes, link_changes) = mpsc::unbounded_channel();
        let peers = Peers::new(PeersOptions {
            link: Arc::clone(&link),
            limits: Limits::of_requests(),
            arbiters: mesh.arbiters(),
            changes,
        });
        let topology = Arc::new(ArcSwap::from_pointee(Topology {
            digest: Digest([0; 32]),
            nodes: Vec::new(),
        }));
        let store = ready.store();
        let (members, mut known) = watch::channel(Arc::default());
        let sessions = bringing.sessions;
        sessions.join(Company {
            peers: peers.clone(),
            node: NodeId::clone(&node.load()),
            members: known.clone(),
        });
        let actor = GridActor::new(GridOptions {
            config: Arc::clone(config),
            key: ready.key,
            addresses,
            capacity: Capacity {
                memory: bringing.options.budget.usage().0,
                compute: compute_weight(config),
            },
            kept: ready.kept,
            supervisor: bringing.supervisor,
            routes: Arc::clone(&bringing.options.routes),
            store: Arc::clone(&store),
            peers,
            link_changes,
            link: Arc::clone(&link),
            socket: ready.socket,
            topology: Arc::clone(&topology),
            node: Arc::clone(&node),
            members,
        })
        .start();
        let lookers = Arc::clone(&sessions);
        actix::spawn(async move {
            while known.changed().await.is_ok() {
                lookers.look_around();
            }
        });
        let calls = Arc::new(GridCalls {
            node,
            actor: actor.clone(),
            store,
            topology,
            sessions: Arc::clone(&sessions),
            bodies: Bodies::of_mesh(usize::try_from(config.http.max_body).unwrap_or(usize::MAX)),
        });
        let (router, standing) = (bringing.router, bringing.standing);
        let answerer = move || Answerer {
            router: RouterHandle::start(router.clone()),
            calls: Arc::clone(&calls),
            standing: Arc::clone(&standing),
        };
        let listener = ready.listener;
        mesh.serve(MeshOptions { listener, link }, answerer)
            .map_err(|source| StartError::System {
                what: "the mesh",
                source,
            })?;
        Ok(Self { actor, mesh, sessions })
    }

    /// Moves what this node hosts to others, for at most so long.
    pub(crate) async fn leave(&self, within: Duration) {
        let left = self.actor.send(Leave { now: false });
        if tokio::time::timeout(within, left).await.is_err() {
            tracing::warn!(?within, "not all that this node hosts could be moved to others in time");
        }
    }

    /// Stops the sequences that live here, so that other nodes can go on with them, for at most so long.
    pub(crate) async fn leave_sequences(&self, within: Duration) {
        if tokio::time::timeout(within, self.sessions.leave()).await.is_err() {
            tracing::warn!(?within, "not all sequences came to a step boundary in time");
        }
    }

    /// Says farewell: nobody sends anything here any more.
    pub(crate) async fn farewell(&self) {
        let _ = self.actor.send(Leave { now: true }).await;
        self.mesh.go_away();
    }
}

/// Waits until this node knows what its grid serves, but no longer than a grid should keep a node from serving. A node that
/// has nothing to serve, and whose seeds are not there yet, is of no use to anybody: it waits on.
pub(crate) async fn caught_up(grid: &Addr<GridActor>) {
    let begun = Instant::now();
    let mut is_told = false;
    while let Ok(progress) = grid.send(HowFarJoined).await {
        let is_late = begun.elapsed() >= CATCH_UP;
        if !progress.has_nothing && (progress.is_caught_up || is_late) {
            if !progress.is_caught_up {
                tracing::warn!(within = ?CATCH_UP, "not all that the grid serves can be reached; this node serves what it can");
            }
            return;
        }
        if is_late && !std::mem::replace(&mut is_told, true) {
            tracing::warn!(
                "no seed answers, and there is nothing to serve here; this node is not ready until either changes"
            );
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The node's speed, as placement weighs it.
pub(crate) fn compute_weight(config: &NodeConfig) -> u32 {
    let of_threads = || u32::try_from(compute_threads(config).saturating_mul(100)).unwrap_or(u32::MAX);
    config.grid.compute.unwrap_or_else(of_threads)
}
