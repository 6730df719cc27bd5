//! What the benches share: their arguments, taking turns, and the models that they serve.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde_json::json;

use crate::embedded::post;
use crate::load::{InferRequest, SampleError};
use crate::process::NodeProcess;
use crate::repository_root;

/// The numbers behind `--` on a bench's command line.
#[derive(Clone, Debug)]
pub struct Arguments(Vec<String>);

impl Arguments {
    /// Those of this process, less the `--bench` that cargo adds.
    pub fn of_process() -> Self {
        Self(
            std::env::args()
                .skip(1)
                .filter(|argument| argument != "--bench")
                .collect(),
        )
    }

    /// The argument at a place, or what holds where none was given.
    ///
    /// # Errors
    /// When it is no such number.
    pub fn at<T: FromStr<Err: Debug>>(&self, place: usize, default: T) -> Result<T, String> {
        match self.0.get(place) {
            None => Ok(default),
            Some(text) => text
                .parse()
                .map_err(|error| format!("argument {}: `{text}`: {error:?}", place + 1)),
        }
    }
}

/// Something that is measured for one round.
pub type Side<'a, T, E> = Box<dyn FnMut() -> Result<T, E> + 'a>;

/// Measures every side once a round. Each round begins with another side, so that a drift of the machine's speed falls on
/// all. Returns a row of figures for each round, in the order of the sides.
///
/// # Errors
/// The first error of a side.
pub fn in_turns<T, E>(rounds: usize, mut sides: Vec<Side<'_, T, E>>) -> Result<Vec<Vec<T>>, E> {
    let count = sides.len();
    let mut rows = Vec::new();
    for round in 0..rounds {
        let mut measured = Vec::new();
        for step in 0..count {
            let side = (round + step) % count;
            measured.push((side, sides[side]()?));
        }
        measured.sort_by_key(|(side, _)| *side);
        rows.push(measured.into_iter().map(|(_, figure)| figure).collect());
    }
    Ok(rows)
}

/// The file of a larger model, if `configs/fetch` has fetched it.
pub fn larger_model(name: &str) -> Option<PathBuf> {
    let file = repository_root().join("configs/larger").join(name).join("1/model.onnx");
    file.is_file().then_some(file)
}

/// The ONNX Runtime library, where `configs/fetch` puts it or `ORT_DYLIB_PATH` says.
pub fn onnxruntime() -> Option<PathBuf> {
    let named = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty());
    let library = named.map_or_else(
        || {
            repository_root()
                .join(".grid/lib")
                .join(std::env::consts::DLL_PREFIX.to_owned() + "onnxruntime" + std::env::consts::DLL_SUFFIX)
        },
        PathBuf::from,
    );
    library.is_file().then_some(library)
}

/// The config of a node that finds the small models and the larger ones, and ONNX Runtime where it was fetched, wherever
/// its file lies. `load` names the models that it loads at start.
pub fn config_of_all_models(load: &[&str]) -> String {
    let root = repository_root();
    let root = root.display();
    format!(
        "node.data_dir = '{root}/.grid/data'\n\
         models.repository = ['{root}/configs/models', '{root}/configs/larger']\n\
         models.load = {load:?}\n"
    )
}

/// One row of the sample of a small model.
///
/// # Errors
/// When its sample is not there or wrong.
pub fn small_request(model: &str) -> Result<InferRequest, SampleError> {
    let sample = repository_root().join("configs/models").join(model).join("sample.json");
    Ok(InferRequest::from_sample(model, &sample)?.with_rows(1))
}

/// The token ids of one row for MiniLM: other ones at each place, all of its vocabulary.
pub fn minilm_tokens(length: usize) -> Vec<i64> {
    (0..length as i64).map(|place| 1000 + place * 7919 % 28_000).collect()
}

/// One row for MiniLM, of so many tokens.
///
/// # Errors
/// Never in fact: the request is made here.
pub fn minilm_request(length: usize) -> Result<InferRequest, SampleError> {
    let input =
        |name: &str, data: Vec<i64>| json!({"name": name, "shape": [1, length], "datatype": "INT64", "data": data});
    let inputs = json!({"inputs": [
        input("input_ids", minilm_tokens(length)),
        input("attention_mask", vec![1; length]),
        input("token_type_ids", vec![0; length]),
    ]});
    InferRequest::from_json("minilm", inputs.to_string().as_bytes())
}

/// What the repository extension can be asked to do with a model.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// Bring it into memory.
    Load,
    /// Free its memory.
    Unload,
}

/// Has a node load or unload a model, and waits until that is done.
///
/// # Errors
/// When the node does not answer, or refuses.
pub fn order(address: SocketAddr, model: &str, order: Order) -> Result<(), String> {
    let verb = match order {
        Order::Load => "load",
        Order::Unload => "unload",
    };
    let response = post(address, &format!("/v2/repository/models/{model}/{verb}"), "");
    match response {
        Ok(response) if response.status == 200 => Ok(()),
        Ok(response) => Err(format!("{verb} {model}: {} {}", response.status, response.text())),
        Err(error) => Err(format!("{verb} {model}: {error}")),
    }
}

/// The value of a metric of a node, which has no labels.
///
/// # Errors
/// When the node does not answer, or has no such metric.
pub fn metric(node: &NodeProcess, name: &str) -> Result<f64, String> {
    let text = node.get("/metrics").map_err(|error| error.to_string())?.text();
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines()
        .find_map(value)
        .ok_or_else(|| format!("no {name} in the metrics"))
}
