//! The way to one instance: admission, queue, and the run itself.
//!
//! A lane is the inference mailbox of a shard actor. It is not the actix mailbox because that one can neither be bounded
//! (each clone of an address gets a place of its own) nor be sorted, stacked or left in the middle. It ends with its
//! actor's incarnation: [`Lane::close`] answers what has not run with [`InferError::ReplicaLost`], which lets the router
//! send it elsewhere, and lets finish what runs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use grid_core::InferError;
use grid_core::batching::{BatchPolicy, BatchQueue, Next};
use grid_core::dispatch::{Load, expected_wait};
use grid_core::model::ModelId;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tracing::debug_span;

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
pub(super) struct Turn {
    pub(super) ran: Duration,
    pub(super) hold_until: Option<Instant>,
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

    /// Whose instance it leads to.
    pub fn model(&self) -> &ModelId {
        &self.options.model
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

    pub(super) fn has_work(&self) -> bool {
        !self.queue.lock().is_empty() || self.seat.try_lock().is_some_and(|seat| !seat.resident.is_empty())
    }

    /// Runs the request on this thread, if the instance is free and requests of this size were measured to be quick.
    ///
    /// It may overtake requests that wait in the queue: the instance was free, so they wait for a compute thread to come,
    /// and the lock is handed to a thread that waits for it within a millisecond. Holding quick requests back until the
    /// queue is empty was tried: under load it then never was, each request paid for two thread switches, and a lane that
    /// had once been slow stayed so.
    pub fn run_inline(&self, request: &Request) -> Option<Outcome> {
        let expected = self.service.of_size(request.bytes())?;
        if expected >= self.options.inline_below || self.closed.load(Ordering::Acquire) {
            return None;
        }
        let mut seat = self.seat.try_lock()?;
        if !seat.resident.is_empty() {
            return None;
        }
        let instance = seat.instance.as_deref_mut()?;
        let _in_flight = InFlight::count_in(&self.in_flight);
        let started = Instant::now();
        if request.deadline <= started {
            return Some(Err(self.too_late(request)));
        }
        let mut work = [self.work(request)];
        let span = debug_span!(parent: &request.span, "shard.run", model = %self.options.model.name, inline = true);
        let ran = span.in_scope(|| self.step(instance, &mut work, started));
        let [work] = work;
        match work.progress {
            Progress::Finished(outputs) => {
                let timing = Timing {
                    queued: started.saturating_duration_since(request.entry.arrived),
                    computed: ran,
                    rows: request.entry.rows,
                };
                self.record_run(&[(request, outputs.is_ok())], timing, started);
                Some(self.outcome(outputs, timing))
            }
            // Only models that finish in one step have run times per size that are short; but a model may change its
            // mind. It cannot be left half-way on a caller's thread.
            Progress::Running | Progress::Emitted(_) => Some(Err(
                self.failed("a request that should have finished in one step did not")
            )),
        }
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
        let wait = expected_wait(self.in_flight(), self.service.per_request());
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

    /// One turn of a compute thread: takes requests in as the batch former says, and advances the instance one step.
    pub(super) fn turn(&self) -> Turn {
        let mut seat = self.seat.lock();
        let seat = &mut *seat;
        let mut turn = Turn {
            ran: Duration::ZERO,
            hold_until: None,
        };
        let Some(instance) = seat.instance.as_deref_mut() else {
            return turn;
        };
        seat.resident.retain(|(job, _)| !job.reply.is_closed());
        turn.hold_until = self.admit(&mut seat.resident);
        if seat.resident.is_empty() {
            return turn;
        }
        let started = Instant::now();
        let (mut jobs, mut work): (Vec<Job>, Vec<Work>) = seat.resident.drain(..).unzip();
        let spans: Vec<_> = jobs
            .iter()
            .map(|job| debug_span!(parent: &job.request.span, "shard.run", model = %self.options.model.name, stacked = jobs.len()))
            .collect();
        let ran = match &spans[..] {
            [alone] => alone.in_scope(|| self.step(instance, &mut work, started)),
            _ => self.step(instance, &mut work, started),
        };
        turn.ran = ran;
        drop(spans);
        self.settle(&mut jobs, work, started, ran, &mut seat.resident);
        let ended = started + ran;
        self.queue.lock().run_ended(ended);
        turn
    }

    fn admit(&self, resident: &mut Vec<(Job, Work)>) -> Option<Instant> {
        let slots = self.options.slots.saturating_sub(resident.len());
        loop {
            let now = Instant::now();
            let next = self.queue.lock().next(now, slots);
            let jobs = match next {
                Next::Empty => return None,
                Next::HoldUntil(until) if resident.is_empty() => return Some(until),
                Next::HoldUntil(_) => return None,
                Next::Run(jobs) => jobs,
            };
            let none_fit = jobs.is_empty();
            for job in jobs {
                if job.reply.is_closed() {
                    continue;
                }
                if job.request.deadline <= now {
                    let error = self.too_late(&job.request);
                    job.finish(Err(error));
                    continue;
                }
                let work = self.work(&job.request);
                resident.push((job, work));
            }
            // A batch of which nobody is left is no reason to end the turn: the next may stand behind it.
            if none_fit || !resident.is_empty() {
                return None;
            }
        }
    }

    /// One step, with panics caught. Returns its length.
    fn step(&self, instance: &mut dyn Instance, work: &mut [Work], started: Instant) -> Duration {
        if let Err(reason) = step_caught(instance, work) {
            self.panicked.store(true, Ordering::Release);
            self.find_panicking(instance, work, &reason);
            // No more is admitted before whoever supervises the instance has replaced it.
            self.close();
            (self.on_panic)();
        }
        started.elapsed()
    }

    /// After a panic: gives each request its own outcome, by halves, so that only the one that panics has none.
    fn find_panicking(&self, instance: &mut dyn Instance, work: &mut [Work], reason: &str) {
        if let [alone] = work {
            alone.progress = Progress::Finished(Err(crate::runtime::ModelError(format!("it panicked: {reason}"))));
            return;
        }
        let (left, right) = work.split_at_mut(work.len() / 2);
        for half in [left, right] {
            if let Err(reason) = step_caught(instance, half) {
                self.find_panicking(instance, half, &reason);
            }
        }
    }

    /// Answers those who have finished; the others stay resident.
    fn settle(
        &self,
        jobs: &mut Vec<Job>,
        work: Vec<Work>,
        started: Instant,
        ran: Duration,
        resident: &mut Vec<(Job, Work)>,
    ) {
        let rows = jobs.iter().map(|job| job.request.entry.rows).sum();
        let timing = |job: &Job| Timing {
            queued: started.saturating_duration_since(job.request.entry.arrived),
            computed: ran,
            rows,
        };
        let finished: Vec<(&Request, bool)> = jobs
            .iter()
            .zip(&work)
            .filter_map(|(job, work)| match &work.progress {
                Progress::Finished(outputs) => Some((&job.request, outputs.is_ok())),
                _ => None,
            })
            .collect();
        let run = Timing {
            queued: Duration::ZERO,
            computed: ran,
            rows,
        };
        self.record_run(&finished, run, started);
        let ended = self.panicked.load(Ordering::Acquire);
        for (job, mut work) in jobs.drain(..).zip(work) {
            match std::mem::replace(&mut work.progress, Progress::Running) {
                Progress::Finished(outputs) => {
                    let timing = timing(&job);
                    job.finish(self.outcome(outputs, timing));
                }
                Progress::Running | Progress::Emitted(_) if ended => {
                    let error = self.failed("its instance ended while the request was under way");
                    job.finish(Err(error));
                }
                Progress::Running => resident.push((job, work)),
                Progress::Emitted(outputs) => match job.request.emit(outputs) {
                    Ok(()) => resident.push((job, work)),
                    Err(reason) => {
                        let error = self.failed(reason);
                        job.finish(Err(error));
                    }
                },
            }
        }
    }

    fn outcome(&self, outputs: Result<Outputs, crate::runtime::ModelError>, timing: Timing) -> Outcome {
        match outputs {
            Ok(outputs) => Ok(Answer { outputs, timing }),
            Err(error) => Err(self.failed(error.0)),
        }
    }

    /// Records a run and those who finished in it, each with whether it has outputs.
    fn record_run(&self, finished: &[(&Request, bool)], run: Timing, started: Instant) {
        let bytes = finished.iter().map(|(request, _)| request.bytes()).sum();
        self.service.add(run.computed, finished.len(), bytes);
        let metrics = &self.options.metrics;
        metrics.computed.record(run.computed);
        metrics.rows.record(run.rows as f64);
        let mut stats = self.stats.lock();
        stats.add_run(run.rows, run.computed, started + run.computed);
        for (request, succeeded) in finished {
            let queued = started.saturating_duration_since(request.entry.arrived);
            metrics.queued.record(queued);
            stats.queued += queued;
            stats.computed += run.computed;
            if *succeeded {
                stats.succeeded += 1;
                stats.rows += request.entry.rows as u64;
                stats.time_of_succeeded += queued + run.computed;
            } else {
                stats.failed += 1;
                stats.time_of_failed += queued + run.computed;
            }
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

fn step_caught(instance: &mut dyn Instance, work: &mut [Work]) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| instance.step(work))).map_err(|panic| {
        panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "without a message".to_owned())
    })
}
