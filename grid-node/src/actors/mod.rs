//! The actors of a node. They are thin: what to do is decided in `grid-core`, what is computed runs in `compute`.

mod catalog;
pub(crate) mod grid;
mod router;
mod routes;
mod session;
mod shard;
mod shard_supervisor;

pub(crate) use catalog::plans;
pub use catalog::{Catalog, CatalogError, InGrid, LoadModel, Rescan, UnloadModel};
pub use grid::{
    GridActor, GridStatus, Kept, KeptError, Leave, Move, NodeStatus, ReplicaStatus, SetCapacity, ShardStatus, Status,
    TroubleStatus,
};
pub(crate) use router::deadline;
pub use router::{Dispatch, Router, RouterHandle, RouterOptions};
pub use routes::{ModelRoute, ModelSettings, ReplicaState, Routes, StateSlot, VersionRoute};
pub(crate) use session::Company;
pub use session::{
    AnswerForm, Attachment, MAX_REQUEST_ID, Reader, ReaderEvents, Resumed, SequenceEvent, SequenceMessage,
    SequenceOrder, Sessions, Stamp, StepOutcome, Ticket, Told, Wanted, WantedOutput, pick,
};
pub use shard::{Crash, ShardActor};
pub use shard_supervisor::{Deploy, FindShard, ShardSupervisor, Stop, SupervisorOptions, Undeploy};
