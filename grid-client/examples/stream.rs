//! Streams samples to the model `vitals` of a running grid, two a second, and prints what comes back.
//!
//! With the three nodes of `configs/three-nodes` running, as in the example `infer`:
//!
//! ```sh
//! cargo run -p grid-client --example stream -- \
//!     127.0.0.1:7000,127.0.0.1:7010 three-nodes configs/three-nodes/cluster.key bed-7
//! ```
//!
//! Kill, freeze or stop any one node meanwhile: the next number is the next one. From the 21st sample on the patient has a
//! fever, and the alarm says so.

use std::error::Error;
use std::time::Duration;

use grid_client::{ClientOptions, GridClient};
use grid_core::tensor::Tensor;

const USAGE: &str = "usage: stream HOST:PORT[,HOST:PORT…] GRID KEY_FILE SEQUENCE";
const SAMPLES: u32 = 60;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [seeds, grid, key_file, sequence] = arguments.as_slice() else {
        return Err(USAGE.into());
    };
    let key = std::fs::read_to_string(key_file).map_err(|error| format!("{key_file}: {error}"))?;
    let options = ClientOptions::new(grid.parse()?, key.trim().parse()?);

    let client = GridClient::connect(seeds.split(','), options).await?;
    let mut stream = client.model("vitals").await?.sequence(sequence).start().await?;
    for number in 1..=SAMPLES {
        let input = [("sample", sample(number)?)];
        match number == SAMPLES {
            true => stream.send_last(input).await?,
            false => stream.send(input).await?,
        };
        let Some(outcome) = stream.next().await else { break };
        let outcome = outcome?;
        let outputs = outcome.outputs?;
        let score = outputs.get("score").and_then(Tensor::values::<f32>);
        let alarm = outputs.get("alarm").and_then(Tensor::values::<i64>);
        println!(
            "{:>3} (durable up to {}): score {:.1?}, alarm {:?}",
            outcome.number,
            outcome.durable,
            score.unwrap_or_default(),
            alarm.unwrap_or_default()
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}

/// Heart rate, oxygen saturation, respiratory rate.
fn sample(number: u32) -> Result<Tensor, Box<dyn Error>> {
    let breath = (number as f32).sin();
    let fever = if number > 20 { 20.0 } else { 0.0 };
    let values = [71.0 + fever + 2.0 * breath, 97.0 - 0.2 * breath, 15.0 + breath / 2.0];
    Ok(Tensor::from_values([1, 3].into(), &values)?)
}
