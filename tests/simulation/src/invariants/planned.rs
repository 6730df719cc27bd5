//! Where all that is done is planned, no request fails.

use crate::history::{Event, Record};
use crate::scenario::Scenario;

pub(super) fn check(scenario: &Scenario, history: &[Record]) -> Vec<(u64, String)> {
    if !scenario.only_planned {
        return Vec::new();
    }
    let failed = history.iter().filter_map(|record| match &record.event {
        Event::Outcome {
            request,
            result: Err(error),
        } => Some((record.at, format!("request {request} failed: {error}"))),
        _ => None,
    });
    failed.collect()
}
