//! From what other nodes host to routes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use grid_core::cluster::{Digest, NodeId, NodeName, ReplicaStage};
use grid_core::model::manifest::Manifest;
use grid_core::model::{ModelId, StackAxes};
use grid_core::wire::call::{Call, Description, Reply};
use tracing::{debug, warn};

use super::GridActor;
use crate::actors::routes::{Elsewhere, Lasting, ModelSettings, ReplicaState, VersionRoute, interface};
use crate::actors::shard_supervisor::state_slots;
use crate::loading::initial_states;
use crate::mesh::Remote;
use crate::telemetry::ModelMetrics;

/// How long a node may take to describe a model, and when it is asked again.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is known of models on other nodes.
#[derive(Default)]
pub(super) struct Elsewheres {
    /// What each content of a version looks like to requests.
    described: HashMap<(ModelId, Digest), Arc<Described>>,
    asked: HashSet<(ModelId, Digest)>,
    /// Kept over changes of the table, with what was measured of them.
    remotes: HashMap<(ModelId, NodeName), Arc<Remote>>,
    /// Sums of models that are served elsewhere only.
    lasting: HashMap<ModelId, (Arc<ModelMetrics>, Arc<Lasting>)>,
}

/// What a content looks like to requests.
struct Described {
    description: Description,
    manifest: Arc<Manifest>,
    route: VersionRoute,
}

impl GridActor {
    /// Writes the part of the route table that other nodes host.
    pub(super) fn publish_routes(&mut self, ctx: &mut Context<Self>) {
        self.publish_topology();
        let deployed: Vec<(ModelId, Digest)> = self
            .agent
            .catalog()
            .deployments()
            .map(|(model, deployment)| (model.clone(), deployment.content))
            .collect();
        let mut ready: BTreeMap<ModelId, Vec<(NodeId, Digest)>> = BTreeMap::new();
        for snapshot in self.agent.view().up().filter(|node| node.name() != self.agent.name()) {
            for replica in snapshot
                .replicas
                .iter()
                .filter(|replica| replica.stage == ReplicaStage::Ready)
            {
                let of_model = ready.entry(replica.model.clone()).or_default();
                of_model.push((snapshot.node.clone(), replica.content));
            }
        }
        let mut elsewhere = Vec::new();
        let mut used = HashSet::new();
        let mut contents: HashSet<(ModelId, Digest)> = deployed.iter().cloned().collect();
        for (model, content) in &deployed {
            let hosts = ready.remove(model).unwrap_or_default();
            self.describe_where_unknown(model, &hosts, ctx);
            contents.extend(hosts.iter().map(|(_, content)| (model.clone(), *content)));
            let described = |content: &Digest| self.elsewhere.described.get(&(model.clone(), *content));
            // What is deployed, as soon as anybody serves it; until then what was.
            let serves = |content: &&Digest| hosts.iter().any(|(_, hosted)| hosted == *content);
            let chosen = Some(content)
                .filter(serves)
                .and_then(described)
                .or_else(|| hosts.iter().find_map(|(_, content)| described(content)));
            let Some(chosen) = chosen.map(Arc::clone) else {
                if let Some(route) = self.route_to_nothing(model) {
                    elsewhere.push(route);
                }
                continue;
            };
            let interface = chosen.description.interface;
            let mut remotes = Vec::new();
            for (node, content) in &hosts {
                let fits = self.elsewhere.described.get(&(model.clone(), *content));
                if fits.is_some_and(|described| described.description.interface == interface)
                    && let Some(remote) = self.remote(model, interface, &node.name)
                {
                    used.insert((model.clone(), node.name.clone()));
                    remotes.push(remote);
                }
            }
            let (metrics, lasting) = self.lasting(model);
            elsewhere.push(Elsewhere {
                default_version: chosen.manifest.default_version,
                route: VersionRoute {
                    state: ReplicaState::Ready,
                    remotes,
                    metrics,
                    lasting,
                    ..chosen.route.clone()
                },
            });
        }
        let is_deployed: HashSet<&ModelId> = deployed.iter().map(|(model, _)| model).collect();
        let known = &mut self.elsewhere;
        known
            .remotes
            .retain(|place, remote| used.contains(place) || remote.in_flight() > 0);
        known.described.retain(|content, _| contents.contains(content));
        known.lasting.retain(|model, _| is_deployed.contains(model));
        self.routes.publish_elsewhere(elsewhere);
    }

    fn remote(&mut self, model: &ModelId, interface: Digest, node: &NodeName) -> Option<Arc<Remote>> {
        let peer = self.peers.get(node)?;
        let place = (model.clone(), node.clone());
        let known = self
            .elsewhere
            .remotes
            .get(&place)
            .filter(|known| known.is_of(&interface, &peer));
        if let Some(known) = known {
            return Some(Arc::clone(known));
        }
        let remote = Arc::new(Remote::new(model.clone(), interface, self.peers.clone(), peer));
        self.elsewhere.remotes.insert(place, Arc::clone(&remote));
        Some(remote)
    }

    fn lasting(&mut self, model: &ModelId) -> (Arc<ModelMetrics>, Arc<Lasting>) {
        let made = || (Arc::new(ModelMetrics::new(model)), Arc::default());
        self.elsewhere.lasting.entry(model.clone()).or_insert_with(made).clone()
    }

    /// A model that is deployed and that nobody serves, where this node does not even list it.
    fn route_to_nothing(&mut self, model: &ModelId) -> Option<Elsewhere> {
        if self.routes.here(model).is_some() {
            return None;
        }
        let (metrics, lasting) = self.lasting(model);
        let reason = self.why_not(model);
        let manifest = Arc::new(Manifest::default());
        Some(Elsewhere {
            default_version: None,
            route: VersionRoute {
                id: model.clone(),
                state: reason.map_or(ReplicaState::Loading, ReplicaState::Failed),
                runtime: "".into(),
                signature: Arc::default(),
                initial: Arc::new([]),
                states: Arc::new([]),
                axes: None,
                settings: Arc::new(ModelSettings::new(&self.config, &manifest)),
                manifest,
                instances: 0,
                lanes: Vec::new(),
                remotes: Vec::new(),
                interface: Digest([0; 32]),
                in_parts: false,
                metrics,
                lasting,
            },
        })
    }

    fn describe_where_unknown(&mut self, model: &ModelId, hosts: &[(NodeId, Digest)], ctx: &mut Context<Self>) {
        for (node, content) in hosts {
            let place = (model.clone(), *content);
            let is_known = self.elsewhere.described.contains_key(&place);
            let Some(peer) = self.peers.get(&node.name).filter(|_| !is_known) else {
                continue;
            };
            // Whoever has no link is asked when it has one.
            if !peer.is_linked() || !self.elsewhere.asked.insert(place.clone()) {
                continue;
            }
            let call = Call::Describe(model.clone());
            let asked_for = place.clone();
            let answer = async move { peer.call(&call, Vec::new(), PATIENCE).await };
            let described = answer.into_actor(self).map(move |reply, this, ctx| {
                this.elsewhere.asked.remove(&place);
                match reply {
                    Ok((Reply::Description(description), _))
                        if (&description.model, &description.content) == (&place.0, &place.1) =>
                    {
                        match this.understand(*description) {
                            Ok(described) => {
                                this.elsewhere.described.insert(place, Arc::new(described));
                                this.routes_due = true;
                            }
                            Err(reason) => {
                                warn!(model = %place.0, reason, "another node's description is not understood")
                            }
                        }
                    }
                    // Or it hosts another content by now than when it was asked.
                    Ok(_) => debug!(model = %place.0, "it was not described"),
                    Err(error) => debug!(model = %place.0, %error, "it was not described"),
                }
                if !this.elsewhere.described.contains_key(&asked_for) {
                    ctx.run_later(PATIENCE / 4, |this, ctx| {
                        this.routes_due = true;
                        this.go_on(ctx);
                    });
                }
                this.go_on(ctx);
            });
            ctx.spawn(described);
        }
    }

    /// A route made of what another node says.
    fn understand(&self, description: Description) -> Result<Described, String> {
        let file = format!("model.toml of {}", description.model);
        let manifest = Manifest::parse(&file, &description.manifest)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
        let signature = &description.signature;
        manifest
            .check(&file, signature)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
        let stacks = manifest.batching.max_batch_size > 0;
        let axes = stacks.then(|| StackAxes::of(&manifest, signature).ok()).flatten();
        let settings = ModelSettings::new(&self.config, &manifest);
        let states = state_slots(&manifest, signature);
        if interface(signature, &states, axes.as_ref(), &settings.policy) != description.interface {
            return Err("its interface is not that of its signature and manifest".to_owned());
        }
        let manifest = Arc::new(manifest);
        let route = VersionRoute {
            id: description.model.clone(),
            state: ReplicaState::Ready,
            runtime: description.runtime.as_str().into(),
            initial: initial_states(signature, &manifest)?.into(),
            signature: Arc::new(signature.clone()),
            states,
            axes: axes.map(Arc::new),
            settings: Arc::new(settings),
            manifest: Arc::clone(&manifest),
            instances: description.instances as usize,
            lanes: Vec::new(),
            remotes: Vec::new(),
            interface: description.interface,
            in_parts: description.in_parts,
            metrics: Arc::new(ModelMetrics::new(&description.model)),
            lasting: Arc::default(),
        };
        Ok(Described {
            description,
            manifest,
            route,
        })
    }
}
