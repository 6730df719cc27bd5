//! The invariants find what they are there to find.

use grid_core::cluster::{Digest, NodeName};

use super::check;
use crate::history::{Event, Phase, Record};
use crate::scenario::{Scenario, model};

fn found(scenario: &Scenario, events: &[Event]) -> Vec<&'static str> {
    let records = events.iter().zip(1..).map(|(event, at)| Record {
        at,
        event: event.clone(),
    });
    let history: Vec<Record> = records.collect();
    check(scenario, &history)
        .iter()
        .map(|violation| violation.invariant)
        .collect()
}

fn node() -> NodeName {
    "n0".parse().unwrap()
}

fn content() -> Digest {
    Digest::of(b"content")
}

fn started() -> Event {
    Event::Started {
        node: node(),
        generation: 1,
        budget: 100,
    }
}

fn load(bytes: u64) -> [Event; 2] {
    let (node, model, content) = (node(), model(0), content());
    [
        Event::LoadBegun {
            node: node.clone(),
            model: model.clone(),
            content,
            bytes,
        },
        Event::Loaded {
            node,
            model,
            content,
            bytes,
        },
    ]
}

#[test]
fn a_request_without_an_outcome_or_with_two_is_found() {
    let scenario = Scenario::new(0, 3);
    let sent = Event::Sent {
        request: 1,
        model: model(0),
    };
    let outcome = Event::Outcome {
        request: 1,
        result: Ok(()),
    };
    let one = "one outcome for each request";
    assert_eq!(found(&scenario, std::slice::from_ref(&sent)), [one]);
    assert_eq!(
        found(&scenario, &[sent.clone(), outcome.clone(), outcome.clone()]),
        [one]
    );
    assert_eq!(found(&scenario, &[sent, outcome]), [""; 0]);
}

#[test]
fn a_run_where_the_shard_is_not_is_found() {
    let run = Event::RunBegun {
        node: node(),
        request: 1,
        model: model(0),
        content: content(),
    };
    let scenario = Scenario::new(0, 3);
    assert_eq!(
        found(&scenario, std::slice::from_ref(&run)),
        ["runs only where the shard is"]
    );
    let [begun, loaded] = load(10);
    assert_eq!(found(&scenario, &[started(), begun, loaded, run]), [""; 0]);
}

#[test]
fn more_than_the_budget_is_found() {
    let [begun, _] = load(101);
    assert_eq!(
        found(&Scenario::new(0, 3), &[started(), begun]),
        ["memory within the budget"]
    );
}

#[test]
fn the_last_replica_that_goes_is_found_unless_it_was_taken_back() {
    let closing = |deployed| Event::Closing {
        node: node(),
        model: model(0),
        content: content(),
        replaced: false,
        deployed,
    };
    let [begun, loaded] = load(10);
    let scenario = Scenario::new(0, 3);
    let history = |deployed| [started(), begun.clone(), loaded.clone(), closing(deployed)];
    assert_eq!(found(&scenario, &history(true)), ["make before break"]);
    assert_eq!(found(&scenario, &history(false)), [""; 0]);
}

#[test]
fn a_request_that_fails_for_a_planned_move_is_found() {
    let scenario = Scenario {
        only_planned: true,
        ..Scenario::new(0, 3)
    };
    let sent = Event::Sent {
        request: 1,
        model: model(0),
    };
    let outcome = Event::Outcome {
        request: 1,
        result: Err("no".into()),
    };
    assert_eq!(found(&scenario, &[sent, outcome]), ["planned moves lose no request"]);
}

#[test]
fn a_grid_that_moves_until_the_end_is_found() {
    let [begun, _] = load(10);
    let events = [started(), Event::Phase(Phase::Quiet), begun, Event::Phase(Phase::End)];
    assert_eq!(found(&Scenario::new(0, 3), &events), ["convergence"]);
}
