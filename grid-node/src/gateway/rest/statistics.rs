//! The statistics extension.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;

use super::{named, refuse};
use crate::actors::VersionRoute;
use crate::gateway::Worker;

#[derive(Serialize)]
struct Statistics<'a> {
    model_stats: Vec<Model<'a>>,
}

#[derive(Serialize)]
struct Model<'a> {
    name: &'a str,
    version: String,
    /// Milliseconds since 1970.
    last_inference: u64,
    /// Rows that were answered.
    inference_count: u64,
    /// Runs.
    execution_count: u64,
    inference_stats: Inference,
    batch_stats: Vec<Batch>,
}

#[derive(Clone, Copy, Default, Serialize)]
struct Sum {
    count: u64,
    ns: u64,
}

#[derive(Serialize)]
struct Inference {
    success: Sum,
    fail: Sum,
    queue: Sum,
    compute_input: Sum,
    compute_infer: Sum,
    compute_output: Sum,
}

#[derive(Serialize)]
struct Batch {
    batch_size: usize,
    compute_input: Sum,
    compute_infer: Sum,
    compute_output: Sum,
}

fn sum(count: u64, time: Duration) -> Sum {
    Sum {
        count,
        ns: u64::try_from(time.as_nanos()).unwrap_or(u64::MAX),
    }
}

/// Gathering inputs and taking outputs apart are part of the run here, so their own sums stay zero.
fn statistics(route: &VersionRoute) -> Model<'_> {
    let stats = route.stats();
    let ended = stats.succeeded + stats.failed;
    Model {
        name: route.id.name.as_str(),
        version: route.id.version.to_string(),
        last_inference: stats.last_run.map_or(0, |run| {
            let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let at = since_1970.saturating_sub(run.elapsed());
            u64::try_from(at.as_millis()).unwrap_or(u64::MAX)
        }),
        inference_count: stats.rows,
        execution_count: stats.runs,
        inference_stats: Inference {
            success: sum(stats.succeeded, stats.time_of_succeeded),
            fail: sum(stats.failed, stats.time_of_failed),
            queue: sum(ended, stats.queued),
            compute_input: Sum::default(),
            compute_infer: sum(ended, stats.computed),
            compute_output: Sum::default(),
        },
        batch_stats: stats
            .by_rows
            .iter()
            .map(|(&batch_size, &(count, length))| Batch {
                batch_size,
                compute_input: Sum::default(),
                compute_infer: sum(count, length),
                compute_output: Sum::default(),
            })
            .collect(),
    }
}

pub(super) async fn all(worker: web::Data<Worker>) -> HttpResponse {
    let table = worker.shared.routes.read();
    let mut routes: Vec<_> = table.values().flat_map(|model| model.versions.values()).collect();
    routes.sort_by(|a, b| a.id.cmp(&b.id));
    HttpResponse::Ok().json(Statistics {
        model_stats: routes.into_iter().map(|route| statistics(route)).collect(),
    })
}

pub(super) async fn model(request: HttpRequest, worker: web::Data<Worker>) -> HttpResponse {
    let (name, version) = named(&request);
    let shared = &worker.shared;
    if version.is_some() {
        return match shared.routes.resolve(name, version) {
            Ok(route) => HttpResponse::Ok().json(Statistics {
                model_stats: vec![statistics(&route)],
            }),
            Err(error) => refuse(&error),
        };
    }
    let table = shared.routes.read();
    match table.get(name) {
        Some(model) => HttpResponse::Ok().json(Statistics {
            model_stats: model.versions.values().map(|route| statistics(route)).collect(),
        }),
        None => match shared.routes.resolve(name, None) {
            Err(error) => refuse(&error),
            Ok(_) => HttpResponse::Ok().json(Statistics {
                model_stats: Vec::new(),
            }),
        },
    }
}
