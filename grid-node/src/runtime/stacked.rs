//! Makes an [`Instance`] of a [`TensorModel`] by stacking requests along their first dimension.
//!
//! What is stacked is chosen before, by the batch former: requests whose tensors differ in their first dimension alone,
//! and never more rows than the model's `max_batch_size`. Here they become one run, and its outputs are cut apart
//! again without copying. If the run fails, it is split in halves until the request that fails stands alone, so that
//! its neighbours get their answers.

use grid_core::tensor::{AlignedBytes, Tensor};

use super::{Inputs, Instance, ModelError, Outputs, Progress, TensorModel, Work};

/// An instance that runs `M` over stacked requests.
#[derive(Debug)]
pub struct Stacked<M>(pub M);

impl<M: TensorModel> Instance for Stacked<M> {
    fn finishes_in_one_step(&self) -> bool {
        true
    }

    fn step(&mut self, work: &mut [Work]) {
        match work {
            [] => {}
            [alone] => alone.progress = Progress::Finished(self.0.run(&alone.inputs)),
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
        let rows: Vec<usize> = work.iter().map(|work| rows(&work.inputs)).collect();
        let inputs = stack(work)?;
        let outputs = self.0.run(&inputs)?;
        unstack(&outputs, &rows)
    }
}

/// Rows of a request: the first dimension of its inputs.
fn rows(inputs: &[Tensor]) -> usize {
    inputs
        .first()
        .and_then(|tensor| tensor.shape().dims().first().copied())
        .unwrap_or(1)
}

fn stack(work: &[Work]) -> Result<Inputs, ModelError> {
    let columns = work.first().map_or(0, |first| first.inputs.len());
    (0..columns)
        .map(|column| {
            let parts = || work.iter().map(|work| &work.inputs[column]);
            let first = &work[0].inputs[column];
            let rows = parts().map(|part| part.shape().dims()[0]).sum();
            let mut bytes = AlignedBytes::with_capacity(parts().map(|part| part.data().len()).sum());
            for part in parts() {
                bytes.extend_from_slice(part.data().as_slice());
            }
            Tensor::new(first.data_type(), first.shape().with_first(rows), bytes.freeze())
                .map_err(|error| ModelError(error.to_string()))
        })
        .collect()
}

fn unstack(outputs: &[Tensor], rows: &[usize]) -> Result<Vec<Outputs>, ModelError> {
    let total: usize = rows.iter().sum();
    for output in outputs {
        if output.shape().dims().first() != Some(&total) {
            return Err(ModelError(format!(
                "an output of shape {} came back for {total} stacked rows",
                output.shape()
            )));
        }
    }
    let mut from = 0;
    rows.iter()
        .map(|&count| {
            let answer = outputs.iter().map(|output| cut(output, from, count, total)).collect();
            from += count;
            answer
        })
        .collect()
}

/// Rows `from..from + count` of a tensor of `total` rows, sharing its memory.
fn cut(tensor: &Tensor, from: usize, count: usize, total: usize) -> Result<Tensor, ModelError> {
    let row_bytes = tensor.data().len().checked_div(total).unwrap_or(0);
    tensor
        .data()
        .slice(from * row_bytes, (from + count) * row_bytes)
        .ok_or_else(|| ModelError("stacked rows reach past the output".to_owned()))
        .and_then(|data| {
            Tensor::new(tensor.data_type(), tensor.shape().with_first(count), data)
                .map_err(|error| ModelError(error.to_string()))
        })
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
        let mut instance = Stacked(Doubler { runs: vec![] });
        let mut work = [request(1, 1.0), request(3, 2.0), request(2, 3.0)];
        instance.step(&mut work);
        assert_eq!(instance.0.runs, [6]);
        assert_eq!(answer(&work[0]), Ok(vec![2.0; 2]));
        assert_eq!(answer(&work[1]), Ok(vec![4.0; 6]));
        assert_eq!(answer(&work[2]), Ok(vec![6.0; 4]));
    }

    #[test]
    fn a_failing_request_fails_alone() {
        let mut instance = Stacked(Doubler { runs: vec![] });
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
