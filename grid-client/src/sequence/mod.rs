//! Sequences: numbered streams of messages to a model that keeps state between them.
//!
//! Wanted:
//!
//! - (A) messages are numbered from 1 without a gap, and each has exactly one outcome, in their order;
//! - (B) all go to the node that holds the sequence; when it is lost, another one goes on, from the last durable state, with
//!   what is sent to it again;
//! - (C) what is kept for that is bounded: a sender is held up rather than the buffer passed.
//!
//! One message is under way at a time: the next one needs the state that it leaves, and two exchanges of a link may
//! overtake each other.

mod nodes;
mod replay;
mod task;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use grid_core::InferError;
use grid_core::model::Version;
use grid_core::sequence::{SequenceId, Token};
use grid_core::tensor::Tensor;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::client::Described;
use crate::{ClientError, Model, Outputs};
use replay::{Message, Replay};
use task::Task;

/// Bounds of one sequence.
#[derive(Clone, Copy, Debug)]
pub struct SequenceOptions {
    /// Messages that may wait to be sent, and outcomes that may wait to be read, each.
    pub window: usize,
    /// Most messages that are kept because their states would not survive their node; at least 1.
    pub keep: usize,
    /// Most bytes of them. One message is always kept.
    pub keep_bytes: usize,
    /// The time that each message has, from when its turn comes. A sequence whose message has no outcome by then ends.
    /// Default: [`ClientOptions::timeout`](crate::ClientOptions::timeout).
    pub timeout: Option<Duration>,
}

impl Default for SequenceOptions {
    fn default() -> Self {
        Self {
            window: 16,
            keep: 256,
            keep_bytes: 64 << 20,
            timeout: None,
        }
    }
}

/// Where a sequence stands: what is needed to resume it, in another process perhaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequencePlace {
    /// What proves that it is this client's.
    pub token: Token,
    /// The first message whose outcome was not read.
    pub next: u64,
    /// The model version that it began with.
    pub version: Version,
}

/// A sequence that is to be started or resumed.
#[derive(Clone, Debug)]
#[must_use = "a sequence does nothing until it is started"]
pub struct StartSequence {
    model: Model,
    id: String,
    options: SequenceOptions,
}

impl Model {
    /// A sequence of this name: 1 to 128 bytes of text without control characters, the only one of that name in the
    /// grid that lives.
    pub fn sequence(&self, id: impl Into<String>) -> StartSequence {
        StartSequence {
            model: self.clone(),
            id: id.into(),
            options: SequenceOptions::default(),
        }
    }
}

impl StartSequence {
    /// With other bounds.
    pub fn options(mut self, options: SequenceOptions) -> Self {
        self.options = options;
        self
    }

    /// Starts it, in the version that a request would get now. Nodes hear of it with its first message. Waits until
    /// somebody hosts the model. Cancel-safe.
    ///
    /// # Errors
    /// [`ClientError::SequenceId`], and as [`GridClient::model`](crate::GridClient::model).
    pub async fn start(self) -> Result<SequenceStream, ClientError> {
        let token = Token::new(rand::random());
        self.begin(token, 1, false).await
    }

    /// Goes on with a sequence that was started before, in this process or another. Messages from [`SequencePlace::next`] on
    /// are to be sent again: those that have an outcome are not run again, as long as a node keeps it. Those before are not
    /// kept any more: when the node that holds the sequence was lost, it can go on only where all their states are durable.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn resume(mut self, place: SequencePlace) -> Result<SequenceStream, ClientError> {
        self.model.version = Some(place.version);
        self.begin(place.token, place.next.max(1), true).await
    }

    async fn begin(self, token: Token, next: u64, resumes: bool) -> Result<SequenceStream, ClientError> {
        let id: SequenceId = self.id.parse()?;
        let Self { model, options, .. } = self;
        let timeout = options.timeout.unwrap_or(model.client.core().options.timeout);
        let route = model.client.core().route(&model.name, model.version, timeout).await?;
        let described = Arc::clone(&route.described);
        let version = described.description.model.version;
        let place = Arc::new(Mutex::new(SequencePlace { token, next, version }));
        let (messages, waiting) = mpsc::channel(options.window.max(1));
        let (told, outcomes) = mpsc::channel(options.window.max(1));
        let task = Task::new(
            model.client.clone(),
            described.description.model.clone(),
            id.clone(),
            Arc::clone(&place),
            Replay::new(next, options.keep, options.keep_bytes),
            timeout,
            resumes,
        );
        tokio::spawn(task.run(waiting, told));
        Ok(SequenceStream {
            sender: SequenceSender {
                id,
                described,
                next,
                is_over: false,
                messages,
            },
            outcomes: SequenceOutcomes { outcomes, place },
        })
    }
}

/// A sequence: its messages go in, their outcomes come out. Dropped, it sends nothing any more; nodes keep it for a while,
/// and it can be [resumed](StartSequence::resume).
#[derive(Debug)]
pub struct SequenceStream {
    sender: SequenceSender,
    outcomes: SequenceOutcomes,
}

impl SequenceStream {
    /// Its name.
    pub fn id(&self) -> &SequenceId {
        &self.sender.id
    }

    /// Where it stands.
    pub fn place(&self) -> SequencePlace {
        self.outcomes.place()
    }

    /// As [`SequenceSender::send`]. Whoever sends more than [`SequenceOptions::window`] messages without reading their
    /// outcomes waits for ever: read them in between, or in another task after [`split`](Self::split).
    ///
    /// # Errors
    /// As [`SequenceSender::send`].
    pub async fn send<N: Into<String>>(
        &mut self,
        inputs: impl IntoIterator<Item = (N, Tensor)>,
    ) -> Result<u64, ClientError> {
        self.sender.send(inputs).await
    }

    /// The same with the last message.
    ///
    /// # Errors
    /// As [`SequenceSender::send`].
    pub async fn send_last<N: Into<String>>(
        &mut self,
        inputs: impl IntoIterator<Item = (N, Tensor)>,
    ) -> Result<u64, ClientError> {
        self.sender.send_last(inputs).await
    }

    /// As [`SequenceOutcomes::next`].
    pub async fn next(&mut self) -> Option<Result<Outcome, ClientError>> {
        self.outcomes.next().await
    }

    /// One half for whoever sends, one for whoever reads.
    pub fn split(self) -> (SequenceSender, SequenceOutcomes) {
        (self.sender, self.outcomes)
    }
}

/// The sending half of a sequence. Dropped, no message follows, and those that were sent still have their outcomes.
pub struct SequenceSender {
    id: SequenceId,
    described: Arc<Described>,
    next: u64,
    is_over: bool,
    messages: mpsc::Sender<Message>,
}

impl SequenceSender {
    /// Sends the next message; its number. Inputs that carry the state are left out. Waits while too many wait already.
    /// Cancel-safe: dropped, the message was not sent, and its number is free.
    ///
    /// # Errors
    /// [`ClientError::Input`] when a tensor is not what the model takes, [`ClientError::SequenceOver`]. The message was not
    /// sent.
    pub async fn send<N: Into<String>>(
        &mut self,
        inputs: impl IntoIterator<Item = (N, Tensor)>,
    ) -> Result<u64, ClientError> {
        self.send_one(inputs, false).await
    }

    /// The same with the last message.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_last<N: Into<String>>(
        &mut self,
        inputs: impl IntoIterator<Item = (N, Tensor)>,
    ) -> Result<u64, ClientError> {
        self.send_one(inputs, true).await
    }

    async fn send_one<N: Into<String>>(
        &mut self,
        inputs: impl IntoIterator<Item = (N, Tensor)>,
        end: bool,
    ) -> Result<u64, ClientError> {
        let (names, inputs): (Vec<String>, Vec<Tensor>) =
            inputs.into_iter().map(|(name, tensor)| (name.into(), tensor)).unzip();
        let Described {
            description, initial, ..
        } = &*self.described;
        let named = names.iter().zip(inputs.iter().cloned());
        let checked = description
            .signature
            .arrange(named, |index| initial.get(index).cloned().flatten());
        checked.map_err(|error| ClientError::Input {
            model: description.model.to_string(),
            error,
        })?;
        if self.is_over {
            return Err(ClientError::SequenceOver);
        }
        let place = self.messages.reserve().await.map_err(|_| ClientError::SequenceOver)?;
        let number = self.next;
        place.send(Message {
            number,
            names,
            inputs,
            end,
        });
        self.next += 1;
        self.is_over = end;
        Ok(number)
    }
}

impl std::fmt::Debug for SequenceSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SequenceSender")
            .field("id", &self.id)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

/// The reading half of a sequence. Dropped, the sequence sends nothing any more.
#[derive(Debug)]
pub struct SequenceOutcomes {
    outcomes: mpsc::Receiver<Result<Outcome, ClientError>>,
    place: Arc<Mutex<SequencePlace>>,
}

impl SequenceOutcomes {
    /// The next outcome: one for each message, in their order. `None` after that of the last message, after an error, and
    /// once the sender is gone and all was told. Cancel-safe.
    ///
    /// # Errors
    /// Once, when the sequence cannot go on: [`ClientError::SequenceStalled`], [`ClientError::SequenceGap`], or what a node
    /// says of it. [`place`](Self::place) tells the first message that has no outcome then.
    pub async fn next(&mut self) -> Option<Result<Outcome, ClientError>> {
        let outcome = self.outcomes.recv().await?;
        if let Ok(outcome) = &outcome {
            self.place.lock().next = outcome.number + 1;
        }
        Some(outcome)
    }

    /// Where the sequence stands.
    pub fn place(&self) -> SequencePlace {
        *self.place.lock()
    }
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Its number.
    pub number: u64,
    /// The last number whose state would survive the loss of its node.
    pub durable: u64,
    /// The outputs, without those that carry the state; or how it failed, which left the state as it was.
    pub outputs: Result<Outputs, InferError>,
}
