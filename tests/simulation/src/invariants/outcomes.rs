//! Each request has exactly one outcome; and a grid at rest answers.

use std::collections::BTreeMap;

use super::convergence;
use crate::history::{Event, Phase, Record};
use crate::scenario::Scenario;

pub(super) fn check(_: &Scenario, history: &[Record]) -> Vec<(u64, String)> {
    let mut outcomes: BTreeMap<u64, (u64, u32)> = BTreeMap::new();
    let mut violations = Vec::new();
    let end = convergence::begin_of(history, Phase::End).unwrap_or(u64::MAX);
    for record in history {
        match &record.event {
            Event::Sent { request, .. } => {
                let before = outcomes.insert(*request, (record.at, 0));
                violations.extend(before.map(|_| (record.at, format!("request {request} was sent twice"))));
            }
            Event::Outcome { request, result } => {
                let Some((sent, count)) = outcomes.get_mut(request) else {
                    violations.push((record.at, format!("request {request} was never sent")));
                    continue;
                };
                *count += 1;
                if *sent + convergence::REST >= end
                    && let Err(error) = result
                {
                    violations.push((
                        record.at,
                        format!("request {request} failed in a grid at rest: {error}"),
                    ));
                }
            }
            _ => {}
        }
    }
    let wrong = outcomes.iter().filter(|(_, (_, count))| *count != 1);
    violations.extend(wrong.map(|(request, (at, count))| (*at, format!("request {request} has {count} outcomes"))));
    violations
}
