//! The word that nodes give for a new home, or a new second node, of a sequence.
//!
//! Two nodes that want the same sequence ask for terms, and no node says yes to two of them for one term; so one at most has
//! the word of more than half. And who asks tells what its copy of the sequence is of: a node that gave its word for a later
//! term knows that this copy is an old one, unless that term came to nothing.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::SecondCopy;
use crate::cluster::{NodeId, NodeName};

/// What a node asks the others for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ballot {
    /// The term that it wants to begin.
    pub term: u64,
    /// Who asks: the home in that term.
    pub by: NodeId,
    /// The term whose home wrote what it goes on with.
    pub from: u64,
    /// That home. Two may write of one term, where one of them has not the word of more than half.
    pub writer: NodeId,
    /// Nodes that have just said that they are not its home: what they once asked for came to nothing.
    pub deny: BTreeSet<NodeName>,
}

/// The highest term that a node gave its word for, and to whom: it helps no home of an older one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    term: u64,
    by: NodeId,
}

impl Promise {
    /// Votes, after what was promised before, if anything. The error is the term that stands against it.
    pub fn vote(before: Option<&Self>, ballot: &Ballot) -> Result<Self, u64> {
        let given = Self {
            term: ballot.term,
            by: ballot.by.clone(),
        };
        match before {
            Some(before) if *before == given => Ok(given),
            Some(before) if before.term >= ballot.term => Err(before.term),
            Some(before) => {
                let is_old = before.term > ballot.from || (before.term == ballot.from && before.by != ballot.writer);
                let came_to_nothing = before.by == ballot.by || ballot.deny.contains(&before.by.name);
                if is_old && !came_to_nothing {
                    Err(before.term)
                } else {
                    Ok(given)
                }
            }
            None => Ok(given),
        }
    }

    /// Whether this home may make progress.
    pub fn allows(&self, term: u64, home: &NodeId) -> bool {
        term > self.term || (term == self.term && *home == self.by)
    }

    /// The term.
    pub fn term(&self) -> u64 {
        self.term
    }
}

/// What a node knows of a sequence when another one asks something of it.
#[derive(Debug)]
pub struct Standpoint<'a, O, S> {
    /// The term in which it lives here, if it does.
    pub lives: Option<u64>,
    /// The copy that is held here.
    pub copy: Option<&'a SecondCopy<O, S>>,
    /// The word that was given here.
    pub promise: Option<&'a Promise>,
}

impl<O: Clone, S: Clone> Standpoint<'_, O, S> {
    /// Gives its word, or says which term stands against it. What lives here does not, where it is this node that asks.
    ///
    /// # Errors
    /// That term.
    pub fn vote(&self, own: &NodeId, ballot: &Ballot) -> Result<Promise, u64> {
        if let Some(term) = self.lives
            && term > ballot.from
            && *own != ballot.by
        {
            return Err(term);
        }
        if let Some(copy) = self.copy
            && copy.written() > ballot.from
            && *copy.home() != ballot.by
        {
            return Err(copy.term());
        }
        Promise::vote(self.promise, ballot)
    }

    /// The term that shows that a home is none any more which wants its copy to be held here; `None` when nothing does,
    /// and the copy itself is asked ([`SecondCopy::hold`]).
    pub fn fences(&self, home: &NodeId, term: u64) -> Option<u64> {
        let lives = self.lives.filter(|lives| *lives >= term);
        let promised = self.promise.filter(|promise| !promise.allows(term, home));
        lives.or(promised.map(Promise::term))
    }
}
