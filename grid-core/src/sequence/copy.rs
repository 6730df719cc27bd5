//! What the second node holds of a sequence.

use serde::{Deserialize, Serialize};

use super::{Export, Token};
use crate::cluster::NodeId;

/// What a home sends to the second node: what it lacks, or everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta<O, S> {
    /// The number up to which the copy has everything already; `None`: this is everything.
    pub after: Option<u64>,
    /// The first outcome that the home keeps; the copy keeps none before.
    pub oldest: u64,
    /// The state, and the outcomes after that number.
    pub export: Export<O, S>,
}

impl<O, S> Delta<O, S> {
    /// Whether numbers and outcomes belong together.
    pub fn is_sound(&self) -> bool {
        let first = self.oldest.max(self.after.map_or(0, |after| after.saturating_add(1)));
        let count = self.export.kept.len() as u64;
        self.oldest >= 1 && self.export.done.checked_add(1).and_then(|next| next.checked_sub(first)) == Some(count)
    }
}

/// What became of a delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HoldAnswer {
    /// The copy is as the home was, or newer.
    Held,
    /// It lacks what came before.
    NeedAll,
    /// A later term has begun: the home that sent this is none any more.
    Fenced {
        /// Which.
        term: u64,
    },
}

/// The copy of a sequence on its second node. `O` and `S` are as there.
#[derive(Clone, Debug)]
pub struct SecondCopy<O, S> {
    home: NodeId,
    /// The term of the home that wrote what is in it; that of `export` is higher where another node has taken it over since.
    written: u64,
    writer: NodeId,
    export: Export<O, S>,
    oldest: u64,
}

impl<O: Clone, S: Clone> SecondCopy<O, S> {
    /// The first that a node hears of a sequence; `None` where that is not everything.
    pub fn begin(home: NodeId, delta: Delta<O, S>) -> Option<Self> {
        (delta.after.is_none() && delta.is_sound()).then(|| Self {
            writer: home.clone(),
            home,
            written: delta.export.term,
            oldest: delta.oldest,
            export: delta.export,
        })
    }

    /// What a home of a term keeps that has handed its sequence over to another.
    pub fn of_handed_over(writer: NodeId, written: u64, to: NodeId, export: Export<O, S>) -> Self {
        Self {
            writer,
            home: to,
            written,
            oldest: export.done + 1 - export.kept.len() as u64,
            export,
        }
    }

    /// A home tells how far it is. Old and repeated ones change nothing.
    pub fn hold(&mut self, home: &NodeId, delta: Delta<O, S>) -> HoldAnswer {
        let (ours, theirs) = (self.export.term, delta.export.term);
        if theirs < ours || (theirs == ours && *home != self.home) {
            return HoldAnswer::Fenced { term: ours };
        }
        let is_new_term = theirs > ours;
        let lacks = delta.after.is_some_and(|after| is_new_term || after > self.export.done);
        if lacks || !delta.is_sound() {
            return HoldAnswer::NeedAll;
        }
        if is_new_term {
            self.home = home.clone();
        } else if delta.export.done < self.export.done {
            return HoldAnswer::Held;
        }
        (self.written, self.writer) = (theirs, home.clone());
        let Delta { after, oldest, export } = delta;
        let mut kept = match after {
            None => Vec::new(),
            // Those up to `after` are ours; what follows comes with the delta.
            Some(after) => {
                let ours = usize::try_from((after + 1).saturating_sub(self.oldest)).unwrap_or(usize::MAX);
                let forgotten = usize::try_from(oldest.saturating_sub(self.oldest)).unwrap_or(usize::MAX);
                std::mem::take(&mut self.export.kept)
                    .into_iter()
                    .take(ours)
                    .skip(forgotten)
                    .collect()
            }
        };
        kept.extend(export.kept);
        self.oldest = oldest.max(export.done + 1 - (kept.len() as u64).min(export.done));
        self.export = Export { kept, ..export };
        HoldAnswer::Held
    }

    /// Another node takes the sequence over for a later term, having seen this one here: no home before it makes progress any
    /// more. `None` when the copy is of another term by now.
    pub fn take(&mut self, by: NodeId, seen: u64, term: u64) -> Option<Export<O, S>> {
        if seen != self.export.term || term <= seen {
            return None;
        }
        self.home = by;
        self.export.term = term;
        Some(self.export.clone())
    }

    /// Its home, as far as is known here.
    pub fn home(&self) -> &NodeId {
        &self.home
    }

    /// The term.
    pub fn term(&self) -> u64 {
        self.export.term
    }

    /// The term of the home that wrote what is in it.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// That home.
    pub fn writer(&self) -> &NodeId {
        &self.writer
    }

    /// The last message in it.
    pub fn done(&self) -> u64 {
        self.export.done
    }

    /// Whether the sequence has ended.
    pub fn has_ended(&self) -> bool {
        self.export.ended
    }

    /// Its token.
    pub fn token(&self) -> &Token {
        &self.export.token
    }

    /// Everything.
    pub fn export(&self) -> &Export<O, S> {
        &self.export
    }
}
