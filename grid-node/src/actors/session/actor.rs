//! The actor of one sequence.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Message, SpawnHandle, WrapFuture};
use grid_core::InferError;
use grid_core::cluster::NodeId;
use grid_core::sequence::{
    Attached, Cancelled, Export, Keeper, Limits, Offered, Sequence, SequenceError, SequenceId, Step, StepEnd, Token,
};
use grid_core::tensor::Tensor;
use grid_core::wire::sequence::SequenceKey;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::keeping::Departure;
use super::message::{MAX_REQUEST_ID, Reader, SequenceEvent, SequenceMessage, Stamp, StepOutcome, Ticket, Told, pick};
use super::registry::{Grave, Incarnation, Sessions};
use crate::actors::router::RouterHandle;
use crate::actors::routes::VersionRoute;
use crate::compute::{Answer, Outcome};
use crate::loading::HeldMemory;

/// The states of a sequence, in the order of the route's slots.
pub(super) type States = SmallVec<[Tensor; 2]>;
type Core = Sequence<Pending, Arc<StepOutcome>, States>;

/// What a message or an outcome takes beside its tensors' bytes: the shared pointers, the form, the places in queues.
const MESSAGE_OVERHEAD: usize = 512;
/// What a sequence takes beside its state and its outcomes: the actor, its mailbox, its entries in tables.
const SESSION_OVERHEAD: u64 = 4 << 10;

/// What a caller of one message is answered.
pub(super) type CallerReply = oneshot::Sender<Result<Told, InferError>>;

/// A message on its way through its sequence.
#[derive(Debug)]
pub(super) struct Pending {
    message: SequenceMessage,
    pub(super) sender: Sender,
    /// What it holds.
    bytes: usize,
}

#[derive(Debug)]
pub(super) enum Sender {
    Reader(Stamp, Ticket),
    Caller(CallerReply),
}

/// A caller whose message has its outcome, and who is told of it when it is durable.
pub(super) struct Awaiting {
    pub(super) number: u64,
    pub(super) arrived: Instant,
    pub(super) deadline: Instant,
    pub(super) reply: CallerReply,
    pub(super) outcome: Arc<StepOutcome>,
}

/// What a sequence goes on with that another node had before.
pub(super) struct Inherited {
    pub(super) export: Export<Arc<StepOutcome>, States>,
    /// A node that has all of it, and this one for its home.
    pub(super) keeper: Option<Keeper>,
}

impl Pending {
    fn new(mut message: SequenceMessage, sender: Sender) -> Self {
        // A tensor of a body keeps all of the body; it may have to wait, and only what it needs is counted.
        for tensor in &mut message.request.inputs {
            *tensor = tensor.compact();
        }
        let bytes = message.request.bytes() + message.form.id.as_ref().map_or(0, |id| id.len()) + MESSAGE_OVERHEAD;
        Self { message, sender, bytes }
    }
}

/// What a session actor is made with.
pub(super) struct Parts {
    pub(super) incarnation: Incarnation,
    pub(super) token: Token,
    /// Whether callers need no token.
    pub(super) open: bool,
    pub(super) inherited: Option<Inherited>,
    /// The term, for whoever asks.
    pub(super) term: Arc<AtomicU64>,
    pub(super) reader: Option<Reader>,
    pub(super) route: Arc<VersionRoute>,
    pub(super) router: RouterHandle,
    pub(super) sessions: Arc<Sessions>,
    pub(super) memory: HeldMemory,
    pub(super) limits: Limits,
    pub(super) life: Duration,
}

/// The actor of one sequence. See the parent module.
pub(super) struct SessionActor {
    pub(super) core: Core,
    pub(super) incarnation: Incarnation,
    pub(super) open: bool,
    pub(super) reader: Option<Reader>,
    pub(super) route: Arc<VersionRoute>,
    router: RouterHandle,
    pub(super) sessions: Arc<Sessions>,
    /// Taken when the sequence is buried.
    pub(super) memory: Option<HeldMemory>,
    /// Looks after the copy on a second node, where there is to be one.
    pub(super) keeper: Option<Keeper>,
    pub(super) term: Arc<AtomicU64>,
    pub(super) awaiting: VecDeque<Awaiting>,
    pub(super) looks_again: bool,
    /// A node that has refused its copy, and when.
    pub(super) refused: Option<(NodeId, Instant)>,
    /// The last term in which something was durable; a sequence begins in its first.
    pub(super) began: u64,
    /// The second node is told that it has ended.
    end_is_told: bool,
    pub(super) departure: Option<(Departure, Instant)>,
    /// Set while the budget could not hold what is kept: no message is taken then.
    over_budget: bool,
    limits: Limits,
    pub(super) life: Duration,
    last_heard: Instant,
    /// Bytes of the messages that wait and run.
    waiting_bytes: usize,
    pub(super) running: Option<(u64, Pending, SpawnHandle)>,
    /// One that never started is dropped by whoever tried to start it, and is in nobody's table.
    started: bool,
}

/// The initial state of a sequence.
fn initial(route: &VersionRoute) -> States {
    let of = |input: usize| route.initial.get(input).cloned().flatten();
    route.states.iter().filter_map(|slot| of(slot.input)).collect()
}

/// Bytes that a new sequence takes.
pub(super) fn first_bytes(route: &VersionRoute) -> u64 {
    SESSION_OVERHEAD + state_bytes(&initial(route))
}

fn state_bytes(states: &States) -> u64 {
    let bytes: usize = states.iter().map(|tensor| tensor.data().len()).sum();
    // The one that is kept, and the one that the next step makes.
    2 * bytes as u64
}

impl SessionActor {
    /// The actor, and what its first reader is attached by.
    pub(super) fn new(parts: Parts) -> (Self, Option<Attached>) {
        let is_copied = parts.sessions.company().is_some() && parts.route.manifest.limits.are_sequences_copied();
        let (mut core, keeper) = match parts.inherited {
            None => {
                let core = Core::start(parts.token, initial(&parts.route), parts.limits);
                (core, Keeper::new(1, None))
            }
            Some(Inherited { export, keeper }) => {
                let term = export.term;
                let core = Core::import(export, parts.limits);
                (core, keeper.unwrap_or_else(|| Keeper::new(term, None)))
            }
        };
        parts.term.store(core.term(), std::sync::atomic::Ordering::Relaxed);
        let attached = parts.reader.as_ref().and_then(|_| core.attach(&parts.token, 0).ok());
        let actor = Self {
            core,
            incarnation: parts.incarnation,
            open: parts.open,
            reader: parts.reader,
            route: parts.route,
            router: parts.router,
            sessions: parts.sessions,
            memory: Some(parts.memory),
            keeper: is_copied.then_some(keeper),
            term: parts.term,
            awaiting: VecDeque::new(),
            looks_again: false,
            refused: None,
            began: 1,
            end_is_told: false,
            departure: None,
            over_budget: false,
            waiting_bytes: 0,
            limits: parts.limits,
            life: parts.life,
            last_heard: Instant::now(),
            running: None,
            started: false,
        };
        (actor, attached)
    }

    pub(super) fn key(&self) -> SequenceKey {
        self.incarnation.wire_key()
    }

    pub(super) fn id(&self) -> &SequenceId {
        &self.incarnation.key.1
    }

    pub(super) fn error(&self, error: SequenceError) -> InferError {
        InferError::Sequence {
            id: self.id().clone(),
            error,
        }
    }

    /// The present reader's stamp.
    fn stamp(&self) -> Stamp {
        Stamp {
            incarnation: self.incarnation.number,
            epoch: self.core.epoch(),
        }
    }

    pub(super) fn tell(&self, event: SequenceEvent) -> bool {
        let stamp = self.stamp();
        let told = |reader: &Reader| reader.events.send((self.id().clone(), stamp, event)).is_ok();
        self.reader.as_ref().is_some_and(told)
    }

    pub(super) fn told(&self, number: u64, outcome: Arc<StepOutcome>) -> Told {
        Told {
            number,
            durable: self.core.durable(),
            ends: self.core.has_ended() && number == self.core.done(),
            token: None,
            outcome,
        }
    }

    /// A message that is not taken, or comes back.
    fn refuse(&self, sender: Sender, number: Option<u64>, error: InferError) {
        let present = self.stamp();
        let ticket = match sender {
            Sender::Reader(stamp, ticket) => (stamp == present).then_some(ticket),
            Sender::Caller(reply) => {
                // A caller who has gone wants no answer.
                let _ = reply.send(Err(error.clone()));
                None
            }
        };
        // The reader hears of what others sent too, where it changes the numbers.
        if ticket.is_some() || number.is_some_and(|number| number > self.core.done()) {
            self.tell(SequenceEvent::Refused { ticket, number, error });
        }
    }

    fn offer(&mut self, pending: Pending, number: Option<u64>, ends: bool) {
        let Err(refused) = self.admit(pending, number, ends) else {
            return;
        };
        let (error, pending) = *refused;
        // What was never taken changes no number of anybody else.
        match pending.sender {
            Sender::Caller(reply) => drop(reply.send(Err(error))),
            sender @ Sender::Reader(..) => self.refuse(sender, number, error),
        }
    }

    fn admit(&mut self, pending: Pending, number: Option<u64>, ends: bool) -> Result<(), Box<(InferError, Pending)>> {
        if pending
            .message
            .form
            .id
            .as_ref()
            .is_some_and(|id| id.len() > MAX_REQUEST_ID)
        {
            let reason = format!("`id`: expected at most {MAX_REQUEST_ID} bytes in a sequence");
            return Err(Box::new((InferError::Invalid(reason), pending)));
        }
        if self.departure.is_some() {
            let error = InferError::NotReady {
                model: self.route.id.to_string(),
                reason: format!(
                    "sequence `{}` moves to another node; send it again, by its number",
                    self.id()
                ),
            };
            return Err(Box::new((error, pending)));
        }
        let bytes = pending.bytes;
        if self.over_budget || !self.account(bytes) {
            let error = InferError::Overloaded {
                model: self.route.id.clone(),
                reason: "the memory budget has no room for what the sequence would keep".to_owned(),
                retry_after: Duration::from_secs(1),
            };
            return Err(Box::new((error, pending)));
        }
        match self.core.offer(number, pending, ends) {
            Offered::Accepted(_) => self.waiting_bytes += bytes,
            Offered::Repeated(number, outcome, pending) => {
                let told = self.told(number, outcome);
                match pending.sender {
                    Sender::Caller(reply) if number > self.core.durable() => {
                        let entry = &pending.message.request;
                        let (arrived, deadline) = (entry.entry.arrived, entry.deadline);
                        self.await_durable(number, arrived, deadline, reply, told.outcome);
                    }
                    Sender::Caller(reply) => drop(reply.send(Ok(told))),
                    Sender::Reader(_, ticket) => {
                        let ticket = Some(ticket);
                        self.tell(SequenceEvent::Told { ticket, told });
                    }
                }
            }
            Offered::Refused(error, pending) => {
                let error = match error {
                    SequenceError::OutOfOrder { found, .. } if self.is_perhaps_behind(found) => self.is_behind(),
                    error => self.error(error),
                };
                return Err(Box::new((error, pending)));
            }
        }
        Ok(())
    }

    /// Whether somebody who knows of this number may know it from another home, one that this has not heard of yet.
    fn is_perhaps_behind(&mut self, number: u64) -> bool {
        let is_next_known = number <= self.core.next();
        let keeper = self.keeper.as_mut().filter(|_| !is_next_known);
        keeper.is_some_and(|keeper| !keeper.is_home_still(number))
    }

    fn is_behind(&self) -> InferError {
        InferError::NotReady {
            model: self.route.id.to_string(),
            reason: format!(
                "sequence `{}`: this node may be behind another one; send it again, by its number",
                self.id()
            ),
        }
    }

    /// Does what there is to do: steps, outcomes, memory, the end.
    fn go_on(&mut self, ctx: &mut Context<Self>) {
        self.last_heard = Instant::now();
        self.after_keeping(ctx);
    }

    /// The same, where nobody has said anything to the sequence.
    pub(super) fn after_keeping(&mut self, ctx: &mut Context<Self>) {
        self.deliver();
        while self.running.is_none() && self.departure.is_none() {
            match self.core.next_step() {
                None => break,
                Some(Step::Cancelled { number, message }) => self.over(number, message, Err(InferError::Cancelled)),
                Some(Step::Run { message, state, .. }) => self.run(message, state, ctx),
            }
        }
        self.over_budget = !self.account(0);
        let has_ended = self.core.has_ended() && self.core.is_idle();
        if has_ended
            && let Some(keeper) = &mut self.keeper
            && !mem::replace(&mut self.end_is_told, true)
        {
            keeper.touch();
        }
        self.keep(ctx);
        if self.depart(ctx) {
            return;
        }
        let is_told = self.keeper.as_ref().is_none_or(Keeper::is_quiet);
        if has_ended && self.core.is_settled() && is_told {
            self.tell(SequenceEvent::Ended { last: self.core.done() });
            self.bury(ctx);
        }
    }

    fn run(&mut self, mut pending: Pending, state: States, ctx: &mut Context<Self>) {
        let number = self.core.done() + 1;
        let Some(route) = self.router.routes().find(&self.route.id) else {
            let reason = format!("{} is not served any more", self.route.id);
            return self.over(number, pending, Err(InferError::NotFound(reason)));
        };
        // The state was made by one content, the message checked for one, and another may be in memory by now.
        let fits = |other: &VersionRoute| route.takes_what_was_checked_for(other);
        if route.may_serve() && !(fits(&self.route) && fits(&pending.message.route)) {
            let reason = "the model was replaced by one of another signature; start the sequence anew".to_owned();
            return self.over(number, pending, Err(InferError::Invalid(reason)));
        }
        let mut request = pending.message.request.clone();
        for (slot, state) in route.states.iter().zip(state) {
            if let Some(input) = request.inputs.get_mut(slot.input) {
                *input = state;
            }
        }
        match route.stacking(&request.inputs) {
            Ok((key, rows)) => (request.entry.key, request.entry.rows) = (key, rows),
            Err(error) if route.may_serve() => return self.over(number, pending, Err(error)),
            Err(_) => {}
        }
        pending.message.route = Arc::clone(&route);
        let router = self.router.clone();
        let dispatched = async move { router.dispatch(&route, request).await };
        let step = dispatched
            .into_actor(self)
            .map(move |outcome, this, ctx| this.ran(number, outcome, ctx));
        self.running = Some((number, pending, ctx.spawn(step)));
    }

    fn ran(&mut self, number: u64, outcome: Outcome, ctx: &mut Context<Self>) {
        // A step that was cancelled when it had just ended may still say so, while the next one runs already.
        let Some((_, pending, _)) = self.running.take_if(|(running, ..)| *running == number) else {
            return;
        };
        match outcome {
            Ok(answer) => {
                let outputs = &answer.outputs;
                let of = |output: usize| outputs.get(output).map(Tensor::compact);
                let slots = &pending.message.route.states;
                let state: Option<States> = slots.iter().map(|slot| of(slot.output)).collect();
                let picked = pick(&pending.message.form.wanted, outputs);
                let answer = Answer {
                    outputs: picked.iter().map(Tensor::compact).collect(),
                    timing: answer.timing,
                };
                match state {
                    Some(state) => self.step_ended(number, pending, Ok(answer), Some(state)),
                    None => {
                        let error = InferError::ModelFailed {
                            model: self.route.id.clone(),
                            reason: "a state did not come out".to_owned(),
                        };
                        self.over(number, pending, Err(error));
                    }
                }
            }
            // Nothing ran: the numbers are free again, and the sender decides.
            Err(error) if error.can_retry() => {
                let back = self.core.step_ended(StepEnd::NotRun(pending));
                for (number, pending) in (number..).zip(back) {
                    self.waiting_bytes -= pending.bytes;
                    self.refuse(pending.sender, Some(number), error.clone());
                }
            }
            Err(error) => self.over(number, pending, Err(error)),
        }
        self.go_on(ctx);
    }

    fn over(&mut self, number: u64, pending: Pending, result: Outcome) {
        self.step_ended(number, pending, result, None);
    }

    fn step_ended(&mut self, number: u64, pending: Pending, result: Outcome, state: Option<States>) {
        let Pending { message, sender, bytes } = pending;
        self.waiting_bytes -= bytes;
        let of_result = match &result {
            Ok(answer) => answer.outputs.iter().map(|tensor| tensor.data().len()).sum(),
            Err(error) => error.to_string().len(),
        };
        let of_id = message.form.id.as_ref().map_or(0, |id| id.len());
        let bytes = of_result + of_id + MESSAGE_OVERHEAD;
        let (sent_by, caller) = match sender {
            Sender::Reader(stamp, ticket) => (Some((stamp, ticket)), None),
            Sender::Caller(reply) => (None, Some(reply)),
        };
        let (arrived, deadline) = (message.request.entry.arrived, message.request.deadline);
        let outcome = Arc::new(StepOutcome {
            form: message.form,
            result,
            sent_by,
        });
        let kept = Arc::clone(&outcome);
        self.core.step_ended(match state {
            Some(state) => StepEnd::Done {
                state,
                outcome: kept,
                bytes,
            },
            None => StepEnd::Over { outcome: kept, bytes },
        });
        if let Some(reply) = caller {
            self.await_durable(number, arrived, deadline, reply, outcome);
            if !self.core.is_attached() {
                // Whoever has the token acts for the reader: nothing waits for one.
                drop(self.core.deliver_to_whoever_asked());
            }
        }
        if !self.is_copied() {
            self.is_durable(number);
        }
        self.deliver();
    }

    fn await_durable(
        &mut self,
        number: u64,
        arrived: Instant,
        deadline: Instant,
        reply: CallerReply,
        outcome: Arc<StepOutcome>,
    ) {
        let at = self.awaiting.partition_point(|awaiting| awaiting.number <= number);
        let awaiting = Awaiting {
            number,
            arrived,
            deadline,
            reply,
            outcome,
        };
        self.awaiting.insert(at, awaiting);
    }

    fn deliver(&mut self) {
        if self.core.epoch() == 0 {
            // It never had a reader. The last outcome stays, for a caller who asks again by number; as many as for a reader
            // where a caller has drawn the token, who can resume as one does.
            if self.open {
                self.core.acknowledge(self.core.done().saturating_sub(1));
            }
            return;
        }
        let stamp = self.stamp();
        for (number, outcome) in self.core.deliver() {
            let sent_by = outcome.sent_by.filter(|(sender, _)| *sender == stamp);
            let event = SequenceEvent::Told {
                ticket: sent_by.map(|(_, ticket)| ticket),
                told: self.told(number, outcome),
            };
            if !self.tell(event) {
                self.core.detach(stamp.epoch);
            }
        }
    }

    /// Brings the part of the budget in line with what is held, and what is to come. `false` when that has no room.
    fn account(&mut self, more: usize) -> bool {
        let Some(memory) = &mut self.memory else { return true };
        let held = self.core.kept_bytes() + self.waiting_bytes + more;
        memory
            .resize(SESSION_OVERHEAD + state_bytes(self.core.state()) + held as u64)
            .is_ok()
    }

    /// The sequence is over: what remains of it goes to the registry.
    fn bury(&mut self, ctx: &mut Context<Self>) {
        self.reader = None;
        let nothing = Core::start(Token::new(0), States::new(), self.limits);
        let core = mem::replace(&mut self.core, nothing);
        let kept = core.kept_bytes() as u64;
        if let Some(mut memory) = self.memory.take() {
            // Where the budget was too small for what is kept, it holds what it could.
            let _ = memory.resize(kept + MESSAGE_OVERHEAD as u64);
            let grave = Grave {
                tombstone: core.into_tombstone(),
                open: self.open,
                life: self.life,
                _memory: memory,
            };
            self.sessions.bury(&self.incarnation, grave, self.life);
        }
        ctx.stop();
    }

    fn watch_life(&mut self, ctx: &mut Context<Self>) {
        if self.reader.as_ref().is_some_and(|reader| reader.events.is_closed()) {
            self.core.detach(self.core.epoch());
            self.reader = None;
        }
        let alive = self.core.is_attached() || self.running.is_some();
        let quiet = self.last_heard.elapsed();
        if !alive && quiet >= self.life {
            self.sessions.count("expired", &self.route.id);
            let error = self.error(SequenceError::Expired { last: self.core.done() });
            for pending in self.core.take_waiting() {
                self.refuse(pending.sender, None, error.clone());
            }
            self.release_copy();
            return self.bury(ctx);
        }
        if let Some(keeper) = &mut self.keeper {
            // So that its node keeps it.
            keeper.touch();
            self.keep(ctx);
        }
        let wait = if alive { self.life } else { self.life - quiet };
        ctx.run_later(wait, Self::watch_life);
    }
}

impl Actor for SessionActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.started = true;
        ctx.run_later(self.life, Self::watch_life);
        // A second node knows of it before its first message.
        self.after_keeping(ctx);
    }
}

impl Drop for SessionActor {
    fn drop(&mut self) {
        if self.started && self.memory.is_some() {
            // It was not buried: it crashed, or was replaced, or the node stops.
            self.tell(SequenceEvent::Lost);
            self.sessions.forget(&self.incarnation);
        }
    }
}

/// Whom a message comes from.
pub(super) enum From {
    /// A reader, with its name for it.
    Reader(Stamp, Ticket),
    /// A caller.
    Caller { token: Option<Token>, reply: CallerReply },
}

/// A message.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Offer {
    pub(super) from: From,
    pub(super) number: Option<u64>,
    pub(super) ends: bool,
    pub(super) message: SequenceMessage,
}

impl Handler<Offer> for SessionActor {
    type Result = ();

    fn handle(&mut self, offer: Offer, ctx: &mut Self::Context) {
        let sender = match offer.from {
            // One that was fenced off has been told so, and that is the answer to all that it sent.
            From::Reader(stamp, _) if stamp != self.stamp() => return,
            From::Reader(stamp, ticket) => Sender::Reader(stamp, ticket),
            From::Caller { token, reply } => {
                let may = token.map_or(self.open, |token| token == *self.core.token());
                if !may {
                    let _ = reply.send(Err(self.error(SequenceError::WrongToken)));
                    return;
                }
                if !self.core.is_attached() && self.core.done() > 0 && self.core.is_idle() {
                    // What another node kept for a reader holds no caller up.
                    drop(self.core.deliver_to_whoever_asked());
                }
                Sender::Caller(reply)
            }
        };
        self.offer(Pending::new(offer.message, sender), offer.number, offer.ends);
        self.go_on(ctx);
    }
}

/// A reader comes back.
#[derive(Message)]
#[rtype(result = "Result<Attached, InferError>")]
pub(super) struct Attach {
    pub(super) token: Token,
    pub(super) last: u64,
    pub(super) reader: Reader,
}

impl Handler<Attach> for SessionActor {
    type Result = Result<Attached, InferError>;

    fn handle(&mut self, attach: Attach, ctx: &mut Self::Context) -> Self::Result {
        let before = self.stamp();
        let attached = match self.core.attach(&attach.token, attach.last) {
            Err(SequenceError::Ahead { .. }) if self.is_perhaps_behind(attach.last.saturating_add(1)) => {
                self.keep(ctx);
                return Err(self.is_behind());
            }
            attached => attached.map_err(|error| self.error(error))?,
        };
        if let Some(stale) = self.reader.replace(attach.reader) {
            // One that has gone needs no word.
            let _ = stale.events.send((self.id().clone(), before, SequenceEvent::Fenced));
        }
        self.sessions.count("resumed", &self.route.id);
        // What it lacks follows the answer, which is on its way before anything else is told.
        ctx.notify(GoOn);
        Ok(attached)
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct GoOn;

impl Handler<GoOn> for SessionActor {
    type Result = ();

    fn handle(&mut self, _: GoOn, ctx: &mut Self::Context) {
        self.go_on(ctx);
    }
}

/// Something that the reader of an epoch says.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Say {
    pub(super) from: Stamp,
    pub(super) what: Word,
}

/// What a reader can say beside messages.
pub(super) enum Word {
    /// No message follows.
    End,
    /// It has the outcomes up to this number.
    Acknowledge(u64),
    /// It takes the message of this number back.
    Cancel(u64),
    /// It has gone.
    Leave,
}

impl Handler<Say> for SessionActor {
    type Result = ();

    fn handle(&mut self, say: Say, ctx: &mut Self::Context) {
        if say.from != self.stamp() {
            return;
        }
        match say.what {
            Word::End => drop(self.core.end()),
            Word::Acknowledge(number) => self.core.acknowledge(number),
            Word::Cancel(number) => {
                if self.core.cancel(number) == Cancelled::Running
                    && let Some((_, pending, step)) = self.running.take()
                {
                    // Dropping the step's future is what takes it back from the lane.
                    ctx.cancel_future(step);
                    self.over(number, pending, Err(InferError::Cancelled));
                }
            }
            Word::Leave => {
                self.core.detach(say.from.epoch);
                self.reader = None;
            }
        }
        self.go_on(ctx);
    }
}

/// Another sequence takes its name.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct GiveWay;

impl Handler<GiveWay> for SessionActor {
    type Result = ();

    fn handle(&mut self, _: GiveWay, ctx: &mut Self::Context) {
        self.release_copy();
        ctx.stop();
    }
}
