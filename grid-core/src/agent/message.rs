//! What agents ask each other over the mesh.

use serde::{Deserialize, Serialize};

use crate::catalog::Entry;
use crate::cluster::{Digest, NodeId, NodeName, NodeSnapshot};
use crate::model::ModelId;

/// A question of one node's agent to another's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Whether both believe the same.
    Compare {
        /// Digest of who is up and what each last said.
        view: Digest,
        /// Digest of the catalog.
        catalog: Digest,
    },
    /// What these nodes last said of themselves.
    Snapshots(Vec<NodeName>),
    /// The entries of those parts of the catalog whose hashes are not these.
    Entries(Vec<u64>),
    /// Whether it is ready to serve this content, and will stay.
    Stay {
        /// Which version.
        model: ModelId,
        /// Which content of it.
        content: Digest,
    },
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Ask::Compare`].
    Compared {
        /// The newest known of each node that is up, if the views differ.
        heads: Option<Vec<(NodeId, u64)>>,
        /// Whether the catalogs differ.
        catalog_differs: bool,
    },
    /// To [`Ask::Snapshots`]: of those that are known.
    Snapshots(Vec<NodeSnapshot>),
    /// To [`Ask::Entries`].
    Entries(Vec<(ModelId, Entry)>),
    /// To [`Ask::Stay`]: for how many milliseconds it promises to.
    Stays(Option<u32>),
}
