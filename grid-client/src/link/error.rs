//! How links and exchanges end.

use std::io;
use std::time::Duration;

use grid_core::wire::frame::ResetCode;
use grid_core::wire::handshake::HandshakeError;

/// Why no link came about.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The two ends do not fit, or do not trust each other.
    #[error("no link: {0}")]
    Handshake(#[from] HandshakeError),
    /// The other end did not finish the handshake in time.
    #[error("no link: the handshake took longer than {0:?}")]
    TimedOut(Duration),
    /// The other end closed the connection within the handshake.
    #[error("no link: the connection ended within the handshake")]
    Ended,
    /// The connection failed.
    #[error("no link: {0}")]
    Io(#[from] io::Error),
}

/// Why a link is not open any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// This end closed it.
    #[error("it was closed here")]
    Here,
    /// The task that drives it was dropped.
    #[error("its driver was dropped")]
    Dropped,
    /// One end was going away, and all that ran is finished.
    #[error("all that ran is finished, and nothing new is taken")]
    Finished,
    /// The other end closed the connection.
    #[error("the peer closed the connection")]
    ByPeer,
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(String),
    /// Nothing came from the other end, not even the answer to a ping.
    #[error("the peer was silent for {0:?} after a ping")]
    Silent(Duration),
    /// The other end broke a rule of the protocol.
    #[error("the peer broke the protocol: {0}")]
    Violation(String),
    /// The other end closed the link and said why.
    #[error("the peer closed it: {0}")]
    Refused(String),
}

/// How an exchange ends other than with its last answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    /// The link was closed before any byte of the request was written: it did not run.
    #[error("not sent: {0}")]
    NotSent(Closed),
    /// As many bytes wait to be written as may. The request was not sent.
    #[error("not sent: {queued} bytes wait to be written already")]
    Overloaded {
        /// How many wait.
        queued: usize,
    },
    /// One end takes no exchanges any more. The request was not sent.
    #[error("not sent: the link is going away")]
    GoingAway,
    /// The request is larger than messages may be. It was not sent.
    #[error("not sent: the message is larger than messages may be")]
    RequestTooLarge,
    /// The answer is larger than this end takes. The request may have run.
    #[error("an answer of {bytes} bytes is over the limit of {limit}")]
    AnswerTooLarge {
        /// How large.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The link was closed after the request was written, or a part of it. It may have run.
    #[error("the link was lost: {0}")]
    Lost(Closed),
    /// The peer refused the request. It did not run.
    #[error("the peer refused the request: {0:?}")]
    Refused(ResetCode),
    /// The peer took the request and will not answer it. It may have run.
    #[error("the peer lost the request")]
    Reset,
}

impl ExchangeError {
    /// Whether the request provably did not run, so that it can be sent elsewhere.
    pub fn proves_not_run(&self) -> bool {
        match self {
            Self::NotSent(_) | Self::Overloaded { .. } | Self::GoingAway | Self::RequestTooLarge | Self::Refused(_) => {
                true
            }
            Self::AnswerTooLarge { .. } | Self::Lost(_) | Self::Reset => false,
        }
    }
}

impl From<ResetCode> for ExchangeError {
    fn from(code: ResetCode) -> Self {
        match code.proves_not_run() {
            true => Self::Refused(code),
            false => Self::Reset,
        }
    }
}

/// Why an answer was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// The opener wants it no more, or the link is closed.
    #[error("nobody waits for the answer any more")]
    Cancelled,
    /// The last answer was sent already.
    #[error("the last answer was sent already")]
    Over,
    /// It is larger than messages may be.
    #[error("the message is larger than messages may be")]
    TooLarge,
    /// Earlier ones still wait to be sent; see [`Reply::ready`](super::Reply::ready).
    #[error("{queued} bytes of earlier answers wait to be sent")]
    Overloaded {
        /// How many.
        queued: usize,
    },
}
