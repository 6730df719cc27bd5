//! Starts the threads of the runtimes' pools from one thread of normal priority.
//!
//! On Linux a thread inherits the nice value of the one that starts it, and models are opened on loader threads, whose
//! priority is lowered on purpose. A pool made there would compute at the loader's priority for the life of the model. So
//! one thread, started while the node starts, makes every pool; it sleeps otherwise.

use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;

type Job = Box<dyn FnOnce() + Send>;

static STARTER: OnceLock<Option<Sender<Job>>> = OnceLock::new();

/// Starts the thread, if it is not there. Call it from a thread of normal priority.
pub(super) fn begin() {
    STARTER.get_or_init(|| {
        let (jobs, queue) = channel::<Job>();
        thread::Builder::new()
            .name("thread-starter".to_owned())
            .spawn(move || queue.into_iter().for_each(|job| job()))
            .ok()
            .map(|_| jobs)
    });
}

/// Runs `make` on the starter's thread and waits for it. Where that thread could not be started, runs it here: a pool of
/// low priority is better than none.
pub(super) fn at_normal_priority<R: Send + 'static>(make: impl FnOnce() -> R + Send + 'static) -> Option<R> {
    begin();
    let (answer, answered) = channel();
    let job: Job = Box::new(move || {
        // The receiver waits below; it cannot be gone.
        let _ = answer.send(make());
    });
    match STARTER.get().and_then(Option::as_ref) {
        Some(jobs) => {
            if let Err(refused) = jobs.send(job) {
                (refused.0)();
            }
        }
        None => job(),
    }
    answered.recv().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_caller_is_served_by_one_thread() {
        let first = at_normal_priority(|| thread::current().id()).unwrap();
        let second = thread::spawn(|| at_normal_priority(|| thread::current().id()))
            .join()
            .unwrap()
            .unwrap();
        assert_eq!(first, second);
        assert_ne!(first, thread::current().id());
    }
}
