//! Who hosts which model, and what requests for it look like.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use grid_core::InferError;
use grid_core::cluster::{Digest, NodeId, NodeName, ReplicaStage};
use grid_core::config::nearest;
use grid_core::model::made_up::initial_states;
use grid_core::model::manifest::Manifest;
use grid_core::model::{ModelId, ModelName, Version};
use grid_core::tensor::Tensor;
use grid_core::wire::call::{Call, Description, Reply, Topology};
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::peers::{Peer, ask};
use super::{ClientError, Core, after};
use crate::replica::Replica;

/// What a content looks like to requests.
pub(crate) struct Described {
    pub(crate) description: Description,
    /// For each input, what it holds when a request leaves it out: the initial value of a state tensor.
    pub(crate) initial: Vec<Option<Tensor>>,
    pub(crate) outputs: Vec<Arc<str>>,
    default_version: Option<Version>,
}

/// A replica and the way there.
#[derive(Clone)]
pub(crate) struct Host {
    pub(crate) replica: Arc<Replica>,
    pub(crate) peer: Arc<Peer>,
}

/// Where requests for a model go. All its replicas take what was checked for one of them.
pub(crate) struct Route {
    pub(crate) described: Arc<Described>,
    pub(crate) hosts: Vec<Host>,
}

/// What is known of a model.
pub(crate) enum Found {
    Route(Arc<Route>),
    Waiting(Waiting),
}

/// Why there is no route.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// No node names it, in whatever stage, nor has one before.
    pub(crate) is_unknown: bool,
    reason: String,
}

impl Waiting {
    /// What is told when it was waited for in vain.
    pub(crate) fn into_error(self, model: &ModelName, waited: Duration) -> ClientError {
        match self.is_unknown {
            true => InferError::NotFound(self.reason).into(),
            false => ClientError::NoReplica {
                model: model.to_string(),
                waited,
                reason: self.reason,
            },
        }
    }
}

/// Since when no node knows a model. That time counts from when a node could be asked, and not from that of the request.
#[derive(Debug, Default)]
pub(super) struct Unknown(Option<Instant>);

impl Unknown {
    /// What is known now; until when it is worth waiting, if no node knows the model.
    pub(super) fn until(&mut self, waiting: &Waiting, core: &Core) -> Option<Instant> {
        self.0 = waiting.is_unknown.then(|| self.0.unwrap_or_else(Instant::now));
        self.0.map(|since| after(since, core.options.unknown_model))
    }

    /// There is a route.
    pub(super) fn is_over(&mut self) {
        self.0 = None;
    }
}

/// See [`Core::find`].
#[derive(Default)]
pub(super) struct RouteTable {
    routes: HashMap<(ModelName, Option<Version>), Arc<Route>>,
    described: HashMap<(ModelId, Digest), Arc<Described>>,
    asked: HashSet<(ModelId, Digest)>,
    /// Kept over changes of the topology, with what was measured of them.
    replicas: HashMap<(ModelId, NodeId, Digest), Arc<Replica>>,
    /// All that any node ever hosted. What was there and is not may come back, as when all nodes are restarted: it is waited
    /// for, where a name that was never heard of is a mistake.
    seen: BTreeSet<ModelId>,
}

impl RouteTable {
    pub(super) fn forget_routes(&mut self) {
        self.routes.clear();
    }

    /// Forgets what is not hosted any more.
    pub(super) fn keep_to(&mut self, topology: &Topology) {
        let hosted = topology.nodes.iter().flat_map(|node| &node.replicas);
        let hosted: HashSet<(ModelId, Digest)> =
            hosted.map(|replica| (replica.model.clone(), replica.content)).collect();
        self.seen.extend(hosted.iter().map(|(model, _)| model.clone()));
        let lives: HashSet<&NodeId> = topology.nodes.iter().map(|node| &node.node).collect();
        self.described.retain(|content, _| hosted.contains(content));
        self.replicas
            .retain(|(_, node, _), replica| lives.contains(node) || replica.in_flight() > 0);
    }
}

impl Core {
    /// Where requests for a model go, in that version or the preferred one. Links to those who host it are opened, and one
    /// of them is asked to describe it; [`Core::watch`] tells when it is worth looking again.
    pub(crate) fn find(self: &Arc<Self>, name: &ModelName, version: Option<Version>) -> Found {
        let place = (name.clone(), version);
        let known = self.routes.lock().routes.get(&place).cloned();
        if let Some(route) = known {
            route.hosts.iter().for_each(|host| host.peer.want(self));
            return Found::Route(route);
        }
        let Some(topology) = self.topology() else {
            return Found::Waiting(Waiting {
                is_unknown: false,
                reason: format!("no node of the grid is reached: {}", self.why_unreachable()),
            });
        };
        match self.make_route(&topology, name, version) {
            Ok(route) => {
                let route = Arc::new(route);
                // Of two that are made at once it matters not which stays: a change forgets both.
                self.routes.lock().routes.insert(place, Arc::clone(&route));
                Found::Route(route)
            }
            Err(waiting) => Found::Waiting(waiting),
        }
    }

    fn make_route(
        self: &Arc<Self>,
        topology: &Topology,
        name: &ModelName,
        version: Option<Version>,
    ) -> Result<Route, Waiting> {
        let mut ready: BTreeMap<Version, Vec<(&NodeName, Digest)>> = BTreeMap::new();
        let mut others = Vec::new();
        for node in &topology.nodes {
            for replica in node.replicas.iter().filter(|replica| replica.model.name == *name) {
                let number = replica.model.version;
                match &replica.stage {
                    _ if version.is_some_and(|version| version != number) => {}
                    ReplicaStage::Ready => ready.entry(number).or_default().push((node.name(), replica.content)),
                    stage => others.push(format!("version {number} on node {}: {stage:?}", node.name())),
                }
            }
        }
        let Some(newest) = ready.keys().next_back().copied() else {
            let mut waiting = unknown_or_not_ready(topology, name, version, &others);
            let is_it = |seen: &ModelId| seen.name == *name && version.is_none_or(|version| version == seen.version);
            waiting.is_unknown &= !self.routes.lock().seen.iter().any(is_it);
            return Err(waiting);
        };
        let preferred = match version {
            Some(version) => version,
            None => {
                let described = self.described(name, newest, &ready[&newest])?;
                let preferred = described.default_version;
                preferred
                    .filter(|version| ready.contains_key(version))
                    .unwrap_or(newest)
            }
        };
        let hosts = &ready[&preferred];
        let described = self.described(name, preferred, hosts)?;
        let (model, interface) = (&described.description.model, described.description.interface);
        let mut route = Vec::new();
        for (node, content) in hosts {
            let of_content = self.routes.lock().described.get(&(model.clone(), *content)).cloned();
            if of_content.is_some_and(|other| other.description.interface == interface) {
                route.extend(self.host(node, model, interface));
            }
        }
        Ok(Route {
            described,
            hosts: route,
        })
    }

    /// What the content looks like that most of these nodes host, of those that are described; the others are asked for.
    fn described(
        self: &Arc<Self>,
        name: &ModelName,
        version: Version,
        hosts: &[(&NodeName, Digest)],
    ) -> Result<Arc<Described>, Waiting> {
        let model = ModelId {
            name: name.clone(),
            version,
        };
        let mut by_content: BTreeMap<Digest, Vec<Arc<Peer>>> = BTreeMap::new();
        for (node, content) in hosts {
            by_content.entry(*content).or_default().extend(self.peer(node));
        }
        let mut best: Option<(usize, Arc<Described>)> = None;
        for (content, peers) in by_content {
            let known = self.routes.lock().described.get(&(model.clone(), content)).cloned();
            match known {
                Some(known) if best.as_ref().is_none_or(|(most, _)| *most < peers.len()) => {
                    best = Some((peers.len(), known));
                }
                Some(_) => {}
                None => self.ask_for_description(&model, content, &peers),
            }
        }
        best.map(|(_, described)| described).ok_or_else(|| Waiting {
            is_unknown: false,
            reason: format!("no node that hosts {model} has described it yet"),
        })
    }

    fn ask_for_description(self: &Arc<Self>, model: &ModelId, content: Digest, hosts: &[Arc<Peer>]) {
        // Who has no link is asked when it has one.
        let Some(link) = hosts.iter().find_map(|peer| peer.link()) else {
            return;
        };
        let place = (model.clone(), content);
        if !self.routes.lock().asked.insert(place.clone()) {
            return;
        }
        let core = Arc::clone(self);
        self.runtime.spawn(async move {
            let call = Call::Describe(place.0.clone());
            let described = match ask(&link, &call, core.options.patience).await {
                Ok(Reply::Description(description)) => understand(*description, &place),
                Ok(other) => Err(format!("{other:?}")),
                Err(error) => Err(error),
            };
            match described {
                Ok(described) => drop(core.routes.lock().described.insert(place.clone(), Arc::new(described))),
                Err(reason) => {
                    debug!(model = %place.0, node = %link.peer().peer, reason, "a model was not described");
                    core.poll_now.notify_one();
                    sleep(core.options.patience / 4).await;
                }
            }
            core.routes.lock().asked.remove(&place);
            core.changed();
        });
    }

    /// The replica of a model on a node, if that node is up.
    pub(super) fn host(self: &Arc<Self>, node: &NodeName, model: &ModelId, interface: Digest) -> Option<Host> {
        let peer = self.peer(node)?;
        let place = (model.clone(), peer.id.clone(), interface);
        let made = || Arc::new(Replica::new(model.clone(), interface, node.clone(), self.start));
        let replica = Arc::clone(self.routes.lock().replicas.entry(place).or_insert_with(made));
        Some(Host { replica, peer })
    }
}

fn unknown_or_not_ready(topology: &Topology, name: &ModelName, version: Option<Version>, others: &[String]) -> Waiting {
    if !others.is_empty() {
        debug!(model = %name, "nobody hosts it ready");
        return Waiting {
            is_unknown: false,
            reason: format!("nobody hosts it ready; {}", others.join(", ")),
        };
    }
    let replicas = || topology.nodes.iter().flat_map(|node| &node.replicas);
    let has: BTreeSet<_> = replicas()
        .filter(|replica| replica.model.name == *name)
        .map(|replica| replica.model.version.to_string())
        .collect();
    let reason = match version.filter(|_| !has.is_empty()) {
        Some(version) => {
            let has: Vec<_> = has.into_iter().collect();
            format!(
                "nobody hosts model `{name}` in version {version}; it has {}",
                has.join(", ")
            )
        }
        None => {
            let near = nearest(name.as_str(), replicas().map(|replica| replica.model.name.as_str()));
            let near = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
            format!("no node of the grid hosts a model `{name}`{near}")
        }
    };
    Waiting {
        is_unknown: true,
        reason,
    }
}

fn understand(description: Description, (asked_for, content): &(ModelId, Digest)) -> Result<Described, String> {
    if description.model != *asked_for {
        return Err(format!("{} was described instead", description.model));
    }
    // What the node hosts may have been replaced since it was said to host this.
    if description.content != *content {
        return Err("another content of it was described".to_owned());
    }
    let file = format!("model.toml of {asked_for}");
    let manifest = Manifest::parse(&file, &description.manifest)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
    let signature = &description.signature;
    Ok(Described {
        initial: initial_states(signature, &manifest)?,
        outputs: signature.outputs.iter().map(|spec| spec.name.as_str().into()).collect(),
        default_version: manifest.default_version,
        description,
    })
}
