//! What operators read: the metrics.

use actix_web::{HttpResponse, web};

use super::Worker;

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config.route("/metrics", web::get().to(metrics));
}

async fn metrics(worker: web::Data<Worker>) -> HttpResponse {
    for model in worker.shared.routes.read().values() {
        for route in model.versions.values() {
            route.metrics.in_flight.set(route.in_flight() as f64);
        }
    }
    HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4")
        .body(worker.shared.prometheus.render())
}
