//! Sequences without a gap: the outcomes that a client was told of as durable are numbered without gap and repeat, each
//! is what the messages up to it give when they are run in one piece, and a grid at rest goes on with every sequence.
//!
//! A sequence may be lost only if no node is left that had all of it: since its last outcome that counted as durable, every
//! node that had that one, as home or as second node, was killed or has left, or has dropped what it had because another
//! one had it. A node that is frozen or cut off has what it had, so a sequence must wait for it, and not go on from before.
//!
//! One more case is known and allowed, as nodes keep their words in memory and any node that is there counts: a node that
//! started after the sequence began, and so remembers nothing that its process before gave its word for, or joined while
//! others were cut off, gives its word to one whose copy is an old one. Then the majority that knew better may have
//! been outvoted. It is allowed only where the history shows such a word.

use std::collections::{BTreeMap, BTreeSet};

use grid_core::cluster::NodeName;

use super::convergence;
use crate::history::{Event, Phase, Record};
use crate::scenario::Scenario;
use crate::sequence::{fold, message};

#[derive(Default)]
struct Told<'a> {
    /// The last number that a client was told of, and the state after it.
    last: u64,
    state: u64,
    at: u64,
    /// What each node has.
    holders: BTreeMap<&'a NodeName, u64>,
    /// The nodes that run since before it began.
    remember: BTreeSet<&'a NodeName>,
    /// What those have that asked for a term.
    asked: BTreeMap<(&'a NodeName, u64), u64>,
    /// A node that does not remember gave its word to one that had not all.
    is_outvoted: bool,
    /// The client wants nothing more of it.
    is_over: bool,
}

impl<'a> Told<'a> {
    fn has(&mut self, node: &'a NodeName, done: u64) {
        let most = self.holders.entry(node).or_insert(done);
        *most = done.max(*most);
    }

    /// Why it need not go on: nobody has all of it, or those who do may have been outvoted.
    fn may_be_lost(&self) -> bool {
        self.is_outvoted || !self.holders.values().any(|done| *done >= self.last)
    }
}

pub(super) fn check(_: &Scenario, history: &[Record]) -> Vec<(u64, String)> {
    let mut all: BTreeMap<u64, Told<'_>> = BTreeMap::new();
    let mut violations = Vec::new();
    let mut running = BTreeSet::new();
    for record in history {
        let at = record.at;
        match &record.event {
            Event::SequenceBegun { sequence, .. } => {
                let told = all.entry(*sequence).or_default();
                (told.at, told.remember) = (at, running.clone());
            }
            Event::SequenceOutcome {
                sequence,
                number,
                value,
            } => {
                let told = all.entry(*sequence).or_default();
                if *number != told.last + 1 {
                    let last = told.last;
                    violations.push((
                        at,
                        format!("sequence {sequence}: message {number} follows message {last}"),
                    ));
                }
                let expected = fold(told.state, message(*sequence, *number));
                if *value != expected {
                    violations.push((
                        at,
                        format!("sequence {sequence}: message {number} has the outcome of others"),
                    ));
                }
                (told.last, told.state, told.at) = (*number, expected, at);
            }
            Event::SequenceLost { sequence, reason } => {
                let told = all.entry(*sequence).or_default();
                told.is_over = true;
                if !told.may_be_lost() {
                    let Told { last, holders, .. } = told;
                    violations.push((
                        at,
                        format!("sequence {sequence} is lost after message {last}, and {holders:?} have it: {reason}"),
                    ));
                }
            }
            Event::SequenceClosed { sequence } => all.entry(*sequence).or_default().is_over = true,
            Event::SequenceHome {
                sequence, node, done, ..
            } => all.entry(*sequence).or_default().has(node, *done),
            Event::SequenceHeld {
                sequence,
                node,
                home,
                done,
            } => {
                let told = all.entry(*sequence).or_default();
                told.has(node, *done);
                // It had that much when it sent it; if it was killed since, its end was seen before.
                if told.holders.contains_key(home) {
                    told.has(home, *done);
                }
            }
            Event::SequenceDropped { sequence, node } => {
                all.entry(*sequence).or_default().holders.remove(node);
            }
            Event::SequenceAsked {
                sequence,
                node,
                term,
                done,
            } => {
                all.entry(*sequence).or_default().asked.insert((node, *term), *done);
            }
            Event::SequenceWord {
                sequence,
                node,
                by,
                term,
            } => {
                let told = all.entry(*sequence).or_default();
                let lacks = told.asked.get(&(by, *term)).is_some_and(|done| *done < told.last);
                told.is_outvoted |= lacks && !told.remember.contains(node);
            }
            Event::Started { node, .. } => {
                running.insert(node);
            }
            Event::Gone { node, .. } => {
                running.remove(node);
                for told in all.values_mut() {
                    told.holders.remove(node);
                    told.remember.remove(node);
                }
            }
            Event::Phase(Phase::End) => {
                let stuck = all.iter().filter(|(_, told)| {
                    let waits = told.at + convergence::REST < at;
                    waits && !told.is_over && !told.may_be_lost()
                });
                violations.extend(stuck.map(|(sequence, told)| {
                    let Told { last, holders, .. } = told;
                    (
                        at,
                        format!("sequence {sequence} stands at message {last}, and {holders:?} have it"),
                    )
                }));
            }
            _ => {}
        }
    }
    violations
}
