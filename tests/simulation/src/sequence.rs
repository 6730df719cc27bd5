//! Clients that run sequences: each brings one message after the other to its outcome, at whatever node answers, as the
//! client library's sequences do in their simplest form.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use grid_core::InferError;
use grid_core::model::{ModelId, ModelName};
use grid_core::sequence::{SequenceError, SequenceId, Token};
use grid_core::wire::call::{Call, Reply, SequenceCall};
use grid_core::wire::codec::{decode, encode};
use tokio::time::{Instant, sleep};

use crate::client::any_model;
use crate::history::Event;
use crate::links::Pool;
use crate::node::{MESH, body_of, numbers};
use crate::world::World;

/// Sequences that live at once.
pub const AT_ONCE: usize = 3;

/// Between an outcome and the next message, in milliseconds.
const PAUSE: [u64; 2] = [200, 600];

/// Between two tries of a message.
const AGAIN: Duration = Duration::from_millis(100);

/// The part of messages that go to another node than the one before, as if the gateway of the client had gone: the sequence
/// is handed over.
const MOVES: f64 = 0.1;

/// What a node has for one try.
const PATIENCE: Duration = Duration::from_secs(4);

/// Nodes that have just started may not have heard yet of those that have a sequence: for so long, being unknown to all
/// is not being lost.
const UNKNOWN: Duration = Duration::from_secs(3);

/// What a message brings: it follows from its number, so that everybody knows what should come of it.
pub fn message(sequence: u64, number: u64) -> u64 {
    (sequence << 32 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

/// The state after a message, which is its outcome, too. Each message and the order of all show in it.
pub fn fold(state: u64, message: u64) -> u64 {
    (state.rotate_left(7) ^ message).wrapping_mul(0x0000_0100_0000_01b3)
}

/// Runs one sequence after the other.
pub(crate) async fn run(world: Rc<World>, pool: Rc<Pool>) {
    loop {
        sleep(Duration::from_millis(world.between(PAUSE[0], PAUSE[1]))).await;
        let model = any_model(&world).filter(|_| world.is_open.get());
        if let Some(model) = model {
            let client = Client::new(&world, &pool, model);
            client.run().await;
        }
    }
}

/// What a node says of a message.
enum Word {
    /// It has its outcome.
    Told(u64),
    /// That node has no such sequence.
    Unknown,
    /// Another try may help.
    Later,
    /// It will never be taken.
    Never(String),
}

struct Client<'a> {
    world: &'a World,
    pool: &'a Pool,
    sequence: u64,
    model: ModelId,
    token: Token,
    /// The node that is asked next, by its place.
    node: usize,
    /// Its first message may have reached a node.
    may_be_started: bool,
}

impl<'a> Client<'a> {
    fn new(world: &'a World, pool: &'a Pool, model: ModelId) -> Self {
        let sequence = world.next_sequence();
        world.record(Event::SequenceBegun {
            sequence,
            model: model.clone(),
        });
        Self {
            world,
            pool,
            sequence,
            model,
            token: Token::new(u128::from(world.random()) << 64 | u128::from(sequence)),
            node: usize::try_from(world.random() % 64).unwrap_or(0),
            may_be_started: false,
        }
    }

    fn wants(&self) -> bool {
        self.world.is_open.get() && self.world.asked_for.borrow().contains(&self.model)
    }

    /// Ends when the world closes, when its model is taken back, or when the sequence is lost.
    async fn run(mut self) {
        let sequence = self.sequence;
        for number in 1.. {
            match self.bring(number).await {
                Ok(Some(value)) => self.world.record(Event::SequenceOutcome {
                    sequence,
                    number,
                    value,
                }),
                Ok(None) => return self.world.record(Event::SequenceClosed { sequence }),
                Err(reason) => return self.world.record(Event::SequenceLost { sequence, reason }),
            }
            sleep(Duration::from_millis(self.world.between(PAUSE[0], PAUSE[1]))).await;
            self.node += usize::from(self.world.happens(MOVES));
        }
    }

    /// Brings a message to its outcome; there is none when nobody wants it any more.
    async fn bring(&mut self, number: u64) -> Result<Option<u64>, String> {
        let mut unknown: Option<Instant> = None;
        // In a row, by as many as there are.
        let mut unknown_to = 0;
        while self.wants() {
            let Some((at, running)) = self.next_node() else {
                sleep(AGAIN).await;
                continue;
            };
            match self.ask(at, number).await {
                Word::Told(value) => return Ok(Some(value)),
                Word::Never(reason) => return Err(reason),
                Word::Later => unknown_to = 0,
                Word::Unknown => unknown_to += 1,
            }
            if unknown_to == 0 {
                unknown = None;
            } else if unknown_to >= running {
                let since = *unknown.get_or_insert(Instant::now());
                if number == 1 {
                    self.may_be_started = false;
                } else if since.elapsed() >= UNKNOWN {
                    return Err("no node knows it".into());
                }
            }
            self.node += 1;
            sleep(AGAIN).await;
        }
        Ok(None)
    }

    /// The address of the node whose turn it is, and how many run.
    fn next_node(&self) -> Option<(SocketAddr, usize)> {
        let machines = self.world.machines.borrow();
        let running: Vec<_> = machines.iter().filter(|machine| machine.is_running()).collect();
        let machine = running.get(self.node.checked_rem(running.len())?)?;
        let at = SocketAddr::new(turmoil::lookup(machine.name.as_str()), MESH);
        Some((at, running.len()))
    }

    async fn ask(&mut self, at: SocketAddr, number: u64) -> Word {
        let start = number == 1 && !self.may_be_started;
        let call = Call::Sequence(SequenceCall {
            model: self.model.name.clone(),
            version: Some(self.model.version),
            id: id_of(self.sequence),
            start,
            end: false,
            number,
            token: Some(self.token),
            names: Vec::new(),
            inputs: Vec::new(),
        });
        let may_be_started = std::mem::replace(&mut self.may_be_started, true);
        let body = body_of(message(self.sequence, number));
        let answer = match self.pool.ask(at, encode(&call), body, PATIENCE).await {
            Ok(answer) => answer,
            Err(error) => {
                self.may_be_started = may_be_started || !error.proves_not_run();
                return Word::Later;
            }
        };
        match decode::<Reply>("reply", &answer.head) {
            Ok(Reply::Told { number: told, .. }) if told == number => match numbers(&answer.body)[..] {
                [value] => Word::Told(value),
                _ => Word::Never("an outcome that is none".into()),
            },
            Ok(Reply::Failed {
                error: InferError::Sequence { error, .. },
                ..
            }) => match error {
                SequenceError::Unknown => Word::Unknown,
                SequenceError::Fenced | SequenceError::UnderWay(_) | SequenceError::Full(_) => Word::Later,
                error => Word::Never(error.to_string()),
            },
            _ => Word::Later,
        }
    }
}

/// The name of a sequence.
fn id_of(sequence: u64) -> SequenceId {
    SequenceId::from(sequence)
}

/// The other way round.
pub(crate) fn sequence_of(id: &SequenceId) -> u64 {
    id.as_str().parse().unwrap_or(0)
}

/// The only version that a simulated model has.
pub(crate) fn model_of(name: &ModelName) -> ModelId {
    ModelId {
        name: name.clone(),
        version: 1,
    }
}
