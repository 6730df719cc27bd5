//! What operators read: the metrics.

use std::sync::Arc;

use actix_web::{HttpResponse, web};
use parking_lot::Mutex;

use super::Worker;
use crate::telemetry::ModelMetrics;

/// The model versions that the last scrape saw. A recorder keeps a gauge's last value for ever, so that of a version that
/// has been forgotten since must be brought to zero.
pub(crate) type Exported = Arc<Mutex<Vec<Arc<ModelMetrics>>>>;

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config.route("/metrics", web::get().to(metrics));
}

async fn metrics(worker: web::Data<Worker>) -> HttpResponse {
    let table = worker.shared.routes.read();
    let routes = table.values().flat_map(|model| model.versions.values());
    let mut exported = worker.shared.exported.lock();
    for metrics in exported.drain(..) {
        metrics.in_flight.set(0.0);
    }
    for route in routes {
        route.metrics.in_flight.set(route.in_flight() as f64);
        exported.push(Arc::clone(&route.metrics));
    }
    // Rendered before another scrape can bring the gauges to zero.
    let text = worker.shared.prometheus.render();
    drop(exported);
    HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(text)
}
