//! The model of a node's memory: what is in it, what is on its way there, and what runs.

use std::collections::BTreeMap;
use std::time::Duration;

use grid_core::cluster::Digest;
use grid_core::dispatch::smooth;
use grid_core::model::ModelId;

/// One content of one model in memory.
#[derive(Debug)]
struct Resident {
    bytes: u64,
    /// It is loaded, and not on its way there.
    is_there: bool,
    /// It takes no more requests.
    closes: bool,
    runs: usize,
}

/// A node's memory.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) budget: u64,
    residents: BTreeMap<(ModelId, Digest), Resident>,
    /// What one run takes.
    pub(super) service: Duration,
}

impl Store {
    pub(super) fn new(budget: u64) -> Self {
        Self {
            budget,
            residents: BTreeMap::new(),
            service: Duration::ZERO,
        }
    }

    fn used(&self) -> u64 {
        self.residents.values().map(|resident| resident.bytes).sum()
    }

    /// Reserves memory; whether there is enough.
    pub(super) fn reserve(&mut self, model: &ModelId, content: Digest, bytes: u64) -> bool {
        let place = (model.clone(), content);
        if self.used() + bytes > self.budget || self.residents.contains_key(&place) {
            return false;
        }
        let resident = Resident {
            bytes,
            is_there: false,
            closes: false,
            runs: 0,
        };
        self.residents.insert(place, resident);
        true
    }

    /// It was found what a load takes; whether there is room for that.
    pub(super) fn settle(&mut self, model: &ModelId, content: Digest, bytes: u64) -> bool {
        let (used, budget) = (self.used(), self.budget);
        let Some(resident) = self.residents.get_mut(&(model.clone(), content)) else {
            return false;
        };
        let has_room = used - resident.bytes + bytes <= budget;
        if has_room {
            resident.bytes = bytes;
        }
        has_room
    }

    /// A load has ended well: it serves in the place of the others, which are returned.
    pub(super) fn loaded(&mut self, model: &ModelId, content: Digest) -> Vec<Digest> {
        let mut others = Vec::new();
        for ((of, which), resident) in &mut self.residents {
            if of != model {
                continue;
            }
            if *which == content {
                resident.is_there = true;
            } else if resident.is_there && !resident.closes {
                resident.closes = true;
                others.push(*which);
            }
        }
        others
    }

    /// What serves takes no more requests; what that was.
    pub(super) fn close(&mut self, model: &ModelId) -> Vec<Digest> {
        let mut closed = Vec::new();
        for ((of, content), resident) in &mut self.residents {
            if of == model && resident.is_there && !resident.closes {
                resident.closes = true;
                closed.push(*content);
            }
        }
        closed
    }

    /// Returns the memory.
    pub(super) fn free(&mut self, model: &ModelId, content: Digest) {
        self.residents.remove(&(model.clone(), content));
    }

    /// The content that serves.
    pub(super) fn serving(&self, model: &ModelId) -> Option<Digest> {
        let mut all = self.residents.iter();
        let found = all.find(|((of, _), resident)| of == model && resident.is_there && !resident.closes);
        found.map(|((_, content), _)| *content)
    }

    pub(super) fn serves(&self, model: &ModelId, content: &Digest) -> bool {
        self.serving(model).as_ref() == Some(content)
    }

    pub(super) fn begin(&mut self, model: &ModelId, content: Digest) {
        if let Some(resident) = self.residents.get_mut(&(model.clone(), content)) {
            resident.runs += 1;
        }
    }

    pub(super) fn end(&mut self, model: &ModelId, content: Digest, took: Duration) {
        self.service = smooth(self.service, took);
        if let Some(resident) = self.residents.get_mut(&(model.clone(), content)) {
            resident.runs -= 1;
        }
    }

    pub(super) fn runs_of(&self, model: &ModelId, content: Digest) -> usize {
        self.residents
            .get(&(model.clone(), content))
            .map_or(0, |resident| resident.runs)
    }

    pub(super) fn runs(&self) -> usize {
        self.residents.values().map(|resident| resident.runs).sum()
    }
}
