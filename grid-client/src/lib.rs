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
//! let model = grid.model("credit_forest").await?;
//! let row = Tensor::from_values([1, 2].into(), &[0.5f32, 1.0])?;
//! let answer = model.infer([("input", row.clone())]).await?;
//! println!("{:?} from {}", answer.output("label"), answer.node);
//!
//! let mut stream = grid.model("vitals").await?.sequence("patient-7").start().await?;
//! stream.send([("input", row)]).await?;
//! while let Some(outcome) = stream.next().await {
//!     let outcome = outcome?;
//!     println!("message {}: {:?}", outcome.number, outcome.outputs?);
//! #   break;
//! }
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod client;
pub mod link;
pub mod replica;
mod sequence;

pub use client::{Answer, ClientError, ClientOptions, GridClient, Model, Outputs, Request, StreamedOutput, Streaming};
pub use sequence::{
    Outcome, SequenceOptions, SequenceOutcomes, SequencePlace, SequenceSender, SequenceStream, StartSequence,
};
