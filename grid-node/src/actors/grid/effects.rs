//! What the agent and membership want done.

use std::sync::Arc;
use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use grid_client::link::LinkOptions;
use grid_core::agent::{Ask, Effect};
use grid_core::cluster::{Digest, NodeId};
use grid_core::membership::{Head, Membership, MembershipEffect};
use grid_core::model::ModelId;
use grid_core::wire::call::{Call, Reply, Topology};
use grid_core::wire::codec;
use tracing::{debug, info, warn};

use super::{GridActor, now};
use crate::actors::shard_supervisor::Undeploy;
use crate::mesh::since_start;

/// How long another node may take to answer its agent's question.
const PATIENCE: Duration = Duration::from_secs(3);

impl GridActor {
    pub(super) fn carry_out(&mut self, ctx: &mut Context<Self>) {
        loop {
            if let Some(effect) = self.membership.poll() {
                self.of_membership(effect);
            } else if let Some(effect) = self.agent.poll() {
                self.of_agent(effect, ctx);
            } else {
                break;
            }
        }
        self.publish_members();
        if std::mem::take(&mut self.routes_due) {
            self.publish_routes(ctx);
        }
        if std::mem::take(&mut self.keep_due) {
            self.kept.keep_catalog(self.agent.catalog());
        }
        if !self.leaving.is_empty() && self.agent.has_left() {
            for waits in self.leaving.drain(..) {
                let _ = waits.send(());
            }
        }
    }

    fn of_membership(&mut self, effect: MembershipEffect) {
        match effect {
            MembershipEffect::Send { to, bytes } => self.send_datagram(to, &bytes),
            MembershipEffect::Up(peer) => {
                info!(node = %peer.id, at = %peer.mesh, "a node is up");
                self.peers.meet(&peer.id, peer.mesh);
                self.agent.up(now(), peer.id, peer.mesh);
            }
            MembershipEffect::Down { node, left } => {
                match left {
                    true => info!(%node, "a node has left"),
                    false => warn!(%node, "a node does not answer and is taken to be down"),
                }
                // Of one that does not answer, its host may tell yet that its process is gone.
                if left {
                    self.peers.forget(&node);
                }
                self.agent.down(now(), &node, left);
                self.routes_due = true;
            }
            MembershipEffect::Head { node, head } => self.agent.heard(now(), &node, head.version, head.catalog),
            MembershipEffect::Renewed(node) => self.renewed(node),
            MembershipEffect::Trouble(trouble) => self.troubles.note(trouble.to_string()),
        }
    }

    fn renewed(&mut self, node: NodeId) {
        warn!(%node, "others had taken this node to be down; it goes on as a new generation");
        if let Err(error) = self.kept.keep_generation(node.generation) {
            self.troubles.note(error.to_string());
        }
        let link = LinkOptions {
            identity: grid_core::wire::handshake::Peer::Node(node.clone()),
            ..LinkOptions::clone(&self.link.load())
        };
        self.link.store(Arc::new(link));
        self.node.store(Arc::new(node.clone()));
        self.agent.renew(now(), node);
    }

    fn of_agent(&mut self, effect: Effect, ctx: &mut Context<Self>) {
        match effect {
            Effect::Ask { to, at, ask } => self.ask(to, at, ask, ctx),
            Effect::Load {
                model,
                deployment,
                memory,
            } => self.load(model, &deployment, memory, ctx),
            Effect::Unload { model } => self.unload(model, ctx),
            Effect::Head { version, catalog } => self.membership.set_head(now(), Head { version, catalog }),
            Effect::Keep => self.keep_due = true,
            Effect::Routes => self.routes_due = true,
            Effect::Notice(notice) => self.troubles.note(notice.to_string()),
        }
    }

    fn ask(&mut self, to: NodeId, at: std::net::SocketAddr, ask: Ask, ctx: &mut Context<Self>) {
        let peer = self.peers.meet(&to, at);
        let call = Call::Agent {
            to: to.clone(),
            ask: ask.clone(),
        };
        let asked = since_start();
        let answered = async move { peer.call(&call, Vec::new(), PATIENCE).await };
        let answered = answered.into_actor(self).map(move |reply, this, ctx| {
            match reply {
                Ok((Reply::Agent(answer), _)) => this.agent.answered(now(), asked, &to, &ask, answer),
                other => {
                    if let Err(error) = other {
                        debug!(node = %to, %error, "an agent's question was not answered");
                    }
                    this.agent.unanswered(&to, &ask);
                }
            }
            this.go_on(ctx);
        });
        ctx.spawn(answered);
    }

    fn unload(&mut self, model: ModelId, ctx: &mut Context<Self>) {
        info!(model = %model.name, version = model.version, "others host it now; it is unloaded here");
        let undeployed = self.supervisor.send(Undeploy {
            id: model.clone(),
            forget: true,
        });
        let undeployed = undeployed.into_actor(self).map(move |_, this, ctx| {
            this.in_use.remove(&model);
            this.agent.replica_unloaded(now(), &model);
            this.go_on(ctx);
        });
        ctx.spawn(undeployed);
    }

    fn publish_members(&self) {
        let members = self.agent.view().members(|node| self.peers.is_gone(node));
        self.peers.retain(|name| self.agent.view().node(name).is_some());
        self.members.send_if_modified(|before| {
            let is_news = **before != members;
            if is_news {
                *before = Arc::new(members);
            }
            is_news
        });
    }

    pub(super) fn publish_topology(&self) {
        let nodes: Vec<_> = self.agent.view().up().cloned().collect();
        let digest = Digest::of(&codec::encode(&nodes));
        if self.topology.load().digest != digest {
            self.topology.store(Arc::new(Topology { digest, nodes }));
        }
    }
}
