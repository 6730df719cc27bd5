//! How a session actor keeps its sequence on a second node, and gives it away.

use std::mem;
use std::time::{Duration, Instant};

use actix::{ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Message, WrapFuture};
use grid_core::InferError;
use grid_core::cluster::NodeId;
use grid_core::sequence::{Ballot, Errand, HoldAnswer, Keeper, Outlook, SequenceError};
use grid_core::wire::call::{Call, Reply};
use grid_core::wire::sequence::{Hold, Release, Vote};
use tokio::sync::oneshot;
use tracing::{debug, info, warn};

use std::sync::Arc;

use super::actor::{Awaiting, Sender, SessionActor};
use super::company::Company;
use super::copies::NoWord;
use super::image::{self, HeldExport, Label};
use super::message::SequenceEvent;
use super::registry::{Sessions, leaves};

/// When a home looks again that could not do what it had to.
const AGAIN: Duration = Duration::from_millis(100);

/// How long a sequence that goes elsewhere waits for its second node before it goes without.
const SETTLE: Duration = Duration::from_secs(1);

/// How long a node that has refused a copy is not asked again.
const REFUSED: Duration = Duration::from_secs(10);

/// Where a sequence goes.
pub(super) enum Departure {
    /// To this node, which gets it.
    Given {
        to: NodeId,
        term: u64,
        reply: oneshot::Sender<(Label, HeldExport)>,
    },
    /// Nowhere: whoever wants it finds its copy.
    Left(oneshot::Sender<()>),
}

/// The sequence is to go elsewhere, as soon as its step is done.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Depart(pub(super) Departure);

/// The nodes of the grid are others than before.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct LookAround;

enum Went {
    Answered(HoldAnswer),
    /// No answer, or not enough words were given.
    Nowhere,
    /// This node has no room for it.
    Refused(NodeId),
}

impl SessionActor {
    pub(super) fn label(&self) -> Label {
        Label {
            key: self.key(),
            version: self.route.id.version,
            open: self.open,
            life: self.life,
        }
    }

    /// Whether a second node is to hold it.
    pub(super) fn is_copied(&self) -> bool {
        self.keeper.is_some()
    }

    /// Does what there is to do so that what is done becomes durable.
    pub(super) fn keep(&mut self, ctx: &mut Context<Self>) {
        let Some(company) = self.sessions.company() else {
            return self.is_durable(self.core.done());
        };
        let Some(keeper) = &mut self.keeper else {
            return self.is_durable(self.core.done());
        };
        let (model, id) = &self.incarnation.key;
        let done = self.core.done();
        let refused = self
            .refused
            .as_ref()
            .filter(|(_, at)| at.elapsed() < REFUSED)
            .map(|(node, _)| node);
        let errand = company.judge(|others| {
            let choice = others.choice(model, id, refused);
            let keeps = |second: &NodeId| Some(second) != refused && others.keeps(second, choice);
            let outlook = Outlook {
                choice,
                is_second_there: keeper.second().is_some_and(keeps),
                is_alone: others.is_alone(),
            };
            keeper.next(done, outlook)
        });
        match errand {
            Errand::Rest => {}
            Errand::Wait => self.look_again(ctx),
            Errand::Alone => {
                self.begins();
                self.is_durable(self.core.done());
            }
            Errand::Send { to, after, term, vote } => self.send_copy(to, after, term, vote, ctx),
        }
    }

    fn send_copy(&mut self, to: NodeId, after: Option<u64>, term: u64, vote: bool, ctx: &mut Context<Self>) {
        let Some(company) = self.sessions.company() else { return };
        let mut delta = self.core.delta(after);
        delta.export.term = term;
        let own = company.own();
        let (image, body) = image::write(&self.label(), delta.oldest, &image::to_held(delta.export));
        let call = Call::Hold(Box::new(Hold {
            home: own.clone(),
            after,
            image,
        }));
        let ballot = vote.then(|| Ballot::of_home(term, own.clone(), self.core.term(), own));
        let (sessions, key, life) = (Arc::clone(&self.sessions), self.key(), self.life);
        let told = async move {
            let Some(company) = sessions.company() else {
                return Went::Nowhere;
            };
            // Before the copy is sent: a home that is none any more must overwrite none.
            if let Some(ballot) = ballot {
                match sessions.ask_for_words(company, &key, &ballot, life).await {
                    Ok(true) => {}
                    Ok(false) => return Went::Nowhere,
                    Err(term) => return Went::Answered(HoldAnswer::Fenced { term }),
                }
            }
            match company.ask(&to.name, &call, body).await {
                Ok((Reply::Held(answer), _)) => Went::Answered(answer),
                Ok((Reply::Refused(reason), _)) => {
                    warn!(node = %to, reason, "a copy of a sequence is refused");
                    Went::Refused(to)
                }
                other => {
                    debug!(node = %to, reply = ?other.map(|(reply, _)| reply), "a copy of a sequence was not taken");
                    Went::Nowhere
                }
            }
        };
        let told = told.into_actor(self).map(|went, this, ctx| this.copy_went(&went, ctx));
        ctx.spawn(told);
    }

    fn copy_went(&mut self, went: &Went, ctx: &mut Context<Self>) {
        let Some(keeper) = &mut self.keeper else { return };
        match went {
            Went::Nowhere | Went::Refused(_) => {
                keeper.unanswered();
                if let Went::Refused(node) = went {
                    self.refused = Some((node.clone(), Instant::now()));
                }
                self.look_again(ctx);
            }
            Went::Answered(HoldAnswer::Fenced { term }) => {
                info!(sequence = %self.id(), term, "another node has taken this sequence over");
                return self.fenced(ctx);
            }
            Went::Answered(answer) => {
                if let Some((durable, term)) = keeper.answered(*answer) {
                    self.core.set_term(term);
                    self.term.store(term, std::sync::atomic::Ordering::Relaxed);
                    let former = keeper.take_former();
                    self.begins();
                    self.is_durable(durable);
                    self.release(former, term - 1);
                }
            }
        }
        self.after_keeping(ctx);
    }

    /// Something is durable in its term: whoever asks from now on is told that copies of earlier ones are old. Not before: a
    /// home that never came so far has nothing that others had to wait for.
    fn begins(&mut self) {
        let term = self.core.term();
        if term > mem::replace(&mut self.began, term) {
            self.sessions.copies.begins(&self.key(), term, self.life);
        }
    }

    fn look_again(&mut self, ctx: &mut Context<Self>) {
        if !mem::replace(&mut self.looks_again, true) {
            ctx.run_later(AGAIN, |this, ctx| {
                this.looks_again = false;
                this.expire_awaiting();
                this.after_keeping(ctx);
            });
        }
    }

    /// Everything up to this number survives: whoever waits for that is answered, and the reader told where no output will.
    pub(super) fn is_durable(&mut self, number: u64) {
        let is_news = self.core.made_durable(number);
        while let Some(awaiting) = self
            .awaiting
            .pop_front_if(|awaiting| awaiting.number <= self.core.durable())
        {
            let told = self.told(awaiting.number, awaiting.outcome);
            // A caller who has gone wants no answer; the message went on nevertheless.
            let _ = awaiting.reply.send(Ok(told));
        }
        if is_news && self.is_copied() && self.core.is_idle() {
            let number = self.core.durable();
            self.tell(SequenceEvent::Durable { number });
        }
    }

    /// Callers whose time has passed are told so; their messages went on.
    fn expire_awaiting(&mut self) {
        let now = Instant::now();
        let (late, rest) = mem::take(&mut self.awaiting)
            .into_iter()
            .partition::<std::collections::VecDeque<_>, _>(|awaiting: &Awaiting| awaiting.deadline <= now);
        self.awaiting = rest;
        for awaiting in late {
            let error = InferError::DeadlineExceeded {
                model: self.route.id.clone(),
                timeout: awaiting.deadline.saturating_duration_since(awaiting.arrived),
            };
            let _ = awaiting.reply.send(Err(error));
        }
    }

    /// Another node goes on with the sequence. What this one says of it counts for nothing any more.
    fn fenced(&mut self, ctx: &mut Context<Self>) {
        let error = self.error(SequenceError::Fenced);
        self.tell(SequenceEvent::Fenced);
        self.sessions.count("fenced", &self.route.id);
        self.drop_all(&error, ctx);
    }

    /// Ends without a trace: another node has the sequence, or will.
    fn drop_all(&mut self, error: &InferError, ctx: &mut Context<Self>) {
        self.reader = None;
        for awaiting in self.awaiting.drain(..) {
            let _ = awaiting.reply.send(Err(error.clone()));
        }
        let waiting = self.core.take_waiting();
        let running = self.running.take().map(|(_, pending, step)| {
            ctx.cancel_future(step);
            pending
        });
        for pending in running.into_iter().chain(waiting) {
            if let Sender::Caller(reply) = pending.sender {
                let _ = reply.send(Err(error.clone()));
            }
        }
        self.memory = None;
        self.sessions.forget(&self.incarnation);
        ctx.stop();
    }

    /// Tells nodes that their copies are of no use any more.
    fn release(&self, nodes: Vec<NodeId>, term: u64) {
        for node in nodes {
            self.sessions.release_at(node, self.key(), term);
        }
    }

    /// Tells the second node that the sequence is over without a trace.
    pub(super) fn release_copy(&self) {
        if let Some(second) = self.keeper.as_ref().and_then(|keeper| keeper.second()) {
            self.release(vec![second.clone()], u64::MAX);
        }
    }

    /// Goes, if it is to go and can. `true` when it has gone.
    pub(super) fn depart(&mut self, ctx: &mut Context<Self>) -> bool {
        let Some((_, since)) = &self.departure else {
            return false;
        };
        let is_copied = self.keeper.as_ref().is_none_or(Keeper::is_quiet);
        let is_settled = self.core.is_settled() && self.awaiting.is_empty() && is_copied;
        if self.running.is_some() || !(is_settled || since.elapsed() >= SETTLE) {
            self.look_again(ctx);
            return false;
        }
        let Some((departure, _)) = self.departure.take() else {
            return false;
        };
        let (to, term, reply) = match departure {
            Departure::Given { to, term, reply } => (to, term, reply),
            // What nobody else could go on with stays to the end.
            Departure::Left(left) if !is_settled => {
                if !self.route.manifest.limits.are_sequences_copied() {
                    self.keeper = None;
                }
                // What they wait for does not come here any more.
                for awaiting in self.awaiting.drain(..) {
                    let _ = awaiting.reply.send(Err(leaves(&self.route.id.name)));
                }
                let _ = left.send(());
                return false;
            }
            Departure::Left(left) => return self.leave(left, ctx),
        };
        let Some(mut export) = self.core.export() else {
            return false;
        };
        export.term = term;
        let (label, export) = (self.label(), image::to_held(export));
        // Also where one node is enough otherwise: the other may not be able to take it.
        let written = self.core.term();
        self.sessions
            .keep_handed_over(written, to, label.clone(), export.clone());
        self.sessions.count("moved", &self.route.id);
        self.tell(SequenceEvent::Fenced);
        // Whoever asked and has gone finds the copy.
        let _ = reply.send((label, export));
        let moves = InferError::NotReady {
            model: self.route.id.to_string(),
            reason: format!(
                "sequence `{}` moves to another node; send it again, by its number",
                self.id()
            ),
        };
        self.drop_all(&moves, ctx);
        true
    }

    fn leave(&mut self, left: oneshot::Sender<()>, ctx: &mut Context<Self>) -> bool {
        self.tell(SequenceEvent::Moved);
        let _ = left.send(());
        self.drop_all(&leaves(&self.route.id.name), ctx);
        true
    }
}

impl Sessions {
    /// Asks all nodes for their word. `Ok` tells whether more than half gave it; the error is a term that stands against it.
    pub(super) async fn ask_for_words(
        &self,
        company: &Company,
        key: &grid_core::wire::sequence::SequenceKey,
        ballot: &Ballot,
        life: Duration,
    ) -> Result<bool, u64> {
        let own = company.own().name;
        match self.vote(key, ballot, life) {
            Ok(()) => {}
            Err(NoWord::Against(term)) => return Err(term),
            Err(NoWord::Full) => return Ok(false),
        }
        let call = Call::Vote(Vote {
            key: key.clone(),
            ballot: ballot.clone(),
            life_ms: u64::try_from(life.as_millis()).unwrap_or(u64::MAX),
        });
        let asked = company.reached().into_iter().map(|peer| {
            let call = &call;
            async move { (peer.id.name.clone(), company.ask(&peer.id.name, call, Vec::new()).await) }
        });
        let mut given = vec![own];
        let mut against = None;
        for (name, answer) in futures_util::future::join_all(asked).await {
            match answer {
                Ok((Reply::Voted(Ok(())), _)) => given.push(name),
                Ok((Reply::Voted(Err(term)), _)) => against = against.max(Some(term)),
                _ => {}
            }
        }
        let is_reached = company.judge(|others| others.quorum().is_reached(&given));
        match against {
            Some(term) if !is_reached => Err(term),
            _ => Ok(is_reached),
        }
    }

    /// Tells a node that its copy is of no use any more; it forgets it by itself where it does not hear that.
    pub(super) fn release_at(self: &Arc<Self>, node: NodeId, key: grid_core::wire::sequence::SequenceKey, term: u64) {
        let sessions = Arc::clone(self);
        actix::spawn(async move {
            if let Some(company) = sessions.company() {
                let _ = company
                    .ask(&node.name, &Call::Release(Release { key, term }), Vec::new())
                    .await;
            }
        });
    }
}

impl Handler<Depart> for SessionActor {
    type Result = ();

    fn handle(&mut self, Depart(departure): Depart, ctx: &mut Context<Self>) {
        if self.departure.is_some() {
            // Whoever came second asks again.
            return;
        }
        if let Departure::Left(_) = departure {
            // One that is kept on one node only is copied now, so that another can go on with it.
            let term = self.core.term();
            let keeper = self.keeper.get_or_insert_with(|| Keeper::new(term, None));
            // It may have gone since it last answered.
            keeper.touch();
        }
        self.departure = Some((departure, Instant::now()));
        self.after_keeping(ctx);
    }
}

impl Handler<LookAround> for SessionActor {
    type Result = ();

    fn handle(&mut self, _: LookAround, ctx: &mut Context<Self>) {
        // After a freeze this is how a home without messages hears that it is none any more.
        if let Some(keeper) = &mut self.keeper {
            keeper.touch();
        }
        self.after_keeping(ctx);
    }
}
