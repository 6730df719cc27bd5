//! The gRPC gateway, through a client as others have it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use grid_core::model::{Dim, Signature, StackAxes, TensorSpec};
use grid_core::tensor::{ALL_DATA_TYPES, DataType, Tensor};
use grid_node::gateway::grpc::generated::grpc_inference_service_client::GrpcInferenceServiceClient;
use grid_node::gateway::grpc::generated::infer_parameter::ParameterChoice;
use grid_node::gateway::grpc::generated::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use grid_node::gateway::grpc::generated::{
    InferParameter, InferTensorContents, ModelConfigRequest, ModelInferRequest, ModelInferResponse,
    ModelMetadataRequest, ModelReadyRequest, ModelStatisticsRequest, RepositoryIndexRequest,
    RepositoryModelLoadRequest, RepositoryModelUnloadRequest, ServerLiveRequest, ServerMetadataRequest,
    ServerReadyRequest,
};
use grid_node::runtime::{
    Artifact, Instance, Model, ModelError, OpenError, OpenOptions, Outputs, Runtime, Stacked, TensorModel,
};
use grid_tests::embedded::{EmbeddedNode, Repository, eventually, start_node};
use grid_tests::grpc_code;
use grid_tests::scripted::FAILS;
use hyper::Uri;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

type Client = GrpcInferenceServiceClient<Channel>;

const LISTEN: &str = "grpc.listen = '127.0.0.1:0'";
const ONE: &str = "instances = 1";
const GATED: &str = "gated = 1";

/// Runs a test against a node of the model `m`. The node's threads are its own, so a test may also wait by blocking.
fn with_node<F: Future<Output = ()>>(
    manifest: &str,
    model: &str,
    config: &str,
    test: impl FnOnce(Arc<EmbeddedNode>, Client) -> F,
) {
    let repository = Repository::default().with("m", manifest, model);
    let node = Arc::new(EmbeddedNode::start(repository, &format!("{LISTEN}\n{config}")));
    run(async {
        let client = connect(node.grpc_address().expect("its config has gRPC")).await;
        test(Arc::clone(&node), client).await;
    });
}

fn run(test: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(test);
}

async fn connect(address: SocketAddr) -> Client {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address is an endpoint");
    Client::new(endpoint.connect().await.expect("the node listens"))
}

/// A request to the scripted model `m`.
fn request(x: &[f32]) -> ModelInferRequest {
    ModelInferRequest {
        model_name: "m".to_owned(),
        inputs: vec![InferInputTensor {
            name: "x".to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![x.len() as i64],
            contents: Some(InferTensorContents {
                fp32_contents: x.to_vec(),
                ..InferTensorContents::default()
            }),
            ..InferInputTensor::default()
        }],
        ..ModelInferRequest::default()
    }
}

fn with_parameter(mut request: ModelInferRequest, name: &str, choice: ParameterChoice) -> ModelInferRequest {
    let parameter_choice = Some(choice);
    request
        .parameters
        .insert(name.to_owned(), InferParameter { parameter_choice });
    request
}

fn y(answer: &ModelInferResponse) -> Vec<f32> {
    assert_eq!(answer.outputs[0].name, "y");
    let raw = answer.raw_output_contents[0].chunks_exact(4);
    raw.map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes")))
        .collect()
}

async fn infer(client: &Client, request: ModelInferRequest) -> Result<ModelInferResponse, Status> {
    let answer = client.clone().model_infer(request).await;
    answer.map(tonic::Response::into_inner)
}

fn waiting(node: &EmbeddedNode) -> usize {
    node.route("m").lanes.iter().map(|lane| lane.waiting()).sum()
}

#[test]
fn the_committed_code_is_what_the_proto_file_makes() {
    let committed = std::fs::read_to_string(grpc_code::committed()).unwrap();
    let made = grpc_code::generate().unwrap();
    assert!(
        committed == made,
        "it is not; `cargo run -p grid-tests --bin generate-grpc` writes it"
    );
}

#[test]
fn an_inference_is_answered_typed_or_raw_with_its_id() {
    with_node(ONE, "", "", |_, client| async move {
        let mut typed = request(&[1.5, -3.0]);
        typed.id = "42".to_owned();
        let answer = infer(&client, typed.clone()).await.unwrap();
        assert_eq!(y(&answer), [3.0, -6.0]);
        assert_eq!((answer.id.as_str(), answer.model_version.as_str()), ("42", "1"));
        assert_eq!(answer.outputs[0].datatype, "FP32");
        assert_eq!(answer.outputs[0].shape, [2]);
        let mut raw = typed;
        raw.model_version = "1".to_owned();
        raw.inputs[0].contents = None;
        raw.raw_input_contents = vec![[1.5f32.to_le_bytes(), (-3.0f32).to_le_bytes()].concat().into()];
        assert_eq!(y(&infer(&client, raw).await.unwrap()), [3.0, -6.0]);
        let mut classified = request(&[1.0, 5.0, 2.0]);
        let classes = InferParameter {
            parameter_choice: Some(ParameterChoice::Int64Param(2)),
        };
        classified.outputs = vec![InferRequestedOutputTensor {
            name: "y".to_owned(),
            parameters: [("classification".to_owned(), classes)].into(),
        }];
        let answer = infer(&client, classified).await.unwrap();
        assert_eq!(answer.outputs[0].datatype, "BYTES");
        assert_eq!(
            answer.raw_output_contents[0][..],
            *b"\x04\x00\x00\x0010:1\x03\x00\x00\x004:2"
        );
    });
}

#[test]
fn every_data_type_goes_in_and_out_unchanged() {
    let repository = Repository::default().with("m", "", "");
    let node = start_node(&repository, LISTEN, Arc::new(Echo));
    run(async {
        let client = connect(node.grpc_address().expect("its config has gRPC")).await;
        let bytes = |data_type: DataType| match data_type {
            DataType::Bytes => b"\x02\0\0\0ab\0\0\0\0".to_vec(),
            DataType::Bool => vec![1, 0],
            fixed => (0..fixed.size().unwrap_or_default() as u8 * 2).collect(),
        };
        let request = ModelInferRequest {
            model_name: "m".to_owned(),
            inputs: ALL_DATA_TYPES
                .map(|data_type| InferInputTensor {
                    name: data_type.name().to_owned(),
                    datatype: data_type.name().to_owned(),
                    shape: vec![2],
                    ..InferInputTensor::default()
                })
                .to_vec(),
            raw_input_contents: ALL_DATA_TYPES.map(|data_type| bytes(data_type).into()).to_vec(),
            ..ModelInferRequest::default()
        };
        let answer = infer(&client, request).await.unwrap();
        for (index, data_type) in ALL_DATA_TYPES.into_iter().enumerate() {
            assert_eq!(answer.outputs[index].datatype, data_type.name());
            assert_eq!(answer.raw_output_contents[index][..], bytes(data_type), "{data_type}");
        }
    });
}

/// Gives back what it gets: one tensor of each data type.
#[derive(Debug)]
struct Echo;

struct EchoModel(Signature);

impl Runtime for Echo {
    fn name(&self) -> &'static str {
        "echo"
    }

    fn version(&self) -> String {
        "1".to_owned()
    }

    fn open(&self, _: &Artifact, _: &OpenOptions) -> Result<Arc<dyn Model>, OpenError> {
        let spec = |data_type: DataType| TensorSpec {
            name: data_type.name().to_owned(),
            data_type,
            shape: Some(vec![Dim::Dynamic]),
        };
        let specs = ALL_DATA_TYPES.map(spec).to_vec();
        Ok(Arc::new(EchoModel(Signature {
            inputs: specs.clone(),
            outputs: specs,
        })))
    }
}

impl Model for EchoModel {
    fn signature(&self) -> &Signature {
        &self.0
    }

    fn instance(&self, axes: Option<&StackAxes>) -> Result<Box<dyn Instance>, OpenError> {
        Ok(Box::new(Stacked::new(Echo, axes)))
    }
}

impl TensorModel for Echo {
    fn run(&mut self, inputs: &[Tensor]) -> Result<Outputs, ModelError> {
        Ok(inputs.iter().cloned().collect())
    }
}

#[test]
fn each_error_has_its_status_and_says_what_was_expected() {
    let config = "limits.queue = 1";
    with_node(ONE, GATED, config, |node, client| async move {
        let refusal = async |request| infer(&client, request).await.expect_err("it is refused");
        let mut unknown = request(&[1.0]);
        unknown.model_name = "n".to_owned();
        let status = refusal(unknown).await;
        assert_eq!((status.code(), status.message()), (Code::NotFound, "unknown model `n`"));
        assert!(status.metadata().contains_key("x-request-id"));
        let mut wrong = request(&[1.0]);
        wrong.inputs[0].datatype = "INT32".to_owned();
        let status = refusal(wrong).await;
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(
            status.message(),
            "input `x`: expected INT32 in `contents.int_contents`, found `contents.fp32_contents`"
        );
        let mut uneven = request(&[1.0]);
        uneven.raw_input_contents = vec![vec![0; 4].into(), vec![0; 4].into()];
        let status = refusal(uneven).await;
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(
            status
                .message()
                .starts_with("`raw_input_contents`: expected one for each of the 1 inputs")
        );
        let wrong = with_parameter(request(&[1.0]), "priority", ParameterChoice::BoolParam(true));
        assert_eq!(refusal(wrong).await.code(), Code::InvalidArgument);
        // One runs, one waits, and there is no room for a third.
        let first = tokio::spawn({
            let client = client.clone();
            async move { infer(&client, request(&[FAILS])).await }
        });
        eventually("the first is at the gate", || node.script.at_gate() == 1);
        let second = tokio::spawn({
            let client = client.clone();
            async move { infer(&client, request(&[2.0])).await }
        });
        eventually("the second waits", || waiting(&node) == 1);
        let status = refusal(request(&[3.0])).await;
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.metadata().contains_key("grpc-retry-pushback-ms"), "{status:?}");
        node.script.open_gate();
        let failed = first.await.unwrap().expect_err("it fails");
        assert_eq!(failed.code(), Code::Internal);
        assert!(failed.message().contains("makes it fail"), "{failed:?}");
        assert_eq!(y(&second.await.unwrap().unwrap()), [4.0]);
        assert!(!node.script.has_run(3.0));
    });
}

/// A connection without what tonic's own has around it: that keeps a call's time by itself, and does not wait for the node.
struct Bare(hyper::client::conn::http2::SendRequest<tonic::body::Body>);

impl Bare {
    async fn connect(address: SocketAddr) -> Self {
        let stream = TokioIo::new(tokio::net::TcpStream::connect(address).await.expect("the node listens"));
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
        let (sender, connection) = handshake.await.expect("the node speaks HTTP/2");
        tokio::spawn(connection);
        Self(sender)
    }
}

async fn bare(address: SocketAddr) -> GrpcInferenceServiceClient<Bare> {
    let origin = Uri::builder()
        .scheme("http")
        .authority(address.to_string())
        .path_and_query("/");
    GrpcInferenceServiceClient::with_origin(
        Bare::connect(address).await,
        origin.build().expect("an address is an origin"),
    )
}

impl tonic::codegen::Service<hyper::Request<tonic::body::Body>> for Bare {
    type Response = hyper::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: hyper::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

#[test]
fn a_request_whose_time_is_over_is_told_so_and_not_computed() {
    with_node(ONE, GATED, "", |node, client| async move {
        let first = tokio::spawn({
            let client = client.clone();
            async move { infer(&client, request(&[1.0])).await }
        });
        eventually("the first is at the gate", || node.script.at_gate() == 1);
        // By its parameter; by the call's time; by the smaller of the two.
        let timeout = |micros| with_parameter(request(&[7.0]), "timeout", ParameterChoice::Int64Param(micros));
        let mut impatient = bare(node.grpc_address().expect("its config has gRPC")).await;
        let mut within = async |request, metadata: &'static str| {
            let mut request = Request::new(request);
            if !metadata.is_empty() {
                request.metadata_mut().insert("grpc-timeout", metadata.parse().unwrap());
            }
            impatient.model_infer(request).await.expect_err("it is late")
        };
        for status in [
            within(timeout(30_000), "").await,
            within(request(&[7.0]), "30m").await,
            within(timeout(60_000_000), "30000u").await,
            within(timeout(30_000), "1H").await,
        ] {
            assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
            assert!(status.message().contains("the deadline of 30ms passed"), "{status:?}");
        }
        assert_eq!(within(request(&[7.0]), "0n").await.code(), Code::DeadlineExceeded);
        assert_eq!(within(request(&[7.0]), "soon").await.code(), Code::InvalidArgument);
        node.script.open_gate();
        assert_eq!(y(&first.await.unwrap().unwrap()), [2.0]);
        // What comes after it has run, so it would have by now.
        assert_eq!(y(&infer(&client, request(&[3.0])).await.unwrap()), [6.0]);
        assert!(!node.script.has_run(7.0), "{:?}", node.script.runs());
    });
}

#[test]
fn a_call_that_is_cancelled_and_one_whose_connection_ends_are_never_computed() {
    with_node(ONE, GATED, "", |node, client| async move {
        let first = tokio::spawn({
            let client = client.clone();
            async move { infer(&client, request(&[1.0])).await }
        });
        eventually("the first is at the gate", || node.script.at_gate() == 1);
        let cancelled = tokio::spawn({
            let client = client.clone();
            async move { infer(&client, request(&[7.0])).await }
        });
        eventually("the second waits", || waiting(&node) == 1);
        let other = connect(node.grpc_address().expect("its config has gRPC")).await;
        let departing = tokio::spawn(async move { infer(&other, request(&[8.0])).await });
        eventually("the third waits", || waiting(&node) == 2);
        cancelled.abort();
        departing.abort();
        eventually("both departures are noticed", || node.node.requests() == 1);
        node.script.open_gate();
        assert_eq!(y(&first.await.unwrap().unwrap()), [2.0]);
        assert_eq!(y(&infer(&client, request(&[3.0])).await.unwrap()), [6.0]);
        assert!(
            !node.script.has_run(7.0) && !node.script.has_run(8.0),
            "{:?}",
            node.script.runs()
        );
    });
}

/// The requests of a stream, sent as they are put into the channel.
fn sent(receiver: mpsc::Receiver<ModelInferRequest>) -> impl futures_util::Stream<Item = ModelInferRequest> + Send {
    futures_util::stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)))
}

fn with_id(mut request: ModelInferRequest, id: impl ToString) -> ModelInferRequest {
    request.id = id.to_string();
    request
}

#[test]
fn a_stream_answers_many_requests_each_with_its_id_and_stays_open_after_an_error() {
    let manifest = "instances = 1\n[batching]\nmax_batch_size = 16";
    with_node(manifest, GATED, "", |node, mut client| async move {
        let (sender, receiver) = mpsc::channel(100);
        for index in 0..8 {
            sender
                .send(with_id(request(&[index as f32 + 1.0]), index))
                .await
                .unwrap();
        }
        let mut wrong = with_id(request(&[1.0]), "wrong");
        wrong.inputs[0].shape = vec![2];
        sender.send(wrong).await.unwrap();
        let mut answers = client.model_stream_infer(sent(receiver)).await.unwrap().into_inner();
        let wrong = answers.message().await.unwrap().unwrap();
        assert_eq!(
            wrong.error_message,
            "input `x`: FP32 of shape [2] has 2 elements, found 1 in `contents.fp32_contents`"
        );
        assert_eq!(
            wrong.infer_response.unwrap().id,
            "wrong",
            "it overtakes those that wait"
        );
        eventually("all are under way at once", || node.node.requests() == 8);
        node.script.open_gate();
        let mut ids = Vec::new();
        for _ in 0..8 {
            let answer = answers.message().await.unwrap().unwrap();
            assert_eq!(answer.error_message, "");
            let answer = answer.infer_response.unwrap();
            let index: f32 = answer.id.parse().unwrap();
            assert_eq!(y(&answer), [(index + 1.0) * 2.0]);
            ids.push(answer.id);
        }
        ids.sort();
        assert_eq!(ids, ["0", "1", "2", "3", "4", "5", "6", "7"]);
        sender.send(with_id(request(&[9.0]), "after")).await.unwrap();
        assert_eq!(
            answers.message().await.unwrap().unwrap().infer_response.unwrap().id,
            "after"
        );
        drop(sender);
        assert!(
            answers.message().await.unwrap().is_none(),
            "it ends well when its client ends it"
        );
    });
}

#[test]
fn a_stream_reads_no_more_than_it_may_have_under_way_and_takes_it_all_back_when_it_ends() {
    with_node(ONE, GATED, "", |node, mut client| async move {
        let (sender, receiver) = mpsc::channel(100);
        for index in 0..100 {
            sender
                .send(with_id(request(&[index as f32 + 1.0]), index))
                .await
                .unwrap();
        }
        let answers = client.model_stream_infer(sent(receiver)).await.unwrap();
        eventually("as many are under way as may", || node.node.requests() == 64);
        eventually("the first is at the gate", || node.script.at_gate() == 1);
        assert_eq!(infer_waits(&node), 63);
        drop((answers, sender));
        eventually("all are taken back", || node.node.requests() == 0);
        node.script.open_gate();
        assert_eq!(y(&infer(&client, request(&[200.0])).await.unwrap()), [400.0]);
        assert_eq!(node.script.runs(), [[1.0], [200.0]]);
    });
}

fn infer_waits(node: &EmbeddedNode) -> usize {
    eventually("all but one wait", || waiting(node) >= 63);
    waiting(node)
}

/// Adds what it gets to what it remembers.
#[derive(Debug)]
struct Sum;

struct SumModel(Signature);

impl Runtime for Sum {
    fn name(&self) -> &'static str {
        "sum"
    }

    fn version(&self) -> String {
        "1".to_owned()
    }

    fn open(&self, _: &Artifact, _: &OpenOptions) -> Result<Arc<dyn Model>, OpenError> {
        let spec = |name: &str| TensorSpec {
            name: name.to_owned(),
            data_type: DataType::Fp32,
            shape: Some(vec![Dim::Fixed(1)]),
        };
        Ok(Arc::new(SumModel(Signature {
            inputs: vec![spec("x"), spec("sum")],
            outputs: vec![spec("y"), spec("sum_out")],
        })))
    }
}

impl Model for SumModel {
    fn signature(&self) -> &Signature {
        &self.0
    }

    fn instance(&self, axes: Option<&StackAxes>) -> Result<Box<dyn Instance>, OpenError> {
        Ok(Box::new(Stacked::new(Sum, axes)))
    }
}

impl TensorModel for Sum {
    fn run(&mut self, inputs: &[Tensor]) -> Result<Outputs, ModelError> {
        let value = |index: usize| inputs[index].values::<f32>().map_or(0.0, |values: &[f32]| values[0]);
        let sum = Tensor::from_values([1].into(), &[value(0) + value(1)]);
        let sum = sum.map_err(|error| ModelError(error.to_string()))?;
        Ok([sum.clone(), sum].into_iter().collect())
    }
}

fn in_sequence(x: f32, id: &str, start: bool, end: bool) -> ModelInferRequest {
    let id = ParameterChoice::StringParam(id.to_owned());
    let mut request = with_parameter(request(&[x]), "sequence_id", id);
    request = with_parameter(request, "sequence_start", ParameterChoice::BoolParam(start));
    with_parameter(request, "sequence_end", ParameterChoice::BoolParam(end))
}

fn parameter(answer: &ModelInferResponse, name: &str) -> Option<ParameterChoice> {
    answer.parameters.get(name)?.parameter_choice.clone()
}

#[test]
fn a_sequence_remembers_over_calls_and_over_a_stream() {
    let manifest = "[[state]]\ninput = 'sum'\noutput = 'sum_out'\nshape = [1]\ninitial = 0.0";
    let repository = Repository::default().with("m", manifest, "");
    let node = start_node(&repository, LISTEN, Arc::new(Sum));
    run(async {
        let mut client = connect(node.grpc_address().expect("its config has gRPC")).await;
        let first = infer(&client, in_sequence(1.0, "s", true, false)).await.unwrap();
        assert_eq!(y(&first), [1.0]);
        assert_eq!(first.outputs.len(), 1, "the state stays with the sequence");
        assert_eq!(
            parameter(&first, "sequence_number"),
            Some(ParameterChoice::Int64Param(1))
        );
        assert!(parameter(&first, "sequence_token").is_some());
        assert_eq!(
            y(&infer(&client, in_sequence(2.0, "s", false, false)).await.unwrap()),
            [3.0]
        );
        let last = infer(&client, in_sequence(4.0, "s", false, true)).await.unwrap();
        assert_eq!(y(&last), [7.0]);
        assert_eq!(parameter(&last, "sequence_end"), Some(ParameterChoice::BoolParam(true)));
        let gone = infer(&client, in_sequence(8.0, "s", false, false))
            .await
            .expect_err("it has ended");
        assert_eq!(gone.code(), Code::FailedPrecondition, "{gone:?}");
        let unknown = infer(&client, in_sequence(8.0, "t", false, false))
            .await
            .expect_err("it never began");
        assert_eq!(unknown.code(), Code::NotFound, "{unknown:?}");
        // On a stream its messages are sent without waiting for answers, and run in their order.
        let (sender, receiver) = mpsc::channel(100);
        for number in 1..=50 {
            let message = in_sequence(number as f32, "u", number == 1, number == 50);
            sender.send(with_id(message, number)).await.unwrap();
        }
        drop(sender);
        let mut answers = client.model_stream_infer(sent(receiver)).await.unwrap().into_inner();
        for number in 1..=50 {
            let answer = answers.message().await.unwrap().unwrap();
            assert_eq!(answer.error_message, "");
            let answer = answer.infer_response.unwrap();
            assert_eq!(answer.id, number.to_string());
            assert_eq!(y(&answer), [(number * (number + 1) / 2) as f32]);
        }
        assert!(answers.message().await.unwrap().is_none());
    });
}

#[test]
fn a_node_and_its_models_tell_what_they_are() {
    let manifest = "instances = 2\n[batching]\nmax_batch_size = 4\nmax_queue_delay = '2ms'";
    with_node(manifest, "", "node.name = 'left'", |_, mut client| async move {
        assert!(
            client
                .server_live(ServerLiveRequest {})
                .await
                .unwrap()
                .into_inner()
                .live
        );
        assert!(
            client
                .server_ready(ServerReadyRequest {})
                .await
                .unwrap()
                .into_inner()
                .ready
        );
        let server = client
            .server_metadata(ServerMetadataRequest {})
            .await
            .unwrap()
            .into_inner();
        assert_eq!(server.name, "left");
        assert!(server.extensions.contains(&"statistics".to_owned()));
        for (name, version, expected) in [("m", "", true), ("m", "1", true), ("m", "2", false), ("n", "", false)] {
            let asked = ModelReadyRequest {
                name: name.to_owned(),
                version: version.to_owned(),
            };
            assert_eq!(
                client.model_ready(asked).await.unwrap().into_inner().ready,
                expected,
                "{name} {version}"
            );
        }
        let asked = ModelMetadataRequest {
            name: "m".to_owned(),
            version: String::new(),
        };
        let metadata = client.model_metadata(asked).await.unwrap().into_inner();
        assert_eq!(metadata.platform, "scripted_onnx");
        assert_eq!(metadata.versions, ["1"]);
        let input = &metadata.inputs[0];
        assert_eq!(
            (input.name.as_str(), input.datatype.as_str(), &input.shape[..]),
            ("x", "FP32", &[-1][..])
        );
        let asked = ModelConfigRequest {
            name: "m".to_owned(),
            version: String::new(),
        };
        let config = client.model_config(asked).await.unwrap().into_inner().config.unwrap();
        assert_eq!((config.max_batch_size, config.instance_group[0].count), (4, 2));
        assert!(
            config.input[0].dims.is_empty(),
            "the batch dimension is left out: {config:?}"
        );
        let mut batch = request(&[1.0, 2.0, 3.0]);
        batch.model_version = "1".to_owned();
        infer(&client, batch).await.unwrap();
        let asked = ModelStatisticsRequest {
            name: "m".to_owned(),
            version: String::new(),
        };
        let statistics = client.model_statistics(asked).await.unwrap().into_inner().model_stats;
        assert_eq!(statistics.len(), 1);
        assert_eq!((statistics[0].inference_count, statistics[0].execution_count), (3, 1));
        assert_eq!(statistics[0].batch_stats[0].batch_size, 3);
        assert_eq!(
            statistics[0].inference_stats.as_ref().unwrap().success.unwrap().count,
            1
        );
        let asked = ModelStatisticsRequest {
            name: "n".to_owned(),
            version: String::new(),
        };
        assert_eq!(client.model_statistics(asked).await.unwrap_err().code(), Code::NotFound);
    });
}

fn load(name: &str) -> RepositoryModelLoadRequest {
    RepositoryModelLoadRequest {
        model_name: name.to_owned(),
        ..RepositoryModelLoadRequest::default()
    }
}

fn unload(name: &str) -> RepositoryModelUnloadRequest {
    RepositoryModelUnloadRequest {
        model_name: name.to_owned(),
        ..RepositoryModelUnloadRequest::default()
    }
}

async fn states(client: &mut Client, ready: bool) -> Vec<(String, String)> {
    let asked = RepositoryIndexRequest {
        ready,
        ..RepositoryIndexRequest::default()
    };
    let models = client
        .repository_index(asked)
        .await
        .expect("it is listed")
        .into_inner()
        .models;
    models.into_iter().map(|model| (model.name, model.state)).collect()
}

#[test]
fn models_are_listed_unloaded_and_loaded() {
    with_node(ONE, "", "", |node, mut client| async move {
        let state = |state: &str| vec![("m".to_owned(), state.to_owned())];
        assert_eq!(states(&mut client, false).await, state("READY"));
        client.repository_model_unload(unload("m")).await.unwrap();
        assert_eq!(states(&mut client, false).await, state("UNAVAILABLE"));
        assert_eq!(states(&mut client, true).await, []);
        let status = infer(&client, request(&[1.0])).await.expect_err("it is not loaded");
        assert_eq!(status.code(), Code::Unavailable);
        client.repository_model_load(load("m")).await.unwrap();
        assert_eq!(y(&infer(&client, request(&[1.0])).await.unwrap()), [2.0]);
        let status = client.repository_model_load(load("n")).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
        node.repository.write("m", 2, ONE, "what is this");
        let status = client.repository_model_load(load("m")).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains("what is this"), "{status:?}");
        let mut with_files = load("m");
        with_files.parameters.insert("config".to_owned(), Default::default());
        let status = client.repository_model_load(with_files).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    });
}

#[test]
fn loads_and_unloads_need_the_token_where_there_is_one() {
    let config = "http.admin_token = 'the right admin token'";
    with_node(ONE, "", config, |_, mut client| async move {
        let status = client.repository_model_unload(unload("m")).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        let with = |authorization: &str| {
            let mut request = Request::new(unload("m"));
            request
                .metadata_mut()
                .insert("authorization", authorization.parse().unwrap());
            request
        };
        let status = client
            .repository_model_unload(with("Bearer another token here"))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
        assert_eq!(
            y(&infer(&client, request(&[1.0])).await.unwrap()),
            [2.0],
            "it is still there"
        );
        client
            .repository_model_unload(with("Bearer the right admin token"))
            .await
            .unwrap();
        let status = client.repository_model_load(load("m")).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
    });
}

#[test]
fn a_message_over_the_limit_is_refused_and_the_connection_serves_on() {
    with_node(ONE, "", "http.max_body = '64KiB'", |_, client| async move {
        let status = infer(&client, request(&vec![1.0; 20_000]))
            .await
            .expect_err("it is too large");
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.message(), "the body is larger than the limit of 65536 bytes");
        let answer = infer(&client, request(&vec![1.0; 16_000])).await.unwrap();
        assert_eq!(y(&answer).len(), 16_000);
    });
}

#[test]
fn a_request_id_and_a_trace_come_back() {
    with_node(ONE, "", "", |_, mut client| async move {
        let mut traced = Request::new(request(&[1.0]));
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        traced.metadata_mut().insert("x-request-id", "abc-1".parse().unwrap());
        traced.metadata_mut().insert("traceparent", parent.parse().unwrap());
        let response = client.model_infer(traced).await.unwrap();
        assert_eq!(response.metadata().get("x-request-id").unwrap(), "abc-1");
        let returned = response.metadata().get("traceparent").unwrap().to_str().unwrap();
        assert!(returned.starts_with(&parent[..36]) && returned != parent, "{returned}");
    });
}

#[test]
fn a_draining_node_answers_what_it_accepted_ends_idle_streams_and_takes_nothing_new() {
    let repository = Repository::default().with("m", ONE, GATED);
    let node = EmbeddedNode::start(repository, LISTEN);
    let (address, script) = (node.grpc_address().expect("its config has gRPC"), node.script.clone());
    run(async {
        let mut client = connect(address).await;
        let (sender, receiver) = mpsc::channel(1);
        let mut idle = client.model_stream_infer(sent(receiver)).await.unwrap().into_inner();
        let first = tokio::spawn({
            let client = client.clone();
            async move { infer(&client, request(&[1.0])).await }
        });
        eventually("the request is at the gate", || script.at_gate() == 1);
        let stopping = std::thread::spawn(move || node.node.stop());
        let ended = idle.message().await.expect_err("it is ended");
        assert_eq!(ended.code(), Code::Unavailable, "{ended:?}");
        eventually("nobody listens any more", || {
            std::net::TcpStream::connect(address).is_err()
        });
        assert!(!stopping.is_finished(), "a request is under way");
        script.open_gate();
        assert_eq!(y(&first.await.unwrap().unwrap()), [2.0]);
        drop(sender);
        let stopped = tokio::task::spawn_blocking(move || stopping.join());
        assert!(stopped.await.unwrap().is_ok());
    });
}

#[test]
fn without_the_section_there_is_no_grpc() {
    let node = EmbeddedNode::start(Repository::default().with("m", ONE, ""), "");
    assert_eq!(node.grpc_address(), None);
}
