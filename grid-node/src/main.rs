//! The `grid-node` binary.

fn main() -> std::process::ExitCode {
    grid_node::cli::main()
}
