//! The router: sends each request to the least loaded instance of this node or replica of another, and again elsewhere
//! when it did not run there.
//!
//! One router actor lives on each worker thread of the HTTP gateway, so that a request reaches its router, and a router the
//! instances' lanes, without a hop between threads. Others reach a router through its handle, from whatever thread.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use actix::dev::{MessageResponse, OneshotSender};
use actix::{Actor, Addr, Arbiter, ArbiterHandle, Context, Handler, Message};
use grid_core::InferError;
use grid_core::cluster::NodeName;
use grid_core::dispatch::retry::{Miss, RetryBudget};
use grid_core::dispatch::{LOOK_AT_ALL, choose};
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::oneshot;
use tracing::{Instrument, Span, debug, debug_span, error};

use super::routes::{Lasting, Routes, VersionRoute};
use crate::compute::{Lane, Outcome, Pool, Request};
use crate::mesh::{Remote, RemoteAnswer, RemoteOutcome, since_start};

/// What a router is made with.
#[derive(Clone, Debug)]
pub struct RouterOptions {
    /// Where requests can go.
    pub routes: Arc<Routes>,
    /// The compute threads.
    pub pool: Pool,
    /// This router's number among its siblings: where it begins to look for an instance.
    pub place: usize,
    /// How often requests may be sent again, for all routers of the node together.
    pub retries: Arc<Mutex<RetryBudget>>,
}

/// The way to a router, for whatever thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RouterHandle {
    options: RouterOptions,
    /// Where the router lives, and lives again should it end.
    arbiter: ArbiterHandle,
    router: Arc<Mutex<Addr<Router>>>,
}

impl RouterHandle {
    /// Starts a router on this thread's arbiter.
    pub fn start(options: RouterOptions) -> Self {
        let router = Arc::new(Mutex::new(Router::new(options.clone()).start()));
        Self {
            options,
            arbiter: Arbiter::current(),
            router,
        }
    }

    /// Where requests can go.
    pub fn routes(&self) -> &Arc<Routes> {
        &self.options.routes
    }

    /// The arbiter that the router lives on, for actors that are to live beside it.
    pub fn arbiter(&self) -> &ArbiterHandle {
        &self.arbiter
    }

    /// Sees a request to its end. Dropping the future cancels the request.
    ///
    /// What can run on the caller's thread at once does so here, with the router's own decision and without its mailbox:
    /// a message to an actor of the same thread and its answer cost about as much as a small tree ensemble.
    ///
    /// # Errors
    /// However the request ended, if not with an answer.
    pub async fn dispatch(&self, route: &Arc<VersionRoute>, mut request: Request) -> Outcome {
        match self.try_now(route, &mut request) {
            Some(outcome) => outcome,
            None => self.dispatch_queued(route, request).await,
        }
    }

    /// Runs a request on this thread, if an instance is free and the run is known to be quick.
    pub fn try_now(&self, route: &Arc<VersionRoute>, request: &mut Request) -> Option<Outcome> {
        let span = dispatch_span(route, request);
        span.in_scope(|| run_here(&self.options, route, request))
    }

    /// The way of a request that another node sends: it is answered by an instance of this node, or not at all. Dropping
    /// the future cancels it.
    ///
    /// # Errors
    /// However the request ended; with [`InferError::ReplicaLost`] it did not run.
    pub(crate) async fn dispatch_here(&self, route: &VersionRoute, request: Request) -> Outcome {
        let lost = || {
            Err(InferError::ReplicaLost {
                model: route.id.clone(),
            })
        };
        let answer = match attempt_among(&self.options, &route.lanes, &[], &request, &[]) {
            Attempt::Ended(outcome) => return outcome,
            Attempt::Queued(Answering::Here(answer)) => answer,
            Attempt::Queued(Answering::There(..)) | Attempt::NotRun => return lost(),
        };
        match tokio::time::timeout_at(request.deadline.into(), answer).await {
            Ok(outcome) => outcome.unwrap_or_else(|_| lost()),
            Err(_) => Err(InferError::DeadlineExceeded {
                model: route.id.clone(),
                timeout: request.deadline.saturating_duration_since(request.entry.arrived),
            }),
        }
    }

    /// The way of a request that cannot run at once. Dropping the future cancels it.
    ///
    /// # Errors
    /// However the request ended, if not with an answer.
    pub async fn dispatch_queued(&self, route: &Arc<VersionRoute>, mut request: Request) -> Outcome {
        let span = dispatch_span(route, &mut request);
        let dispatch = Dispatch {
            route: Arc::clone(route),
            request,
            span,
        };
        let model = dispatch.route.id.clone();
        let router = self.router.lock().clone();
        match router.send(dispatch).await {
            Ok(outcome) => outcome,
            // It holds nothing, so a new one takes its place.
            Err(_) => {
                let mut router = self.router.lock();
                if !router.connected() {
                    error!("a router ended; it is started anew");
                    let options = self.options.clone();
                    *router = Router::start_in_arbiter(&self.arbiter, |_| Router::new(options));
                }
                Err(InferError::ModelFailed {
                    model,
                    reason: "its router ended while the request was under way".to_owned(),
                })
            }
        }
    }
}

fn dispatch_span(route: &VersionRoute, request: &mut Request) -> Span {
    let span =
        debug_span!(parent: &request.span, "router.dispatch", model = %route.id.name, version = route.id.version);
    if !span.is_disabled() {
        request.span = span.clone();
    }
    span
}

/// The router of one thread.
#[derive(Debug)]
pub struct Router {
    options: RouterOptions,
}

impl Router {
    /// A router, to be started on its thread.
    pub fn new(options: RouterOptions) -> Self {
        Self { options }
    }
}

/// Places in the mailbox. Admission is bounded in the lanes; a sender that had to wait here would wait for nothing.
const MAILBOX: usize = 1 << 16;

impl Actor for Router {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

/// Sends a request to the model version of `route`. Dropping the future of the send cancels the request.
#[derive(Debug, Message)]
#[rtype(result = "Outcome")]
pub struct Dispatch {
    /// The model version, as resolved when the request came.
    pub route: Arc<VersionRoute>,
    /// The request.
    pub request: Request,
    /// What the router does is a part of this span.
    pub span: Span,
}

/// An outcome that is there at once, or one that takes its time.
pub enum Reply {
    /// It ran, or was refused, within the message's handler.
    Now(Outcome),
    /// It waits in a lane, or for an instance.
    Later(Pin<Box<dyn Future<Output = Outcome>>>),
}

impl MessageResponse<Router, Dispatch> for Reply {
    fn handle(self, _: &mut Context<Router>, reply: Option<OneshotSender<Outcome>>) {
        let Some(mut reply) = reply else { return };
        match self {
            // Whoever asked may be gone; then nobody wants the outcome.
            Self::Now(outcome) => drop(reply.send(outcome)),
            // Dropping a send future cancels nothing in actix, but it closes the channel: watching that carries the
            // cancellation to the lane.
            Self::Later(outcome) => {
                actix::spawn(async move {
                    tokio::select! {
                        biased;
                        outcome = outcome => drop(reply.send(outcome)),
                        () = reply.closed() => {}
                    }
                });
            }
        }
    }
}

impl Handler<Dispatch> for Router {
    type Result = Reply;

    fn handle(&mut self, Dispatch { route, request, span }: Dispatch, _: &mut Self::Context) -> Reply {
        let first = match span.in_scope(|| {
            self.options.retries.lock().request();
            attempt(&self.options, &route, &request, &[])
        }) {
            Attempt::Ended(outcome) => return Reply::Now(outcome),
            Attempt::Queued(answering) => Some(answering),
            Attempt::NotRun => None,
        };
        let finished = finish(self.options.clone(), route, request, first);
        Reply::Later(Box::pin(finished.instrument(span)))
    }
}

enum Attempt {
    Ended(Outcome),
    Queued(Answering),
    /// Nobody took it, and it surely did not run.
    NotRun,
}

/// A request that somebody has.
enum Answering {
    /// An instance of this node.
    Here(oneshot::Receiver<Outcome>),
    /// A replica of another.
    There(Arc<Remote>, RemoteAnswer),
}

/// Runs a request on this thread, if an instance is free and the run is known to be quick.
fn run_here(options: &RouterOptions, route: &VersionRoute, request: &Request) -> Option<Outcome> {
    let lanes = &route.lanes;
    // The router's own place comes first, so that routers do not meet at one lane while others are free; and what can run
    // here and now is not compared by cost: it costs nothing to wait for.
    let start = options.place.checked_rem(lanes.len()).unwrap_or(0);
    let (before, from) = lanes.split_at(start);
    let mut nearest_first = from.iter().chain(before).take(LOOK_AT_ALL);
    nearest_first.find_map(|lane| lane.run_inline(request))
}

/// Gives a request to whoever would answer it soonest; `tried` are nodes that did not.
fn attempt(options: &RouterOptions, route: &VersionRoute, request: &Request, tried: &[NodeName]) -> Attempt {
    attempt_among(options, &route.lanes, &route.remotes, request, tried)
}

fn attempt_among(
    options: &RouterOptions,
    lanes: &[Arc<Lane>],
    remotes: &[Arc<Remote>],
    request: &Request,
    tried: &[NodeName],
) -> Attempt {
    let candidates = lanes.len() + remotes.len();
    let entropy = if candidates > LOOK_AT_ALL { rand::random() } else { 0 };
    let known = lanes.iter().filter_map(|lane| lane.load().service);
    let unknown = known
        .chain(remotes.iter().filter_map(|remote| remote.service()))
        .max()
        .unwrap_or_default();
    let cost = |index: usize| match lanes.get(index) {
        // It is out of the table a moment later; whoever has not seen that yet would find it the least loaded of all.
        Some(lane) if lane.is_closed() => u64::MAX,
        Some(lane) => lane.load().cost(unknown),
        None => match &remotes[index - lanes.len()] {
            remote if tried.contains(remote.node()) => u64::MAX,
            remote => remote.cost(unknown),
        },
    };
    // Lanes stand first, so a router that begins among them meets its own node before any other.
    let start = options.place.checked_rem(lanes.len()).unwrap_or(options.place);
    let Some(chosen) = choose(candidates, start, entropy, cost) else {
        return Attempt::NotRun;
    };
    let Some(lane) = lanes.get(chosen) else {
        let remote = &remotes[chosen - lanes.len()];
        if cost(chosen) == u64::MAX {
            return Attempt::NotRun;
        }
        return Attempt::Queued(Answering::There(Arc::clone(remote), remote.infer(request)));
    };
    match lane.enqueue(request) {
        Ok(answer) => {
            options.pool.wake(lane);
            Attempt::Queued(Answering::Here(answer))
        }
        Err(InferError::ReplicaLost { .. }) => Attempt::NotRun,
        Err(error) => {
            let elsewhere = remotes
                .iter()
                .filter(|remote| !tried.contains(remote.node()))
                .map(|remote| (remote.cost(unknown), remote))
                .min_by_key(|(cost, _)| *cost)
                .filter(|(cost, _)| *cost < u64::MAX && options.may_retry(Miss::Overloaded, 1));
            match elsewhere {
                Some((_, remote)) => Attempt::Queued(Answering::There(Arc::clone(remote), remote.infer(request))),
                None => Attempt::Ended(Err(error)),
            }
        }
    }
}

impl RouterOptions {
    fn may_retry(&self, miss: Miss, attempts: u32) -> bool {
        // A sequence's state travels with each of its steps, so a step too can run twice without harm.
        self.retries.lock().may_retry(since_start(), miss, attempts, true)
    }
}

/// Sees a request to its end: waits for its answer until the deadline, and sends it again when whoever had it was lost, or
/// did not run it.
async fn finish(
    options: RouterOptions,
    route: Arc<VersionRoute>,
    request: Request,
    mut answering: Option<Answering>,
) -> Outcome {
    let id = route.id.clone();
    let work = async {
        let mut changes = options.routes.watch();
        let mut route = route;
        let mut attempts = 0;
        let mut tried: SmallVec<[NodeName; 2]> = SmallVec::new();
        // What the table will show when it has heard of it, and a node that hosts the model no more knows already.
        let mut referred: Vec<Arc<Remote>> = Vec::new();
        loop {
            match answering.take() {
                None => {}
                Some(Answering::Here(answer)) => match answer.await {
                    Ok(Err(InferError::ReplicaLost { .. })) => debug!("its instance ended; it is sent again"),
                    Ok(outcome) => return outcome,
                    // Every job is answered by whoever holds it; only a dead compute thread breaks that.
                    Err(_) => {
                        return Err(InferError::ModelFailed {
                            model: route.id.clone(),
                            reason: "the run ended without an answer".to_owned(),
                        });
                    }
                },
                Some(Answering::There(remote, answer)) => match answer.await {
                    RemoteOutcome::Ended(outcome) => return outcome,
                    RemoteOutcome::Missed { miss, error, hint } => {
                        attempts += 1;
                        debug!(node = %remote.node(), ?miss, %error, ?hint, attempts, "not answered there");
                        if !options.may_retry(miss, attempts) {
                            return Err(error);
                        }
                        tried.push(remote.node().clone());
                        refer(&mut referred, &remote, &hint);
                    }
                },
            }
            changes.mark_unchanged();
            let version = route.id.version.to_string();
            let now = options.routes.resolve(route.id.name.as_str(), Some(&version))?;
            if now.may_serve() && !now.takes_what_was_checked_for(&route) {
                return Err(InferError::NotReady {
                    model: route.id.to_string(),
                    reason: "it was replaced by another content meanwhile; send the request again".to_owned(),
                });
            }
            route = now;
            let in_table = |remote: &Arc<Remote>| route.remotes.iter().any(|known| known.node() == remote.node());
            referred.retain(|remote| !in_table(remote));
            let attempted = match referred.is_empty() {
                true => attempt(&options, &route, &request, &tried),
                false => {
                    let remotes: Vec<_> = route.remotes.iter().chain(&referred).cloned().collect();
                    attempt_among(&options, &route.lanes, &remotes, &request, &tried)
                }
            };
            match attempted {
                Attempt::Ended(outcome) => return outcome,
                Attempt::Queued(queued) => answering = Some(queued),
                Attempt::NotRun => {
                    park(&route, &mut changes).await?;
                    tried.clear();
                }
            }
        }
    };
    match tokio::time::timeout_at(request.deadline.into(), work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(InferError::DeadlineExceeded {
            model: id,
            timeout: request.deadline.saturating_duration_since(request.entry.arrived),
        }),
    }
}

/// Remembers the replicas that a node has referred a request to. They take part in the choice like those of the table.
fn refer(referred: &mut Vec<Arc<Remote>>, by: &Remote, to: &[NodeName]) {
    for node in to {
        if referred.len() < MOST_REFERRED && referred.iter().all(|known| known.node() != node) {
            referred.extend(by.sibling(node));
        }
    }
}

/// Replicas that one request is referred to at most.
const MOST_REFERRED: usize = 8;

/// How long a request that nobody took waits at most before it looks again: nodes that were lost are found again without
/// a change of the table.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Waits for the next change of the route table, when one may bring an instance.
async fn park(route: &VersionRoute, changes: &mut tokio::sync::watch::Receiver<u64>) -> Result<(), InferError> {
    // A lane that was chosen while it closed is out of the table a moment later: that too is a change to wait for.
    if !route.may_serve() {
        return Err(route.not_ready());
    }
    let Some(_place) = Parked::take(route) else {
        return Err(InferError::Overloaded {
            model: route.id.clone(),
            reason: format!("{} requests wait for an instance already", route.settings.policy.bound),
            retry_after: Duration::from_secs(1),
        });
    };
    // The sender lives in the routes that `route` came from, so the wait ends with a change.
    let changed = changes.changed();
    match route.remotes.is_empty() {
        true => drop(changed.await),
        false => drop(tokio::time::timeout(LOOK_AGAIN, changed).await),
    }
    Ok(())
}

impl VersionRoute {
    /// Whether a request that was put in order and checked for `other` may run here, and its outputs be named by it.
    pub(crate) fn takes_what_was_checked_for(&self, other: &Self) -> bool {
        self.interface == other.interface
            && self.initial == other.initial
            && self.axes == other.axes
            && self.states == other.states
            && self.settings.policy.max_rows == other.settings.policy.max_rows
    }
}

/// A place among the requests that wait for an instance: as many as its queue would hold.
struct Parked(Arc<Lasting>);

impl Parked {
    fn take(route: &VersionRoute) -> Option<Self> {
        let parked = Self(Arc::clone(&route.lasting));
        let before = parked.0.parked.fetch_add(1, Ordering::Relaxed);
        (before < route.settings.policy.bound).then_some(parked)
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        self.0.parked.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The deadline of a request that came now.
pub(crate) fn deadline(route: &VersionRoute, now: Instant, timeout: Option<std::time::Duration>) -> Instant {
    now + timeout
        .unwrap_or(route.settings.timeout)
        .min(route.settings.max_timeout)
}
