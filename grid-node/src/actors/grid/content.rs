//! From a deployment to a replica: its content comes from this node's repository, its store, or other nodes.

use std::sync::Arc;
use std::time::Duration;

use actix::{ActorFutureExt, Addr, AsyncContext, Context, WrapFuture};
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use grid_core::artifact::{ChunkRequest, Fetch, FetchLimits, Listing, Step};
use grid_core::catalog::Deployment;
use grid_core::cluster::{Digest, NodeName};
use grid_core::config::NodeConfig;
use grid_core::model::ModelId;
use grid_core::wire::call::{Call, Reply};
use tracing::{info, warn};

use super::{GridActor, now};
use crate::actors::catalog::plans;
use crate::actors::shard_supervisor::{Deploy, ShardSupervisor};
use crate::loading::{NotLoaded, Plan};
use crate::mesh::Peers;
use crate::store::artifacts::{ArtifactStore, StoredContent};

/// How long another node may take to send a part of a file.
const CHUNK_WITHIN: Duration = Duration::from_secs(20);

/// What was loaded, and from where.
pub(super) struct Brought {
    bytes: u64,
    /// Its place in the store, which is not collected as long as this is there.
    stored: Option<StoredContent>,
}

/// What bringing a content into memory takes.
struct Bringing {
    model: ModelId,
    content: Digest,
    /// Bytes to reserve for it at least.
    memory: u64,
    /// Where the repository of this node holds it.
    here: Option<Arc<Plan>>,
    /// Nodes that say they have it.
    sources: Vec<NodeName>,
    config: Arc<NodeConfig>,
    store: Arc<ArtifactStore>,
    peers: Peers,
    supervisor: Addr<ShardSupervisor>,
}

impl GridActor {
    pub(super) fn load(&mut self, model: ModelId, deployment: &Deployment, memory: u64, ctx: &mut Context<Self>) {
        let content = deployment.content;
        let has = |node: &&grid_core::cluster::NodeSnapshot| node.artifacts.binary_search(&content).is_ok();
        let others = self.agent.view().up().filter(|node| node.name() != self.agent.name());
        let mut sources: Vec<NodeName> = others.filter(has).map(|node| node.name().clone()).collect();
        // Nodes that load the same at the same time ask different ones first.
        let turn = rand::random::<u32>() as usize;
        if !sources.is_empty() {
            let by = turn % sources.len();
            sources.rotate_left(by);
        }
        let bringing = Bringing {
            here: self.repository.get(&content).cloned(),
            sources,
            model: model.clone(),
            content,
            memory,
            config: Arc::clone(&self.config),
            store: Arc::clone(&self.store),
            peers: self.peers.clone(),
            supervisor: self.supervisor.clone(),
        };
        let loaded = bringing.bring().into_actor(self).map(move |loaded, this, ctx| {
            match loaded {
                Ok(Brought { bytes, stored }) => {
                    match stored {
                        Some(stored) => this.in_use.insert(model.clone(), stored),
                        None => this.in_use.remove(&model),
                    };
                    this.agent.replica_loaded(now(), &model, content, bytes);
                }
                Err(NotLoaded { reason, took }) => {
                    warn!(model = %model.name, version = model.version, reason, "not hosted here");
                    this.agent.replica_failed(now(), &model, content, reason, took);
                }
            }
            this.agent.artifacts(this.store.contents());
            this.routes_due = true;
            this.go_on(ctx);
        });
        ctx.spawn(loaded);
    }
}

impl Bringing {
    async fn bring(self) -> Result<Brought, NotLoaded> {
        let (plan, stored) = self.plan().await?;
        let memory = Some(self.memory);
        let deployed = self.supervisor.send(Deploy { plan, memory }).await;
        let bytes = deployed.unwrap_or_else(|_| Err("the node is stopping".to_owned().into()))?;
        Ok(Brought { bytes, stored })
    }

    async fn plan(&self) -> Result<(Arc<Plan>, Option<StoredContent>), String> {
        if let Some(plan) = &self.here {
            return Ok((Arc::clone(plan), None));
        }
        if self.store.get(self.content).is_none() {
            self.fetch().await?;
        }
        let (store, model, content) = (Arc::clone(&self.store), self.model.clone(), self.content);
        let config = Arc::clone(&self.config);
        blocking(move || {
            let stored = store
                .get(content)
                .ok_or("its content was removed from the store meanwhile")?;
            let found = stored
                .found_model(&model)
                .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
            let mut plans = plans(&found, &config);
            let plan = plans.pop().ok_or("its content holds no version")?;
            Ok((plan, Some(stored)))
        })
        .await
    }

    /// Gets the content from other nodes, and into the store.
    async fn fetch(&self) -> Result<(), String> {
        let listing = self.listing().await?;
        info!(model = %self.model.name, version = self.model.version, bytes = listing.bytes(), from = ?self.sources, "fetching");
        let store = Arc::clone(&self.store);
        let (mut partial, mut fetch) = {
            let (listing, sources) = (listing.clone(), self.sources.clone());
            blocking(move || {
                let partial = store.begin(listing.clone()).map_err(|error| error.to_string())?;
                let fetch = Fetch::new(&listing, partial.present(), sources, FetchLimits::default());
                Ok((partial, fetch))
            })
            .await?
        };
        let mut asked = FuturesUnordered::new();
        loop {
            let (step, back) = {
                let advanced = blocking(move || {
                    let step = partial.advance(&mut fetch);
                    Ok((step, (partial, fetch)))
                });
                advanced.await?
            };
            (partial, fetch) = back;
            match step {
                Step::Ask { source, chunk } => asked.push(self.chunk(source, chunk)),
                Step::Wait => match asked.next().await {
                    Some((source, chunk, Ok(bytes))) => fetch.received(&source, &chunk, bytes),
                    Some((source, _, Err(reason))) => fetch.source_failed(&source, reason),
                    None => return Err("the download waits for nothing".to_owned()),
                },
                Step::Done => {
                    let finished = blocking(move || partial.finish().map_err(|error| error.to_string()));
                    return finished.await.map(drop);
                }
                Step::Failed(error) => return Err(error.to_string()),
                Step::Write { .. } | Step::Verify { .. } => {}
            }
        }
    }

    async fn listing(&self) -> Result<Listing, String> {
        let mut reasons = Vec::new();
        for source in &self.sources {
            let call = Call::Listing(self.content);
            let reply = match self.peers.get(source) {
                Some(peer) => peer.call_in_bulk(&call, CHUNK_WITHIN).await,
                None => continue,
            };
            let reason = match reply {
                Ok((Reply::Listing(bytes), _)) => match Listing::decode(self.content, &bytes) {
                    Ok(listing) => return Ok(listing),
                    Err(error) => error.to_string(),
                },
                Ok((Reply::Refused(reason), _)) => reason,
                Ok(_) => "its reply is of another kind".to_owned(),
                Err(error) => error.to_string(),
            };
            reasons.push(format!("{source}: {reason}"));
        }
        match reasons.is_empty() {
            true => Err("no node that is up has its content".to_owned()),
            false => Err(format!("no node sends its content: {}", reasons.join("; "))),
        }
    }

    async fn chunk(&self, source: NodeName, chunk: ChunkRequest) -> (NodeName, ChunkRequest, Result<Bytes, String>) {
        let call = Call::Chunk(chunk);
        let reply = match self.peers.get(&source) {
            Some(peer) => peer.call_in_bulk(&call, CHUNK_WITHIN).await,
            None => return (source, chunk, Err("it is gone".to_owned())),
        };
        let bytes = match reply {
            Ok((Reply::Chunk, body)) => Ok(Bytes::copy_from_slice(body.as_slice())),
            Ok((Reply::Refused(reason), _)) => Err(reason),
            Ok(_) => Err("its reply is of another kind".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        (source, chunk, bytes)
    }
}

/// Work that waits for the disk, on a thread that may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(format!("it ended early: {error}")))
}
