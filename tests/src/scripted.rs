//! A runtime that does what a test says: waits at a gate, fails, panics, takes its time, and remembers what it ran.
//!
//! Its models map the input `x` (FP32 `[-1]`) to the output `y`, twice as large. An `x` of [`FAILS`] makes the run fail,
//! one of [`PANICS`] makes it panic. The model file is text: `run_us = 50` makes each run take so long, `gated = 1` makes
//! each run wait for [`Script::open_gate`], `steps = 1` makes the model finish a request after as many steps as its
//! `x` says, as a language model would. `state = 1` makes a model with a state: [`MANIFEST_OF_STATE`] goes with it, and
//! [`next_state`] says what it does.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use grid_core::model::{Dim, Signature, StackAxes, TensorSpec};
use grid_core::tensor::{DataType, Tensor};
use grid_node::runtime::{
    Artifact, Instance, Model, ModelError, OpenError, OpenOptions, Outputs, Progress, Runtime, Stacked, TensorModel,
    Work,
};

/// An input that the model fails on.
pub const FAILS: f32 = -1.0;
/// An input that the model panics on.
pub const PANICS: f32 = -2.0;

/// What stands in the manifest of a model with a state.
pub const MANIFEST_OF_STATE: &str = "[[state]]\ninput = 's'\noutput = 's_out'\nshape = [1]\n";

/// The state after `x`, which is also the output `y`: it tells which inputs came before it, and in which order.
pub fn next_state(state: f32, x: f32) -> f32 {
    // Below 2^24, so that an f32 has every value.
    (state * 31.0 + x) % 65_521.0
}

/// Longest that a run waits at a closed gate: a test that forgot to open it fails instead of hanging.
const GATE_LIMIT: Duration = Duration::from_secs(60);

/// A run: of a model that works in steps, one step.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its inputs, of all requests in it.
    pub x: Vec<f32>,
    /// When it began.
    pub begun: Instant,
    /// When it ended; `None` while it has not.
    pub ended: Option<Instant>,
}

/// What the models of a runtime did, and the gate before their runs. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Script(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    opened: Condvar,
}

#[derive(Debug, Default)]
struct State {
    runs: Vec<Run>,
    at_gate: usize,
    open: bool,
}

impl Script {
    /// The inputs of every run that has begun, in order.
    pub fn runs(&self) -> Vec<Vec<f32>> {
        self.lock().runs.iter().map(|run| run.x.clone()).collect()
    }

    /// The last run that had this input.
    pub fn last_run_with(&self, x: f32) -> Option<Run> {
        self.lock().runs.iter().rev().find(|run| run.x.contains(&x)).cloned()
    }

    /// Every run that had this input, in order.
    pub fn runs_with(&self, x: f32) -> Vec<Run> {
        let state = self.lock();
        state.runs.iter().filter(|run| run.x.contains(&x)).cloned().collect()
    }

    /// Whether any run has begun that had this input.
    pub fn has_run(&self, x: f32) -> bool {
        self.lock().runs.iter().any(|run| run.x.contains(&x))
    }

    /// Runs that wait at the gate.
    pub fn at_gate(&self) -> usize {
        self.lock().at_gate
    }

    /// Lets all runs through, those to come too.
    pub fn open_gate(&self) {
        self.lock().open = true;
        self.0.opened.notify_all();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a run has begun, and where.
    fn begun(&self, x: &[f32]) -> usize {
        let mut state = self.lock();
        state.runs.push(Run {
            x: x.to_vec(),
            begun: Instant::now(),
            ended: None,
        });
        state.runs.len() - 1
    }

    fn pass_gate(&self) {
        let mut state = self.lock();
        state.at_gate += 1;
        let waited = self.0.opened.wait_timeout_while(state, GATE_LIMIT, |state| !state.open);
        let (mut state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        state.at_gate -= 1;
        assert!(!timeout.timed_out(), "the gate stayed closed");
    }
}

/// The runtime. Every model that it opens writes into the same script.
#[derive(Debug, Default)]
pub struct ScriptedRuntime(pub Script);

impl Runtime for ScriptedRuntime {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn version(&self) -> String {
        "1".to_owned()
    }

    fn open(&self, artifact: &Artifact, _: &OpenOptions) -> Result<Arc<dyn Model>, OpenError> {
        let text = std::fs::read_to_string(&artifact.path).map_err(|error| OpenError::Unreadable {
            path: artifact.path.clone(),
            reason: error.to_string(),
        })?;
        let mut settings = BTreeMap::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let parsed = line
                .split_once('=')
                .and_then(|(key, value)| Some((key.trim().to_owned(), value.trim().parse::<u64>().ok()?)));
            let Some((key, value)) = parsed else {
                return Err(OpenError::Invalid {
                    path: artifact.path.clone(),
                    reason: format!("expected `key = number`, found `{line}`"),
                });
            };
            settings.insert(key, value);
        }
        let spec = |name: &str| TensorSpec {
            name: name.to_owned(),
            data_type: DataType::Fp32,
            shape: Some(vec![Dim::Dynamic]),
        };
        let has_state = settings.contains_key("state");
        let names = |own: &str, state: &str| {
            [own, state][..1 + usize::from(has_state)]
                .iter()
                .map(|name| spec(name))
                .collect()
        };
        Ok(Arc::new(ScriptedModel {
            signature: Signature {
                inputs: names("x", "s"),
                outputs: names("y", "s_out"),
            },
            behaviour: Behaviour {
                script: self.0.clone(),
                run: Duration::from_micros(settings.get("run_us").copied().unwrap_or(0)),
                gated: settings.contains_key("gated"),
            },
            in_steps: settings.contains_key("steps"),
        }))
    }
}

struct ScriptedModel {
    signature: Signature,
    behaviour: Behaviour,
    in_steps: bool,
}

impl Model for ScriptedModel {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn instance(&self, axes: Option<&StackAxes>) -> Result<Box<dyn Instance>, OpenError> {
        let behaviour = self.behaviour.clone();
        Ok(if self.in_steps {
            Box::new(Stepped {
                behaviour,
                positions: BTreeMap::new(),
            })
        } else {
            Box::new(Stacked::new(behaviour, axes))
        })
    }
}

#[derive(Clone)]
struct Behaviour {
    script: Script,
    run: Duration,
    gated: bool,
}

impl Behaviour {
    fn compute(&self, x: &[f32]) {
        // Zeros are what a warm-up sends: nothing that a test counts.
        if x.iter().all(|x| *x == 0.0) {
            return;
        }
        let place = self.script.begun(x);
        if self.gated {
            self.script.pass_gate();
        }
        let until = Instant::now() + self.run;
        while Instant::now() < until {
            // A run computes; sleeping would leave the core to others. Long ones sleep, to spare the machine.
            if self.run > Duration::from_millis(2) {
                thread::sleep(self.run);
            }
        }
        self.script.lock().runs[place].ended = Some(Instant::now());
        assert!(!x.contains(&PANICS), "the input {PANICS} makes it panic");
    }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.values::<f32>().map(<[f32]>::to_vec).unwrap_or_default()
}

fn doubled(x: &[f32]) -> Result<Outputs, ModelError> {
    let y: Vec<f32> = x.iter().map(|x| x * 2.0).collect();
    let tensor = Tensor::from_values([y.len()].into(), &y).map_err(|error| ModelError(error.to_string()))?;
    Ok(Outputs::from_iter([tensor]))
}

impl TensorModel for Behaviour {
    fn run(&mut self, inputs: &[Tensor]) -> Result<Outputs, ModelError> {
        let x = values(&inputs[0]);
        self.compute(&x);
        if x.contains(&FAILS) {
            return Err(ModelError(format!("the input {FAILS} makes it fail")));
        }
        let Some(state) = inputs.get(1).map(values) else {
            return doubled(&x);
        };
        let next: Vec<f32> = state.iter().zip(&x).map(|(state, x)| next_state(*state, *x)).collect();
        let next = Tensor::from_values([next.len()].into(), &next).map_err(|error| ModelError(error.to_string()))?;
        Ok(Outputs::from_iter([next.clone(), next]))
    }
}

/// Finishes each request after as many steps as its input says, whoever else is resident, and emits the number of each
/// step before the last.
struct Stepped {
    behaviour: Behaviour,
    /// Steps done for each resident request, by its id.
    positions: BTreeMap<u64, usize>,
}

impl Instance for Stepped {
    fn slots(&self) -> usize {
        4
    }

    fn step(&mut self, work: &mut [Work]) {
        let inputs: Vec<f32> = work.iter().flat_map(|work| values(&work.inputs[0])).collect();
        self.behaviour.compute(&inputs);
        self.positions.retain(|id, _| work.iter().any(|work| work.id == *id));
        for work in work {
            let position = self.positions.entry(work.id).or_default();
            *position += 1;
            let x = values(&work.inputs[0]);
            work.progress = if *position >= x[0] as usize {
                Progress::Finished(doubled(&x))
            } else {
                doubled(&[*position as f32]).map_or_else(|error| Progress::Finished(Err(error)), Progress::Emitted)
            };
        }
    }
}
