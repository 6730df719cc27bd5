//! What a node says about its models.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use grid_core::InferError;
use grid_core::config::NodeConfig;
use grid_core::model::TensorSpec;
use grid_core::tensor::DataType;

use super::generated::model_config::SchedulingChoice;
use super::generated::model_instance_group::Kind;
use super::generated::model_metadata_response::TensorMetadata;
use super::generated::model_sequence_batching::State;
use super::generated::model_version_policy::{All, PolicyChoice};
use super::generated::repository_index_response::ModelIndex;
use super::generated::{
    DataType as ConfigType, InferBatchStatistics, InferStatistics, ModelConfig, ModelDynamicBatching, ModelInput,
    ModelInstanceGroup, ModelMetadataResponse, ModelOutput, ModelParameter, ModelSequenceBatching, ModelStatistics,
    ModelTransactionPolicy, ModelVersionPolicy, ServerMetadataResponse, StatisticDuration,
};
use crate::actors::{ReplicaState, Routes, StateSlot, VersionRoute};
use crate::gateway::Gateway;

/// Extensions of the protocol that work over gRPC.
const EXTENSIONS: [&str; 7] = [
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "sequence",
    "statistics",
];

pub(super) fn server(config: &NodeConfig) -> ServerMetadataResponse {
    ServerMetadataResponse {
        name: config.node.name.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        extensions: EXTENSIONS.map(str::to_owned).to_vec(),
    }
}

/// The route of a model version of which something is known.
fn opened(routes: &Routes, name: &str, version: Option<&str>) -> Result<std::sync::Arc<VersionRoute>, InferError> {
    let route = routes.resolve(name, version)?;
    if route.runtime.is_empty() {
        return Err(route.not_ready());
    }
    Ok(route)
}

/// What a model is and what runs it, as Triton writes it: `onnxruntime_onnx`.
fn platform(route: &VersionRoute) -> String {
    format!("{}_onnx", route.runtime)
}

pub(super) fn metadata(
    routes: &Routes,
    name: &str,
    version: Option<&str>,
) -> Result<ModelMetadataResponse, InferError> {
    let route = opened(routes, name, version)?;
    let tensors = |specs: &[TensorSpec]| {
        let tensor = |spec: &TensorSpec| TensorMetadata {
            name: spec.name.clone(),
            datatype: spec.data_type.name().to_owned(),
            shape: spec.protocol_shape(),
        };
        specs.iter().map(tensor).collect()
    };
    let table = routes.read();
    let versions = table
        .get(name)
        .map(|model| model.versions.keys().map(u64::to_string).collect());
    Ok(ModelMetadataResponse {
        name: name.to_owned(),
        versions: versions.unwrap_or_default(),
        platform: platform(&route),
        inputs: tensors(&route.signature.inputs),
        outputs: tensors(&route.signature.outputs),
    })
}

fn config_type(data_type: DataType) -> i32 {
    let data_type = match data_type {
        DataType::Bool => ConfigType::TypeBool,
        DataType::Uint8 => ConfigType::TypeUint8,
        DataType::Uint16 => ConfigType::TypeUint16,
        DataType::Uint32 => ConfigType::TypeUint32,
        DataType::Uint64 => ConfigType::TypeUint64,
        DataType::Int8 => ConfigType::TypeInt8,
        DataType::Int16 => ConfigType::TypeInt16,
        DataType::Int32 => ConfigType::TypeInt32,
        DataType::Int64 => ConfigType::TypeInt64,
        DataType::Fp16 => ConfigType::TypeFp16,
        DataType::Bf16 => ConfigType::TypeBf16,
        DataType::Fp32 => ConfigType::TypeFp32,
        DataType::Fp64 => ConfigType::TypeFp64,
        DataType::Bytes => ConfigType::TypeString,
    };
    data_type.into()
}

fn saturated<T, U: TryFrom<T>>(value: T, most: U) -> U {
    U::try_from(value).unwrap_or(most)
}

pub(super) fn config(gateway: &Gateway, name: &str, version: Option<&str>) -> Result<ModelConfig, InferError> {
    let route = opened(&gateway.routes, name, version)?;
    let policy = route.settings.policy;
    let batching = policy.max_rows > 0;
    let inputs = route.signature.inputs.iter().enumerate();
    let parameter = |key: &str, value: u128| {
        let string_value = value.to_string();
        (key.to_owned(), ModelParameter { string_value })
    };
    Ok(ModelConfig {
        name: name.to_owned(),
        platform: platform(&route),
        backend: route.runtime.to_string(),
        version_policy: Some(ModelVersionPolicy {
            policy_choice: Some(PolicyChoice::All(All {})),
        }),
        max_batch_size: saturated(policy.max_rows, i32::MAX),
        input: inputs
            .map(|(index, spec)| ModelInput {
                name: spec.name.clone(),
                data_type: config_type(spec.data_type),
                dims: route.input_dims(index),
                optional: route.initial.get(index).is_some_and(Option::is_some),
            })
            .collect(),
        output: route
            .signature
            .outputs
            .iter()
            .enumerate()
            .map(|(index, spec)| ModelOutput {
                name: spec.name.clone(),
                data_type: config_type(spec.data_type),
                dims: route.output_dims(index),
            })
            .collect(),
        instance_group: vec![ModelInstanceGroup {
            name: String::new(),
            kind: Kind::Cpu.into(),
            count: saturated(route.instances, i32::MAX),
        }],
        parameters: BTreeMap::from([
            parameter("queue", policy.bound as u128),
            parameter("timeout_microseconds", route.settings.timeout.as_micros()),
            parameter("weight", route.settings.weight.into()),
        ]),
        model_transaction_policy: Some(ModelTransactionPolicy { decoupled: false }),
        scheduling_choice: match route.states.is_empty() {
            false => Some(SchedulingChoice::SequenceBatching(sequences(gateway, &route))),
            true => batching.then(|| {
                SchedulingChoice::DynamicBatching(ModelDynamicBatching {
                    preferred_batch_size: Vec::new(),
                    max_queue_delay_microseconds: saturated(policy.max_delay.as_micros(), u64::MAX),
                })
            }),
        },
    })
}

fn sequences(gateway: &Gateway, route: &VersionRoute) -> ModelSequenceBatching {
    let state = |slot: &StateSlot| {
        let input = &route.signature.inputs[slot.input];
        State {
            input_name: input.name.clone(),
            output_name: route.signature.outputs[slot.output].name.clone(),
            data_type: config_type(input.data_type),
            dims: route.input_dims(slot.input),
        }
    };
    ModelSequenceBatching {
        max_sequence_idle_microseconds: saturated(gateway.sessions.life(route).as_micros(), u64::MAX),
        state: route.states.iter().map(state).collect(),
    }
}

fn sum(count: u64, time: Duration) -> Option<StatisticDuration> {
    let ns = saturated(time.as_nanos(), u64::MAX);
    Some(StatisticDuration { count, ns })
}

/// Gathering inputs and taking outputs apart are part of the run here, so their own sums stay zero.
fn statistics_of(route: &VersionRoute) -> ModelStatistics {
    let stats = route.stats();
    let ended = stats.succeeded + stats.failed;
    ModelStatistics {
        name: route.id.name.as_str().to_owned(),
        version: route.id.version.to_string(),
        last_inference: stats.last_run.map_or(0, |run| {
            let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            saturated(since_1970.saturating_sub(run.elapsed()).as_millis(), u64::MAX)
        }),
        inference_count: stats.rows,
        execution_count: stats.runs,
        inference_stats: Some(InferStatistics {
            success: sum(stats.succeeded, stats.time_of_succeeded),
            fail: sum(stats.failed, stats.time_of_failed),
            queue: sum(ended, stats.queued),
            compute_input: sum(0, Duration::ZERO),
            compute_infer: sum(ended, stats.computed),
            compute_output: sum(0, Duration::ZERO),
        }),
        batch_stats: stats
            .by_rows
            .iter()
            .map(|(&rows, &(count, length))| InferBatchStatistics {
                batch_size: rows as u64,
                compute_input: sum(0, Duration::ZERO),
                compute_infer: sum(count, length),
                compute_output: sum(0, Duration::ZERO),
            })
            .collect(),
    }
}

/// Of all models when the name is empty, of all versions when none is named.
pub(super) fn statistics(
    routes: &Routes,
    name: &str,
    version: Option<&str>,
) -> Result<Vec<ModelStatistics>, InferError> {
    if version.is_some() {
        return Ok(vec![statistics_of(&*routes.resolve(name, version)?)]);
    }
    let table = routes.read();
    if !name.is_empty() {
        if let Some(model) = table.get(name) {
            return Ok(model.versions.values().map(|route| statistics_of(route)).collect());
        }
        // It says what is wrong with the name; a model that came in this moment has done nothing.
        return routes.resolve(name, None).map(|_| Vec::new());
    }
    let mut all: Vec<_> = table.values().flat_map(|model| model.versions.values()).collect();
    all.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(all.into_iter().map(|route| statistics_of(route)).collect())
}

pub(super) fn index(routes: &Routes, only_ready: bool) -> Vec<ModelIndex> {
    let table = routes.read();
    let mut all: Vec<_> = table
        .values()
        .flat_map(|model| model.versions.values())
        .filter(|route| !only_ready || route.state == ReplicaState::Ready)
        .collect();
    all.sort_by(|a, b| a.id.cmp(&b.id));
    all.into_iter()
        .map(|route| ModelIndex {
            name: route.id.name.as_str().to_owned(),
            version: route.id.version.to_string(),
            state: route.state.name().to_owned(),
            reason: route.state.reason().to_owned(),
        })
        .collect()
}
