//! The way to one instance: admission, queue, and the run itself.
//!
//! A lane is the inference mailbox of a shard actor. It is not the actix mailbox because that one can neither be bounded
//! (each clone of an address gets a place of its own) nor be sorted, stacked or left in the middle. It ends with its
//! actor's incarnation: [`Lane::close`] answers what has not run with [`InferError::ReplicaLost`], which lets the router
//! send it elsewhere, and lets finish what runs.

mod run;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use grid_core::InferError;
use grid_core::batching::{BatchPolicy, BatchQueue};
use grid_core::dispatch::{Load, expected_wait};
use grid_core::model::ModelId;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::request::{Answer, InFlight, Job, Outcome, Request, Timing};
use super::service_time::ServiceTime;
use super::stats::RunStats;
use crate::runtime::{Instance, Outputs, Progress, Work};
use crate::telemetry::ModelMetrics;

/// What a lane is made with.
#[derive(Debug)]
pub struct LaneOptions {
    /// Whose instance it leads to.
    pub model: ModelId,
    /// Queue bound and stacking.
    pub policy: BatchPolicy,
    /// Share of compute time against other models.
    pub weight: u32,
    /// Most requests that may be resident in the instance at once.
    pub slots: usize,
    /// Whether a request takes several steps, and may have outputs before its last one.
    pub in_steps: bool,
    /// Requests whose runs are measured to be shorter may run on the caller's thread.
    pub inline_below: Duration,
    /// Where run times are recorded.
    pub metrics: Arc<ModelMetrics>,
}

/// The instance and what is resident in it.
struct Seat {
    instance: Option<Box<dyn Instance>>,
    resident: Vec<(Job, Work)>,
}

type OnPanic = Box<dyn Fn() + Send + Sync>;

/// The way to one instance. See the module's documentation.
pub struct Lane {
    options: LaneOptions,
    queue: Mutex<BatchQueue<Job>>,
    /// Set under the lock of the queue; read without it before an inline run.
    closed: AtomicBool,
    seat: Mutex<Seat>,
    in_flight: Arc<AtomicUsize>,
    service: ServiceTime,
    /// Requests that were given to the instance, ever.
    given: AtomicU64,
    stats: Mutex<RunStats>,
    panicked: AtomicBool,
    on_panic: OnPanic,
}

/// What a compute thread did in its turn, and what the lane needs next.
#[derive(Default)]
pub(super) struct Turn {
    pub(super) ran: Duration,
    pub(super) hold_until: Option<Instant>,
    /// Requests are resident that want another step.
    pub(super) unfinished: bool,
}

impl Lane {
    /// A lane to `instance`. `on_panic` is called once, from whatever thread ran it, when the instance panicked.
    pub fn new(options: LaneOptions, instance: Box<dyn Instance>, on_panic: OnPanic) -> Self {
        Self {
            queue: Mutex::new(BatchQueue::new(options.policy)),
            closed: AtomicBool::new(false),
            seat: Mutex::new(Seat {
                instance: Some(instance),
                resident: Vec::new(),
            }),
            in_flight: Arc::new(AtomicUsize::new(0)),
            service: ServiceTime::new(),
            given: AtomicU64::new(0),
            stats: Mutex::default(),
            panicked: AtomicBool::new(false),
            on_panic,
            options,
        }
    }

    /// Whether it takes no more requests.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Whose instance it leads to.
    pub fn model(&self) -> &ModelId {
        &self.options.model
    }

    /// Whether a request takes several steps, and may have outputs before its last one.
    pub fn in_steps(&self) -> bool {
        self.options.in_steps
    }

    pub(super) fn weight(&self) -> u32 {
        self.options.weight
    }

    /// Requests accepted and not answered, and what one takes.
    pub fn load(&self) -> Load {
        Load {
            in_flight: self.in_flight(),
            service: self.service.per_request(),
            capacity: 100,
        }
    }

    /// Requests accepted and not answered.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    /// Requests waiting.
    pub fn waiting(&self) -> usize {
        self.queue.lock().len()
    }

    /// What it has done.
    pub fn stats(&self) -> RunStats {
        self.stats.lock().clone()
    }

    /// `None` before the first run.
    pub(super) fn expected_run(&self) -> Option<Duration> {
        self.service.per_run()
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.queue.lock().is_empty()
    }

    /// Runs the request on this thread, if the instance is free and requests of this size were measured to be quick.
    ///
    /// It may overtake requests that wait in the queue: the instance was free, so they wait for a compute thread to come,
    /// and the lock is handed to a thread that waits for it within a millisecond. Holding quick requests back until the
    /// queue is empty was tried: under load it then never was, each request paid for two thread switches, and a lane that
    /// had once been slow stayed so.
    pub fn run_inline(&self, request: &Request) -> Option<Outcome> {
        let expected = self.service.of_size(request.bytes())?;
        if expected >= self.options.inline_below {
            return None;
        }
        let mut seat = self.seat.try_lock()?;
        let instance = seat.instance.as_deref_mut()?;
        // With the seat taken, no panic can close it any more.
        if self.closed.load(Ordering::Acquire) || !instance.finishes_in_one_step() {
            return None;
        }
        Some(self.run_alone(instance, request))
    }

    /// Queues the request for the compute threads; the caller then tells the pool. Dropping the receiver cancels the
    /// request.
    ///
    /// # Errors
    /// [`InferError::Overloaded`] when the queue is full or its wait longer than the request has time,
    /// [`InferError::ReplicaLost`] when the lane is closed.
    pub fn enqueue(&self, request: &Request) -> Result<oneshot::Receiver<Outcome>, InferError> {
        let overloaded = |reason: String, retry_after| InferError::Overloaded {
            model: self.options.model.clone(),
            reason,
            retry_after,
        };
        let wait = expected_wait(self.in_flight(), self.service.per_request().unwrap_or_default());
        let remaining = request.deadline.saturating_duration_since(Instant::now());
        if wait > remaining {
            let reason = format!("the wait is {wait:.1?}, the request has {remaining:.1?} left");
            return Err(overloaded(reason, wait - remaining));
        }
        let (reply, receiver) = oneshot::channel();
        let job = Job {
            request: request.clone(),
            reply,
            in_flight: InFlight::count_in(&self.in_flight),
            begun: None,
        };
        let mut queue = self.queue.lock();
        if self.closed.load(Ordering::Acquire) {
            return Err(self.lost());
        }
        let Err(job) = queue.push(request.entry, job) else {
            return Ok(receiver);
        };
        // The places of those who have gone are free. They are swept only now: a look at each costs more than it buys
        // while there is room.
        let gone = queue.sweep(|waiting| waiting.reply.is_closed());
        let pushed = queue.push(request.entry, job);
        drop(queue);
        drop(gone);
        match pushed {
            Ok(()) => Ok(receiver),
            Err(_) => Err(overloaded(
                format!("{} requests wait already", self.options.policy.bound),
                wait.max(Duration::from_millis(1)),
            )),
        }
    }

    fn outcome(&self, outputs: Result<Outputs, crate::runtime::ModelError>, timing: Timing) -> Outcome {
        match outputs {
            Ok(outputs) => Ok(Answer { outputs, timing }),
            Err(error) => Err(self.failed(error.0)),
        }
    }

    fn work(&self, request: &Request) -> Work {
        Work {
            id: 1 + self.given.fetch_add(1, Ordering::Relaxed),
            inputs: request.inputs.clone(),
            progress: Progress::Running,
        }
    }

    fn failed(&self, reason: impl Into<String>) -> InferError {
        InferError::ModelFailed {
            model: self.options.model.clone(),
            reason: reason.into(),
        }
    }

    fn too_late(&self, request: &Request) -> InferError {
        InferError::DeadlineExceeded {
            model: self.options.model.clone(),
            timeout: request.deadline.saturating_duration_since(request.entry.arrived),
        }
    }

    fn lost(&self) -> InferError {
        InferError::ReplicaLost {
            model: self.options.model.clone(),
        }
    }

    /// Ends admission and answers what waits with [`InferError::ReplicaLost`]. What runs is finished and answered.
    /// Closing twice does nothing.
    pub fn close(&self) {
        let waiting = {
            let mut queue = self.queue.lock();
            self.closed.store(true, Ordering::Release);
            queue.drain()
        };
        for job in waiting {
            job.finish(Err(self.lost()));
        }
    }

    /// Frees the instance, waiting for the end of a run that is under way. For loader threads: it blocks, and freeing
    /// weights takes its time. Does [`Lane::close`] first.
    pub fn unload(&self) {
        self.close();
        let (instance, resident) = {
            let mut seat = self.seat.lock();
            (seat.instance.take(), std::mem::take(&mut seat.resident))
        };
        for (job, _) in resident {
            job.finish(Err(self.lost()));
        }
        drop(instance);
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lane({}, {} in flight)", self.options.model, self.in_flight())
    }
}
