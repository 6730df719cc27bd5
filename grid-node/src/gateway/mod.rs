//! What clients talk to. A gateway decodes, asks the router, encodes; it never knows a runtime's details or a lane.

mod admin;
mod context;
pub mod grpc;
mod inference;
mod observe;
mod pages;
pub mod rest;
mod retry_after;
pub mod websocket;

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix::Addr;
use actix_web::dev::Server;
use actix_web::{App, HttpServer, web};
use grid_core::InferError;
use grid_core::config::NodeConfig;
use grid_core::dispatch::retry::RetryBudget;
use parking_lot::Mutex;

use crate::bodies::Bodies;
pub(crate) use observe::Exported;

use crate::actors::{Catalog, GridActor, RouterHandle, RouterOptions, Routes, Sessions, VersionRoute};
use crate::compute::Pool;
use crate::loading::MemoryBudget;
use crate::standing::{Stage, Standing};
use crate::telemetry::Prometheus;

/// What the gateways of a node share.
#[derive(Clone)]
pub(crate) struct Gateway {
    pub(crate) config: Arc<NodeConfig>,
    pub(crate) routes: Arc<Routes>,
    pub(crate) pool: Pool,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) retries: Arc<Mutex<RetryBudget>>,
    pub(crate) budget: MemoryBudget,
    /// The grid, if the node is one of a grid.
    pub(crate) grid: Option<Addr<GridActor>>,
    pub(crate) catalog: Addr<Catalog>,
    pub(crate) standing: Arc<Standing>,
    pub(crate) prometheus: Prometheus,
    pub(crate) exported: Exported,
}

impl Gateway {
    /// The route of a model that is to infer.
    ///
    /// A node that joins a grid does not know yet what that serves, and refuses nothing that it could pass on a moment
    /// later: until it has started, a request waits, for as long as one may that brings no deadline.
    ///
    /// # Errors
    /// When there is no such model.
    pub(crate) async fn route(&self, name: &str, version: Option<&str>) -> Result<Arc<VersionRoute>, InferError> {
        let resolve = || self.routes.resolve(name, version);
        let found = resolve();
        let waits = || self.grid.is_some() && self.standing.stage() == Stage::Starting;
        let serves =
            |found: &Result<Arc<VersionRoute>, InferError>| found.as_ref().is_ok_and(|route| route.may_serve());
        if serves(&found) || !waits() {
            return found;
        }
        let served = async {
            let mut changes = self.routes.watch();
            while waits() && !serves(&resolve()) {
                // The end of the start changes no route.
                let _ = tokio::time::timeout(LOOK_AGAIN, changes.changed()).await;
            }
        };
        let _ = tokio::time::timeout(self.config.limits.timeout, served).await;
        match resolve() {
            // Its grid may well serve it.
            Err(InferError::NotFound(_)) if waits() => Err(InferError::NotReady {
                model: name.to_owned(),
                reason: "this node is joining its grid, and does not know yet what that serves".to_owned(),
            }),
            resolved => resolved,
        }
    }
}

/// How often a request that waits for the end of the start looks for it.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What one worker thread of the HTTP server has.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Gateway>,
    bodies: Arc<Bodies>,
    pub(crate) router: RouterHandle,
}

/// How long an idle connection is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How long a client may take to send the head of a request.
const REQUEST_HEAD: Duration = Duration::from_secs(10);
/// How long a client may take to close a connection that is being ended.
const DISCONNECT: Duration = Duration::from_secs(2);

/// Starts the HTTP gateway on a bound listener.
pub(crate) fn serve(gateway: Gateway, listener: TcpListener) -> std::io::Result<Server> {
    let http = gateway.config.http.clone();
    let shared = Arc::new(gateway);
    let bodies = Bodies::new(usize::try_from(http.max_body).unwrap_or(usize::MAX));
    let places = Arc::new(AtomicUsize::new(0));
    // This closure runs once on each worker thread, in its arbiter: the router lives there.
    let app = move || {
        let router = RouterHandle::start(RouterOptions {
            routes: Arc::clone(&shared.routes),
            pool: shared.pool.clone(),
            place: places.fetch_add(1, Ordering::Relaxed),
            retries: Arc::clone(&shared.retries),
        });
        let worker = Worker {
            shared: Arc::clone(&shared),
            bodies: Arc::clone(&bodies),
            router,
        };
        App::new()
            .app_data(web::Data::new(worker))
            .configure(rest::routes)
            .configure(websocket::routes)
            .configure(observe::routes)
            .configure(pages::routes)
            .default_service(web::to(rest::no_such_path))
    };
    let workers = http.workers.unwrap_or_else(crate::loading::available_cores);
    let server = HttpServer::new(app)
        .workers(workers)
        // Per worker: the node's limit is divided, so that the sum holds.
        .max_connections(http.max_connections.div_ceil(workers))
        .keep_alive(KEEP_ALIVE)
        .client_request_timeout(REQUEST_HEAD)
        .client_disconnect_timeout(DISCONNECT)
        // Small answers on one connection would otherwise wait for the client's delayed acknowledgement of the one before:
        // 64 streams of sound had answers 40 ms late in every run.
        .tcp_nodelay(true)
        // A WebSocket ends its connection itself.
        .on_connect(websocket::keep_handle)
        // Otherwise a client that has gone is not noticed, and its work goes on.
        .h1_allow_half_closed(false)
        .disable_signals()
        .shutdown_timeout(http.drain_timeout.as_secs().saturating_add(1))
        .listen(listener)?;
    Ok(server.run())
}
