//! Configs and manifests.

use std::fs;
use std::path::Path;

use grid_fuzz::config;

use crate::{Add, Result, sorted};

pub(crate) fn seeds(configs: &Path, add: Add<'_>) -> Result {
    for folder in ["", "three-nodes"] {
        for path in sorted(&configs.join(folder))? {
            let name = path.file_name().ok_or("a file")?.to_string_lossy().into_owned();
            if path
                .extension()
                .is_some_and(|extension| extension == "toml" || extension == "key")
            {
                let name = format!("{}{name}", if folder.is_empty() { "" } else { "grid-" });
                add("config", &name, fs::read(path)?);
            }
        }
    }
    for folder in ["models", "larger"] {
        for path in sorted(&configs.join(folder))? {
            let manifest = path.join("model.toml");
            if manifest.exists() {
                let name = path.file_name().ok_or("a model")?.to_string_lossy().into_owned();
                add("config", &format!("model-{name}.toml"), fs::read(manifest)?);
            }
        }
    }
    let environment = "GRID__HTTP__LISTEN=0.0.0.0:80\nGRID__MODELS__REPOSITORY=[\"a\", \"b\"]\nGRID__LIMITS__QUEUE=3\nGRID__HTPT__LISTEN=1";
    let every = include_str!("every_key.toml");
    add(
        "config",
        "environment",
        [environment, config::TEXT, every].concat().into_bytes(),
    );
    add("config", "every-key.toml", every.as_bytes().to_vec());
    add(
        "config",
        "every-manifest-key.toml",
        include_bytes!("every_manifest_key.toml").to_vec(),
    );
    Ok(())
}
