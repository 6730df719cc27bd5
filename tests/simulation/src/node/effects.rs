//! Carries out what membership and agent decide.

use std::net::SocketAddr;
use std::time::Duration;

use grid_core::agent::{Ask, Effect};
use grid_core::catalog::Deployment;
use grid_core::cluster::{Digest, NodeId};
use grid_core::membership::{Head, Membership, MembershipEffect};
use grid_core::model::ModelId;
use grid_core::wire::call::{Call, Reply};
use grid_core::wire::codec::{decode, encode};
use grid_core::wire::handshake::Peer;
use tokio::time::sleep;

use super::{Core, Node};
use crate::history::Event;
use crate::world::Machine;

/// Patience with another agent.
const PATIENCE: Duration = Duration::from_secs(2);
/// What a transfer takes, and then a load, on a disk that is not slow.
const TRANSFER: [u64; 2] = [100, 800];
const LOAD: [u64; 2] = [50, 400];
/// How often it is looked whether runs have ended.
const LOOK: Duration = Duration::from_millis(20);

impl Core {
    /// Puts a content on the disk, and says so.
    pub(super) fn keep_content(&mut self, machine: &Machine, content: Digest) {
        let mut disk = machine.disk.borrow_mut();
        disk.artifacts.insert(content);
        self.agent.artifacts(disk.artifacts.iter().copied().collect());
    }
}

impl Node {
    /// Carries out all that is decided, and what is decided thereby.
    pub(super) fn carry_out(&self) {
        loop {
            let mut core = self.0.core.borrow_mut();
            if let Some(effect) = core.swim.poll() {
                self.membership(&mut core, effect);
                continue;
            }
            let Some(effect) = core.agent.poll() else {
                break;
            };
            match effect {
                Effect::Ask { to, at, ask } => self.0.spawner.spawn(self.clone().ask(to, at, ask)),
                Effect::Load {
                    model,
                    deployment,
                    memory,
                } => self.0.spawner.spawn(self.clone().load(model, deployment, memory)),
                Effect::Unload { model } => self.unload(&mut core, model),
                Effect::Head { version, catalog } => core.swim.set_head(self.now(), Head { version, catalog }),
                Effect::Keep => {
                    let entries = core.agent.catalog().entries();
                    let entries = entries.map(|(model, entry)| (model.clone(), entry.clone()));
                    self.0.machine.disk.borrow_mut().catalog = entries.collect();
                }
                // The router reads the view itself.
                Effect::Routes => {}
                Effect::Notice(notice) => self.notice(notice.to_string()),
            }
        }
    }

    /// The same, on another task than the main loop, which may then have something else to wait for.
    pub(super) fn carry_out_beside(&self) {
        self.carry_out();
        self.0.changed.notify_one();
    }

    fn notice(&self, text: String) {
        let node = self.0.machine.name.clone();
        self.0.world.record(Event::Notice { node, text });
    }

    fn heard(&self, of: &NodeId, up: bool) {
        self.0.world.record(Event::Heard {
            node: self.0.machine.name.clone(),
            of: of.name.clone(),
            up,
        });
    }

    fn membership(&self, core: &mut Core, effect: MembershipEffect) {
        let now = self.now();
        match effect {
            MembershipEffect::Send { to, bytes } => {
                self.0.datagrams.set(self.0.datagrams.get() + 1);
                let name = turmoil::reverse_lookup(to.ip()).and_then(|name| name.parse().ok());
                if name.is_some_and(|name| !self.0.world.is_lost(&self.0.machine.name, &name)) {
                    // A datagram that is not sent is one that is lost.
                    let _lost = self.0.socket.try_send_to(&bytes, to);
                }
            }
            MembershipEffect::Up(peer) => {
                self.heard(&peer.id, true);
                core.agent.up(now, peer.id, peer.mesh);
            }
            MembershipEffect::Down { node, left } => {
                self.heard(&node, false);
                let at = core
                    .agent
                    .view()
                    .node(&node.name)
                    .and_then(|known| known.snapshot.as_ref());
                if let Some(at) = at.map(|snapshot| snapshot.addresses.mesh) {
                    self.0.pool.close(at);
                }
                core.agent.down(now, &node, left);
            }
            MembershipEffect::Head { node, head } => core.agent.heard(now, &node, head.version, head.catalog),
            MembershipEffect::Renewed(id) => {
                self.0.machine.disk.borrow_mut().generation = id.generation;
                self.0.world.record(Event::Renewed {
                    node: id.name.clone(),
                    generation: id.generation,
                });
                self.0.pool.set_identity(Peer::Node(id.clone()));
                core.id = id.clone();
                core.agent.renew(now, id);
            }
            MembershipEffect::Trouble(trouble) => self.notice(trouble.to_string()),
        }
    }

    async fn ask(self, to: NodeId, at: SocketAddr, ask: Ask) {
        let asked = self.now().monotonic;
        let call = Call::Agent {
            to: to.clone(),
            ask: ask.clone(),
        };
        let answer = self.0.pool.ask(at, encode(&call), Vec::new(), PATIENCE).await;
        let answer = answer
            .ok()
            .and_then(|answer| decode::<Reply>("reply", &answer.head).ok());
        let now = self.now();
        let mut core = self.0.core.borrow_mut();
        match answer {
            Some(Reply::Agent(answer)) => core.agent.answered(now, asked, &to, &ask, answer),
            _ => core.agent.unanswered(&to, &ask),
        }
        drop(core);
        self.carry_out_beside();
    }

    /// What something takes that goes to the disk.
    fn disk_time(&self, [least, most]: [u64; 2]) -> Duration {
        let time = self.0.world.between(least, most);
        Duration::from_millis(time * u64::from(self.0.machine.slow.get()))
    }

    /// What a content takes on this node.
    fn footprint(&self, deployment: &Deployment) -> u64 {
        let surprise = self.0.world.surprise.get();
        let Digest(drawn) = Digest::of(&encode(&(&self.0.machine.name, deployment.content)));
        let range = surprise + surprise / 2;
        deployment.memory / 100 * (100 + u64::from(drawn[0]) * range / 255 - surprise / 2)
    }

    async fn load(self, model: ModelId, deployment: Deployment, bytes: u64) {
        let (node, content) = (self.0.machine.name.clone(), deployment.content);
        let reserved = self.0.core.borrow_mut().store.reserve(&model, content, bytes);
        let loaded = match reserved {
            false => Err("there is no room for it"),
            true => {
                self.0.world.record(Event::LoadBegun {
                    node: node.clone(),
                    model: model.clone(),
                    content,
                    bytes,
                });
                self.bring_in(content).await
            }
        };
        let mut took = None;
        let loaded = loaded.and_then(|()| {
            let bytes = self.footprint(&deployment);
            if self.0.core.borrow_mut().store.settle(&model, content, bytes) {
                return Ok(bytes);
            }
            took = Some(bytes);
            Err("there is no room for what it takes")
        });
        match loaded {
            Ok(bytes) => {
                let mut core = self.0.core.borrow_mut();
                let others = core.store.loaded(&model, content);
                self.0.world.record(Event::Loaded {
                    node,
                    model: model.clone(),
                    content,
                    bytes,
                });
                for other in others {
                    self.retire(&core, model.clone(), other, true);
                }
                core.agent.replica_loaded(self.now(), &model, content, bytes);
            }
            Err(reason) => {
                let mut core = self.0.core.borrow_mut();
                if reserved {
                    core.store.free(&model, content);
                }
                self.0.world.record(Event::LoadFailed {
                    node,
                    model: model.clone(),
                    content,
                    reason: reason.into(),
                });
                core.agent
                    .replica_failed(self.now(), &model, content, reason.into(), took);
            }
        }
        self.carry_out_beside();
    }

    /// Gets a content and loads it.
    async fn bring_in(&self, content: Digest) -> Result<(), &'static str> {
        let machine = &self.0.machine;
        if !machine.disk.borrow().artifacts.contains(&content) {
            self.fetch(content).await?;
            self.0.core.borrow_mut().keep_content(machine, content);
            self.carry_out_beside();
        }
        sleep(self.disk_time(LOAD)).await;
        if machine.failing.get() > 0 {
            machine.failing.set(machine.failing.get() - 1);
            return Err("it could not be loaded");
        }
        Ok(())
    }

    /// Gets a content from the first node that has it.
    async fn fetch(&self, content: Digest) -> Result<(), &'static str> {
        let sources: Vec<SocketAddr> = {
            let core = self.0.core.borrow();
            let has_it = core.agent.view().up().filter(|node| node.artifacts.contains(&content));
            has_it
                .map(|node| node.addresses.mesh)
                .filter(|at| *at != self.0.address)
                .collect()
        };
        for source in sources {
            let call = encode(&Call::Listing(content));
            let answer = self.0.pool.ask(source, call, Vec::new(), PATIENCE).await;
            if answer.is_ok_and(|answer| matches!(decode("reply", &answer.head), Ok(Reply::Listing(_)))) {
                sleep(self.disk_time(TRANSFER)).await;
                return Ok(());
            }
        }
        Err("no node has sent its content")
    }

    fn unload(&self, core: &mut Core, model: ModelId) {
        let closed = core.store.close(&model);
        if closed.is_empty() {
            core.agent.replica_unloaded(self.now(), &model);
        }
        for content in closed {
            self.retire(core, model.clone(), content, false);
        }
    }

    /// Waits until nothing of a content runs any more, and frees its memory.
    fn retire(&self, core: &Core, model: ModelId, content: Digest, replaced: bool) {
        let node = self.0.machine.name.clone();
        let entry = core.agent.catalog().get(&model);
        self.0.world.record(Event::Closing {
            node: node.clone(),
            model: model.clone(),
            content,
            replaced,
            deployed: entry.is_some_and(|entry| entry.deployment.is_some()),
        });
        let this = self.clone();
        self.0.spawner.spawn(async move {
            while this.0.core.borrow().store.runs_of(&model, content) > 0 {
                sleep(LOOK).await;
            }
            let mut core = this.0.core.borrow_mut();
            core.store.free(&model, content);
            this.0.world.record(Event::Freed {
                node,
                model: model.clone(),
                content,
            });
            if !replaced {
                core.agent.replica_unloaded(this.now(), &model);
            }
            drop(core);
            this.carry_out_beside();
        });
    }
}
