//! The methods of the service: what a call asks for, to who does it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use futures_util::Stream;
use grid_core::InferError;
use tokio::sync::watch;
use tonic::{Code, Request, Response, Status, Streaming};

use super::generated::grpc_inference_service_server::GrpcInferenceService;
use super::generated::{
    ModelConfigRequest, ModelConfigResponse, ModelInferRequest, ModelInferResponse, ModelMetadataRequest,
    ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse, ModelStatisticsRequest, ModelStatisticsResponse,
    ModelStreamInferResponse, RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelLoadRequest,
    RepositoryModelLoadResponse, RepositoryModelUnloadRequest, RepositoryModelUnloadResponse, ServerLiveRequest,
    ServerLiveResponse, ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
};
use super::infer::{Call, infer};
use super::server::begun;
use super::stream::Answers;
use super::{identity, models, status};
use crate::actors::{CatalogError, LoadModel, ReplicaState, RouterHandle, UnloadModel};
use crate::bodies::Bodies;
use crate::gateway::Gateway;
use crate::gateway::admin::{self, Caller};
use crate::standing::Stage;

/// What all connections share.
pub(super) struct Shared {
    pub(super) gateway: Gateway,
    pub(super) router: RouterHandle,
    pub(super) bodies: Arc<Bodies>,
}

/// The service on one connection.
pub(super) struct Service {
    pub(super) shared: Arc<Shared>,
    pub(super) peer: SocketAddr,
    pub(super) draining: watch::Receiver<bool>,
}

impl Service {
    fn permit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let metadata = |name| request.metadata().get(name).and_then(|value| value.to_str().ok());
        let caller = Caller {
            peer: Some(self.peer.ip()),
            origin: metadata("origin"),
            host: None,
            authorization: metadata("authorization"),
        };
        admin::permit_caller(&caller, &self.shared.gateway.config.http).map_err(|(status, text)| match status {
            401 => Status::unauthenticated(text),
            _ => Status::permission_denied(text),
        })
    }
}

/// A version that is named, or none.
pub(super) fn version(text: &str) -> Option<&str> {
    Some(text).filter(|version| !version.is_empty())
}

fn refuse(error: &InferError) -> Status {
    status::of(error)
}

#[tonic::async_trait]
impl GrpcInferenceService for Service {
    async fn server_live(&self, _: Request<ServerLiveRequest>) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(&self, _: Request<ServerReadyRequest>) -> Result<Response<ServerReadyResponse>, Status> {
        let ready = self.shared.gateway.standing.stage() == Stage::Serving;
        Ok(Response::new(ServerReadyResponse { ready }))
    }

    async fn model_ready(&self, request: Request<ModelReadyRequest>) -> Result<Response<ModelReadyResponse>, Status> {
        let asked = request.into_inner();
        let route = self.shared.gateway.routes.resolve(&asked.name, version(&asked.version));
        let ready = route.is_ok_and(|route| route.state == ReplicaState::Ready);
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(models::server(&self.shared.gateway.config)))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let asked = request.into_inner();
        let metadata = models::metadata(&self.shared.gateway.routes, &asked.name, version(&asked.version));
        metadata.map(Response::new).map_err(|error| refuse(&error))
    }

    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Result<Response<ModelInferResponse>, Status> {
        let has_id = identity::is_in(request.metadata());
        let call = Call::of(request.metadata()).map_err(|error| refuse(&error))?;
        match infer(&self.shared, &call, call.began, request.into_inner()).await {
            Ok(answer) => {
                let mut response = Response::new(answer);
                identity::return_to_sender(response.metadata_mut(), has_id, &call.context);
                Ok(response)
            }
            Err(error) => Err(identity::sign(refuse(&error), &call.context)),
        }
    }

    type ModelStreamInferStream = Pin<Box<dyn Stream<Item = Result<ModelStreamInferResponse, Status>> + Send>>;

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<ModelInferRequest>>,
    ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
        let has_id = identity::is_in(request.metadata());
        let call = Arc::new(Call::of(request.metadata()).map_err(|error| refuse(&error))?);
        let shared = Arc::clone(&self.shared);
        let of_stream = Arc::clone(&call);
        let begin = move |message: ModelInferRequest| {
            let (shared, call) = (Arc::clone(&shared), Arc::clone(&of_stream));
            async move {
                let id = message.id.clone();
                match infer(&shared, &call, Instant::now(), message).await {
                    Ok(answer) => ModelStreamInferResponse {
                        error_message: String::new(),
                        infer_response: Some(answer),
                    },
                    Err(error) => ModelStreamInferResponse {
                        error_message: status::text(&error),
                        infer_response: Some(ModelInferResponse {
                            id,
                            ..ModelInferResponse::default()
                        }),
                    },
                }
            }
        };
        let answers = Answers::new(request.into_inner(), begin, begun(self.draining.clone()));
        let mut response = Response::new(Box::pin(answers) as Self::ModelStreamInferStream);
        identity::return_to_sender(response.metadata_mut(), has_id, &call.context);
        Ok(response)
    }

    async fn model_config(
        &self,
        request: Request<ModelConfigRequest>,
    ) -> Result<Response<ModelConfigResponse>, Status> {
        let asked = request.into_inner();
        let config = models::config(&self.shared.gateway, &asked.name, version(&asked.version));
        let response = |config| Response::new(ModelConfigResponse { config: Some(config) });
        config.map(response).map_err(|error| refuse(&error))
    }

    async fn model_statistics(
        &self,
        request: Request<ModelStatisticsRequest>,
    ) -> Result<Response<ModelStatisticsResponse>, Status> {
        let asked = request.into_inner();
        let statistics = models::statistics(&self.shared.gateway.routes, &asked.name, version(&asked.version));
        let response = |model_stats| Response::new(ModelStatisticsResponse { model_stats });
        statistics.map(response).map_err(|error| refuse(&error))
    }

    async fn repository_index(
        &self,
        request: Request<RepositoryIndexRequest>,
    ) -> Result<Response<RepositoryIndexResponse>, Status> {
        let models = models::index(&self.shared.gateway.routes, request.into_inner().ready);
        Ok(Response::new(RepositoryIndexResponse { models }))
    }

    async fn repository_model_load(
        &self,
        request: Request<RepositoryModelLoadRequest>,
    ) -> Result<Response<RepositoryModelLoadResponse>, Status> {
        self.permit(&request)?;
        let asked = request.into_inner();
        // Triton lets a load bring a configuration and files of its own; a node serves what its repository holds.
        if !asked.parameters.is_empty() {
            return Err(Status::invalid_argument(
                "parameters `config` and `file:…` are not supported: change the model repository, then load",
            ));
        }
        let loaded = self.shared.gateway.catalog.send(LoadModel(asked.model_name)).await;
        changed(loaded).map(|()| Response::new(RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<RepositoryModelUnloadRequest>,
    ) -> Result<Response<RepositoryModelUnloadResponse>, Status> {
        self.permit(&request)?;
        // Clients send `unload_dependents`, which means ensembles: there are none here.
        let name = request.into_inner().model_name;
        let unloaded = self.shared.gateway.catalog.send(UnloadModel(name)).await;
        changed(unloaded).map(|()| Response::new(RepositoryModelUnloadResponse {}))
    }
}

fn changed(result: Result<Result<(), CatalogError>, actix::MailboxError>) -> Result<(), Status> {
    match result {
        Ok(Ok(())) => Ok(()),
        Ok(Err(CatalogError::Unknown(text))) => Err(Status::new(Code::NotFound, text)),
        // The call is right; what lies in the repository is not.
        Ok(Err(CatalogError::Failed(text))) => Err(Status::new(Code::FailedPrecondition, text)),
        Err(_) => Err(Status::unavailable("the node is stopping")),
    }
}
