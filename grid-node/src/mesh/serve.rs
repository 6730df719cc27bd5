//! What this node answers to others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::Addr;
use arc_swap::ArcSwap;
use grid_client::link::{Incoming, Reply as Answering, ReplyError, Service};
use grid_core::InferError;
use grid_core::batching::{DEFAULT_PRIORITY, Entry};
use grid_core::cluster::{Digest, NodeId, NodeName, NodeSnapshot, ReplicaStage};
use grid_core::model::{ModelId, Version};
use grid_core::tensor::{AlignedBytes, Buffer, Tensor};
use grid_core::wire::call::{Call, Description, Infer, LoadReport, Reply, SequenceCall, Times, Topology, microseconds};
use grid_core::wire::handshake::Peer;
use grid_core::wire::message;
use tokio::sync::mpsc;
use tracing::{Span, debug, warn};

use crate::actors::grid::{Asked, GridActor};
use crate::actors::{
    AnswerForm, RouterHandle, SequenceMessage, SequenceOrder, Sessions, Told, VersionRoute, WantedOutput, deadline,
};
use crate::bodies::{Bodies, Held};
use crate::compute::{Answer, Outcome, Request};
use crate::runtime::Outputs;
use crate::standing::Standing;
use crate::store::artifacts::ArtifactStore;

/// Outputs before the last that may wait for the mesh.
const PARTS: usize = 16;

/// Most nodes that somebody is referred to.
const MOST_HINTS: usize = 8;

/// When a request that is refused for the bodies of others may be sent again.
const ROOM_AGAIN: Duration = Duration::from_millis(100);

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
    /// Counts what the requests on all links hold. A link's own bound ends where a message is whole.
    pub(crate) bodies: Arc<Bodies>,
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
        let all = incoming.body.len();
        let (call, incoming) = match incoming.unpack::<Call>() {
            Ok((call, body)) => (call, Incoming { body, ..incoming }),
            Err(error) => {
                debug!(%error, "a call that makes no sense");
                return refuse(reply, error.to_string());
            }
        };
        match call {
            Call::Infer(call) => match self.answerer.room(all) {
                Some(held) => self.answerer.infer(call, &incoming, held, reply),
                None => overloaded(reply, call.model),
            },
            Call::Agent { .. } | Call::Hold(_) | Call::Release(_) | Call::Seek(_) | Call::Give(_) | Call::Vote(_)
                if !is_node() =>
            {
                refuse(reply, "only nodes take part in the grid");
            }
            Call::Sequence(call) => match self.answerer.room(all) {
                Some(held) => self.answerer.sequence(call, incoming, held, reply),
                None => {
                    let version = call.version.unwrap_or(Version::MIN);
                    let name = call.model;
                    overloaded(reply, ModelId { name, version });
                }
            },
            call @ (Call::Hold(_) | Call::Release(_) | Call::Seek(_) | Call::Give(_) | Call::Vote(_)) => {
                let sessions = Arc::clone(&self.answerer.calls.sessions);
                actix::spawn(async move {
                    if reply.is_cancelled() {
                        return;
                    }
                    tokio::select! {
                        biased;
                        answered = sessions.answer(call, incoming.body) => match answered {
                            Ok((answer, body)) => send(reply, &answer, body),
                            Err(reason) => refuse(reply, reason),
                        },
                        () = reply.cancelled() => {}
                    }
                });
            }
            call => self.answerer.other(call, reply),
        }
    }
}

fn send(mut reply: Answering, answer: &Reply, body: Vec<Buffer>) {
    match reply.answer(answer, body, true) {
        Ok(()) => {}
        Err(ReplyError::TooLarge) => too_large(reply, answer),
        Err(error) => debug!(%error, "an answer was not sent"),
    }
}

/// Says instead of an answer that it is larger than messages may be: it would be as large elsewhere, and whoever hears
/// nothing asks elsewhere.
fn too_large(mut reply: Answering, answer: &Reply) {
    const REASON: &str = "the answer is larger than messages between nodes may be";
    let load = match answer {
        Reply::Done { load, .. } => *load,
        _ => LoadReport::default(),
    };
    let instead = match answer {
        Reply::Part { .. } | Reply::Done { .. } | Reply::Told { .. } | Reply::Failed { .. } => Reply::Failed {
            error: InferError::Invalid(REASON.to_owned()),
            may_have_run: true,
            load,
        },
        _ => Reply::Refused(REASON.to_owned()),
    };
    if let Err(error) = reply.answer(&instead, Vec::new(), true) {
        debug!(%error, "an answer was not sent");
    }
}

fn overloaded(reply: Answering, model: ModelId) {
    let failed = Reply::Failed {
        error: InferError::Overloaded {
            model,
            reason: "the bodies of other requests hold all the memory for bodies".to_owned(),
            retry_after: ROOM_AGAIN,
        },
        may_have_run: false,
        load: LoadReport::default(),
    };
    send(reply, &failed, Vec::new());
}

fn refuse(reply: Answering, reason: impl Into<String>) {
    send(reply, &Reply::Refused(reason.into()), Vec::new());
}

impl Answerer {
    /// Room for a body of so many bytes, until the request ends; `None` when all of them together hold too much.
    fn room(&self, bytes: usize) -> Option<Held> {
        let mut held = self.calls.bodies.begin();
        held.grow(bytes).then_some(held)
    }

    fn infer(&self, call: Infer, incoming: &Incoming, held: Held, reply: Answering) {
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
                let _until_its_end = (accepted, held);
                in_parts(router, route, request, parts, reply).await;
            });
            return;
        }
        if let Some(outcome) = self.router.try_now(&route, &mut request) {
            return answer(reply, &route, outcome);
        }
        let router = self.router.clone();
        actix::spawn(async move {
            let _until_its_end = (accepted, held);
            tokio::select! {
                biased;
                outcome = router.dispatch_here(&route, request) => answer(reply, &route, outcome),
                () = reply.cancelled() => {}
            }
        });
    }

    /// A message of a sequence, from a client library.
    fn sequence(&self, call: SequenceCall, incoming: Incoming, held: Held, reply: Answering) {
        let accepted = self.standing.accept();
        let (router, sessions) = (self.router.clone(), Arc::clone(&self.calls.sessions));
        actix::spawn(async move {
            let _until_its_end = (accepted, held);
            let arrived = Instant::now();
            // A message that is not with its sequence yet is of no use to one who has gone. One that is goes its way there.
            if reply.is_cancelled() {
                return;
            }
            let told = tokio::select! {
                biased;
                told = in_sequence(&router, &sessions, &call, &incoming, arrived) => told,
                () = reply.cancelled() => return,
            };
            match told {
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

    /// The content of a model that this node hosts.
    fn content(&self, model: &ModelId) -> Option<Digest> {
        let topology = self.calls.topology.load();
        let own = self.calls.node.load();
        let own = topology.nodes.iter().find(|node| node.node == **own)?;
        own.replica(model).map(|replica| replica.content)
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
                Some(route) if let Some(content) = self.content(&model) => {
                    send(
                        reply,
                        &Reply::Description(Box::new(description(&route, content))),
                        Vec::new(),
                    );
                }
                _ => {
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
        // It waits for a thread, maybe long, and whoever asked may have gone by then.
        let read = move || (!reply.is_cancelled()).then(|| (read(), reply));
        match tokio::task::spawn_blocking(read).await {
            Ok(Some((Ok((answer, body)), reply))) => send(reply, &answer, body),
            Ok(Some((Err(reason), reply))) => refuse(reply, reason),
            Ok(None) => {}
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
    let deadline = request.deadline;
    let timeout = deadline.saturating_duration_since(request.entry.arrived);
    // A reader that takes nothing must not hold a request past its end.
    let too_late = |reply: Answering| {
        let model = route.id.clone();
        answer(reply, &route, Err(InferError::DeadlineExceeded { model, timeout }));
    };
    let outcome = router.dispatch_here(&route, request);
    tokio::pin!(outcome);
    let ended = loop {
        tokio::select! {
            biased;
            Some(outputs) = parts.recv() => {
                if tokio::time::timeout_at(deadline.into(), reply.ready()).await.is_err() {
                    return too_late(reply);
                }
                reply = match send_part(reply, &outputs) {
                    Some(reply) => reply,
                    None => return,
                };
            }
            ended = &mut outcome => break ended,
            () = reply.cancelled() => return,
        }
    };
    // What came before the last answer goes before it.
    while let Ok(outputs) = parts.try_recv() {
        if tokio::time::timeout_at(deadline.into(), reply.ready()).await.is_err() {
            return too_late(reply);
        }
        reply = match send_part(reply, &outputs) {
            Some(reply) => reply,
            None => return,
        };
    }
    answer(reply, &route, ended);
}

/// Sends outputs that come before the last. The reply comes back if something can follow them.
fn send_part(mut reply: Answering, outputs: &[Tensor]) -> Option<Answering> {
    let (outputs, body) = laid_out(outputs);
    let part = Reply::Part { outputs };
    match reply.answer(&part, body, false) {
        Ok(()) => return Some(reply),
        Err(ReplyError::TooLarge) => too_large(reply, &part),
        Err(error) => debug!(%error, "outputs were not sent"),
    }
    None
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

fn description(route: &VersionRoute, content: Digest) -> Description {
    Description {
        model: route.id.clone(),
        interface: route.interface,
        signature: route.signature.as_ref().clone(),
        manifest: route.manifest.written.as_str().to_owned(),
        runtime: route.runtime.to_string(),
        instances: u32::try_from(route.instances).unwrap_or(u32::MAX),
        in_parts: route.in_parts,
        content,
    }
}
