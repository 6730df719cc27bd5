//! A grid of nodes that answer from a script.

use std::net::SocketAddr;
use std::sync::Arc;

use grid_core::InferError;
use grid_core::cluster::{
    Addresses, Capacity, ClusterKey, Digest, HostedReplica, NodeId, NodeName, NodeSnapshot, NodeStage, ReplicaStage,
};
use grid_core::model::{Dim, ModelId, Signature, TensorSpec};
use grid_core::tensor::{Buffer, DataType, Tensor};
use grid_core::wire::call::{Call, Description, Infer, LoadReport, Reply, Times, Topology};
use grid_core::wire::handshake::Peer;
use grid_core::wire::{codec, message};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::ClientOptions;
use crate::link::{Incoming, Link, LinkOptions, Reply as Answering, accept_halves};

const KEY: [u8; 32] = [7; 32];

pub(crate) fn options() -> ClientOptions {
    ClientOptions::new("fake".parse().unwrap(), ClusterKey::from_bytes(KEY))
}

/// What all nodes say of the grid.
#[derive(Default)]
pub(crate) struct FakeGrid {
    nodes: Mutex<Vec<NodeSnapshot>>,
    pub(crate) manifest: Mutex<String>,
    /// So many descriptions are still of another content than the topology says.
    pub(crate) stale_descriptions: Mutex<usize>,
    /// Sees no other node.
    pub(crate) cut_off: Mutex<Option<NodeId>>,
}

pub(crate) fn model(version: u64) -> ModelId {
    ModelId {
        name: "forest".parse().unwrap(),
        version,
    }
}

fn spec(name: &str) -> TensorSpec {
    TensorSpec {
        name: name.to_owned(),
        data_type: DataType::Fp32,
        shape: Some(vec![Dim::Dynamic]),
    }
}

impl FakeGrid {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Says of a node that it hosts version 1 of the model `forest`.
    pub(crate) fn hosts(&self, node: &FakeNode, stage: ReplicaStage) {
        self.hosts_versions(node, &[(1, stage)]);
    }

    pub(crate) fn hosts_versions(&self, node: &FakeNode, versions: &[(u64, ReplicaStage)]) {
        let mut nodes = self.nodes.lock();
        let known = nodes.iter_mut().find(|known| known.node == node.id).unwrap();
        known.version += 1;
        let hosted = |(version, stage): &(u64, ReplicaStage)| HostedReplica {
            model: model(*version),
            content: Digest::of(&[*version as u8]),
            stage: stage.clone(),
            bytes: 0,
        };
        known.replicas = versions.iter().map(hosted).collect();
    }

    pub(crate) fn ready(&self, nodes: &[&FakeNode]) {
        nodes.iter().for_each(|node| self.hosts(node, ReplicaStage::Ready));
    }

    pub(crate) fn forget(&self, node: &FakeNode) {
        self.nodes.lock().retain(|known| known.node != node.id);
    }

    fn topology(&self, asked: &NodeId) -> Topology {
        let mut nodes = self.nodes.lock().clone();
        if self.cut_off.lock().as_ref() == Some(asked) {
            nodes.retain(|node| node.node == *asked);
        }
        let digest = Digest::of(&codec::encode(&nodes));
        Topology { digest, nodes }
    }

    fn description(&self, model: ModelId) -> Description {
        let mut stale = self.stale_descriptions.lock();
        let content = match *stale {
            0 => Digest::of(&[model.version as u8]),
            _ => Digest([9; 32]),
        };
        *stale = stale.saturating_sub(1);
        Description {
            interface: Digest::of(&codec::encode(&model)),
            model,
            signature: Signature {
                inputs: vec![spec("x")],
                outputs: vec![spec("y")],
            },
            manifest: self.manifest.lock().clone(),
            runtime: "fake".to_owned(),
            instances: 1,
            in_parts: true,
            content,
        }
    }
}

/// How a script answers an inference or a message of a sequence.
pub(crate) enum Said {
    /// With these replies, and the tensors of each.
    Replies(Vec<(Reply, Vec<Tensor>)>),
    /// In its own time.
    Kept(Box<dyn FnOnce(Answering) + Send>),
    /// It dies of it.
    Dies,
}

impl Said {
    /// Answers with this value as `y`.
    pub(crate) fn value(value: f32, load: LoadReport) -> Self {
        let outputs = vec![super::tensor(&[value])];
        let done = Reply::Done {
            outputs: message::lay_out(&outputs).0,
            times: Times::default(),
            load,
        };
        Self::Replies(vec![(done, outputs)])
    }

    pub(crate) fn only(reply: Reply) -> Self {
        Self::Replies(vec![(reply, Vec::new())])
    }

    pub(crate) fn failed(error: InferError) -> Self {
        Self::only(Reply::Failed {
            may_have_run: !error.can_retry(),
            error,
            load: LoadReport::default(),
        })
    }
}

/// A replica that takes so many microseconds a request.
pub(crate) fn load(service_us: u32) -> LoadReport {
    LoadReport {
        in_flight: 0,
        instances: 1,
        service_us,
    }
}

type Script = dyn Fn(Call) -> Said + Send + Sync;

pub(crate) struct FakeNode {
    pub(crate) id: NodeId,
    pub(crate) at: SocketAddr,
    links: Arc<Mutex<Option<Vec<Link>>>>,
    listening: JoinHandle<()>,
}

impl FakeNode {
    /// A node that answers inferences and sequences by its script. It is in the topology, and hosts nothing yet.
    pub(crate) async fn start(
        grid: &Arc<FakeGrid>,
        name: &str,
        script: impl Fn(Call) -> Said + Send + Sync + 'static,
    ) -> Self {
        Self::start_at(grid, name, 1, ([127, 0, 0, 1], 0).into(), script).await
    }

    /// The same for inferences alone.
    pub(crate) async fn inferring(
        grid: &Arc<FakeGrid>,
        name: &str,
        script: impl Fn(Infer) -> Said + Send + Sync + 'static,
    ) -> Self {
        let script = move |call| match call {
            Call::Infer(infer) => script(infer),
            other => panic!("{other:?}"),
        };
        Self::start(grid, name, script).await
    }

    pub(crate) async fn start_at(
        grid: &Arc<FakeGrid>,
        name: &str,
        generation: u64,
        at: SocketAddr,
        script: impl Fn(Call) -> Said + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let at = listener.local_addr().unwrap();
        let name: NodeName = name.parse().unwrap();
        let id = NodeId { name, generation };
        grid.nodes.lock().push(NodeSnapshot {
            node: id.clone(),
            version: 1,
            addresses: Addresses {
                mesh: at,
                http: None,
                grpc: None,
            },
            zone: String::new(),
            capacity: Capacity {
                memory: 0,
                compute: 100,
            },
            stage: NodeStage::Serving,
            replicas: Vec::new(),
            catalog: Digest([0; 32]),
            artifacts: Vec::new(),
            footprints: Vec::new(),
        });
        let links = Arc::new(Mutex::new(Some(Vec::new())));
        let (kept, grid, script) = (Arc::clone(&links), Arc::clone(grid), Arc::new(script) as Arc<Script>);
        let own = id.clone();
        let options = LinkOptions::new(
            "fake".parse().unwrap(),
            Peer::Node(id.clone()),
            ClusterKey::from_bytes(KEY).mesh(),
        );
        let listening = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (grid, script, links) = (Arc::clone(&grid), Arc::clone(&script), Arc::clone(&kept));
                let own = own.clone();
                let service = move |incoming: Incoming, reply: Answering| {
                    if answer(&grid, &own, &script, &incoming, reply).is_none() {
                        kill(&links);
                    }
                };
                let Ok((link, driver)) = accept_halves(stream.into_split(), &options, service).await else {
                    continue;
                };
                match &mut *kept.lock() {
                    Some(links) => links.push(link),
                    None => link.close(),
                }
                tokio::spawn(driver);
            }
        });
        Self {
            id,
            at,
            links,
            listening,
        }
    }

    /// Its links break, and it takes no others.
    pub(crate) async fn die(&mut self) {
        kill(&self.links);
        self.listening.abort();
        let _ = (&mut self.listening).await;
    }
}

fn kill(links: &Mutex<Option<Vec<Link>>>) {
    let links = links.lock().take();
    links.iter().flatten().for_each(Link::close);
}

/// Nothing, when the node is to die.
fn answer(
    grid: &FakeGrid,
    own: &NodeId,
    script: &Arc<Script>,
    incoming: &Incoming,
    mut reply: Answering,
) -> Option<()> {
    let replies = match codec::decode("call", &incoming.head).unwrap() {
        Call::Topology { known } => {
            let topology = grid.topology(own);
            let news = (known != Some(topology.digest)).then(|| Box::new(topology));
            vec![(Reply::Topology(news), Vec::new())]
        }
        Call::Describe(model) => vec![(Reply::Description(Box::new(grid.description(model))), Vec::new())],
        call => match script(call) {
            Said::Replies(replies) => replies,
            Said::Kept(keep) => {
                keep(reply);
                return Some(());
            }
            Said::Dies => return None,
        },
    };
    let last = replies.len();
    for (index, (head, tensors)) in replies.into_iter().enumerate() {
        let body: Vec<Buffer> = tensors.iter().map(|tensor| tensor.data().clone()).collect();
        // Whoever asked may be gone.
        let is_last = index + 1 == last && !matches!(head, Reply::Part { .. });
        let _ = reply.answer(&head, body, is_last);
    }
    Some(())
}
