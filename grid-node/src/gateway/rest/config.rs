//! The model configuration extension: how a model is served, in the field names that clients of Triton read.

use actix_web::{HttpRequest, HttpResponse, web};
use grid_core::model::TensorSpec;
use grid_core::tensor::DataType;
use serde::Serialize;

use super::{named, platform, refuse};
use crate::actors::StateSlot;
use crate::gateway::Worker;

#[derive(Serialize)]
struct Config<'a> {
    name: &'a str,
    platform: String,
    backend: &'a str,
    version_policy: VersionPolicy,
    max_batch_size: usize,
    input: Vec<Tensor<'a>>,
    output: Vec<Tensor<'a>>,
    instance_group: [InstanceGroup; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    dynamic_batching: Option<DynamicBatching>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence_batching: Option<SequenceBatching<'a>>,
    parameters: Parameters,
}

#[derive(Serialize)]
struct VersionPolicy {
    all: Empty,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct Tensor<'a> {
    name: &'a str,
    data_type: String,
    dims: Vec<i64>,
}

#[derive(Serialize)]
struct InstanceGroup {
    kind: &'static str,
    count: usize,
}

#[derive(Serialize)]
struct DynamicBatching {
    max_queue_delay_microseconds: u128,
}

/// Instead of `dynamic_batching`, where a model keeps state: Triton's configuration has one of the two.
#[derive(Serialize)]
struct SequenceBatching<'a> {
    max_sequence_idle_microseconds: u128,
    oldest: Oldest,
    state: Vec<State<'a>>,
}

/// How steps of sequences are stacked: the oldest first.
#[derive(Serialize)]
struct Oldest {
    max_candidate_sequences: usize,
    max_queue_delay_microseconds: u128,
}

#[derive(Serialize)]
struct State<'a> {
    input_name: &'a str,
    output_name: &'a str,
    data_type: String,
    dims: Vec<i64>,
}

#[derive(Serialize)]
struct Parameters {
    queue: Text,
    timeout_microseconds: Text,
    weight: Text,
}

#[derive(Serialize)]
struct Text {
    string_value: String,
}

fn text(value: impl ToString) -> Text {
    Text {
        string_value: value.to_string(),
    }
}

fn config_type(data_type: DataType) -> String {
    match data_type {
        DataType::Bytes => "TYPE_STRING".to_owned(),
        other => format!("TYPE_{other}"),
    }
}

/// Triton leaves the batch dimension out of a batching model's dims.
fn tensors(specs: &[TensorSpec], dims: impl Fn(usize) -> Vec<i64>) -> Vec<Tensor<'_>> {
    specs
        .iter()
        .enumerate()
        .map(|(index, spec)| Tensor {
            name: &spec.name,
            data_type: config_type(spec.data_type),
            dims: dims(index),
        })
        .collect()
}

pub(super) async fn config(request: HttpRequest, worker: web::Data<Worker>) -> HttpResponse {
    let (name, version) = named(&request);
    let route = match worker.shared.routes.resolve(name, version) {
        Ok(route) if route.runtime.is_empty() => return refuse(&route.not_ready()),
        Ok(route) => route,
        Err(error) => return refuse(&error),
    };
    let policy = route.settings.policy;
    let batching = policy.max_rows > 0;
    HttpResponse::Ok().json(Config {
        name,
        platform: platform(&route),
        backend: &route.runtime,
        version_policy: VersionPolicy { all: Empty {} },
        max_batch_size: policy.max_rows,
        input: tensors(&route.signature.inputs, |index| route.input_dims(index)),
        output: tensors(&route.signature.outputs, |index| route.output_dims(index)),
        instance_group: [InstanceGroup {
            kind: "KIND_CPU",
            count: route.instances,
        }],
        dynamic_batching: (batching && route.states.is_empty()).then_some(DynamicBatching {
            max_queue_delay_microseconds: policy.max_delay.as_micros(),
        }),
        sequence_batching: (!route.states.is_empty()).then(|| {
            let sessions = &worker.shared.sessions;
            let state = |slot: &StateSlot| State {
                input_name: &route.signature.inputs[slot.input].name,
                output_name: &route.signature.outputs[slot.output].name,
                data_type: config_type(route.signature.inputs[slot.input].data_type),
                dims: route.input_dims(slot.input),
            };
            SequenceBatching {
                max_sequence_idle_microseconds: sessions.life(&route).as_micros(),
                oldest: Oldest {
                    max_candidate_sequences: sessions.most(&route),
                    max_queue_delay_microseconds: policy.max_delay.as_micros(),
                },
                state: route.states.iter().map(state).collect(),
            }
        }),
        parameters: Parameters {
            queue: text(policy.bound),
            timeout_microseconds: text(route.settings.timeout.as_micros()),
            weight: text(route.settings.weight),
        },
    })
}
