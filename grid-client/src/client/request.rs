//! Models and requests, as apps see them.

use std::sync::Arc;
use std::time::Duration;

use grid_core::InferError;
use grid_core::cluster::NodeName;
use grid_core::model::{ModelId, ModelName, Signature, Version};
use grid_core::tensor::Tensor;
use grid_core::wire::call::Times;
use tokio::time::Instant;

use super::dispatch::{Brought, Dispatch, Wanted};
use super::{ClientError, Described, Found, GridClient, after};

/// A model of the grid. A clone costs some reference counts.
#[derive(Clone, Debug)]
pub struct Model {
    pub(crate) client: GridClient,
    pub(crate) name: ModelName,
    pub(crate) version: Option<Version>,
}

impl Model {
    pub(super) fn new(client: GridClient, name: ModelName) -> Self {
        Self {
            client,
            name,
            version: None,
        }
    }

    /// Its name.
    pub fn name(&self) -> &ModelName {
        &self.name
    }

    /// The same model in this version alone. Whether anybody hosts it shows with the first request.
    pub fn version(mut self, version: Version) -> Self {
        self.version = Some(version);
        self
    }

    /// What goes in and comes out, of the version that a request would get now; `None` while nobody hosts it.
    pub fn signature(&self) -> Option<Signature> {
        match self.client.core().find(&self.name, self.version) {
            Found::Route(route) => Some(route.described.description.signature.clone()),
            Found::Waiting(_) => None,
        }
    }

    /// Runs it on these named tensors. Dropping the future cancels the request, also where it runs.
    ///
    /// # Errors
    /// As [`Request::send`].
    pub async fn infer<N: Into<String>>(
        &self,
        inputs: impl IntoIterator<Item = (N, Tensor)>,
    ) -> Result<Answer, ClientError> {
        self.request().inputs(inputs).send().await
    }

    /// A request, to be filled and sent.
    pub fn request(&self) -> Request {
        Request {
            wanted: Wanted {
                model: self.name.clone(),
                version: self.version,
                inputs: Vec::new(),
                priority: 0,
                parts: false,
            },
            deadline: after(Instant::now(), self.client.core().options.timeout),
            client: self.client.clone(),
        }
    }
}

/// A request that is being put together.
#[derive(Clone, Debug)]
#[must_use = "a request does nothing until it is sent"]
pub struct Request {
    client: GridClient,
    wanted: Wanted,
    deadline: Instant,
}

impl Request {
    /// Adds an input. An input that carries a sequence's state may be left out, and then holds its initial value.
    pub fn input(mut self, name: impl Into<String>, tensor: Tensor) -> Self {
        self.wanted.inputs.push((name.into(), tensor));
        self
    }

    /// Adds inputs.
    pub fn inputs<N: Into<String>>(mut self, inputs: impl IntoIterator<Item = (N, Tensor)>) -> Self {
        let named = inputs.into_iter().map(|(name, tensor)| (name.into(), tensor));
        self.wanted.inputs.extend(named);
        self
    }

    /// The time that it has from now on, retries included. Default: [`ClientOptions::timeout`](super::ClientOptions::timeout).
    pub fn timeout(self, timeout: Duration) -> Self {
        self.until(after(Instant::now(), timeout))
    }

    /// The moment after which nobody wants the answer.
    pub fn deadline(self, deadline: std::time::Instant) -> Self {
        self.until(Instant::from_std(deadline))
    }

    fn until(mut self, deadline: Instant) -> Self {
        self.deadline = deadline;
        self
    }

    /// The smaller the sooner; 0, the default, stands for [`DEFAULT_PRIORITY`](grid_core::batching::DEFAULT_PRIORITY).
    pub fn priority(mut self, priority: u32) -> Self {
        self.wanted.priority = priority;
        self
    }

    /// Sends it to the least loaded replica, and again elsewhere while it has time and may be sent again. Dropping the
    /// future cancels it, also where it runs.
    ///
    /// # Errors
    /// [`ClientError::Input`] when a tensor is not what the model takes; nothing was sent then. [`ClientError::NoReplica`] when
    /// nobody takes it in time, [`ClientError::Infer`] with whatever a replica says of it.
    pub async fn send(self) -> Result<Answer, ClientError> {
        let mut dispatch = Dispatch::new(self.client, self.wanted, self.deadline);
        loop {
            if let StreamedOutput::Last(answer) = output(dispatch.next().await?)? {
                return Ok(answer);
            }
        }
    }

    /// The same, with the outputs that come before the last ones, where the model has such. It is sent when
    /// [`Streaming::next`] is first called.
    pub fn send_streaming(mut self) -> Streaming {
        self.wanted.parts = true;
        Streaming {
            dispatch: Some(Dispatch::new(self.client, self.wanted, self.deadline)),
        }
    }
}

/// The outputs of a request as they come. Dropped, it cancels the request.
pub struct Streaming {
    dispatch: Option<Dispatch>,
}

/// What a streaming request brings.
#[derive(Clone, Debug)]
pub enum StreamedOutput {
    /// Outputs that come before the last.
    Part(Outputs),
    /// The last outputs.
    Last(Answer),
}

impl Streaming {
    /// What comes next; `None` after the last answer, or after an error. Cancel-safe.
    ///
    /// Once a part has come the request is not sent elsewhere, as its parts would come a second time.
    ///
    /// # Errors
    /// As [`Request::send`].
    pub async fn next(&mut self) -> Option<Result<StreamedOutput, ClientError>> {
        let brought = self.dispatch.as_mut()?.next().await;
        let output = brought.and_then(output);
        if !matches!(output, Ok(StreamedOutput::Part(_))) {
            self.dispatch = None;
        }
        Some(output)
    }
}

impl std::fmt::Debug for Streaming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streaming")
            .field("is_over", &self.dispatch.is_none())
            .finish_non_exhaustive()
    }
}

fn output(brought: Brought) -> Result<StreamedOutput, ClientError> {
    match brought {
        Brought::Part(described, outputs) => Ok(StreamedOutput::Part(named(&described, outputs)?)),
        Brought::Last(described, node, answered) => Ok(StreamedOutput::Last(Answer {
            outputs: named(&described, answered.outputs)?,
            model: described.description.model.clone(),
            node,
            times: answered.times,
        })),
    }
}

fn named(described: &Described, outputs: Vec<Tensor>) -> Result<Outputs, ClientError> {
    let (expected, found) = (described.outputs.len(), outputs.len());
    if expected != found {
        return Err(ClientError::Infer(InferError::ModelFailed {
            model: described.description.model.clone(),
            reason: format!("a replica answered with {found} outputs, expected {expected}"),
        }));
    }
    Ok(Outputs(described.outputs.iter().cloned().zip(outputs).collect()))
}

/// The answer to a request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The outputs.
    pub outputs: Outputs,
    /// The model version that answered.
    pub model: ModelId,
    /// Where it ran.
    pub node: NodeName,
    /// Where the time went.
    pub times: Times,
}

impl Answer {
    /// The output of that name.
    pub fn output(&self, name: &str) -> Option<&Tensor> {
        self.outputs.get(name)
    }
}

/// Named tensors, in the order of the model's file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outputs(pub(crate) Vec<(Arc<str>, Tensor)>);

impl Outputs {
    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        let mut named = self.0.iter();
        named.find(|(known, _)| **known == *name).map(|(_, tensor)| tensor)
    }

    /// All, with their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, tensor)| (&**name, tensor))
    }
}
