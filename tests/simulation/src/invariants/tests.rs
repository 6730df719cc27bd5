//! The invariants find what they are there to find.

use grid_core::cluster::{Digest, NodeName};

use super::check;
use crate::history::{Event, Phase, Record};
use crate::scenario::{Scenario, model};
use crate::sequence::{fold, message};

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

fn sequence(events: &[Event]) -> Vec<Event> {
    let begun = Event::SequenceBegun {
        sequence: 1,
        model: model(0),
    };
    let home = Event::SequenceHome {
        sequence: 1,
        node: node(),
        term: 1,
        done: 2,
    };
    [&[started(), begun, home], events].concat()
}

fn outcome(number: u64, value: u64) -> Event {
    Event::SequenceOutcome {
        sequence: 1,
        number,
        value,
    }
}

#[test]
fn a_gap_a_repeat_and_a_wrong_state_of_a_sequence_are_found() {
    let scenario = Scenario::new(0, 3);
    let first = fold(0, message(1, 1));
    let second = fold(first, message(1, 2));
    let sound = [outcome(1, first), outcome(2, second)];
    let gapless = "sequences gapless";
    assert_eq!(found(&scenario, &sequence(&sound)), [""; 0]);
    assert_eq!(found(&scenario, &sequence(&[outcome(2, second)])), [gapless; 2]);
    let repeat = [outcome(1, first), outcome(1, first)];
    assert!(found(&scenario, &sequence(&repeat)).contains(&gapless));
    let twice = fold(second, message(1, 2));
    assert_eq!(
        found(&scenario, &sequence(&[outcome(1, first), outcome(2, twice)])),
        [gapless]
    );
}

#[test]
fn a_sequence_that_is_lost_while_a_node_has_it_is_found() {
    let scenario = Scenario::new(0, 3);
    let lost = Event::SequenceLost {
        sequence: 1,
        reason: "no node knows it".into(),
    };
    let gone = Event::Gone {
        node: node(),
        left: false,
    };
    let told = outcome(1, fold(0, message(1, 1)));
    let kept = sequence(&[told.clone(), lost.clone()]);
    assert_eq!(found(&scenario, &kept), ["sequences gapless"]);
    assert_eq!(found(&scenario, &sequence(&[told, gone, lost])), [""; 0]);
}

#[test]
fn a_sequence_that_stands_still_in_a_grid_at_rest_is_found() {
    let mut history: Vec<Record> = sequence(&[]).into_iter().map(|event| Record { at: 1, event }).collect();
    let at = super::convergence::REST + 2;
    let event = Event::Phase(Phase::End);
    history.push(Record { at, event });
    let violations = super::sequences::check(&Scenario::new(0, 3), &history);
    assert_eq!(violations.len(), 1, "{violations:?}");
}
