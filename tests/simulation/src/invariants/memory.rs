//! What is in memory or on its way there is within the budget. Of a budget that became smaller nothing is taken while
//! there is more than it allows, and in the end there is not.

use std::collections::BTreeMap;

use grid_core::cluster::{Digest, NodeName};
use grid_core::model::ModelId;

use super::convergence;
use crate::history::{Event, Phase, Record};
use crate::scenario::Scenario;

/// What each node has in memory, by model and content.
type Used<'a> = BTreeMap<(&'a NodeName, &'a ModelId, &'a Digest), u64>;

fn used_by(used: &Used<'_>, node: &NodeName) -> u64 {
    let of_node = used.iter().filter(|((at, ..), _)| *at == node);
    of_node.map(|(_, bytes)| *bytes).sum()
}

pub(super) fn check(scenario: &Scenario, history: &[Record]) -> Vec<(u64, String)> {
    let mut budgets = BTreeMap::new();
    let mut used = Used::new();
    let mut violations = Vec::new();
    for record in history {
        match &record.event {
            Event::Started { node, budget, .. } => drop(budgets.insert(node, *budget)),
            Event::Budget { node, bytes } => drop(budgets.insert(node, *bytes)),
            Event::LoadBegun {
                node,
                model,
                content,
                bytes,
            } => {
                used.insert((node, model, content), *bytes);
                let (sum, budget) = (used_by(&used, node), budgets.get(node).copied().unwrap_or(0));
                if sum > budget {
                    violations.push((record.at, format!("{node} has taken {sum} bytes of {budget}")));
                }
            }
            Event::Loaded {
                node,
                model,
                content,
                bytes,
            } => {
                let before = used.insert((node, model, content), *bytes).unwrap_or(0);
                let (sum, budget) = (used_by(&used, node), budgets.get(node).copied().unwrap_or(0));
                if *bytes > before && sum > budget {
                    violations.push((record.at, format!("{node} has {sum} bytes of {budget}")));
                }
            }
            Event::Freed { node, model, content }
            | Event::LoadFailed {
                node, model, content, ..
            } => drop(used.remove(&(node, model, content))),
            Event::Gone { node, .. } => used.retain(|(at, ..), _| *at != node),
            Event::Phase(Phase::End) if scenario.has_room && convergence::came_to_rest(scenario, history) => {
                for (node, budget) in &budgets {
                    let sum = used_by(&used, node);
                    if sum > *budget {
                        violations.push((record.at, format!("{node} still has {sum} bytes of {budget}")));
                    }
                }
            }
            _ => {}
        }
    }
    violations
}
