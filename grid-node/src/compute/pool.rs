//! The threads that serve the lanes, least advanced lane first.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use grid_core::scheduling::{FairClock, Share, may_start};
use parking_lot::{Condvar, Mutex};

use super::Lane;
use crate::runtime::rten::on_compute_thread;

/// A handle to the compute threads. They end when the last handle is gone and their runs have ended.
#[derive(Clone, Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    _threads: Arc<Threads>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
    cores: usize,
}

#[derive(Debug, Default)]
struct State {
    /// Lanes with work, by the address of the lane, which its `Arc` keeps from being used again.
    lanes: HashMap<usize, Scheduled>,
    clock: FairClock,
    busy: usize,
    stopping: bool,
}

#[derive(Debug)]
struct Scheduled {
    lane: Arc<Lane>,
    share: Share,
    status: Status,
    /// Work came while it was running: what the turn found is out of date.
    woken: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    /// Nothing to do. Kept for its share only while others have work.
    Idle,
    Ready,
    Running,
    HeldUntil(Instant),
}

#[derive(Debug)]
struct Threads {
    shared: Arc<Shared>,
    handles: Mutex<Vec<JoinHandle<()>>>,
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
        let threads = Arc::new(Threads {
            shared: Arc::clone(&shared),
            handles: Mutex::default(),
        });
        for index in 0..=cores {
            let shared = Arc::clone(&shared);
            let handle = std::thread::Builder::new()
                .name(format!("compute-{index}"))
                .spawn(move || on_compute_thread(|| shared.serve()))?;
            threads.handles.lock().push(handle);
        }
        Ok(Self {
            shared,
            _threads: threads,
        })
    }

    /// Tells the threads that `lane` has work.
    pub fn wake(&self, lane: &Arc<Lane>) {
        let mut state = self.shared.state.lock();
        let State { lanes, clock, .. } = &mut *state;
        let scheduled = lanes.entry(key(lane)).or_insert_with(|| Scheduled {
            lane: Arc::clone(lane),
            share: Share::new(lane.weight()),
            status: Status::Idle,
            woken: false,
        });
        match scheduled.status {
            Status::Idle => clock.wake(&mut scheduled.share),
            Status::HeldUntil(_) => {}
            Status::Ready => return,
            Status::Running => {
                scheduled.woken = true;
                return;
            }
        }
        scheduled.status = Status::Ready;
        drop(state);
        self.shared.work.notify_one();
    }

    /// Forgets a lane that was closed.
    pub fn forget(&self, lane: &Arc<Lane>) {
        self.shared.state.lock().lanes.remove(&key(lane));
    }
}

fn key(lane: &Arc<Lane>) -> usize {
    Arc::as_ptr(lane) as usize
}

/// Idle lanes kept for their shares before they are forgotten.
const MAX_IDLE: usize = 64;

impl Shared {
    fn serve(&self) {
        let mut state = self.state.lock();
        while !state.stopping {
            let Some(lane) = self.take(&mut state) else {
                match next_release(&state) {
                    Some(until) => drop(self.work.wait_until(&mut state, until)),
                    None => self.work.wait(&mut state),
                }
                continue;
            };
            state.busy += 1;
            drop(state);
            let turn = lane.turn();
            state = self.state.lock();
            state.busy -= 1;
            self.put_back(&mut state, &lane, turn.ran, turn.hold_until);
        }
    }

    fn take(&self, state: &mut State) -> Option<Arc<Lane>> {
        let now = Instant::now();
        let busy = state.busy;
        let due = |status| match status {
            Status::Ready => true,
            Status::HeldUntil(until) => until <= now,
            Status::Idle | Status::Running => false,
        };
        let candidates = state
            .lanes
            .iter()
            .filter(|(_, scheduled)| due(scheduled.status))
            .filter(|(_, scheduled)| may_start(busy, self.cores, scheduled.lane.expected_run()))
            .map(|(key, scheduled)| (*key, scheduled.share));
        let key = state.clock.pick(candidates)?;
        let scheduled = state.lanes.get_mut(&key)?;
        scheduled.status = Status::Running;
        scheduled.woken = false;
        Some(Arc::clone(&scheduled.lane))
    }

    fn put_back(&self, state: &mut State, lane: &Arc<Lane>, ran: Duration, hold_until: Option<Instant>) {
        let State { lanes, clock, .. } = state;
        let Some(scheduled) = lanes.get_mut(&key(lane)) else {
            return;
        };
        clock.charge(&mut scheduled.share, ran);
        scheduled.status = match hold_until {
            _ if scheduled.woken => Status::Ready,
            Some(until) => Status::HeldUntil(until),
            None if lane.has_work() => Status::Ready,
            None => Status::Idle,
        };
        if lanes.len() > MAX_IDLE {
            lanes.retain(|_, scheduled| scheduled.status != Status::Idle);
        }
        // This thread takes the next lane itself; another is woken only if there is more than it can take.
        let ready = lanes.values().filter(|other| other.status == Status::Ready).count();
        if ready > 1 {
            self.work.notify_one();
        }
    }
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

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.state.lock().stopping = true;
        self.shared.work.notify_all();
        let me = std::thread::current().id();
        for handle in self.handles.lock().drain(..) {
            // A compute thread may hold the last handle itself, through a callback; it cannot wait for its own end.
            if handle.thread().id() != me {
                let _ = handle.join();
            }
        }
    }
}
