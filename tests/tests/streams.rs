//! WebSocket conversations and sequences with a whole node: what they promise when things break.

use std::collections::BTreeMap;

use grid_core::model::ModelId;
use grid_node::actors::{Crash, FindShard};
use grid_tests::embedded::{EmbeddedNode, Repository, eventually, infer};
use grid_tests::scripted::{FAILS, MANIFEST_OF_STATE, PANICS, next_state};
use grid_tests::stream::{Stream, StreamError, y};
use serde_json::{Value, json};

const GATED: &str = "gated = 1";
const ONE: &str = "instances = 1\n";

fn waiting(node: &EmbeddedNode) -> usize {
    node.route("m").lanes.iter().map(|lane| lane.waiting()).sum()
}

fn stateful(model: &str, config: &str) -> EmbeddedNode {
    let manifest = format!("instances = 2\n[batching]\nmax_batch_size = 8\n{MANIFEST_OF_STATE}");
    EmbeddedNode::start(
        Repository::default().with("m", &manifest, &format!("state = 1\n{model}")),
        config,
    )
}

#[track_caller]
fn stream(node: &EmbeddedNode) -> Stream {
    Stream::connect(node.address(), "m").expect("the node answers handshakes")
}

/// A generator of test decisions: xorshift64*, from Marsaglia's paper of 2003 and Vigna's of 2016.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides
    }
}

/// What a client knows of its sequence.
#[derive(Default)]
struct Ours {
    token: String,
    /// The inputs by number, from 1.
    sent: Vec<f32>,
    /// The outcomes by number: `None` for one without outputs.
    outcomes: Vec<Option<f32>>,
    attached: bool,
}

/// Six sequences over one connection, which breaks now and then. Takes what comes until `done`.
fn take(stream: &mut Stream, sequences: &mut BTreeMap<String, Ours>, done: impl Fn(&BTreeMap<String, Ours>) -> bool) {
    while !done(sequences) {
        let message = stream.receive().expect("the node answers");
        if message["type"] == "cancelled" {
            continue;
        }
        let id = message["sequence_id"]
            .as_str()
            .or(message["parameters"]["sequence_id"].as_str());
        let ours = sequences
            .get_mut(id.expect("every message is of a sequence"))
            .expect("it is one of ours");
        match message["type"].as_str() {
            Some("output") => {
                let number = message["parameters"]["sequence_number"]
                    .as_u64()
                    .expect("it has its number");
                assert_eq!(
                    number,
                    ours.outcomes.len() as u64 + 1,
                    "no gap and no repeat: {message}"
                );
                ours.outcomes.push(y(&message));
            }
            Some("error") if message["sequence_outcome"] == true => {
                assert_eq!(message["sequence_number"], ours.outcomes.len() as u64 + 1, "{message}");
                ours.outcomes.push(None);
            }
            Some("resumed") => {
                let next = message["next"].as_u64().expect("it says what is next") as usize;
                assert!(next > ours.outcomes.len(), "{message}");
                ours.sent.truncate(next - 1);
                ours.attached = true;
            }
            _ => panic!("unexpected: {message}"),
        }
    }
}

#[test]
fn any_interleaving_of_sequences_cancels_failures_and_broken_connections_gives_each_what_the_model_gives_alone() {
    // Runs that take a while and never run at once, so that steps of different sequences meet.
    let config = "supervision.max_restarts = 1000\ncompute.inline_below = '0us'";
    let node = stateful("run_us = 300", config);
    let mut dice = Dice(0x5eed);
    let mut sequences: BTreeMap<String, Ours> = BTreeMap::new();
    let mut connection = stream(&node);
    for name in ["a", "b", "c", "d", "e", "f"] {
        let token = connection.start(name).unwrap();
        let attached = true;
        sequences.insert(
            name.to_owned(),
            Ours {
                token,
                attached,
                ..Ours::default()
            },
        );
    }
    for _ in 0..3000 {
        let name = ["a", "b", "c", "d", "e", "f"][dice.roll(6) as usize];
        match dice.roll(100) {
            0..=79 => {
                let ours = sequences.get_mut(name).unwrap();
                // No more than the window may be unanswered.
                if ours.sent.len() - ours.outcomes.len() < 20 {
                    let x = match dice.roll(40) {
                        0 => FAILS,
                        1 if dice.roll(20) == 0 => PANICS,
                        _ => 1.0 + dice.roll(1000) as f32,
                    };
                    ours.sent.push(x);
                    connection.message(name, ours.sent.len() as u64, x).unwrap();
                }
            }
            80..=86 => {
                let number = 1 + dice.roll(1 + sequences[name].sent.len() as u64);
                let cancel = json!({"type": "cancel", "sequence_id": name, "sequence_number": number});
                connection.send(&cancel).unwrap();
            }
            87..=97 => {
                let before: usize = sequences.values().map(|ours| ours.outcomes.len()).sum();
                let outstanding: usize = sequences.values().map(|ours| ours.sent.len()).sum::<usize>() - before;
                let wanted = before + dice.roll(1 + outstanding as u64) as usize;
                take(&mut connection, &mut sequences, |sequences| {
                    sequences.values().map(|ours| ours.outcomes.len()).sum::<usize>() >= wanted
                });
            }
            _ => {
                connection.break_off();
                connection = stream(&node);
                for (name, ours) in &mut sequences {
                    ours.attached = false;
                    connection
                        .resume(name, &ours.token, ours.outcomes.len() as u64)
                        .unwrap();
                }
                take(&mut connection, &mut sequences, |sequences| {
                    sequences.values().all(|ours| ours.attached)
                });
            }
        }
    }
    take(&mut connection, &mut sequences, |sequences| {
        sequences.values().all(|ours| ours.outcomes.len() == ours.sent.len())
    });
    let mut ran = 0;
    for (name, ours) in &sequences {
        let mut alone = 0.0;
        for (number, (x, outcome)) in ours.sent.iter().zip(&ours.outcomes).enumerate() {
            if let Some(outcome) = outcome {
                alone = next_state(alone, *x);
                assert_eq!(*outcome, alone, "sequence {name}, message {}", number + 1);
                ran += 1;
            }
        }
    }
    assert!(ran > 1000, "most messages ran: {ran}");
    let stacked = node.script.runs().iter().filter(|run| run.len() > 1).count();
    assert!(stacked > 0, "steps of different sequences run together");
}

#[test]
fn an_instance_that_crashes_costs_a_sequence_nothing_of_its_past() {
    let node = stateful("", "");
    let mut connection = stream(&node);
    connection.start("a").unwrap();
    connection.message("a", 1, 5.0).unwrap();
    assert_eq!(y(&connection.receive().unwrap()), Some(5.0));
    let id = ModelId {
        name: "m".parse().unwrap(),
        version: 1,
    };
    for instance in 0..2 {
        let find = FindShard {
            id: id.clone(),
            instance,
        };
        node.find_shard(find).expect("it is there").do_send(Crash);
    }
    connection.message("a", 2, 7.0).unwrap();
    assert_eq!(y(&connection.receive().unwrap()), Some(next_state(5.0, 7.0)));
}

#[test]
fn a_cancelled_request_and_those_of_a_broken_connection_are_never_computed() {
    let node = EmbeddedNode::start(Repository::default().with("m", ONE, GATED), "");
    let mut staying = stream(&node);
    staying.infer("running", 1.0).unwrap();
    eventually("the first request is at the gate", || node.script.at_gate() == 1);
    let mut leaving = stream(&node);
    for x in [11.0, 12.0, 13.0] {
        leaving.infer(&x.to_string(), x).unwrap();
    }
    staying.infer("taken back", 2.0).unwrap();
    staying.infer("stays", 3.0).unwrap();
    eventually("five wait", || waiting(&node) == 5);
    leaving.break_off();
    staying.send(&json!({"type": "cancel", "id": "taken back"})).unwrap();
    let cancelled = staying.receive().unwrap();
    assert_eq!(
        (&cancelled["id"], &cancelled["kind"]),
        (&json!("taken back"), &json!("cancelled"))
    );
    eventually("the departure is noticed", || node.node.requests() == 2);
    node.script.open_gate();
    for (id, expected) in [("running", 2.0), ("stays", 6.0)] {
        let answer = staying.receive().unwrap();
        assert_eq!(
            (answer["id"].as_str(), y(&answer)),
            (Some(id), Some(expected)),
            "{answer}"
        );
    }
    assert_eq!(node.script.runs(), [[1.0], [3.0]]);
}

#[test]
fn outputs_of_a_model_of_several_steps_are_numbered_and_the_last_says_so() {
    let node = EmbeddedNode::start(Repository::default().with("m", ONE, "steps = 1"), "");
    let mut connection = stream(&node);
    connection.infer("three", 3.0).unwrap();
    let outputs: Vec<_> = (0..3).map(|_| connection.receive().unwrap()).collect();
    let told = |message: &Value| (message["number"].as_u64(), message["final"].as_bool(), y(message));
    let expected = [
        (Some(1), Some(false), Some(2.0)),
        (Some(2), Some(false), Some(4.0)),
        (Some(3), Some(true), Some(6.0)),
    ];
    assert_eq!(outputs.iter().map(told).collect::<Vec<_>>(), expected);
}

#[test]
fn messages_that_found_no_place_come_back_in_order_and_may_be_sent_again() {
    let manifest = format!("instances = 1\n{MANIFEST_OF_STATE}");
    let models = Repository::default().with("m", &manifest, "state = 1\ngated = 1");
    let node = EmbeddedNode::start(models, "limits.queue = 1");
    // One request runs and one waits, so that there is no place.
    let first = node.infer_later("m", 1.0);
    eventually("the first request is at the gate", || node.script.at_gate() == 1);
    let second = node.infer_later("m", 2.0);
    eventually("the second waits", || waiting(&node) == 1);
    let mut connection = stream(&node);
    connection.start("a").unwrap();
    for number in 1..=3 {
        connection.message("a", number, number as f32).unwrap();
    }
    // The first is refused with all that wait behind it, or each on its own, as it comes.
    let mut refused = Vec::new();
    while refused.len() < 3 {
        let message = connection.receive().unwrap();
        assert_eq!(message["sequence_outcome"], false, "{message}");
        assert!(
            message["kind"] == "overloaded" || message["kind"] == "sequence_out_of_order",
            "{message}"
        );
        refused.push(message["sequence_number"].as_u64().unwrap());
    }
    refused.sort_unstable();
    assert_eq!(refused, [1, 2, 3]);
    node.script.open_gate();
    assert!(first.join().unwrap().is_ok() && second.join().unwrap().is_ok());
    let mut state = 0.0;
    for number in 1..=3 {
        connection.message("a", number, number as f32).unwrap();
        state = next_state(state, number as f32);
        assert_eq!(y(&connection.receive().unwrap()), Some(state));
    }
}

#[test]
fn sequences_are_counted_in_the_budget_and_given_back_when_they_have_ended_or_expired() {
    let node = stateful("", "sequences.life = '200ms'\nsequences.max = 3");
    let reserved = || node.node.memory().1;
    let before = reserved();
    let mut connection = stream(&node);
    for name in ["a", "b", "c"] {
        connection.start(name).unwrap();
    }
    assert!(reserved() >= before + 3 * 4096);
    connection.send(&json!({"type": "start", "sequence_id": "d"})).unwrap();
    let refused = connection.receive().unwrap();
    assert_eq!(
        (&refused["kind"], &refused["sequence_id"]),
        (&json!("overloaded"), &json!("d"))
    );
    connection.send(&json!({"type": "end", "sequence_id": "a"})).unwrap();
    let ended = connection.receive().unwrap();
    assert_eq!((&ended["type"], &ended["last"]), (&json!("ended"), &json!(0)));
    connection.start("d").unwrap();
    connection.break_off();
    eventually("the memory is given back", || reserved() == before);
    let gone = infer(node.address(), "m", &[1.0], &json!({"sequence_id": "b"})).unwrap();
    assert!([404, 410].contains(&gone.status), "{gone:?}");
}

#[test]
fn a_node_that_drains_answers_what_it_accepted_and_says_goodbye() {
    let node = EmbeddedNode::start(Repository::default().with("m", ONE, GATED), "");
    let mut connection = stream(&node);
    let mut idle = stream(&node);
    connection.infer("last", 4.0).unwrap();
    eventually("it is at the gate", || node.script.at_gate() == 1);
    let script = node.script.clone();
    let stopping = std::thread::spawn(move || node.node.stop());
    assert!(matches!(idle.receive(), Err(StreamError::Closed(1001))));
    script.open_gate();
    assert_eq!(y(&connection.receive().unwrap()), Some(8.0));
    assert!(matches!(connection.receive(), Err(StreamError::Closed(1001))));
    stopping.join().unwrap();
}

#[test]
fn a_connection_with_nothing_to_do_is_closed_after_its_time_and_a_busy_one_is_not() {
    let models = Repository::default().with("m", ONE, GATED);
    let node = EmbeddedNode::start(models, "websocket.idle_timeout = '300ms'");
    let mut busy = stream(&node);
    busy.infer("busy", 1.0).unwrap();
    eventually("it is at the gate", || node.script.at_gate() == 1);
    let mut idle = stream(&node);
    assert!(matches!(idle.receive(), Err(StreamError::Closed(4000))));
    node.script.open_gate();
    assert_eq!(y(&busy.receive().unwrap()), Some(2.0));
}

#[test]
fn callers_go_on_where_a_reader_has_left_however_many_messages_they_send() {
    let node = stateful("", "sequences.window = 4");
    let mut connection = stream(&node);
    let token = connection.start("a").unwrap();
    connection.message("a", 1, 1.0).unwrap();
    let mut state = next_state(0.0, 1.0);
    assert_eq!(y(&connection.receive().unwrap()), Some(state));
    connection.break_off();
    for number in 2..=20 {
        let parameters = json!({"sequence_id": "a", "sequence_number": number, "sequence_token": token});
        let answer = infer(node.address(), "m", &[number as f32], &parameters).unwrap();
        state = next_state(state, number as f32);
        assert_eq!(
            grid_tests::embedded::y(&answer),
            Some(f64::from(state)),
            "message {number}: {answer:?}"
        );
    }
    let refused = infer(node.address(), "m", &[1.0], &json!({"sequence_id": "a"})).unwrap();
    assert_eq!(
        refused.status, 403,
        "it was started over WebSocket, and the token is missing"
    );
}

#[test]
fn a_sequence_that_nobody_comes_back_for_expires_though_messages_wait_in_it() {
    let node = stateful("", "sequences.window = 4\nsequences.life = '300ms'");
    let reserved = || node.node.memory().1;
    let before = reserved();
    let mut connection = stream(&node);
    let token = connection.start("a").unwrap();
    for number in 1..=4 {
        connection.message("a", number, 1.0).unwrap();
    }
    connection.break_off();
    // Nobody reads the four outcomes, so that these wait for the window.
    let callers: Vec<_> = (5..=7)
        .map(|number| {
            let parameters = json!({"sequence_id": "a", "sequence_number": number, "sequence_token": token.clone()});
            node.infer_later_with("m", &[1.0], parameters)
        })
        .collect();
    for caller in callers {
        // They come in any order, so that some are refused; none waits for ever.
        let status = caller.join().unwrap().unwrap().status;
        assert!([200, 409, 410].contains(&status), "{status}");
    }
    eventually("the memory is given back", || reserved() == before);
}

#[test]
fn messages_behind_the_last_one_are_each_refused() {
    let node = stateful("", "");
    for round in 0..20 {
        let name = format!("round {round}");
        let mut connection = stream(&node);
        let token = connection.start(&name).unwrap();
        connection.break_off();
        // Resumed elsewhere, its actor is often on another thread than the connection.
        let mut connection = stream(&node);
        connection.resume(&name, &token, 0).unwrap();
        assert_eq!(connection.receive().unwrap()["type"], "resumed");
        for id in 0..30 {
            let input = json!({"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]});
            let parameters = json!({"sequence_id": name, "sequence_end": id == 0});
            let message = json!({"id": id.to_string(), "inputs": [input], "parameters": parameters});
            connection.send(&message).unwrap();
        }
        let mut answered = std::collections::BTreeSet::new();
        let mut outputs = 0;
        while answered.len() < 30 {
            let message = connection.receive().unwrap();
            if let Some(id) = message["id"].as_str() {
                assert!(answered.insert(id.to_owned()), "answered twice: {message}");
                outputs += usize::from(message["type"] == "output");
                assert!(
                    message["type"] == "output" || message["sequence_outcome"] == false,
                    "{message}"
                );
            }
        }
        assert_eq!(outputs, 1);
    }
}

#[test]
fn those_that_live_are_counted_right_whatever_starts_and_ends_at_once() {
    let node = stateful("", "sequences.max = 8");
    let address = node.address();
    let mut connection = stream(&node);
    for name in ["a", "b", "c"] {
        connection.start(name).unwrap();
    }
    let callers: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn(move || {
                for _ in 0..100 {
                    let parameters = json!({"sequence_id": "same", "sequence_start": true, "sequence_end": true});
                    infer(address, "m", &[1.0], &parameters).expect("it is answered");
                }
            })
        })
        .collect();
    for caller in callers {
        caller.join().expect("every call is answered");
    }
    // Three live, and all but five of the places are free, no more and no less.
    for index in 0..5 {
        connection.start(&format!("more {index}")).unwrap();
    }
    connection
        .send(&json!({"type": "start", "sequence_id": "one too many"}))
        .unwrap();
    assert_eq!(connection.receive().unwrap()["kind"], "overloaded");
}

#[test]
fn what_waits_in_a_sequence_is_counted_in_the_budget_and_refused_where_that_is_full() {
    let manifest = format!("instances = 1\n{MANIFEST_OF_STATE}");
    let models = Repository::default().with("m", &manifest, "state = 1\ngated = 1");
    // A quarter of it is for what is not a model.
    let node = EmbeddedNode::start(models, "memory.budget = '16MiB'");
    let mut connection = stream(&node);
    connection.start("a").unwrap();
    let (mut sent, mut refused) = (0u64, None);
    while refused.is_none() && sent < 200 {
        sent += 1;
        let x: Vec<f32> = vec![1.0; 20_000];
        let input = json!({"name": "x", "shape": [20_000], "datatype": "FP32", "data": x});
        let parameters = json!({"sequence_id": "a", "sequence_number": sent});
        connection
            .send(&json!({"inputs": [input], "parameters": parameters}))
            .unwrap();
        if sent > 60 {
            refused = Some(connection.receive().unwrap());
        }
        assert!(node.node.memory().1 <= 16 << 20);
    }
    let refused = refused.expect("it is refused in the end");
    assert_eq!(refused["kind"], "overloaded", "{refused}");
    node.script.open_gate();
}

#[test]
fn an_ended_sequence_whose_name_is_asked_for_in_vain_is_forgotten_in_its_time() {
    let node = stateful("", "sequences.life = '200ms'\nsequences.max = 1");
    let reserved = || node.node.memory().1;
    let before = reserved();
    let mut connection = stream(&node);
    connection.start("a").unwrap();
    connection.send(&json!({"type": "end", "sequence_id": "a"})).unwrap();
    assert_eq!(connection.receive().unwrap()["type"], "ended");
    connection.start("b").unwrap();
    connection.send(&json!({"type": "start", "sequence_id": "a"})).unwrap();
    assert_eq!(connection.receive().unwrap()["kind"], "overloaded");
    connection.break_off();
    eventually("the memory of both is given back", || reserved() == before);
}
