//! The grid that this node is in: what it knows of it, and what it brings to it.

use actix_web::{HttpRequest, HttpResponse, web};
use grid_core::config::ByteSize;
use serde::{Deserialize, Serialize};

use super::message;
use crate::actors::{SetCapacity, Status};
use crate::gateway::{Worker, admin};

const ALONE: &str = "this node is in no grid: its config has no `grid.listen`";

/// Nodes, shards, replicas, their loads, and what moves.
pub(super) async fn status(worker: web::Data<Worker>) -> HttpResponse {
    let Some(grid) = &worker.shared.grid else {
        return message(404, ALONE);
    };
    match grid.send(Status).await {
        Ok(status) => HttpResponse::Ok().json(status),
        Err(_) => message(503, "the node is stopping"),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Capacity {
    /// Bytes, or a size such as "4GiB".
    memory: Option<Size>,
    compute: Option<u32>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Size {
    Bytes(u64),
    Text(String),
}

#[derive(Serialize)]
struct Changed {
    memory: u64,
}

/// Changes what this node takes on, until it is started again or its config is read again.
pub(super) async fn capacity(request: HttpRequest, worker: web::Data<Worker>, body: web::Bytes) -> HttpResponse {
    if let Err((status, text)) = admin::permit(&request, &worker.shared.config.http) {
        return message(status, text);
    }
    let Some(grid) = &worker.shared.grid else {
        return message(404, ALONE);
    };
    let expected = "expected `{\"memory\": BYTES or a size such as \"4GiB\", \"compute\": hundredths of a thread}`, one of both or both";
    let capacity: Capacity = match serde_json::from_slice(&body) {
        Ok(capacity) => capacity,
        Err(error) => return message(400, &format!("{expected}: {error}")),
    };
    let memory = match capacity.memory {
        None => None,
        Some(Size::Bytes(bytes)) => Some(bytes),
        Some(Size::Text(text)) => match text.parse::<ByteSize>() {
            Ok(size) => Some(size.0),
            Err(error) => return message(400, &format!("`memory`: {error}")),
        },
    };
    if memory == Some(0) || capacity.compute == Some(0) || (memory.is_none() && capacity.compute.is_none()) {
        return message(400, expected);
    }
    if let Some(memory) = memory {
        worker.shared.budget.set(memory);
    }
    let set = SetCapacity {
        memory,
        compute: capacity.compute,
    };
    match grid.send(set).await {
        Ok(()) => HttpResponse::Ok().json(Changed {
            memory: worker.shared.budget.usage().0,
        }),
        Err(_) => message(503, "the node is stopping"),
    }
}
