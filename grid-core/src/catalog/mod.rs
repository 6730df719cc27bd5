//! What the grid serves: a map from model versions to deployments that every node has a copy of.
//!
//! The problem: any node may add, change or take back a deployment at any time, some are unreachable then, and all must
//! come to the same map; what a node said must survive that node. So it is a last-writer-wins map: each entry carries
//! the stamp of a hybrid logical clock, the higher stamp wins, and what was taken back stays as a tombstone for a while,
//! so that a copy that missed it does not bring the entry back. Merging is commutative, associative and idempotent.
//!
//! What a node finds in its repository is stamped with the time at which the files were modified, not with the time of
//! finding: so the newest files win whoever starts last, a restart changes nothing, and a model that was unloaded by hand
//! comes back when its files change after that.

mod clock;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use clock::{Clock, MAX_AHEAD, Stamp, StampAhead};

use crate::cluster::Digest;
use crate::model::{ModelId, ReplicaCount};
use crate::wire::codec;

/// What there is to know of a model version for placing it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Digest of its files and manifest.
    pub content: Digest,
    /// Bytes of its files.
    pub size: u64,
    /// Bytes that a replica takes in memory, as expected before it was ever loaded.
    pub memory: u64,
    /// How many replicas it has.
    pub replicas: ReplicaCount,
    /// Share of compute time, as its manifest says.
    pub weight: u32,
}

/// What was last said about a model version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When, and by whom.
    pub stamp: Stamp,
    /// What is deployed; `None` when it was taken back.
    pub deployment: Option<Deployment>,
}

/// Parts that the map is compared in, so that only what differs travels.
pub const BUCKETS: usize = 256;

/// How long a tombstone is kept, in milliseconds: a node that was away for longer may bring back what was taken back
/// meanwhile.
pub const HORIZON: u64 = 7 * 24 * 3600 * 1000;

/// The map. See the module's documentation.
#[derive(Clone, Debug)]
pub struct Catalog {
    entries: BTreeMap<ModelId, Entry>,
    /// For each bucket the hashes of its entries, combined so that one can be taken out again.
    buckets: Box<[u64; BUCKETS]>,
}

impl Default for Catalog {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            buckets: Box::new([0; BUCKETS]),
        }
    }
}

/// The bucket of an entry, and its hash.
fn place(id: &ModelId, entry: &Entry) -> (usize, u64) {
    let of_id = Digest::of(&codec::encode(id)).0[0];
    let Digest(bytes) = Digest::of(&codec::encode(&(id, entry)));
    let (hash, _) = bytes.split_first_chunk().expect("a digest has 32 bytes");
    (usize::from(of_id), u64::from_le_bytes(*hash))
}

impl Catalog {
    /// What was last said about a version.
    pub fn get(&self, id: &ModelId) -> Option<&Entry> {
        self.entries.get(id)
    }

    /// What is deployed.
    pub fn deployments(&self) -> impl Iterator<Item = (&ModelId, &Deployment)> {
        self.entries
            .iter()
            .filter_map(|(id, entry)| Some((id, entry.deployment.as_ref()?)))
    }

    /// Everything that was said, to be kept on disk.
    pub fn entries(&self) -> impl Iterator<Item = (&ModelId, &Entry)> {
        self.entries.iter()
    }

    /// Takes an entry if it is newer than what is known. Returns whether it was.
    pub fn merge(&mut self, id: ModelId, entry: Entry) -> bool {
        let before = self.entries.get(&id);
        if before.is_some_and(|before| before.stamp >= entry.stamp) {
            return false;
        }
        let (bucket, hash) = place(&id, &entry);
        if let Some(before) = before {
            self.buckets[bucket] = self.buckets[bucket].wrapping_sub(place(&id, before).1);
        }
        self.buckets[bucket] = self.buckets[bucket].wrapping_add(hash);
        self.entries.insert(id, entry);
        true
    }

    /// What tells two catalogs apart.
    pub fn digest(&self) -> Digest {
        let bytes: Vec<u8> = self.buckets.iter().flat_map(|bucket| bucket.to_le_bytes()).collect();
        Digest::of(&bytes)
    }

    /// The same by parts; [`Catalog::differing`] of another copy takes it.
    pub fn buckets(&self) -> &[u64] {
        self.buckets.as_slice()
    }

    /// The entries in those parts in which another copy differs from this one.
    pub fn differing(&self, others: &[u64]) -> Vec<(ModelId, Entry)> {
        let differs = |bucket: usize| others.get(bucket) != Some(&self.buckets[bucket]);
        let in_it = self.entries.iter().filter(|(id, entry)| differs(place(id, entry).0));
        in_it.map(|(id, entry)| (id.clone(), entry.clone())).collect()
    }

    /// Forgets what was taken back longer than [`HORIZON`] ago.
    pub fn forget_old(&mut self, wall: u64) {
        let is_old = |entry: &Entry| entry.deployment.is_none() && entry.stamp.wall.saturating_add(HORIZON) < wall;
        let old: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| is_old(entry))
            .map(|(id, _)| id.clone())
            .collect();
        for id in old {
            if let Some(entry) = self.entries.remove(&id) {
                let (bucket, hash) = place(&id, &entry);
                self.buckets[bucket] = self.buckets[bucket].wrapping_sub(hash);
            }
        }
    }
}
