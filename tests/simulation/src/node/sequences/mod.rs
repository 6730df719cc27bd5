//! Sequences on a simulated node: the product's decisions (sequence, keeper, copies, words, search), and around them what
//! carries them out. A step takes a run of the model, wherever a replica is; the state is a number that folds in every
//! message.

mod answers;
mod bringing;
mod keeping;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use grid_core::InferError;
use grid_core::cluster::{Member, NodeId, NodeName};
use grid_core::model::ModelName;
use grid_core::sequence::{
    Export, Keeper, Limits, Offered, Others, Promise, SecondCopy, Sequence, SequenceError, SequenceId, Standpoint,
    Step, StepEnd, Token,
};
use grid_core::tensor::{AlignedBytes, Buffer};
use grid_core::wire::call::{Call, Reply, SequenceCall};
use grid_core::wire::codec::{decode, encode};
use grid_core::wire::sequence::SequenceKey;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use super::{Core, Node};
use crate::history::Event;
use crate::sequence::{fold, model_of, sequence_of};
use keeping::Departure;

/// A sequence by its name.
type Name = (ModelName, SequenceId);

/// What a sender of a message is told: the number up to which all is durable, and the outcome.
type Told = Result<(u64, u64), InferError>;

const LIMITS: Limits = Limits {
    window: 16,
    window_bytes: 1 << 10,
};

/// Patience with another node.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often a node looks after its links, and whether others are there than before.
const LOOK_AROUND: Duration = Duration::from_millis(200);

/// A message that waits or runs.
struct Pending {
    payload: u64,
    reply: oneshot::Sender<Told>,
}

/// A sequence that lives here.
struct Home {
    key: SequenceKey,
    /// Which of those that lived here: what was begun for an earlier one comes to nothing.
    number: u64,
    core: Sequence<Pending, u64, u64>,
    keeper: Keeper,
    running: Option<Pending>,
    /// Outcomes that are not durable yet, by number.
    awaiting: Vec<(u64, u64, oneshot::Sender<Told>)>,
    looks_again: bool,
    departure: Option<(Departure, Instant)>,
}

/// A word that was given, and what is remembered of terms: see [`SeenAs::Terms`].
///
/// [`SeenAs::Terms`]: grid_core::sequence::SeenAs::Terms
#[derive(Default)]
struct Word {
    promise: Option<Promise>,
    began: u64,
    saw: u64,
}

/// All that a node has of sequences. It is all in memory, as in the product.
pub(super) struct Sequences {
    /// The node as it was started: see the product's `Company`.
    own: NodeId,
    homes: BTreeMap<Name, Home>,
    copies: BTreeMap<SequenceKey, SecondCopy<u64, u64>>,
    words: BTreeMap<SequenceKey, Word>,
    /// Those that are being brought here.
    bringing: BTreeSet<Name>,
    /// Lives of nodes whose host refuses connections.
    gone: BTreeMap<NodeName, u64>,
    leaving: bool,
    homes_so_far: u64,
}

/// The numbers of a body.
pub(crate) fn numbers(body: &Buffer) -> Vec<u64> {
    let (numbers, _) = body.as_slice().as_chunks::<8>();
    numbers.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect()
}

/// A body of numbers.
fn body_of_numbers(numbers: &[u64]) -> Vec<Buffer> {
    let mut body = AlignedBytes::with_capacity(8 * numbers.len());
    numbers
        .iter()
        .for_each(|number| body.extend_from_slice(&number.to_le_bytes()));
    vec![body.freeze()]
}

fn refused((_, id): &Name, error: SequenceError) -> InferError {
    InferError::Sequence { id: id.clone(), error }
}

impl Sequences {
    pub(super) fn new(own: NodeId) -> Self {
        Self {
            own,
            homes: BTreeMap::new(),
            copies: BTreeMap::new(),
            words: BTreeMap::new(),
            bringing: BTreeSet::new(),
            gone: BTreeMap::new(),
            leaving: false,
            homes_so_far: 0,
        }
    }

    fn lives_here(&self, key: &SequenceKey) -> Option<&Home> {
        let home = self.homes.get(&(key.model.clone(), key.id.clone()))?;
        Some(home).filter(|home| home.key == *key)
    }

    fn home(&mut self, name: &Name, number: u64) -> Option<&mut Home> {
        self.homes.get_mut(name).filter(|home| home.number == number)
    }

    fn standpoint(&self, key: &SequenceKey) -> Standpoint<'_, u64, u64> {
        Standpoint {
            lives: self.lives_here(key).map(|home| home.core.term()),
            copy: self.copies.get(key),
            promise: self.words.get(key).and_then(|word| word.promise.as_ref()),
        }
    }

    fn goes_on_from(&mut self, key: &SequenceKey, term: u64) {
        let word = self.words.entry(key.clone()).or_default();
        word.saw = word.saw.max(term);
    }

    fn begins(&mut self, key: &SequenceKey, term: u64) {
        let word = self.words.entry(key.clone()).or_default();
        word.began = word.began.max(term);
    }
}

impl Core {
    fn members(&self) -> Vec<Member> {
        let gone = &self.sequences.gone;
        let is_gone = |id: &NodeId| gone.get(&id.name).is_some_and(|gone| *gone >= id.generation);
        self.agent.view().members(is_gone)
    }
}

impl Node {
    /// Decides by the other nodes as this one sees them now.
    fn judge<T>(&self, core: &mut Core, decide: impl FnOnce(&mut Sequences, Others<'_>) -> T) -> T {
        let members = core.members();
        let view = core.agent.view();
        let is_linked = |id: &NodeId| {
            let snapshot = view.node(&id.name).and_then(|node| node.snapshot.as_ref());
            snapshot.is_some_and(|snapshot| self.0.pool.is_linked(snapshot.addresses.mesh))
        };
        let own = core.sequences.own.name.clone();
        let others = Others {
            own: &own,
            members: &members,
            is_linked: &is_linked,
        };
        decide(&mut core.sequences, others)
    }

    /// Links to all others that there may be, for ever, and hears when others are there than before.
    pub(super) async fn look_around(self) {
        let mut before = Vec::new();
        loop {
            sleep(LOOK_AROUND).await;
            let mut core = self.0.core.borrow_mut();
            let members = core.members();
            let (own, others): (Vec<_>, Vec<_>) =
                members.iter().partition(|member| member.id.name == self.0.machine.name);
            let mut there: Vec<_> = own.into_iter().map(|member| (member.clone(), true)).collect();
            for member in others {
                let node = core.agent.view().node(&member.id.name);
                let at = node.and_then(|node| node.snapshot.as_ref()).map(|it| it.addresses.mesh);
                let Some(at) = at else { continue };
                let is_linked = self.0.pool.is_linked(at);
                there.push((member.clone(), is_linked));
                if !is_linked && (member.up || !member.gone) {
                    self.0.spawner.spawn(self.clone().link_to(member.id.clone(), at));
                }
            }
            if there != before {
                before = there;
                for home in core.sequences.homes.values_mut() {
                    home.keeper.touch();
                }
                let names: Vec<Name> = core.sequences.homes.keys().cloned().collect();
                drop(core);
                names.iter().for_each(|name| self.go_on(name));
            }
        }
    }

    async fn link_to(self, id: NodeId, at: SocketAddr) {
        let is_reached = self.0.pool.reach(at).await;
        let gone = &mut self.0.core.borrow_mut().sequences.gone;
        if is_reached {
            gone.remove(&id.name);
        } else if self.0.world.refuses(&self.0.machine.name, &id.name) {
            gone.insert(id.name, id.generation);
        }
    }

    async fn ask_for_sequence(&self, node: &NodeName, call: &Call, body: Vec<Buffer>) -> Option<(Reply, Buffer)> {
        let at = self.address_of(node)?;
        let answer = self.0.pool.ask(at, encode(call), body, PATIENCE).await.ok()?;
        let reply = decode::<Reply>("reply", &answer.head).ok()?;
        Some((reply, answer.body))
    }

    /// Asks all that are reached at once.
    async fn ask_all(&self, call: &Call) -> Vec<(NodeName, Option<Reply>)> {
        let reached: Vec<NodeName> = {
            let core = &mut *self.0.core.borrow_mut();
            self.judge(core, |_, others| others.reached().map(|id| id.name.clone()).collect())
        };
        let (told, mut answers) = mpsc::unbounded_channel();
        for node in reached {
            let (this, call, told) = (self.clone(), call.clone(), told.clone());
            self.0.spawner.spawn(async move {
                let answer = this.ask_for_sequence(&node, &call, Vec::new()).await;
                // Whoever asked may be gone.
                let _gone = told.send((node, answer.map(|(reply, _)| reply)));
            });
        }
        drop(told);
        let mut all = Vec::new();
        while let Some(answer) = answers.recv().await {
            all.push(answer);
        }
        all
    }

    /// One message of a client, to its durable outcome.
    pub(super) async fn in_sequence(&self, call: &SequenceCall, payload: u64) -> Told {
        let model = model_of(&call.model);
        if self.hosts_of(&model).is_empty() {
            let reason = "no replica is known".into();
            let model = model.to_string();
            return Err(InferError::NotReady { model, reason });
        }
        let name = (call.model.clone(), call.id.clone());
        let (reply, told) = oneshot::channel();
        match (call.start, call.token) {
            (true, Some(token)) => self.start(&name, token)?,
            _ => self.bring(&name, call.token).await?,
        }
        {
            let mut core = self.0.core.borrow_mut();
            let home = core.sequences.homes.get_mut(&name);
            let home = home.ok_or_else(|| refused(&name, SequenceError::Unknown))?;
            if call.token.as_ref() != Some(home.core.token()) {
                return Err(refused(&name, SequenceError::WrongToken));
            }
            if home.departure.is_some() {
                return Err(moves(&name));
            }
            if home.core.is_idle() {
                // What another node kept for a reader holds no caller up.
                drop(home.core.deliver_to_whoever_asked());
            }
            let durable = home.core.durable();
            match home.core.offer(Some(call.number), Pending { payload, reply }, call.end) {
                Offered::Accepted(_) => {}
                Offered::Repeated(number, outcome, pending) if number > durable => {
                    home.awaiting.push((number, outcome, pending.reply));
                }
                Offered::Repeated(_, outcome, _) => return Ok((durable, outcome)),
                // This node may be behind another one, and hears of that by its keeper.
                Offered::Refused(SequenceError::OutOfOrder { found, .. }, _)
                    if found > home.core.next() && !home.keeper.is_home_still(found) =>
                {
                    drop(core);
                    self.go_on(&name);
                    return Err(moves(&name));
                }
                Offered::Refused(error, _) => return Err(refused(&name, error)),
            }
        }
        self.go_on(&name);
        // Its home ended before it saw the message.
        told.await.unwrap_or_else(|_| Err(moves(&name)))
    }

    fn start(&self, name: &Name, token: Token) -> Result<(), InferError> {
        let key = SequenceKey {
            model: name.0.clone(),
            id: name.1.clone(),
            birth: self.0.world.random(),
        };
        let core = Sequence::start(token, 0, LIMITS);
        self.open(key, core, Keeper::new(1, None))
    }

    /// A sequence lives here from now on.
    fn open(&self, key: SequenceKey, core: Sequence<Pending, u64, u64>, keeper: Keeper) -> Result<(), InferError> {
        let name = (key.model.clone(), key.id.clone());
        let mut all = self.0.core.borrow_mut();
        let sequences = &mut all.sequences;
        if sequences.leaving {
            return Err(moves(&name));
        }
        if sequences.homes.contains_key(&name) {
            return Err(refused(&name, SequenceError::Exists));
        }
        sequences.homes_so_far += 1;
        self.0.world.record(Event::SequenceHome {
            sequence: sequence_of(&key.id),
            node: self.0.machine.name.clone(),
            term: core.term(),
            done: core.done(),
        });
        let home = Home {
            key,
            number: sequences.homes_so_far,
            core,
            keeper,
            running: None,
            awaiting: Vec::new(),
            looks_again: false,
            departure: None,
        };
        sequences.homes.insert(name.clone(), home);
        drop(all);
        self.go_on(&name);
        Ok(())
    }

    /// Does what there is to do for a sequence: steps, copies, its departure.
    fn go_on(&self, name: &Name) {
        if let Some(home) = self.0.core.borrow_mut().sequences.homes.get_mut(name)
            && home.running.is_none()
            && home.departure.is_none()
            && let Some(Step::Run { message, state, .. }) = home.core.next_step()
        {
            let payload = message.payload;
            home.running = Some(message);
            let (this, name, number) = (self.clone(), name.clone(), home.number);
            self.0.spawner.spawn(this.step(name, number, state, payload));
        }
        self.keep(name);
        self.depart(name);
    }

    async fn step(self, name: Name, number: u64, state: u64, payload: u64) {
        let request = self.0.world.next_request();
        let ran = self.infer(request, &model_of(&name.0), None).await;
        if let Some(home) = self.0.core.borrow_mut().sequences.home(&name, number)
            && let Some(pending) = home.running.take()
        {
            match ran {
                Ok(()) => {
                    let outcome = fold(state, payload);
                    let state = outcome;
                    home.core.step_ended(StepEnd::Done {
                        state,
                        outcome,
                        bytes: 8,
                    });
                    home.awaiting.push((home.core.done(), outcome, pending.reply));
                    drop(home.core.deliver_to_whoever_asked());
                }
                // A run without its answer has left the state as it was.
                Err(error) => {
                    let back = home.core.step_ended(StepEnd::NotRun(pending));
                    back.into_iter()
                        .for_each(|pending| drop(pending.reply.send(Err(error.clone()))));
                }
            }
        }
        self.go_on(&name);
    }

    /// A sequence that lived here does not any more; whoever waits for it is told so.
    fn forget(&self, name: &Name, error: &InferError) -> Option<Export<u64, u64>> {
        let mut home = self.0.core.borrow_mut().sequences.homes.remove(name)?;
        let waiting = home.core.take_waiting();
        let replies = home.running.into_iter().chain(waiting).map(|pending| pending.reply);
        let replies = replies.chain(home.awaiting.into_iter().map(|(_, _, reply)| reply));
        replies.for_each(|reply| drop(reply.send(Err(error.clone()))));
        home.core.export()
    }

    fn dropped(&self, id: &SequenceId) {
        self.0.world.record(Event::SequenceDropped {
            sequence: sequence_of(id),
            node: self.0.machine.name.clone(),
        });
    }
}

fn moves((model, id): &Name) -> InferError {
    InferError::NotReady {
        model: model.to_string(),
        reason: format!("sequence `{id}` is not here any more; send it again, by its number"),
    }
}
