//! On which threads rten computes.
//!
//! rten runs a model by `install`ing it in a rayon pool, its global one by default, with a thread for each core. There is no
//! "on the caller's thread"; but a run that is installed in the pool whose worker is the caller stays where it is. Hence:
//!
//! - A compute thread runs its whole life inside [`on_compute_thread`]: it becomes the one worker of a pool of its own, and
//!   every run for `threads_per_run = 1` stays on it.
//! - Any other thread gets a pool of one at its first run. That costs a hop there and back at each run, 12 µs beside 4 of a small network: the
//!   right answer, late.
//! - More threads come from pools that all models of that width share, started at normal priority.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rten::ThreadPool;

use crate::runtime::thread_starter;

thread_local! {
    static MINE: RefCell<Option<Arc<ThreadPool>>> = const { RefCell::new(None) };
}

/// Runs `body`, the main function of a compute thread, where rten computes without changing threads.
///
/// `body` runs on a thread of its own, which inherits the caller's priority; the caller sleeps until it ends. Panics go
/// through. Models may be run by any other thread too, only more slowly.
pub fn on_compute_thread<R: Send>(body: impl FnOnce() -> R + Send) -> R {
    let pool = Arc::new(ThreadPool::with_num_threads(1));
    let mine = Arc::clone(&pool);
    pool.run(move || {
        MINE.set(Some(mine));
        // A pool ends with its last handle, and this one would otherwise be held by its own worker.
        let _forget = Forget;
        body()
    })
}

struct Forget;

impl Drop for Forget {
    fn drop(&mut self) {
        MINE.take();
    }
}

/// The pool of one in which the calling thread runs models.
pub(super) fn of_this_thread() -> Arc<ThreadPool> {
    MINE.with_borrow_mut(|mine| {
        let pool = mine.get_or_insert_with(|| Arc::new(ThreadPool::with_num_threads(1)));
        Arc::clone(pool)
    })
}

/// The pool of that many threads, shared by all models that ask for as many. `None` if it could not be made.
pub(super) fn of_threads(threads: usize) -> Option<Arc<ThreadPool>> {
    static POOLS: Mutex<BTreeMap<usize, Weak<ThreadPool>>> = Mutex::new(BTreeMap::new());
    let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pool) = pools.get(&threads).and_then(Weak::upgrade) {
        return Some(pool);
    }
    let pool = thread_starter::at_normal_priority(move || Arc::new(ThreadPool::with_num_threads(threads)))?;
    pools.insert(threads, Arc::downgrade(&pool));
    Some(pool)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_run_on_a_compute_thread_stays_on_it() {
        on_compute_thread(|| {
            let here = thread::current().id();
            assert_eq!(of_this_thread().run(|| thread::current().id()), here);
        });
    }

    #[test]
    fn a_panic_on_a_compute_thread_goes_through_to_the_caller() {
        let caught = std::panic::catch_unwind(|| on_compute_thread(|| panic!("in the body")));
        assert!(caught.is_err());
    }

    #[test]
    fn pools_of_one_width_are_one_pool_while_it_is_in_use() {
        let first = of_threads(2).unwrap();
        assert!(Arc::ptr_eq(&first, &of_threads(2).unwrap()));
        assert!(!Arc::ptr_eq(&first, &of_threads(3).unwrap()));
    }
}
