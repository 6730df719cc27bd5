//! Calls and answers over links: the one place where they become heads and bodies, and are taken apart again.

use std::time::Duration;

use grid_core::tensor::Buffer;
use grid_core::wire::call::{Call, Reply as Answer};
use grid_core::wire::codec::CodecError;
use grid_core::wire::envelope::{self, Message, pack};

use super::{Exchange, Incoming, Link, Reply, ReplyError};

impl Link {
    /// Makes a call, however long it is; as [`call`](Self::call) otherwise.
    pub fn ask(&self, call: &Call, body: Vec<Buffer>, remaining: Option<Duration>) -> Exchange {
        let (head, body) = pack(call, body);
        self.call(head, body, remaining)
    }
}

impl Reply {
    /// Answers a call, however long the answer is; as [`send`](Self::send) otherwise.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn answer(&mut self, answer: &Answer, body: Vec<Buffer>, last: bool) -> Result<(), ReplyError> {
        let (head, body) = pack(answer, body);
        self.send(head, body, last)
    }
}

impl Incoming {
    /// The call or the answer that this is, and the tensors that came with it.
    ///
    /// # Errors
    /// When it is none.
    pub fn unpack<M: Message>(&self) -> Result<(M, Buffer), CodecError> {
        envelope::unpack(&self.head, self.body.clone())
    }
}
