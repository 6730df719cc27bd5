//! What this node answers to others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::Addr;
use arc_swap::ArcSwap;
use grid_client::link::{Incoming, Reply as Answering, Service};
use grid_core::InferError;
use grid_core::batching::{DEFAULT_PRIORITY, Entry};
use grid_core::cluster::{NodeId, NodeName, NodeSnapshot, ReplicaStage};
use grid_core::model::ModelId;
use grid_core::tensor::{AlignedBytes, Buffer, Tensor};
use grid_core::wire::call::{Call, Description, Infer, LoadReport, Reply, SequenceCall, Times, Topology, microseconds};
use grid_core::wire::handshake::Peer;
use grid_core::wire::{codec, message};
use tokio::sync::mpsc;
use tracing::{Span, debug, warn};

use crate::actors::grid::{Asked, GridActor};
use crate::actors::{
    AnswerForm, RouterHandle, SequenceMessage, SequenceOrder, Sessions, Told, VersionRoute, WantedOutput, deadline,
};
use crate::compute::{Answer, Outcome, Request};
use crate::runtime::Outputs;
use crate::standing::Standing;
use crate::store::artifacts::ArtifactStore;

/// Outputs before the last that may wait for the mesh.
const PARTS: usize = 16;

/// Most nodes that somebody is referred to.
const MOST_HINTS: usize = 8;

/// Longest part of a file that is sent at once.
const LONGEST_CHUNK: u32 = 1 << 20;

/// What nodes ask of each other beside inference.
pub(crate) struct GridCalls {
    /// This node, in its present life.
    pub(crate) node: Arc<ArcSwap<NodeId>>,
    pub(crate) actor: Addr<GridActor>,
    pub(crate) store: Arc<ArtifactStore>,
    pub(crate) topology: Arc<ArcSwap<Topology>>,
    pub(crate) sessions: Arc<Sessions>,
}

/// Answers on links that others opened; one on each thread of the mesh.
#[derive(Clone)]
pub(crate) struct Answerer {
    pub(crate) router: RouterHandle,
    pub(crate) calls: Arc<GridCalls>,
    pub(crate) standing: Arc<Standing>,
}

/// The same, for one link.
pub(crate) struct LinkAnswerer {
    pub(crate) answerer: Answerer,
    pub(crate) peer: Arc<std::sync::OnceLock<Peer>>,
}

impl Service for LinkAnswerer {
    fn call(&self, incoming: Incoming, reply: Answering) {
        let is_node = || matches!(self.peer.get(), Some(Peer::Node(_)));
        match codec::decode::<Call>("call", &incoming.head) {
            Ok(Call::Infer(call)) => self.answerer.infer(call, &incoming, reply),
            Ok(
                Call::Agent { .. } | Call::Hold(_) | Call::Release(_) | Call::Seek(_) | Call::Give(_) | Call::Vote(_),
            ) if !is_node() => refuse(reply, "only nodes take part in the grid"),
            Ok(Call::Sequence(call)) => self.answerer.sequence(call, incoming, reply),
            Ok(call @ (Call::Hold(_) | Call::Release(_) | Call::Seek(_) | Call::Give(_) | Call::Vote(_))) => {
                let sessions = Arc::clone(&self.answerer.calls.sessions);
                actix::spawn(async move {
                    match sessions.answer(call, incoming.body).await {
                        Ok((answer, body)) => send(reply, &answer, body),
                        Err(reason) => refuse(reply, reason),
                    }
                });
            }
            Ok(call) => self.answerer.other(call, reply),
            Err(error) => {
                debug!(%error, "a call that makes no sense");
                refuse(reply, error.to_string());
            }
        }
    }
}

fn send(mut reply: Answering, answer: &Reply, body: Vec<Buffer>) {
    if let Err(error) = reply.send(codec::encode(answer), body, true) {
        debug!(%error, "an answer was not sent");
    }
}

fn refuse(reply: Answering, reason: impl Into<String>) {
    send(reply, &Reply::Refused(reason.into()), Vec::new());
}

impl Answerer {
    fn infer(&self, call: Infer, incoming: &Incoming, reply: Answering) {
        let accepted = self.standing.accept();
        let arrived = Instant::now();
        let route = self.router.routes().find(&call.model);
        let Some(route) = route.filter(|route| !route.lanes.is_empty() && route.interface == call.interface) else {
            let hint = self.hint(&call.model);
            return send(reply, &Reply::NotOwner { hint }, Vec::new());
        };
        let mut request = match request(&route, &call, incoming, arrived) {
            Ok(request) => request,
            Err(error) => return answer(reply, &route, Err(error)),
        };
        if call.parts && route.in_parts {
            let (partial, parts) = mpsc::channel(PARTS);
            request.partial = Some(partial);
            let router = self.router.clone();
            actix::spawn(async move {
                let _accepted = accepted;
                in_parts(router, route, request, parts, reply).await;
            });
            return;
        }
        if let Some(outcome) = self.router.try_now(&route, &mut request) {
            return answer(reply, &route, outcome);
        }
        let router = self.router.clone();
        actix::spawn(async move {
            let _accepted = accepted;
            tokio::select! {
                biased;
                outcome = router.dispatch_here(&route, request) => answer(reply, &route, outcome),
                () = reply.cancelled() => {}
            }
        });
    }

    /// A message of a sequence, from a client library.
    fn sequence(&self, call: SequenceCall, incoming: Incoming, reply: Answering) {
        let accepted = self.standing.accept();
        let (router, sessions) = (self.router.clone(), Arc::clone(&self.calls.sessions));
        actix::spawn(async move {
            let _accepted = accepted;
            let arrived = Instant::now();
            match in_sequence(&router, &sessions, &call, &incoming, arrived).await {
                Ok(told) => send_told(reply, &told),
                Err(error) => {
                    let may_have_run = !error.can_retry();
                    let load = LoadReport::default();
                    let failed = Reply::Failed {
                        error,
                        may_have_run,
                        load,
                    };
                    send(reply, &failed, Vec::new());
                }
            }
        });
    }

    /// Who else serves the model, as far as is known here.
    fn hint(&self, model: &ModelId) -> Vec<NodeName> {
        let topology = self.calls.topology.load();
        let own = self.calls.node.load();
        let is_ready = |node: &&NodeSnapshot| {
            let replica = node.replica(model);
            node.node != **own && replica.is_some_and(|replica| replica.stage == ReplicaStage::Ready)
        };
        let hosts = topology.nodes.iter().filter(is_ready);
        hosts.take(MOST_HINTS).map(|node| node.name().clone()).collect()
    }

    fn other(&self, call: Call, reply: Answering) {
        match call {
            Call::Agent { to, ask } if to == **self.calls.node.load() => {
                let actor = self.calls.actor.clone();
                actix::spawn(async move {
                    match actor.send(Asked(ask)).await {
                        Ok(answer) => send(reply, &Reply::Agent(answer), Vec::new()),
                        Err(_) => refuse(reply, "the node is stopping"),
                    }
                });
            }
            Call::Agent { to, .. } => refuse(reply, format!("node {to} does not live any more")),
            Call::Describe(model) => match self
                .router
                .routes()
                .find(&model)
                .filter(|route| !route.lanes.is_empty())
            {
                Some(route) => send(reply, &Reply::Description(Box::new(description(&route))), Vec::new()),
                None => {
                    let hint = self.hint(&model);
                    send(reply, &Reply::NotOwner { hint }, Vec::new());
                }
            },
            Call::Topology { known } => {
                let topology = self.calls.topology.load_full();
                let news = (known != Some(topology.digest)).then(|| Box::new(Topology::clone(&topology)));
                send(reply, &Reply::Topology(news), Vec::new());
            }
            Call::Listing(content) => {
                let store = Arc::clone(&self.calls.store);
                read(reply, move || {
                    let listing = store.listing(content).ok_or("it does not have this content")?;
                    Ok((Reply::Listing(listing.encode()), Vec::new()))
                });
            }
            Call::Chunk(chunk) if chunk.length > LONGEST_CHUNK => {
                let found = chunk.length;
                refuse(reply, format!("expected at most {LONGEST_CHUNK} bytes, found {found}"));
            }
            Call::Chunk(chunk) => {
                let store = Arc::clone(&self.calls.store);
                read(reply, move || {
                    let bytes = store.read(&chunk).map_err(|error| error.to_string())?;
                    Ok((Reply::Chunk, vec![AlignedBytes::copy_of(&bytes).freeze()]))
                });
            }
            _ => refuse(reply, "such a call goes another way"),
        }
    }
}

async fn in_sequence(
    router: &RouterHandle,
    sessions: &Arc<Sessions>,
    call: &SequenceCall,
    incoming: &Incoming,
    arrived: Instant,
) -> Result<Told, InferError> {
    let version = call.version.map(|version| version.to_string());
    let route = router.routes().resolve(call.model.as_str(), version.as_deref())?;
    if !call.start {
        sessions.bring(router, &call.model, &call.id, call.token).await?;
    }
    let route = sessions.route(router.routes(), route, &call.id, call.version.is_some(), call.start)?;
    let tensors =
        message::tensors(&call.inputs, &incoming.body).map_err(|error| InferError::Invalid(error.to_string()))?;
    if tensors.len() != call.names.len() {
        let (names, tensors) = (call.names.len(), tensors.len());
        return Err(InferError::Invalid(format!("found {names} names of {tensors} inputs")));
    }
    let named = call.names.iter().map(String::as_str).zip(tensors);
    let inputs = route
        .signature
        .arrange(named, |index| route.initial.get(index).cloned().flatten())?;
    let (key, rows) = route.stacking(&inputs)?;
    let request = Request {
        inputs,
        entry: Entry {
            key,
            rows,
            priority: DEFAULT_PRIORITY,
            arrived,
        },
        deadline: deadline(&route, arrived, incoming.remaining),
        partial: None,
        span: Span::none(),
    };
    let is_state = |index: usize| route.states.iter().any(|state| state.output == index);
    let wanted = (0..route.signature.outputs.len()).filter(|&index| !is_state(index));
    let wanted = wanted.map(|index| WantedOutput {
        index,
        binary: true,
        classification: None,
    });
    let form = AnswerForm {
        model: route.id.clone(),
        signature: Arc::clone(&route.signature),
        id: None,
        wanted: wanted.collect(),
    };
    let order = SequenceOrder {
        start: call.start,
        end: call.end,
        number: Some(call.number),
        token: call.token,
        drawn: true,
    };
    let message = SequenceMessage { request, route, form };
    sessions.infer(router, &call.id, order, message).await
}

fn send_told(reply: Answering, told: &Told) {
    let form = &told.outcome.form;
    let name = |wanted: &WantedOutput| {
        form.signature
            .outputs
            .get(wanted.index)
            .map(|output| output.name.clone())
    };
    let (outputs, body) = match &told.outcome.result {
        Ok(answer) => {
            let (heads, body) = laid_out(&answer.outputs);
            (Ok(heads), body)
        }
        Err(error) => (Err(error.clone()), Vec::new()),
    };
    let told = Reply::Told {
        number: told.number,
        durable: told.durable,
        token: told.token,
        names: form.wanted.iter().filter_map(name).collect(),
        outputs,
    };
    send(reply, &told, body);
}

/// Answers from the disk, on a thread that may wait for it.
fn read(reply: Answering, read: impl FnOnce() -> Result<(Reply, Vec<Buffer>), String> + Send + 'static) {
    actix::spawn(async move {
        match tokio::task::spawn_blocking(read).await {
            Ok(Ok((answer, body))) => send(reply, &answer, body),
            Ok(Err(reason)) => refuse(reply, reason),
            Err(error) => warn!(%error, "reading an artifact ended early"),
        }
    });
}

/// Whatever another node says it has checked is checked again: it may be of another mind, or broken.
fn request(route: &VersionRoute, call: &Infer, incoming: &Incoming, arrived: Instant) -> Result<Request, InferError> {
    let inputs =
        message::tensors(&call.inputs, &incoming.body).map_err(|error| InferError::Invalid(error.to_string()))?;
    let specs = &route.signature.inputs;
    if inputs.len() != specs.len() {
        let (expected, found) = (specs.len(), inputs.len());
        return Err(InferError::Invalid(format!(
            "expected {expected} inputs, found {found}"
        )));
    }
    let named = specs.iter().map(|spec| spec.name.as_str()).zip(inputs);
    let inputs = route.signature.arrange(named, |_| None)?;
    let (key, rows) = route.stacking(&inputs)?;
    let most = route.settings.max_timeout;
    Ok(Request {
        inputs,
        entry: Entry {
            key,
            rows,
            priority: match call.priority {
                0 => DEFAULT_PRIORITY,
                priority => priority,
            },
            arrived,
        },
        deadline: arrived + incoming.remaining.map_or(most, |remaining| remaining.min(most)),
        partial: None,
        span: Span::none(),
    })
}

async fn in_parts(
    router: RouterHandle,
    route: Arc<VersionRoute>,
    request: Request,
    mut parts: mpsc::Receiver<Outputs>,
    mut reply: Answering,
) {
    let outcome = router.dispatch_here(&route, request);
    tokio::pin!(outcome);
    let ended = loop {
        tokio::select! {
            biased;
            Some(outputs) = parts.recv() => {
                reply.ready().await;
                let (heads, body) = laid_out(&outputs);
                if reply.send(codec::encode(&Reply::Part { outputs: heads }), body, false).is_err() {
                    return;
                }
            }
            ended = &mut outcome => break ended,
            () = reply.cancelled() => return,
        }
    };
    // What came before the last answer goes before it.
    while let Ok(outputs) = parts.try_recv() {
        let (heads, body) = laid_out(&outputs);
        if reply
            .send(codec::encode(&Reply::Part { outputs: heads }), body, false)
            .is_err()
        {
            return;
        }
    }
    answer(reply, &route, ended);
}

fn laid_out(outputs: &[Tensor]) -> (Vec<message::TensorHead>, Vec<Buffer>) {
    let (heads, _) = message::lay_out(outputs);
    (heads, outputs.iter().map(|tensor| tensor.data().clone()).collect())
}

fn answer(reply: Answering, route: &VersionRoute, outcome: Outcome) {
    let load = load(route);
    match outcome {
        Ok(Answer { outputs, timing }) => {
            let (heads, body) = laid_out(&outputs);
            let times = Times {
                queued: microseconds(timing.queued),
                computed: microseconds(timing.computed),
                rows: timing.rows as u64,
            };
            let done = Reply::Done {
                outputs: heads,
                times,
                load,
            };
            send(reply, &done, body);
        }
        Err(error) => {
            // What a lane gives back has not run.
            let may_have_run = !error.can_retry();
            let failed = Reply::Failed {
                error,
                may_have_run,
                load,
            };
            send(reply, &failed, Vec::new());
        }
    }
}

fn load(route: &VersionRoute) -> LoadReport {
    let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let in_flight: usize = route.lanes.iter().map(|lane| lane.in_flight()).sum();
    let service = route.lanes.iter().filter_map(|lane| lane.load().service).max();
    LoadReport {
        in_flight: narrow(in_flight as u64),
        instances: narrow(route.lanes.len() as u64),
        // Under a microsecond is not nothing.
        service_us: service.map_or(0, |service: Duration| narrow(microseconds(service).max(1))),
    }
}

fn description(route: &VersionRoute) -> Description {
    Description {
        model: route.id.clone(),
        interface: route.interface,
        signature: route.signature.as_ref().clone(),
        manifest: route.manifest.written.as_str().to_owned(),
        runtime: route.runtime.to_string(),
        instances: u32::try_from(route.instances).unwrap_or(u32::MAX),
        in_parts: route.in_parts,
    }
}
