//! Make before break: while no node fails, a model that one node serves goes on being served, whatever the nodes believe.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Event, Record};
use crate::scenario::Scenario;

/// A word that was given before a crash may be relied on for so long after it, in milliseconds: a lease, and the time in
/// which a replica drains.
const AFTERMATH: u64 = 9_000;

pub(super) fn check(_: &Scenario, history: &[Record]) -> Vec<(u64, String)> {
    let mut serving: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    let mut running = BTreeSet::new();
    let mut failed: Option<u64> = None;
    let mut violations = Vec::new();
    for record in history {
        match &record.event {
            Event::Started { node, .. } => drop(running.insert(node)),
            Event::Loaded { node, model, .. } => drop(serving.entry(model).or_default().insert(node)),
            Event::Closing {
                node,
                model,
                replaced: false,
                deployed,
                ..
            } => {
                let left = serving.entry(model).or_default();
                left.remove(node);
                let is_aftermath = failed.is_some_and(|at| at + AFTERMATH > record.at);
                if left.is_empty() && *deployed && !is_aftermath {
                    violations.push((record.at, format!("{node} unloads the last replica of {model}")));
                }
            }
            Event::Gone { node, left } => {
                running.remove(node);
                if !left {
                    failed = Some(record.at);
                }
                for (model, nodes) in &mut serving {
                    let was_there = nodes.remove(node);
                    let is_aftermath = failed.is_some_and(|at| at + AFTERMATH > record.at);
                    if was_there && *left && nodes.is_empty() && !running.is_empty() && !is_aftermath {
                        violations.push((record.at, format!("{node} leaves with the last replica of {model}")));
                    }
                }
            }
            _ => {}
        }
    }
    violations
}
