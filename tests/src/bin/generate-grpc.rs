//! Writes the Rust code of the gRPC gateway: `cargo run -p grid-tests --bin generate-grpc`.

use grid_tests::grpc_code::{GenerateError, committed, generate};

fn main() -> Result<(), GenerateError> {
    let path = committed();
    std::fs::write(&path, generate()?)?;
    println!("{} is written", path.display());
    Ok(())
}
