//! The word that nodes give for a new home, or a new second node, of a sequence.
//!
//! Two nodes that want the same sequence ask for terms, and no node says yes to two of them for one term; so one at most has
//! the word of more than half. And who asks tells what its copy of the sequence is of: a node that gave its word for a later
//! term knows that this copy is an old one, unless that term came to nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::SecondCopy;
use crate::cluster::{NodeId, NodeName, Quorum};

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
    /// Nodes that have just said that they are not its home, with the highest term that each remembers: what it asked for up
    /// to that one came to nothing. One that was started anew remembers none, and cannot know what its process before had
    /// made of a term that it was given.
    pub deny: BTreeMap<NodeName, u64>,
    /// Highest term that any of those has heard of. Where they are all that count, and none has anything newer, what was asked
    /// for up to this term came to nothing, by whomever. A voter judges that: who has just started does not know all.
    pub void: u64,
}

impl Ballot {
    /// What a home asks for that goes on with what it has, or was just given.
    pub fn of_home(term: u64, by: NodeId, from: u64, writer: NodeId) -> Self {
        Self {
            term,
            by,
            from,
            writer,
            deny: BTreeMap::new(),
            void: 0,
        }
    }

    /// Whether nothing came of a word, as whoever it was given to says, or is the one that asks.
    fn is_void(&self, promise: &Promise) -> bool {
        let denied = self.deny.get(&promise.by.name).copied().unwrap_or(0);
        promise.by == self.by || promise.term <= denied
    }

    /// Whether nothing is left of what came of a word, as all say that count for the voter.
    fn is_void_for_all(&self, promise: &Promise, counted: &Quorum) -> bool {
        promise.term <= self.void && counted.is_everybody(self.deny.keys())
    }
}

/// The highest term that a node gave its word for, and to whom: it helps no home of an older one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    term: u64,
    by: NodeId,
    /// The term whose home wrote what that node had: whatever becomes of this word, a copy of an earlier one is old.
    from: u64,
}

impl Promise {
    /// Votes, after what was promised before, if anything; `counted` are those that count for the voter. The error is the term that stands against it.
    pub fn vote(before: Option<&Self>, ballot: &Ballot, counted: &Quorum) -> Result<Self, u64> {
        let given = Self {
            term: ballot.term,
            by: ballot.by.clone(),
            from: ballot.from,
        };
        match before {
            Some(before) if *before == given => Ok(given),
            Some(before) if before.term >= ballot.term => Err(before.term),
            Some(before) => {
                let is_old = before.term > ballot.from || (before.term == ballot.from && before.by != ballot.writer);
                let is_void = ballot.from >= before.from && ballot.is_void(before);
                if is_old && !is_void && !ballot.is_void_for_all(before, counted) {
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
    /// Gives its word, or says which term stands against it; `counted` are those that count for this node. What lives here
    /// does not, where it is this node that asks.
    ///
    /// # Errors
    /// That term.
    pub fn vote(&self, own: &NodeId, ballot: &Ballot, counted: &Quorum) -> Result<Promise, u64> {
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
        Promise::vote(self.promise, ballot, counted)
    }

    /// The term that shows that a home is none any more which wants its copy to be held here; `None` when nothing does,
    /// and the copy itself is asked ([`SecondCopy::hold`]).
    pub fn fences(&self, home: &NodeId, term: u64) -> Option<u64> {
        let lives = self.lives.filter(|lives| *lives >= term);
        let promised = self.promise.filter(|promise| !promise.allows(term, home));
        lives.or(promised.map(Promise::term))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Member;

    fn node(name: &str, generation: u64) -> NodeId {
        NodeId {
            name: name.parse().unwrap(),
            generation,
        }
    }

    fn counted(names: &[&str]) -> Quorum {
        let member = |name: &&str| Member {
            id: node(name, 1),
            up: true,
            serves: true,
            gone: false,
        };
        let members: Vec<Member> = names.iter().map(member).collect();
        Quorum::of(&members[0].id.name, &members)
    }

    /// Word was given to `home` for term 3; somebody else wants to go on with a copy of term 2.
    fn from_an_old_copy(deny: &[(&str, u64)]) -> (Promise, Ballot) {
        let before = Promise {
            term: 3,
            by: node("home", 1),
            from: 2,
        };
        let deny = deny.iter().map(|(name, term)| (name.parse().unwrap(), *term));
        let ballot = Ballot {
            deny: deny.collect(),
            void: 3,
            ..Ballot::of_home(4, node("other", 1), 2, node("writer", 1))
        };
        (before, ballot)
    }

    #[test]
    fn a_home_that_was_started_anew_does_not_say_that_what_it_asked_for_came_to_nothing() {
        let all = counted(&["home", "other", "second"]);
        let (before, remembers) = from_an_old_copy(&[("home", 3), ("other", 3)]);
        assert!(Promise::vote(Some(&before), &remembers, &all).is_ok());
        let (before, forgot) = from_an_old_copy(&[("home", 0), ("other", 3)]);
        assert_eq!(Promise::vote(Some(&before), &forgot, &all), Err(3));
    }

    #[test]
    fn what_all_have_heard_nothing_of_came_to_nothing_and_a_voter_says_who_all_are() {
        let (before, ballot) = from_an_old_copy(&[("home", 0), ("other", 0), ("second", 3)]);
        let all = counted(&["home", "other", "second"]);
        assert!(Promise::vote(Some(&before), &ballot, &all).is_ok());
        // Who asks has just started, and has not heard of this one.
        let more = counted(&["home", "other", "second", "fourth"]);
        assert_eq!(Promise::vote(Some(&before), &ballot, &more), Err(3));
    }
}
