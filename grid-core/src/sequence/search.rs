//! A sequence that is wanted on a node and is not there: what the answers of the others mean.
//!
//! From a home that lives it is handed over. From the copy of a home that is lost, or says that it is none, it is taken over
//! for a later term: by a node that has heard more than half of those that count, from the newest copy that anybody was the
//! writer of, as far as they say. The others then give their word for that, or do not ([`Ballot`]): what is decided here
//! is only what to ask them for.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Ballot, Others, SequenceError, Token};
use crate::cluster::{NodeId, NodeName};

/// What a node has of a sequence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Which of those that the name stood for.
    pub birth: u64,
    /// What it resumes with; compared by whoever asks.
    pub token: Token,
    /// Whether callers need no token.
    pub open: bool,
    /// How.
    pub what: SeenAs,
}

/// In which way a node has a sequence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum SeenAs {
    /// It is its home, or is just becoming it.
    Live {
        /// In this term.
        term: u64,
    },
    /// It holds the copy.
    Copy {
        /// For this home.
        home: NodeId,
        /// In this term.
        term: u64,
        /// The term of the home that wrote it.
        written: u64,
        /// That home.
        writer: NodeId,
        /// The last message in it.
        done: u64,
    },
    /// It ended, and is remembered here.
    Over,
    /// What is known here of its terms, beside anything else.
    Terms {
        /// A word was given for this one.
        promised: u64,
        /// Something was durable in this one, of which this node was the home: copies of earlier ones are old.
        began: u64,
        /// This node went on with what was written in this one, perhaps in vain: copies that were written before are old.
        saw: u64,
    },
}

/// What nodes said that were asked for a sequence.
#[derive(Clone, Copy, Debug)]
pub struct Search<'a> {
    /// Who wants it.
    pub own: &'a NodeId,
    /// The others, as it sees them.
    pub others: Others<'a>,
    /// What each that answered has of that name, this node itself among them.
    pub answers: &'a [(NodeName, Vec<Seen>)],
    /// Whether all that are up have answered.
    pub is_complete: bool,
    /// What whoever wants it shows.
    pub token: Option<Token>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Its home lives, and is asked to hand it over.
    HandOver {
        /// Which of those that the name stood for.
        birth: u64,
        /// Its home.
        at: NodeName,
        /// In this term; it hands it over for the next one.
        term: u64,
    },
    /// It has ended, and what is remembered of it is asked for.
    Ended {
        /// Which of those that the name stood for.
        birth: u64,
        /// Who remembers it.
        at: NodeName,
    },
    /// Its home is lost: it is taken over from its copy.
    TakeOver(TakeOver),
    /// It cannot be had, and that is certain.
    Never(SequenceError),
    /// It cannot be had now, for this reason.
    NotYet(&'static str),
}

/// How a sequence is taken over: its copy is taken, then the others are asked for their word. It is theirs to say whether
/// that was the newest one.
#[derive(Clone, Debug, PartialEq)]
pub struct TakeOver {
    /// Which of those that the name stood for.
    pub birth: u64,
    /// Who holds the copy; perhaps the node that wants it.
    pub at: NodeName,
    /// For this home.
    pub home: NodeId,
    /// The last message in it.
    pub done: u64,
    /// The term in which it was seen.
    pub seen: u64,
    /// The home has just said that it is none, and is not down.
    pub denied: bool,
    /// What the others are asked for.
    pub ballot: Ballot,
}

/// A copy that was found.
struct Copy {
    at: NodeName,
    home: NodeId,
    term: u64,
    written: u64,
    writer: NodeId,
    done: u64,
}

impl Copy {
    fn age(&self) -> (u64, u64) {
        (self.written, self.done)
    }
}

/// What was found of one sequence.
#[derive(Default)]
struct Found {
    live: Option<(NodeName, u64)>,
    over: Option<NodeName>,
    copy: Option<Copy>,
    /// Highest term heard of.
    term: u64,
    /// Highest term in which one that answered was the home, and which.
    began: (u64, Option<NodeName>),
    /// Highest term of which anybody that answered went on with what was written in it.
    saw: u64,
}

impl Found {
    fn add(&mut self, at: &NodeName, what: &SeenAs) {
        match what {
            SeenAs::Live { term } => {
                self.term = self.term.max(*term);
                if self.live.as_ref().is_none_or(|(_, best)| best < term) {
                    self.live = Some((at.clone(), *term));
                }
            }
            SeenAs::Over => self.over = Some(at.clone()),
            SeenAs::Copy {
                home,
                term,
                written,
                writer,
                done,
            } => {
                self.term = self.term.max(*term);
                let copy = Copy {
                    at: at.clone(),
                    home: home.clone(),
                    term: *term,
                    written: *written,
                    writer: writer.clone(),
                    done: *done,
                };
                if self.copy.as_ref().is_none_or(|best| best.age() < copy.age()) {
                    self.copy = Some(copy);
                }
            }
            SeenAs::Terms { promised, began, saw } => {
                self.saw = self.saw.max(*saw);
                self.term = self.term.max(*promised).max(*began);
                self.began = self.began.clone().max((*began, Some(at.clone())));
            }
        }
    }
}

/// Of several sequences that a name stood for, one that lives is meant, and of those the last to begin: births grow in time.
fn rank((birth, found): &(u64, Found)) -> (bool, u64) {
    (found.live.is_some(), *birth)
}

impl Search<'_> {
    /// What is to be done.
    pub fn verdict(&self) -> Verdict {
        let (found, is_of_others) = self.found();
        let Some((birth, found)) = found.into_iter().max_by_key(rank) else {
            return match (is_of_others, self.is_complete) {
                (true, _) => Verdict::Never(SequenceError::WrongToken),
                (false, true) => Verdict::Never(SequenceError::Unknown),
                (false, false) => Verdict::NotYet("not all nodes answer, and those that do have none of that name"),
            };
        };
        if let Some((at, term)) = found.live {
            return Verdict::HandOver { birth, at, term };
        }
        if let Some(at) = found.over {
            return Verdict::Ended { birth, at };
        }
        self.take_over(birth, found).unwrap_or_else(Verdict::NotYet)
    }

    /// What was found of each that may be meant, and whether there are some that may not.
    fn found(&self) -> (BTreeMap<u64, Found>, bool) {
        let (mut found, mut is_of_others) = (BTreeMap::<u64, Found>::new(), false);
        let all = || {
            self.answers
                .iter()
                .flat_map(|(at, seen)| seen.iter().map(move |seen| (at, seen)))
        };
        let is_terms = |seen: &Seen| matches!(seen.what, SeenAs::Terms { .. });
        for (at, seen) in all().filter(|(_, seen)| !is_terms(seen)) {
            match self.token.map_or(seen.open, |token| token == seen.token) {
                true => found.entry(seen.birth).or_default().add(at, &seen.what),
                false => is_of_others = true,
            }
        }
        // They say nothing of whose it is, and count beside something else only.
        for (at, seen) in all().filter(|(_, seen)| is_terms(seen)) {
            if let Some(found) = found.get_mut(&seen.birth) {
                found.add(at, &seen.what);
            }
        }
        (found, is_of_others)
    }

    fn take_over(&self, birth: u64, found: Found) -> Result<Verdict, &'static str> {
        let copy = found.copy.ok_or("nobody has it")?;
        let (began, by) = found.began;
        // Who was the home later says that this copy is an old one.
        if found.saw > copy.written
            || began > copy.written
            || (began == copy.written && by.is_some_and(|by| by != copy.writer.name))
        {
            return Err("the node that has its newest copy does not answer");
        }
        let answered: BTreeSet<NodeName> = self.answers.iter().map(|(name, _)| name.clone()).collect();
        let is_lost = self.others.is_lost(&copy.home);
        let denied = answered.contains(&copy.home.name) && !is_lost;
        if !denied && !is_lost && copy.home != *self.own {
            return Err("its node does not answer, and is not known to be down");
        }
        if !self.others.quorum().is_reached(&answered) {
            return Err("too few nodes are reached to take it over");
        }
        let remembered = |seen: &Vec<Seen>| {
            let terms = seen
                .iter()
                .filter(|seen| seen.birth == birth)
                .map(|seen| match seen.what {
                    SeenAs::Terms { promised, .. } => promised,
                    _ => 0,
                });
            terms.max().unwrap_or(0)
        };
        let deny = self.answers.iter().map(|(name, seen)| (name.clone(), remembered(seen)));
        Ok(Verdict::TakeOver(TakeOver {
            birth,
            at: copy.at,
            home: copy.home,
            done: copy.done,
            seen: copy.term,
            denied,
            ballot: Ballot {
                term: found.term.saturating_add(1),
                by: self.own.clone(),
                from: copy.written,
                writer: copy.writer,
                // A home that answered has no such sequence; what anybody else asked for may still come to something.
                deny: deny.collect(),
                void: found.term,
            },
        }))
    }
}
