//! Where requests go.

use grid_core::InferError;
use grid_core::cluster::{Digest, ReplicaStage};
use grid_core::wire::call::Reply;

use super::*;

#[tokio::test]
async fn requests_go_straight_to_the_least_loaded_replica() {
    let grid = FakeGrid::new();
    let (slow, quick) = (Count::default(), Count::default());
    let (slow_asked, quick_asked) = (slow.clone(), quick.clone());
    let a = FakeNode::inferring(&grid, "a", move |_| {
        slow_asked.add();
        Said::value(1.0, fake::load(10_000_000))
    })
    .await;
    let b = FakeNode::inferring(&grid, "b", move |_| {
        quick_asked.add();
        Said::value(2.0, fake::load(10))
    })
    .await;
    grid.ready(&[&a, &b]);
    let model = client_of(&[&a]).await.model("forest").await.unwrap();
    let both_known = async {
        while slow.get() == 0 || quick.get() == 0 {
            model.infer(input(0.0)).await.unwrap();
        }
    };
    timeout(LONG, both_known).await.unwrap();
    for _ in 0..20 {
        let answer = model.infer(input(0.0)).await.unwrap();
        assert_eq!(answer.node.as_str(), "b");
        assert_eq!(answer.output("y").unwrap().values::<f32>(), Some(&[2.0][..]));
    }
}

#[tokio::test]
async fn a_node_that_is_not_the_owner_leads_to_the_one_that_it_names() {
    let grid = FakeGrid::new();
    let hint = vec!["b".parse().unwrap()];
    let a = FakeNode::inferring(&grid, "a", move |_| Said::only(Reply::NotOwner { hint: hint.clone() })).await;
    let _b = FakeNode::inferring(&grid, "b", |_| Said::value(2.0, fake::load(1))).await;
    grid.ready(&[&a]);
    let model = client_of(&[&a]).await.model("forest").await.unwrap();
    let answer = model.infer(input(0.0)).await.unwrap();
    assert_eq!(answer.node.as_str(), "b");
}

#[tokio::test]
async fn a_request_whose_link_breaks_is_answered_elsewhere() {
    let grid = FakeGrid::new();
    let asked = Count::default();
    let counted = asked.clone();
    let a = FakeNode::inferring(&grid, "a", move |_| {
        counted.add();
        Said::Dies
    })
    .await;
    let b = FakeNode::inferring(&grid, "b", |_| Said::value(2.0, fake::load(1_000_000))).await;
    grid.ready(&[&a, &b]);
    let model = client_of(&[&b]).await.model("forest").await.unwrap();
    let all_answered = async {
        while asked.get() == 0 {
            let answer = model.infer(input(0.0)).await.unwrap();
            assert_eq!(answer.node.as_str(), "b");
        }
    };
    timeout(LONG, all_answered).await.unwrap();
    // Out at once, whatever is still said of it.
    for _ in 0..10 {
        model.infer(input(0.0)).await.unwrap();
    }
    assert_eq!(asked.get(), 1);
}

#[tokio::test]
async fn a_replica_that_has_too_much_to_do_is_spared_and_its_requests_go_elsewhere() {
    let grid = FakeGrid::new();
    let refused = Count::default();
    let counted = refused.clone();
    let a = FakeNode::inferring(&grid, "a", move |_| {
        counted.add();
        Said::failed(InferError::Overloaded {
            model: fake::model(1),
            reason: "full".to_owned(),
            retry_after: LONG,
        })
    })
    .await;
    let b = FakeNode::inferring(&grid, "b", |_| Said::value(2.0, fake::load(1))).await;
    grid.ready(&[&a, &b]);
    let model = client_of(&[&a]).await.model("forest").await.unwrap();
    let until_refused = async {
        while refused.get() == 0 {
            assert_eq!(model.infer(input(0.0)).await.unwrap().node.as_str(), "b");
        }
    };
    timeout(LONG, until_refused).await.unwrap();
    for _ in 0..20 {
        model.infer(input(0.0)).await.unwrap();
    }
    // The wait that it asked for is cut to some seconds, which may pass on a machine that does other things.
    assert!(refused.get() < 10, "{}", refused.get());
}

#[tokio::test]
async fn a_grid_that_was_lost_whole_is_found_again_when_one_node_comes_back() {
    let grid = FakeGrid::new();
    let mut a = FakeNode::inferring(&grid, "a", |_| Said::value(1.0, fake::load(1))).await;
    grid.ready(&[&a]);
    let model = client_of(&[&a]).await.model("forest").await.unwrap();
    model.infer(input(0.0)).await.unwrap();
    a.die().await;
    let request = model.request().inputs(input(0.0)).timeout(LONG);
    let waiting = tokio::spawn(request.send());
    grid.forget(&a);
    let again = FakeNode::start_at(&grid, "a", 2, a.at, |_| Said::value(2.0, fake::load(1))).await;
    grid.ready(&[&again]);
    let answer = waiting.await.unwrap().unwrap();
    assert_eq!(answer.output("y").unwrap().values::<f32>(), Some(&[2.0][..]));
}

#[tokio::test]
async fn a_model_that_is_not_ready_yet_is_waited_for() {
    let grid = FakeGrid::new();
    let a = FakeNode::inferring(&grid, "a", |_| Said::value(1.0, fake::load(1))).await;
    grid.hosts(&a, ReplicaStage::Loading);
    let client = client_of(&[&a]).await;
    let waiting = tokio::spawn(async move { client.model("forest").await.unwrap().infer(input(0.0)).await });
    grid.ready(&[&a]);
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_newest_ready_version_answers_unless_the_manifest_or_the_request_names_another() {
    let grid = FakeGrid::new();
    let a = FakeNode::inferring(&grid, "a", |infer| {
        Said::value(infer.model.version as f32, fake::load(1))
    })
    .await;
    let ready = ReplicaStage::Ready;
    grid.hosts_versions(&a, &[(1, ready.clone()), (2, ready), (3, ReplicaStage::Loading)]);
    let model = client_of(&[&a]).await.model("forest").await.unwrap();
    assert_eq!(model.infer(input(0.0)).await.unwrap().model.version, 2);
    let first = model.version(1);
    assert_eq!(first.infer(input(0.0)).await.unwrap().model.version, 1);
    *grid.manifest.lock() = "default_version = 1".to_owned();
    let model = client_of(&[&a]).await.model("forest").await.unwrap();
    assert_eq!(model.infer(input(0.0)).await.unwrap().model.version, 1);
}

#[tokio::test]
async fn a_link_that_is_not_used_is_closed_and_opened_again_when_it_is() {
    let grid = FakeGrid::new();
    let a = FakeNode::inferring(&grid, "a", |_| Said::value(1.0, fake::load(1))).await;
    grid.ready(&[&a]);
    let options = ClientOptions {
        idle: Duration::from_millis(1),
        ..fake::options()
    };
    let client = GridClient::connect([a.at.to_string()], options).await.unwrap();
    let model = client.model("forest").await.unwrap();
    model.infer(input(0.0)).await.unwrap();
    let peers = || client.core().peers.lock().values().cloned().collect::<Vec<_>>();
    until("it is closed", || peers().iter().all(|peer| !peer.is_kept())).await;
    model.infer(input(0.0)).await.unwrap();
}

#[tokio::test]
async fn a_description_of_another_content_is_not_taken_for_that_of_the_one_that_is_hosted() {
    let grid = FakeGrid::new();
    let a = FakeNode::inferring(&grid, "a", |_| Said::value(1.0, fake::load(1))).await;
    grid.ready(&[&a]);
    *grid.stale_descriptions.lock() = 1;
    let client = client_of(&[&a]).await;
    let model = client.model("forest").await.unwrap();
    assert_eq!(*grid.stale_descriptions.lock(), 0);
    let Found::Route(route) = client.core().find(&"forest".parse().unwrap(), None) else {
        panic!("no route");
    };
    assert_ne!(route.described.description.content, Digest([9; 32]));
    model.infer(input(0.0)).await.unwrap();
}

#[tokio::test]
async fn a_grid_of_more_replicas_than_a_head_has_room_for_is_learned() {
    let grid = FakeGrid::new();
    let a = FakeNode::inferring(&grid, "a", |_| Said::value(1.0, fake::load(1))).await;
    let versions: Vec<_> = (1..=4000).map(|version| (version, ReplicaStage::Ready)).collect();
    grid.hosts_versions(&a, &versions);
    let model = client_of(&[&a]).await.model("forest").await.unwrap();
    assert_eq!(model.infer(input(0.0)).await.unwrap().model.version, 4000);
}

#[tokio::test]
async fn a_node_that_is_cut_off_does_not_take_the_others_away() {
    let grid = FakeGrid::new();
    let a = FakeNode::inferring(&grid, "a", |_| Said::value(1.0, fake::load(1))).await;
    let b = FakeNode::inferring(&grid, "b", |_| Said::value(2.0, fake::load(1))).await;
    let c = FakeNode::inferring(&grid, "c", |_| Said::value(3.0, fake::load(1))).await;
    grid.ready(&[&b, &c]);
    let client = client_of(&[&a, &b]).await;
    let core = client.core();
    *grid.cut_off.lock() = Some(a.id.clone());
    // What it says from now on is news, to whoever asks for them.
    grid.ready(&[&b]);
    core.poll_now.notify_one();
    let version = |node: &FakeNode| {
        let topology = core.topology().unwrap();
        topology
            .nodes
            .iter()
            .find(|known| known.node == node.id)
            .map(|known| known.version)
    };
    until("the other news come", || {
        assert!(version(&c).is_some(), "the others are taken away");
        version(&b) == Some(3)
    })
    .await;
    // Where nobody says otherwise, it is believed.
    *grid.cut_off.lock() = None;
    grid.forget(&a);
    grid.forget(&c);
    core.poll_now.notify_one();
    until("they are gone", || version(&c).is_none()).await;
}

#[tokio::test]
async fn a_timeout_longer_than_the_clock_goes_is_one_that_never_comes() {
    let grid = FakeGrid::new();
    let a = FakeNode::inferring(&grid, "a", |_| Said::value(1.0, fake::load(1))).await;
    grid.ready(&[&a]);
    let options = ClientOptions {
        timeout: Duration::MAX,
        unknown_model: Duration::MAX,
        idle: Duration::MAX,
        ..fake::options()
    };
    let client = GridClient::connect([a.at.to_string()], options).await.unwrap();
    let model = client.model("forest").await.unwrap();
    model.infer(input(0.0)).await.unwrap();
    model
        .request()
        .inputs(input(0.0))
        .timeout(Duration::MAX)
        .send()
        .await
        .unwrap();
}
