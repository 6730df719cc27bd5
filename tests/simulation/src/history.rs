//! What happened, in order: all that the invariants look at, and the trace that a person reads.

use std::fmt;

use grid_core::cluster::{Digest, NodeName};
use grid_core::model::ModelId;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When, in milliseconds of virtual time.
    pub at: u64,
    /// What.
    pub event: Event,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>4}.{:03} {:?}", self.at / 1000, self.at % 1000, self.event)
    }
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A phase of the scenario begins.
    Phase(Phase),
    /// The scenario does something to the grid. `planned`: something that an operator does, rather than a fault.
    Fault {
        /// What.
        what: String,
        /// Whether it is no fault.
        planned: bool,
    },
    /// A node starts.
    Started {
        /// Which.
        node: NodeName,
        /// Its generation.
        generation: u64,
        /// Its memory budget.
        budget: u64,
    },
    /// A node is gone; what it had in memory is, too.
    Gone {
        /// Which.
        node: NodeName,
        /// Whether it left in good order.
        left: bool,
    },
    /// A node goes on as a new generation.
    Renewed {
        /// Which.
        node: NodeName,
        /// The generation.
        generation: u64,
    },
    /// A node has learned from gossip that another one is there, or gone.
    Heard {
        /// Who has learned.
        node: NodeName,
        /// Of whom.
        of: NodeName,
        /// Whether it is there.
        up: bool,
    },
    /// The memory budget of a node is another one.
    Budget {
        /// Of which node.
        node: NodeName,
        /// The new budget.
        bytes: u64,
    },
    /// A node reserves memory for a replica and begins to load it.
    LoadBegun {
        /// The node.
        node: NodeName,
        /// The model.
        model: ModelId,
        /// The content.
        content: Digest,
        /// What it takes.
        bytes: u64,
    },
    /// It is in memory and serves.
    Loaded {
        /// The node.
        node: NodeName,
        /// The model.
        model: ModelId,
        /// The content.
        content: Digest,
        /// What it takes, as it turned out.
        bytes: u64,
    },
    /// It could not be loaded. Its reservation, if there was one, is returned.
    LoadFailed {
        /// The node.
        node: NodeName,
        /// The model.
        model: ModelId,
        /// The content.
        content: Digest,
        /// Why.
        reason: String,
    },
    /// A node takes no more requests for a content, and will free its memory.
    Closing {
        /// The node.
        node: NodeName,
        /// The model.
        model: ModelId,
        /// The content.
        content: Digest,
        /// Whether another content has taken its place on this node.
        replaced: bool,
        /// Whether the model is deployed, as far as the node knows.
        deployed: bool,
    },
    /// The memory is free again.
    Freed {
        /// The node.
        node: NodeName,
        /// The model.
        model: ModelId,
        /// The content.
        content: Digest,
    },
    /// A run begins.
    RunBegun {
        /// The node.
        node: NodeName,
        /// The request.
        request: u64,
        /// The model.
        model: ModelId,
        /// The content.
        content: Digest,
    },
    /// A run has ended.
    RunEnded {
        /// The node.
        node: NodeName,
        /// The request.
        request: u64,
        /// The model.
        model: ModelId,
        /// The content.
        content: Digest,
    },
    /// A client makes a request.
    Sent {
        /// Its number.
        request: u64,
        /// For which model.
        model: ModelId,
    },
    /// A request has ended.
    Outcome {
        /// Its number.
        request: u64,
        /// The answer, or why there is none.
        result: Result<(), String>,
    },
    /// A client begins a sequence.
    SequenceBegun {
        /// Its number.
        sequence: u64,
        /// With which model.
        model: ModelId,
    },
    /// A client has the outcome of a message of a sequence, and was told that it is durable.
    SequenceOutcome {
        /// Of which sequence.
        sequence: u64,
        /// Of which message.
        number: u64,
        /// What came of it.
        value: u64,
    },
    /// A client is told that a sequence is gone, or goes on from before what was durable.
    SequenceLost {
        /// Which.
        sequence: u64,
        /// By which answer.
        reason: String,
    },
    /// A client wants nothing more of a sequence.
    SequenceClosed {
        /// Which.
        sequence: u64,
    },
    /// A sequence lives on a node from now on.
    SequenceHome {
        /// Which.
        sequence: u64,
        /// Where.
        node: NodeName,
        /// In this term.
        term: u64,
        /// The last message that it has.
        done: u64,
    },
    /// A second node holds a copy of a sequence, and says so.
    SequenceHeld {
        /// Of which sequence.
        sequence: u64,
        /// Where.
        node: NodeName,
        /// For which home; itself, where there is no other node.
        home: NodeName,
        /// The last message in it.
        done: u64,
    },
    /// A node asks the others for their word for a new term of a sequence.
    SequenceAsked {
        /// Of which sequence.
        sequence: u64,
        /// Who asks.
        node: NodeName,
        /// For which term.
        term: u64,
        /// The last message in what it goes on with.
        done: u64,
    },
    /// A node gives its word.
    SequenceWord {
        /// For which sequence.
        sequence: u64,
        /// Which node.
        node: NodeName,
        /// To whom.
        by: NodeName,
        /// For which term.
        term: u64,
    },
    /// A node drops what it had of a sequence: another has it.
    SequenceDropped {
        /// Which.
        sequence: u64,
        /// Where.
        node: NodeName,
    },
    /// What a node believes at this moment.
    Believes(Box<Belief>),
    /// A node says something that a person should know.
    Notice {
        /// The node.
        node: NodeName,
        /// What.
        text: String,
    },
    /// A task panicked.
    Panicked {
        /// The node, or the clients.
        whose: String,
        /// The message.
        message: String,
    },
}

/// The phases of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The grid comes up, without faults.
    Start,
    /// The plan is carried out.
    Safety,
    /// All faults are over: the grid has to come to rest.
    Quiet,
    /// No more requests are made.
    End,
}

/// What a node believes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Belief {
    /// The node.
    pub node: NodeName,
    /// Digest of who is up and what each last said.
    pub view: Digest,
    /// The nodes that it thinks are up.
    pub up: Vec<NodeName>,
    /// Digest of its catalog.
    pub catalog: Digest,
    /// Digest of what should be.
    pub intents: Digest,
    /// What is deployed: the model, its content, its replicas as wanted in this grid, and whether any node that is up can
    /// send the content.
    pub deployed: Vec<(ModelId, Digest, usize, bool)>,
    /// What serves on this node.
    pub serving: Vec<(ModelId, Digest)>,
    /// Replicas that have no place, wait for one, or cannot go to it.
    pub unplaced: usize,
    /// Wake-ups of the node's main loop since it started.
    pub wakes: u64,
    /// Datagrams sent since it started.
    pub datagrams: u64,
}
