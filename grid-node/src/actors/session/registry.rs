//! All sequences of a node, by model and name.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use actix::{Actor, Addr, Context};
use dashmap::DashMap;
use dashmap::mapref::entry::Entry as Place;
use grid_core::InferError;
use grid_core::config::SequenceSettings;
use grid_core::model::{ModelId, ModelName, Version};
use grid_core::sequence::{Limits, SequenceError, SequenceId, Token, Tombstone};
use grid_core::wire::sequence::SequenceKey;
use metrics::{counter, gauge};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::actor::{Attach, From, GiveWay, Inherited, Offer, Parts, Say, SessionActor, Word, first_bytes};
use super::company::Company;
use super::copies::Copies;
use super::image::Label;
use super::keeping::{Depart, Departure};
use super::message::{Reader, SequenceMessage, SequenceOrder, Stamp, StepOutcome, Ticket, Told};
use crate::actors::router::RouterHandle;
use crate::actors::routes::{Routes, VersionRoute};
use crate::loading::{HeldMemory, MemoryBudget};

/// What remains of ended sequences is forgotten early, the oldest first, where there is more of it than this: a flood of
/// short sequences must not hold memory for their whole afterlife.
const MOST_TOMBSTONES: usize = 16_384;

pub(super) type Key = (ModelName, SequenceId);

/// One of the sequences that a name stood for, one after the other.
#[derive(Clone, Debug)]
pub(super) struct Incarnation {
    pub(super) key: Key,
    pub(super) number: u64,
    /// The same on all nodes that it ever is on.
    pub(super) birth: u64,
}

impl Incarnation {
    /// What it is called between nodes.
    pub(super) fn wire_key(&self) -> SequenceKey {
        SequenceKey {
            model: self.key.0.clone(),
            id: self.key.1.clone(),
            birth: self.birth,
        }
    }
}

/// What remains of a sequence.
pub(super) struct Grave {
    pub(super) tombstone: Tombstone<Arc<StepOutcome>>,
    /// Whether callers need no token.
    pub(super) open: bool,
    /// How long it lived without a message, and is remembered.
    pub(super) life: Duration,
    /// Given back with it.
    pub(super) _memory: HeldMemory,
}

pub(super) struct Entry {
    pub(super) number: u64,
    pub(super) birth: u64,
    pub(super) version: Version,
    pub(super) life: Life,
}

pub(super) enum Life {
    Live {
        addr: Addr<SessionActor>,
        /// Whether callers need no token, and may start it over.
        open: bool,
        token: Token,
        term: Arc<AtomicU64>,
    },
    Over {
        grave: Grave,
        until: Instant,
    },
}

/// All sequences of a node. See the parent module.
pub struct Sessions {
    settings: SequenceSettings,
    pub(super) budget: MemoryBudget,
    pub(super) entries: DashMap<Key, Entry>,
    /// The other nodes, where there are any.
    company: OnceLock<Company>,
    /// What this node holds for sequences of other nodes.
    pub(super) copies: Copies,
    /// Names of which a sequence is being brought here.
    pub(super) bringing: DashMap<Key, ()>,
    /// This node leaves: nothing begins here any more.
    pub(super) leaving: AtomicBool,
    /// Sequences that live, by model.
    live: DashMap<ModelName, usize>,
    last_number: AtomicU64,
    /// Those that are over, by when they are forgotten.
    graves: Mutex<BTreeMap<(Instant, u64), Key>>,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sessions({})", self.entries.len())
    }
}

pub(super) fn refused(id: &SequenceId, error: SequenceError) -> InferError {
    InferError::Sequence { id: id.clone(), error }
}

impl Sessions {
    /// None yet.
    pub fn new(settings: SequenceSettings, budget: MemoryBudget) -> Self {
        Self {
            settings,
            budget,
            entries: DashMap::new(),
            company: OnceLock::new(),
            copies: Copies::default(),
            bringing: DashMap::new(),
            leaving: AtomicBool::new(false),
            live: DashMap::new(),
            last_number: AtomicU64::new(0),
            graves: Mutex::default(),
        }
    }

    /// The node is one of a grid: sequences that begin from now on are held by two nodes.
    pub(crate) fn join(&self, company: Company) {
        // A node joins one grid, once.
        let _ = self.company.set(company);
    }

    pub(super) fn company(&self) -> Option<&Company> {
        self.company.get()
    }

    /// The bounds of each sequence.
    pub fn limits(&self) -> Limits {
        Limits {
            window: self.settings.window,
            window_bytes: usize::try_from(self.settings.window_bytes).unwrap_or(usize::MAX),
        }
    }

    /// How long a sequence of this model lives without a message.
    pub fn life(&self, route: &VersionRoute) -> Duration {
        route.manifest.limits.sequence_life.unwrap_or(self.settings.life)
    }

    /// How many sequences of this model may live at once.
    pub fn most(&self, route: &VersionRoute) -> usize {
        route.manifest.limits.sequences.unwrap_or(self.settings.max)
    }

    /// Sequences of a model that live.
    pub fn live(&self, model: &ModelName) -> usize {
        self.live.get(model).map_or(0, |live| *live)
    }

    /// The route of a message: that of the version which its sequence began with, whatever is the default by now. One that
    /// starts a sequence has its own.
    ///
    /// # Errors
    /// When the message names another version.
    pub fn route(
        &self,
        routes: &Routes,
        resolved: Arc<VersionRoute>,
        id: &SequenceId,
        names_version: bool,
        starts: bool,
    ) -> Result<Arc<VersionRoute>, InferError> {
        if starts {
            return Ok(resolved);
        }
        let key = (resolved.id.name.clone(), id.clone());
        let version = self.entries.get(&key).map(|entry| entry.version);
        let Some(version) = version.filter(|version| *version != resolved.id.version) else {
            return Ok(resolved);
        };
        if names_version {
            return Err(InferError::Invalid(format!(
                "sequence `{id}`: it runs on version {version}, and the request names {}",
                resolved.id.version
            )));
        }
        let model = ModelId {
            name: resolved.id.name.clone(),
            version,
        };
        Ok(routes.find(&model).unwrap_or(resolved))
    }

    /// Starts a sequence with a reader.
    ///
    /// # Errors
    /// When one of that name lives, when there are too many, or no memory is left for it.
    pub fn start(
        self: &Arc<Self>,
        router: &RouterHandle,
        route: &Arc<VersionRoute>,
        id: &SequenceId,
        reader: Reader,
    ) -> Result<Attachment, InferError> {
        let opened = self.open(router, route, id, Origin::Reader(reader))?;
        Ok(Attachment {
            id: id.clone(),
            model: route.id.clone(),
            token: opened.token,
            stamp: opened.stamp,
            addr: opened.addr,
        })
    }

    pub(super) fn open(
        self: &Arc<Self>,
        router: &RouterHandle,
        route: &Arc<VersionRoute>,
        id: &SequenceId,
        origin: Origin,
    ) -> Result<Opened, InferError> {
        let (reader, drawn, brought) = match origin {
            Origin::Reader(reader) => (Some(reader), None, None),
            Origin::Caller { drawn } => (None, drawn, None),
            Origin::Elsewhere(brought) => (None, None, Some(*brought)),
        };
        if !route.may_serve() {
            return Err(route.not_ready());
        }
        if self.leaving.load(Ordering::Relaxed) {
            return Err(leaves(&route.id.name));
        }
        let overloaded = |reason: String| InferError::Overloaded {
            model: route.id.clone(),
            reason,
            retry_after: Duration::from_secs(1),
        };
        let is_open = reader.is_none() && drawn.is_none();
        let open = brought.as_ref().map_or(is_open, |brought| brought.open);
        let key = (route.id.name.clone(), id.clone());
        let memory = self.budget.hold(first_bytes(route));
        let memory = memory.map_err(|error| overloaded(format!("no memory for one more sequence: {error}")))?;
        // Held until the entry is in its place, so that no two starts of one name come between each other.
        let place = self.entries.entry(key.clone());
        let replaced = match &place {
            Place::Occupied(entry) => match &entry.get().life {
                // A caller without a token starts its sequence over, as Triton does; nobody else can mean this one.
                Life::Live { .. } if brought.is_some() => return Err(refused(id, SequenceError::Exists)),
                Life::Live { addr, open: true, .. } if open => Some(addr.clone()),
                Life::Live { .. } => return Err(refused(id, SequenceError::Exists)),
                Life::Over { .. } => None,
            },
            Place::Vacant(_) => None,
        };
        if replaced.is_none() {
            let most = self.most(route);
            let mut live = self.live.entry(route.id.name.clone()).or_insert(0);
            if *live >= most {
                return Err(overloaded(format!(
                    "{live} sequences of it live already, as many as may",
                    live = *live
                )));
            }
            *live += 1;
            gauge!("grid_sequences", "model" => route.id.name.to_string()).set(*live as f64);
        }
        self.count(if brought.is_some() { "brought" } else { "started" }, &route.id);
        let number = 1 + self.last_number.fetch_add(1, Ordering::Relaxed);
        let (token, birth, inherited) = match brought {
            Some(Brought { birth, inherited, .. }) => (inherited.export.token, birth, Some(inherited)),
            None => {
                let token = drawn.unwrap_or_else(|| Token::new(rand::random()));
                (token, birth(), None)
            }
        };
        let term: Arc<AtomicU64> = Arc::default();
        let (actor, attached) = SessionActor::new(Parts {
            incarnation: Incarnation { key, number, birth },
            token,
            open,
            inherited,
            term: Arc::clone(&term),
            reader,
            route: Arc::clone(route),
            router: router.clone(),
            sessions: Arc::clone(self),
            memory,
            limits: self.limits(),
            life: self.life(route),
        });
        let addr = SessionActor::start_in_arbiter(router.arbiter(), move |_: &mut Context<SessionActor>| actor);
        let entry = Entry {
            number,
            birth,
            version: route.id.version,
            life: Life::Live {
                addr: addr.clone(),
                open,
                token,
                term,
            },
        };
        match place {
            Place::Occupied(mut occupied) => {
                let before = occupied.insert(entry);
                if let Life::Over { until, .. } = before.life {
                    self.graves.lock().remove(&(until, before.number));
                }
            }
            Place::Vacant(vacant) => drop(vacant.insert(entry)),
        }
        if let Some(replaced) = replaced {
            replaced.do_send(GiveWay);
        }
        // The node may have begun to leave since that was looked at, and told those that were there.
        if self.leaving.load(Ordering::Relaxed) {
            addr.do_send(Depart(Departure::Left(oneshot::channel().0)));
        }
        Ok(Opened {
            token,
            stamp: Stamp {
                incarnation: number,
                epoch: attached.map_or(0, |attached| attached.epoch),
            },
            addr,
        })
    }

    /// One message and its outcome, for a caller who does not stay. A caller that goes away does not take the message
    /// back: it belongs to the sequence.
    ///
    /// # Errors
    /// When the sequence does not take the message. The outcome itself may be an error too.
    pub async fn infer(
        self: &Arc<Self>,
        router: &RouterHandle,
        id: &SequenceId,
        order: SequenceOrder,
        message: SequenceMessage,
    ) -> Result<Told, InferError> {
        let model = message.route.id.name.clone();
        if let Some(found) = order.number.filter(|&number| order.start && number != 1) {
            let expected = 1;
            return Err(refused(id, SequenceError::OutOfOrder { expected, found }));
        }
        let started = match order.start {
            true => {
                let drawn = order.token.filter(|_| order.drawn);
                if drawn.is_none() {
                    self.end_elsewhere(&(model.clone(), id.clone())).await;
                }
                Some(self.open(router, &message.route, id, Origin::Caller { drawn })?)
            }
            false => None,
        };
        let (token, addr) = match &started {
            Some(opened) => (Some(opened.token), opened.addr.clone()),
            None => match self.find(&model, id, order)? {
                Found::Live(addr) => (order.token, addr),
                Found::Told(told) => return Ok(told),
            },
        };
        let (reply, told) = oneshot::channel();
        addr.do_send(Offer {
            from: From::Caller { token, reply },
            number: order.number,
            ends: order.end,
            message,
        });
        match told.await {
            Ok(told) => told.map(|told| Told {
                token: started.map(|opened| opened.token),
                ..told
            }),
            // Its actor ended before it saw the message.
            Err(_) => match self.find(&model, id, order)? {
                Found::Told(told) => Ok(told),
                Found::Live(_) => Err(refused(id, SequenceError::Unknown)),
            },
        }
    }

    /// The outcome of a message of a sequence that has ended, for who sends it once more.
    ///
    /// # Errors
    /// That it has ended, or that there is none of that name, or another by now.
    pub fn told_again(&self, model: &ModelName, id: &SequenceId, order: SequenceOrder) -> Result<Told, InferError> {
        match self.find(model, id, order)? {
            Found::Told(told) => Ok(told),
            Found::Live(_) => Err(refused(id, SequenceError::Unknown)),
        }
    }

    fn find(&self, model: &ModelName, id: &SequenceId, order: SequenceOrder) -> Result<Found, InferError> {
        let Some(entry) = self.entries.get(&(model.clone(), id.clone())) else {
            return Err(refused(id, SequenceError::Unknown));
        };
        let Grave { tombstone, open, .. } = match &entry.life {
            Life::Live { addr, .. } => return Ok(Found::Live(addr.clone())),
            Life::Over { grave, .. } => grave,
        };
        // The last message sent once more, by who did not hear its outcome.
        let may = order.token.map_or(*open, |token| tombstone.check(&token).is_ok());
        let again = order.number.filter(|_| may).and_then(|number| {
            let outcomes = tombstone.outcomes_after(number.checked_sub(1)?).ok()?;
            outcomes.into_iter().next().filter(|(found, _)| *found == number)
        });
        match again {
            Some((number, outcome)) => Ok(Found::Told(Told {
                number,
                durable: tombstone.last(),
                ends: number == tombstone.last(),
                token: None,
                outcome,
            })),
            None => Err(refused(id, tombstone.error())),
        }
    }

    /// A reader comes back for a sequence, with the last outcome that it has.
    ///
    /// # Errors
    /// When there is no such sequence, the token is another, or it cannot be resumed from there.
    pub async fn resume(
        self: &Arc<Self>,
        router: &RouterHandle,
        model: &ModelName,
        id: &SequenceId,
        token: Token,
        last: u64,
        reader: Reader,
    ) -> Result<Resumed, InferError> {
        let refuse = |error| refused(id, error);
        let unknown = || refuse(SequenceError::Unknown);
        // The actor of one that is just being buried does not answer, and then it is over.
        for _ in 0..2 {
            self.bring(router, model, id, Some(token)).await?;
            let (addr, version, number) = {
                let entry = self.entries.get(&(model.clone(), id.clone())).ok_or_else(unknown)?;
                let (version, number) = (entry.version, entry.number);
                match &entry.life {
                    Life::Live { addr, .. } => (addr.clone(), version, number),
                    Life::Over { grave, .. } => {
                        let tombstone = &grave.tombstone;
                        let outcomes = tombstone.resume(&token, last).map_err(refuse)?;
                        let end = tombstone.last();
                        let told = outcomes.into_iter().map(|(number, outcome)| Told {
                            number,
                            durable: end,
                            ends: number == end,
                            token: None,
                            outcome,
                        });
                        return Ok(Resumed::Over {
                            last: end,
                            told: told.collect(),
                        });
                    }
                }
            };
            let incarnation = number;
            let attach = Attach {
                token,
                last,
                reader: reader.clone(),
            };
            if let Ok(attached) = addr.send(attach).await {
                let attached = attached?;
                let model = ModelId {
                    name: model.clone(),
                    version,
                };
                return Ok(Resumed::Live {
                    next: attached.next,
                    durable: attached.durable,
                    attachment: Attachment {
                        id: id.clone(),
                        model,
                        token,
                        stamp: Stamp {
                            incarnation,
                            epoch: attached.epoch,
                        },
                        addr,
                    },
                });
            }
        }
        Err(unknown())
    }

    /// Forgets what is over for long enough. To be called now and then.
    pub fn sweep(&self) {
        self.copies.sweep();
        gauge!("grid_sequence_copies").set(self.copies.count() as f64);
        let now = Instant::now();
        loop {
            let ((_, number), key) = {
                let mut graves = self.graves.lock();
                let over = graves.len() > MOST_TOMBSTONES;
                match graves.first_entry() {
                    Some(first) if over || first.key().0 <= now => first.remove_entry(),
                    _ => return,
                }
            };
            self.entries.remove_if(&key, |_, entry| entry.number == number);
        }
    }

    /// Puts what remains of a sequence in its place.
    pub(super) fn bury(&self, incarnation: &Incarnation, grave: Grave, life: Duration) {
        let Incarnation { key, number, .. } = incarnation;
        let until = Instant::now() + life;
        let is_its_place = match self.entries.get_mut(key) {
            Some(mut entry) if entry.number == *number => {
                entry.life = Life::Over { grave, until };
                true
            }
            _ => false,
        };
        // One that was replaced has handed its place among the living on.
        if !is_its_place {
            return;
        }
        self.died(incarnation);
        let full = {
            let mut graves = self.graves.lock();
            graves.insert((until, *number), key.clone());
            graves.len() > MOST_TOMBSTONES
        };
        if full {
            self.sweep();
        }
    }

    /// What remains of a sequence that ended on another node is remembered here too.
    pub(super) fn lay_down(&self, label: &Label, grave: Grave) {
        let key = (label.key.model.clone(), label.key.id.clone());
        let number = 1 + self.last_number.fetch_add(1, Ordering::Relaxed);
        let until = Instant::now() + grave.life;
        if let Place::Vacant(vacant) = self.entries.entry(key.clone()) {
            vacant.insert(Entry {
                number,
                birth: label.key.birth,
                version: label.version,
                life: Life::Over { grave, until },
            });
            self.graves.lock().insert((until, number), key);
        }
    }

    /// A sequence is gone without a trace.
    pub(super) fn forget(&self, incarnation: &Incarnation) {
        let of_it = |_: &Key, entry: &Entry| entry.number == incarnation.number;
        // One that was replaced has handed its place among the living on.
        if self.entries.remove_if(&incarnation.key, of_it).is_some() {
            self.died(incarnation);
        }
    }

    fn died(&self, incarnation: &Incarnation) {
        let model = &incarnation.key.0;
        let left = {
            let mut live = self.live.entry(model.clone()).or_insert(0);
            *live = live.saturating_sub(1);
            *live
        };
        gauge!("grid_sequences", "model" => model.to_string()).set(left as f64);
        if left == 0 {
            self.live.remove_if(model, |_, live| *live == 0);
        }
    }

    pub(super) fn count(&self, what: &'static str, id: &ModelId) {
        counter!("grid_sequence_events_total", "model" => id.name.to_string(), "event" => what).increment(1);
    }
}

/// How a sequence comes to be here.
pub(super) enum Origin {
    /// A reader starts it, who is given a token.
    Reader(Reader),
    /// A caller starts it. One that has drawn a token needs it from then on, as everybody else does.
    Caller {
        /// The token that it is to have.
        drawn: Option<Token>,
    },
    /// It lived elsewhere.
    Elsewhere(Box<Brought>),
}

/// A sequence that lived elsewhere.
pub(super) struct Brought {
    pub(super) birth: u64,
    pub(super) open: bool,
    pub(super) inherited: Inherited,
}

/// A number for a sequence that begins now: of two of one name, the later one has the higher, as far as clocks agree.
fn birth() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let millis = since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    millis << 20 | u64::from(rand::random::<u32>() >> 12)
}

/// Why nothing begins on a node that leaves.
pub(super) fn leaves(model: &ModelName) -> InferError {
    InferError::NotReady {
        model: model.to_string(),
        reason: "this node leaves the grid; go on at another".to_owned(),
    }
}

pub(super) struct Opened {
    token: Token,
    stamp: Stamp,
    addr: Addr<SessionActor>,
}

enum Found {
    Live(Addr<SessionActor>),
    Told(Told),
}

/// What a reader finds that comes back.
#[derive(Debug)]
pub enum Resumed {
    /// The sequence lives; what the reader lacks follows as events.
    Live {
        /// The number of the next message.
        next: u64,
        /// The last number whose state would survive.
        durable: u64,
        /// The way to it.
        attachment: Attachment,
    },
    /// It has ended.
    Over {
        /// Its last number.
        last: u64,
        /// What the reader lacks.
        told: Vec<Told>,
    },
}

/// A reader's way to its sequence. Dropping it leaves the sequence, which lives on for a while.
pub struct Attachment {
    /// The sequence.
    pub id: SequenceId,
    /// The model version that it runs on.
    pub model: ModelId,
    /// What it can be resumed with.
    pub token: Token,
    /// Events of another stamp are not for this attachment.
    pub stamp: Stamp,
    addr: Addr<SessionActor>,
}

impl std::fmt::Debug for Attachment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Attachment({}, epoch {})", self.id, self.stamp.epoch)
    }
}

impl Attachment {
    /// Offers a message. One event that names the ticket tells what became of it, or one that ends the attachment.
    pub fn offer(&self, ticket: Ticket, number: Option<u64>, ends: bool, message: SequenceMessage) {
        self.addr.do_send(Offer {
            from: From::Reader(self.stamp, ticket),
            number,
            ends,
            message,
        });
    }

    /// No message follows.
    pub fn end(&self) {
        self.say(Word::End);
    }

    /// The reader has the outcomes up to this number for good.
    pub fn acknowledge(&self, number: u64) {
        self.say(Word::Acknowledge(number));
    }

    /// Takes a message back. It still has an outcome: that it was cancelled, unless it was too late for that.
    pub fn cancel(&self, number: u64) {
        self.say(Word::Cancel(number));
    }

    fn say(&self, what: Word) {
        self.addr.do_send(Say { from: self.stamp, what });
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.say(Word::Leave);
    }
}
