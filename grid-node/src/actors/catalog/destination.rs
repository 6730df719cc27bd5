//! Where what the catalog finds goes to: this node, or its grid.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use actix::Addr;
use grid_core::catalog::Deployment;
use grid_core::memory::estimate;
use grid_core::model::ModelId;

use crate::actors::grid::{Deployed, Found, Instead, TakeBack};
use crate::actors::shard_supervisor::{Deploy, ShardSupervisor, Undeploy};
use crate::actors::{GridActor, ReplicaState, Routes};
use crate::loading::Plan;
use crate::store::FoundModel;
use crate::store::artifacts::ArtifactStore;

/// How long a load waits until the model is served by anybody.
const SERVED_WITHIN: Duration = Duration::from_secs(60);

/// How long it waits on after a node could not load it.
const SERVED_ELSEWHERE_WITHIN: Duration = Duration::from_secs(5);

/// What the catalog of a node has that is one of a grid: what it finds is deployed in the grid, which decides where it is
/// loaded.
#[derive(Clone)]
pub struct InGrid {
    /// The grid.
    pub actor: Addr<GridActor>,
    /// Names contents.
    pub store: Arc<ArtifactStore>,
    /// Tells when something is served.
    pub routes: Arc<Routes>,
}

/// Where what the catalog finds goes to.
#[derive(Clone)]
pub(super) enum Destination {
    /// This node hosts it.
    Here(Addr<ShardSupervisor>),
    /// The grid does.
    Grid(InGrid),
}

/// A version that was found.
#[derive(Clone)]
pub(super) struct FoundVersion {
    pub(super) plan: Arc<Plan>,
    pub(super) model: Arc<FoundModel>,
    /// Somebody asks for it; otherwise it is what the repository has always had, or has now.
    pub(super) asked_for: bool,
}

impl Destination {
    /// Has a version served. What was wrong, if anything was.
    pub(super) async fn serve(&self, found: FoundVersion) -> Option<String> {
        match self {
            Self::Here(supervisor) => match supervisor.send(Deploy::of(found.plan)).await {
                Ok(result) => result.err().map(|error| error.reason),
                Err(_) => Some("the node is stopping".to_owned()),
            },
            Self::Grid(grid) => grid.serve(found).await.err(),
        }
    }

    /// Has a version served no more, and listed no more if it is to be forgotten.
    pub(super) async fn end(&self, id: ModelId, forget: bool) {
        // Whoever is gone holds nothing any more.
        match self {
            Self::Here(supervisor) => drop(supervisor.send(Undeploy { id, forget }).await),
            Self::Grid(grid) => {
                let _ = grid.actor.send(TakeBack(id.clone())).await;
                let is_gone = |state: Option<&ReplicaState>| state != Some(&ReplicaState::Ready);
                grid.until(&id, SERVED_WITHIN, is_gone).await;
            }
        }
    }
}

impl InGrid {
    async fn serve(&self, found: FoundVersion) -> Result<(), String> {
        let FoundVersion { plan, model, asked_for } = found;
        let id = plan.id.clone();
        let store = Arc::clone(&self.store);
        let version = id.version;
        let described = tokio::task::spawn_blocking(move || store.describe(&model, version));
        let (listing, content) = described
            .await
            .map_err(|error| format!("{id}: {error}"))?
            .map_err(|error| format!("{id}: {error}"))?;
        let deployment = Deployment {
            content,
            size: listing.bytes(),
            memory: plan
                .manifest
                .limits
                .memory
                .unwrap_or_else(|| estimate(plan.artifact.bytes)),
            replicas: plan.manifest.replicas,
            weight: plan.manifest.weight,
        };
        let stopping = |_| "the node is stopping".to_owned();
        if asked_for {
            self.actor.send(Deployed { plan, deployment }).await.map_err(stopping)?;
        } else {
            let modified = plan.stamp.and_then(|stamp| stamp.duration_since(UNIX_EPOCH).ok());
            let found = Found {
                modified: modified.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
                plan,
                deployment,
            };
            match self.actor.send(found).await.map_err(stopping)? {
                None => {}
                Some(Instead::Content(content)) => {
                    return Err(format!(
                        "{id}: the grid serves another content of it ({content:?}) that is newer than this node's; a load \
                         call deploys this one"
                    ));
                }
                // Nobody will serve it, so there is nothing to wait for.
                Some(Instead::TakenBack) => {
                    return Err(format!(
                        "{id}: the grid unloaded it after its files were modified; a load call deploys it again"
                    ));
                }
            }
        }
        let is_ready = |state: Option<&ReplicaState>| state == Some(&ReplicaState::Ready);
        let has_failed = |state: Option<&ReplicaState>| matches!(state, Some(ReplicaState::Failed(_)));
        let ended = |state: Option<&ReplicaState>| is_ready(state) || has_failed(state);
        // What failed on one node is tried on another.
        if self.until(&id, SERVED_WITHIN, ended).await && self.until(&id, SERVED_ELSEWHERE_WITHIN, is_ready).await {
            return Ok(());
        }
        match self.routes.find(&id).map(|route| route.state.clone()) {
            Some(ReplicaState::Failed(reason)) => Err(reason),
            Some(state) => Err(format!("{id} is deployed and not served yet: {}", state.reason())),
            None => Err(format!("{id} is deployed and not served yet")),
        }
    }

    /// Waits until the state of a version is one that is waited for; whether it came to that in time.
    async fn until(&self, id: &ModelId, within: Duration, holds: impl Fn(Option<&ReplicaState>) -> bool) -> bool {
        let waits = async {
            let mut changes = self.routes.watch();
            loop {
                changes.mark_unchanged();
                let route = self.routes.find(id);
                if holds(route.as_ref().map(|route| &route.state)) {
                    return;
                }
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(within, waits).await.is_ok()
    }
}
