//! Places 100,000 shards on 1,000 nodes, then lets a node join, die and shrink; prints times and the ratios to the ideal.
//!
//! `cargo run --release -p grid-core --example placement_at_scale [shards] [nodes]`

use std::time::Instant;

use grid_core::placement::{
    Assignment, Hosted, HostedStage, Move, PlacementNode, PlacementShard, Policy, Problem, ReplicaCount, place,
};

const GIB: u64 = 1 << 30;

struct Grid {
    nodes: Vec<PlacementNode>,
    shards: Vec<PlacementShard>,
    hosted: Vec<Hosted>,
}

impl Grid {
    fn place(&self, policy: &Policy) -> (Assignment, f64) {
        let problem = Problem {
            nodes: &self.nodes,
            shards: &self.shards,
            hosted: &self.hosted,
        };
        let start = Instant::now();
        let assignment = place(&problem, policy);
        (assignment, start.elapsed().as_secs_f64())
    }

    /// Every move of the round is done.
    fn apply(&mut self, moves: &[Move]) {
        let mut gone: Vec<(usize, usize)> = moves.iter().filter_map(|step| Some((step.shard, step.from?))).collect();
        gone.sort_unstable();
        self.hosted
            .retain(|at| gone.binary_search(&(at.shard, at.node)).is_err());
        let made = moves.iter().filter_map(|step| Some((step.shard, step.to?)));
        self.hosted.extend(made.map(|(shard, node)| Hosted {
            shard,
            node,
            stage: HostedStage::Ready,
            bytes: self.shards[shard].bytes,
        }));
    }

    /// Rounds until nothing moves; prints the first one's time and what moved in all.
    fn settle(&mut self, what: &str, policy: &Policy, ideal: f64) {
        let (mut rounds, mut moved, mut first, mut slowest) = (0, 0, 0.0, 0.0f64);
        loop {
            let (assignment, seconds) = self.place(policy);
            slowest = slowest.max(seconds);
            if rounds == 0 {
                first = seconds;
            }
            moved += assignment.moves.iter().filter(|step| step.to.is_some()).count();
            let problems = assignment.unplaced.len() + assignment.stuck.len();
            if assignment.moves.is_empty() || rounds == 1000 {
                println!(
                    "{what:<28} first round {first:.3} s, slowest {slowest:.3} s, {rounds:3} rounds, {moved:6} loads = \
                     {:.3} of the ideal, max/mean load {:.3}, {problems} without place, {} waiting",
                    moved as f64 / ideal,
                    self.unevenness(),
                    assignment.waiting.len(),
                );
                return;
            }
            self.apply(&assignment.moves);
            rounds += 1;
        }
    }

    fn unevenness(&self) -> f64 {
        let mut loads = vec![0.0; self.nodes.len()];
        for at in &self.hosted {
            loads[at.node] += f64::from(self.shards[at.shard].load);
        }
        let accepting = self.nodes.iter().filter(|node| node.accepts);
        let computes: f64 = accepting.map(|node| f64::from(node.compute)).sum();
        let mean = loads.iter().sum::<f64>() / computes;
        let fills = self
            .nodes
            .iter()
            .zip(&loads)
            .map(|(node, load)| load / f64::from(node.compute) / mean);
        fills.fold(0.0, f64::max)
    }

    fn load_of(&self, node: usize) -> f64 {
        self.hosted.iter().filter(|at| at.node == node).count() as f64
    }
}

fn node(index: usize) -> PlacementNode {
    PlacementNode {
        name: format!("node-{index:04}").parse().expect("a name of the alphabet"),
        memory: 64 * GIB,
        compute: 100 * (1 + index as u32 % 4),
        zone: format!("zone-{}", index % 3),
        accepts: true,
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse().expect("a number"));
    let shards = arguments.next().unwrap_or(100_000);
    let nodes = arguments.next().unwrap_or(1_000);
    let mut grid = Grid {
        nodes: (0..nodes).map(node).collect(),
        shards: (0..shards)
            .map(|index| PlacementShard {
                id: grid_core::model::ModelId {
                    name: format!("model-{index:06}").parse().expect("a name of the alphabet"),
                    version: 1,
                },
                bytes: (1 + index as u64 * 7919 % 8) * (GIB / 32),
                load: 50 + (index as u32).wrapping_mul(2_654_435_761) % 101,
                replicas: ReplicaCount::Exactly(1 + u32::from(index % 10 == 0)),
                avoid: vec![],
            })
            .collect(),
        hosted: vec![],
    };
    let replicas = shards as f64 * 1.1;
    let at_once = Policy {
        loads_per_node: u32::MAX,
        ..Policy::default()
    };
    grid.settle("from nothing, all at once", &at_once, replicas);
    let policy = Policy::default();
    grid.settle("nothing has changed", &policy, replicas);

    grid.nodes.push(node(nodes));
    let computes: f64 = grid.nodes.iter().map(|node| f64::from(node.compute)).sum();
    let share = replicas * f64::from(grid.nodes[nodes].compute) / computes;
    grid.settle("one node joins", &policy, share);

    // Its index stays, as a node without replicas that accepts none: to placement the same as being absent.
    let had = grid.load_of(7);
    grid.nodes[7].accepts = false;
    grid.hosted.retain(|at| at.node != 7);
    grid.settle("one node dies", &policy, had);

    let had = grid.load_of(11);
    grid.nodes[11].compute /= 2;
    grid.nodes[11].memory /= 2;
    grid.settle("one node is halved", &policy, had / 2.0);

    let had = grid.load_of(13);
    grid.nodes[13].accepts = false;
    grid.settle("one node drains", &policy, had);

    // Memory for hardly all, and then for not all: the search for a place is at its longest.
    let bytes: u64 = grid.hosted.iter().map(|at| grid.shards[at.shard].bytes).sum();
    for (what, memory) in [("from nothing, 97 % full", 103), ("from nothing, a tenth too much", 90)] {
        grid.hosted.clear();
        let accepting = grid.nodes.iter().filter(|node| node.accepts).count() as u64;
        grid.nodes
            .iter_mut()
            .for_each(|node| node.memory = bytes / accepting * memory / 100);
        grid.settle(what, &at_once, replicas);
    }
}
