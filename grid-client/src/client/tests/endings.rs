//! How requests end that have no answer.

use grid_core::InferError;
use grid_core::cluster::{ClusterKey, ReplicaStage};
use grid_core::tensor::DataType;
use grid_core::wire::call::{Reply, Times};
use grid_core::wire::message::TensorHead;
use parking_lot::Mutex;

use super::*;
use crate::link::Reply as Answering;

/// A node that takes requests and does not answer.
async fn silent(grid: &Arc<FakeGrid>) -> (FakeNode, Arc<Mutex<Vec<Answering>>>) {
    let kept: Arc<Mutex<Vec<Answering>>> = Arc::default();
    let keeping = Arc::clone(&kept);
    let node = FakeNode::inferring(grid, "a", move |_| {
        let keeping = Arc::clone(&keeping);
        Said::Kept(Box::new(move |reply| keeping.lock().push(reply)))
    })
    .await;
    grid.ready(&[&node]);
    (node, kept)
}

#[tokio::test]
async fn a_request_without_an_answer_ends_at_its_deadline_and_is_cancelled_where_it_runs() {
    let grid = FakeGrid::new();
    let (a, kept) = silent(&grid).await;
    let model = client_of(&[&a]).await.model("forest").await.unwrap();
    // A deadline that passes before the request was sent says the same in another way.
    let mut limit = Duration::from_millis(50);
    let error = loop {
        let request = model.request().inputs(input(0.0)).timeout(limit);
        match request.send().await.unwrap_err() {
            ClientError::NoReplica { .. } => limit *= 2,
            error => break error,
        }
    };
    assert!(
        matches!(error, ClientError::Infer(InferError::DeadlineExceeded { .. })),
        "{error}"
    );
    assert!(!error.can_retry());
    until("it is cancelled", || kept.lock().iter().all(Answering::is_cancelled)).await;
}

#[tokio::test]
async fn dropping_a_request_cancels_it_where_it_runs() {
    let grid = FakeGrid::new();
    let (a, kept) = silent(&grid).await;
    let model = client_of(&[&a]).await.model("forest").await.unwrap();
    let request = tokio::spawn(async move { model.infer(input(0.0)).await });
    until("it is there", || !kept.lock().is_empty()).await;
    assert!(!kept.lock()[0].is_cancelled());
    request.abort();
    until("it is cancelled", || kept.lock()[0].is_cancelled()).await;
}

#[tokio::test]
async fn inputs_that_the_model_does_not_take_are_refused_without_being_sent() {
    let grid = FakeGrid::new();
    let a = FakeNode::inferring(&grid, "a", |_| panic!("it was sent")).await;
    grid.ready(&[&a]);
    let model = client_of(&[&a]).await.model("forest").await.unwrap();
    let error = model.infer([("z", tensor(&[1.0]))]).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "forest version 1: input `z`: the model has no such input; expected `x`"
    );
    let wrong = Tensor::from_values([1].into(), &[1i64]).unwrap();
    let error = model.infer([("x", wrong)]).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "forest version 1: input `x`: expected datatype FP32, found INT64"
    );
    assert!(!error.can_retry());
}

#[tokio::test]
async fn what_a_replica_says_of_a_request_is_told_as_it_is_and_not_sent_elsewhere() {
    let grid = FakeGrid::new();
    let failed = || InferError::ModelFailed {
        model: fake::model(1),
        reason: "no".to_owned(),
    };
    let asked = Count::default();
    let counted = asked.clone();
    let a = FakeNode::inferring(&grid, "a", move |_| {
        counted.add();
        Said::failed(failed())
    })
    .await;
    grid.ready(&[&a]);
    let model = client_of(&[&a]).await.model("forest").await.unwrap();
    let error = model.infer(input(0.0)).await.unwrap_err();
    assert_eq!(error, ClientError::Infer(failed()));
    assert_eq!(asked.get(), 1);
}

#[tokio::test]
async fn a_replica_whose_model_fails_at_once_is_not_preferred_for_being_quick() {
    let grid = FakeGrid::new();
    let failing = |_| {
        Said::only(Reply::Failed {
            error: InferError::ModelFailed {
                model: fake::model(1),
                reason: "no".to_owned(),
            },
            may_have_run: true,
            load: fake::load(1),
        })
    };
    let a = FakeNode::inferring(&grid, "a", failing).await;
    let b = FakeNode::inferring(&grid, "b", |_| Said::value(1.0, fake::load(5000))).await;
    grid.ready(&[&a, &b]);
    let model = client_of(&[&a, &b]).await.model("forest").await.unwrap();
    let mut failed = 0;
    for _ in 0..100 {
        failed += usize::from(model.infer(input(0.0)).await.is_err());
    }
    assert!(failed <= 10, "{failed} of 100");
}

#[tokio::test]
async fn a_caller_whose_input_is_wrong_does_not_cost_the_replica_its_requests() {
    let grid = FakeGrid::new();
    let invalid = |_| {
        Said::only(Reply::Failed {
            error: InferError::Invalid("no".to_owned()),
            may_have_run: false,
            load: fake::load(1),
        })
    };
    let a = FakeNode::inferring(&grid, "a", invalid).await;
    let b = FakeNode::inferring(&grid, "b", |_| Said::value(1.0, fake::load(5_000_000))).await;
    grid.ready(&[&a, &b]);
    let model = client_of(&[&a, &b]).await.model("forest").await.unwrap();
    let mut refused = 0;
    for _ in 0..100 {
        refused += usize::from(model.infer(input(0.0)).await.is_err());
    }
    assert!(refused >= 90, "{refused} of 100 were told so");
}

#[tokio::test]
async fn a_model_that_nobody_knows_is_told_with_the_nearest_name() {
    let grid = FakeGrid::new();
    let a = FakeNode::inferring(&grid, "a", |_| panic!("it was sent")).await;
    grid.ready(&[&a]);
    let options = ClientOptions {
        unknown_model: Duration::from_millis(1),
        ..fake::options()
    };
    let client = GridClient::connect([a.at.to_string()], options).await.unwrap();
    let error = client.model("forrest").await.unwrap_err();
    assert_eq!(error.kind(), "not_found", "{error}");
    assert_eq!(
        error.to_string(),
        "no node of the grid hosts a model `forrest`; did you mean `forest`?"
    );
}

#[tokio::test]
async fn a_request_for_a_version_that_nobody_knows_does_not_wait_to_its_deadline() {
    let grid = FakeGrid::new();
    let a = FakeNode::inferring(&grid, "a", |_| panic!("it was sent")).await;
    grid.ready(&[&a]);
    let options = ClientOptions {
        unknown_model: Duration::from_millis(50),
        ..fake::options()
    };
    let client = GridClient::connect([a.at.to_string()], options).await.unwrap();
    let model = client.model("forest").await.unwrap().version(9);
    let request = model.request().inputs(input(0.0)).timeout(100 * LONG);
    let error = tokio::time::timeout(LONG, request.send()).await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "nobody hosts model `forest` in version 9; it has 1");
    let begun = tokio::time::timeout(LONG, model.sequence("s").start()).await.unwrap();
    assert_eq!(begun.unwrap_err(), error);
}

#[tokio::test]
async fn a_model_that_all_nodes_have_forgotten_is_waited_for() {
    let grid = FakeGrid::new();
    let a = FakeNode::inferring(&grid, "a", |_| Said::value(1.0, fake::load(1))).await;
    grid.ready(&[&a]);
    let options = ClientOptions {
        unknown_model: Duration::from_millis(1),
        poll: Duration::from_millis(10),
        ..fake::options()
    };
    let client = GridClient::connect([a.at.to_string()], options).await.unwrap();
    let model = client.model("forest").await.unwrap();
    // As after a restart of all nodes at once.
    grid.hosts_versions(&a, &[]);
    until("the client has heard of it", || model.signature().is_none()).await;
    let asking = model.clone();
    let request = tokio::spawn(async move { asking.infer(input(0.0)).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    grid.ready(&[&a]);
    timeout(LONG, request).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_model_that_is_not_ready_in_time_is_told_with_what_is_known_of_it() {
    let grid = FakeGrid::new();
    let a = FakeNode::inferring(&grid, "a", |_| panic!("it was sent")).await;
    grid.hosts(&a, ReplicaStage::Failed("the file is broken".to_owned()));
    let options = ClientOptions {
        timeout: Duration::from_millis(1),
        ..fake::options()
    };
    let client = GridClient::connect([a.at.to_string()], options).await.unwrap();
    let error = client.model("forest").await.unwrap_err();
    assert!(
        error.can_retry() && error.to_string().contains("the file is broken"),
        "{error}"
    );
}

#[tokio::test]
async fn a_client_with_another_key_is_refused_at_once() {
    let grid = FakeGrid::new();
    let a = FakeNode::inferring(&grid, "a", |_| panic!("it was sent")).await;
    let options = ClientOptions {
        key: ClusterKey::from_bytes([8; 32]),
        connect_timeout: LONG,
        ..fake::options()
    };
    let error = GridClient::connect([a.at.to_string()], options).await.unwrap_err();
    assert!(matches!(error, ClientError::Refused(_)), "{error}");
}

#[tokio::test]
async fn replies_that_make_no_sense_end_a_request_with_an_error_and_nothing_else() {
    let grid = FakeGrid::new();
    let asked = Count::default();
    let counted = asked.clone();
    let a = FakeNode::inferring(&grid, "a", move |_| match counted.add() {
        9.. => Said::value(1.0, fake::load(1)),
        1 => Said::only(Reply::Chunk),
        2 => Said::only(Reply::Done {
            outputs: vec![TensorHead {
                data_type: DataType::Fp32,
                shape: vec![u64::MAX],
                bytes: u64::MAX,
            }],
            times: Times::default(),
            load: fake::load(1),
        }),
        _ => Said::Kept(Box::new(|mut reply| {
            reply.send(vec![255; 9], Vec::new(), true).unwrap()
        })),
    })
    .await;
    grid.ready(&[&a]);
    let model = client_of(&[&a]).await.model("forest").await.unwrap();
    let error = model.infer(input(0.0)).await.unwrap_err();
    assert_eq!(asked.get(), 8, "as often as one request is sent at most");
    assert!(
        error.can_retry() && error.to_string().contains("makes no sense"),
        "{error}"
    );
    model.infer(input(0.0)).await.unwrap();
}

#[tokio::test]
async fn of_seeds_that_are_down_the_next_one_is_tried() {
    let grid = FakeGrid::new();
    let mut dead = FakeNode::inferring(&grid, "dead", |_| Said::Dies).await;
    dead.die().await;
    let a = FakeNode::inferring(&grid, "a", |_| Said::value(1.0, fake::load(1))).await;
    grid.ready(&[&a]);
    let model = client_of(&[&dead, &a]).await.model("forest").await.unwrap();
    model.infer(input(0.0)).await.unwrap();
}

#[test]
fn clients_models_and_requests_go_where_they_are_wanted() {
    fn go<T: Clone + Send + Sync>() {}
    fn is_sent<T: Send>(_: T) {}
    go::<GridClient>();
    go::<Model>();
    go::<Request>();
    let _ = |request: Request| is_sent(request.send());
    let _ = |mut streaming: Streaming| is_sent(async move { streaming.next().await });
}
