//! The floor of the gRPC bench: tonic's own server with the generated service, as its guide shows it, and a handler that
//! runs the model where it stands.
//!
//! As many threads as the node's gRPC has, one instance of each model for each. It shares with the node what is no part of
//! the comparison: the messages, their codec, the runtime.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::Empty;
use grid_core::tensor::{AlignedBytes, DataType, Shape, Tensor};
use grid_node::gateway::grpc::generated::grpc_inference_service_server::{
    GrpcInferenceService, GrpcInferenceServiceServer,
};
use grid_node::gateway::grpc::generated::model_infer_response::InferOutputTensor;
use grid_node::gateway::grpc::generated::*;
use grid_node::runtime::Model;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::{Models, Served};

/// Serves in the background for as long as the process lives. Returns where.
pub(super) fn serve(
    address: SocketAddr,
    threads: usize,
    models: &[(String, Arc<dyn Model>)],
) -> io::Result<SocketAddr> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("grpc")
        .enable_all()
        .build()?;
    let incoming = {
        let _entered = runtime.enter();
        TcpIncoming::bind(address)?.with_nodelay(Some(true))
    };
    let bound = incoming.local_addr()?;
    let floor = GrpcInferenceServiceServer::new(Floor(models.iter().cloned().collect()));
    std::thread::spawn(move || {
        if let Err(error) = runtime.block_on(Server::builder().serve_with_incoming(floor, incoming)) {
            eprintln!("gRPC ended: {error}");
        }
    });
    Ok(bound)
}

struct Floor(HashMap<String, Arc<dyn Model>>);

thread_local! {
    /// The models that this thread has run.
    static SERVED: RefCell<Models> = RefCell::default();
}

impl Floor {
    fn infer(&self, request: ModelInferRequest) -> Result<ModelInferResponse, Status> {
        let Some(model) = self.0.get(&request.model_name) else {
            return Err(Status::not_found(request.model_name));
        };
        SERVED.with_borrow_mut(|served| {
            if !served.contains_key(&request.model_name) {
                served.insert(request.model_name.clone(), Served::new(model));
            }
            answer(&served[&request.model_name], request)
        })
    }
}

fn answer(served: &Served, request: ModelInferRequest) -> Result<ModelInferResponse, Status> {
    let mut raw = request.raw_input_contents.iter();
    let mut inputs = Vec::with_capacity(request.inputs.len());
    for input in request.inputs {
        let tensor = tensor(&input.datatype, &input.shape, raw.next(), input.contents);
        inputs.push((input.name, tensor.map_err(Status::invalid_argument)?));
    }
    let outputs = served.run(inputs).map_err(Status::invalid_argument)?;
    let mut response = ModelInferResponse {
        model_name: request.model_name,
        model_version: "1".to_owned(),
        id: request.id,
        ..ModelInferResponse::default()
    };
    for (spec, output) in served.model.signature().outputs.iter().zip(&outputs) {
        response.outputs.push(InferOutputTensor {
            name: spec.name.clone(),
            datatype: output.data_type().name().to_owned(),
            shape: output.shape().dims().iter().map(|dim| *dim as i64).collect(),
            ..InferOutputTensor::default()
        });
        let bytes = output.data().as_slice();
        response.raw_output_contents.push(bytes.to_vec().into());
    }
    Ok(response)
}

fn tensor(
    data_type: &str,
    shape: &[i64],
    raw: Option<&bytes::Bytes>,
    contents: Option<InferTensorContents>,
) -> Result<Tensor, String> {
    let shape = Shape(shape.iter().map(|dim| *dim as usize).collect());
    let data_type: DataType = data_type.parse().map_err(|_| "no such type")?;
    let made = match (raw, contents, data_type) {
        (Some(raw), _, _) => Tensor::new(data_type, shape, AlignedBytes::copy_of(raw).freeze()),
        (None, Some(contents), DataType::Fp32) => Tensor::from_values(shape, &contents.fp32_contents),
        (None, Some(contents), DataType::Int64) => Tensor::from_values(shape, &contents.int64_contents),
        _ => return Err(format!("{data_type} is read raw here")),
    };
    made.map_err(|error| error.to_string())
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send + 'a>>;

/// What a bench does not ask for.
macro_rules! not_served {
    ($($method:ident($request:ty) -> $response:ty;)*) => {$(
        fn $method<'life0, 'async_trait>(&'life0 self, _: Request<$request>) -> Answer<'async_trait, $response>
        where
            'life0: 'async_trait,
            Self: 'async_trait,
        {
            Box::pin(async { Err(Status::unimplemented("this is a floor")) })
        }
    )*};
}

// What `#[tonic::async_trait]` would make of it: the attribute sees no macro's methods.
impl GrpcInferenceService for Floor {
    type ModelStreamInferStream = Empty<Result<ModelStreamInferResponse, Status>>;

    fn model_infer<'life0, 'async_trait>(
        &'life0 self,
        request: Request<ModelInferRequest>,
    ) -> Answer<'async_trait, ModelInferResponse>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async { self.infer(request.into_inner()).map(Response::new) })
    }

    not_served! {
        server_live(ServerLiveRequest) -> ServerLiveResponse;
        server_ready(ServerReadyRequest) -> ServerReadyResponse;
        model_ready(ModelReadyRequest) -> ModelReadyResponse;
        server_metadata(ServerMetadataRequest) -> ServerMetadataResponse;
        model_metadata(ModelMetadataRequest) -> ModelMetadataResponse;
        model_stream_infer(tonic::Streaming<ModelInferRequest>) -> Self::ModelStreamInferStream;
        model_config(ModelConfigRequest) -> ModelConfigResponse;
        model_statistics(ModelStatisticsRequest) -> ModelStatisticsResponse;
        repository_index(RepositoryIndexRequest) -> RepositoryIndexResponse;
        repository_model_load(RepositoryModelLoadRequest) -> RepositoryModelLoadResponse;
        repository_model_unload(RepositoryModelUnloadRequest) -> RepositoryModelUnloadResponse;
    }
}
