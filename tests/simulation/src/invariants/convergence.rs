//! Without faults the grid comes to rest within a bound: all nodes believe the same, every deployed model has its replicas,
//! and nothing moves any more.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Belief, Event, Phase, Record};
use crate::scenario::Scenario;

/// Within so long after the last fault, in milliseconds. A node that was cut off seeks others every 10 s and is taken for
/// dead for as long as its suspicion lasts; loads that failed wait up to 40 s; and a replica that goes needs about 10 s
/// for each that goes before it.
pub const BOUND: u64 = 90_000;

/// It is at rest when nothing has changed for so long, in milliseconds: longer than agents take to compare what they
/// believe, and than a lease and a drain.
pub const REST: u64 = 9_000;

/// When a phase began.
pub fn begin_of(history: &[Record], phase: Phase) -> Option<u64> {
    let mut all = history.iter();
    all.find(|record| record.event == Event::Phase(phase))
        .map(|record| record.at)
}

/// Whether the grid is at rest at `now`, at the end of this history, and has been since `from` at the earliest.
pub fn is_at_rest(scenario: &Scenario, history: &[Record], from: u64, now: u64) -> bool {
    from + REST <= now && unrest(scenario, history, now).is_none()
}

/// Whether it was at rest before the last request.
pub(super) fn came_to_rest(scenario: &Scenario, history: &[Record]) -> bool {
    begin_of(history, Phase::End).is_some_and(|end| unrest(scenario, until(history, Phase::End), end).is_none())
}

/// What happened before a phase.
fn until(history: &[Record], phase: Phase) -> &[Record] {
    let begin = history.iter().position(|record| record.event == Event::Phase(phase));
    &history[..begin.unwrap_or(history.len())]
}

/// Why the grid is not at rest.
fn unrest(scenario: &Scenario, history: &[Record], now: u64) -> Option<String> {
    let begin = history.partition_point(|record| record.at + REST < now);
    let mut samples: BTreeMap<u64, Vec<&Belief>> = BTreeMap::new();
    for record in &history[begin..] {
        match &record.event {
            Event::Believes(belief) => samples.entry(record.at).or_default().push(belief),
            Event::LoadBegun { node, model, .. } => return Some(format!("{node} loads {model}")),
            Event::Closing { node, model, .. } => return Some(format!("{node} unloads {model}")),
            Event::Started { node, .. } | Event::Gone { node, .. } => return Some(format!("{node} came or went")),
            _ => {}
        }
    }
    // The last one tells what is wrong still.
    samples.values().rev().find_map(|beliefs| difference(scenario, beliefs))
}

/// How what the running nodes believe differs from what it should be.
fn difference(scenario: &Scenario, beliefs: &[&Belief]) -> Option<String> {
    let running: Vec<_> = beliefs.iter().map(|belief| &belief.node).collect();
    let first = beliefs.first()?;
    for belief in beliefs {
        let (node, up) = (&belief.node, &belief.up);
        let known: BTreeSet<_> = up.iter().collect();
        if known != running.iter().copied().collect() {
            return Some(format!("{node} believes that {up:?} are up, and {running:?} are"));
        }
        if belief.catalog != first.catalog {
            return Some(format!("{node} and {} have different catalogs", first.node));
        }
        if belief.view != first.view {
            return Some(format!("{node} and {} have different views", first.node));
        }
        if belief.intents != first.intents {
            return Some(format!("{node} and {} have different intents", first.node));
        }
        if scenario.has_room && belief.unplaced > 0 {
            return Some(format!("{} replicas have no place", belief.unplaced));
        }
    }
    for (model, content, wanted, has_source) in &first.deployed {
        let serves = |belief: &&&Belief| belief.serving.iter().any(|(of, which)| of == model && which == content);
        let serving = beliefs.iter().filter(serves).count();
        if serving != *wanted && *has_source && scenario.has_room {
            return Some(format!("{model} has {serving} replicas of {wanted}"));
        }
    }
    let is_deployed = |model: &_| first.deployed.iter().any(|(of, ..)| of == model);
    let mut serving = beliefs.iter().flat_map(|belief| &belief.serving);
    let other = serving.find(|(model, _)| !is_deployed(model))?;
    Some(format!("{} serves and is not deployed", other.0))
}

pub(super) fn check(scenario: &Scenario, history: &[Record]) -> Vec<(u64, String)> {
    let mut violations = Vec::new();
    for phase in [Phase::Safety, Phase::End] {
        let Some(end) = begin_of(history, phase) else {
            continue;
        };
        if let Some(why) = unrest(scenario, until(history, phase), end) {
            violations.push((end, format!("the grid does not come to rest before {phase:?}: {why}")));
        }
    }
    violations
}
