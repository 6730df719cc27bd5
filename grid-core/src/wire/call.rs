//! What a node answers to others over the mesh: nodes and client libraries call the same way.
//!
//! A call's head is an encoded [`Call`], its tensors are the body; each answer's head is an encoded [`Reply`]. One that is too
//! long for a head goes as [`envelope`](super::envelope) says.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::message::TensorHead;
use super::sequence::{Give, Hold, Release, Seek, Seen, SequenceImage, Vote};
use crate::InferError;
use crate::agent::{Answer, Ask};
use crate::artifact::ChunkRequest;
use crate::cluster::{Digest, NodeId, NodeName, NodeSnapshot};
use crate::model::{ModelId, ModelName, Signature, Version};
use crate::sequence::{HoldAnswer, SequenceId, Token};

/// A call to a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Call {
    /// One agent asks another; for nodes only. Answered with [`Reply::Agent`].
    Agent {
        /// Who is asked: a node that lives another life has not heard it.
        to: NodeId,
        /// What.
        ask: Ask,
    },
    /// Runs a model on the replica that this node hosts. Answered with any number of [`Reply::Part`] and one
    /// [`Reply::Done`], or [`Reply::Failed`], or [`Reply::NotOwner`].
    Infer(Infer),
    /// What goes into a model and what comes out. Answered with [`Reply::Description`] or [`Reply::NotOwner`].
    Describe(ModelId),
    /// The files of a content. Answered with [`Reply::Listing`] or [`Reply::Refused`].
    Listing(Digest),
    /// A part of a file of a content. Answered with [`Reply::Chunk`], whose body is the part, or [`Reply::Refused`].
    Chunk(ChunkRequest),
    /// Who is in the grid and hosts what, for clients. Answered with [`Reply::Topology`].
    Topology {
        /// The version that the client has: an equal one is not sent again.
        known: Option<Digest>,
    },
    /// A message of a sequence, or a word about it. Answered with [`Reply::Told`] or [`Reply::Failed`].
    Sequence(SequenceCall),
    /// The home of a sequence tells the second node how far it is; this and all that follow are for nodes only.
    Hold(Box<Hold>),
    /// A copy of a sequence is of no use any more.
    Release(Release),
    /// Who has this sequence?
    Seek(Seek),
    /// Hand a sequence over.
    Give(Give),
    /// A word for a new term of a sequence.
    Vote(Vote),
    /// The call is the first part of the body, as it is longer than a head may be: see [`envelope`](super::envelope).
    InBody {
        /// Bytes that it takes there.
        length: u32,
    },
}

/// One inference on one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Infer {
    /// Which model version.
    pub model: ModelId,
    /// What the inputs were put in order and checked for: [`Interface`].
    pub interface: Digest,
    /// The inputs, in the order of the signature.
    pub inputs: Vec<TensorHead>,
    /// The smaller the sooner; the default priority where it is 0.
    pub priority: u32,
    /// Whether outputs are wanted that come before the last.
    pub parts: bool,
}

/// A message of a sequence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SequenceCall {
    /// Which model; the version that the sequence began with, or the preferred one at its start, where there is none.
    pub model: ModelName,
    /// Its version.
    pub version: Option<Version>,
    /// Which sequence.
    pub id: SequenceId,
    /// Whether this is its first message.
    pub start: bool,
    /// Whether this is its last one.
    pub end: bool,
    /// The number of the message.
    pub number: u64,
    /// What proves that the caller is the one that started it. With the first message: the token that the sequence is to
    /// have, drawn by the caller, so that a start whose answer was lost can be sent again; without one, the node draws it.
    pub token: Option<Token>,
    /// Names of the inputs.
    pub names: Vec<String>,
    /// The inputs.
    pub inputs: Vec<TensorHead>,
}

/// What a request was put in order and checked for: two replicas with the same interface can answer the same request, and
/// their outputs are named alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Interface<'a> {
    /// Inputs and outputs.
    pub signature: &'a Signature,
    /// Inputs and outputs that carry a sequence's state.
    pub states: &'a [(usize, usize)],
    /// Dimensions along which requests are stacked.
    pub inputs: Option<&'a [Option<usize>]>,
    /// Most rows of a request.
    pub max_rows: usize,
}

impl Interface<'_> {
    /// Its digest.
    pub fn digest(&self) -> Digest {
        Digest::of(&super::codec::encode(self))
    }
}

/// What a node says of its load with every answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadReport {
    /// Requests that the replica has accepted and not answered, from whomever.
    pub in_flight: u32,
    /// Instances that serve them side by side.
    pub instances: u32,
    /// What one request takes of an instance, in microseconds; 0 before the first.
    pub service_us: u32,
}

/// Where the time of a request went, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// From its arrival at the replica until its run began.
    pub queued: u64,
    /// Length of its run.
    pub computed: u64,
    /// Rows of the whole run.
    pub rows: u64,
}

/// A node's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// Outputs that come before the last ones.
    Part {
        /// In the order of the signature.
        outputs: Vec<TensorHead>,
    },
    /// The last outputs.
    Done {
        /// In the order of the signature.
        outputs: Vec<TensorHead>,
        /// Where the time went.
        times: Times,
        /// The load of the replica.
        load: LoadReport,
    },
    /// The request has ended without an answer.
    Failed {
        /// How.
        error: InferError,
        /// Whether it may have run: if not, it can be sent to another replica whatever it is.
        may_have_run: bool,
        /// The load of the replica, where there is one.
        load: LoadReport,
    },
    /// This node does not host what was asked for. Nothing ran.
    NotOwner {
        /// Who hosts it, as far as this node knows.
        hint: Vec<NodeName>,
    },
    /// Another agent's answer.
    Agent(Answer),
    /// What goes into a model and what comes out.
    Description(Box<Description>),
    /// The files of a content, encoded.
    Listing(Vec<u8>),
    /// A part of a file is in the body.
    Chunk,
    /// It is not answered, for this reason.
    Refused(String),
    /// Who is in the grid and hosts what; `None` when that is what the client knows already.
    Topology(Option<Box<Topology>>),
    /// What became of a message of a sequence.
    Told {
        /// Its number.
        number: u64,
        /// The last number whose state would survive the node.
        durable: u64,
        /// What the sequence is resumed with; told at its start.
        token: Option<Token>,
        /// The outputs' names.
        names: Vec<String>,
        /// The outputs, or how it failed.
        outputs: Result<Vec<TensorHead>, InferError>,
    },
    /// What became of what a second node was to hold.
    Held(HoldAnswer),
    /// What this node has of sequences of a name.
    Seen(Vec<Seen>),
    /// A sequence is handed over; its tensors are in the body.
    Given(Box<SequenceImage>),
    /// Whether it gives its word; the error is the term that stands against it.
    Voted(Result<(), u64>),
    /// The answer is the first part of the body, as it is longer than a head may be: see [`envelope`](super::envelope).
    InBody {
        /// Bytes that it takes there.
        length: u32,
    },
}

/// What there is to know of a model version to make requests for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// Which.
    pub model: ModelId,
    /// Digest of its [`Interface`].
    pub interface: Digest,
    /// What goes in and comes out.
    pub signature: Signature,
    /// Its manifest, as it was written.
    pub manifest: String,
    /// Name of its runtime.
    pub runtime: String,
    /// How many instances it has.
    pub instances: u32,
    /// Whether a request may have outputs before its last ones.
    pub in_parts: bool,
    /// Which content of the version this is of: the node may host another one by now than when it was chosen to be asked.
    pub content: Digest,
}

/// What a client needs to send each request straight to a replica.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Topology {
    /// Its version.
    pub digest: Digest,
    /// The nodes that are up.
    pub nodes: Vec<NodeSnapshot>,
}

/// Microseconds of a time span, as far as they fit.
pub fn microseconds(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
