//! The body of a call on its way in: how long a message may be, and how much all of them may hold.
//!
//! tonic has a limit of its own, answers OUT_OF_RANGE to it, and knows none for all calls together.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use grid_core::InferError;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tonic::Status;

use super::status;
use crate::bodies::{Bodies, Held};

/// A body whose messages are measured as they arrive.
pub(super) struct Counted {
    body: Incoming,
    framing: Framing,
    limit: usize,
    bodies: Arc<Bodies>,
    held: Held,
}

impl Counted {
    /// A body of messages of at most `limit` bytes each.
    pub(super) fn new(body: Incoming, limit: usize, bodies: &Arc<Bodies>) -> Self {
        Self {
            body,
            framing: Framing::default(),
            limit,
            bodies: Arc::clone(bodies),
            held: bodies.begin(),
        }
    }

    fn count(&mut self, data: &[u8]) -> Result<(), Status> {
        if !self.framing.take(data, self.limit) {
            return Err(status::of(&InferError::TooLarge { limit: self.limit }));
        }
        if !self.held.grow(data.len()) {
            return Err(status::no_room());
        }
        Ok(())
    }
}

impl Body for Counted {
    type Data = Bytes;
    type Error = tonic::codegen::StdError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        // Whoever asks for more has taken the messages that were whole.
        if self.framing.is_between_messages() {
            self.held = self.bodies.begin();
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                let counted = frame.data_ref().map_or(Ok(()), |data| self.count(data));
                Some(counted.map(|()| frame).map_err(Into::into))
            }
            Some(Err(error)) => Some(Err(error.into())),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Where in its messages a body is. Each has a flag and its length, as four big-endian bytes, before it.
#[derive(Default)]
struct Framing {
    prefix: [u8; 5],
    /// Bytes of the prefix that are there.
    prefixed: usize,
    /// Bytes of the message that are still to come.
    left: usize,
}

impl Framing {
    /// Goes on by what arrived. `false` when a message announces more than `limit` bytes.
    fn take(&mut self, mut data: &[u8], limit: usize) -> bool {
        while !data.is_empty() {
            if self.left > 0 {
                let taken = self.left.min(data.len());
                self.left -= taken;
                data = &data[taken..];
                continue;
            }
            let missing = &mut self.prefix[self.prefixed..];
            let taken = missing.len().min(data.len());
            missing[..taken].copy_from_slice(&data[..taken]);
            self.prefixed += taken;
            data = &data[taken..];
            if self.prefixed == self.prefix.len() {
                let [_, length @ ..] = self.prefix;
                self.prefixed = 0;
                self.left = u32::from_be_bytes(length) as usize;
                if self.left > limit {
                    return false;
                }
            }
        }
        true
    }

    fn is_between_messages(&self) -> bool {
        self.prefixed == 0 && self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_measured_however_they_are_cut() {
        let stream = [
            &[0, 0, 0, 0, 3, 1, 2, 3][..],
            &[0, 0, 0, 0, 0],
            &[0, 0, 0, 0, 4, 1, 2, 3, 4],
        ]
        .concat();
        for size in 1..stream.len() {
            let mut framing = Framing::default();
            assert!(stream.chunks(size).all(|chunk| framing.take(chunk, 4)), "{size}");
            assert!(framing.is_between_messages());
            let mut framing = Framing::default();
            assert!(!stream.chunks(size).all(|chunk| framing.take(chunk, 3)), "{size}");
        }
    }
}
