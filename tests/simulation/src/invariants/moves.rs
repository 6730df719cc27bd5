//! Few moves: what is loaded and unloaded in all is bounded by what has happened. (That nothing moves in a grid at rest is
//! part of convergence.)

use crate::history::{Event, Record};
use crate::scenario::Scenario;

/// How often each thing that happens may load and unload every replica. One that is lost moves at most once, and back.
const EACH: usize = 2;

/// Most replicas of a model in any scenario.
const REPLICAS: usize = 3;

pub(super) fn check(scenario: &Scenario, history: &[Record]) -> Vec<(u64, String)> {
    let count = |is: fn(&Event) -> bool| history.iter().filter(|record| is(&record.event)).count();
    let moves = count(|event| matches!(event, Event::LoadBegun { .. } | Event::Closing { .. }));
    let causes = count(|event| matches!(event, Event::Fault { .. } | Event::Started { .. } | Event::Gone { .. }));
    let bound = EACH * REPLICAS * scenario.models.len() * (causes + 1);
    match moves <= bound {
        true => Vec::new(),
        false => {
            let at = history.last().map_or(0, |record| record.at);
            vec![(
                at,
                format!("{moves} loads and unloads, and {causes} causes allow {bound}"),
            )]
        }
    }
}
