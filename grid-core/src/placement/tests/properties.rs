//! One test a promise of the module's docs.

use super::*;

/// What an assignment says, by names instead of indices.
fn by_name(grid: &Grid, assignment: &Assignment) -> Vec<String> {
    let node = |index: &usize| grid.nodes[*index].name.to_string();
    let shard = |index: usize| grid.shards[index].id.to_string();
    let mut said: Vec<String> = vec![];
    for (index, owners) in assignment.owners.iter().enumerate() {
        let mut owners: Vec<String> = owners.iter().map(node).collect();
        owners.sort();
        said.push(format!("{} on {owners:?}", shard(index)));
    }
    said.sort();
    for step in &assignment.moves {
        let (from, to) = (step.from.as_ref().map(node), step.to.as_ref().map(node));
        said.push(format!("{} {from:?} {to:?} {:?}", shard(step.shard), step.reason));
    }
    for waiting in &assignment.waiting {
        said.push(format!(
            "{} to {} {:?}",
            shard(waiting.shard),
            node(&waiting.to),
            waiting.reason
        ));
    }
    for unplaced in &assignment.unplaced {
        said.push(format!(
            "{} {} {}",
            shard(unplaced.shard),
            unplaced.missing,
            unplaced.cause
        ));
    }
    for stuck in &assignment.stuck {
        said.push(format!(
            "{} {:?} {}",
            shard(stuck.shard),
            stuck.node.as_ref().map(node),
            stuck.cause
        ));
    }
    said
}

fn reordered(grid: &Grid, nodes: &[usize], shards: &[usize]) -> Grid {
    let place_of = |order: &[usize], old: usize| order.iter().position(|index| *index == old).unwrap();
    let mut hosted: Vec<Hosted> = grid.hosted.clone();
    for at in &mut hosted {
        at.node = place_of(nodes, at.node);
        at.shard = place_of(shards, at.shard);
    }
    hosted.reverse();
    let moved = |old: &usize| {
        let mut shard = grid.shards[*old].clone();
        shard.avoid.iter_mut().for_each(|node| *node = place_of(nodes, *node));
        shard
    };
    Grid {
        nodes: nodes.iter().map(|old| grid.nodes[*old].clone()).collect(),
        shards: shards.iter().map(moved).collect(),
        hosted,
    }
}

fn largest_fill(grid: &Grid) -> f64 {
    grid.fills().into_iter().fold(0.0, f64::max)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_node_is_given_more_than_its_memory_and_every_move_has_room_now(grid in any_grid()) {
        let assignment = grid.place();
        for (index, node) in grid.nodes.iter().enumerate() {
            let bytes = |shard: usize| {
                let here = grid.hosted.iter().find(|at| (at.shard, at.node) == (shard, index));
                here.map_or(grid.shards[shard].bytes, |at| at.bytes)
            };
            let owned = assignment.owners.iter().enumerate().filter(|(_, owners)| owners.contains(&index));
            let owned: u64 = owned.map(|(shard, _)| bytes(shard)).sum();
            let incoming = assignment.moves.iter().filter(|step| step.to == Some(index));
            let incoming: Vec<u64> = incoming.map(|step| grid.shards[step.shard].bytes).collect();
            let hosted = grid.bytes_on(index);
            prop_assert!(incoming.is_empty() || hosted + incoming.iter().sum::<u64>() <= node.memory);
            prop_assert!(owned <= node.memory.max(hosted), "{owned} of {}", node.memory);
            prop_assert!(incoming.is_empty() || node.accepts);
            let loading = grid.hosted.iter().filter(|at| at.node == index && at.stage == HostedStage::Loading);
            let loads = Policy::default().loads_per_node as usize;
            prop_assert!(incoming.is_empty() || incoming.len() + loading.count() <= loads);
        }
    }

    #[test]
    fn replicas_are_on_distinct_nodes_that_need_not_be_avoided_and_no_last_copy_goes(grid in any_grid()) {
        let assignment = grid.place();
        for (index, (owners, shard)) in assignment.owners.iter().zip(&grid.shards).enumerate() {
            prop_assert!(owners.is_sorted_by(|a, b| a < b));
            if let ReplicaCount::Exactly(count) = shard.replicas {
                prop_assert!(owners.len() <= count as usize);
            }
            for owner in owners.iter().filter(|owner| !grid.hosts(index, **owner)) {
                prop_assert!(grid.nodes[*owner].accepts && !shard.avoid.contains(owner));
            }
            let serves = |at: &Hosted| at.shard == index && at.stage != HostedStage::Leaving;
            prop_assert!(!owners.is_empty() || !grid.hosted.iter().any(serves), "the last copy of {} goes", shard.id);
        }
    }

    #[test]
    fn the_order_of_the_view_does_not_matter(
        (grid, nodes, shards) in any_grid().prop_flat_map(|grid| {
            let nodes = Just((0..grid.nodes.len()).collect::<Vec<_>>()).prop_shuffle();
            let shards = Just((0..grid.shards.len()).collect::<Vec<_>>()).prop_shuffle();
            (Just(grid), nodes, shards)
        })
    ) {
        let other = reordered(&grid, &nodes, &shards);
        prop_assert_eq!(by_name(&grid, &grid.place()), by_name(&other, &other.place()));
    }

    #[test]
    fn rounds_settle_whatever_was_hosted(mut grid in any_grid()) {
        grid.hosted.retain(|at| at.stage != HostedStage::Leaving);
        grid.hosted.iter_mut().for_each(|at| at.stage = HostedStage::Ready);
        grid.settle();
        let last = grid.place();
        prop_assert!(last.waiting.is_empty(), "{:?}", last.waiting);
        for (index, owners) in last.owners.iter().enumerate() {
            prop_assert!(owners.iter().all(|owner| grid.hosts(index, *owner)));
        }
    }

    #[test]
    fn rounds_settle_when_only_some_moves_get_done(mut grid in any_grid(), done in prop::collection::vec(any::<bool>(), 64)) {
        grid.hosted.retain(|at| at.stage == HostedStage::Ready);
        for number in 0..10 {
            let moves = grid.place().moves;
            let some = moves.iter().enumerate().filter(|(index, _)| done[(index + number) % done.len()]);
            // A load that is done while the old copy is still there: one copy too many for a while.
            let some: Vec<Move> = some
                .map(|(index, step)| Move { from: step.from.filter(|_| step.to.is_none() || index % 2 == 0), ..*step })
                .collect();
            grid.apply(&some);
        }
        grid.settle();
    }

    #[test]
    fn whatever_replicas_turn_out_to_take_no_budget_is_passed_and_refused_loads_come_to_an_end(
        mut grid in any_grid(),
        takes in prop::collection::vec(1u64..=80, 64),
    ) {
        grid.hosted.retain(|at| at.stage == HostedStage::Ready);
        let (mut refused, mut loads) = (0, 0);
        // The same on one node each time, and on each node something else.
        let takes = |shard: usize, node: usize| takes[(shard * 7 + node * 13) % takes.len()];
        let before: Vec<u64> = (0..grid.nodes.len()).map(|node| grid.bytes_on(node)).collect();
        let served: Vec<bool> = (0..grid.shards.len()).map(|shard| grid.hosted.iter().any(|at| at.shard == shard)).collect();
        loop {
            let Assignment { moves, owners, .. } = grid.place();
            if moves.is_empty() {
                break;
            }
            let expected: Vec<u64> = grid.shards.iter().map(|shard| shard.bytes).collect();
            let mut surprised = vec![false; grid.nodes.len()];
            for step in &moves {
                let Some(node) = step.to else { continue };
                loads += 1;
                let bytes = takes(step.shard, node);
                surprised[node] |= bytes > expected[step.shard];
                if grid.bytes_on(node) + bytes <= grid.nodes[node].memory {
                    grid.hosted.push(ready(step.shard, node, bytes));
                } else {
                    refused += 1;
                    prop_assert!(surprised[node], "all that was known was right, and yet: {step:?}");
                }
                let known = &mut grid.shards[step.shard].bytes;
                *known = bytes.max(*known);
            }
            // As nodes hand over: only to owners that are ready.
            let may_go = |grid: &Grid, step: &&Move| owners[step.shard].iter().all(|owner| grid.hosts(step.shard, *owner));
            let gone: Vec<Move> = moves.iter().filter(|step| may_go(&grid, step)).copied().collect();
            grid.hosted.retain(|at| !gone.iter().any(|step| (step.shard, step.from) == (at.shard, Some(at.node))));
            for (index, node) in grid.nodes.iter().enumerate() {
                prop_assert!(grid.bytes_on(index) <= node.memory.max(before[index]));
            }
            for (shard, served) in served.iter().enumerate() {
                prop_assert!(!served || grid.hosted.iter().any(|at| at.shard == shard), "its last replica is gone");
            }
            prop_assert!(loads < 2000, "it does not settle");
        }
        prop_assert!(refused <= grid.nodes.len() * grid.shards.len(), "{refused} refusals");
    }

    #[test]
    fn what_lacks_a_replica_is_placed_or_named_with_bytes(mut grid in any_grid()) {
        grid.hosted.clear();
        grid.settle();
        let last = grid.place();
        let accepting = grid.nodes.iter().filter(|node| node.accepts).count();
        for (index, shard) in grid.shards.iter().enumerate() {
            let wanted = match shard.replicas {
                ReplicaCount::Exactly(count) => count as usize,
                ReplicaCount::EveryNode => (0..grid.nodes.len())
                    .filter(|node| grid.nodes[*node].accepts && !shard.avoid.contains(node))
                    .count(),
            };
            let missing: u32 = last.unplaced.iter().filter(|entry| entry.shard == index).map(|entry| entry.missing).sum();
            prop_assert_eq!(last.owners[index].len() + missing as usize, wanted, "of {}", accepting);
        }
        for entry in &last.unplaced {
            if let Cause::NoRoom { needed, free } = entry.cause {
                prop_assert!(free < needed);
                let text = entry.cause.to_string();
                prop_assert!(text.contains(&needed.to_string()) && text.contains(&free.to_string()));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn what_fits_comfortably_is_placed_in_distinct_zones_and_evenly(mut grid in roomy_grid()) {
        grid.settle();
        let last = grid.place();
        prop_assert!(last.unplaced.is_empty() && last.stuck.is_empty());
        let zones = |nodes: &mut dyn Iterator<Item = usize>| {
            nodes.map(|node| &grid.nodes[node].zone).collect::<std::collections::BTreeSet<_>>().len()
        };
        let most = zones(&mut (0..grid.nodes.len()));
        for owners in &last.owners {
            prop_assert_eq!(zones(&mut owners.iter().copied()), owners.len().min(most));
        }
    }

    #[test]
    fn in_one_zone_no_load_is_a_tenth_over_the_mean(mut grid in roomy_grid()) {
        grid.nodes.iter_mut().for_each(|node| node.zone.clear());
        // A replica on every node loads weak nodes as much as strong ones.
        grid.shards.retain(|shard| shard.replicas != ReplicaCount::EveryNode);
        let first = grid.place_by(&Policy { loads_per_node: u32::MAX, ..Policy::default() });
        grid.apply(&first.moves);
        prop_assert_eq!(grid.place().moves, vec![], "placing again moves something");
        prop_assert!(largest_fill(&grid) <= 1.1, "{:?}", grid.fills());
    }

    #[test]
    fn a_node_that_joins_moves_about_its_share(mut grid in roomy_grid(), compute in 1u32..=4) {
        grid.nodes.iter_mut().for_each(|node| node.zone.clear());
        // With two replicas on three nodes, where one can be is no free choice, and evening out moves more.
        grid.shards.iter_mut().for_each(|shard| shard.replicas = ReplicaCount::Exactly(1));
        grid.shards.iter_mut().for_each(|shard| shard.load = 100);
        grid.settle();
        let computes: u32 = grid.nodes.iter().map(|node| node.compute).sum();
        grid.nodes.push(PlacementNode { compute: compute * 100, ..node(grid.nodes.len(), 20_000) });
        let share = grid.hosted.len() as f64 * f64::from(compute * 100) / f64::from(computes + compute * 100);
        let loads = grid.settle() as f64;
        prop_assert!(loads <= share * 1.1 + 1.0, "{loads} of {share}");
        prop_assert!(loads >= share * 0.8 - 1.0, "{loads} of {share}");
    }

    #[test]
    fn while_both_copies_of_a_move_live_the_old_one_is_the_one_to_go(mut grid in roomy_grid()) {
        grid.nodes.iter_mut().for_each(|node| node.zone.clear());
        grid.shards.retain(|shard| shard.replicas != ReplicaCount::EveryNode);
        // With loads of many sizes it may now and then be the new one; the rounds settle all the same.
        grid.shards.iter_mut().for_each(|shard| (shard.load, shard.replicas) = (100, ReplicaCount::Exactly(1)));
        grid.nodes.iter_mut().for_each(|node| node.compute = 100);
        grid.settle();
        grid.nodes.push(node(grid.nodes.len(), 20_000));
        let mut moved = 0;
        for _ in 0..20 {
            let balance = |step: &Move| step.reason == MoveReason::Balance;
            let moves: Vec<Move> = grid.place().moves.into_iter().filter(balance).collect();
            moved += moves.len();
            let made: Vec<Move> = moves.iter().map(|step| Move { from: None, ..*step }).collect();
            grid.apply(&made);
            let now = grid.place();
            for step in &moves {
                prop_assert!(!now.owners[step.shard].contains(&step.from.unwrap()));
                prop_assert!(now.owners[step.shard].contains(&step.to.unwrap()));
            }
            let gone: Vec<Move> = moves.iter().map(|step| Move { to: None, ..*step }).collect();
            grid.apply(&gone);
        }
        prop_assert!(moved > 0);
    }

    #[test]
    fn a_node_that_dies_moves_only_what_it_had(mut grid in roomy_grid()) {
        // With two replicas on three nodes, where one can be is no free choice, and evening out moves more.
        grid.shards.iter_mut().for_each(|shard| shard.replicas = ReplicaCount::Exactly(1));
        grid.nodes.iter_mut().for_each(|node| node.zone.clear());
        grid.settle();
        grid.nodes[0].accepts = false;
        let had = grid.hosted.iter().filter(|at| at.node == 0).count();
        grid.hosted.retain(|at| at.node != 0);
        let loads = grid.settle();
        prop_assert!(loads <= had + had / 10 + 1, "{loads} of {had}");
    }

    #[test]
    fn a_drain_empties_its_node_and_no_shard_is_unserved_meanwhile(mut grid in roomy_grid()) {
        grid.settle();
        grid.nodes[0].accepts = false;
        for _ in 0..300 {
            let assignment = grid.place();
            grid.apply(&assignment.moves);
            prop_assert!((0..grid.shards.len()).all(|shard| grid.hosted.iter().any(|at| at.shard == shard)));
            if assignment.moves.is_empty() {
                break;
            }
        }
        prop_assert_eq!(grid.bytes_on(0), 0);
    }

    #[test]
    fn a_node_that_shrank_gives_up_until_it_fits(mut grid in roomy_grid()) {
        grid.settle();
        grid.nodes[0].memory = grid.bytes_on(0) / 2;
        grid.settle();
        prop_assert!(grid.bytes_on(0) <= grid.nodes[0].memory);
        let unplaced = grid.place().unplaced;
        prop_assert!(unplaced.iter().all(|entry| grid.shards[entry.shard].replicas == ReplicaCount::EveryNode));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn capacities_that_waver_by_a_twentieth_move_nothing(mut grid in prop_oneof![roomy_grid(), lumpy_grid()], noise in prop::collection::vec(950u64..=1050, 12)) {
        let first = grid.place_by(&Policy { loads_per_node: u32::MAX, ..Policy::default() });
        grid.apply(&first.moves);
        prop_assert_eq!(grid.place().moves, vec![]);
        for (node, noise) in grid.nodes.iter_mut().zip(noise) {
            node.memory = node.memory * noise / 1000;
            node.compute = (u64::from(node.compute) * noise / 1000) as u32;
        }
        prop_assert_eq!(grid.place().moves, vec![]);
    }
}
