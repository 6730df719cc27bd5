//! Nothing spins: a node does not wake for nothing again and again.

use std::collections::BTreeMap;

use crate::history::{Event, Record};
use crate::scenario::Scenario;

/// Wake-ups in a second. A node that spins has a thousand; datagrams and answers of a busy grid cause a few dozen.
const MOST: u64 = 400;

pub(super) fn check(_: &Scenario, history: &[Record]) -> Vec<(u64, String)> {
    let mut last: BTreeMap<_, (u64, u64)> = BTreeMap::new();
    let mut violations = Vec::new();
    for record in history {
        match &record.event {
            Event::Started { node, .. } => drop(last.remove(node)),
            Event::Believes(belief) => {
                let before = last.insert(&belief.node, (record.at, belief.wakes));
                let Some((at, wakes)) = before else {
                    continue;
                };
                let (time, woken) = (record.at - at, belief.wakes - wakes);
                if woken * 1000 > MOST * time.max(1) {
                    violations.push((
                        record.at,
                        format!("{} has woken {woken} times in {time} ms", belief.node),
                    ));
                }
            }
            _ => {}
        }
    }
    // Others say the same.
    violations.truncate(3);
    violations
}
