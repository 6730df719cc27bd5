//! `ModelStreamInfer`: many requests under way on one stream.
//!
//! Nothing is spawned. The answers are a stream that HTTP/2 asks for the next one whenever the client has room for it; only
//! then are requests read, and no more than [`MAX_IN_FLIGHT`] before an answer. So a client that does not read its answers
//! is not read either, and whoever drops the stream drops all its requests with it, down to the lanes that they wait in.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use futures_util::stream::FuturesUnordered;
use tokio::task::coop;
use tonic::Status;

/// Requests of one stream that are under way at once. Enough to fill the largest batches that are usual on a processor, and
/// few enough that one stream does not fill a queue of the default bound.
pub(super) const MAX_IN_FLIGHT: usize = 64;

/// The answers to a stream of requests, as they come.
pub(super) struct Answers<Requests, Begin, Answer, Drained> {
    /// `None` once nothing more is read.
    requests: Option<Requests>,
    begin: Begin,
    under_way: FuturesUnordered<Answer>,
    drained: Pin<Box<Drained>>,
    /// What the stream ends with after the last answer, if not well.
    end: Option<Status>,
}

impl<Requests, Begin, Answer: Future, Drained> Answers<Requests, Begin, Answer, Drained> {
    /// Answers `requests` by what `begin` makes of each, until they end or `drained` does.
    pub(super) fn new(requests: Requests, begin: Begin, drained: Drained) -> Self {
        Self {
            requests: Some(requests),
            begin,
            under_way: FuturesUnordered::new(),
            drained: Box::pin(drained),
            end: None,
        }
    }
}

impl<Requests, Message, Begin, Answer, Drained> Stream for Answers<Requests, Begin, Answer, Drained>
where
    Requests: Stream<Item = Result<Message, Status>> + Unpin,
    Begin: FnMut(Message) -> Answer + Unpin,
    Answer: Future,
    Drained: Future<Output = ()>,
{
    type Item = Result<Answer::Output, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        // Quick models are answered here and now: a client that never stops sending would keep this thread to itself, and
        // its answers in tonic's buffer.
        let progress = ready!(coop::poll_proceed(cx));
        loop {
            if let Poll::Ready(Some(answer)) = Pin::new(&mut this.under_way).poll_next(cx) {
                progress.made_progress();
                return Poll::Ready(Some(Ok(answer)));
            }
            let Some(requests) = &mut this.requests else {
                if !this.under_way.is_empty() {
                    return Poll::Pending;
                }
                progress.made_progress();
                return Poll::Ready(this.end.take().map(Err));
            };
            let is_full = this.under_way.len() >= MAX_IN_FLIGHT;
            match (!is_full).then(|| Pin::new(requests).poll_next(cx)) {
                Some(Poll::Ready(Some(Ok(message)))) => {
                    this.under_way.push((this.begin)(message));
                    continue;
                }
                Some(Poll::Ready(Some(Err(status)))) => this.end = Some(status),
                Some(Poll::Ready(None)) => {}
                None | Some(Poll::Pending) => {
                    ready!(this.drained.as_mut().poll(cx));
                    // What was sent and not read did not run.
                    this.end = Some(Status::unavailable(
                        "the node is draining; send what has no answer elsewhere",
                    ));
                }
            }
            this.requests = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::{pending, ready};
    use std::rc::Rc;

    use futures_util::stream::{self, StreamExt};
    use futures_util::{FutureExt, future};
    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn no_more_is_read_than_may_be_under_way_and_an_answer_makes_room() {
        let begun: Rc<RefCell<Vec<oneshot::Sender<usize>>>> = Rc::default();
        let requests = stream::iter((0..1000).map(Ok::<_, Status>));
        let senders = Rc::clone(&begun);
        let begin = move |_: usize| {
            let (sender, receiver) = oneshot::channel();
            senders.borrow_mut().push(sender);
            receiver.map(|answer| answer.unwrap_or(usize::MAX))
        };
        let mut answers = Answers::new(requests, begin, pending());
        assert!(answers.next().now_or_never().is_none());
        assert_eq!(begun.borrow().len(), MAX_IN_FLIGHT);
        begun.borrow_mut().remove(7).send(7).unwrap();
        assert_eq!(answers.next().now_or_never().unwrap().unwrap().unwrap(), 7);
        assert!(answers.next().now_or_never().is_none());
        assert_eq!(begun.borrow().len(), MAX_IN_FLIGHT);
        drop(answers);
        assert!(
            begun.borrow().iter().all(oneshot::Sender::is_closed),
            "all are cancelled"
        );
    }

    #[test]
    fn a_broken_stream_is_answered_as_far_as_it_was_read() {
        let requests = stream::iter([Ok(1), Ok(2), Err(Status::internal("broken")), Ok(3)]);
        let answers = Answers::new(requests, ready, pending());
        let all: Vec<_> = answers.collect().now_or_never().unwrap();
        let all: Vec<_> = all
            .into_iter()
            .map(|answer| answer.map_err(|status| status.code()))
            .collect();
        assert_eq!(all, [Ok(1), Ok(2), Err(tonic::Code::Internal)]);
    }

    #[test]
    fn a_drain_ends_a_stream_that_waits_for_requests_after_its_last_answer() {
        let requests = stream::iter([Ok(1)]).chain(stream::pending());
        let (sender, receiver) = oneshot::channel();
        let mut sender = Some(sender);
        let mut receiver = Some(receiver);
        let begin = |_: i32| {
            receiver
                .take()
                .map_or_else(|| future::pending().boxed(), |it| it.boxed())
        };
        let mut answers = Answers::new(requests, begin, ready(()));
        assert!(answers.next().now_or_never().is_none(), "its answer is not there");
        sender.take().unwrap().send(5).unwrap();
        assert_eq!(answers.next().now_or_never().unwrap().unwrap().unwrap(), Ok(5));
        let end = answers.next().now_or_never().unwrap().unwrap();
        assert_eq!(end.unwrap_err().code(), tonic::Code::Unavailable);
        assert!(answers.next().now_or_never().unwrap().is_none());
    }
}
