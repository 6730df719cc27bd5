//! Makes an [`Instance`] of a [`TensorModel`] by stacking requests along the dimensions that hold their rows.
//!
//! What is stacked is chosen before, by the batch former: requests whose tensors differ in their rows alone, and never
//! more rows than the model's `max_batch_size`. Here they become one run, and its outputs are cut apart again, without
//! copying where the rows are the first dimension. If the run fails, it is split in halves until the request that fails
//! stands alone, so that its neighbours get their answers.

use grid_core::model::StackAxes;
use grid_core::tensor::{StackError, Tensor, concatenate, split};

use super::{Inputs, Instance, ModelError, Outputs, Progress, TensorModel, Work};

/// An instance that runs `M` over stacked requests.
#[derive(Debug)]
pub struct Stacked<M> {
    model: M,
    axes: Option<StackAxes>,
}

impl<M> Stacked<M> {
    /// An instance that stacks along these dimensions; without them it runs one request after the other.
    pub fn new(model: M, axes: Option<&StackAxes>) -> Self {
        Self {
            model,
            axes: axes.cloned(),
        }
    }
}

impl<M: TensorModel> Instance for Stacked<M> {
    fn finishes_in_one_step(&self) -> bool {
        true
    }

    fn step(&mut self, work: &mut [Work]) {
        match work {
            [] => {}
            [alone] => alone.progress = Progress::Finished(self.model.run(&alone.inputs)),
            many => match self.run_stacked(many) {
                Ok(answers) => {
                    for (work, answer) in many.iter_mut().zip(answers) {
                        work.progress = Progress::Finished(Ok(answer));
                    }
                }
                Err(_) => {
                    let (left, right) = many.split_at_mut(many.len() / 2);
                    self.step(left);
                    self.step(right);
                }
            },
        }
    }
}

impl<M: TensorModel> Stacked<M> {
    fn run_stacked(&mut self, work: &[Work]) -> Result<Vec<Outputs>, ModelError> {
        let axes = self
            .axes
            .as_ref()
            .ok_or_else(|| ModelError("requests are not stacked".to_owned()))?;
        let rows = work.iter().map(|work| rows(axes, &work.inputs));
        let rows: Vec<usize> = rows
            .collect::<Option<_>>()
            .ok_or_else(|| ModelError("no input has rows".to_owned()))?;
        let outputs = self.model.run(&stack(axes, work)?)?;
        unstack(axes, &outputs, &rows)
    }
}

fn rows(axes: &StackAxes, inputs: &[Tensor]) -> Option<usize> {
    let mut sizes = inputs.iter().zip(&axes.inputs);
    sizes.find_map(|(tensor, axis)| tensor.shape().dims().get((*axis)?).copied())
}

fn stack(axes: &StackAxes, work: &[Work]) -> Result<Inputs, ModelError> {
    let column = |(position, axis): (usize, &Option<usize>)| {
        let parts: Vec<&Tensor> = work.iter().filter_map(|work| work.inputs.get(position)).collect();
        match axis {
            Some(axis) => concatenate(&parts, *axis).map_err(failed),
            // The batch former has seen to it that they are the same, up to an unlucky hash.
            None => match &parts[..] {
                [first, others @ ..] if others.iter().all(|other| other == first) => Ok((*first).clone()),
                _ => Err(ModelError(
                    "requests with different shared inputs were stacked".to_owned(),
                )),
            },
        }
    };
    axes.inputs.iter().enumerate().map(column).collect()
}

fn unstack(axes: &StackAxes, outputs: &[Tensor], rows: &[usize]) -> Result<Vec<Outputs>, ModelError> {
    let mut answers: Vec<Outputs> = vec![Outputs::new(); rows.len()];
    for (output, axis) in outputs.iter().zip(&axes.outputs) {
        let pieces = split(output, *axis, rows).map_err(failed)?;
        for (answer, piece) in answers.iter_mut().zip(pieces) {
            answer.push(piece);
        }
    }
    Ok(answers)
}

fn failed(error: StackError) -> ModelError {
    ModelError(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Doubles its input; fails on any batch with a negative number; remembers the rows of each run.
    struct Doubler {
        runs: Vec<usize>,
    }

    impl TensorModel for Doubler {
        fn run(&mut self, inputs: &[Tensor]) -> Result<Outputs, ModelError> {
            let values = inputs[0].values::<f32>().unwrap();
            self.runs.push(inputs[0].shape().dims()[0]);
            if values.iter().any(|value| *value < 0.0) {
                return Err(ModelError("negative".to_owned()));
            }
            let doubled: Vec<f32> = values.iter().map(|value| value * 2.0).collect();
            Ok([Tensor::from_values(inputs[0].shape().clone(), &doubled).unwrap()]
                .into_iter()
                .collect())
        }
    }

    fn doubler() -> Stacked<Doubler> {
        let axes = StackAxes {
            inputs: vec![Some(0)],
            outputs: vec![0],
        };
        Stacked::new(Doubler { runs: vec![] }, Some(&axes))
    }

    fn request(rows: usize, value: f32) -> Work {
        let tensor = Tensor::from_values([rows, 2].into(), &vec![value; rows * 2]).unwrap();
        Work {
            id: 0,
            inputs: [tensor].into_iter().collect(),
            progress: Progress::Running,
        }
    }

    fn answer(work: &Work) -> Result<Vec<f32>, String> {
        match &work.progress {
            Progress::Finished(Ok(outputs)) => Ok(outputs[0].values::<f32>().unwrap().to_vec()),
            Progress::Finished(Err(error)) => Err(error.0.clone()),
            other => panic!("a tensor model finishes in one step, found {other:?}"),
        }
    }

    #[test]
    fn stacked_requests_get_their_own_rows_back() {
        let mut instance = doubler();
        let mut work = [request(1, 1.0), request(3, 2.0), request(2, 3.0)];
        instance.step(&mut work);
        assert_eq!(instance.model.runs, [6]);
        assert_eq!(answer(&work[0]), Ok(vec![2.0; 2]));
        assert_eq!(answer(&work[1]), Ok(vec![4.0; 6]));
        assert_eq!(answer(&work[2]), Ok(vec![6.0; 4]));
    }

    #[test]
    fn a_failing_request_fails_alone() {
        let mut instance = doubler();
        let mut work: Vec<_> = (0..8).map(|i| request(1, if i == 5 { -1.0 } else { 1.0 })).collect();
        instance.step(&mut work);
        for (index, work) in work.iter().enumerate() {
            let expected = if index == 5 {
                Err("negative".to_owned())
            } else {
                Ok(vec![2.0; 2])
            };
            assert_eq!(answer(work), expected, "request {index}");
        }
    }
}
