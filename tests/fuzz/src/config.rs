//! The text of a config with environment variables, of a manifest, and of a cluster key.

use std::collections::BTreeMap;
use std::path::Path;

use grid_core::cluster::ClusterKey;
use grid_core::config::{Diagnostic, parse};
use grid_core::model::manifest::Manifest;
use grid_core::model::{Dim, Signature, TensorSpec};
use grid_core::tensor::DataType;

/// What is in the way of the text, in a seed: before it lines `NAME=value` of the environment.
pub const TEXT: &str = "\n---\n";

/// Takes the bytes in.
///
/// # Panics
/// When something does not hold.
pub fn run(data: &[u8]) {
    let Ok(data) = std::str::from_utf8(data) else { return };
    let (environment, text) = data.split_once(TEXT).unwrap_or(("", data));
    let environment: BTreeMap<String, String> = environment
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let read = parse("node.toml", text, environment.clone());
    // The order of the variables is the system's.
    assert_eq!(read, parse("node.toml", text, environment.into_iter().rev()));
    match read {
        Ok(mut config) => {
            config.resolve(Path::new("/etc/grid"));
            assert!(config.models.repositories.iter().all(|path| path.is_absolute()));
        }
        Err(problems) => told(&problems, text),
    }
    match Manifest::parse("model.toml", text) {
        Ok(manifest) => {
            assert_eq!(manifest.written.as_str(), text);
            if let Err(problems) = manifest.check("model.toml", &signature()) {
                told(&problems, text);
            }
        }
        Err(problems) => told(&problems, text),
    }
    if let Err(error) = text.parse::<ClusterKey>() {
        assert!(error.to_string().len() < 256, "it tells much of what may be a key");
    }
}

fn told(problems: &[Diagnostic], text: &str) {
    assert!(!problems.is_empty());
    let lines = text.lines().count().max(1) + 1;
    for problem in problems {
        let told = problem.to_string();
        assert!(!told.is_empty() && !told.contains('\n'), "{told:?}");
        assert!(problem.line().is_none_or(|line| (1..=lines).contains(&line)), "{told}");
    }
}

/// What a file has, to compare a manifest with.
fn signature() -> Signature {
    let tensor = |name: &str, data_type, shape: &[Dim]| TensorSpec {
        name: name.to_owned(),
        data_type,
        shape: Some(shape.to_vec()),
    };
    let state = [Dim::Dynamic, Dim::Fixed(3)];
    Signature {
        inputs: vec![
            tensor("sample", DataType::Fp32, &state),
            tensor("mean", DataType::Fp32, &state),
            tensor("text", DataType::Bytes, &[Dim::Dynamic]),
        ],
        outputs: vec![
            tensor("score", DataType::Fp32, &state),
            tensor("mean_out", DataType::Fp32, &state),
        ],
    }
}
