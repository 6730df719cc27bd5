//! Connections: taken, counted, served over HTTP/2, drained.
//!
//! tonic's own server is not used. It bounds no connections, answers a call whose time has passed with CANCELLED before its
//! handler can say what happened to it, and puts three more layers around each call. What is left of it when these are
//! taken away is the loop below.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix::Arbiter;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tonic::codegen::Service as _;
use tracing::{debug, warn};

use super::body::Counted;
use super::generated::grpc_inference_service_server::GrpcInferenceServiceServer;
use super::service::{Service, Shared};
use crate::actors::{RouterHandle, RouterOptions};
use crate::bodies::Bodies;
use crate::gateway::Gateway;

/// Calls of one connection at once. A client that shares one channel can so fill a queue of the default bound.
const MAX_CALLS: u32 = 1024;
/// How long a client may take to send the first byte of a connection.
const FIRST_BYTE: Duration = Duration::from_secs(10);
/// How often a connection is asked whether its client is still there, and how long that may take to answer.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));
/// How long no connection is taken after the system gave none, for want of descriptors say.
const AFTER_REFUSAL: Duration = Duration::from_millis(100);

/// The gRPC gateway while it runs. Dropping it cuts all connections.
#[derive(Debug)]
pub(crate) struct Server {
    runtime: Option<Runtime>,
    arbiter: Arbiter,
    draining: watch::Sender<bool>,
}

/// Starts the gRPC gateway on a bound listener, with a runtime of its own, and a thread for its router.
pub(crate) async fn serve(gateway: Gateway, listener: TcpListener) -> std::io::Result<Server> {
    let http = gateway.config.http.clone();
    let workers = http.workers.unwrap_or_else(crate::loading::available_cores);
    let runtime = Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name("grpc")
        .enable_all()
        .build()?;
    listener.set_nonblocking(true)?;
    let listener = {
        let _entered = runtime.enter();
        tokio::net::TcpListener::from_std(listener)?
    };
    let limit = usize::try_from(http.max_body).unwrap_or(usize::MAX);
    let arbiter = Arbiter::new();
    let router = start_router(&arbiter, &gateway).await?;
    let (draining, drained) = watch::channel(false);
    let acceptor = Acceptor {
        shared: Arc::new(Shared {
            gateway,
            router,
            bodies: Bodies::new(limit),
        }),
        limit,
        places: Arc::new(Semaphore::new(http.max_connections)),
        draining: drained,
    };
    runtime.spawn(acceptor.run(listener));
    Ok(Server {
        runtime: Some(runtime),
        arbiter,
        draining,
    })
}

/// Only requests that cannot run at once go through it, and what it does with each is far less than any run: one serves all
/// threads of the gateway.
async fn start_router(arbiter: &Arbiter, gateway: &Gateway) -> std::io::Result<RouterHandle> {
    let options = RouterOptions {
        routes: Arc::clone(&gateway.routes),
        pool: gateway.pool.clone(),
        place: 0,
        retries: Arc::clone(&gateway.retries),
    };
    let (started, router) = oneshot::channel();
    arbiter.spawn_fn(move || {
        // Who started it may have gone.
        let _ = started.send(RouterHandle::start(options));
    });
    router.await.map_err(std::io::Error::other)
}

impl Server {
    /// Begins to drain: no connection is taken any more, those that exist are told to take their next call elsewhere, and
    /// what was accepted goes on.
    pub(crate) fn drain(&self) {
        self.draining.send_replace(true);
    }

    /// Waits until everything that was accepted before [`Self::drain`] has been answered to the last byte.
    pub(crate) async fn drained(&self) {
        // Each connection and each stream holds a receiver.
        self.draining.closed().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // In the background, as this may be an async context, where nothing may wait.
            runtime.shutdown_background();
        }
        self.arbiter.stop();
    }
}

/// What takes connections.
struct Acceptor {
    shared: Arc<Shared>,
    limit: usize,
    places: Arc<Semaphore>,
    draining: watch::Receiver<bool>,
}

impl Acceptor {
    async fn run(mut self, listener: tokio::net::TcpListener) {
        let over = begun(self.draining.clone());
        tokio::pin!(over);
        loop {
            tokio::select! {
                biased;
                () = &mut over => return,
                taken = take(&listener, &self.places) => match taken {
                    Ok((stream, peer, place)) => self.begin(stream, peer, place),
                    Err(error) => {
                        warn!(%error, "no connection is taken for a moment");
                        tokio::time::sleep(AFTER_REFUSAL).await;
                    }
                },
            }
        }
    }

    fn begin(&mut self, stream: TcpStream, peer: SocketAddr, place: OwnedSemaphorePermit) {
        let service = Arc::new(Service {
            shared: Arc::clone(&self.shared),
            peer,
            draining: self.draining.clone(),
        });
        let connection = Connection {
            // A message is also refused by its length, with a better word, while it arrives.
            service: GrpcInferenceServiceServer::from_arc(service).max_decoding_message_size(self.limit),
            bodies: Arc::clone(&self.shared.bodies),
            limit: self.limit,
            draining: self.draining.clone(),
        };
        tokio::spawn(async move {
            if let Err(error) = connection.serve(stream).await {
                debug!(%peer, error, "a connection ended");
            }
            drop(place);
        });
    }
}

/// Waits until the drain begins; also ends when there is nobody left who could begin one.
pub(super) async fn begun(mut draining: watch::Receiver<bool>) {
    let _ = draining.wait_for(|draining| *draining).await;
}

/// The next connection, once there is a place for it.
async fn take(
    listener: &tokio::net::TcpListener,
    places: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = Arc::clone(places)
        .acquire_owned()
        .await
        .map_err(std::io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, place))
}

/// One connection.
struct Connection {
    service: GrpcInferenceServiceServer<Service>,
    bodies: Arc<Bodies>,
    limit: usize,
    draining: watch::Receiver<bool>,
}

impl Connection {
    async fn serve(self, stream: TcpStream) -> Result<(), tonic::codegen::StdError> {
        let Self {
            service,
            bodies,
            limit,
            draining,
        } = self;
        // Answers are often small, and the last part of one must not wait for an acknowledgement.
        stream.set_nodelay(true)?;
        tokio::time::timeout(FIRST_BYTE, stream.readable()).await??;
        let calls = service_fn(move |call: hyper::Request<Incoming>| {
            let mut service = service.clone();
            service.call(call.map(|body| Counted::new(body, limit, &bodies)))
        });
        let (ping, pong) = PING;
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_CALLS)
            .keep_alive_interval(ping)
            .keep_alive_timeout(pong)
            .serve_connection(TokioIo::new(stream), calls);
        tokio::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return Ok(ended?),
            () = begun(draining.clone()) => connection.as_mut().graceful_shutdown(),
        }
        connection.await?;
        drop(draining);
        Ok(())
    }
}
