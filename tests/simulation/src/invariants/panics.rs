//! Nothing panics.

use crate::history::{Event, Record};
use crate::scenario::Scenario;

pub(super) fn check(_: &Scenario, history: &[Record]) -> Vec<(u64, String)> {
    let panics = history.iter().filter_map(|record| match &record.event {
        Event::Panicked { whose, message } => Some((record.at, format!("{whose}: {message}"))),
        _ => None,
    });
    panics.collect()
}
