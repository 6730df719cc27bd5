//! The supervisor of a node's shard actors.
//!
//! actix's own supervisor does not restart an actor whose handler panicked, and restarts one that stopped in a tight
//! loop. This one is told of every end by a guard in the child, asks the restart policy of `grid-core`, makes a new
//! instance on the loader thread and publishes the new incarnation; past the limit it leaves the instance in
//! quarantine for a while. It alone writes the route table.

mod drain;
mod replica;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, ResponseActFuture, ResponseFuture, WrapFuture,
};
use grid_core::config::NodeConfig;
use grid_core::model::manifest::{Manifest, StateTensor};
use grid_core::model::{ModelId, ModelName, Signature, Version};
use grid_core::supervision::{RestartPolicy, Verdict};
use tracing::{error, info, warn};

use super::routes::{Lasting, ModelRoute, ModelSettings, ReplicaState, Routes, StateSlot, interface};
use super::shard::{Exited, ShardActor};
use drain::{Drains, Unloader};
use replica::{Child, InMemory, Replica};

use crate::compute::{LaneOptions, Pool};
use crate::loading::{Loaded, Loader, MemoryBudget, NotLoaded, Plan};
use crate::runtime::{Instance, Runtimes};

/// What a supervisor is made with.
#[derive(Clone)]
pub struct SupervisorOptions {
    /// The node's configuration.
    pub config: Arc<NodeConfig>,
    /// The table that it writes.
    pub routes: Arc<Routes>,
    /// The compute threads.
    pub pool: Pool,
    /// The loader thread.
    pub loader: Loader,
    /// The runtimes that were found.
    pub runtimes: Arc<Runtimes>,
    /// The memory budget.
    pub budget: MemoryBudget,
}

/// One instance of one generation of a model version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InstanceId {
    pub(super) model: ModelId,
    /// Each load of the version is another generation.
    pub(super) generation: u64,
    pub(super) index: usize,
}

/// Supervises all shard actors of a node.
pub struct ShardSupervisor {
    options: SupervisorOptions,
    policy: RestartPolicy,
    replicas: BTreeMap<ModelId, Replica>,
    /// What was last ordered for each version; a load that ends finds out whether its content is still wanted.
    orders: HashMap<ModelId, Order>,
    last_number: u64,
    /// The default version by the newest manifest of each model; those in memory may have older manifests.
    defaults: HashMap<ModelName, Option<Version>>,
    drains: Drains,
}

#[derive(Clone)]
struct Order {
    number: u64,
    /// What is to be in memory; nothing after an unload.
    wanted: Option<Arc<Plan>>,
}

impl ShardSupervisor {
    /// A supervisor, to be started.
    pub fn new(options: SupervisorOptions) -> Self {
        let supervision = &options.config.supervision;
        Self {
            policy: RestartPolicy {
                max_restarts: supervision.max_restarts,
                window: supervision.window,
                backoff: supervision.backoff,
                max_backoff: supervision.max_backoff,
            },
            options,
            replicas: BTreeMap::new(),
            orders: HashMap::new(),
            last_number: 0,
            defaults: HashMap::new(),
            drains: Drains::default(),
        }
    }

    fn order(&mut self, id: &ModelId, wanted: Option<Arc<Plan>>) -> u64 {
        self.last_number += 1;
        let number = self.last_number;
        self.orders.insert(id.clone(), Order { number, wanted });
        number
    }

    fn publish(&self) {
        let mut table: HashMap<_, ModelRoute> = HashMap::new();
        for (id, replica) in &self.replicas {
            let model = table.entry(id.name.clone()).or_insert_with(|| ModelRoute {
                default_version: self.default_version(&id.name),
                versions: BTreeMap::new(),
            });
            let route = replica.route();
            route.metrics.ready.set(route.lanes.len() as f64);
            model.versions.insert(id.version, Arc::new(route));
        }
        self.options.routes.publish(table);
    }

    /// What the newest manifest says, once that version is in memory. Until then what answered before goes on.
    fn default_version(&self, name: &ModelName) -> Option<Version> {
        let newest = self.defaults.get(name).copied().flatten();
        let id = |version| ModelId {
            name: name.clone(),
            version,
        };
        let of_model = self.replicas.range(id(Version::MIN)..=id(Version::MAX));
        let mut in_memory = of_model
            .filter(|(_, replica)| replica.loaded.is_some())
            .map(|(id, _)| id.version);
        if newest.is_none_or(|version| in_memory.clone().any(|other| other == version)) {
            return newest;
        }
        let before = self.options.routes.read().get(name).map(|model| model.default_version);
        match before {
            Some(None) if in_memory.next().is_some() => None,
            Some(Some(version)) if in_memory.any(|other| other == version) => Some(version),
            _ => newest,
        }
    }

    /// Whether it serves that content with all its instances. A quarantined one is missing: who asks for the version
    /// again wants it back.
    fn serves(&self, plan: &Plan) -> bool {
        let replica = self.replicas.get(&plan.id);
        replica.is_some_and(|replica| {
            replica.state() == ReplicaState::Ready && !replica.has_quarantined() && *replica.plan == *plan
        })
    }

    /// Bytes that a version takes in memory.
    fn bytes(&self, id: &ModelId) -> u64 {
        let loaded = self.replicas.get(id).and_then(|replica| replica.loaded.as_ref());
        loaded.map_or(0, |loaded| loaded.reservation.bytes())
    }

    /// Notes the newest plan of a version: by it goes what is not in memory, and by its manifest the default version.
    fn note(&mut self, plan: &Arc<Plan>, standing_if_new: ReplicaState) -> &mut Replica {
        let name = plan.id.name.clone();
        self.defaults.insert(name, plan.manifest.default_version);
        let config = &self.options.config;
        let replica = self
            .replicas
            .entry(plan.id.clone())
            .or_insert_with(|| Replica::new(Arc::clone(plan), config, standing_if_new));
        if replica.loaded.is_none() {
            replica.plan = Arc::clone(plan);
            replica.settings = Arc::new(ModelSettings::new(config, &plan.manifest));
        }
        replica
    }

    /// Takes a loaded version into service in the place of what served before, which is drained.
    fn take_into_service(&mut self, plan: &Arc<Plan>, loaded: Loaded, ctx: &mut Context<Self>) {
        self.last_number += 1;
        let generation = self.last_number;
        let config = &self.options.config;
        let replica = self
            .replicas
            .entry(plan.id.clone())
            .or_insert_with(|| Replica::new(Arc::clone(plan), config, ReplicaState::Loading));
        let before = replica.loaded.take();
        replica.plan = Arc::clone(plan);
        replica.settings = Arc::new(ModelSettings::new(config, &plan.manifest));
        replica.generation = generation;
        let lasting = Arc::clone(&replica.lasting);
        let mut children = Vec::new();
        for (index, instance) in loaded.instances.into_iter().enumerate() {
            let mut child = Child::default();
            let id = InstanceId {
                model: plan.id.clone(),
                generation,
                index,
            };
            let options = replica.lane_options(instance.as_ref());
            start(&mut child, id, options, instance, &lasting, ctx);
            children.push(child);
        }
        let signature = Arc::new(loaded.model.signature().clone());
        let states = state_slots(&plan.manifest, &signature);
        let interface = interface(&signature, &states, loaded.axes.as_ref(), &replica.settings.policy);
        replica.loaded = Some(InMemory {
            states,
            signature,
            interface,
            model: loaded.model,
            runtime: loaded.runtime,
            initial: loaded.initial.into(),
            axes: loaded.axes.map(Arc::new),
            instances: children,
            reservation: loaded.reservation,
        });
        self.publish();
        if let Some(before) = before {
            self.drain(&plan.id, before, lasting, ctx);
        }
    }

    /// Begins a drain; everybody who waits for the version's memory finds it in `drains`.
    fn drain(&mut self, id: &ModelId, memory: InMemory, lasting: Arc<Lasting>, ctx: &mut Context<Self>) {
        let timeout = self.options.config.http.drain_timeout;
        let drained = self.unloader().drain(memory, lasting, timeout);
        let drain = self.drains.begin(id.clone(), drained);
        ctx.spawn(drain.into_actor(self));
    }

    fn unloader(&self) -> Unloader {
        Unloader {
            pool: self.options.pool.clone(),
            loader: self.options.loader.clone(),
        }
    }
}

/// Which inputs and outputs carry a sequence's state.
pub(crate) fn state_slots(manifest: &Manifest, signature: &Signature) -> Arc<[StateSlot]> {
    let slot = |state: &StateTensor| {
        let (input, output) = (signature.input(&state.input)?, signature.output(&state.output)?);
        Some(StateSlot { input, output })
    };
    // That they are there was checked when the file was opened.
    manifest.states.iter().filter_map(slot).collect()
}

fn start(
    child: &mut Child,
    id: InstanceId,
    options: LaneOptions,
    instance: Box<dyn Instance>,
    lasting: &Lasting,
    ctx: &mut Context<ShardSupervisor>,
) {
    child.incarnation += 1;
    child.quarantined = false;
    let supervisor = ctx.address().recipient();
    let (addr, lane) = ShardActor::spawn(id, child.incarnation, options, instance, supervisor);
    lasting.begin(&lane);
    child.live = Some((addr, lane));
}

impl Actor for ShardSupervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // As many reports as there are children may come at once, and none may be lost.
        ctx.set_mailbox_capacity(1 << 16);
    }
}

/// Versions that the repositories hold and nobody has asked to load: they are listed as unloaded.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Announce(pub(super) Vec<Arc<Plan>>);

impl Handler<Announce> for ShardSupervisor {
    type Result = ();

    fn handle(&mut self, Announce(plans): Announce, _: &mut Self::Context) {
        for plan in plans {
            self.note(&plan, ReplicaState::Unloaded);
        }
        self.publish();
    }
}

/// Loads a version and takes it into service. Answers when it serves, with the bytes that it takes, or why it does not. What served before under the
/// same name and version goes on until then, and on failure.
#[derive(Debug, Message)]
#[rtype(result = "Result<u64, NotLoaded>")]
pub struct Deploy {
    /// What to load.
    pub plan: Arc<Plan>,
    /// Bytes to reserve for it at least.
    pub memory: Option<u64>,
}

impl Deploy {
    /// A load for which what this node expects is reserved.
    pub fn of(plan: Arc<Plan>) -> Self {
        Self { plan, memory: None }
    }
}

impl Handler<Deploy> for ShardSupervisor {
    type Result = ResponseActFuture<Self, Result<u64, NotLoaded>>;

    fn handle(&mut self, Deploy { plan, memory }: Deploy, _: &mut Self::Context) -> Self::Result {
        self.order(&plan.id, Some(Arc::clone(&plan)));
        let replica = self.note(&plan, ReplicaState::Loading);
        replica.standing = ReplicaState::Loading;
        if self.serves(&plan) {
            self.publish();
            let bytes = self.bytes(&plan.id);
            return Box::pin(actix::fut::ready(Ok(bytes)));
        }
        self.publish();
        let loader = self.options.loader.clone();
        let (runtimes, budget) = (Arc::clone(&self.options.runtimes), self.options.budget.clone());
        let loading = {
            let plan = Arc::clone(&plan);
            async move {
                let loaded = loader.run(move || plan.load(&runtimes, &budget, memory)).await;
                loaded.unwrap_or_else(|gone| Err(gone.to_string().into()))
            }
        };
        Box::pin(loading.into_actor(self).map(move |loaded, this, ctx| {
            let wanted = this.orders.get(&plan.id).and_then(|last| last.wanted.as_ref());
            if wanted.is_none_or(|wanted| *wanted != plan) {
                this.options.loader.spawn(move || drop(loaded.map(Loaded::discard)));
                return Err(format!("{}: a later order replaced this load", plan.id).into());
            }
            match loaded {
                // Two callers asked for the same content, and the other's load was quicker.
                Ok(loaded) if this.serves(&plan) => {
                    this.options.loader.spawn(move || loaded.discard());
                    Ok(this.bytes(&plan.id))
                }
                Ok(loaded) => {
                    this.take_into_service(&plan, loaded, ctx);
                    Ok(this.bytes(&plan.id))
                }
                Err(NotLoaded { reason, took }) => {
                    error!(model = %plan.id.name, version = plan.id.version, reason, "not loaded");
                    if let Some(replica) = this.replicas.get_mut(&plan.id) {
                        replica.standing = ReplicaState::Failed(reason.clone());
                    }
                    this.publish();
                    Err(NotLoaded { reason, took })
                }
            }
        }))
    }
}

/// Drains a version and frees its memory. Answers when that is done, whoever asked for it first.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Undeploy {
    /// Which.
    pub id: ModelId,
    /// Whether it is also taken from the list: the repository does not hold it any more.
    pub forget: bool,
}

impl Handler<Undeploy> for ShardSupervisor {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, Undeploy { id, forget }: Undeploy, ctx: &mut Self::Context) -> Self::Result {
        let order = self.order(&id, None);
        let Some(replica) = self.replicas.get_mut(&id) else {
            return Box::pin(actix::fut::ready(()));
        };
        let lasting = Arc::clone(&replica.lasting);
        if let Some(memory) = replica.loaded.take() {
            self.drain(&id, memory, lasting, ctx);
        }
        let ended = self.drains.ended(&id);
        if let Some(replica) = self.replicas.get_mut(&id) {
            replica.standing = match ended {
                Some(_) => ReplicaState::Draining,
                None => ReplicaState::Unloaded,
            };
        }
        self.publish();
        let drained = async move {
            if let Some(ended) = ended {
                ended.await;
            }
        };
        Box::pin(drained.into_actor(self).map(move |(), this, _| {
            if this.orders.get(&id).is_none_or(|last| last.number != order) {
                return;
            }
            info!(model = %id.name, version = id.version, "unloaded");
            if forget {
                this.replicas.remove(&id);
                this.orders.remove(&id);
                if !this.replicas.keys().any(|other| other.name == id.name) {
                    this.defaults.remove(&id.name);
                }
            } else if let Some(replica) = this.replicas.get_mut(&id) {
                replica.standing = ReplicaState::Unloaded;
            }
            this.publish();
        }))
    }
}

impl Handler<Exited> for ShardSupervisor {
    type Result = ();

    fn handle(&mut self, exited: Exited, ctx: &mut Self::Context) {
        let unloader = self.unloader();
        let Some(replica) = self.replicas.get_mut(&exited.instance.model) else {
            return;
        };
        let child = match &mut replica.loaded {
            Some(loaded) if replica.generation == exited.instance.generation => {
                loaded.instances.get_mut(exited.instance.index)
            }
            // It was drained; its end was asked for.
            _ => return,
        };
        let Some(child) = child.filter(|child| child.incarnation == exited.incarnation) else {
            return;
        };
        if let Some((_, lane)) = child.live.take() {
            actix::spawn(unloader.unload(vec![lane], Arc::clone(&replica.lasting)));
        }
        let verdict = child.history.on_exit(&self.policy, Instant::now(), rand::random());
        let (model, version) = (exited.instance.model.name.clone(), exited.instance.model.version);
        let (instance, reason) = (exited.instance.index, exited.reason);
        child.quarantined = verdict == Verdict::Quarantine;
        match verdict {
            Verdict::RestartAfter(wait) => {
                warn!(%model, version, instance, reason, ?wait, "a shard actor ended; it is restarted");
                replica.metrics.restarts.increment(1);
                ctx.run_later(wait, move |this, ctx| this.restart(exited.instance, ctx));
            }
            Verdict::Quarantine => {
                let window = self.policy.window;
                error!(%model, version, instance, reason, ?window, "a shard actor ended too often; it is quarantined");
                ctx.run_later(window, move |this, ctx| this.restart(exited.instance, ctx));
            }
        }
        self.publish();
    }
}

impl ShardSupervisor {
    fn restart(&mut self, id: InstanceId, ctx: &mut Context<Self>) {
        let Some(replica) = self.current(&id) else { return };
        let Some(loaded) = &replica.loaded else { return };
        let (plan, model) = (Arc::clone(&replica.plan), Arc::clone(&loaded.model));
        let loader = self.options.loader.clone();
        let made = async move { loader.run(move || plan.instance(model.as_ref())).await };
        let restarted = made.into_actor(self).map(move |made, this, ctx| {
            let instance = made.unwrap_or_else(|gone| Err(gone.to_string()));
            let Some(replica) = this.current(&id) else { return };
            match instance {
                Ok(instance) => {
                    let options = replica.lane_options(instance.as_ref());
                    let lasting = Arc::clone(&replica.lasting);
                    let Some(child) = replica
                        .loaded
                        .as_mut()
                        .and_then(|loaded| loaded.instances.get_mut(id.index))
                    else {
                        return;
                    };
                    start(child, id, options, instance, &lasting, ctx);
                    this.publish();
                }
                Err(reason) => {
                    warn!(model = %id.model.name, version = id.model.version, reason, "no new instance could be made");
                    let incarnation = replica
                        .loaded
                        .as_ref()
                        .and_then(|loaded| loaded.instances.get(id.index))
                        .map_or(0, |child| child.incarnation);
                    ctx.notify(Exited {
                        instance: id,
                        incarnation,
                        reason: "no new instance could be made",
                    });
                }
            }
        });
        ctx.spawn(restarted);
    }

    /// The replica of an instance, if the instance is of its present generation.
    fn current(&mut self, id: &InstanceId) -> Option<&mut Replica> {
        self.replicas
            .get_mut(&id.model)
            .filter(|replica| replica.generation == id.generation)
    }
}

/// Drains every version. Answers when all memory is free.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Stop;

impl Handler<Stop> for ShardSupervisor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) -> Self::Result {
        let ids: Vec<_> = self.replicas.keys().cloned().collect();
        let addr = ctx.address();
        Box::pin(async move {
            let undeploys = ids.into_iter().map(|id| addr.send(Undeploy { id, forget: false }));
            futures_util::future::join_all(undeploys).await;
        })
    }
}

/// The address of a shard actor, for tests that inject faults.
#[derive(Debug, Message)]
#[rtype(result = "Option<Addr<ShardActor>>")]
pub struct FindShard {
    /// Which version.
    pub id: ModelId,
    /// Which of its instances.
    pub instance: usize,
}

impl Handler<FindShard> for ShardSupervisor {
    type Result = Option<Addr<ShardActor>>;

    fn handle(&mut self, find: FindShard, _: &mut Self::Context) -> Self::Result {
        let loaded = self.replicas.get(&find.id)?.loaded.as_ref()?;
        let (addr, _) = loaded.instances.get(find.instance)?.live.as_ref()?;
        Some(addr.clone())
    }
}
