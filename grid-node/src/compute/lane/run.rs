//! What happens while a thread has the instance: admission from the queue, the step, the answers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use grid_core::batching::Next;
use tracing::debug_span;

use super::{Lane, Turn};
use crate::compute::request::{InFlight, Job, Outcome, Request, Timing};
use crate::runtime::{Instance, ModelError, Progress, Work};

/// A step, as it is recorded.
struct Step {
    started: Instant,
    ran: Duration,
    /// Rows of all requests in it.
    rows: usize,
    /// Requests in it.
    requests: usize,
}

/// A request that a step finished.
struct Finished<'a> {
    request: &'a Request,
    succeeded: bool,
    /// When its first step began.
    begun: Instant,
}

impl Lane {
    /// Runs one request to its end on the thread of its caller.
    pub(super) fn run_alone(&self, instance: &mut dyn Instance, request: &Request) -> Outcome {
        let started = Instant::now();
        if request.deadline <= started {
            return Err(self.too_late(request));
        }
        let _in_flight = InFlight::count_in(&self.in_flight);
        let mut work = [self.work(request)];
        let span = debug_span!(parent: &request.span, "shard.run", model = %self.options.model.name, inline = true);
        let ran = span.in_scope(|| self.step(instance, &mut work, started));
        let [work] = work;
        let Progress::Finished(outputs) = work.progress else {
            return Err(self.failed("its instance said that it finishes in one step, and did not"));
        };
        let step = Step {
            started,
            ran,
            rows: request.entry.rows,
            requests: 1,
        };
        let finished = Finished {
            request,
            succeeded: outputs.is_ok(),
            begun: started,
        };
        self.record(&step, &[finished]);
        let timing = Timing {
            queued: started.saturating_duration_since(request.entry.arrived),
            computed: ran,
            rows: request.entry.rows,
        };
        self.outcome(outputs, timing)
    }

    /// One turn of a compute thread: takes requests in as the batch former says, and advances the instance one step.
    pub(in crate::compute) fn turn(&self) -> Turn {
        let mut seat = self.seat.lock();
        let seat = &mut *seat;
        let mut turn = Turn::default();
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
        for job in &mut jobs {
            job.begun.get_or_insert(started);
        }
        let spans: Vec<_> = jobs
            .iter()
            .map(|job| debug_span!(parent: &job.request.span, "shard.run", model = %self.options.model.name, stacked = jobs.len()))
            .collect();
        turn.ran = match &spans[..] {
            [alone] => alone.in_scope(|| self.step(instance, &mut work, started)),
            _ => self.step(instance, &mut work, started),
        };
        drop(spans);
        let step = Step {
            started,
            ran: turn.ran,
            // Tensors without elements may claim any number of rows.
            rows: jobs
                .iter()
                .fold(0, |rows, job| job.request.entry.rows.saturating_add(rows)),
            requests: jobs.len(),
        };
        self.settle(jobs, work, &step, &mut seat.resident);
        turn.unfinished = !seat.resident.is_empty();
        self.queue.lock().run_ended(started + turn.ran);
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
            alone.progress = Progress::Finished(Err(ModelError(format!("it panicked: {reason}"))));
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
    fn settle(&self, jobs: Vec<Job>, work: Vec<Work>, step: &Step, resident: &mut Vec<(Job, Work)>) {
        let finished: Vec<Finished<'_>> = jobs
            .iter()
            .zip(&work)
            .filter_map(|(job, work)| match &work.progress {
                Progress::Finished(outputs) => Some(Finished {
                    request: &job.request,
                    succeeded: outputs.is_ok(),
                    begun: job.begun.unwrap_or(step.started),
                }),
                Progress::Running | Progress::Emitted(_) => None,
            })
            .collect();
        self.record(step, &finished);
        let ended = self.panicked.load(Ordering::Acquire);
        for (job, mut work) in jobs.into_iter().zip(work) {
            match std::mem::replace(&mut work.progress, Progress::Running) {
                Progress::Finished(outputs) => {
                    let begun = job.begun.unwrap_or(step.started);
                    let timing = Timing {
                        queued: begun.saturating_duration_since(job.request.entry.arrived),
                        computed: step.started.saturating_duration_since(begun) + step.ran,
                        rows: step.rows,
                    };
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

    /// Records a step and those who finished in it.
    fn record(&self, step: &Step, finished: &[Finished<'_>]) {
        let ended = step.started + step.ran;
        self.service.add_run(step.ran);
        if finished.len() == step.requests {
            let bytes = finished.iter().map(|one| one.request.bytes()).sum();
            self.service.add_size(step.ran, bytes);
        }
        let metrics = &self.options.metrics;
        metrics.computed.record(step.ran);
        metrics.rows.record(step.rows as f64);
        let mut stats = self.stats.lock();
        stats.add_run(step.rows, step.ran, ended);
        for one in finished {
            let queued = one.begun.saturating_duration_since(one.request.entry.arrived);
            let computed = ended.saturating_duration_since(one.begun);
            metrics.queued.record(queued);
            // Those who were resident together shared the instance.
            self.service
                .add_requests(computed / u32::try_from(step.requests).unwrap_or(u32::MAX).max(1));
            stats.add_request(one.request.entry.rows, one.succeeded, queued, computed);
        }
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
