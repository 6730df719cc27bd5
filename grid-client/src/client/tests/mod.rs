//! Clients of nodes that answer from a script, over loopback.

pub(crate) mod fake;

mod endings;
mod routing;
mod streaming;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use grid_core::tensor::Tensor;
use tokio::time::timeout;

use super::*;
use fake::{FakeGrid, FakeNode, Said};

/// Far over what anything here takes, on a machine however busy.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) fn tensor(values: &[f32]) -> Tensor {
    Tensor::from_values([values.len()].into(), values).unwrap()
}

pub(crate) fn input(value: f32) -> [(&'static str, Tensor); 1] {
    [("x", tensor(&[value]))]
}

pub(crate) async fn client_of(nodes: &[&FakeNode]) -> GridClient {
    let seeds: Vec<String> = nodes.iter().map(|node| node.at.to_string()).collect();
    GridClient::connect(seeds, fake::options()).await.unwrap()
}

/// Waits until it holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let held = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, held).await.unwrap_or_else(|_| panic!("{what}"));
}

#[derive(Clone, Default)]
struct Count(Arc<AtomicUsize>);

impl Count {
    fn add(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}
