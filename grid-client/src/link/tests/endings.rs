use std::time::Duration;

use super::*;

#[tokio::test]
async fn dropping_an_exchange_cancels_it_on_the_other_side() {
    let kept = Kept::default();
    let ends = serving(kept.service()).await;
    let exchange = ends.left.call(vec![], vec![], None);
    let (_, mut reply) = kept.take(1).await.remove(0);
    assert!(!reply.is_cancelled());
    drop(exchange);
    reply.cancelled().await;
    assert_eq!(reply.send(vec![], vec![], true), Err(ReplyError::Cancelled));
}

#[tokio::test]
async fn a_request_dropped_half_way_is_never_served_and_the_link_goes_on() {
    let kept = Kept::default();
    let ends = serving(kept.service()).await;
    drop(ends.left.call(b"dropped".to_vec(), vec![body(8 << 20)], None));
    let after = ends.left.call(b"after".to_vec(), vec![], None);
    let (incoming, reply) = kept.take(1).await.remove(0);
    assert_eq!(incoming.head, &b"after"[..]);
    echo(incoming, reply);
    answer(after).await.unwrap();
}

#[tokio::test]
async fn an_answer_that_comes_late_is_dropped() {
    let kept = Kept::default();
    let ends = serving(kept.service()).await;
    let exchange = ends.left.call(vec![], vec![], None);
    let (_, mut reply) = kept.take(1).await.remove(0);
    // Both are on their way at once.
    drop(exchange);
    reply.send(vec![], vec![body(3 << 20)], true).unwrap();
    let next = ends.left.call(vec![], vec![], None);
    let (incoming, reply) = kept.take(1).await.remove(0);
    echo(incoming, reply);
    answer(next).await.unwrap();
}

#[tokio::test]
async fn a_reply_that_is_dropped_or_refused_ends_the_exchange_in_its_own_way() {
    let kept = Kept::default();
    let ends = serving(kept.service()).await;
    let lost = ends.left.call(vec![], vec![], None);
    drop(kept.take(1).await);
    assert_eq!(answer(lost).await.unwrap_err(), ExchangeError::Reset);
    let refused = ends.left.call(vec![], vec![], None);
    let (_, reply) = kept.take(1).await.remove(0);
    reply.refuse(ResetCode::GoingAway);
    let error = answer(refused).await.unwrap_err();
    assert_eq!(error, ExchangeError::Refused(ResetCode::GoingAway));
    assert!(error.proves_not_run());
    let unserved = answer(ends.right.call(vec![], vec![], None)).await.unwrap_err();
    assert_eq!(unserved, ExchangeError::Refused(ResetCode::NotServed));
}

#[tokio::test]
async fn a_cut_link_ends_each_exchange_once_and_tells_those_that_cannot_have_run() {
    let (link, driver, far) = bare(100, &options()).await;
    let driver = tokio::spawn(driver);
    tokio::task::yield_now().await;
    // The pipe takes the beginning of the first, and nothing of the second.
    let begun = link.call(vec![1; 200], vec![], None);
    let behind = link.call(vec![2], vec![], None);
    drop(far);
    let lost = answer(begun).await.unwrap_err();
    assert!(
        matches!(lost, ExchangeError::Lost(_)) && !lost.proves_not_run(),
        "{lost}"
    );
    let unsent = answer(behind).await.unwrap_err();
    assert!(
        matches!(unsent, ExchangeError::NotSent(_)) && unsent.proves_not_run(),
        "{unsent}"
    );
    let after = answer(link.call(vec![], vec![], None)).await.unwrap_err();
    assert!(matches!(after, ExchangeError::NotSent(_)));
    assert_eq!(link.closed().await, driver.await.unwrap());
    assert!(!link.is_open());
}

#[tokio::test]
async fn every_exchange_has_one_end_wherever_the_link_is_cut() {
    for answered in 0..20 {
        let kept = Kept::default();
        let ends = pair(500, (options(), NoService), (node_options(), kept.service())).await;
        let calls: Vec<_> = (0..20).map(|n| ends.left.call(vec![n], vec![body(30)], None)).collect();
        for (incoming, reply) in kept.take(20).await.into_iter().take(answered) {
            echo(incoming, reply);
        }
        ends.right_driver.abort();
        let mut good = 0;
        for call in calls {
            match answer(call).await {
                Ok(_) => good += 1,
                Err(ExchangeError::Lost(_) | ExchangeError::Reset) => {}
                Err(other) => panic!("{other}"),
            }
        }
        assert!(good <= answered);
    }
}

#[tokio::test]
async fn closing_ends_what_runs_on_both_sides() {
    let kept = Kept::default();
    let ends = serving(kept.service()).await;
    let exchange = ends.left.call(vec![], vec![], None);
    let (_, reply) = kept.take(1).await.remove(0);
    ends.left.close();
    assert_eq!(answer(exchange).await.unwrap_err(), ExchangeError::Lost(Closed::Here));
    reply.cancelled().await;
    assert_eq!(ends.left_driver.await.unwrap(), Closed::Here);
    assert_eq!(ends.right_driver.await.unwrap(), Closed::ByPeer);
}

#[tokio::test]
async fn a_link_whose_driver_is_dropped_is_closed() {
    let ends = serving(echo).await;
    ends.left_driver.abort();
    assert_eq!(ends.left.closed().await, Closed::Dropped);
}

#[tokio::test]
async fn a_link_that_goes_away_finishes_what_runs_and_takes_nothing_new() {
    for by_opener in [true, false] {
        let kept = Kept::default();
        let ends = serving(kept.service()).await;
        let running = ends.left.call(b"running".to_vec(), vec![], None);
        let came = kept.take(1).await.remove(0);
        let (first, other) = match by_opener {
            true => (&ends.left, &ends.right),
            false => (&ends.right, &ends.left),
        };
        first.go_away();
        let refused = answer(first.call(vec![], vec![], None)).await.unwrap_err();
        assert_eq!(refused, ExchangeError::GoingAway);
        // Either it has heard already, or it is told by the other end; neither ran.
        let refused = answer(other.call(vec![], vec![], None)).await.unwrap_err();
        assert!(refused.proves_not_run(), "{refused}");
        echo(came.0, came.1);
        assert_eq!(answer(running).await.unwrap().head, &b"running"[..]);
        let ends = [ends.left_driver.await.unwrap(), ends.right_driver.await.unwrap()];
        assert!(ends.contains(&Closed::Finished));
        assert!(ends.iter().all(|end| matches!(end, Closed::Finished | Closed::ByPeer)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_no_pings_is_noticed() {
    let (link, driver, _silent) = bare(1 << 20, &options()).await;
    let mut exchange = link.call(vec![], vec![], None);
    assert_eq!(driver.await, Closed::Silent(options().limits.pong_timeout));
    assert!(matches!(
        exchange.next().await,
        Some(Err(ExchangeError::Lost(Closed::Silent(_))))
    ));
}

#[tokio::test(start_paused = true)]
async fn small_requests_do_not_keep_the_link_to_a_silent_peer_open() {
    let (link, driver, _silent) = bare(1 << 20, &options()).await;
    let asking = async {
        let mut exchanges = Vec::new();
        loop {
            exchanges.push(link.call(vec![1], vec![], None));
            tokio::time::sleep(options().limits.pong_timeout / 10).await;
        }
    };
    tokio::select! {
        closed = driver => assert_eq!(closed, Closed::Silent(options().limits.pong_timeout)),
        () = asking => {}
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_link_stays_open_and_knows_its_round_trip() {
    let ends = serving(echo).await;
    assert_eq!(ends.left.round_trip(), None);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(ends.left.is_open() && ends.right.is_open());
    assert!(ends.left.round_trip().is_some());
    assert!(ends.left.last_heard().elapsed() <= 2 * options().limits.ping_interval);
}
