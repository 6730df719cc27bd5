//! A run that fails is run again by its seed.

use grid_simulation::{random, scenario};

#[test]
fn one_seed_makes_the_same_trace_byte_for_byte() {
    for seed in [3, 26] {
        let [first, second] = [(); 2].map(|()| scenario::run(&random::scenario(seed)).trace());
        assert!(first == second, "seed {seed} makes different traces");
        assert!(first.lines().count() > 500);
    }
}

#[test]
fn two_seeds_make_different_traces() {
    let [first, second] = [1, 2].map(|seed| scenario::run(&random::scenario(seed)).trace());
    assert!(first != second);
}

#[test]
fn the_same_grid_differs_by_the_seed_alone() {
    let [first, second] = [1, 2].map(|seed| scenario::run(&scenario::Scenario::new(seed, 3)).trace());
    assert!(first != second);
}
