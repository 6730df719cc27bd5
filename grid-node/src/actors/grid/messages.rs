//! What the grid actor is told and asked.

use std::sync::Arc;

use actix::{Context, Handler, Message, MessageResult, ResponseFuture};
use grid_core::agent::{Answer, Ask};
use grid_core::catalog::Deployment;
use grid_core::cluster::{Capacity, Digest, NodeSnapshot, ReplicaStage};
use grid_core::membership::Membership;
use grid_core::model::ModelId;
use tokio::sync::oneshot;

use super::status::GridStatus;
use super::{GridActor, now};
use crate::loading::Plan;

/// Another node's agent asks.
#[derive(Debug, Message)]
#[rtype(result = "Answer")]
pub(crate) struct Asked(pub(crate) Ask);

impl Handler<Asked> for GridActor {
    type Result = MessageResult<Asked>;

    fn handle(&mut self, Asked(ask): Asked, ctx: &mut Context<Self>) -> Self::Result {
        let answer = self.agent.asked(now(), &ask);
        self.go_on(ctx);
        MessageResult(answer)
    }
}

/// A repository of this node holds this. Answers with what holds in the grid instead, where that is newer.
#[derive(Debug, Message)]
#[rtype(result = "Option<Instead>")]
pub(crate) struct Found {
    /// What is loaded from it.
    pub plan: Arc<Plan>,
    /// What there is to know for placing it.
    pub deployment: Deployment,
    /// When its files were modified, in milliseconds since 1970.
    pub modified: u64,
}

/// What holds in the grid of a version that a repository of this node holds too.
#[derive(Debug)]
pub(crate) enum Instead {
    /// Another content of it.
    Content(Digest),
    /// It was taken back after its files were modified.
    TakenBack,
}

impl Handler<Found> for GridActor {
    type Result = MessageResult<Found>;

    fn handle(&mut self, found: Found, ctx: &mut Context<Self>) -> Self::Result {
        let model = found.plan.id.clone();
        self.repository.insert(found.deployment.content, found.plan);
        self.agent.artifacts(self.store.contents());
        let other = self.agent.found(now(), model.clone(), found.deployment, found.modified);
        self.agent.tick(now(), rand::random());
        self.go_on(ctx);
        let entry = self.agent.catalog().get(&model);
        let is_taken_back = entry.is_some_and(|entry| entry.deployment.is_none());
        let instead = other.map(|other| Instead::Content(other.content));
        MessageResult(instead.or_else(|| is_taken_back.then_some(Instead::TakenBack)))
    }
}

/// Somebody asks that this be served, whatever was said before.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Deployed {
    /// What is loaded.
    pub plan: Arc<Plan>,
    /// What there is to know for placing it.
    pub deployment: Deployment,
}

impl Handler<Deployed> for GridActor {
    type Result = ();

    fn handle(&mut self, deployed: Deployed, ctx: &mut Context<Self>) {
        let model = deployed.plan.id.clone();
        self.repository.insert(deployed.deployment.content, deployed.plan);
        self.agent.artifacts(self.store.contents());
        self.agent.deploy(now(), model, deployed.deployment);
        self.agent.tick(now(), rand::random());
        self.go_on(ctx);
    }
}

/// Somebody asks that this be served no more.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct TakeBack(pub ModelId);

impl Handler<TakeBack> for GridActor {
    type Result = ();

    fn handle(&mut self, TakeBack(model): TakeBack, ctx: &mut Context<Self>) {
        self.agent.take_back(now(), model);
        self.agent.tick(now(), rand::random());
        self.go_on(ctx);
    }
}

/// This node can hold or do more or less than before.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SetCapacity {
    /// Bytes that its models may take, if that changes.
    pub memory: Option<u64>,
    /// Its relative speed, if that changes.
    pub compute: Option<u32>,
}

impl Handler<SetCapacity> for GridActor {
    type Result = ();

    fn handle(&mut self, set: SetCapacity, ctx: &mut Context<Self>) {
        let own = self
            .agent
            .view()
            .node(self.agent.name())
            .and_then(|node| node.snapshot.as_ref());
        let Some(before) = own.map(|own| own.capacity) else {
            return;
        };
        let capacity = Capacity {
            memory: set.memory.unwrap_or(before.memory),
            compute: set.compute.unwrap_or(before.compute),
        };
        self.agent.set_capacity(now(), capacity);
        self.go_on(ctx);
    }
}

/// This node leaves. Answers when others have taken over what they can.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Leave {
    /// Whether it says farewell at once, and waits for nobody. Its links to others stay: requests that it has may need
    /// them.
    pub now: bool,
}

impl Handler<Leave> for GridActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, leave: Leave, ctx: &mut Context<Self>) -> Self::Result {
        if leave.now {
            // Its links to others stay: what its own callers have sent, or send until they hear, is answered over them.
            self.membership.leave(now());
            self.go_on(ctx);
            return Box::pin(std::future::ready(()));
        }
        let (left, waits) = oneshot::channel();
        self.leaving.push(left);
        self.agent.leave(now());
        self.go_on(ctx);
        Box::pin(async move {
            let _ = waits.await;
        })
    }
}

/// How far this node has come with joining its grid.
#[derive(Debug, Message)]
#[rtype(result = "JoinProgress")]
pub(crate) struct HowFarJoined;

/// See [`HowFarJoined`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct JoinProgress {
    /// It knows what its grid serves, and can pass requests for it on.
    pub(crate) is_caught_up: bool,
    /// It has met nobody of those that it looks for, and has nothing to serve by itself.
    pub(crate) has_nothing: bool,
}

impl Handler<HowFarJoined> for GridActor {
    type Result = MessageResult<HowFarJoined>;

    fn handle(&mut self, _: HowFarJoined, _: &mut Context<Self>) -> Self::Result {
        let is_served = |model: &ModelId| {
            let ready = |node: &NodeSnapshot| {
                let mut replicas = node.replicas.iter();
                replicas.any(|replica| replica.model == *model && replica.stage == ReplicaStage::Ready)
            };
            self.agent.view().up().any(ready)
        };
        let is_routed = |model: &ModelId| self.routes.find(model).is_some_and(|route| route.may_serve());
        let deployed = || self.agent.catalog().deployments().map(|(model, _)| model);
        let looks_for_others = !self.config.grid.seeds.is_empty() && self.is_alone();
        MessageResult(JoinProgress {
            is_caught_up: self.agent.is_settled() && deployed().all(|model| is_routed(model) || !is_served(model)),
            has_nothing: looks_for_others && !deployed().any(is_routed),
        })
    }
}

/// What this node knows of its grid.
#[derive(Debug, Message)]
#[rtype(result = "GridStatus")]
pub struct Status;

impl Handler<Status> for GridActor {
    type Result = MessageResult<Status>;

    fn handle(&mut self, _: Status, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.status())
    }
}
