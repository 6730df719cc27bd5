//! A node inside another program: it comes and goes without leaving anything behind. One test, because it looks at the
//! whole process.

use std::collections::BTreeMap;

use grid_tests::embedded::{EmbeddedNode, Repository, eventually, y};

/// Threads of this process that belong to nodes, by name.
fn threads() -> BTreeMap<String, usize> {
    let mut names = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task")
        .expect("a process can look at its threads")
        .flatten()
    {
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        let name = name.trim().to_owned();
        let ours = ["node", "loader", "compute", "actix", "rten", "grpc"];
        if ours.iter().any(|ours| name.starts_with(ours)) {
            *names.entry(name).or_insert(0) += 1;
        }
    }
    names
}

#[test]
fn a_node_that_is_stopped_or_dropped_leaves_no_thread_and_no_listener() {
    for stop in [true, false, true] {
        let node = EmbeddedNode::start(
            Repository::default().with("m", "instances = 2", ""),
            "grpc.listen = '127.0.0.1:0'",
        );
        assert_eq!(y(&node.infer("m", 1.0).unwrap()), Some(2.0));
        let addresses = [node.address(), node.grpc_address().unwrap()];
        assert!(threads().contains_key("grpc"));
        if stop {
            node.node.stop();
        } else {
            drop(node);
        }
        eventually("all its threads have ended", || {
            let left = threads();
            if !left.is_empty() {
                eprintln!("{left:?}");
            }
            left.is_empty()
        });
        for address in addresses {
            assert!(std::net::TcpStream::connect(address).is_err());
        }
    }
}
