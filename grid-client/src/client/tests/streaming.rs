//! Outputs that come before the last.

use grid_core::tensor::Buffer;
use grid_core::wire::call::{Infer, Reply};
use grid_core::wire::{codec, message};

use super::*;

fn part(value: f32) -> (Reply, Vec<Tensor>) {
    let outputs = vec![tensor(&[value])];
    let part = Reply::Part {
        outputs: message::lay_out(&outputs).0,
    };
    (part, outputs)
}

#[tokio::test]
async fn parts_come_in_their_order_and_then_the_answer() {
    let grid = FakeGrid::new();
    let a = FakeNode::inferring(&grid, "a", |infer: Infer| {
        assert!(infer.parts);
        let Said::Replies(last) = Said::value(3.0, fake::load(1)) else {
            unreachable!()
        };
        Said::Replies([part(1.0), part(2.0)].into_iter().chain(last).collect())
    })
    .await;
    grid.ready(&[&a]);
    let model = client_of(&[&a]).await.model("forest").await.unwrap();
    let mut streaming = model.request().inputs(input(0.0)).send_streaming();
    let mut values = Vec::new();
    while let Some(output) = streaming.next().await {
        let outputs = match output.unwrap() {
            StreamedOutput::Part(outputs) => outputs,
            StreamedOutput::Last(answer) => answer.outputs,
        };
        values.extend_from_slice(outputs.get("y").unwrap().values::<f32>().unwrap());
    }
    assert_eq!(values, [1.0, 2.0, 3.0]);
}

#[tokio::test]
async fn a_request_of_which_parts_have_come_is_not_sent_a_second_time() {
    let grid = FakeGrid::new();
    let asked = Count::default();
    let counted = asked.clone();
    let a = FakeNode::inferring(&grid, "a", move |_| {
        counted.add();
        Said::Kept(Box::new(|mut reply| {
            let (head, tensors) = part(1.0);
            let body: Vec<Buffer> = tensors.iter().map(|tensor| tensor.data().clone()).collect();
            reply.send(codec::encode(&head), body, false).unwrap();
            // Dropped, it is lost.
        }))
    })
    .await;
    grid.ready(&[&a]);
    let model = client_of(&[&a]).await.model("forest").await.unwrap();
    let mut streaming = model.request().inputs(input(0.0)).send_streaming();
    assert!(matches!(streaming.next().await, Some(Ok(StreamedOutput::Part(_)))));
    let error = streaming.next().await.unwrap().unwrap_err();
    assert!(error.can_retry(), "{error}");
    assert!(streaming.next().await.is_none());
    assert_eq!(asked.get(), 1);
}
