//! Liveness and readiness, of the server and of a model.

use actix_web::{HttpRequest, HttpResponse, web};

use super::{message, named, refuse};
use crate::actors::ReplicaState;
use crate::gateway::Worker;
use crate::standing::Stage;

/// The process answers.
pub(super) async fn live() -> HttpResponse {
    HttpResponse::Ok().finish()
}

/// The node has loaded what it loads at start, and is not draining.
pub(super) async fn ready(worker: web::Data<Worker>) -> HttpResponse {
    match worker.shared.standing.stage() {
        Stage::Serving => HttpResponse::Ok().finish(),
        Stage::Starting => message(503, "the node is loading its models"),
        Stage::Leaving => message(503, "the node is leaving its grid"),
        Stage::Draining => message(503, "the node is draining"),
    }
}

pub(super) async fn model_ready(request: HttpRequest, worker: web::Data<Worker>) -> HttpResponse {
    let (name, version) = named(&request);
    match worker.shared.routes.resolve(name, version) {
        Ok(route) if route.state == ReplicaState::Ready => HttpResponse::Ok().finish(),
        Ok(route) => refuse(&route.not_ready()),
        Err(error) => refuse(&error),
    }
}
