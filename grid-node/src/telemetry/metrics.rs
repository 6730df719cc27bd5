//! Metrics: recorded through the `metrics` facade, rendered for Prometheus.
//!
//! Handles are made once for each model version, so that recording costs an atomic operation and no look-up.

use std::collections::HashMap;

use grid_core::InferError;
use grid_core::model::ModelId;
use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// 10 µs to 10 s in steps of about 2.15: small trees take 10 µs, large models seconds.
const SECONDS: [f64; 19] = [
    10e-6, 22e-6, 46e-6, 100e-6, 220e-6, 460e-6, 1e-3, 2.2e-3, 4.6e-3, 10e-3, 22e-3, 46e-3, 0.1, 0.22, 0.46, 1.0, 2.2,
    4.6, 10.0,
];
const ROWS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// The metrics of one model version.
pub struct ModelMetrics {
    /// Whole time of a request in the node, seconds.
    pub request: Histogram,
    /// Time before its run, seconds.
    pub queued: Histogram,
    /// Length of a run, seconds.
    pub computed: Histogram,
    /// Rows of a run.
    pub rows: Histogram,
    /// Requests answered with outputs.
    pub succeeded: Counter,
    /// Restarts of shard actors.
    pub restarts: Counter,
    /// Requests accepted and unanswered.
    pub in_flight: Gauge,
    /// Instances that are ready.
    pub ready: Gauge,
    id: ModelId,
}

impl ModelMetrics {
    /// Registers the metrics of a model version.
    pub fn new(id: &ModelId) -> Self {
        let labels = || [("model", id.name.to_string()), ("version", id.version.to_string())];
        let outcome = [
            ("model", id.name.to_string()),
            ("version", id.version.to_string()),
            ("outcome", "success".to_owned()),
        ];
        Self {
            request: histogram!("grid_request_seconds", &labels()),
            queued: histogram!("grid_queue_seconds", &labels()),
            computed: histogram!("grid_compute_seconds", &labels()),
            rows: histogram!("grid_batch_rows", &labels()),
            succeeded: counter!("grid_requests_total", &outcome),
            restarts: counter!("grid_shard_restarts_total", &labels()),
            in_flight: gauge!("grid_in_flight", &labels()),
            ready: gauge!("grid_ready_instances", &labels()),
            id: id.clone(),
        }
    }

    /// Counts a request that ended without outputs. The rare way, so it may look its counter up.
    pub fn failed(&self, error: &InferError) {
        let labels = [
            ("model", self.id.name.to_string()),
            ("version", self.id.version.to_string()),
            ("outcome", error.kind().to_owned()),
        ];
        counter!("grid_requests_total", &labels).increment(1);
    }
}

impl std::fmt::Debug for ModelMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ModelMetrics({})", self.id)
    }
}

/// The process's metrics in Prometheus' text format.
#[derive(Clone)]
pub struct Prometheus(PrometheusHandle);

impl Prometheus {
    /// Installs the recorder, or returns the one that is there: a process has one, however many nodes run in it.
    ///
    /// # Errors
    /// When another recorder is installed already.
    pub fn install() -> Result<Self, String> {
        static INSTALLED: std::sync::Mutex<Option<PrometheusHandle>> = std::sync::Mutex::new(None);
        let mut installed = INSTALLED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(handle) = &*installed {
            return Ok(Self(handle.clone()));
        }
        let buckets = |builder: PrometheusBuilder, suffix: &str, values: &[f64]| {
            builder.set_buckets_for_metric(Matcher::Suffix(suffix.to_owned()), values)
        };
        let handle = buckets(PrometheusBuilder::new(), "_seconds", &SECONDS)
            .and_then(|builder| buckets(builder, "_rows", &ROWS))
            .and_then(PrometheusBuilder::install_recorder)
            .map_err(|error| error.to_string())?;
        describe();
        *installed = Some(handle.clone());
        Ok(Self(handle))
    }

    /// All metrics as text.
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Folds recorded samples into their buckets. To be called now and then: between two calls the samples themselves
    /// are kept.
    pub fn fold(&self) {
        self.0.run_upkeep();
    }
}

/// Registers what each metric means.
pub fn describe() {
    use metrics::Unit;
    let counters = HashMap::from([
        ("grid_requests_total", "Requests by outcome"),
        ("grid_shard_restarts_total", "Restarts of shard actors"),
        ("grid_sequence_events_total", "Sequences started, resumed, expired"),
    ]);
    for (name, text) in counters {
        describe_counter!(name, text);
    }
    describe_histogram!("grid_request_seconds", Unit::Seconds, "Time of a request in the node");
    describe_histogram!("grid_queue_seconds", Unit::Seconds, "Time of a request before its run");
    describe_histogram!("grid_compute_seconds", Unit::Seconds, "Length of a run");
    describe_histogram!("grid_batch_rows", "Rows of a run");
    describe_gauge!("grid_in_flight", "Requests accepted and unanswered");
    describe_gauge!("grid_sequences", "Sequences that live");
    describe_gauge!("grid_websockets", "Open WebSocket connections");
    describe_gauge!("grid_ready_instances", "Instances that are ready");
    describe_gauge!("grid_memory_budget_bytes", Unit::Bytes, "Memory budget for models");
    describe_gauge!("grid_memory_reserved_bytes", Unit::Bytes, "Memory reserved for models");
    describe_gauge!(
        "grid_memory_estimate_error_bytes",
        Unit::Bytes,
        "Measured less reserved bytes of the last load of a model version"
    );
}
