//! Sends a client's request to a replica: the product's choice and its retry budget, around the simulated run.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use grid_client::link::ExchangeError;
use grid_core::InferError;
use grid_core::cluster::{Digest, NodeName};
use grid_core::dispatch::remote::{RemoteReplica, Report};
use grid_core::dispatch::retry::{Miss, RetryBudget};
use grid_core::dispatch::{Load, choose};
use grid_core::model::ModelId;
use grid_core::tensor::AlignedBytes;
use grid_core::wire::call::{Call, Infer, Reply};
use grid_core::wire::codec::{decode, encode};

use super::Node;

/// What a node's router knows.
#[derive(Debug, Default)]
pub(super) struct Router {
    replicas: BTreeMap<(ModelId, NodeName), RemoteReplica>,
    budget: RetryBudget,
    /// Requests that have no outcome yet.
    pub(super) under_way: usize,
}

/// A body that is a request's number.
pub(crate) fn body_of(request: u64) -> Vec<grid_core::tensor::Buffer> {
    let mut body = AlignedBytes::with_capacity(8);
    body.extend_from_slice(&request.to_le_bytes());
    vec![body.freeze()]
}

impl Node {
    /// Runs a request wherever the model is.
    ///
    /// # Errors
    /// When it did not run, or its answer is lost.
    pub(super) async fn infer(
        &self,
        request: u64,
        model: &ModelId,
        remaining: Option<Duration>,
    ) -> Result<(), InferError> {
        let began = self.now().monotonic;
        let timeout = remaining.unwrap_or(Duration::from_secs(5));
        self.0.core.borrow_mut().router.budget.request();
        let mut missed: Vec<NodeName> = Vec::new();
        let mut hints: Vec<NodeName> = Vec::new();
        for attempts in 1.. {
            let left = (began + timeout).saturating_sub(self.now().monotonic);
            if left.is_zero() {
                let model = model.clone();
                return Err(InferError::DeadlineExceeded { model, timeout });
            }
            let mut candidates = self.hosts_of(model);
            // Who is told to be an owner by one that knows better is tried, too.
            candidates.append(&mut hints);
            candidates.sort();
            candidates.dedup();
            candidates.retain(|name| !missed.contains(name));
            let Some(to) = self.choose(model, &candidates) else {
                return Err(InferError::NotReady {
                    model: model.to_string(),
                    reason: format!("no replica is ready; {} have missed", missed.len()),
                });
            };
            let (reply, miss) = self.attempt(request, model, &to, left).await;
            match reply {
                Some(Reply::Done { .. }) => return Ok(()),
                Some(Reply::NotOwner { hint }) => hints.extend(hint),
                _ => {}
            }
            let now = self.now().monotonic;
            let may_retry = self
                .0
                .core
                .borrow_mut()
                .router
                .budget
                .may_retry(now, miss, attempts, true);
            if !may_retry {
                break;
            }
            missed.push(to);
        }
        Err(InferError::ReplicaLost { model: model.clone() })
    }

    fn choose(&self, model: &ModelId, candidates: &[NodeName]) -> Option<NodeName> {
        let now = self.now().monotonic;
        let entropy = self.0.world.random();
        let mut core = self.0.core.borrow_mut();
        let core = &mut *core;
        let mut cost = |index: usize| {
            let name = &candidates[index];
            if *name == core.id.name {
                let load = Load {
                    in_flight: core.store.runs(),
                    service: Some(core.store.service),
                    capacity: 100,
                };
                return load.cost(Duration::ZERO);
            }
            let known = core.router.replicas.get_mut(&(model.clone(), name.clone()));
            known.map_or(0, |replica| replica.cost(now, Duration::ZERO))
        };
        let costs: Vec<u64> = (0..candidates.len()).map(&mut cost).collect();
        let chosen = choose(candidates.len(), entropy as usize % 8, entropy, |index| costs[index])?;
        Some(candidates[chosen].clone())
    }

    /// One try on one node: what came back, and what it means if that is no answer.
    async fn attempt(&self, request: u64, model: &ModelId, to: &NodeName, left: Duration) -> (Option<Reply>, Miss) {
        if *to == self.0.machine.name {
            return (Some(self.execute(request, model).await), Miss::NotRun);
        }
        let Some(at) = self.address_of(to) else {
            return (None, Miss::NotRun);
        };
        self.replica(model, to, RemoteReplica::sent);
        let infer = Infer {
            model: model.clone(),
            interface: Digest([0; 32]),
            inputs: Vec::new(),
            priority: 0,
            parts: false,
        };
        let answer = self
            .0
            .pool
            .ask(at, encode(&Call::Infer(infer)), body_of(request), left)
            .await;
        let now = self.now().monotonic;
        let reply = answer.and_then(|answer| decode::<Reply>("reply", &answer.head).map_err(|_| ExchangeError::Reset));
        self.replica(model, to, |replica| {
            replica.ended();
            match &reply {
                Ok(Reply::Done { load, .. }) => replica.reports(
                    now,
                    Report {
                        in_flight: load.in_flight as usize,
                        instances: load.instances as usize,
                        service: Some(Duration::from_micros(load.service_us.into())),
                    },
                ),
                _ => replica.failed(now, None),
            }
        });
        match reply {
            Ok(reply) => (Some(reply), Miss::NotRun),
            Err(error) if error.proves_not_run() => (None, Miss::NotRun),
            Err(_) => (None, Miss::Lost),
        }
    }

    fn replica(&self, model: &ModelId, node: &NodeName, change: impl FnOnce(&mut RemoteReplica)) {
        let mut core = self.0.core.borrow_mut();
        change(core.router.replicas.entry((model.clone(), node.clone())).or_default());
    }

    pub(super) fn address_of(&self, name: &NodeName) -> Option<SocketAddr> {
        let core = self.0.core.borrow();
        let node = core.agent.view().node(name)?;
        node.snapshot.as_ref().map(|snapshot| snapshot.addresses.mesh)
    }
}
