//! Writes the corpora anew: `cargo run --example seeds` in `tests/fuzz`. Each file is a real value: what nodes, clients and
//! people send or write, in the form that the target reads.

mod agents;
mod clients;
mod links;
mod membership;
mod messages;
mod texts;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use grid_core::cluster::NodeId;
use grid_core::model::ModelId;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// The seeds of each target, by name.
type Seeds = BTreeMap<(&'static str, String), Vec<u8>>;

fn main() -> Result {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seeds = Seeds::new();
    let mut add = |target, name: &str, bytes: Vec<u8>| {
        let before = seeds.insert((target, name.to_owned()), bytes);
        assert!(before.is_none(), "{target}/{name} twice");
    };
    membership::seeds(&mut add)?;
    links::seeds(&mut add)?;
    messages::seeds(&mut add)?;
    agents::seeds(&mut add)?;
    clients::seeds(&here.join("../../configs"), &mut add)?;
    texts::seeds(&here.join("../../configs"), &mut add)?;

    let corpus = here.join("corpus");
    if corpus.exists() {
        fs::remove_dir_all(&corpus)?;
    }
    for ((target, name), bytes) in &seeds {
        let folder = corpus.join(target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(name), bytes)?;
    }
    println!("{} seeds", seeds.len());
    Ok(())
}

/// Takes the seed of a target.
type Add<'a> = &'a mut dyn FnMut(&'static str, &str, Vec<u8>);

pub(crate) fn model(name: &str) -> Result<ModelId> {
    Ok(ModelId {
        name: name.parse()?,
        version: 1,
    })
}

pub(crate) fn id(name: &str, generation: u64) -> Result<NodeId> {
    Ok(NodeId {
        name: name.parse()?,
        generation,
    })
}

pub(crate) fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        paths.push(entry?.path());
    }
    paths.sort();
    Ok(paths)
}
