use std::time::Duration;

use grid_core::wire::credit::WINDOW;

use super::*;

#[tokio::test]
async fn bodies_of_all_sizes_come_back_over_pipes_of_any_size() {
    let window = WINDOW as usize;
    let small = [0, 1, 63, 64, 65, 4095, 4096, 20_000];
    let large = [65_535, 65_536, 65_537, window - 1, window, window + 1, 5 * window + 77];
    for pipe in [1, 7, 24, 1000, 65_536, 1 << 20] {
        let ends = pair(pipe, (options(), NoService), (node_options(), echo)).await;
        let sizes = small.iter().chain(large.iter().filter(|_| pipe >= 1000));
        for &size in sizes {
            let sent = body(size);
            let head = vec![7; size % 300];
            let got = answer(ends.left.call(head.clone(), vec![sent.clone()], None))
                .await
                .unwrap();
            assert_eq!(got.head, head);
            assert!(got.body.as_slice() == sent.as_slice(), "{size} over {pipe}");
            assert_eq!(got.body.as_slice().as_ptr() as usize % 64, 0);
            assert!(got.last);
        }
    }
}

#[tokio::test]
async fn parts_of_a_body_begin_at_multiples_of_64() {
    let ends = serving(echo).await;
    let parts = vec![body(3), body(0), body(65), body(1)];
    let got = answer(ends.left.call(vec![], parts, None)).await.unwrap();
    let bytes = got.body.as_slice();
    assert_eq!(bytes.len(), 193);
    assert_eq!(
        (&bytes[..3], &bytes[64..129], bytes[192]),
        (&[0, 1, 2][..], body(65).as_slice(), 0)
    );
}

#[tokio::test]
async fn many_exchanges_at_once_each_get_their_own_answer_in_both_directions() {
    let ends = pair(10_000, (options(), echo), (node_options(), echo)).await;
    let calls = (0..400usize).map(|number| {
        let link = if number % 2 == 0 { &ends.left } else { &ends.right };
        let sent = body(number * number % 30_000);
        let exchange = link.call(number.to_le_bytes().to_vec(), vec![sent.clone()], None);
        tokio::spawn(async move {
            let got = answer(exchange).await.unwrap();
            assert_eq!(got.head, number.to_le_bytes()[..]);
            assert!(got.body.as_slice() == sent.as_slice());
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
}

#[tokio::test]
async fn a_small_request_is_answered_while_a_large_one_is_in_transit() {
    let kept = Kept::default();
    let ends = serving(kept.service()).await;
    let large = ends.left.call(b"large".to_vec(), vec![body(64 << 20)], None);
    let small = ends.left.call(b"small".to_vec(), vec![body(100)], None);
    let mut came = kept.take(1).await;
    assert_eq!(came[0].0.head, &b"small"[..]);
    let (incoming, reply) = came.remove(0);
    echo(incoming, reply);
    answer(small).await.unwrap();
    // The same on the way back.
    let (incoming, reply) = kept.take(1).await.remove(0);
    echo(incoming, reply);
    let mut large = large;
    let mut next = ends.left.call(b"next".to_vec(), vec![], None);
    let (incoming, reply) = kept.take(1).await.remove(0);
    echo(incoming, reply);
    tokio::select! {
        biased;
        _ = large.next() => panic!("the large answer came first"),
        got = next.next() => assert_eq!(got.unwrap().unwrap().head, &b"next"[..]),
    }
    assert_eq!(answer(large).await.unwrap().body.len(), 64 << 20);
}

#[tokio::test]
async fn streamed_answers_come_in_order_and_the_last_says_so() {
    let ends = serving(|_, mut reply: Reply| {
        for number in 0..100u8 {
            reply
                .send(vec![number], vec![body(number.into())], number == 99)
                .unwrap();
        }
        assert_eq!(reply.send(vec![], vec![], true), Err(ReplyError::Over));
    })
    .await;
    let mut exchange = ends.left.call(vec![], vec![], None);
    for number in 0..100u8 {
        let got = exchange.next().await.unwrap().unwrap();
        assert_eq!(
            (&got.head[..], got.body.len(), got.last),
            (&[number][..], number.into(), number == 99)
        );
    }
    assert!(exchange.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn the_remaining_time_travels_and_none_is_none() {
    let kept = Kept::default();
    let ends = serving(kept.service()).await;
    let times = [
        None,
        Some(Duration::from_millis(1500)),
        Some(Duration::ZERO),
        Some(Duration::MAX),
    ];
    let expected = [
        None,
        Some(Duration::from_millis(1500)),
        Some(Duration::from_millis(1)),
        Some(Duration::from_millis(u32::MAX.into())),
    ];
    let _calls = times.map(|remaining| ends.left.call(vec![], vec![], remaining));
    let came = kept.take(4).await;
    assert_eq!(
        came.iter().map(|(incoming, _)| incoming.remaining).collect::<Vec<_>>(),
        expected
    );
}

#[tokio::test]
async fn each_end_knows_the_other() {
    let ends = serving(NoService).await;
    assert_eq!(ends.left.peer().peer.to_string(), "node#3");
    assert_eq!(ends.right.peer().peer, Peer::Client);
}

#[tokio::test]
async fn a_call_and_an_answer_longer_than_a_head_make_the_round_trip_with_their_tensors() {
    use grid_core::wire::call::{Call, Reply as Answer};
    let ends = serving(|incoming: Incoming, mut reply: Reply| {
        let (call, tensors) = incoming.unpack::<Call>().unwrap();
        let answer = Answer::Refused(format!("{call:?}"));
        reply.answer(&answer, vec![tensors], true).unwrap();
    })
    .await;
    for names in [1, 100_000] {
        let call = Call::Sequence(grid_core::wire::call::SequenceCall {
            model: "model".parse().unwrap(),
            version: None,
            id: "bed".parse().unwrap(),
            start: false,
            end: false,
            number: 1,
            token: None,
            names: vec!["name".to_owned(); names],
            inputs: Vec::new(),
        });
        let got = answer(ends.left.ask(&call, vec![body(100)], None)).await.unwrap();
        let (read, tensors) = got.unpack::<Answer>().unwrap();
        assert_eq!(read, Answer::Refused(format!("{call:?}")));
        assert_eq!(tensors.as_slice(), body(100).as_slice());
    }
}
