//! The end of lanes, and of what is in memory behind them.
//!
//! Unloading a lane waits for the run that is under way, for as long as the model likes. So it has a thread of its own,
//! and the loader goes on with loads, scans and restarts. The weights are freed on the loader's thread nevertheless:
//! between two loads, whose growth is measured there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use grid_core::model::ModelId;
use tokio::sync::oneshot;
use tracing::warn;

use super::replica::InMemory;
use crate::actors::routes::Lasting;
use crate::actors::shard::Retire;
use crate::compute::{Lane, Pool};
use crate::loading::{Loader, return_free_memory};

/// How often a drain looks whether it is done.
const DRAIN_POLL: Duration = Duration::from_millis(2);

/// Ends lanes; cloned into whatever does so.
#[derive(Clone)]
pub(super) struct Unloader {
    pub(super) pool: Pool,
    pub(super) loader: Loader,
}

impl Unloader {
    /// Frees the instances behind lanes once their runs have ended, and keeps their sums.
    pub(super) async fn unload(self, lanes: Vec<Arc<Lane>>, lasting: Arc<Lasting>) {
        let pool = self.pool;
        let unload = move || {
            for lane in &lanes {
                lane.unload();
                pool.forget(lane);
                // Only now: the run that was under way counts too.
                lasting.end(lane);
            }
        };
        let (done, ended) = oneshot::channel();
        let task = unload.clone();
        let spawned = std::thread::Builder::new().name("unloader".to_owned()).spawn(move || {
            task();
            let _ = done.send(());
        });
        // What ends without an answer panicked, and the log has it.
        match spawned {
            Ok(_) => drop(ended.await),
            Err(error) => {
                warn!(%error, "no thread to unload on; the loader thread does it");
                let _ = self.loader.run(unload).await;
            }
        }
    }

    /// Lets what was accepted finish, until the timeout, then frees the memory. The version must be out of the route
    /// table, or replaced in it, before.
    pub(super) async fn drain(self, memory: InMemory, lasting: Arc<Lasting>, timeout: Duration) {
        let lanes = memory.lanes();
        let give_up = Instant::now() + timeout;
        while lanes.iter().any(|lane| lane.in_flight() > 0) && Instant::now() < give_up {
            tokio::time::sleep(DRAIN_POLL).await;
        }
        for (addr, _) in memory.instances.iter().filter_map(|child| child.live.as_ref()) {
            addr.do_send(Retire);
        }
        let loader = self.loader.clone();
        self.unload(lanes, lasting).await;
        // A loader that is gone is that of a node that has stopped: its memory goes with the process.
        let _ = loader
            .run(move || {
                drop(memory.model);
                drop(memory.reservation);
                return_free_memory();
            })
            .await;
    }
}

/// The drains under way, for everybody who waits for their ends.
#[derive(Default)]
pub(super) struct Drains(Vec<(ModelId, Drain)>);

type Drain = Shared<BoxFuture<'static, ()>>;

impl Drains {
    /// Notes a drain. The returned future is to be spawned: it must go on when nobody waits for it.
    pub(super) fn begin(&mut self, id: ModelId, drain: impl Future<Output = ()> + Send + 'static) -> Drain {
        let drain = drain.boxed().shared();
        self.0.retain(|(_, drain)| drain.peek().is_none());
        self.0.push((id, drain.clone()));
        drain
    }

    /// The end of all drains of a version that are under way now, replaced generations included; none when there is none.
    pub(super) fn ended(&self, id: &ModelId) -> Option<impl Future<Output = ()> + use<>> {
        let of_version = self
            .0
            .iter()
            .filter(|(other, drain)| other == id && drain.peek().is_none());
        let drains: Vec<_> = of_version.map(|(_, drain)| drain.clone()).collect();
        (!drains.is_empty()).then(|| futures_util::future::join_all(drains).map(drop))
    }
}
