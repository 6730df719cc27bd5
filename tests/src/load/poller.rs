//! Which of its connections a loop has to look at: edge-triggered epoll.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::time::Timespec;

use super::LoadError;

/// Most events that are taken at once.
const MOST_EVENTS: usize = 1024;

pub(super) struct Poller {
    epoll: OwnedFd,
}

/// Where events are put.
pub(super) struct Events(Vec<MaybeUninit<epoll::Event>>);

impl Events {
    pub(super) fn of(connections: usize) -> Self {
        Self(vec![MaybeUninit::uninit(); connections.clamp(1, MOST_EVENTS)])
    }
}

impl Poller {
    pub(super) fn new() -> Result<Self, LoadError> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(|error| system("make an epoll", error))?;
        Ok(Self { epoll })
    }

    /// Watches a connection until it is closed; its events are told with this index.
    pub(super) fn watch(&self, connection: impl AsFd, index: usize) -> Result<(), LoadError> {
        let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, connection, EventData::new_u64(index as u64), interest)
            .map_err(|error| system("watch a connection", error))
    }

    /// The indices of connections on which something happened, and what. None when the time is over.
    pub(super) fn wait<'e>(
        &self,
        events: &'e mut Events,
        limit: Duration,
    ) -> Result<impl Iterator<Item = (usize, EventFlags)> + use<'e>, LoadError> {
        let limit = Timespec {
            tv_sec: limit.as_secs() as i64,
            tv_nsec: limit.subsec_nanos().into(),
        };
        let ready: &[epoll::Event] = match epoll::wait(&self.epoll, events.0.as_mut_slice(), Some(&limit)) {
            Ok((ready, _)) => ready,
            Err(rustix::io::Errno::INTR) => &[],
            Err(error) => return Err(system("wait for its connections", error)),
        };
        Ok(ready.iter().map(|event| (event.data.u64() as usize, event.flags)))
    }
}

fn system(what: &'static str, error: rustix::io::Errno) -> LoadError {
    LoadError::System {
        what,
        source: error.into(),
    }
}
