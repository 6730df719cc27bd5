//! The task of a sequence: brings its messages to an outcome, one after the other.

use std::sync::Arc;
use std::time::Duration;

use grid_core::InferError;
use grid_core::cluster::NodeName;
use grid_core::model::ModelId;
use grid_core::sequence::{SequenceError, SequenceId};
use grid_core::tensor::Buffer;
use grid_core::wire::call::{Call, Reply, SequenceCall};
use grid_core::wire::message;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, info};

use super::nodes::{No, Nodes};
use super::replay::{Message, Replay};
use super::{Outcome, SequencePlace};
use crate::client::after;
use crate::client::peers::Backoff;
use crate::link::{ExchangeError, Incoming, Link};
use crate::{ClientError, GridClient, Outputs};

pub(super) struct Task {
    client: GridClient,
    model: ModelId,
    id: SequenceId,
    place: Arc<Mutex<SequencePlace>>,
    replay: Replay,
    timeout: Duration,
    /// Of the message whose turn it is.
    deadline: Instant,
    nodes: Nodes,
    /// Its first message may have reached a node: before it is started again, nodes are asked whether they have it.
    may_be_started: bool,
    /// Since when every node says that it does not have it, and what one of them says.
    unknown: Option<(Instant, InferError)>,
}

/// What a node says of a message.
enum Word {
    /// It has its outcome.
    Told(Outcome),
    /// The node's state is before another message.
    GoBackTo(u64),
    /// The message is under way there, or will be taken soon.
    SoonHere(String),
    /// It is not taken there.
    NotHere(No, String),
    /// That node does not have the sequence.
    Unknown(InferError),
    /// No node will ever take it.
    Never(ClientError),
}

impl Task {
    pub(super) fn new(
        client: GridClient,
        model: ModelId,
        id: SequenceId,
        place: Arc<Mutex<SequencePlace>>,
        replay: Replay,
        timeout: Duration,
        may_be_started: bool,
    ) -> Self {
        Self {
            client,
            model,
            id,
            place,
            replay,
            timeout,
            deadline: Instant::now(),
            nodes: Nodes::default(),
            may_be_started,
            unknown: None,
        }
    }

    /// Ends with the last message, with an error, or when nobody sends or nobody reads any more.
    pub(super) async fn run(
        mut self,
        mut messages: mpsc::Receiver<Message>,
        outcomes: mpsc::Sender<Result<Outcome, ClientError>>,
    ) {
        let work = async {
            while let Some(message) = messages.recv().await {
                let is_last = message.end;
                let outcome = self.bring(message).await;
                let is_over = is_last || outcome.is_err();
                if outcomes.send(outcome).await.is_err() || is_over {
                    break;
                }
            }
        };
        tokio::select! {
            () = work => {}
            () = outcomes.closed() => {}
        }
    }

    /// Brings the next message to its outcome.
    async fn bring(&mut self, message: Message) -> Result<Outcome, ClientError> {
        self.deadline = after(Instant::now(), self.timeout);
        let (waited, deadline) = (self.timeout, self.deadline);
        let number = message.number;
        let mut reason = String::from("no node was reached");
        let brought = async {
            self.make_room(&mut reason).await?;
            self.replay.push(message);
            self.send(number, &mut reason).await
        };
        match timeout_at(deadline, brought).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ClientError::SequenceStalled {
                id: self.id.to_string(),
                number,
                waited,
                reason,
            }),
        }
    }

    /// Waits until fewer messages are kept: asks for the last outcome again, which tells what is durable by then.
    async fn make_room(&mut self, reason: &mut String) -> Result<(), ClientError> {
        let mut backoff = Backoff::new();
        while self.replay.is_full()
            && let Some(newest) = self.replay.newest()
        {
            self.send(newest, reason).await?;
            if self.replay.is_full() {
                "as many messages as may are kept, and none of them is durable".clone_into(reason);
                tokio::time::sleep(backoff.next()).await;
            }
        }
        Ok(())
    }

    /// Sends a message until it has its outcome, and before it whatever a node lacks.
    async fn send(&mut self, last: u64, reason: &mut String) -> Result<Outcome, ClientError> {
        let mut number = last;
        let mut changes = self.client.core().watch();
        let mut backoff = Backoff::new();
        loop {
            changes.borrow_and_update();
            let starts = number == 1 && !self.may_be_started;
            let Some((node, link)) = self.nodes.next(&self.client, &self.model, starts) else {
                if self.nodes.all_said(&self.client, No::Refused) {
                    return Err(InferError::Unsupported(reason.clone()).into());
                }
                if self.nodes.all_said(&self.client, No::Unknown) {
                    number = self.start_over(number)?;
                } else {
                    self.unknown = None;
                }
                self.nodes.next_round();
                let _ = timeout(backoff.next(), changes.changed()).await;
                continue;
            };
            match self.ask(&node, &link, number, starts).await {
                Word::Told(outcome) => {
                    self.nodes.found(node);
                    self.unknown = None;
                    backoff = Backoff::new();
                    self.replay.durable(outcome.durable.min(last.saturating_sub(1)));
                    if number == last {
                        self.replay.durable(outcome.durable.min(last));
                        return Ok(outcome);
                    }
                    number += 1;
                }
                Word::GoBackTo(wanted) if self.replay.get(wanted).is_some() && wanted < number => {
                    info!(sequence = %self.id, %node, from = wanted, "a node goes on from an earlier message");
                    self.nodes.found(node);
                    number = wanted;
                }
                Word::GoBackTo(wanted) => {
                    return Err(ClientError::SequenceGap {
                        id: self.id.to_string(),
                        wanted,
                        oldest: self.replay.oldest(),
                    });
                }
                Word::SoonHere(why) => {
                    *reason = why;
                    let _ = timeout(backoff.next(), link.closed()).await;
                }
                Word::NotHere(no, why) => {
                    debug!(sequence = %self.id, number, %node, ?no, why, "a message has no outcome there");
                    *reason = why;
                    self.nodes.pass(node, no);
                }
                Word::Unknown(error) => {
                    debug!(sequence = %self.id, number, %node, %error, "it is not there");
                    *reason = format!("node {node}: {error}");
                    self.nodes.pass(node, No::Unknown);
                    self.unknown.get_or_insert((Instant::now(), error));
                }
                Word::Never(error) => return Err(error),
            }
        }
    }

    /// No node has the sequence: it is started over while all its messages are kept. Otherwise it is lost, if that is so for
    /// a while: nodes that have just started may not have heard yet of those that have it. The number of the message that
    /// is sent next.
    fn start_over(&mut self, number: u64) -> Result<u64, ClientError> {
        let Some((since, error)) = &self.unknown else {
            return Ok(number);
        };
        let is_certain = matches!(error, InferError::Sequence { .. });
        if is_certain && self.replay.oldest() == 1 {
            info!(sequence = %self.id, "no node has it; it is started over");
            self.may_be_started = false;
            return Ok(1);
        }
        match since.elapsed() < self.client.core().options.unknown_model {
            true => Ok(number),
            false => Err(error.clone().into()),
        }
    }

    /// Sends one message to one node.
    async fn ask(&mut self, node: &NodeName, link: &Link, number: u64, starts: bool) -> Word {
        let Some(message) = self.replay.get(number) else {
            return Word::GoBackTo(number);
        };
        let (inputs, _) = message::lay_out(&message.inputs);
        let body: Vec<Buffer> = message.inputs.iter().map(|tensor| tensor.data().clone()).collect();
        let call = Call::Sequence(SequenceCall {
            model: self.model.name.clone(),
            version: Some(self.model.version),
            id: self.id.clone(),
            start: starts,
            end: message.end,
            number,
            token: Some(self.place.lock().token),
            names: message.names.clone(),
            inputs,
        });
        let may_be_started = std::mem::replace(&mut self.may_be_started, true);
        let remaining = self.deadline.saturating_duration_since(Instant::now());
        let mut exchange = link.ask(&call, body, Some(remaining));
        match exchange.next().await {
            Some(Ok(incoming)) => self.understand(node, number, &incoming),
            Some(Err(error)) => {
                self.may_be_started = may_be_started || !error.proves_not_run();
                match error {
                    ExchangeError::RequestTooLarge | ExchangeError::AnswerTooLarge { .. } => {
                        Word::Never(InferError::Invalid(format!("sequence `{}`: {error}", self.id)).into())
                    }
                    error => Word::NotHere(No::Busy, format!("node {node}: {error}")),
                }
            }
            None => Word::NotHere(No::Busy, format!("node {node} ended it without a word")),
        }
    }

    fn understand(&mut self, node: &NodeName, number: u64, incoming: &Incoming) -> Word {
        let busy = |why: String| Word::NotHere(No::Busy, format!("node {node}: {why}"));
        let (reply, body) = match incoming.unpack::<Reply>() {
            Ok(unpacked) => unpacked,
            Err(error) => return busy(format!("its reply makes no sense: {error}")),
        };
        match reply {
            Reply::Told {
                number: told,
                durable,
                token,
                names,
                outputs,
            } if told == number => {
                let outputs = outputs.map(|heads| message::tensors(&heads, &body));
                let outputs = match outputs {
                    Ok(Ok(tensors)) if tensors.len() == names.len() => {
                        let names = names.iter().map(|name| name.as_str().into());
                        Ok(Outputs(names.zip(tensors).collect()))
                    }
                    Ok(Ok(_)) => return busy("its outputs have other names than there are outputs".to_owned()),
                    Ok(Err(error)) => return busy(error.to_string()),
                    Err(error) => Err(error),
                };
                if let Some(token) = token {
                    self.place.lock().token = token;
                }
                Word::Told(Outcome {
                    number,
                    // What a node says of messages that it has not had means nothing.
                    durable: durable.min(number),
                    outputs,
                })
            }
            Reply::Failed { error, .. } => match error {
                InferError::Sequence { error, .. } => match error {
                    SequenceError::Unknown => Word::Unknown(self.says(error)),
                    // Another node has taken it over while this one was not heard of: that one has it now.
                    SequenceError::Fenced => busy(error.to_string()),
                    SequenceError::OutOfOrder { expected, .. } => Word::GoBackTo(expected),
                    SequenceError::UnderWay(_) | SequenceError::Full(_) => {
                        Word::SoonHere(format!("node {node}: {error}"))
                    }
                    error => Word::Never(self.says(error).into()),
                },
                // A node that has just started does not know all models yet.
                InferError::NotFound(_) => Word::Unknown(error),
                // Its time there is over, and not that of the message, which may have run: its number tells.
                InferError::DeadlineExceeded { .. } => Word::SoonHere(format!("node {node}: {error}")),
                error if error.can_retry() => busy(error.to_string()),
                error => Word::Never(error.into()),
            },
            Reply::NotOwner { .. } => {
                self.client.core().poll_now.notify_one();
                busy("it does not host the model any more".to_owned())
            }
            Reply::Refused(why) => Word::NotHere(No::Refused, format!("node {node}: {why}")),
            _ => busy("its reply is of another kind".to_owned()),
        }
    }

    fn says(&self, error: SequenceError) -> InferError {
        InferError::Sequence {
            id: self.id.clone(),
            error,
        }
    }
}
