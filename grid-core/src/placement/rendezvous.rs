//! Weighted rendezvous hashing in integers.
//!
//! Each pair of a shard and a node has a hash `h` in (0, 1]; the shard ranks the nodes by `-ln(h) / weight`, lowest first.
//! This is the race of exponential clocks: a node comes first with a probability proportional to its weight, and a
//! node that joins or leaves changes the rank of no other two. `f64::ln` is not the same to the last bit on all machines,
//! so the logarithm is a table with linear interpolation, in integers. It is monotonic, so the only error is one of
//! weights, and that is under 0.3 %.

use crate::model::ModelId;

/// How many nodes of the first ranks are looked at, on average. With loads bounded to 1.03 of the shares, the first few
/// of a shard's ranks are full only late in the placing, and then the least loaded node of all is the better choice.
const FIRST_RANKS: u64 = 24;

/// `log2(1 + i / 256)` with 32 bits behind the point.
const LOG2: [u64; 257] = {
    let mut table = [0; 257];
    let mut i = 0;
    while i < 256 {
        // The digits of a logarithm by repeated squaring: `x` has 63 bits behind the point and stays in [1, 2).
        let mut x = (256 + i as u64) << 55;
        let mut digits = 0;
        let mut digit = 0;
        while digit < 32 {
            let square = (x as u128 * x as u128) >> 63;
            let carry = (square >> 64) as u64;
            digits = digits << 1 | carry;
            x = (square >> carry) as u64;
            digit += 1;
        }
        table[i] = digits;
        i += 1;
    }
    table[256] = 1 << 32;
    table
};

/// `-log2(value / 2^64)` with 32 bits behind the point.
fn negative_log2(value: u64) -> u64 {
    let value = value.max(1);
    let zeros = value.leading_zeros();
    // The bits behind the leading one.
    let fraction = (value << zeros) << 1;
    let index = (fraction >> 56) as usize;
    let (low, high) = (LOG2[index], LOG2[index + 1]);
    let within = (fraction >> 24) & 0xffff_ffff;
    let log = low + (((high - low) * within) >> 32);
    ((u64::from(zeros) + 1) << 32) - log
}

fn mix(mut x: u64) -> u64 {
    // The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// FNV-1a, mixed.
fn hash(bytes: &[u8], start: u64) -> u64 {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325 ^ start, fold))
}

/// What stands for a shard in its hashes with nodes.
pub(super) fn shard_seed(id: &ModelId) -> u64 {
    hash(id.name.as_str().as_bytes(), mix(id.version))
}

/// What stands for a node in its hashes with shards.
pub(super) fn node_seed(name: &str) -> u64 {
    // Another start than the shards': a node and a model of the same name are no pair.
    hash(name.as_bytes(), 1)
}

/// The rank of a node for a shard: the lowest comes first.
pub(super) fn rank(shard: u64, node: u64, weight: u32) -> u64 {
    rank_of_hash(mix(shard ^ node), weight)
}

/// Which of these nodes comes first for something that is no shard. A node that joins or leaves changes it only where
/// it comes first itself.
pub(super) fn first_of<'a, T: AsRef<str>>(what: &str, nodes: impl Iterator<Item = &'a T>) -> Option<&'a T> {
    let seed = hash(what.as_bytes(), 2);
    nodes.min_by_key(|node| rank(seed, node_seed(node.as_ref()), 1))
}

fn rank_of_hash(hash: u64, weight: u32) -> u64 {
    // Near 1 for a small hash, so that the filter below is one comparison.
    (negative_log2(!hash) << 20) / u64::from(weight.max(1))
}

/// The nodes that accept replicas, ready to be ranked.
pub(super) struct Ring {
    nodes: Vec<Runner>,
}

struct Runner {
    seed: u64,
    /// A hash up to here may be among the first ranks.
    limit: u64,
    node: u32,
    weight: u32,
}

impl Ring {
    /// The ring of these `(index, seed, weight)`.
    pub(super) fn new(nodes: impl Iterator<Item = (u32, u64, u32)>) -> Self {
        let mut nodes: Vec<Runner> = nodes
            .map(|(node, seed, weight)| Runner {
                seed,
                limit: 0,
                node,
                weight,
            })
            .collect();
        let total: u64 = nodes.iter().map(|runner| u64::from(runner.weight)).sum();
        for runner in &mut nodes {
            // `1 - e^-x < x`: whatever ranks below the rank that `FIRST_RANKS` nodes reach on average passes.
            let limit = (u128::from(FIRST_RANKS * u64::from(runner.weight)) << 64) / u128::from(total.max(1));
            runner.limit = u64::try_from(limit).unwrap_or(u64::MAX);
        }
        Self { nodes }
    }

    /// The nodes of a shard's first ranks, in order, as `(rank, index)`.
    pub(super) fn first_ranks(&self, shard: u64, into: &mut Vec<(u64, u32)>) {
        into.clear();
        // One multiplication chain and one comparison a node: with a hundred thousand shards and a thousand nodes this
        // is the innermost loop of all.
        for runner in &self.nodes {
            let hash = mix(shard ^ runner.seed);
            if hash <= runner.limit {
                into.push((rank_of_hash(hash, runner.weight), runner.node));
            }
        }
        into.sort_unstable();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_right_and_monotonic() {
        for value in [
            1,
            2,
            3,
            1 << 20,
            u64::MAX / 3,
            u64::MAX / 2,
            u64::MAX - (1 << 40),
            u64::MAX,
        ] {
            let exact = 64.0 - (value as f64).log2();
            let found = negative_log2(value) as f64 / (1u64 << 32) as f64;
            assert!((exact - found).abs() < 1e-5, "{value}: {exact} {found}");
        }
        let mut before = negative_log2(1);
        for step in 1..200_000u64 {
            let next = negative_log2(step.wrapping_mul(u64::MAX / 200_000));
            assert!(next <= before);
            before = next;
        }
    }

    #[test]
    fn a_node_comes_first_as_often_as_its_weight_says() {
        let weights = [100, 100, 200, 400];
        let ring = Ring::new((0..4).map(|node| (node, node_seed(&format!("node-{node}")), weights[node as usize])));
        let mut first = [0; 4];
        let mut ranks = vec![];
        for shard in 0..80_000u64 {
            ring.first_ranks(mix(shard), &mut ranks);
            assert_eq!(ranks.len(), 4);
            first[ranks[0].1 as usize] += 1;
        }
        for (count, weight) in first.into_iter().zip(weights) {
            let expected = weight as i32 * 100;
            assert!((count - expected).abs() < expected / 20, "{first:?}");
        }
    }

    #[test]
    fn the_filter_keeps_the_first_ranks() {
        let seeds: Vec<u64> = (0..500).map(|node| node_seed(&node.to_string())).collect();
        let weight = |node: usize| 50 + 10 * (node as u32 % 20);
        let ring = Ring::new(
            seeds
                .iter()
                .enumerate()
                .map(|(node, seed)| (node as u32, *seed, weight(node))),
        );
        let mut ranks = vec![];
        for shard in (0..100).map(mix) {
            ring.first_ranks(shard, &mut ranks);
            let all = seeds.iter().enumerate();
            let mut all: Vec<_> = all
                .map(|(node, seed)| (rank(shard, *seed, weight(node)), node as u32))
                .collect();
            all.sort_unstable();
            assert_eq!(ranks[..8], all[..8]);
        }
    }
}
