//! What a home does so that a second node has its sequence.
//!
//! - While the second node is there, it alone is told: it is what the next home takes the sequence from, and so what
//!   tells this one that it is fenced off.
//! - Another second node is a new term, for which more than half of the nodes give their word: otherwise a home that woke
//!   from a freeze could go on with a node that has not heard of the take-over.
//! - Where nobody else is left, the home goes on alone.
//! - Who knows of messages that the home does not have is perhaps right: the home is perhaps none any more. It does not say
//!   that there are none before its second node has said that it is.

use super::HoldAnswer;
use crate::cluster::NodeId;

/// The other nodes, as the home sees them now.
#[derive(Clone, Copy, Debug)]
pub struct Outlook<'a> {
    /// The node that the copy should go to, where it must go to another; `None` when there is none.
    pub choice: Option<&'a NodeId>,
    /// Whether the present one is there and takes it.
    pub is_second_there: bool,
    /// Whether nobody else counts: all have left, or are provably gone.
    pub is_alone: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Errand {
    /// Nothing, until something changes.
    Rest,
    /// Nothing can be done now: look again in a moment.
    Wait,
    /// Everything that is done is durable: there is nobody to hold it.
    Alone,
    /// Send what comes after that number, or everything. Then say how it went.
    Send {
        /// Where.
        to: NodeId,
        /// What it has.
        after: Option<u64>,
        /// In which term.
        term: u64,
        /// Whether more than half of the nodes must give their word for this term before: without it, this home is perhaps
        /// none any more, and must overwrite no copy.
        vote: bool,
    },
}

#[derive(Clone, Debug)]
struct Second {
    node: NodeId,
    held: Option<u64>,
    /// The term that begins with it, where more than half must give their word for that.
    proposed: Option<u64>,
}

/// How far it is known whether this is the home still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    Raised,
    /// What was sent since then is not answered yet.
    Sent,
    Settled,
}

/// The home's side of its copies. See the module's documentation.
#[derive(Clone, Debug)]
pub struct Keeper {
    term: u64,
    /// The highest term that was ever asked for. Each choice has a term of its own: a copy that was sent and never heard of
    /// must not be taken for that of a later choice.
    highest: u64,
    second: Option<Second>,
    in_flight: Option<u64>,
    /// Nodes that were told and are not the second any more: their copies are old.
    former: Vec<NodeId>,
    touch: bool,
    /// Since somebody knew of this number.
    doubt: Option<(u64, Doubt)>,
    /// It has only just begun, with the word of more than half: nobody knows better.
    is_new: bool,
}

/// Former second nodes that are remembered. One that is forgotten here forgets its copy by itself, later.
const MOST_FORMER: usize = 8;

impl Keeper {
    /// A home of this term. `has` is a node that has everything up to a number already, and this home for its home.
    pub fn new(term: u64, has: Option<(NodeId, u64)>) -> Self {
        Self {
            term,
            highest: term,
            second: has.map(|(node, held)| Second {
                node,
                held: Some(held),
                proposed: None,
            }),
            in_flight: None,
            former: Vec::new(),
            touch: true,
            doubt: None,
            is_new: true,
        }
    }

    /// The node that holds the copy, or is to.
    pub fn second(&self) -> Option<&NodeId> {
        self.second.as_ref().map(|second| &second.node)
    }

    /// Whether something was sent and not answered.
    pub fn is_under_way(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Whether nothing is under way, and nothing left to be sent.
    pub fn is_quiet(&self) -> bool {
        self.in_flight.is_none() && !self.touch
    }

    /// The copy is sent to even where nothing is new, so that its node keeps it.
    pub fn touch(&mut self) {
        self.touch = true;
    }

    /// Somebody knows of a number that this home has not come to. Whether its second node has said since then that this is
    /// the home; if not, it is asked, and who came is to ask again.
    pub fn is_home_still(&mut self, number: u64) -> bool {
        if self.is_new {
            return true;
        }
        match self.doubt.filter(|(of, _)| *of == number) {
            Some((_, Doubt::Settled)) => {
                self.doubt = None;
                return true;
            }
            Some(_) => {}
            None => {
                self.doubt = Some((number, Doubt::Raised));
                self.touch = true;
            }
        }
        false
    }

    fn doubt_goes(&mut self, from: Doubt, to: Doubt) {
        if let Some((_, doubt)) = &mut self.doubt
            && *doubt == from
        {
            *doubt = to;
        }
    }

    /// What to do about a sequence that has so many messages done.
    pub fn next(&mut self, done: u64, outlook: Outlook<'_>) -> Errand {
        if self.in_flight.is_some() {
            return Errand::Rest;
        }
        if self.second.is_none() || !outlook.is_second_there {
            match outlook.choice {
                Some(choice) => self.choose(choice),
                None if outlook.is_alone => {
                    self.touch = false;
                    self.doubt_goes(Doubt::Raised, Doubt::Settled);
                    return Errand::Alone;
                }
                None => return Errand::Wait,
            }
        }
        self.doubt_goes(Doubt::Raised, Doubt::Sent);
        let Some(second) = &self.second else {
            return Errand::Wait;
        };
        if second.held == Some(done) && second.proposed.is_none() && !self.touch {
            return Errand::Rest;
        }
        self.touch = false;
        self.in_flight = Some(done);
        Errand::Send {
            to: second.node.clone(),
            after: second.held,
            term: second.proposed.unwrap_or(self.term),
            vote: second.proposed.is_some(),
        }
    }

    fn choose(&mut self, choice: &NodeId) {
        let before = self.second.take();
        // Whoever may have a copy in this term must not be able to go on with it.
        let proposed = before.is_some().then_some(self.highest + 1);
        self.highest += u64::from(proposed.is_some());
        if let Some(before) = before.filter(|before| before.node != *choice) {
            self.former.retain(|node| *node != before.node);
            self.former.truncate(MOST_FORMER - 1);
            self.former.push(before.node);
        }
        self.former.retain(|node| node != choice);
        self.second = Some(Second {
            node: choice.clone(),
            held: None,
            proposed,
        });
    }

    /// The second node has answered, and those who had to give their word. Returns up to where the sequence is durable, and
    /// its term.
    pub fn answered(&mut self, answer: HoldAnswer) -> Option<(u64, u64)> {
        let sent = self.in_flight.take()?;
        self.is_new = false;
        let heard = match answer {
            HoldAnswer::Held => Doubt::Settled,
            HoldAnswer::NeedAll | HoldAnswer::Fenced { .. } => Doubt::Raised,
        };
        self.doubt_goes(Doubt::Sent, heard);
        let second = self.second.as_mut()?;
        match answer {
            HoldAnswer::Held => {
                self.term = second.proposed.take().unwrap_or(self.term);
                second.held = Some(sent);
                Some((sent, self.term))
            }
            HoldAnswer::NeedAll => {
                second.held = None;
                self.touch = true;
                None
            }
            HoldAnswer::Fenced { .. } => None,
        }
    }

    /// No answer came, or not enough nodes gave their word.
    pub fn unanswered(&mut self) {
        self.in_flight = None;
        self.is_new = false;
        self.touch = true;
        self.doubt_goes(Doubt::Sent, Doubt::Raised);
    }

    /// Nodes that hold a copy that is of no use any more; the caller tells them.
    pub fn take_former(&mut self) -> Vec<NodeId> {
        std::mem::take(&mut self.former)
    }

    /// One of them could not be told.
    pub fn not_told(&mut self, node: NodeId) {
        if self.former.len() < MOST_FORMER && self.second() != Some(&node) {
            self.former.push(node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_that_somebody_knows_more_of_is_sure_of_itself_when_its_second_node_has_said_so() {
        let second = NodeId {
            name: "b".parse().unwrap(),
            generation: 1,
        };
        let there = Outlook {
            choice: Some(&second),
            is_second_there: true,
            is_alone: false,
        };
        let mut keeper = Keeper::new(1, None);
        assert!(matches!(keeper.next(5, there), Errand::Send { .. }));
        keeper.answered(HoldAnswer::Held);
        assert_eq!(keeper.next(5, there), Errand::Rest);

        assert!(!keeper.is_home_still(9));
        assert!(matches!(keeper.next(5, there), Errand::Send { .. }));
        assert!(!keeper.is_home_still(9));
        keeper.unanswered();
        assert!(!keeper.is_home_still(9));
        assert!(matches!(keeper.next(5, there), Errand::Send { .. }));
        keeper.answered(HoldAnswer::Held);
        assert!(keeper.is_home_still(9));
        // What was heard is no answer to what comes later.
        assert!(!keeper.is_home_still(9));
    }
}
