use super::*;
use proptest::prelude::*;

fn entry(wall: u64, node: u8, deployed: bool) -> Entry {
    let node = format!("n{node}").parse().unwrap();
    Entry {
        stamp: Stamp { wall, counter: 0, node },
        // A node says one thing with one stamp.
        deployment: deployed.then(|| Deployment {
            content: Digest::of(&wall.to_le_bytes()),
            size: wall,
            memory: 2 * wall,
            replicas: ReplicaCount::Exactly(2),
            weight: 1,
        }),
    }
}

fn id(model: u8) -> ModelId {
    ModelId {
        name: format!("m{model}").parse().unwrap(),
        version: 1,
    }
}

type Said = (u8, u64, u8);

fn catalog(said: impl IntoIterator<Item = Said>) -> Catalog {
    let mut catalog = Catalog::default();
    for (model, wall, node) in said {
        catalog.merge(id(model), entry(wall, node, wall % 3 != 0));
    }
    catalog
}

fn content(catalog: &Catalog) -> Vec<(ModelId, Entry)> {
    catalog
        .entries()
        .map(|(id, entry)| (id.clone(), entry.clone()))
        .collect()
}

proptest! {
    #[test]
    fn whatever_order_it_comes_in_and_however_often_all_copies_become_the_same(
        said in prop::collection::vec((0u8..5, 0u64..20, 0u8..3), 0..40),
        order in any::<prop::sample::Index>(),
    ) {
        let first = catalog(said.iter().copied());
        let mut turned = said.clone();
        let by = if said.is_empty() { 0 } else { order.index(said.len()) };
        turned.rotate_left(by);
        turned.reverse();
        let second = catalog(turned.into_iter().chain(said));
        prop_assert_eq!(content(&first), content(&second));
        prop_assert_eq!(first.digest(), second.digest());
    }

    #[test]
    fn what_differs_is_all_that_another_copy_needs(
        one in prop::collection::vec((0u8..40, 0u64..20, 0u8..3), 0..60),
        other in prop::collection::vec((0u8..40, 0u64..20, 0u8..3), 0..60),
    ) {
        let (mut one, mut other) = (catalog(one), catalog(other));
        for (id, entry) in one.differing(other.buckets()) {
            other.merge(id, entry);
        }
        for (id, entry) in other.differing(one.buckets()) {
            one.merge(id, entry);
        }
        prop_assert_eq!(content(&one), content(&other));
        prop_assert_eq!(one.digest(), other.digest());
        prop_assert!(one.differing(other.buckets()).is_empty());
    }

    #[test]
    fn a_clock_never_stamps_below_what_it_made_or_saw(
        events in prop::collection::vec((0u64..200_000, prop::option::of((0u64..200_000, 0u32..5))), 1..60),
    ) {
        let mut clock = Clock::new("a".parse().unwrap());
        let mut highest = (0, 0);
        for (wall, seen) in events {
            if let Some((of_other, counter)) = seen {
                let stamp = Stamp { wall: of_other, counter, node: "b".parse().unwrap() };
                let taken = clock.observe(&stamp, wall);
                prop_assert_eq!(taken.is_ok(), of_other <= wall + MAX_AHEAD);
                if taken.is_ok() {
                    highest = highest.max((of_other, counter));
                }
            }
            let stamp = clock.stamp(wall);
            prop_assert!((stamp.wall, stamp.counter) > highest);
            highest = (stamp.wall, stamp.counter);
        }
    }
}

#[test]
fn a_tombstone_keeps_an_older_entry_out_until_it_is_forgotten() {
    let mut catalog = Catalog::default();
    catalog.merge(id(1), entry(10, 0, false));
    assert!(!catalog.merge(id(1), entry(9, 0, true)));
    catalog.forget_old(10 + HORIZON);
    assert!(catalog.get(&id(1)).is_some());
    catalog.forget_old(11 + HORIZON);
    assert!(catalog.get(&id(1)).is_none());
    assert_eq!(catalog.digest(), Catalog::default().digest());
}
