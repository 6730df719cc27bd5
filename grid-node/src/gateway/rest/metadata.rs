//! Who the server is, and what a model takes and gives.

use actix_web::{HttpRequest, HttpResponse, web};
use grid_core::model::TensorSpec;
use serde::Serialize;

use super::{named, platform, refuse};
use crate::gateway::Worker;

/// Extensions of the protocol that work here.
const EXTENSIONS: [&str; 8] = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "sequence",
    "statistics",
];

#[derive(Serialize)]
struct Server<'a> {
    name: &'a str,
    version: &'a str,
    extensions: [&'a str; EXTENSIONS.len()],
}

pub(super) async fn server(worker: web::Data<Worker>) -> HttpResponse {
    HttpResponse::Ok().json(Server {
        name: worker.shared.config.node.name.as_str(),
        version: env!("CARGO_PKG_VERSION"),
        extensions: EXTENSIONS,
    })
}

#[derive(Serialize)]
struct Model<'a> {
    name: &'a str,
    versions: Vec<String>,
    platform: String,
    inputs: Vec<Tensor<'a>>,
    outputs: Vec<Tensor<'a>>,
}

#[derive(Serialize)]
struct Tensor<'a> {
    name: &'a str,
    datatype: &'a str,
    shape: Vec<i64>,
}

fn tensors(specs: &[TensorSpec]) -> Vec<Tensor<'_>> {
    specs
        .iter()
        .map(|spec| Tensor {
            name: &spec.name,
            datatype: spec.data_type.name(),
            shape: spec.protocol_shape(),
        })
        .collect()
}

pub(super) async fn model(request: HttpRequest, worker: web::Data<Worker>) -> HttpResponse {
    let (name, version) = named(&request);
    let route = match worker.shared.routes.resolve(name, version) {
        Ok(route) if route.runtime.is_empty() => return refuse(&route.not_ready()),
        Ok(route) => route,
        Err(error) => return refuse(&error),
    };
    let table = worker.shared.routes.read();
    let versions = table
        .get(name)
        .map(|model| model.versions.keys().map(u64::to_string).collect());
    HttpResponse::Ok().json(Model {
        name,
        versions: versions.unwrap_or_default(),
        platform: platform(&route),
        inputs: tensors(&route.signature.inputs),
        outputs: tensors(&route.signature.outputs),
    })
}
