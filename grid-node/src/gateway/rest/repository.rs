//! The model repository extension: what is there, load, unload.

use std::collections::HashMap;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::{message, named};
use crate::actors::{CatalogError, LoadModel, ReplicaState, UnloadModel};
use crate::gateway::{Worker, admin};

#[derive(Serialize)]
struct Entry<'a> {
    name: &'a str,
    version: String,
    state: &'static str,
    reason: &'a str,
}

#[derive(Default, Deserialize)]
struct IndexRequest {
    /// Only what is ready.
    #[serde(default)]
    ready: bool,
}

pub(super) async fn index(worker: web::Data<Worker>, body: web::Bytes) -> HttpResponse {
    let wanted: IndexRequest = if body.is_empty() {
        IndexRequest::default()
    } else {
        match serde_json::from_slice(&body) {
            Ok(wanted) => wanted,
            Err(error) => return message(400, &format!("expected `{{\"ready\": true or false}}`: {error}")),
        }
    };
    let table = worker.shared.routes.read();
    let mut entries: Vec<_> = table
        .values()
        .flat_map(|model| model.versions.values())
        .filter(|route| !wanted.ready || route.state == ReplicaState::Ready)
        .map(|route| Entry {
            name: route.id.name.as_str(),
            version: route.id.version.to_string(),
            state: route.state.name(),
            reason: route.state.reason(),
        })
        .collect();
    entries.sort_by(|a, b| (a.name, a.version.len(), &a.version).cmp(&(b.name, b.version.len(), &b.version)));
    HttpResponse::Ok().json(entries)
}

/// Loads every version of a model from the repository, or what has changed of it; answers when it serves.
pub(super) async fn load(request: HttpRequest, worker: web::Data<Worker>, body: web::Bytes) -> HttpResponse {
    if let Err((status, text)) = admin::permit(&request, &worker.shared.config.http) {
        return message(status, text);
    }
    // Triton lets a load bring a configuration and files of its own; a node serves what its repository holds.
    match parameters(&body) {
        Ok(parameters) if parameters.is_empty() => {}
        Ok(_) => {
            return message(
                400,
                "parameters `config` and `file:…` are not supported: change the model repository, then load",
            );
        }
        Err(error) => {
            return message(
                400,
                &format!("expected no body, or `{{\"parameters\": {{}}}}`: {error}"),
            );
        }
    }
    let name = named(&request).0.to_owned();
    answer(worker.shared.catalog.send(LoadModel(name)).await)
}

/// Drains and unloads every version of a model; answers when its memory is free.
pub(super) async fn unload(request: HttpRequest, worker: web::Data<Worker>) -> HttpResponse {
    if let Err((status, text)) = admin::permit(&request, &worker.shared.config.http) {
        return message(status, text);
    }
    let name = named(&request).0.to_owned();
    answer(worker.shared.catalog.send(UnloadModel(name)).await)
}

fn parameters(body: &[u8]) -> serde_json::Result<HashMap<String, IgnoredAny>> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        parameters: HashMap<String, IgnoredAny>,
    }
    if body.is_empty() {
        return Ok(HashMap::new());
    }
    serde_json::from_slice::<Body>(body).map(|body| body.parameters)
}

fn answer(result: Result<Result<(), CatalogError>, actix::MailboxError>) -> HttpResponse {
    match result {
        Ok(Ok(())) => HttpResponse::Ok().finish(),
        Ok(Err(CatalogError::Unknown(text))) => message(404, &text),
        Ok(Err(CatalogError::Failed(text))) => message(400, &text),
        Err(_) => message(503, "the node is stopping"),
    }
}
