//! A node in the test's own process, with models of the scripted runtime.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use grid_core::config;
use grid_node::Node;
use grid_node::actors::{FindShard, ShardActor, VersionRoute};
use grid_node::runtime::{Runtime, Runtimes};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::load::http_request;
use crate::process::{HttpError, Response, exchange};
use crate::scripted::{Script, ScriptedRuntime};

/// A repository of scripted models in a folder of its own.
#[derive(Debug)]
pub struct Repository(TempDir);

impl Default for Repository {
    fn default() -> Self {
        Self(TempDir::new().expect("a temporary directory can be made"))
    }
}

impl Repository {
    /// Adds version 1 of a model, or replaces it: the text of its manifest and of its model file.
    pub fn with(self, name: &str, manifest: &str, model: &str) -> Self {
        self.write(name, 1, manifest, model);
        self
    }

    /// Writes one version of a model.
    pub fn write(&self, name: &str, version: u64, manifest: &str, model: &str) {
        let folder = self.0.path().join(name);
        std::fs::create_dir_all(folder.join(version.to_string())).expect("a folder can be made");
        std::fs::write(folder.join("model.toml"), manifest).expect("a file can be written");
        std::fs::write(folder.join(version.to_string()).join("model.onnx"), model).expect("a file can be written");
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

/// A node with a repository of scripted models. Stopped without draining when dropped.
#[derive(Debug)]
pub struct EmbeddedNode {
    /// The node.
    pub node: Node,
    /// What its models do and did.
    pub script: Script,
    /// Where they lie.
    pub repository: Repository,
}

impl EmbeddedNode {
    /// Starts a node and waits until it has loaded everything. `config` is more of a config file: sections but
    /// `[models]` and `http.listen`.
    pub fn start(repository: Repository, config: &str) -> Self {
        let script = Script::default();
        let node = start_node(&repository, config, Arc::new(ScriptedRuntime(script.clone())));
        Self {
            node,
            script,
            repository,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.node.address()
    }

    /// Where it listens for gRPC, if its config says so.
    pub fn grpc_address(&self) -> Option<SocketAddr> {
        self.node.grpc_address()
    }

    /// The present route of version 1 of a model.
    pub fn route(&self, model: &str) -> Arc<VersionRoute> {
        self.node
            .routes()
            .resolve(model, Some("1"))
            .expect("the test's model is known")
    }

    /// The address of a shard actor.
    pub fn find_shard(&self, find: FindShard) -> Option<actix::Addr<ShardActor>> {
        futures_executor::block_on(self.node.supervisor().send(find))
            .ok()
            .flatten()
    }

    /// Sends one row of input to a model and waits for the answer.
    pub fn infer(&self, model: &str, x: f32) -> Result<Response, HttpError> {
        infer(self.address(), model, &[x], &json!({}))
    }

    /// The same, on a thread of its own.
    pub fn infer_later(&self, model: &str, x: f32) -> thread::JoinHandle<Result<Response, HttpError>> {
        self.infer_later_with(model, &[x], json!({}))
    }

    /// The same, with several rows and with parameters.
    pub fn infer_later_with(
        &self,
        model: &str,
        x: &[f32],
        parameters: Value,
    ) -> thread::JoinHandle<Result<Response, HttpError>> {
        let (address, model, x) = (self.address(), model.to_owned(), x.to_vec());
        thread::spawn(move || infer(address, &model, &x, &parameters))
    }
}

/// Starts a node whose models run in that runtime, and waits until it has loaded everything. `config` is as in
/// [`EmbeddedNode::start`].
pub fn start_node(repository: &Repository, config: &str, runtime: Arc<dyn Runtime>) -> Node {
    let folder = repository.path().display();
    let text = format!("models.repository = '{folder}'\n{config}");
    let listen = ("GRID__HTTP__LISTEN".to_owned(), "127.0.0.1:0".to_owned());
    let config = config::parse("test.toml", &text, [listen]).expect("a test's config is right");
    let runtimes = Runtimes::of_config(&config).with(runtime);
    let node = Node::start_with(config, runtimes).expect("a node starts on a free port");
    node.loaded();
    node
}

/// The request that [`infer`] sends.
pub fn infer_request(model: &str, x: &[f32], parameters: &Value) -> Vec<u8> {
    let input = json!({"name": "x", "shape": [x.len()], "datatype": "FP32", "data": x});
    let body = json!({"inputs": [input], "parameters": parameters}).to_string();
    let headers = [("Connection", "close"), ("Content-Type", "application/json")];
    http_request("POST", &format!("/v2/models/{model}/infer"), &headers, body.as_bytes())
}

/// Sends rows of input to a scripted model and waits for the answer.
pub fn infer(address: SocketAddr, model: &str, x: &[f32], parameters: &Value) -> Result<Response, HttpError> {
    exchange(address, &infer_request(model, x, parameters))
}

/// `GET path` on a connection of its own.
pub fn get(address: SocketAddr, path: &str) -> Result<Response, HttpError> {
    exchange(address, &http_request("GET", path, &[("Connection", "close")], b""))
}

/// `POST path` on a connection of its own.
pub fn post(address: SocketAddr, path: &str, json: &str) -> Result<Response, HttpError> {
    let headers = [("Connection", "close"), ("Content-Type", "application/json")];
    exchange(address, &http_request("POST", path, &headers, json.as_bytes()))
}

/// The first value of the output `y`.
pub fn y(response: &Response) -> Option<f64> {
    response.json().ok()?["outputs"][0]["data"][0].as_f64()
}

/// Waits until something holds, and fails the test when it does not come to hold within 20 seconds.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < give_up, "it did not come to hold: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}
