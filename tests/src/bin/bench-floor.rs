//! The floor of the HTTP benches: what a gateway costs when it is nothing but an actix-web handler that runs the model.
//!
//! It runs the same model through the same runtime, with the same session options and the same code for JSON and the
//! binary form, inline on the worker thread, one instance for each worker. No router, actor, queue, metrics, ids, limits
//! or supervision. Called as `bench-floor run CONFIG`, like a node, so that the benches start both alike. Where the config
//! has `grpc.listen`, it is the floor of the gRPC bench too: the same with tonic.

#[path = "bench-floor/grpc.rs"]
mod grpc;

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use grid_core::config;
use grid_core::tensor::Tensor;
use grid_node::gateway::rest::codec::{self, HEADER_LENGTH, MessageKind, OutputTensor, RequestBody, Response};
use grid_node::runtime::{Instance, Model, OpenOptions, Outputs, Progress, Runtimes, Work};
use grid_node::store;

struct Served {
    model: Arc<dyn Model>,
    instance: RefCell<Box<dyn Instance>>,
}

type Models = HashMap<String, Served>;

impl Served {
    fn new(model: &Arc<dyn Model>) -> Self {
        Self {
            model: Arc::clone(model),
            instance: RefCell::new(model.instance(None).expect("it was opened before")),
        }
    }

    fn run<N: AsRef<str>>(&self, tensors: impl IntoIterator<Item = (N, Tensor)>) -> Result<Outputs, String> {
        let signature = self.model.signature();
        let inputs = signature
            .arrange(tensors, |_| None)
            .map_err(|error| error.to_string())?;
        let mut work = [Work {
            id: 0,
            inputs,
            progress: Progress::Running,
        }];
        self.instance.borrow_mut().step(&mut work);
        let [work] = work;
        match work.progress {
            Progress::Finished(outputs) => outputs.map_err(|error| error.to_string()),
            _ => Err("the model did not finish".to_owned()),
        }
    }
}

async fn infer(request: HttpRequest, body: web::Bytes, models: web::Data<Models>) -> HttpResponse {
    let name = request.match_info().get("name").unwrap_or_default();
    let Some(served) = models.get(name) else {
        return HttpResponse::NotFound().finish();
    };
    match answer(&request, body, name, served) {
        Ok(response) => response,
        Err(error) => HttpResponse::BadRequest().body(error),
    }
}

fn answer(request: &HttpRequest, body: web::Bytes, name: &str, served: &Served) -> Result<HttpResponse, String> {
    let header = request.headers().get("inference-header-content-length");
    let length = Some(body.len());
    let mut builder = RequestBody::builder(header.map(|value| value.as_bytes()), length, usize::MAX)
        .map_err(|error| error.to_string())?;
    builder.push(body).map_err(|error| error.to_string())?;
    let body = builder.finish().map_err(|error| error.to_string())?;
    let decoded = codec::decode(&body).map_err(|error| error.to_string())?;
    let signature = served.model.signature();
    let outputs = served.run(decoded.inputs.iter().map(|(name, tensor)| (name, tensor.clone())))?;
    let response = Response {
        model_name: name,
        model_version: 1,
        id: decoded.id.as_deref(),
        kind: MessageKind::Http,
    };
    let tensors = signature
        .outputs
        .iter()
        .zip(&outputs)
        .map(|(spec, tensor)| OutputTensor {
            name: &spec.name,
            tensor,
            binary: decoded.parameters.binary_data_output,
        });
    let encoded = codec::encode(&response, tensors).map_err(|error| error.to_string())?;
    let mut response = HttpResponse::Ok();
    match encoded.header_length {
        Some(length) => {
            response.insert_header(("Content-Type", "application/octet-stream"));
            response.insert_header((HEADER_LENGTH, length));
        }
        None => {
            response.insert_header(("Content-Type", "application/json"));
        }
    }
    Ok(match encoded.parts.as_slice() {
        [only] => response.body(only.clone()),
        parts => response.body(parts.concat()),
    })
}

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let file = std::env::args().nth(2).unwrap_or_default();
    let text = std::fs::read_to_string(&file)?;
    let invalid = |problem: String| std::io::Error::new(std::io::ErrorKind::InvalidInput, problem);
    let mut config = config::parse(&file, &text, std::env::vars()).map_err(|problems| {
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        invalid(problems.join("\n"))
    })?;
    config.resolve(Path::new(&file).parent().unwrap_or(Path::new("")));
    let runtimes = Runtimes::of_config(&config);
    let mut models: Vec<(String, Arc<dyn Model>)> = Vec::new();
    for found in store::scan(&config.models.repositories).models.values() {
        let wanted = found.manifest.runtime.as_deref();
        for artifact in found.versions.values() {
            let runtime = runtimes.for_model(artifact.format, wanted).map_err(invalid)?;
            let options = OpenOptions { threads_per_run: 1 };
            // What a fallback cannot run is left out, as a node leaves it out.
            if let Ok(model) = runtime.open(artifact, &options) {
                models.push((found.name.to_string(), model));
            }
        }
    }
    let workers = config.http.workers.unwrap_or_else(grid_node::loading::available_cores);
    if let Some(address) = config.grpc.listen {
        println!("floor listening on grpc://{}", grpc::serve(address, workers, &models)?);
    }
    let server = HttpServer::new(move || {
        let served: Models = models
            .iter()
            .map(|(name, model)| (name.clone(), Served::new(model)))
            .collect();
        App::new()
            .app_data(web::Data::new(served))
            .app_data(web::PayloadConfig::new(64 << 20))
            .route("/v2/models/{name}/infer", web::post().to(infer))
            .route("/v2/health/ready", web::get().to(HttpResponse::Ok))
    })
    .workers(workers)
    .bind(config.http.listen)?;
    println!("floor listening on http://{}", server.addrs()[0]);
    server.run().await
}
