//! The catalog of one node: what its repositories hold, and which of it is wanted in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use actix::{Actor, ActorFutureExt, Addr, Context, Handler, Message, ResponseActFuture, WrapFuture};
use grid_core::config::{LoadPolicy, NodeConfig, nearest};
use grid_core::model::{ModelId, ModelName};
use tracing::{info, warn};

use super::shard_supervisor::{Announce, Deploy, ShardSupervisor, Undeploy};
use crate::loading::{Loader, Plan, compute_threads};
use crate::store::{self, FoundModel, Scan};

/// The catalog actor.
pub struct Catalog {
    config: Arc<NodeConfig>,
    loader: Loader,
    supervisor: Addr<ShardSupervisor>,
    /// What the supervisor was told to load, by model.
    wanted: BTreeMap<ModelName, BTreeSet<u64>>,
    /// Everything that was announced.
    known: BTreeSet<ModelId>,
    /// Unloaded by hand: a rescan does not load it again.
    unwanted: BTreeSet<ModelName>,
}

/// A model that could not be loaded or unloaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// No repository holds it.
    #[error("{0}")]
    Unknown(String),
    /// It is there, and something is wrong with it.
    #[error("{0}")]
    Failed(String),
}

impl Catalog {
    /// A catalog of the configured repositories, to be started.
    pub fn new(config: Arc<NodeConfig>, loader: Loader, supervisor: Addr<ShardSupervisor>) -> Self {
        Self {
            config,
            loader,
            supervisor,
            wanted: BTreeMap::new(),
            known: BTreeSet::new(),
            unwanted: BTreeSet::new(),
        }
    }

    fn scan(&self) -> impl Future<Output = Result<Scan, CatalogError>> + use<> {
        let (loader, config) = (self.loader.clone(), Arc::clone(&self.config));
        async move {
            loader
                .run(move || store::scan(&config.models.repositories))
                .await
                .map_err(|gone| CatalogError::Failed(gone.to_string()))
        }
    }

    fn all_plans(&self, scan: &Scan) -> Vec<Arc<Plan>> {
        let models = scan.models.values();
        models.flat_map(|model| plans(model, &self.config)).collect()
    }

    fn is_wanted(&self, name: &ModelName) -> bool {
        if self.unwanted.contains(name) {
            return false;
        }
        self.wanted.contains_key(name)
            || match &self.config.models.load {
                LoadPolicy::All => true,
                LoadPolicy::None => false,
                LoadPolicy::Only(names) => names.contains(name),
            }
    }

    /// Announces what was found, and returns the loads and unloads that bring the node to it.
    fn reconcile(&mut self, scan: &Scan) -> Vec<Order> {
        let found: BTreeSet<ModelId> = scan.models.values().flat_map(ids).collect();
        let mut orders: Vec<Order> = self
            .known
            .difference(&found)
            .map(|id| Order::Unload {
                id: id.clone(),
                forget: true,
            })
            .collect();
        self.supervisor.do_send(Announce(self.all_plans(scan)));
        self.wanted.retain(|name, _| scan.models.contains_key(name));
        for (name, model) in &scan.models {
            if self.is_wanted(name) {
                orders.extend(plans(model, &self.config).into_iter().map(Order::Load));
                self.wanted
                    .insert(name.clone(), model.versions.keys().copied().collect());
            }
        }
        self.known = found;
        orders
    }
}

enum Order {
    Load(Arc<Plan>),
    Unload { id: ModelId, forget: bool },
}

/// Carries orders out, all at once: the loader takes one load at a time, in this order.
async fn carry_out(supervisor: Addr<ShardSupervisor>, orders: Vec<Order>) -> Vec<String> {
    let orders = orders.into_iter().map(|order| {
        let supervisor = supervisor.clone();
        async move {
            match order {
                Order::Load(plan) => match supervisor.send(Deploy(plan)).await {
                    Ok(result) => result.err(),
                    Err(_) => Some("the node is stopping".to_owned()),
                },
                Order::Unload { id, forget } => {
                    // A supervisor that is gone holds nothing any more.
                    let _ = supervisor.send(Undeploy { id, forget }).await;
                    None
                }
            }
        }
    });
    let results = futures_util::future::join_all(orders).await;
    results.into_iter().flatten().collect()
}

fn ids(model: &FoundModel) -> Vec<ModelId> {
    let id = |version: &u64| ModelId {
        name: model.name.clone(),
        version: *version,
    };
    model.versions.keys().map(id).collect()
}

/// The plans to load each version of a model.
pub(crate) fn plans(model: &FoundModel, config: &NodeConfig) -> Vec<Arc<Plan>> {
    let instances = model.manifest.instances.unwrap_or_else(|| compute_threads(config));
    let manifest = Arc::new(model.manifest.clone());
    let manifest_file = model.manifest_file().display().to_string();
    model
        .versions
        .iter()
        .map(|(version, artifact)| {
            Arc::new(Plan {
                id: ModelId {
                    name: model.name.clone(),
                    version: *version,
                },
                stamp: modified(&artifact.path),
                artifact: artifact.clone(),
                instances,
                manifest: Arc::clone(&manifest),
                manifest_file: manifest_file.clone(),
            })
        })
        .collect()
}

fn modified(path: &Path) -> Option<std::time::SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

impl Actor for Catalog {
    type Context = Context<Self>;
}

/// Looks at the repositories again: loads what is new or changed, unloads what is gone. Answers with what went wrong.
#[derive(Debug, Message)]
#[rtype(result = "Vec<String>")]
pub struct Rescan;

impl Handler<Rescan> for Catalog {
    type Result = ResponseActFuture<Self, Vec<String>>;

    fn handle(&mut self, _: Rescan, _: &mut Self::Context) -> Self::Result {
        let orders = self.scan().into_actor(self).map(|scan, this, _| match scan {
            Ok(scan) => {
                let problems: Vec<String> = scan.problems.iter().map(ToString::to_string).collect();
                for problem in &problems {
                    warn!(problem, "in the model repository");
                }
                info!(
                    models = scan.models.len(),
                    problems = problems.len(),
                    "looked at the model repository"
                );
                (this.reconcile(&scan), problems)
            }
            Err(error) => (Vec::new(), vec![error.to_string()]),
        });
        Box::pin(orders.then(|(orders, mut problems), this, _| {
            let supervisor = this.supervisor.clone();
            async move {
                problems.extend(carry_out(supervisor, orders).await);
                problems
            }
            .into_actor(this)
        }))
    }
}

/// Loads every version of a model, or loads it again where the repository has changed.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), CatalogError>")]
pub struct LoadModel(pub String);

impl Handler<LoadModel> for Catalog {
    type Result = ResponseActFuture<Self, Result<(), CatalogError>>;

    fn handle(&mut self, LoadModel(name): LoadModel, _: &mut Self::Context) -> Self::Result {
        let orders = self.scan().into_actor(self).map(move |scan, this, _| {
            let scan = scan?;
            let Some(model) = scan.models.get(name.as_str()) else {
                return Err(not_found(&name, &scan));
            };
            this.unwanted.remove(name.as_str());
            let before = this
                .wanted
                .insert(model.name.clone(), model.versions.keys().copied().collect());
            let vanished = before.unwrap_or_default().into_iter();
            let vanished = vanished.filter(|version| !model.versions.contains_key(version));
            let mut orders: Vec<_> = plans(model, &this.config).into_iter().map(Order::Load).collect();
            orders.extend(vanished.map(|version| Order::Unload {
                id: ModelId {
                    name: model.name.clone(),
                    version,
                },
                forget: true,
            }));
            this.known.extend(ids(model));
            Ok(orders)
        });
        Box::pin(orders.then(|orders, this, _| {
            let supervisor = this.supervisor.clone();
            async move {
                let problems = carry_out(supervisor, orders?).await;
                if problems.is_empty() {
                    Ok(())
                } else {
                    Err(CatalogError::Failed(problems.join("; ")))
                }
            }
            .into_actor(this)
        }))
    }
}

fn not_found(name: &str, scan: &Scan) -> CatalogError {
    let about: Vec<_> = scan
        .problems
        .iter()
        .filter(|problem| problem.concerns(name))
        .map(ToString::to_string)
        .collect();
    if !about.is_empty() {
        return CatalogError::Failed(about.join("; "));
    }
    let known = scan.models.keys().map(ModelName::as_str);
    let hint = nearest(name, known).map_or(String::new(), |near| format!("; did you mean `{near}`?"));
    let name: String = name.chars().take(grid_core::model::MAX_MODEL_NAME).collect();
    CatalogError::Unknown(format!("no repository holds a model `{name}`{hint}"))
}

/// Drains and unloads every version of a model.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), CatalogError>")]
pub struct UnloadModel(pub String);

impl Handler<UnloadModel> for Catalog {
    type Result = ResponseActFuture<Self, Result<(), CatalogError>>;

    fn handle(&mut self, UnloadModel(name): UnloadModel, _: &mut Self::Context) -> Self::Result {
        let versions: Vec<_> = self
            .known
            .iter()
            .filter(|id| id.name.as_str() == name)
            .cloned()
            .collect();
        let Some(first) = versions.first() else {
            let error = CatalogError::Unknown(format!("no repository holds a model `{name}`"));
            return Box::pin(actix::fut::ready(Err(error)));
        };
        self.unwanted.insert(first.name.clone());
        self.wanted.remove(&first.name);
        let orders = versions
            .into_iter()
            .map(|id| Order::Unload { id, forget: false })
            .collect();
        let done = carry_out(self.supervisor.clone(), orders);
        Box::pin(done.into_actor(self).map(|_, _, _| Ok(())))
    }
}
