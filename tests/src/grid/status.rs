//! What `GET /v2/grid` says, as far as tests look at it.

use std::collections::BTreeSet;

use serde::Deserialize;

/// A grid, as one of its nodes knows it.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// The grid's name.
    pub grid: String,
    /// The node that tells this.
    pub node: String,
    /// All nodes that it knows.
    pub nodes: Vec<NodeStatus>,
    /// All that is deployed.
    pub shards: Vec<ShardStatus>,
    /// What moves.
    pub moves: Vec<serde_json::Value>,
    /// What went wrong lately.
    pub troubles: Vec<Trouble>,
}

/// A node.
#[derive(Clone, Debug, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Which of its lives.
    pub generation: u64,
    /// `up`, `down`, `left` or `draining`.
    pub state: String,
    /// Bytes that its models may take.
    pub memory: u64,
    /// Bytes that they take.
    pub memory_used: u64,
    /// Whether the node that tells this has a link to it.
    pub linked: Option<bool>,
}

/// A model version.
#[derive(Clone, Debug, Deserialize)]
pub struct ShardStatus {
    /// Its model.
    pub model: String,
    /// Digest of its files.
    pub content: String,
    /// How many replicas it should have; none for one on every node.
    pub wanted: Option<usize>,
    /// The nodes that should host it.
    pub owners: Vec<String>,
    /// Those that do.
    pub replicas: Vec<ReplicaStatus>,
}

/// A replica.
#[derive(Clone, Debug, Deserialize)]
pub struct ReplicaStatus {
    /// Where.
    pub node: String,
    /// `loading`, `ready`, `draining`, `quarantined` or `failed`.
    pub state: String,
    /// Bytes it takes.
    pub bytes: u64,
}

/// Something that went wrong.
#[derive(Clone, Debug, Deserialize)]
pub struct Trouble {
    /// What.
    pub what: String,
}

impl Status {
    /// The nodes that are up.
    pub fn up(&self) -> BTreeSet<&str> {
        let up = self.nodes.iter().filter(|node| node.state == "up");
        up.map(|node| node.name.as_str()).collect()
    }

    /// A node that it knows.
    pub fn node(&self, name: &str) -> Option<&NodeStatus> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// A model that is deployed.
    pub fn shard(&self, model: &str) -> Option<&ShardStatus> {
        self.shards.iter().find(|shard| shard.model == model)
    }

    /// What is deployed: models and their contents.
    pub fn deployed(&self) -> BTreeSet<(&str, &str)> {
        let shards = self.shards.iter();
        shards
            .map(|shard| (shard.model.as_str(), shard.content.as_str()))
            .collect()
    }

    /// Why the grid is not at rest with exactly these nodes up, or none if it is.
    pub fn unrest(&self, nodes: &BTreeSet<&str>) -> Option<String> {
        if self.up() != *nodes {
            return Some(format!("{:?} are up", self.up()));
        }
        let unlinked = self
            .nodes
            .iter()
            .find(|node| node.state == "up" && node.linked == Some(false));
        if let Some(node) = unlinked {
            return Some(format!("no link to {}", node.name));
        }
        let shard = self.shards.iter().find_map(|shard| shard.unrest(nodes.len()));
        shard.or_else(|| Some(format!("it moves {:?}", self.moves)).filter(|_| !self.moves.is_empty()))
    }
}

impl ShardStatus {
    /// The nodes where it is ready.
    pub fn ready(&self) -> BTreeSet<&str> {
        let ready = self.replicas.iter().filter(|replica| replica.state == "ready");
        ready.map(|replica| replica.node.as_str()).collect()
    }

    fn unrest(&self, nodes: usize) -> Option<String> {
        let owners: BTreeSet<&str> = self.owners.iter().map(String::as_str).collect();
        let wanted = self.wanted.unwrap_or(nodes).min(nodes);
        // A load that failed on a node is remembered there for minutes, and takes nothing.
        let there = self.replicas.iter().filter(|replica| replica.state != "failed").count();
        let rests = owners.len() == wanted && self.ready() == owners && there == wanted;
        (!rests).then(|| format!("{} should be on {owners:?} and is {:?}", self.model, self.replicas))
    }
}
