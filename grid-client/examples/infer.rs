//! Asks a model of a running grid.
//!
//! Start the three nodes of `configs/three-nodes`, each in a terminal of its own:
//!
//! ```sh
//! cargo run --release -p grid-node -- run configs/three-nodes/a.toml
//! ```
//!
//! and then:
//!
//! ```sh
//! cargo run -p grid-client --example infer -- \
//!     127.0.0.1:7000,127.0.0.1:7010 three-nodes configs/three-nodes/cluster.key credit_risk
//! ```
//!
//! It makes up an input of zeros for whatever the model takes, and says which node answered. Stop nodes while it runs: any
//! one that is left will do.

use std::error::Error;

use grid_client::{ClientOptions, GridClient};
use grid_core::model::made_up;
use grid_core::model::{Dim, TensorSpec};
use grid_core::tensor::Shape;

const USAGE: &str = "usage: infer HOST:PORT[,HOST:PORT…] GRID KEY_FILE MODEL";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [seeds, grid, key_file, model] = arguments.as_slice() else {
        return Err(USAGE.into());
    };
    let key = std::fs::read_to_string(key_file).map_err(|error| format!("{key_file}: {error}"))?;
    let options = ClientOptions::new(grid.parse()?, key.trim().parse()?);

    let client = GridClient::connect(seeds.split(','), options).await?;
    let model = client.model(model).await?;
    let signature = model.signature().ok_or("nobody hosts it any more")?;
    for spec in &signature.inputs {
        println!("input  {spec}");
    }
    for _ in 0..10 {
        let mut request = model.request();
        for spec in &signature.inputs {
            request = request.input(&spec.name, made_up::filled(spec, &shape(spec), 0.0)?);
        }
        let answer = request.send().await?;
        println!(
            "answered by node {}, computed in {} µs",
            answer.node, answer.times.computed
        );
        for (name, tensor) in answer.outputs.iter() {
            match tensor.values::<f32>() {
                Some(values) => println!("  {name} {} {:?}", tensor.shape(), &values[..values.len().min(8)]),
                None => println!("  {name} {} {}", tensor.data_type(), tensor.shape()),
            }
        }
    }
    Ok(())
}

/// One row, and 1 wherever else the request may choose.
fn shape(spec: &TensorSpec) -> Shape {
    let sizes = spec.shape.iter().flatten().map(|dim| match dim {
        Dim::Fixed(size) => *size,
        Dim::Dynamic => 1,
    });
    Shape(sizes.collect())
}
