//! One request on its way: to the least loaded replica, and to others as long as it may be sent again.

use std::sync::Arc;
use std::time::Duration;

use grid_core::InferError;
use grid_core::cluster::NodeName;
use grid_core::dispatch::{LOOK_AT_ALL, choose};
use grid_core::model::{ModelId, ModelName, Version};
use grid_core::tensor::Tensor;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

use super::routes::{Host, Route, Unknown, Waiting};
use super::{ClientError, Described, Found, GridClient, LOOK_AGAIN};
use crate::replica::{Answered, AttemptEnd, Message, Next, UnderWay};

/// What a request asks for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) model: ModelName,
    pub(super) version: Option<Version>,
    pub(super) inputs: Vec<(String, Tensor)>,
    pub(super) priority: u32,
    pub(super) parts: bool,
}

/// What a request brings.
pub(super) enum Brought {
    Part(Arc<Described>, Vec<Tensor>),
    Last(Arc<Described>, NodeName, Answered),
}

/// A request on its way. Dropped, it is cancelled wherever it is.
pub(super) struct Dispatch {
    client: GridClient,
    wanted: Wanted,
    began: Instant,
    deadline: Instant,
    changes: watch::Receiver<u64>,
    /// The inputs in their order, and what they were checked for.
    arranged: Option<(Arc<Described>, Vec<Tensor>)>,
    under_way: Option<UnderWay>,
    attempts: u32,
    /// Who did not answer it, since it last waited.
    tried: Vec<NodeName>,
    /// Who hosts the model by the word of those that do not any more.
    hinted: Vec<NodeName>,
    waiting: Option<Waiting>,
    unknown: Unknown,
}

impl Dispatch {
    pub(super) fn new(client: GridClient, wanted: Wanted, deadline: Instant) -> Self {
        client.core().retries.lock().request();
        Self {
            wanted,
            began: Instant::now(),
            deadline,
            changes: client.core().watch(),
            client,
            arranged: None,
            under_way: None,
            attempts: 0,
            tried: Vec::new(),
            hinted: Vec::new(),
            waiting: None,
            unknown: Unknown::default(),
        }
    }

    /// What comes next. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Brought, ClientError> {
        let deadline = self.deadline;
        match timeout_at(deadline, self.step()).await {
            Ok(brought) => brought,
            Err(_) => Err(self.too_late()),
        }
    }

    async fn step(&mut self) -> Result<Brought, ClientError> {
        loop {
            match (&mut self.under_way, &self.arranged) {
                (Some(under_way), Some((described, _))) => {
                    let described = Arc::clone(described);
                    match under_way.next().await {
                        Next::Part(outputs) => return Ok(Brought::Part(described, outputs)),
                        Next::End(end) => {
                            let node = under_way.replica().node().clone();
                            self.under_way = None;
                            if let Some(answered) = self.ended(node.clone(), end)? {
                                return Ok(Brought::Last(described, node, answered));
                            }
                        }
                    }
                }
                _ => self.attempt().await?,
            }
        }
    }

    /// The answer, if that was one; nothing, if the request is to be sent again.
    fn ended(&mut self, node: NodeName, end: AttemptEnd) -> Result<Option<Answered>, ClientError> {
        let (miss, error, not_owner) = match end {
            AttemptEnd::Ended(outcome) => return Ok(outcome.map(Some)?),
            AttemptEnd::Missed { miss, error, not_owner } => (miss, error, not_owner),
        };
        let core = self.client.core();
        self.attempts += 1;
        debug!(%node, ?miss, %error, attempts = self.attempts, "not answered there");
        if let Some(hint) = not_owner {
            // What is known of the grid is old.
            core.poll_now.notify_one();
            self.hinted = hint;
        }
        if !core.may_retry(miss, self.attempts) {
            return Err(error.into());
        }
        self.waiting = None;
        self.tried.push(node);
        Ok(None)
    }

    /// Sends the request to whoever would answer it soonest, or waits for a change.
    async fn attempt(&mut self) -> Result<(), ClientError> {
        let core = Arc::clone(self.client.core());
        self.changes.borrow_and_update();
        match core.find(&self.wanted.model, self.wanted.version) {
            Found::Route(route) => {
                self.unknown.is_over();
                self.arrange(&route)?;
                if let Some(host) = self.choose(&route)
                    && let Some(link) = host.peer.link()
                    && let Some((_, inputs)) = &self.arranged
                {
                    self.under_way = Some(host.replica.send(
                        &link,
                        Message {
                            inputs,
                            priority: self.wanted.priority,
                            parts: self.wanted.parts,
                            remaining: self.deadline.saturating_duration_since(Instant::now()),
                        },
                    ));
                    return Ok(());
                }
                self.waiting = None;
            }
            Found::Waiting(waiting) => {
                if self
                    .unknown
                    .until(&waiting, &core)
                    .is_some_and(|until| until <= Instant::now())
                {
                    return Err(waiting.into_error(&self.wanted.model, self.began.elapsed()));
                }
                self.waiting = Some(waiting);
            }
        }
        let _ = timeout(jittered(LOOK_AGAIN), self.changes.changed()).await;
        self.tried.clear();
        Ok(())
    }

    /// Puts the inputs in order, and checks them, unless that was done for the same interface.
    fn arrange(&mut self, route: &Route) -> Result<(), ClientError> {
        let described = &route.described;
        let interface = described.description.interface;
        if let Some((known, _)) = &self.arranged
            && known.description.interface == interface
            && known.description.model == described.description.model
        {
            return Ok(());
        }
        let named = self.wanted.inputs.iter().map(|(name, tensor)| (name, tensor.clone()));
        let signature = &described.description.signature;
        let inputs = signature
            .arrange(named, |index| described.initial.get(index).cloned().flatten())
            .map_err(|error| ClientError::Input {
                model: described.description.model.to_string(),
                error,
            })?;
        self.arranged = Some((Arc::clone(described), inputs.into_vec()));
        Ok(())
    }

    /// Whoever would answer soonest, of those that can be reached and were not tried.
    fn choose(&self, route: &Route) -> Option<Host> {
        let core = self.client.core();
        let hosts = &route.hosts;
        let entropy = if hosts.len() > LOOK_AT_ALL { rand::random() } else { 0 };
        let unknown = hosts
            .iter()
            .filter_map(|host| host.replica.service())
            .max()
            .unwrap_or_default();
        let can_be_sent = |host: &Host| !self.tried.contains(host.replica.node()) && host.peer.link().is_some();
        let cost = |index: usize| match &hosts[index] {
            host if can_be_sent(host) => host.replica.cost(unknown),
            _ => u64::MAX,
        };
        let start = core.place.checked_rem(hosts.len()).unwrap_or(0);
        let chosen = choose(hosts.len(), start, entropy, cost).map(|index| &hosts[index]);
        if let Some(host) = chosen.filter(|host| can_be_sent(host)) {
            return Some(host.clone());
        }
        // Both that were drawn may be out while others are not.
        if let Some(host) = hosts.iter().find(|host| can_be_sent(host)) {
            return Some(host.clone());
        }
        let description = &route.described.description;
        let mut hinted = self.hinted.iter();
        hinted.find_map(|node| {
            let host = core.host(node, &description.model, description.interface)?;
            can_be_sent(&host).then_some(host)
        })
    }

    fn too_late(&mut self) -> ClientError {
        let waited = self.deadline.saturating_duration_since(self.began);
        if let Some(waiting) = self.waiting.take() {
            return waiting.into_error(&self.wanted.model, waited);
        }
        match &self.arranged {
            Some((described, _)) if self.under_way.is_some() || self.attempts > 0 => InferError::DeadlineExceeded {
                model: described.description.model.clone(),
                timeout: waited,
            }
            .into(),
            _ => ClientError::NoReplica {
                model: self.model_text(),
                waited,
                reason: "no node that hosts it can be reached".to_owned(),
            },
        }
    }

    fn model_text(&self) -> String {
        match self.wanted.version {
            Some(version) => ModelId {
                name: self.wanted.model.clone(),
                version,
            }
            .to_string(),
            None => self.wanted.model.to_string(),
        }
    }
}

/// So that requests that wait for the same thing do not all come back to it at once.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.5 + rand::random::<f64>() / 2.0)
}
