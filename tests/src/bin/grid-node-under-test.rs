//! The node's binary, built by this crate so that tests and benches find it by `CARGO_BIN_EXE_grid-node-under-test`.

fn main() -> std::process::ExitCode {
    grid_node::cli::main()
}
