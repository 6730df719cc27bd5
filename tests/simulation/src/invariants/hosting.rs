//! No run on a node that does not have the shard in memory, from the run's begin to its end.

use std::collections::BTreeMap;

use crate::history::{Event, Record};
use crate::scenario::Scenario;

pub(super) fn check(_: &Scenario, history: &[Record]) -> Vec<(u64, String)> {
    // Whether it takes requests.
    let mut resident = BTreeMap::new();
    let mut violations = Vec::new();
    for record in history {
        match &record.event {
            Event::Loaded {
                node, model, content, ..
            } => drop(resident.insert((node, model, content), true)),
            Event::Closing {
                node, model, content, ..
            } => drop(resident.insert((node, model, content), false)),
            Event::Freed { node, model, content } => drop(resident.remove(&(node, model, content))),
            Event::Gone { node, .. } => resident.retain(|(at, ..), _| *at != node),
            Event::RunBegun {
                node,
                request,
                model,
                content,
            } if resident.get(&(node, model, content)) != Some(&true) => {
                violations.push((
                    record.at,
                    format!("request {request} runs on {node}, which does not host {model}"),
                ));
            }
            Event::RunEnded {
                node,
                request,
                model,
                content,
            } if !resident.contains_key(&(node, model, content)) => {
                violations.push((
                    record.at,
                    format!("{model} left the memory of {node} under request {request}"),
                ));
            }
            _ => {}
        }
    }
    violations
}
