//! The floor under a node: the runtime that it would choose, in a loop over inputs that lie ready, on as many threads as it
//! has compute threads, each with an instance of its own.

use std::error::Error;
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::time::Instant;

use grid_core::config;
use grid_core::model::Signature;
use grid_node::loading::compute_threads;
use grid_node::runtime::rten::on_compute_thread;
use grid_node::runtime::{Artifact, Format, Inputs, Instance, Model, OpenOptions, Progress, Runtimes, Work};

use crate::bench::{Side, in_turns};
use crate::{median, repository_root};

/// A model that is run without a node.
pub struct RuntimeAlone {
    model: Arc<dyn Model>,
    runtime: &'static str,
    threads: usize,
}

impl RuntimeAlone {
    /// Opens a model file.
    ///
    /// # Errors
    /// When no runtime takes it, or the config of this machine is wrong.
    pub fn open(file: &Path) -> Result<Self, Box<dyn Error>> {
        let data_dir = repository_root().join(".grid/data");
        let text = format!("node.data_dir = '{}'\nmodels.repository = '.'", data_dir.display());
        let config = config::parse("floor.toml", &text, std::env::vars())
            .map_err(|problems| problems.iter().map(ToString::to_string).collect::<String>())?;
        let runtime = Runtimes::of_config(&config).for_model(Format::Onnx, None)?;
        let artifact = Artifact {
            path: file.to_owned(),
            format: Format::Onnx,
            bytes: file.metadata()?.len(),
        };
        Ok(Self {
            model: runtime.open(&artifact, &OpenOptions { threads_per_run: 1 })?,
            runtime: runtime.name(),
            threads: compute_threads(&config),
        })
    }

    /// Which runtime it is.
    pub fn runtime(&self) -> &'static str {
        self.runtime
    }

    /// How many threads run it.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// What it takes and gives.
    pub fn signature(&self) -> &Signature {
        self.model.signature()
    }

    /// Rows a second by the rows of a run, for each of `sizes`, which take turns; medians over the rounds. `inputs` are
    /// those of a run of so many rows.
    ///
    /// # Errors
    /// When a run fails.
    pub fn rows_per_second(
        &self,
        sizes: &[usize],
        inputs: &dyn Fn(usize) -> Result<Inputs, Box<dyn Error>>,
        rounds: usize,
        seconds: f64,
    ) -> Result<Vec<(usize, f64)>, Box<dyn Error>> {
        let mut sides = Vec::new();
        for &rows in sizes {
            let inputs = inputs(rows)?;
            let side: Side<'_, f64, Box<dyn Error>> =
                Box::new(move || Ok(rows as f64 * self.runs_per_second(&inputs, seconds)?));
            sides.push(side);
        }
        let rates = in_turns(rounds, sides)?;
        let by_size = sizes.iter().enumerate();
        Ok(by_size
            .map(|(side, &rows)| (rows, median(rates.iter().map(|row| row[side]))))
            .collect())
    }

    /// Runs a second of all threads together.
    ///
    /// # Errors
    /// When a run fails.
    pub fn runs_per_second(&self, inputs: &Inputs, seconds: f64) -> Result<f64, Box<dyn Error>> {
        let together = Barrier::new(self.threads);
        let rates: Vec<Result<f64, String>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads)
                .map(|_| scope.spawn(|| on_compute_thread(|| self.run_for(inputs, seconds, &together))))
                .collect();
            threads
                .into_iter()
                .map(|thread| {
                    thread
                        .join()
                        .unwrap_or_else(|_| Err("a thread of the floor panicked".to_owned()))
                })
                .collect()
        });
        Ok(rates.into_iter().sum::<Result<f64, String>>()?)
    }

    fn run_for(&self, inputs: &Inputs, seconds: f64, together: &Barrier) -> Result<f64, String> {
        let warm = self
            .model
            .instance(None)
            .map_err(|error| error.to_string())
            .and_then(|mut instance| once(instance.as_mut(), inputs).map(|()| instance));
        // Waited for after a failure too, or the others would wait for ever.
        together.wait();
        let mut instance = warm?;
        let (start, mut runs) = (Instant::now(), 0);
        while start.elapsed().as_secs_f64() < seconds {
            once(instance.as_mut(), inputs)?;
            runs += 1;
        }
        Ok(f64::from(runs) / start.elapsed().as_secs_f64())
    }
}

fn once(instance: &mut dyn Instance, inputs: &Inputs) -> Result<(), String> {
    let mut work = [Work {
        id: 0,
        inputs: inputs.clone(),
        progress: Progress::Running,
    }];
    instance.step(&mut work);
    let [work] = work;
    match work.progress {
        Progress::Finished(Ok(_)) => Ok(()),
        progress => Err(format!("the runtime alone: {progress:?}")),
    }
}
