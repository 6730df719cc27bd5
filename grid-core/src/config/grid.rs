//! `[grid]`: how a node finds others, and what it takes on for them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::Secret;
use super::diagnostics::Problem;
use super::kinds::{self, Refused};
use super::reader::Section;
use super::sections::{ADDRESS, secret};
use super::tree::Value;
use crate::cluster::GridName;

/// Most seeds that a config names.
const MAX_SEEDS: usize = 64;

/// `[grid]`. Without `listen` the node is alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GridSettings {
    /// `name`: nodes of grids with different names never join. Default `grid`.
    pub name: GridName,
    /// `listen`: address and port for other nodes and client libraries, by TCP (mesh) and UDP (gossip). Default: none,
    /// and no grid.
    pub listen: Option<SocketAddr>,
    /// `advertise`: the address that the others are told, where it is not the one that is listened on. Default:
    /// `listen`, which then must not be that of all interfaces.
    pub advertise: Option<SocketAddr>,
    /// `seeds`: nodes that are asked first, each `"host:port"`; names are looked up again and again. Its own may be
    /// among them. Default: none.
    pub seeds: Vec<String>,
    /// `key`: the cluster key, as `grid-node key` makes it. Either this or `key_file` is required.
    pub key: Option<Secret>,
    /// `key_file`: a file that holds it.
    pub key_file: Option<PathBuf>,
    /// `zone`: the failure domain of this node; replicas are spread over zones. Default: none.
    pub zone: String,
    /// `compute`: the relative speed of this node in hundredths of an ordinary compute thread, 1 to 1,000,000. Default:
    /// 100 for each compute thread.
    pub compute: Option<u32>,
    /// `grace`: how long a node that does not answer is waited for before others take over what it hosts. Requests are
    /// sent elsewhere at once. Default `5s`.
    pub grace: Duration,
}

impl Default for GridSettings {
    fn default() -> Self {
        Self {
            name: "grid".parse().expect("a name"),
            listen: None,
            advertise: None,
            seeds: Vec::new(),
            key: None,
            key_file: None,
            zone: String::new(),
            compute: None,
            grace: Duration::from_secs(5),
        }
    }
}

impl GridSettings {
    /// The address that others are told.
    pub fn advertised(&self) -> Option<SocketAddr> {
        self.advertise.or(self.listen)
    }
}

const SEED: &str = "a host and port such as \"10.0.0.7:7000\" or \"node-b:7000\"";
const NAME: &str = "a name of letters, digits, '.', '_' or '-'";

pub(super) fn grid(mut section: Section<'_>) -> GridSettings {
    let default = GridSettings::default();
    let others = ["advertise", "seeds", "key_file", "zone", "compute", "grace"];
    let other = others.into_iter().find(|key| section.has(key));
    let settings = GridSettings {
        name: section.read("name", kinds::parsed(NAME)).unwrap_or(default.name),
        listen: section.read("listen", kinds::parsed(ADDRESS)),
        advertise: section.read("advertise", advertised),
        seeds: section
            .read("seeds", kinds::list("a list of hosts and ports", seed))
            .unwrap_or_default(),
        key: section.read("key", secret),
        key_file: section.read("key_file", kinds::path),
        zone: section.read("zone", zone).unwrap_or_default(),
        compute: section.read("compute", kinds::whole(1..=1_000_000)),
        grace: section
            .read("grace", kinds::time_span_in(Duration::ZERO..=Duration::from_secs(3600)))
            .unwrap_or(default.grace),
    };
    agree(&section, &settings, other);
    settings
}

fn agree(section: &Section<'_>, settings: &GridSettings, other: Option<&str>) {
    let Some(listen) = settings.listen else {
        if let Some(other) = other
            && !section.was_refused("listen")
        {
            let found = format!("`{other}` alone");
            section.refuse(
                "listen",
                Problem::value("an address, where the node is one of a grid", found),
            );
        }
        return;
    };
    if listen.ip().is_unspecified() && settings.advertise.is_none() && !section.was_refused("advertise") {
        let expected = "the address that other nodes reach this one by, as `listen` is that of all interfaces";
        section.refuse("advertise", Problem::value(expected, "nothing"));
    }
    if settings.seeds.len() > MAX_SEEDS {
        let found = format!("{}", settings.seeds.len());
        section.refuse("seeds", Problem::value(format!("at most {MAX_SEEDS} seeds"), found));
    }
    match (&settings.key, &settings.key_file) {
        (Some(_), Some(_)) => section.refuse("key", Problem::value("either `key` or `key_file`", "both")),
        (None, None) if !section.was_refused("key") && !section.was_refused("key_file") => {
            let expected = "a file with the cluster key, made by `grid-node key`, or the key itself in `key`";
            section.refuse("key_file", Problem::value(expected, "nothing"));
        }
        _ => {}
    }
}

fn advertised(value: &Value) -> Result<SocketAddr, Refused> {
    let address: SocketAddr = kinds::parsed(ADDRESS)(value)?;
    let is_one: fn(IpAddr) -> bool = |ip| !ip.is_unspecified() && !ip.is_multicast();
    match is_one(address.ip()) && address.port() != 0 {
        true => Ok(address),
        false => Err(Problem::value("the address and port of this node", value.found()).into()),
    }
}

fn seed(value: &Value) -> Result<String, Refused> {
    let text = kinds::text(value)?;
    let is_seed = text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty()
            && host.len() <= 253
            && !host.contains(char::is_whitespace)
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    match is_seed {
        true => Ok(text),
        false => Err(Problem::value(SEED, value.found()).into()),
    }
}

fn zone(value: &Value) -> Result<String, Refused> {
    // It travels in every snapshot.
    let zone: GridName = kinds::parsed(NAME)(value)?;
    Ok(zone.as_str().to_owned())
}
