//! `model.toml`: what the owner of a model says about it, beside what its file says itself.
//!
//! Every key is optional, and so is the file. [`Manifest::parse`] checks what can be known from the text alone;
//! [`Manifest::check`] compares it with the signature once the model file was opened.

mod check;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Dim, ReplicaCount, Version};
use crate::config::{
    self, Diagnostic, MAX_QUEUE, MAX_SEQUENCES, Origin, Places, Problem, RUNTIMES, Reader, Refused, Section, Value,
    list, number, size, text, time_span, whole, word,
};
use crate::tensor::{ALL_DATA_TYPES, DataType};

/// Most replicas that a manifest asks for by number.
pub const MAX_REPLICAS: u32 = 10_000;

/// Two, so that one node can fail.
const DEFAULT_REPLICAS: ReplicaCount = ReplicaCount::Exactly(2);

/// Most instances of one model on one node.
pub const MAX_INSTANCES: usize = 1024;

/// Most elements of a state tensor or of a warm-up input that a manifest may ask for. A slip in a shape must not take
/// the node's memory; real states have thousands of elements.
pub const MAX_DECLARED_ELEMENTS: usize = 1 << 28;

/// What a model's `model.toml` says.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// `description`: for people.
    pub description: Option<String>,
    /// `default_version`: what a request gets that names no version. Default: the newest.
    pub default_version: Option<Version>,
    /// `instances`: how many run side by side, 1 to [`MAX_INSTANCES`]; both runtimes share the weights between them.
    /// Default: one for each compute thread.
    pub instances: Option<usize>,
    /// `replicas`: on how many nodes of a grid it is, 1 to [`MAX_REPLICAS`], or `"every node"`. Default 2: so that one node
    /// can fail.
    pub replicas: ReplicaCount,
    /// `runtime`: one of [`RUNTIMES`], and no other. Default: the node's choice.
    pub runtime: Option<String>,
    /// `weight`: share of the compute threads when several models want them, 1 to 10,000. Default 100.
    pub weight: u32,
    /// `threads_per_run`: threads that one run may use, 1 to 1024. Default 1.
    pub threads_per_run: usize,
    /// `sharding`: how the model falls into shards. Default `"replicated"`.
    pub sharding: Sharding,
    /// `[batching]`: which requests are computed together.
    pub batching: Batching,
    /// `[limits]`: bounds of this model's own.
    pub limits: ModelLimits,
    /// `[[state]]`: tensors that one run of a stream hands to the next.
    pub states: Vec<StateTensor>,
    /// `[[warm_up]]`: runs made before the model is ready.
    pub warm_ups: Vec<WarmUp>,
    /// `[[input]]`: inputs that the file must have.
    pub inputs: Vec<DeclaredTensor>,
    /// `[[output]]`: outputs that the file must have.
    pub outputs: Vec<DeclaredTensor>,
    /// Where the keys stand in the file.
    pub places: Places,
    /// The file's text, for nodes that do not have the file.
    pub written: Written,
}

/// The text of a manifest. Always equal: two texts that say the same are the same manifest.
#[derive(Clone, Debug, Default)]
pub struct Written(Arc<str>);

impl Written {
    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Written {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// How a model falls into shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharding {
    /// `"replicated"`: one shard, the whole model.
    #[default]
    Replicated,
}

/// `[batching]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batching {
    /// `max_batch_size`: most rows (the first dimension; that of a state is its `batch_axis`) of one run, up to 65,536. Default 0: no batching.
    pub max_batch_size: usize,
    /// `max_queue_delay`: how long a request may wait for others to fill a batch, at most a minute. Default `0ms`.
    pub max_queue_delay: Duration,
    /// `shared`: inputs that belong to a whole run and not to its rows, such as a sampling rate. Requests run together
    /// where these are equal.
    pub shared: Vec<String>,
}

/// `[limits]` of a manifest; what is not there comes from the node's config.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelLimits {
    /// `queue`: requests that may wait for one instance.
    pub queue: Option<usize>,
    /// `timeout`: the time that a request has when it brings no deadline.
    pub timeout: Option<Duration>,
    /// `memory`: bytes that the loaded model needs. Default: estimated from its file.
    pub memory: Option<u64>,
    /// `sequences`: sequences that may live at once. Default: the node's `sequences.max`.
    pub sequences: Option<usize>,
    /// `sequence_life`: how long a sequence lives without a message. Default: the node's `sequences.life`.
    pub sequence_life: Option<Duration>,
    /// `sequence_copies`: how many nodes of a grid hold a sequence, 1 or 2. With 2 a sequence survives its node, and what
    /// it answers counts as durable once the second one has it; 1 is for streams that are cheap to start anew. Default 2.
    pub sequence_copies: Option<u8>,
}

impl ModelLimits {
    /// Whether a second node holds each sequence.
    pub fn are_sequences_copied(&self) -> bool {
        self.sequence_copies != Some(1)
    }
}

/// `[[state]]`: an output of one run that is an input of the next.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateTensor {
    /// `input`: where it goes in. Required.
    pub input: String,
    /// `output`: where it comes out. Required.
    pub output: String,
    /// `initial`: what every element holds at the start of a stream. Default 0.
    pub initial: f64,
    /// `shape`: the shape at the start of a stream; needed where the file leaves sizes open.
    pub shape: Option<Vec<usize>>,
    /// `batch_axis`: the dimension that has one place for each stream, where streams are computed together. Default 0.
    pub batch_axis: usize,
}

/// `[[warm_up]]`: runs with made-up input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WarmUp {
    /// `rows`: the size of each input's open first dimension, 1 to 65,536. Default 1.
    pub rows: usize,
    /// `count`: how many runs, 1 to 1000. Default 1.
    pub count: usize,
    /// `dims`: whole shapes of inputs by name, where `rows` is not enough.
    pub dims: BTreeMap<String, Vec<usize>>,
}

impl Default for WarmUp {
    fn default() -> Self {
        Self {
            rows: 1,
            count: 1,
            dims: BTreeMap::new(),
        }
    }
}

/// `[[input]]` or `[[output]]`: a tensor as the owner believes it to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredTensor {
    /// `name`: required.
    pub name: String,
    /// `datatype`: the protocol's name of the type.
    pub data_type: Option<DataType>,
    /// `shape`: sizes, -1 for an open one.
    pub shape: Option<Vec<Dim>>,
}

impl Default for Manifest {
    fn default() -> Self {
        Self {
            description: None,
            default_version: None,
            instances: None,
            replicas: DEFAULT_REPLICAS,
            runtime: None,
            weight: 100,
            threads_per_run: 1,
            sharding: Sharding::default(),
            batching: Batching::default(),
            limits: ModelLimits::default(),
            states: Vec::new(),
            warm_ups: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            places: Places::default(),
            written: Written::default(),
        }
    }
}

impl Manifest {
    /// Reads a `model.toml`. `file` is only used to name it in errors.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the file; if the text is not TOML, only that.
    pub fn parse(file: &str, text: &str) -> Result<Self, Vec<Diagnostic>> {
        let table = config::read_toml(file, text)?;
        let reader = Reader::new(file);
        let mut manifest = read(reader.root(table));
        manifest.places = reader.finish()?;
        manifest.written = Written(text.into());
        Ok(manifest)
    }
}

fn read(mut root: Section<'_>) -> Manifest {
    let default = Manifest::default();
    let runtimes = RUNTIMES.map(|name| (name, name.to_owned()));
    Manifest {
        description: root.read("description", text),
        default_version: root.read("default_version", whole(1..=Version::MAX)),
        instances: root.read("instances", whole(1..=MAX_INSTANCES)),
        replicas: root.read("replicas", replicas).unwrap_or(DEFAULT_REPLICAS),
        runtime: root.read("runtime", word(&runtimes)),
        weight: root.read("weight", whole(1..=10_000)).unwrap_or(default.weight),
        threads_per_run: root
            .read("threads_per_run", whole(1..=1024))
            .unwrap_or(default.threads_per_run),
        sharding: sharding(&mut root),
        batching: batching(root.section("batching")),
        limits: limits(root.section("limits")),
        states: root.sections("state").into_iter().filter_map(state).collect(),
        warm_ups: root.sections("warm_up").into_iter().map(warm_up).collect(),
        inputs: declared(root.sections("input")),
        outputs: declared(root.sections("output")),
        places: Places::default(),
        written: Written::default(),
    }
}

fn sharding(root: &mut Section<'_>) -> Sharding {
    let words = [
        ("replicated", Some(Sharding::Replicated)),
        ("partitioned", None),
        ("pipelined", None),
    ];
    let sharding = root.read("sharding", |value| {
        word(&words)(value)?.ok_or_else(|| {
            let (found, expected) = (value.found(), "\"replicated\"".to_owned());
            Problem::Unsupported { found, expected }.into()
        })
    });
    sharding.unwrap_or_default()
}

fn batching(mut section: Section<'_>) -> Batching {
    let delay = config::time_span_in(Duration::ZERO..=Duration::from_secs(60));
    Batching {
        max_batch_size: section.read("max_batch_size", whole(0..=65_536)).unwrap_or_default(),
        max_queue_delay: section.read("max_queue_delay", delay).unwrap_or_default(),
        shared: section
            .read("shared", list("a list of names of inputs", text))
            .unwrap_or_default(),
    }
}

fn limits(mut section: Section<'_>) -> ModelLimits {
    ModelLimits {
        queue: section.read("queue", whole(1..=MAX_QUEUE)),
        timeout: section.read("timeout", time_span(Duration::from_millis(1))),
        memory: section.read("memory", size(1)),
        sequences: section.read("sequences", whole(1..=MAX_SEQUENCES)),
        sequence_life: section.read("sequence_life", time_span(Duration::from_millis(1))),
        sequence_copies: section.read("sequence_copies", whole(1..=2)),
    }
}

fn state(mut section: Section<'_>) -> Option<StateTensor> {
    let input = section.require("input", "the name of an input", text);
    let output = section.require("output", "the name of an output", text);
    let initial = section.read("initial", number).unwrap_or_default();
    let shape = section.read("shape", list(SHAPE, whole(0..=MAX_DECLARED_ELEMENTS)));
    if let Some(shape) = &shape {
        bound_elements(&section, "shape", shape);
    }
    let batch_axis = section.read("batch_axis", whole(0..=15)).unwrap_or_default();
    Some(StateTensor {
        input: input?,
        output: output?,
        initial,
        shape,
        batch_axis,
    })
}

const SHAPE: &str = "a list of sizes such as [1, 128]";

fn warm_up(mut section: Section<'_>) -> WarmUp {
    let default = WarmUp::default();
    let rows = section.read("rows", whole(1..=65_536)).unwrap_or(default.rows);
    let count = section.read("count", whole(1..=1000)).unwrap_or(default.count);
    let mut named = section.section("dims");
    let dims = named.rest(list(SHAPE, whole(0..=MAX_DECLARED_ELEMENTS)));
    for (name, shape) in &dims {
        bound_elements(&named, name, shape);
    }
    WarmUp { rows, count, dims }
}

fn bound_elements(section: &Section<'_>, key: &str, shape: &[usize]) {
    let elements = shape
        .iter()
        .try_fold(1usize, |product, size| product.checked_mul(*size));
    if elements.is_none_or(|elements| elements > MAX_DECLARED_ELEMENTS) {
        let expected = format!("at most {MAX_DECLARED_ELEMENTS} elements");
        section.refuse(
            key,
            Problem::value(expected, format!("the shape {}", shape_text(shape))),
        );
    }
}

fn replicas(value: &Value) -> Result<ReplicaCount, Refused> {
    match value {
        Value::Text(_) => word(&[("every node", ReplicaCount::EveryNode)])(value)
            .map_err(|_| Problem::value("a number or \"every node\"", value.found()).into()),
        _ => whole(1..=MAX_REPLICAS)(value).map(ReplicaCount::Exactly),
    }
}

fn shape_text(shape: &[usize]) -> String {
    // A list in a file can be as long as the file; an error is a line.
    match shape {
        [first, second, .., last] if shape.len() > 16 => format!("[{first}, {second}, …, {last}]"),
        _ => format!("{shape:?}"),
    }
}

fn declared(sections: Vec<Section<'_>>) -> Vec<DeclaredTensor> {
    let mut tensors: Vec<DeclaredTensor> = Vec::new();
    for mut section in sections {
        let data_types = ALL_DATA_TYPES.map(|data_type| (data_type.name(), data_type));
        let name = section.require("name", "the name of a tensor", text);
        let data_type = section.read("datatype", word(&data_types));
        let expected_sizes = "a list of sizes such as [-1, 128]";
        let sizes = section.read("shape", list(expected_sizes, whole(-1..=i64::MAX)));
        let dim = |size: i64| usize::try_from(size).map_or(Dim::Dynamic, Dim::Fixed);
        let shape = sizes.map(|sizes| sizes.into_iter().map(dim).collect());
        let Some(name) = name else { continue };
        if tensors.iter().any(|other| other.name == name) {
            section.refuse(
                "name",
                Problem::value("each tensor once", format!("{name:?} a second time")),
            );
        }
        tensors.push(DeclaredTensor { name, data_type, shape });
    }
    tensors
}

#[cfg(test)]
mod tests;
