//! What a node answers to others.

use std::time::Duration;

use grid_core::InferError;
use grid_core::agent::Ask;
use grid_core::cluster::{NodeName, ReplicaStage};
use grid_core::model::ModelId;
use grid_core::tensor::Buffer;
use grid_core::wire::call::{Call, LoadReport, Reply, SequenceCall, Times, microseconds};
use grid_core::wire::codec::{decode, encode};
use tokio::sync::mpsc::UnboundedReceiver;

use super::{Node, body_of};
use crate::history::Event;
use crate::links::Asked;

/// What a run takes, in milliseconds.
const RUN: [u64; 2] = [5, 60];

impl Node {
    /// Answers other nodes.
    pub(super) async fn serve_mesh(self, mut questions: UnboundedReceiver<Asked>) {
        while let Some(asked) = questions.recv().await {
            let Ok(call) = decode::<Call>("call", &asked.head) else {
                continue;
            };
            match call {
                Call::Agent { to, ask, .. } => {
                    let answer = self.answer_agent(&to, &ask);
                    send(asked, &answer);
                }
                Call::Listing(content) => {
                    let has_it = self.0.machine.disk.borrow().artifacts.contains(&content);
                    let answer = match has_it {
                        true => Reply::Listing(Vec::new()),
                        false => Reply::Refused("it is not here".into()),
                    };
                    send(asked, &answer);
                }
                Call::Infer(infer) => {
                    let this = self.clone();
                    self.0.spawner.spawn(async move {
                        let answer = match request_of(&asked) {
                            Some(request) => this.execute(request, &infer.model).await,
                            None => Reply::Refused("a request without a number".into()),
                        };
                        send(asked, &answer);
                    });
                }
                Call::Sequence(call) => {
                    let this = self.clone();
                    self.0.spawner.spawn(async move {
                        let (reply, body) = this.tell_sequence(&call, &asked).await;
                        send_with(asked, &reply, body);
                    });
                }
                call @ (Call::Hold(_) | Call::Release(_) | Call::Seek(_) | Call::Give(_) | Call::Vote(_)) => {
                    let this = self.clone();
                    self.0.spawner.spawn(async move {
                        let (reply, body) = this.answer_for_sequence(call, &asked.body).await;
                        send_with(asked, &reply, body);
                    });
                }
                // Nothing that is said here is longer than a head may be.
                Call::Describe(_) | Call::Chunk(_) | Call::Topology { .. } | Call::InBody { .. } => {}
            }
        }
    }

    async fn tell_sequence(&self, call: &SequenceCall, asked: &Asked) -> (Reply, Vec<Buffer>) {
        let told = match request_of(asked) {
            Some(payload) => self.in_sequence(call, payload).await,
            None => Err(InferError::Invalid("a message without a number".into())),
        };
        match told {
            Ok((durable, outcome)) => {
                let told = Reply::Told {
                    number: call.number,
                    durable,
                    token: None,
                    names: Vec::new(),
                    outputs: Ok(Vec::new()),
                };
                (told, body_of(outcome))
            }
            Err(error) => {
                let failed = Reply::Failed {
                    error,
                    may_have_run: true,
                    load: LoadReport::default(),
                };
                (failed, Vec::new())
            }
        }
    }

    fn answer_agent(&self, to: &grid_core::cluster::NodeId, ask: &Ask) -> Reply {
        let mut core = self.0.core.borrow_mut();
        if *to != core.id {
            return Reply::Refused("that life is over".into());
        }
        let answer = core.agent.asked(self.now(), ask);
        drop(core);
        self.carry_out_beside();
        Reply::Agent(answer)
    }

    /// Runs a request here, if this node hosts the model.
    pub(super) async fn execute(&self, request: u64, model: &ModelId) -> Reply {
        let serving = self.0.core.borrow().store.serving(model);
        let Some(content) = serving else {
            return Reply::NotOwner {
                hint: self.hosts_of(model),
            };
        };
        let (node, model) = (self.0.machine.name.clone(), model.clone());
        self.0.core.borrow_mut().store.begin(&model, content);
        self.0.world.record(Event::RunBegun {
            node: node.clone(),
            request,
            model: model.clone(),
            content,
        });
        let took = Duration::from_millis(self.0.world.between(RUN[0], RUN[1]));
        tokio::time::sleep(took).await;
        self.0.core.borrow_mut().store.end(&model, content, took);
        self.0.world.record(Event::RunEnded {
            node,
            request,
            model: model.clone(),
            content,
        });
        let core = self.0.core.borrow();
        let load = LoadReport {
            in_flight: u32::try_from(core.store.runs()).unwrap_or(u32::MAX),
            instances: 1,
            service_us: u32::try_from(core.store.service.as_micros()).unwrap_or(u32::MAX),
        };
        let times = Times {
            computed: microseconds(took),
            ..Times::default()
        };
        Reply::Done {
            outputs: Vec::new(),
            times,
            load,
        }
    }

    /// Who is ready to serve a model, as far as this node knows.
    pub(super) fn hosts_of(&self, model: &ModelId) -> Vec<NodeName> {
        let core = self.0.core.borrow();
        let is_ready = |node: &&grid_core::cluster::NodeSnapshot| {
            node.replica(model)
                .is_some_and(|replica| replica.stage == ReplicaStage::Ready)
        };
        let ready = core.agent.view().up().filter(is_ready);
        ready.map(|node| node.name().clone()).collect()
    }

    /// Answers clients.
    pub(super) async fn serve_gateway(self, mut questions: UnboundedReceiver<Asked>) {
        while let Some(asked) = questions.recv().await {
            let Ok(model) = decode::<ModelId>("model", &asked.head) else {
                continue;
            };
            let this = self.clone();
            self.0.spawner.spawn(async move {
                this.0.core.borrow_mut().router.under_way += 1;
                let answer: Result<u64, InferError> = match request_of(&asked) {
                    Some(request) => this.infer(request, &model, asked.remaining).await.map(|()| request),
                    None => Err(InferError::Invalid("a request without a number".into())),
                };
                send(asked, &answer);
                this.0.core.borrow_mut().router.under_way -= 1;
            });
        }
    }
}

fn request_of(asked: &Asked) -> Option<u64> {
    Some(u64::from_le_bytes(asked.body.as_slice().try_into().ok()?))
}

fn send(asked: Asked, answer: &impl serde::Serialize) {
    send_with(asked, answer, Vec::new());
}

fn send_with(mut asked: Asked, answer: &impl serde::Serialize, body: Vec<Buffer>) {
    // Whoever asked may be gone.
    let _gone = asked.reply.send(encode(answer), body, true);
}
