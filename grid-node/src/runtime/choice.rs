//! Which runtime runs a model: the one that its manifest wants, else ONNX Runtime where it was found, else rten.

use std::path::Path;
use std::sync::Arc;

use grid_core::config::NodeConfig;

use super::onnxruntime::{Absent, OnnxRuntime};
use super::rten::Rten;
use super::{Format, Runtime, thread_starter};

/// Names that a manifest or the node's config may give.
const KNOWN: [&str; 2] = ["onnxruntime", "rten"];

/// The runtimes of this node.
#[derive(Clone)]
pub struct Runtimes {
    onnxruntime: Result<Arc<OnnxRuntime>, Absent>,
    rten: Arc<Rten>,
    prefer: Option<String>,
    /// What the app that embeds the node brings.
    own: Option<Arc<dyn Runtime>>,
}

impl Runtimes {
    /// Looks for what is there. `prefer` names the runtime of models whose manifest wants none. Call it from a thread of
    /// normal priority: the runtimes' threads inherit it.
    pub fn find(configured_lib: Option<&Path>, lib_dir: &Path, prefer: Option<&str>) -> Self {
        thread_starter::begin();
        Self {
            onnxruntime: OnnxRuntime::find(configured_lib, lib_dir).map(Arc::new),
            rten: Arc::new(Rten),
            prefer: prefer.map(str::to_owned),
            own: None,
        }
    }

    /// The same, with a runtime that an app brings: it runs every model whose manifest names no other.
    pub fn with(self, own: Arc<dyn Runtime>) -> Self {
        Self { own: Some(own), ..self }
    }

    /// The runtimes that a node with this configuration has: the library lies in a folder `lib` beside the data
    /// directory, unless the configuration or the environment names another place.
    pub fn of_config(config: &NodeConfig) -> Self {
        let lib_dir = config.node.data_dir.parent().map(|folder| folder.join("lib"));
        let settings = &config.runtime;
        Self::find(
            settings.onnxruntime.as_deref(),
            &lib_dir.unwrap_or_default(),
            settings.prefer.as_deref(),
        )
    }

    /// The runtime for a model of that format, whose manifest may want one.
    ///
    /// # Errors
    /// When a runtime is wanted that is unknown or absent; the text says what would help.
    pub fn for_model(&self, format: Format, wanted: Option<&str>) -> Result<Arc<dyn Runtime>, String> {
        // Both run the one format that there is.
        let Format::Onnx = format;
        if let Some(own) = self
            .own
            .as_ref()
            .filter(|own| wanted.is_none_or(|wanted| wanted == own.name()))
        {
            return Ok(Arc::clone(own));
        }
        match wanted.or(self.prefer.as_deref()) {
            Some("rten") => Ok(self.rten.clone()),
            Some("onnxruntime") => match &self.onnxruntime {
                Ok(runtime) => Ok(runtime.clone()),
                Err(absent) => Err(format!(
                    "runtime `onnxruntime` is wanted and absent: {absent}; {}",
                    remedy(absent)
                )),
            },
            Some(other) => Err(format!(
                "runtime `{other}` is unknown, expected one of `{}`",
                KNOWN.join("`, `")
            )),
            None => match &self.onnxruntime {
                Ok(runtime) => Ok(runtime.clone()),
                Err(_) => Ok(self.rten.clone()),
            },
        }
    }

    /// Lines for the node to print when it starts: what is there, and what is not and would be gained.
    pub fn report(&self) -> Vec<String> {
        let onnxruntime = match &self.onnxruntime {
            Ok(runtime) => format!(
                "runtime onnxruntime {} from {}",
                runtime.version(),
                runtime.path().display()
            ),
            Err(absent) => format!(
                "runtime onnxruntime is absent: {absent}; with it all ONNX models run, trees too, and most of them faster: {}",
                remedy(absent)
            ),
        };
        vec![onnxruntime, format!("runtime rten {}, built in", self.rten.version())]
    }
}

fn remedy(absent: &Absent) -> &'static str {
    match absent {
        Absent::NotFound { .. } => "`configs/fetch onnxruntime` fetches it",
        Absent::Broken { .. } => "name another library, or none and let `configs/fetch onnxruntime` fetch one",
        Absent::TooOld { .. } => "`configs/fetch onnxruntime` fetches a newer one; name that, or none",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without_onnxruntime(prefer: Option<&str>) -> Runtimes {
        Runtimes {
            onnxruntime: Err(Absent::NotFound {
                looked_at: "lib/libonnxruntime.so".into(),
            }),
            rten: Arc::new(Rten),
            prefer: prefer.map(str::to_owned),
            own: None,
        }
    }

    fn refusal(runtimes: &Runtimes, wanted: Option<&str>) -> String {
        match runtimes.for_model(Format::Onnx, wanted) {
            Ok(runtime) => panic!("{} was chosen", runtime.name()),
            Err(reason) => reason,
        }
    }

    #[test]
    fn without_onnxruntime_models_run_in_rten() {
        let chosen = without_onnxruntime(None).for_model(Format::Onnx, None).unwrap();
        assert_eq!(chosen.name(), "rten");
    }

    #[test]
    fn a_runtime_that_is_wanted_and_absent_is_refused_with_the_command_that_fetches_it() {
        for (prefer, wanted) in [(None, Some("onnxruntime")), (Some("onnxruntime"), None)] {
            let reason = refusal(&without_onnxruntime(prefer), wanted);
            assert!(reason.contains("`configs/fetch onnxruntime`"), "{reason}");
            assert!(reason.contains("lib/libonnxruntime.so"), "{reason}");
        }
    }

    #[test]
    fn an_unknown_runtime_is_refused_with_the_known_ones() {
        let reason = refusal(&without_onnxruntime(None), Some("tract"));
        assert_eq!(
            reason,
            "runtime `tract` is unknown, expected one of `onnxruntime`, `rten`"
        );
    }

    #[test]
    fn the_report_says_what_fetching_would_bring() {
        let report = without_onnxruntime(None).report();
        assert!(report[0].contains("`configs/fetch onnxruntime`"), "{report:?}");
        assert!(report[1].starts_with("runtime rten "), "{report:?}");
    }
}
