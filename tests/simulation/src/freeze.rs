//! A node that stands still, as under `SIGSTOP`: nothing of it runs, while its peers and its sockets go on.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Whether the tasks of one node run.
#[derive(Debug, Default)]
pub struct Freezer {
    frozen: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

impl Freezer {
    /// No task runs from now on.
    pub fn freeze(&self) {
        self.frozen.set(true);
    }

    /// They go on.
    pub fn thaw(&self) {
        self.frozen.set(false);
        self.waiting.take().into_iter().for_each(Waker::wake);
    }

    /// Whether they stand still.
    pub fn is_frozen(&self) -> bool {
        self.frozen.get()
    }
}

/// A task of a node: it stands still with its node, and its panic is told. (tokio keeps it to itself otherwise.)
pub struct Task<F> {
    inner: Pin<Box<F>>,
    freezer: Rc<Freezer>,
    panicked: Box<dyn Fn(String)>,
}

impl<F> Task<F> {
    /// A task; `panicked` is told the message.
    pub fn new(inner: F, freezer: Rc<Freezer>, panicked: impl Fn(String) + 'static) -> Self {
        Self {
            inner: Box::pin(inner),
            freezer,
            panicked: Box::new(panicked),
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| String::from(*text));
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| String::from("a panic without a message"))
}

impl<F: Future<Output = ()>> Future for Task<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if this.freezer.is_frozen() {
            this.freezer.waiting.borrow_mut().push(cx.waker().clone());
            return Poll::Pending;
        }
        match catch_unwind(AssertUnwindSafe(|| this.inner.as_mut().poll(cx))) {
            Ok(poll) => poll,
            Err(panic) => {
                (this.panicked)(message(&*panic));
                Poll::Ready(())
            }
        }
    }
}
