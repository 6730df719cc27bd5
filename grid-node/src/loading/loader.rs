//! The thread that loads models.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;

use tokio::sync::oneshot;
use tracing::warn;

type Task = Box<dyn FnOnce() + Send>;

/// A handle to the loader thread, which ends when the last handle is gone and what was given to it is done.
#[derive(Clone, Debug)]
pub struct Loader {
    tasks: mpsc::Sender<Task>,
}

/// The task panicked, or the thread is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("loading panicked; the log has the message")]
pub struct LoadFailed;

/// Niceness of the loader thread: a tenth of the processor time of a serving thread when both want it.
const NICE: i32 = 10;

impl Loader {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system starts no more threads.
    pub fn start() -> std::io::Result<Self> {
        let (tasks, queue) = mpsc::channel::<Task>();
        std::thread::Builder::new().name("loader".to_owned()).spawn(move || {
            // On Linux this is the thread's own niceness, not the process's.
            if let Err(error) = rustix::process::setpriority_process(None, NICE) {
                warn!(%error, "the loader thread keeps normal priority");
            }
            for task in queue {
                // The reply inside is dropped by the panic, which tells whoever waits.
                let _ = catch_unwind(AssertUnwindSafe(task));
            }
        })?;
        Ok(Self { tasks })
    }

    /// Runs `task` on the thread, after those given before. Dropping the future does not take the task back.
    ///
    /// # Errors
    /// When the task panics.
    pub async fn run<T: Send + 'static>(&self, task: impl FnOnce() -> T + Send + 'static) -> Result<T, LoadFailed> {
        let (reply, result) = oneshot::channel();
        let task = Box::new(move || {
            // Who asked may have gone; what was loaded is dropped then, and its memory returned.
            let _ = reply.send(task());
        });
        self.tasks.send(task).map_err(|_| LoadFailed)?;
        result.await.map_err(|_| LoadFailed)
    }

    /// From here on, loads only get processor time that nobody else wants: the node serves. At low priority alone, the
    /// tail latency of a model under load was two to four times as long while another was loaded, because a thread of low
    /// priority keeps its core to the end of its time slice. Loads on a saturated machine take about five times as long.
    ///
    /// There is no way back: an ordinary user's thread may give up its priority, and not take it again.
    pub fn stand_back(&self) {
        self.spawn(|| {
            if let Err(error) = super::system::run_when_idle() {
                warn!(%error, "the loader thread does not stand back");
            }
        });
    }

    /// Runs `task` on the thread, with nobody waiting for it.
    pub fn spawn(&self, task: impl FnOnce() + Send + 'static) {
        // A thread that is gone holds nothing that the task could free.
        let _ = self.tasks.send(Box::new(task));
    }
}
