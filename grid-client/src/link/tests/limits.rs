use grid_core::wire::credit::WINDOW;

use super::*;

fn with(change: impl FnOnce(&mut Limits)) -> LinkOptions {
    let mut options = options();
    change(&mut options.limits);
    options
}

#[tokio::test]
async fn more_exchanges_than_allowed_are_refused_as_busy() {
    let kept = Kept::default();
    let right = with(|limits| limits.max_exchanges = 2);
    let ends = pair(1000, (options(), NoService), (right, kept.service())).await;
    let first = ends.left.call(vec![], vec![], None);
    let _second = ends.left.call(vec![], vec![], None);
    let third = answer(ends.left.call(vec![], vec![body(3 << 20)], None)).await;
    assert_eq!(third.unwrap_err(), ExchangeError::Refused(ResetCode::Busy));
    let mut came = kept.take(2).await;
    let (incoming, reply) = came.remove(0);
    echo(incoming, reply);
    answer(first).await.unwrap();
    let _fourth = ends.left.call(vec![4], vec![], None);
    assert_eq!(kept.take(1).await[0].0.head, &[4][..]);
}

#[tokio::test]
async fn messages_over_the_limit_are_refused_by_whoever_has_it_and_the_link_goes_on() {
    let small = || with(|limits| limits.max_message = 1000);
    let ends = pair(5000, (options(), NoService), (small(), echo)).await;
    let error = answer(ends.left.call(vec![], vec![body(100_000)], None))
        .await
        .unwrap_err();
    assert_eq!(error, ExchangeError::Refused(ResetCode::TooLarge));
    let error = answer(ends.right.call(vec![], vec![body(1001)], None))
        .await
        .unwrap_err();
    assert_eq!(error, ExchangeError::RequestTooLarge);
    let error = answer(ends.left.call(vec![0; (64 << 10) + 1], vec![], None))
        .await
        .unwrap_err();
    assert_eq!(error, ExchangeError::RequestTooLarge);
    answer(ends.left.call(vec![0; 64 << 10], vec![body(1000)], None))
        .await
        .unwrap();

    let large = |_, mut reply: Reply| reply.send(vec![], vec![body(5000)], true).unwrap();
    let ends = pair(5000, (small(), NoService), (options(), large)).await;
    for _ in 0..2 {
        let error = answer(ends.left.call(vec![], vec![], None)).await.unwrap_err();
        assert_eq!(
            error,
            ExchangeError::AnswerTooLarge {
                bytes: 5000,
                limit: 1000
            }
        );
    }
}

#[tokio::test]
async fn what_waits_to_be_written_is_bounded() {
    let options = with(|limits| limits.max_queued = 1 << 20);
    // Nobody reads at the other end.
    let (link, _driver, _far) = bare(100, &options).await;
    let _first = link.call(vec![], vec![body(3 << 20)], None);
    let error = answer(link.call(vec![], vec![body(3 << 20)], None)).await.unwrap_err();
    assert!(matches!(error, ExchangeError::Overloaded { .. }), "{error}");
}

#[tokio::test]
async fn a_slow_consumer_of_a_stream_holds_up_only_itself() {
    const COUNT: u8 = 100;
    let options = with(|limits| limits.max_queued_answers = 1 << 20);
    let stream = |incoming: Incoming, mut reply: Reply| {
        if incoming.head != b"stream"[..] {
            return echo(incoming, reply);
        }
        tokio::spawn(async move {
            for number in 0..COUNT {
                reply.ready().await;
                reply
                    .send(vec![number], vec![body(200_000)], number + 1 == COUNT)
                    .unwrap();
            }
        });
    };
    let ends = pair(64 << 10, (options.clone(), NoService), (options, stream)).await;
    let mut slow = ends.left.call(b"stream".to_vec(), vec![], None);
    slow.next().await.unwrap().unwrap();
    for _ in 0..20 {
        let got = answer(ends.left.call(vec![], vec![body(3 << 20)], None)).await.unwrap();
        assert_eq!(got.body.len(), 3 << 20);
    }
    // It was not sent what it did not take.
    assert!(ends.right.shared.out.lock().queued() >= WINDOW as usize / 2);
    for number in 1..COUNT {
        assert_eq!(slow.next().await.unwrap().unwrap().head, &[number][..]);
    }
    assert!(slow.next().await.is_none());
}

#[tokio::test]
async fn large_messages_all_arrive_whatever_the_budget() {
    let options = with(|limits| limits.assembly_budget = 0);
    let ends = pair(64 << 10, (options.clone(), NoService), (options, echo)).await;
    let calls: Vec<_> = (0..8)
        .map(|_| ends.left.call(vec![], vec![body(5 * WINDOW as usize)], None))
        .collect();
    for call in calls {
        answer(call).await.unwrap();
    }
    let book = ends.left.shared.book.lock();
    assert_eq!(book.ledger.granted(), 0);
}

#[tokio::test]
async fn nothing_is_left_of_exchanges_that_ended() {
    let ends = serving(echo).await;
    for number in 0..10 {
        let exchange = ends.left.call(vec![], vec![body(2 << 20)], None);
        match number % 2 {
            0 => drop(answer(exchange).await.unwrap()),
            _ => drop(exchange),
        }
    }
    answer(ends.left.call(vec![], vec![], None)).await.unwrap();
    for link in [&ends.left, &ends.right] {
        let outbox = link.shared.out.lock();
        assert_eq!((outbox.queued(), outbox.serving()), (0, 0));
        assert!(link.shared.book.lock().calls.is_empty());
    }
}

#[tokio::test]
async fn a_call_that_is_longer_than_any_may_be_is_not_sent() {
    use grid_core::wire::call::Call;
    use grid_core::wire::codec::MAX_ENCODED;
    let ends = serving(echo).await;
    let name = "n".repeat(MAX_ENCODED / 4);
    let call = Call::Sequence(grid_core::wire::call::SequenceCall {
        model: "model".parse().unwrap(),
        version: None,
        id: "bed".parse().unwrap(),
        start: false,
        end: false,
        number: 1,
        token: None,
        names: vec![name; 4],
        inputs: Vec::new(),
    });
    let error = answer(ends.left.ask(&call, vec![], None)).await.unwrap_err();
    assert_eq!(error, ExchangeError::RequestTooLarge);
}
