//! The way to a grid: the client library that apps embed, and the link that nodes and apps share.
//!
//! [`GridClient`] connects to any live node, learns who hosts what, and sends each request straight to the least loaded
//! replica. [`link`] is the connection beneath; [`replica`] is one attempt of a request on one replica, by the rules that
//! nodes follow too.
//!
//! ```no_run
//! use grid_client::{ClientOptions, GridClient};
//! use grid_core::tensor::Tensor;
//!
//! # async fn ask() -> Result<(), Box<dyn std::error::Error>> {
//! let key = std::fs::read_to_string("cluster.key")?;
//! let options = ClientOptions::new("three-nodes".parse()?, key.trim().parse()?);
//! let grid = GridClient::connect(["127.0.0.1:7000", "node-b:7000"], options).await?;
//!
//! let model = grid.model("credit_risk").await?;
//! let row = Tensor::from_values([1, 54].into(), &[0f32; 54])?;
//! let answer = model.infer([("features", row)]).await?;
//! println!("{:?} from {}", answer.output("probability"), answer.node);
//! # Ok(())
//! # }
//! ```
//!
//! A model that keeps state is asked in a sequence of numbered messages. When the node that has it dies, another one goes on:
//! no message is lost or run twice on the state.
//!
//! ```no_run
//! # use grid_client::GridClient;
//! # use grid_core::tensor::Tensor;
//! # async fn stream(grid: GridClient) -> Result<(), Box<dyn std::error::Error>> {
//! let (mut sender, mut outcomes) = grid.model("vitals").await?.sequence("bed-7").start().await?.split();
//! tokio::spawn(async move {
//!     for heart_rate in [71f32, 72.5, 70.0] {
//!         let sample = Tensor::from_values([1, 3].into(), &[heart_rate, 97.0, 15.0]).expect("three values");
//!         sender.send([("sample", sample)]).await?;
//!     }
//!     Ok::<(), grid_client::ClientError>(())
//! });
//! while let Some(outcome) = outcomes.next().await {
//!     let outcome = outcome?;
//!     println!("message {}: {:?}", outcome.number, outcome.outputs?.get("score"));
//! }
//!
//! // From here another process goes on with it.
//! let place = outcomes.place();
//! let stream = grid.model("vitals").await?.sequence("bed-7").resume(place).await?;
//! # Ok(())
//! # }
//! ```
//!
//! `examples/infer.rs` and `examples/stream.rs` are whole programs, for the nodes of `configs/three-nodes`.

#![forbid(unsafe_code)]

mod client;
pub mod link;
pub mod replica;
mod sequence;

pub use client::{Answer, ClientError, ClientOptions, GridClient, Model, Outputs, Request, StreamedOutput, Streaming};
pub use sequence::{
    Outcome, SequenceOptions, SequenceOutcomes, SequencePlace, SequenceSender, SequenceStream, StartSequence,
};
