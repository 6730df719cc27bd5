//! The command line of `grid-node`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use grid_core::config::{self, NodeConfig};
use grid_core::model::manifest::Manifest;

use crate::loading::bound_kept_memory;

mod check;
mod run;
mod status;

/// Exit code of a config or a repository that is wrong, so that scripts can tell it from a crash.
const INVALID: u8 = 2;

#[derive(Debug, Parser)]
#[command(name = "grid-node", version, about = "A node of the inference grid")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts a node from a config file.
    Run {
        /// The config file.
        config: PathBuf,
    },
    /// Prints what a node knows of its grid.
    Status {
        /// Where the node's HTTP is, or its config file.
        #[arg(default_value = "127.0.0.1:8000")]
        node: String,
        /// Prints it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Makes a cluster key, for the `grid.key_file` of every node of a grid.
    Key,
    /// Checks a config file and its model repositories, and says what would be served.
    Check {
        /// The config file.
        config: PathBuf,
    },
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    bound_kept_memory();
    match Arguments::parse().command {
        Command::Run { config } => with_config(&config, run::run),
        Command::Status { node, json } => status::status(&node, json),
        Command::Key => key(),
        Command::Check { config } => with_config(&config, check::check),
    }
}

/// Prints a new cluster key. Whoever has it can join the grid and do anything in it.
fn key() -> ExitCode {
    let key: [u8; 32] = rand::random();
    let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    println!("{digits}");
    ExitCode::SUCCESS
}

fn with_config(path: &Path, command: fn(&Path, NodeConfig) -> ExitCode) -> ExitCode {
    match read(path) {
        Ok(config) => command(path, config),
        Err(problems) => {
            for problem in &problems {
                eprintln!("{problem}");
            }
            ExitCode::from(INVALID)
        }
    }
}

fn read(path: &Path) -> Result<NodeConfig, Vec<String>> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| vec![format!("{file}: cannot be read: {error}")])?;
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let mut config = config::parse(&file, &text, environment)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    config.resolve(path.parent().unwrap_or(Path::new("")));
    let missing = missing_repositories(&file, &config);
    if missing.is_empty() { Ok(config) } else { Err(missing) }
}

/// What decided on the runtime of a model, where it is not the one that models run in if nothing is said.
fn why_this_runtime(runtime: &str, manifest: &Manifest, config: &NodeConfig) -> &'static str {
    match (&manifest.runtime, &config.runtime.prefer) {
        (Some(_), _) => ", as its manifest says",
        (None, Some(_)) => ", as `runtime.prefer` says",
        (None, None) if runtime == "onnxruntime" => "",
        (None, None) => ", since onnxruntime is absent",
    }
}

/// A node runs on when a repository goes away under it; one that is not there at the start is a slip.
fn missing_repositories(file: &str, config: &NodeConfig) -> Vec<String> {
    let place = config.places.origin("models.repository").within(file);
    let repositories = config.models.repositories.iter();
    let problem = |folder: &PathBuf| {
        let error = std::fs::read_dir(folder).err()?;
        let folder = folder.display();
        Some(format!(
            "{place}: models.repository: expected a folder of models, found {folder}: {error}"
        ))
    };
    repositories.filter_map(problem).collect()
}
