use proptest::prelude::*;

use super::*;

mod takeover;

/// The model: the state is the text of all messages that ran, and each outcome shows it.
type Sut = Sequence<u32, String, String>;

const LIMITS: Limits = Limits {
    window: 4,
    window_bytes: 1000,
};

fn token() -> Token {
    Token::new(42)
}

fn started() -> (Sut, u64) {
    let mut sequence = Sut::start(token(), String::new(), LIMITS);
    let epoch = sequence.attach(&token(), 0).unwrap().epoch;
    (sequence, epoch)
}

#[track_caller]
fn accept(sequence: &mut Sut, number: Option<u64>, message: u32, ends: bool) {
    let offered = sequence.offer(number, message, ends);
    assert!(matches!(offered, Offered::Accepted(_)), "{offered:?}");
}

/// Runs the message whose turn it is.
fn run(sequence: &mut Sut) -> Option<u64> {
    match sequence.next_step()? {
        Step::Run { number, message, state } => {
            let state = format!("{state}/{message}");
            let (outcome, bytes) = (state.clone(), state.len());
            assert!(sequence.step_ended(StepEnd::Done { state, outcome, bytes }).is_empty());
            Some(number)
        }
        Step::Cancelled { number, .. } => {
            over(sequence, "cancelled");
            Some(number)
        }
    }
}

fn over(sequence: &mut Sut, outcome: &str) {
    let outcome = outcome.to_owned();
    sequence.step_ended(StepEnd::Over { outcome, bytes: 9 });
}

#[test]
fn a_reader_that_comes_back_gets_what_it_lacks_and_the_one_before_is_fenced() {
    let (mut sequence, first) = started();
    for message in 1..=3 {
        accept(&mut sequence, Some(message), message as u32, false);
    }
    run(&mut sequence);
    assert_eq!(sequence.deliver(), [(1, "/1".to_owned())]);
    assert!(sequence.detach(first));
    run(&mut sequence);
    sequence.made_durable(2);
    assert_eq!(sequence.deliver(), [], "nobody reads");
    assert_eq!(sequence.attach(&Token::new(1), 1), Err(SequenceError::WrongToken));
    assert_eq!(sequence.attach(&token(), 3), Err(SequenceError::Ahead { last: 2 }));
    let again = sequence.attach(&token(), 1).unwrap();
    assert_eq!((again.next, again.durable), (4, 2));
    assert_eq!(sequence.check(first), Err(SequenceError::Fenced));
    assert_eq!(sequence.check(again.epoch), Ok(()));
    assert!(!sequence.detach(first), "a stale reader detaches nobody");
    assert_eq!(sequence.deliver(), [(2, "/1/2".to_owned())]);
}

#[test]
fn numbers_are_taken_in_order_and_a_repeated_one_has_its_outcome_again() {
    let (mut sequence, _) = started();
    assert_eq!(
        sequence.offer(Some(2), 2, false),
        Offered::Refused(SequenceError::OutOfOrder { expected: 1, found: 2 }, 2)
    );
    assert_eq!(sequence.offer(None, 1, false), Offered::Accepted(1));
    assert_eq!(
        sequence.offer(Some(1), 1, false),
        Offered::Refused(SequenceError::UnderWay(1), 1)
    );
    run(&mut sequence);
    assert_eq!(
        sequence.offer(Some(1), 9, false),
        Offered::Repeated(1, "/1".to_owned(), 9)
    );
    sequence.deliver();
    sequence.acknowledge(1);
    assert_eq!(
        sequence.offer(Some(1), 9, false),
        Offered::Refused(SequenceError::Gap { oldest: 2 }, 9)
    );
    assert_eq!(
        sequence.offer(Some(0), 9, false),
        Offered::Refused(SequenceError::Gap { oldest: 2 }, 9)
    );
}

#[test]
fn what_did_not_run_comes_back_with_all_behind_it_and_their_numbers_are_free() {
    let (mut sequence, _) = started();
    for message in 1..=3 {
        accept(&mut sequence, None, message, message == 3);
    }
    run(&mut sequence);
    let Some(Step::Run { number: 2, message, .. }) = sequence.next_step() else {
        panic!("the second message has its turn");
    };
    assert_eq!(sequence.step_ended(StepEnd::NotRun(message)), [2, 3]);
    assert!(!sequence.has_ended());
    assert_eq!(sequence.offer(Some(2), 2, false), Offered::Accepted(2));
}

#[test]
fn without_a_reader_no_more_is_computed_than_is_kept() {
    let (mut sequence, epoch) = started();
    sequence.detach(epoch);
    for message in 1..=4 {
        accept(&mut sequence, None, message, false);
        run(&mut sequence);
    }
    accept(&mut sequence, None, 5, false);
    assert_eq!(run(&mut sequence), None);
    sequence.attach(&token(), 0).unwrap();
    assert_eq!(sequence.deliver().len(), 4);
    assert_eq!(run(&mut sequence), Some(5));
    sequence.deliver();
    assert_eq!(sequence.attach(&token(), 0), Err(SequenceError::Gap { oldest: 2 }));
}

#[test]
fn what_is_kept_is_bounded_in_bytes() {
    let mut sequence = Sut::start(
        token(),
        String::new(),
        Limits {
            window: 100,
            window_bytes: 8,
        },
    );
    sequence.attach(&token(), 0).unwrap();
    for message in 1..=5 {
        accept(&mut sequence, None, message, false);
        run(&mut sequence);
        sequence.deliver();
        assert!(
            sequence.kept_bytes() <= 8 || sequence.kept.len() == 1,
            "the newest one stays"
        );
    }
}

#[test]
fn ending_and_resuming_twice_is_harmless() {
    let (mut sequence, _) = started();
    accept(&mut sequence, None, 1, false);
    assert_eq!(sequence.end(), 1);
    assert_eq!(sequence.end(), 1);
    assert_eq!(
        sequence.offer(None, 2, false),
        Offered::Refused(SequenceError::Ended { last: 1 }, 2)
    );
    assert!(!sequence.has_ended());
    run(&mut sequence);
    assert!(sequence.has_ended());
    let tombstone = sequence.into_tombstone();
    for _ in 0..2 {
        assert_eq!(tombstone.resume(&token(), 0).unwrap(), [(1, "/1".to_owned())]);
        assert_eq!(tombstone.resume(&token(), 1).unwrap(), []);
    }
    assert_eq!(tombstone.resume(&token(), 2), Err(SequenceError::Ahead { last: 1 }));
    assert_eq!(tombstone.resume(&Token::new(0), 0), Err(SequenceError::WrongToken));
    assert_eq!(tombstone.error(), SequenceError::Ended { last: 1 });
}

#[derive(Clone, Debug)]
enum Event {
    Offer,
    /// With a number that is not the next one.
    OfferAgain(u64),
    Begin,
    Finish,
    Fail,
    Refuse,
    Cancel(u64),
    Lose,
    Resume,
    Acknowledge,
    Move,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => Just(Event::Offer),
        1 => (0u64..20).prop_map(Event::OfferAgain),
        6 => Just(Event::Begin),
        6 => Just(Event::Finish),
        1 => Just(Event::Fail),
        1 => Just(Event::Refuse),
        1 => (0u64..20).prop_map(Event::Cancel),
        1 => Just(Event::Lose),
        2 => Just(Event::Resume),
        1 => Just(Event::Acknowledge),
        1 => Just(Event::Move),
    ];
    prop::collection::vec(event, 0..200)
}

proptest! {
    /// A client that numbers its messages, keeps to the window and resumes by the last outcome it has: whatever happens, it
    /// gets one outcome for each number, in order, and those that ran are the model's run alone over them.
    #[test]
    fn whatever_happens_each_number_has_one_outcome_and_the_state_is_the_fold_of_those_that_ran(events in events()) {
        let (mut sequence, mut epoch) = started();
        // The client's side: what it sent last, what it received.
        let (mut sent, mut received) = (0u64, Vec::<String>::new());
        let mut connected = true;
        // The runtime's side.
        let mut at_work: Option<(u64, u32, String)> = None;
        for event in events {
            match event {
                Event::Offer if connected && sent < received.len() as u64 + LIMITS.window as u64 => {
                    let offered = sequence.offer(Some(sent + 1), (sent + 1) as u32, false);
                    prop_assert_eq!(offered, Offered::Accepted(sent + 1));
                    sent += 1;
                }
                Event::OfferAgain(number) if connected && number != sequence.next() => {
                    let before = sequence.next();
                    let _ = sequence.offer(Some(number), 999, false);
                    prop_assert_eq!(sequence.next(), before);
                }
                Event::Begin if at_work.is_none() => match sequence.next_step() {
                    Some(Step::Run { number, message, state }) => at_work = Some((number, message, state)),
                    Some(Step::Cancelled { .. }) => over(&mut sequence, "cancelled"),
                    None => {}
                },
                Event::Finish => if let Some((_, message, state)) = at_work.take() {
                    let state = format!("{state}/{message}");
                    let (outcome, bytes) = (state.clone(), 10);
                    sequence.step_ended(StepEnd::Done { state, outcome, bytes });
                },
                Event::Fail if at_work.take().is_some() => over(&mut sequence, "failed"),
                Event::Refuse => if let Some((number, message, _)) = at_work.take() {
                    let back = sequence.step_ended(StepEnd::NotRun(message));
                    prop_assert_eq!(back.len() as u64, sent - number + 1);
                    sent = number - 1;
                },
                Event::Cancel(number) if sequence.cancel(number) == Cancelled::Running => {
                    at_work = None;
                    over(&mut sequence, "cancelled");
                }
                Event::Lose => {
                    connected = false;
                    sequence.detach(epoch);
                }
                Event::Resume => {
                    let attached = sequence.attach(&token(), received.len() as u64);
                    prop_assert!(attached.is_ok(), "{attached:?}");
                    let attached = attached.unwrap();
                    prop_assert!(attached.epoch > epoch);
                    epoch = attached.epoch;
                    sent = attached.next - 1;
                    connected = true;
                }
                Event::Acknowledge => sequence.acknowledge(received.len() as u64),
                Event::Move => if let Some(export) = sequence.export() {
                    sequence = Sut::import(export, LIMITS);
                    connected = false;
                },
                _ => {}
            }
            for (number, outcome) in sequence.deliver() {
                prop_assert_eq!(number, received.len() as u64 + 1, "no gap and no repeat");
                received.push(outcome);
            }
        }
        let mut alone = String::new();
        for (index, outcome) in received.iter().enumerate() {
            if outcome.starts_with('/') {
                alone = format!("{alone}/{}", index + 1);
                prop_assert_eq!(outcome, &alone);
            }
        }
        prop_assert!(sequence.kept.len() <= 2 * LIMITS.window);
    }
}
