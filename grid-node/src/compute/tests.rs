//! A lane driven by hand: each turn of a compute thread is a call, so nothing here depends on threads or time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use grid_core::InferError;
use grid_core::batching::{BatchPolicy, DEFAULT_PRIORITY, Entry};
use grid_core::model::ModelId;
use grid_core::tensor::Tensor;
use tokio::sync::mpsc;
use tracing::Span;

use super::{Lane, LaneOptions, Request};
use crate::runtime::{Inputs, Instance, ModelError, Outputs, Progress, Stacked, TensorModel, Work};
use crate::telemetry::ModelMetrics;

fn tensor(value: f32) -> Tensor {
    Tensor::from_values([1].into(), &[value]).unwrap()
}

fn value(tensors: &[Tensor]) -> f32 {
    tensors[0].values::<f32>().unwrap()[0]
}

fn request(value: f32) -> Request {
    let arrived = Instant::now();
    Request {
        inputs: Inputs::from_iter([tensor(value)]),
        entry: Entry {
            key: 0,
            rows: 1,
            priority: DEFAULT_PRIORITY,
            arrived,
        },
        deadline: arrived + Duration::from_secs(60),
        partial: None,
        span: Span::none(),
    }
}

fn lane(instance: Box<dyn Instance>, max_rows: usize) -> (Lane, Arc<AtomicUsize>) {
    let model = ModelId {
        name: "m".parse().unwrap(),
        version: 1,
    };
    let options = LaneOptions {
        policy: BatchPolicy {
            max_rows,
            max_delay: Duration::ZERO,
            bound: 8,
        },
        weight: 100,
        slots: instance.slots(),
        in_steps: !instance.finishes_in_one_step(),
        inline_below: Duration::from_secs(1),
        metrics: Arc::new(ModelMetrics::new(&model)),
        model,
    };
    let panics = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&panics);
    let on_panic = Box::new(move || {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    (Lane::new(options, instance, on_panic), panics)
}

/// Emits 1, 2, 3 … and finishes with its input after as many steps as the input says.
#[derive(Default)]
struct Counter(Vec<(u64, f32)>);

impl Instance for Counter {
    fn slots(&self) -> usize {
        2
    }

    fn step(&mut self, work: &mut [Work]) {
        self.0.retain(|(id, _)| work.iter().any(|work| work.id == *id));
        for work in work {
            if !self.0.iter().any(|(id, _)| *id == work.id) {
                self.0.push((work.id, 0.0));
            }
            let (_, step) = self.0.iter_mut().find(|(id, _)| *id == work.id).unwrap();
            *step += 1.0;
            let wanted = value(&work.inputs);
            let outputs = |value| Outputs::from_iter([tensor(value)]);
            work.progress = if *step >= wanted {
                Progress::Finished(Ok(outputs(wanted)))
            } else {
                Progress::Emitted(outputs(*step))
            };
        }
    }
}

struct Doubler;

impl TensorModel for Doubler {
    fn run(&mut self, inputs: &[Tensor]) -> Result<Outputs, ModelError> {
        let values = inputs[0].values::<f32>().unwrap();
        assert!(!values.contains(&-1.0), "a negative input");
        let doubled: Vec<f32> = values.iter().map(|value| value * 2.0).collect();
        Ok(Outputs::from_iter([Tensor::from_values(
            inputs[0].shape().clone(),
            &doubled,
        )
        .unwrap()]))
    }
}

#[test]
fn outputs_that_come_before_the_last_reach_the_caller_in_order() {
    let (lane, _) = lane(Box::new(Counter::default()), 0);
    let (sender, mut partial) = mpsc::channel(8);
    let answer = lane.enqueue(&Request {
        partial: Some(sender),
        ..request(3.0)
    });
    for _ in 0..3 {
        lane.turn();
    }
    assert_eq!(value(&answer.unwrap().try_recv().unwrap().unwrap().outputs), 3.0);
    let emitted: Vec<f32> = std::iter::from_fn(|| partial.try_recv().ok())
        .map(|outputs| value(&outputs))
        .collect();
    assert_eq!(emitted, [1.0, 2.0]);
}

#[test]
fn a_reader_that_lags_behind_loses_its_request_and_nobody_elses() {
    let (lane, _) = lane(Box::new(Counter::default()), 0);
    let (sender, _unread) = mpsc::channel(1);
    let slow = lane.enqueue(&Request {
        partial: Some(sender),
        ..request(9.0)
    });
    let other = lane.enqueue(&request(3.0));
    for _ in 0..4 {
        lane.turn();
    }
    let error = slow.unwrap().try_recv().unwrap().unwrap_err();
    assert!(error.to_string().contains("too slow"), "{error}");
    assert_eq!(value(&other.unwrap().try_recv().unwrap().unwrap().outputs), 3.0);
    assert_eq!(lane.in_flight(), 0);
}

#[test]
fn a_cancelled_request_leaves_the_instance_between_two_steps() {
    let (lane, _) = lane(Box::new(Counter::default()), 0);
    let cancelled = lane.enqueue(&request(1000.0)).unwrap();
    let other = lane.enqueue(&request(3.0)).unwrap();
    let waiting = lane.enqueue(&request(1.0)).unwrap();
    lane.turn();
    lane.turn();
    assert_eq!((lane.in_flight(), lane.waiting()), (3, 1), "both slots are taken");
    drop(cancelled);
    lane.turn();
    lane.turn();
    assert_eq!(lane.in_flight(), 0);
    drop((other, waiting));
}

#[test]
fn a_request_that_panics_is_found_in_its_batch_and_ends_the_lane() {
    let (lane, panics) = lane(Box::new(Stacked::new(Doubler, Some(&axes()))), 8);
    let values = [1.0, 2.0, -1.0, 3.0];
    let answers: Vec<_> = values
        .iter()
        .map(|value| lane.enqueue(&request(*value)).unwrap())
        .collect();
    lane.turn();
    for (value_in, mut answer) in values.iter().zip(answers) {
        match answer.try_recv().unwrap() {
            Ok(answer) => assert_eq!(value(&answer.outputs), value_in * 2.0),
            Err(error) => {
                assert_eq!(*value_in, -1.0);
                assert!(error.to_string().contains("a negative input"), "{error}");
            }
        }
    }
    assert_eq!(panics.load(Ordering::Relaxed), 1);
    let late = lane.enqueue(&request(1.0)).unwrap_err();
    assert!(matches!(late, InferError::ReplicaLost { .. }), "{late}");
    assert!(
        lane.run_inline(&request(1.0)).is_none(),
        "nor does it run on its caller's thread"
    );
}

#[test]
fn a_run_is_inline_only_when_its_size_is_known_to_be_quick() {
    let (lane, _) = lane(Box::new(Stacked::new(Doubler, Some(&axes()))), 0);
    assert!(lane.run_inline(&request(1.0)).is_none(), "never measured");
    drop(lane.enqueue(&request(1.0)));
    let answer = lane.enqueue(&request(1.0)).unwrap();
    lane.turn();
    drop(answer);
    let ran = lane.run_inline(&request(2.0)).unwrap().unwrap();
    assert_eq!(value(&ran.outputs), 4.0);
    let many = Request {
        inputs: Inputs::from_iter([Tensor::from_values([1000].into(), &[1.0f32; 1000]).unwrap()]),
        ..request(0.0)
    };
    assert!(lane.run_inline(&many).is_none(), "never measured at this size");
    let late = Request {
        deadline: Instant::now(),
        ..request(2.0)
    };
    let refused = lane.run_inline(&late).unwrap().unwrap_err();
    assert!(matches!(refused, InferError::DeadlineExceeded { .. }), "{refused}");
    assert_eq!(lane.stats().succeeded, 2);
}

/// Rows in the first dimension of the one input and the one output.
fn axes() -> grid_core::model::StackAxes {
    grid_core::model::StackAxes {
        inputs: vec![Some(0)],
        outputs: vec![0],
    }
}
