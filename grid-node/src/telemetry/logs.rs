//! Structured logs on standard error.

use std::io::IsTerminal;

use grid_core::config::{LogFormat, LogSettings};
use tracing_subscriber::EnvFilter;

/// What the HTTP library logs of broken connections and requests is a client's to cause, as often as it likes; and how
/// many workers it starts is said by the node.
const QUIET: &str = "actix_http=off,actix_server=warn";

/// Installs the process's logger: once, by the command line; an app that embeds a node installs its own.
///
/// # Errors
/// When the level is not a valid filter, or a logger is installed already.
pub fn init(config: &LogSettings) -> Result<(), String> {
    let filter = EnvFilter::try_new(format!("{QUIET},{}", config.level)).map_err(|error| {
        format!(
            "log.level: expected a filter such as \"info\", found {:?}: {error}",
            config.level
        )
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match config.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(|error| error.to_string())
}
