//! The threads that serve the lanes, those of the least advanced model first.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use grid_core::model::ModelId;
use grid_core::scheduling::{FairClock, Share, may_be_long, may_start};
use parking_lot::{Condvar, Mutex};
use tracing::error;

use super::Lane;
use super::lane::Turn;
use crate::runtime::rten::on_compute_thread;

/// A handle to the compute threads. They end when the last handle is gone, each after the run that it is in.
#[derive(Clone, Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    _last: Arc<Last>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
    cores: usize,
}

#[derive(Debug, Default)]
struct State {
    /// By the address of the lane, which its `Arc` keeps from being used again.
    lanes: HashMap<usize, Scheduled>,
    /// Compute time is shared between models, however many instances each has.
    models: HashMap<ModelId, ModelShare>,
    clock: FairClock,
    /// Times that a lane became ready, ever.
    readied: u64,
    /// Runs under way that may be long.
    long: usize,
    stopping: bool,
}

#[derive(Debug)]
struct Scheduled {
    lane: Arc<Lane>,
    status: Status,
    /// Work came while it was running: what the turn found is out of date.
    woken: bool,
    /// Its turn among the lanes of its model: lower became ready earlier.
    ready_at: u64,
    /// What its model was charged for the run that is under way.
    charged: Duration,
}

#[derive(Debug)]
struct ModelShare {
    share: Share,
    /// Lanes of the model that are not idle.
    active: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Idle,
    Ready,
    Running,
    HeldUntil(Instant),
}

/// Ends the threads when the last handle is dropped. It does not wait for them: a run that hangs must not hang the node.
#[derive(Debug)]
struct Last(Arc<Shared>);

impl Drop for Last {
    fn drop(&mut self) {
        self.0.state.lock().stopping = true;
        self.0.work.notify_all();
    }
}

impl Pool {
    /// Starts `cores + 1` threads; the last one takes short runs only (see [`grid_core::scheduling`]).
    ///
    /// # Errors
    /// When the system starts no more threads.
    pub fn start(cores: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            work: Condvar::new(),
            cores,
        });
        let last = Arc::new(Last(Arc::clone(&shared)));
        for index in 0..=cores {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name(format!("compute-{index}"))
                .spawn(move || on_compute_thread(|| shared.serve()))?;
        }
        Ok(Self { shared, _last: last })
    }

    /// Tells the threads that `lane` has work.
    pub fn wake(&self, lane: &Arc<Lane>) {
        let mut state = self.shared.state.lock();
        let State {
            lanes,
            models,
            clock,
            readied,
            ..
        } = &mut *state;
        let scheduled = lanes.entry(key(lane)).or_insert_with(|| Scheduled {
            lane: Arc::clone(lane),
            status: Status::Idle,
            woken: false,
            ready_at: 0,
            charged: Duration::ZERO,
        });
        match scheduled.status {
            Status::Idle => {
                let model = models.entry(lane.model().clone()).or_insert_with(|| ModelShare {
                    share: Share::new(lane.weight()),
                    active: 0,
                });
                if model.active == 0 {
                    // A version may have been loaded again with another weight since it was last active.
                    model.share.set_weight(lane.weight());
                    clock.wake(&mut model.share);
                }
                model.active += 1;
            }
            Status::HeldUntil(_) => {}
            Status::Ready => return,
            Status::Running => {
                scheduled.woken = true;
                return;
            }
        }
        scheduled.status = Status::Ready;
        *readied += 1;
        scheduled.ready_at = *readied;
        drop(state);
        self.shared.work.notify_one();
    }

    /// Forgets a lane that was closed.
    pub fn forget(&self, lane: &Arc<Lane>) {
        let mut state = self.shared.state.lock();
        if let Some(scheduled) = state.lanes.remove(&key(lane))
            && scheduled.status != Status::Idle
        {
            state.became_idle(lane.model());
        }
    }
}

fn key(lane: &Arc<Lane>) -> usize {
    Arc::as_ptr(lane) as usize
}

/// Idle lanes that are remembered, so that a lane that idles and works in turn is not made anew each time.
const MAX_IDLE: usize = 64;

impl State {
    fn became_idle(&mut self, model: &ModelId) {
        if let Some(share) = self.models.get_mut(model) {
            share.active = share.active.saturating_sub(1);
        }
        if self.lanes.len() > MAX_IDLE {
            self.lanes.retain(|_, scheduled| scheduled.status != Status::Idle);
        }
        if self.models.len() > MAX_IDLE {
            self.models.retain(|_, model| model.active > 0);
        }
    }
}

impl Shared {
    fn serve(&self) {
        let mut state = self.state.lock();
        while !state.stopping {
            let Some((lane, is_long)) = self.take(&mut state) else {
                match next_release(&state) {
                    Some(until) => drop(self.work.wait_until(&mut state, until)),
                    None => self.work.wait(&mut state),
                }
                continue;
            };
            drop(state);
            let turn = take_turn(&lane);
            state = self.state.lock();
            state.long -= usize::from(is_long);
            self.put_back(&mut state, &lane, &turn);
        }
    }

    /// The lane to serve next, and whether the run may be long.
    fn take(&self, state: &mut State) -> Option<(Arc<Lane>, bool)> {
        let now = Instant::now();
        let State {
            lanes,
            models,
            clock,
            long,
            ..
        } = state;
        let due = |status| match status {
            Status::Ready => true,
            Status::HeldUntil(until) => until <= now,
            Status::Idle | Status::Running => false,
        };
        let candidates = lanes
            .iter()
            .filter(|(_, scheduled)| due(scheduled.status))
            .filter(|(_, scheduled)| may_start(*long, self.cores, scheduled.lane.expected_run()))
            .filter_map(|(key, scheduled)| {
                let share = models.get(scheduled.lane.model())?.share;
                Some(((scheduled.ready_at, *key), share))
            });
        let (_, key) = clock.pick(candidates)?;
        let scheduled = lanes.get_mut(&key)?;
        scheduled.status = Status::Running;
        scheduled.woken = false;
        let expected = scheduled.lane.expected_run();
        let is_long = may_be_long(expected);
        *long += usize::from(is_long);
        scheduled.charged = expected.unwrap_or_default();
        if let Some(model) = models.get_mut(scheduled.lane.model()) {
            clock.charge(&mut model.share, scheduled.charged);
        }
        Some((Arc::clone(&scheduled.lane), is_long))
    }

    fn put_back(&self, state: &mut State, lane: &Arc<Lane>, turn: &Turn) {
        let State {
            lanes,
            models,
            clock,
            readied,
            ..
        } = &mut *state;
        let Some(scheduled) = lanes.get_mut(&key(lane)) else {
            return;
        };
        if let Some(model) = models.get_mut(lane.model()) {
            clock.correct(&mut model.share, scheduled.charged, turn.ran);
        }
        scheduled.status = match turn.hold_until {
            _ if scheduled.woken || turn.unfinished => Status::Ready,
            Some(until) => Status::HeldUntil(until),
            None if lane.has_waiting() => Status::Ready,
            None => Status::Idle,
        };
        *readied += 1;
        scheduled.ready_at = *readied;
        let idle = scheduled.status == Status::Idle;
        // This thread takes the next lane itself; another is woken only if there is more than it can take.
        let ready = lanes.values().filter(|other| other.status == Status::Ready).count();
        if idle {
            state.became_idle(lane.model());
        }
        if ready > 1 {
            self.work.notify_one();
        }
    }
}

/// A turn, of which nothing may end the thread. Panics of models are caught inside, each answered on its own; this is for
/// one of our own: the lane is closed, so that what waits in it is sent elsewhere.
fn take_turn(lane: &Lane) -> Turn {
    catch_unwind(AssertUnwindSafe(|| lane.turn())).unwrap_or_else(|_| {
        error!(?lane, "a turn panicked outside of its model");
        lane.close();
        Turn::default()
    })
}

/// When the first lane that is held comes due, unless it has come due and waits for a thread to be free.
fn next_release(state: &State) -> Option<Instant> {
    let now = Instant::now();
    state
        .lanes
        .values()
        .filter_map(|scheduled| match scheduled.status {
            Status::HeldUntil(until) if until > now => Some(until),
            _ => None,
        })
        .min()
}
