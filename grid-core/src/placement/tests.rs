//! A grid that does as placement says, for the tests of its properties.

mod cases;
mod properties;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
struct Grid {
    nodes: Vec<PlacementNode>,
    shards: Vec<PlacementShard>,
    hosted: Vec<Hosted>,
}

impl Grid {
    fn place(&self) -> Assignment {
        self.place_by(&Policy::default())
    }

    fn place_by(&self, policy: &Policy) -> Assignment {
        let (nodes, shards, hosted) = (&*self.nodes, &*self.shards, &*self.hosted);
        place(&Problem { nodes, shards, hosted }, policy)
    }

    fn hosts(&self, shard: usize, node: usize) -> bool {
        self.hosted.iter().any(|at| (at.shard, at.node) == (shard, node))
    }

    fn bytes_on(&self, node: usize) -> u64 {
        let here = self.hosted.iter().filter(|at| at.node == node);
        here.map(|at| at.bytes).sum()
    }

    /// Each node makes what it is to load, and checks that it has room; then what was replaced goes.
    fn apply(&mut self, moves: &[Move]) {
        for step in moves {
            if let Some(node) = step.to {
                assert!(!self.hosts(step.shard, node), "made twice: {step:?}");
                self.hosted.push(ready(step.shard, node, self.shards[step.shard].bytes));
                let (bytes, memory) = (self.bytes_on(node), self.nodes[node].memory);
                assert!(bytes <= memory, "made without room: {step:?}");
            }
        }
        for step in moves {
            if let Some(node) = step.from {
                assert!(self.hosts(step.shard, node), "unmade what was not there: {step:?}");
                self.hosted.retain(|at| (at.shard, at.node) != (step.shard, node));
            }
        }
    }

    /// Rounds until nothing moves; the number of replicas that were loaded.
    fn settle(&mut self) -> usize {
        let mut loads = 0;
        for _ in 0..300 {
            let moves = self.place().moves;
            if moves.is_empty() {
                return loads;
            }
            loads += moves.iter().filter(|step| step.to.is_some()).count();
            self.apply(&moves);
        }
        panic!("it does not settle: {:?}", self.place().moves);
    }

    fn fills(&self) -> Vec<f64> {
        let mut loads = vec![0.0; self.nodes.len()];
        for at in &self.hosted {
            loads[at.node] += f64::from(self.shards[at.shard].load);
        }
        let accepting = self.nodes.iter().filter(|node| node.accepts);
        let computes: f64 = accepting.map(|node| f64::from(node.compute)).sum();
        let mean = loads.iter().sum::<f64>() / computes;
        let nodes = self.nodes.iter().zip(&loads);
        nodes
            .map(|(node, load)| load / f64::from(node.compute) / mean)
            .collect()
    }
}

fn ready(shard: usize, node: usize, bytes: u64) -> Hosted {
    Hosted {
        shard,
        node,
        stage: HostedStage::Ready,
        bytes,
    }
}

fn node(index: usize, memory: u64) -> PlacementNode {
    PlacementNode {
        name: format!("node-{index}").parse().unwrap(),
        memory,
        compute: 100,
        zone: String::new(),
        accepts: true,
    }
}

fn shard(index: usize, bytes: u64, replicas: ReplicaCount) -> PlacementShard {
    PlacementShard {
        id: crate::model::ModelId {
            name: format!("model-{index}").parse().unwrap(),
            version: 1,
        },
        bytes,
        load: 100,
        replicas,
        avoid: vec![],
    }
}

/// Up to `replicas` of each shard, some of them on every node.
fn shards(count: std::ops::Range<usize>, replicas: u32) -> impl Strategy<Value = Vec<PlacementShard>> {
    let one = (1u64..=40, 1u32..=200, 0..=replicas * 4);
    prop::collection::vec(one, count).prop_map(move |drawn| {
        let shards = drawn.into_iter().enumerate();
        let shards = shards.map(|(index, (bytes, load, draw))| PlacementShard {
            load,
            ..shard(
                index,
                bytes,
                match draw {
                    0 => ReplicaCount::EveryNode,
                    count => ReplicaCount::Exactly(1 + count % replicas),
                },
            )
        });
        shards.collect()
    })
}

fn nodes(count: std::ops::Range<usize>, memory: std::ops::Range<u64>) -> impl Strategy<Value = Vec<PlacementNode>> {
    let one = (memory, 1u32..=4, 0..3);
    prop::collection::vec(one, count).prop_map(|drawn| {
        let nodes = drawn.into_iter().enumerate();
        let nodes = nodes.map(|(index, (memory, compute, zone))| PlacementNode {
            compute: compute * 100,
            zone: format!("zone-{zone}"),
            ..node(index, memory)
        });
        nodes.collect()
    })
}

/// Anything: tight memory, nodes that drain, shards that avoid nodes, replicas anywhere in any stage.
fn any_grid() -> impl Strategy<Value = Grid> {
    let parts = (nodes(1..9, 40..300), shards(1..40, 3));
    let parts = parts.prop_flat_map(|(nodes, shards)| {
        let (n, s) = (nodes.len(), shards.len());
        let stages = prop::sample::select(vec![
            HostedStage::Ready,
            HostedStage::Ready,
            HostedStage::Loading,
            HostedStage::Leaving,
        ]);
        let hosted = prop::collection::vec((0..s, 0..n, stages, 1u64..=60), 0..40);
        let avoid = prop::collection::vec((0..s, 0..n), 0..6);
        let draining = prop::collection::vec(prop::bool::weighted(0.15), n);
        (Just(nodes), Just(shards), hosted, avoid, draining)
    });
    parts.prop_map(|(mut nodes, mut shards, hosted, avoid, draining)| {
        for (node, drains) in nodes.iter_mut().zip(draining) {
            node.accepts = !drains;
        }
        for (shard, node) in avoid {
            shards[shard].avoid.push(node);
        }
        let mut hosted: Vec<Hosted> = hosted
            .into_iter()
            .map(|(shard, node, stage, bytes)| Hosted {
                shard,
                node,
                stage,
                bytes,
            })
            .collect();
        hosted.sort_by_key(|at| (at.shard, at.node));
        hosted.dedup_by_key(|at| (at.shard, at.node));
        Grid { nodes, shards, hosted }
    })
}

/// Plenty of memory, enough shards to even out, nothing hosted yet.
fn roomy_grid() -> impl Strategy<Value = Grid> {
    (nodes(3..12, 20_000..20_001), shards(200..400, 2)).prop_map(|(nodes, mut shards)| {
        for shard in &mut shards {
            shard.load = 50 + shard.load / 2;
        }
        Grid {
            nodes,
            shards,
            hosted: vec![],
        }
    })
}

/// Plenty of memory and few shards, so that no node gets just its share.
fn lumpy_grid() -> impl Strategy<Value = Grid> {
    (nodes(2..8, 20_000..20_001), shards(2..30, 2)).prop_map(|(nodes, shards)| Grid {
        nodes,
        shards,
        hosted: vec![],
    })
}
