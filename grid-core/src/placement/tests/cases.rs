//! Cases that a person can follow.

use super::*;

const ONE: ReplicaCount = ReplicaCount::Exactly(1);

#[test]
fn a_swap_between_full_nodes_is_reported_and_not_forced() {
    let mut grid = Grid {
        nodes: vec![node(0, 10), node(1, 10)],
        shards: vec![shard(0, 10, ONE), shard(1, 10, ONE)],
        hosted: vec![ready(0, 0, 10), ready(1, 1, 10)],
    };
    // Each failed where it is, and could be where the other is.
    grid.shards[0].avoid = vec![0];
    grid.shards[1].avoid = vec![1];
    let assignment = grid.place();
    assert_eq!(assignment.moves, vec![]);
    assert_eq!(assignment.owners, [[0], [1]]);
    assert_eq!(assignment.stuck.len(), 2);
    let ring = |to| Cause::Ring {
        to,
        needed: 10,
        free: 0,
    };
    assert_eq!(assignment.stuck[0].cause, ring(1));
    assert!(ring(1).to_string().contains("10 bytes"));
    // A third node lets the ring go on.
    grid.nodes.push(node(2, 10));
    grid.settle();
    assert!(grid.hosts(0, 1) || grid.hosts(0, 2));
    assert_eq!(grid.place().stuck, vec![]);
}

#[test]
fn a_move_waits_until_its_target_has_room() {
    let mut grid = Grid {
        nodes: vec![node(0, 10), node(1, 10), node(2, 10)],
        shards: vec![shard(0, 10, ONE), shard(1, 10, ONE)],
        hosted: vec![ready(0, 0, 10), ready(1, 1, 10)],
    };
    grid.shards[0].avoid = vec![0, 2];
    grid.shards[1].avoid = vec![0, 1];
    let assignment = grid.place();
    assert_eq!(assignment.moves.len(), 1);
    assert_eq!(assignment.waiting[0].reason, WaitingFor::Room);
    assert_eq!(assignment.owners, [[0], [2]]);
    grid.apply(&assignment.moves);
    grid.settle();
    assert!(grid.hosts(0, 1) && grid.hosts(1, 2));
}

#[test]
fn without_room_every_shard_gets_one_replica_before_any_gets_two() {
    let grid = Grid {
        nodes: vec![node(0, 20), node(1, 20)],
        shards: (0..3).map(|index| shard(index, 10, ReplicaCount::Exactly(2))).collect(),
        hosted: vec![],
    };
    let assignment = grid.place();
    assert!(assignment.owners.iter().all(|owners| !owners.is_empty()));
    let missing: u32 = assignment.unplaced.iter().map(|entry| entry.missing).sum();
    assert_eq!(missing, 2);
    assert_eq!(assignment.unplaced[0].cause, Cause::NoRoom { needed: 10, free: 0 });
}

#[test]
fn a_shard_for_every_node_is_on_each_that_has_room() {
    let mut grid = Grid {
        nodes: vec![node(0, 10), node(1, 5), node(2, 10), node(3, 10)],
        shards: vec![shard(0, 8, ReplicaCount::EveryNode)],
        hosted: vec![],
    };
    grid.nodes[3].accepts = false;
    let assignment = grid.place();
    assert_eq!(assignment.owners, [[0, 2]]);
    let [entry] = &*assignment.unplaced else {
        panic!("{:?}", assignment.unplaced);
    };
    assert_eq!((entry.missing, entry.cause), (1, Cause::NoRoom { needed: 8, free: 5 }));
}

#[test]
fn more_replicas_than_nodes_are_named_and_the_rest_is_served() {
    let grid = Grid {
        nodes: vec![node(0, 10), node(1, 10)],
        shards: vec![shard(0, 1, ReplicaCount::Exactly(u32::MAX))],
        hosted: vec![],
    };
    let assignment = grid.place();
    assert_eq!(assignment.owners, [[0, 1]]);
    assert_eq!(assignment.unplaced[0].missing, u32::MAX - 2);
    assert_eq!(assignment.unplaced[0].cause, Cause::NoNode { accepting: 2 });
}

#[test]
fn the_last_copy_stays_on_a_node_that_shrank_when_it_fits_nowhere() {
    let grid = Grid {
        nodes: vec![node(0, 5), node(1, 5)],
        shards: vec![shard(0, 8, ONE)],
        hosted: vec![ready(0, 0, 8)],
    };
    let assignment = grid.place();
    assert_eq!((assignment.owners, assignment.moves), (vec![vec![0]], vec![]));
    assert_eq!(assignment.stuck[0].cause, Cause::NoRoom { needed: 8, free: 5 });
}

#[test]
fn a_replica_counts_with_what_it_takes_where_it_is_and_a_new_one_with_what_is_expected() {
    let mut grid = Grid {
        nodes: vec![node(0, 7), node(1, 7)],
        shards: vec![shard(0, 8, ONE), shard(1, 4, ONE)],
        // It was loaded when nobody knew of the 8 bytes yet, and takes 3 here.
        hosted: vec![ready(0, 0, 3)],
    };
    grid.shards[1].avoid = vec![1];
    let assignment = grid.place();
    assert_eq!(assignment.owners, [[0], [0]]);
    grid.apply(&assignment.moves);
    // It has to go, and stays where it serves as long as there is no room elsewhere for all that it may take.
    grid.nodes[0].memory = 5;
    let assignment = grid.place();
    assert_eq!(assignment.owners, [[0], [0]]);
    assert_eq!(assignment.stuck[0].cause, Cause::NoRoom { needed: 8, free: 7 });
    grid.nodes[1].memory = 8;
    assert_eq!(grid.place().owners, [[1], [0]]);
}

#[test]
fn no_node_is_flooded_with_loads() {
    let grid = Grid {
        nodes: vec![node(0, 1000)],
        shards: (0..10).map(|index| shard(index, 1, ONE)).collect(),
        hosted: vec![],
    };
    let assignment = grid.place();
    assert_eq!((assignment.moves.len(), assignment.waiting.len()), (4, 6));
    let slot = |waiting: &Waiting| waiting.reason == WaitingFor::LoadingSlot;
    assert!(assignment.waiting.iter().all(slot));
}

#[test]
fn numbers_at_their_limits_do_no_harm() {
    let mut grid = Grid {
        nodes: vec![node(0, u64::MAX), node(1, 0)],
        shards: vec![shard(0, u64::MAX, ONE), shard(1, u64::MAX, ONE), shard(2, 0, ONE)],
        hosted: vec![ready(0, 0, u64::MAX), ready(1, 0, u64::MAX), ready(7, 7, 1)],
    };
    grid.nodes[0].compute = u32::MAX;
    grid.nodes[1].compute = 0;
    grid.shards.iter_mut().for_each(|shard| shard.load = u32::MAX);
    grid.place();
    grid.nodes.clear();
    assert_eq!(grid.place().unplaced.len(), 3);
    grid.shards.clear();
    grid.place();
}
