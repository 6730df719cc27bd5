//! The catalog of one node: what its repositories hold, and which of it is wanted in memory.

mod destination;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, ResponseActFuture, ResponseFuture, WrapFuture,
};
use futures_util::future::join_all;
use grid_core::config::{NodeConfig, nearest};
use grid_core::model::{ModelId, ModelName};
use tracing::{info, warn};

use super::shard_supervisor::{Announce, ShardSupervisor};
use crate::loading::{Loader, Plan, compute_threads};
use crate::store::{self, FoundModel, Scan};

pub use destination::InGrid;
use destination::{Destination, FoundVersion};

/// The catalog actor.
pub struct Catalog {
    config: Arc<NodeConfig>,
    loader: Loader,
    supervisor: Addr<ShardSupervisor>,
    /// Models that the supervisor was told to load.
    wanted: BTreeSet<ModelName>,
    /// Everything that was announced and not forgotten.
    known: BTreeSet<ModelId>,
    /// Those known that the repositories surely do not hold any more.
    vanished: BTreeSet<ModelId>,
    /// Unloaded by hand, by the number of that call: a rescan does not load it again, nor does a load call that came
    /// before and waited for its scan.
    unwanted: BTreeMap<ModelName, u64>,
    /// The calls are numbered as they come.
    last_call: u64,
    destination: Destination,
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
    pub fn new(
        config: Arc<NodeConfig>,
        loader: Loader,
        supervisor: Addr<ShardSupervisor>,
        in_grid: Option<InGrid>,
    ) -> Self {
        Self {
            config,
            loader,
            wanted: BTreeSet::new(),
            known: BTreeSet::new(),
            vanished: BTreeSet::new(),
            unwanted: BTreeMap::new(),
            last_call: 0,
            destination: match in_grid {
                Some(grid) => Destination::Grid(grid),
                None => Destination::Here(supervisor.clone()),
            },
            supervisor,
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

    fn is_wanted(&self, name: &ModelName) -> bool {
        if self.unwanted.contains_key(name) {
            return false;
        }
        self.wanted.contains(name) || self.config.models.load.includes(name)
    }

    /// Announces what was found, and returns what brings the node to it, by model.
    fn reconcile(&mut self, scan: &Scan) -> Vec<Change> {
        let found = scan.models.values().flat_map(|model| plans(model, &self.config));
        self.supervisor.do_send(Announce(found.collect()));
        let known = self.known.iter().map(|id| &id.name);
        let names: BTreeSet<ModelName> = known.chain(scan.models.keys()).cloned().collect();
        names.iter().map(|name| self.change(scan, name, false)).collect()
    }

    /// What brings one model to what was found of it.
    fn change(&mut self, scan: &Scan, name: &ModelName, asked_for: bool) -> Change {
        let model = scan.models.get(name);
        // What a problem may hide is not known to be gone, and goes on as it is.
        let certain = !scan.problems.iter().any(|problem| problem.may_hide(name.as_str()));
        let is_found = |id: &ModelId| model.is_some_and(|model| model.versions.contains_key(&id.version));
        let of_model = self.known.iter().filter(|id| id.name == *name);
        let gone: Vec<ModelId> = of_model.filter(|id| certain && !is_found(id)).cloned().collect();
        self.vanished.retain(|id| id.name != *name);
        self.vanished.extend(gone.iter().cloned());
        let mut loads = Vec::new();
        if let Some(model) = model {
            self.known.extend(ids(model));
            if self.is_wanted(name) {
                self.wanted.insert(name.clone());
                let found = Arc::new(model.clone());
                let version = |plan| FoundVersion {
                    plan,
                    model: Arc::clone(&found),
                    asked_for,
                };
                loads = plans(model, &self.config).into_iter().map(version).collect();
            }
        } else if certain {
            self.wanted.remove(name);
        }
        Change { loads, gone }
    }
}

/// What is to be done about one model.
struct Change {
    loads: Vec<FoundVersion>,
    gone: Vec<ModelId>,
}

/// Carries changes out, all at once: the loader takes one load at a time, in this order. Of each model the versions that
/// are gone are unloaded after its loads have ended, so that those that take over are there.
async fn carry_out(catalog: Addr<Catalog>, destination: Destination, changes: Vec<Change>) -> Vec<String> {
    let changes = changes.into_iter().map(|Change { loads, gone }| {
        let (catalog, destination) = (catalog.clone(), destination.clone());
        async move {
            let loads = loads.into_iter().map(|found| destination.serve(found));
            let problems: Vec<String> = join_all(loads).await.into_iter().flatten().collect();
            join_all(gone.into_iter().map(|id| catalog.send(Forget(id)))).await;
            problems
        }
    });
    join_all(changes).await.concat()
}

/// Unloads a version that is gone from the repositories, and takes it from the list. A message, so that it finds out
/// whether the version has come back while other loads were waited for.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Forget(ModelId);

impl Handler<Forget> for Catalog {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, Forget(id): Forget, _: &mut Self::Context) -> Self::Result {
        if !self.vanished.remove(&id) {
            return Box::pin(std::future::ready(()));
        }
        self.known.remove(&id);
        let destination = self.destination.clone();
        Box::pin(async move { destination.end(id, true).await })
    }
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
                stamp: model.modified.get(version).copied().flatten(),
                artifact: artifact.clone(),
                instances,
                manifest: Arc::clone(&manifest),
                manifest_file: manifest_file.clone(),
            })
        })
        .collect()
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
        let changes = self.scan().into_actor(self).map(|scan, this, _| match scan {
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
        Box::pin(changes.then(|(changes, mut problems), this, ctx| {
            let (catalog, destination) = (ctx.address(), this.destination.clone());
            async move {
                problems.extend(carry_out(catalog, destination, changes).await);
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
        self.last_call += 1;
        let call = self.last_call;
        let change = self.scan().into_actor(self).map(move |scan, this, _| {
            let scan = scan?;
            let Some(model) = scan.models.get(name.as_str()) else {
                return Err(not_found(&name, &scan));
            };
            if this.unwanted.get(&model.name).is_some_and(|unload| *unload > call) {
                let text = format!("{name}: it was unloaded while the load waited");
                return Err(CatalogError::Failed(text));
            }
            this.unwanted.remove(&model.name);
            this.wanted.insert(model.name.clone());
            Ok(this.change(&scan, &model.name, true))
        });
        Box::pin(change.then(|change, this, ctx| {
            let (catalog, destination) = (ctx.address(), this.destination.clone());
            async move {
                let problems = carry_out(catalog, destination, vec![change?]).await;
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
        self.last_call += 1;
        self.unwanted.insert(first.name.clone(), self.last_call);
        self.wanted.remove(&first.name);
        let destination = self.destination.clone();
        let unloads = async move {
            join_all(versions.into_iter().map(|id| destination.end(id, false))).await;
            Ok(())
        };
        Box::pin(unloads.into_actor(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::{Routes, SupervisorOptions};
    use crate::compute::Pool;
    use crate::loading::MemoryBudget;
    use crate::runtime::Runtimes;

    #[actix_web::test]
    async fn a_load_that_waited_for_its_scan_does_not_undo_an_unload_that_came_later() {
        let repository = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(repository.path().join("m/1")).unwrap();
        std::fs::write(repository.path().join("m/1/model.onnx"), "no model").unwrap();
        let text = format!("models.repository = '{}'", repository.path().display());
        let config = Arc::new(grid_core::config::parse("test.toml", &text, []).unwrap());
        let loader = Loader::start().unwrap();
        let options = SupervisorOptions {
            routes: Arc::<Routes>::default(),
            pool: Pool::start(1).unwrap(),
            loader: loader.clone(),
            runtimes: Arc::new(Runtimes::of_config(&config)),
            budget: MemoryBudget::new(u64::MAX),
            config: Arc::clone(&config),
        };
        let supervisor = ShardSupervisor::new(options).start();
        let catalog = Catalog::new(config, loader.clone(), supervisor, None).start();
        let problems = catalog.send(Rescan).await.unwrap();
        assert_eq!(problems.len(), 1, "it is no model: {problems:?}");

        let (release, busy) = std::sync::mpsc::channel::<()>();
        loader.spawn(move || {
            let _ = busy.recv();
        });
        let load = catalog.send(LoadModel("m".to_owned()));
        let unload = catalog.send(UnloadModel("m".to_owned()));
        assert_eq!(unload.await.unwrap(), Ok(()));
        drop(release);
        let Err(CatalogError::Failed(reason)) = load.await.unwrap() else {
            panic!("the load went on");
        };
        assert!(reason.contains("unloaded while the load waited"), "{reason}");
        assert_eq!(
            catalog.send(Rescan).await.unwrap(),
            Vec::<String>::new(),
            "nothing is loaded"
        );
        let load = catalog.send(LoadModel("m".to_owned())).await.unwrap();
        let Err(CatalogError::Failed(reason)) = load else {
            panic!("it is no model");
        };
        assert!(reason.contains("model.onnx"), "a later load is tried: {reason}");
    }
}
