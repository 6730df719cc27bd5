//! Nodes in network namespaces that hang on one bridge, so that a test can pull a cable.
//!
//! Each node has two interfaces: one on the bridge, for its grid, and a line of its own to the test, for HTTP. So the test
//! reaches a node that the others do not.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

static MADE: AtomicU32 = AtomicU32::new(0);

/// A bridge with nodes around it. Dropping it takes it away.
#[derive(Debug)]
pub struct Network {
    /// The namespace with the bridge, in which the test lives too.
    hub: String,
    nodes: Vec<String>,
}

impl Network {
    /// Makes a network for so many nodes.
    ///
    /// # Errors
    /// When this process may not: it needs `ip` of iproute2 and `CAP_SYS_ADMIN`.
    pub fn new(nodes: usize) -> Result<Self, String> {
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        let name = |what: &str| format!("grid-{}-{made}-{what}", std::process::id());
        let mut network = Self {
            hub: name("hub"),
            nodes: Vec::new(),
        };
        let hub = network.hub.clone();
        ip(&["netns", "add", &hub])?;
        ip(&["-n", &hub, "link", "set", "lo", "up"])?;
        ip(&["-n", &hub, "link", "add", "bridge", "type", "bridge"])?;
        ip(&["-n", &hub, "link", "set", "bridge", "up"])?;
        for number in 0..nodes {
            let node = name(&number.to_string());
            ip(&["netns", "add", &node])?;
            network.nodes.push(node.clone());
            ip(&["-n", &node, "link", "set", "lo", "up"])?;
            let (grid, line) = (format!("grid{number}"), format!("line{number}"));
            for (here, there) in [(&grid, "grid"), (&line, "line")] {
                let pair = [
                    "link", "add", here, "type", "veth", "peer", "name", there, "netns", &node,
                ];
                ip(&[&["-n", &hub][..], &pair].concat())?;
                ip(&["-n", &hub, "link", "set", here, "up"])?;
                ip(&["-n", &node, "link", "set", there, "up"])?;
            }
            ip(&["-n", &hub, "link", "set", &grid, "master", "bridge"])?;
            let of = |address: IpAddr| format!("{address}/24");
            ip(&[
                "-n",
                &node,
                "addr",
                "add",
                &of(network.grid_address(number)),
                "dev",
                "grid",
            ])?;
            ip(&[
                "-n",
                &node,
                "addr",
                "add",
                &of(network.line_address(number)),
                "dev",
                "line",
            ])?;
            ip(&["-n", &hub, "addr", "add", &format!("10.78.{number}.2/24"), "dev", &line])?;
        }
        Ok(network)
    }

    /// Takes the calling thread into the network, and what it starts from then on.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn enter(&self) -> io::Result<()> {
        let namespace = File::open(format!("/run/netns/{}", self.hub))?;
        Ok(move_into_link_name_space(
            namespace.as_fd(),
            Some(LinkNameSpaceType::Network),
        )?)
    }

    /// The namespace of a node.
    pub fn namespace(&self, node: usize) -> &str {
        &self.nodes[node]
    }

    /// Where a node is for the others.
    pub fn grid_address(&self, node: usize) -> IpAddr {
        Ipv4Addr::new(10, 77, 0, number(node)).into()
    }

    /// Where a node is for the test.
    pub fn line_address(&self, node: usize) -> IpAddr {
        Ipv4Addr::new(10, 78, number(node) - 1, 1).into()
    }

    /// Pulls a node's cable to the others.
    pub fn cut(&self, node: usize) {
        ip(&["-n", &self.hub, "link", "set", &format!("grid{node}"), "down"]).expect("a port that can be closed");
    }

    /// Plugs it in again.
    pub fn heal(&self, node: usize) {
        ip(&["-n", &self.hub, "link", "set", &format!("grid{node}"), "up"]).expect("a port that can be opened");
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in self.nodes.iter().chain([&self.hub]) {
            // What is left of it is empty, and its name says which test's it was.
            let _ = ip(&["netns", "del", namespace]);
        }
    }
}

fn number(node: usize) -> u8 {
    u8::try_from(node + 1).expect("a network has few nodes")
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let said = |reason: String| format!("ip {}: {reason}", arguments.join(" "));
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .map_err(|error| said(error.to_string()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(said(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}
