//! Sequences on nodes that answer from a script.

use std::sync::Arc;

use grid_core::InferError;
use grid_core::sequence::SequenceError;
use grid_core::wire::call::{Call, Reply, SequenceCall};
use grid_core::wire::message;
use parking_lot::Mutex;
use tokio::time::timeout;

use super::*;
use crate::client::tests::fake::{FakeGrid, FakeNode, Said, model as forest};
use crate::client::tests::{LONG, client_of, input, tensor};

/// The messages that a node got.
type Log = Arc<Mutex<Vec<SequenceCall>>>;

/// A node that answers the messages of sequences by its script, which is told how many came before.
async fn node(
    grid: &Arc<FakeGrid>,
    name: &str,
    script: impl Fn(&SequenceCall, usize) -> Said + Send + Sync + 'static,
) -> (FakeNode, Log) {
    let log = Log::default();
    let logged = Arc::clone(&log);
    let answering = move |call| {
        let Call::Sequence(call) = call else { panic!("{call:?}") };
        let before = logged.lock().len();
        logged.lock().push(call.clone());
        script(&call, before)
    };
    (FakeNode::start(grid, name, answering).await, log)
}

/// Answers with the message's number as `y`.
fn told(call: &SequenceCall, durable: u64) -> Said {
    let outputs = vec![tensor(&[call.number as f32])];
    let told = Reply::Told {
        number: call.number,
        durable,
        token: call.start.then_some(call.token).flatten(),
        names: vec!["y".to_owned()],
        outputs: Ok(message::lay_out(&outputs).0),
    };
    Said::Replies(vec![(told, outputs)])
}

fn refused(call: &SequenceCall, error: SequenceError) -> Said {
    Said::failed(InferError::Sequence {
        id: call.id.clone(),
        error,
    })
}

fn numbers(log: &Log) -> Vec<u64> {
    log.lock().iter().map(|call| call.number).collect()
}

async fn start(nodes: &[&FakeNode], options: SequenceOptions) -> SequenceStream {
    let model = client_of(nodes).await.model("forest").await.unwrap();
    model.sequence("s").options(options).start().await.unwrap()
}

/// Sends a message and takes its outcome.
async fn step(stream: &mut SequenceStream) -> Result<Outcome, ClientError> {
    let number = stream.send(input(0.0)).await?;
    let outcome = timeout(LONG, stream.next()).await.unwrap().unwrap()?;
    assert_eq!(outcome.number, number);
    let outputs = outcome.outputs.as_ref().unwrap();
    assert_eq!(outputs.get("y").unwrap().values::<f32>(), Some(&[number as f32][..]));
    Ok(outcome)
}

#[tokio::test]
async fn messages_are_numbered_from_one_and_their_outcomes_come_in_order() {
    let grid = FakeGrid::new();
    let (a, log) = node(&grid, "a", |call, _| told(call, call.number)).await;
    grid.ready(&[&a]);
    let mut stream = start(&[&a], SequenceOptions::default()).await;
    for number in 1..=3 {
        assert_eq!(stream.send(input(0.0)).await, Ok(number));
    }
    assert_eq!(stream.send_last(input(0.0)).await, Ok(4));
    assert_eq!(stream.send(input(0.0)).await, Err(ClientError::SequenceOver));
    let mut outcomes = Vec::new();
    while let Some(outcome) = timeout(LONG, stream.next()).await.unwrap() {
        outcomes.push(outcome.unwrap().number);
    }
    assert_eq!(outcomes, [1, 2, 3, 4]);
    assert_eq!(stream.place().next, 5);
    let log = log.lock();
    let token = log[0].token;
    assert!(token.is_some() && log.iter().all(|call| call.token == token && call.version == Some(1)));
    let flags: Vec<_> = log.iter().map(|call| (call.start, call.end)).collect();
    assert_eq!(flags, [(true, false), (false, false), (false, false), (false, true)]);
}

#[tokio::test]
async fn a_node_that_takes_over_is_sent_again_what_was_not_durable() {
    let grid = FakeGrid::new();
    let (a, of_a) = node(&grid, "a", |call, _| match call.number {
        4 => Said::Dies,
        _ => told(call, 1),
    })
    .await;
    let (b, of_b) = node(&grid, "b", |call, before| match before {
        0 => {
            let (expected, found) = (2, call.number);
            refused(call, SequenceError::OutOfOrder { expected, found })
        }
        _ => told(call, 2),
    })
    .await;
    grid.ready(&[&a]);
    let mut stream = start(&[&b], SequenceOptions::default()).await;
    for _ in 1..=5 {
        step(&mut stream).await.unwrap();
    }
    assert_eq!(numbers(&of_a), [1, 2, 3, 4]);
    assert_eq!(numbers(&of_b), [4, 2, 3, 4, 5]);
    assert!(
        of_b.lock()
            .iter()
            .all(|call| call.token == of_a.lock()[0].token && !call.start)
    );
}

#[tokio::test]
async fn a_sequence_that_nobody_has_any_more_is_started_over_while_all_its_messages_are_kept() {
    let grid = FakeGrid::new();
    let (a, _) = node(&grid, "a", |call, before| match before {
        // As if it had been started anew behind message 2.
        2 => refused(call, SequenceError::Unknown),
        _ => told(call, 0),
    })
    .await;
    grid.ready(&[&a]);
    let mut stream = start(&[&a], SequenceOptions::default()).await;
    for _ in 1..=4 {
        step(&mut stream).await.unwrap();
    }
}

#[tokio::test]
async fn a_node_that_wants_a_message_that_is_not_kept_ends_the_sequence_with_a_clear_error() {
    let grid = FakeGrid::new();
    let (a, _) = node(&grid, "a", |call, _| match call.number {
        3 => refused(call, SequenceError::OutOfOrder { expected: 1, found: 3 }),
        number => told(call, number),
    })
    .await;
    grid.ready(&[&a]);
    let mut stream = start(&[&a], SequenceOptions::default()).await;
    step(&mut stream).await.unwrap();
    step(&mut stream).await.unwrap();
    let error = step(&mut stream).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "sequence `s`: a node goes on from message 1, and messages are kept from 3 on"
    );
    assert!(timeout(LONG, stream.next()).await.unwrap().is_none());
    assert_eq!(stream.place().next, 3);
}

#[tokio::test]
async fn a_sender_is_held_up_while_as_many_messages_as_may_are_not_durable() {
    let grid = FakeGrid::new();
    let (a, log) = node(&grid, "a", |call, before| match before {
        0..=3 => told(call, 0),
        _ => told(call, call.number),
    })
    .await;
    grid.ready(&[&a]);
    let options = SequenceOptions {
        keep: 2,
        ..SequenceOptions::default()
    };
    let mut stream = start(&[&a], options).await;
    for _ in 1..=3 {
        step(&mut stream).await.unwrap();
    }
    // The last one was asked for again until it was durable.
    assert_eq!(numbers(&log), [1, 2, 2, 2, 2, 3]);
}

#[tokio::test]
async fn a_start_whose_answer_was_lost_goes_on_as_what_it_is() {
    let grid = FakeGrid::new();
    let (a, log) = node(&grid, "a", |call, before| match before {
        // Taken, and the answer lost.
        0 => Said::Kept(Box::new(drop)),
        _ => told(call, call.number),
    })
    .await;
    grid.ready(&[&a]);
    let mut stream = start(&[&a], SequenceOptions::default()).await;
    step(&mut stream).await.unwrap();
    step(&mut stream).await.unwrap();
    assert_eq!(numbers(&log), [1, 1, 2]);
    assert!(!log.lock()[1].start, "it would begin anew where it has run");
}

#[tokio::test]
async fn a_start_whose_answer_was_lost_and_that_no_node_has_is_sent_again() {
    let grid = FakeGrid::new();
    let (a, log) = node(&grid, "a", |call, before| match before {
        0 => Said::Kept(Box::new(drop)),
        _ if !call.start && call.number == 1 => refused(call, SequenceError::Unknown),
        _ => told(call, call.number),
    })
    .await;
    grid.ready(&[&a]);
    let mut stream = start(&[&a], SequenceOptions::default()).await;
    step(&mut stream).await.unwrap();
    step(&mut stream).await.unwrap();
    let starts: Vec<_> = log.lock().iter().map(|call| (call.number, call.start)).collect();
    assert_eq!(starts, [(1, true), (1, false), (1, true), (2, false)]);
}

#[tokio::test]
async fn a_message_whose_time_at_a_node_is_over_is_asked_for_again_by_its_number() {
    let grid = FakeGrid::new();
    let (a, log) = node(&grid, "a", |call, before| match before {
        1 => Said::failed(InferError::DeadlineExceeded {
            model: forest(1),
            timeout: Duration::from_secs(1),
        }),
        _ => told(call, call.number),
    })
    .await;
    grid.ready(&[&a]);
    let mut stream = start(&[&a], SequenceOptions::default()).await;
    for _ in 1..=3 {
        step(&mut stream).await.unwrap();
    }
    assert_eq!(numbers(&log), [1, 2, 2, 3]);
}

#[tokio::test]
async fn a_sequence_that_every_node_has_forgotten_ends_with_that_word_and_not_at_the_first_one() {
    let grid = FakeGrid::new();
    let (a, log) = node(&grid, "a", |call, before| match before {
        // A node that has just started, until it hears of the one that has the sequence.
        2..=4 => refused(call, SequenceError::Unknown),
        0..=5 => told(call, call.number),
        _ => Said::failed(InferError::NotFound("no such model".to_owned())),
    })
    .await;
    grid.ready(&[&a]);
    let options = crate::ClientOptions {
        // So that what is refused three times lies within it.
        unknown_model: Duration::from_secs(2),
        ..crate::client::tests::fake::options()
    };
    let client = crate::GridClient::connect([a.at.to_string()], options).await.unwrap();
    let model = client.model("forest").await.unwrap();
    let mut stream = model.sequence("s").start().await.unwrap();
    for _ in 1..=3 {
        step(&mut stream).await.unwrap();
    }
    assert_eq!(numbers(&log), [1, 2, 3, 3, 3, 3]);
    let error = step(&mut stream).await.unwrap_err();
    assert_eq!(
        error,
        ClientError::Infer(InferError::NotFound("no such model".to_owned()))
    );
    assert_eq!(stream.place().next, 4);
}

#[tokio::test]
async fn a_home_that_was_fenced_off_is_left_for_the_node_that_has_the_sequence() {
    let grid = FakeGrid::new();
    let (a, of_a) = node(&grid, "a", |call, _| match call.number {
        1 => told(call, 1),
        _ => refused(call, SequenceError::Fenced),
    })
    .await;
    let (b, of_b) = node(&grid, "b", |call, _| told(call, call.number)).await;
    grid.ready(&[&a]);
    let mut stream = start(&[&b], SequenceOptions::default()).await;
    for _ in 1..=3 {
        step(&mut stream).await.unwrap();
    }
    // It may be asked more than once until the link to the other one is open.
    assert_eq!(numbers(&of_a)[..2], [1, 2]);
    assert_eq!(numbers(&of_b), [2, 3]);
}

#[tokio::test]
async fn one_of_another_client_is_not_taken_over() {
    let grid = FakeGrid::new();
    let (a, _) = node(&grid, "a", |call, _| refused(call, SequenceError::Exists)).await;
    grid.ready(&[&a]);
    let mut stream = start(&[&a], SequenceOptions::default()).await;
    let error = step(&mut stream).await.unwrap_err();
    assert_eq!(error.kind(), "sequence_exists", "{error}");
}

#[tokio::test]
async fn a_message_that_nobody_takes_in_time_ends_the_sequence_which_can_be_resumed() {
    let grid = FakeGrid::new();
    let is_lost = Arc::new(Mutex::new(false));
    let lost = Arc::clone(&is_lost);
    let (a, log) = node(&grid, "a", move |call, _| match *lost.lock() {
        true => refused(call, SequenceError::UnderWay(call.number)),
        false => told(call, call.number),
    })
    .await;
    grid.ready(&[&a]);
    let model = client_of(&[&a]).await.model("forest").await.unwrap();
    let mut stream = model.sequence("s").start().await.unwrap();
    step(&mut stream).await.unwrap();
    let place = stream.place();
    drop(stream);
    *is_lost.lock() = true;
    let options = SequenceOptions {
        timeout: Some(Duration::from_millis(200)),
        ..SequenceOptions::default()
    };
    let mut stream = model.sequence("s").options(options).resume(place).await.unwrap();
    let error = step(&mut stream).await.unwrap_err();
    assert!(
        matches!(error, ClientError::SequenceStalled { number: 2, .. }),
        "{error}"
    );
    assert_eq!(stream.place(), place);
    *is_lost.lock() = false;
    let mut stream = model.sequence("s").resume(place).await.unwrap();
    step(&mut stream).await.unwrap();
    assert!(log.lock().iter().all(|call| call.token == Some(place.token)));
}

#[tokio::test]
async fn a_grid_that_serves_no_sequences_says_so_at_once() {
    let grid = FakeGrid::new();
    let refuse = |_: &SequenceCall, _| Said::only(Reply::Refused("not over the mesh".to_owned()));
    let (a, _) = node(&grid, "a", refuse).await;
    let (b, _) = node(&grid, "b", refuse).await;
    grid.ready(&[&a, &b]);
    let mut stream = start(&[&a], SequenceOptions::default()).await;
    let error = step(&mut stream).await.unwrap_err();
    assert!(error.to_string().ends_with("not over the mesh"), "{error}");
    assert!(!error.can_retry());
}

#[tokio::test]
async fn a_message_that_failed_is_an_outcome_like_others() {
    let grid = FakeGrid::new();
    let (a, _) = node(&grid, "a", |call, _| {
        Said::only(Reply::Told {
            number: call.number,
            durable: call.number,
            token: None,
            names: Vec::new(),
            outputs: Err(InferError::Cancelled),
        })
    })
    .await;
    grid.ready(&[&a]);
    let mut stream = start(&[&a], SequenceOptions::default()).await;
    for number in 1..=2 {
        stream.send(input(0.0)).await.unwrap();
        let outcome = timeout(LONG, stream.next()).await.unwrap().unwrap().unwrap();
        assert_eq!((outcome.number, outcome.outputs), (number, Err(InferError::Cancelled)));
    }
}
