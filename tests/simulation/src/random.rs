//! A scenario drawn from a seed.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::fault::{Fault, Plan};
use crate::scenario::{Model, Scenario, model};

/// Length of the safety phase, in milliseconds.
const SAFETY: u64 = 25_000;

/// A grid of 3 to 7 nodes to which up to ten things happen, mostly bad ones.
pub fn scenario(seed: u64) -> Scenario {
    // Not the stream that the simulation itself draws from.
    let mut rng = StdRng::seed_from_u64(seed ^ 0x05ee_d0ff_4a17);
    // Small grids are quick to run, and most that can go wrong goes wrong with four nodes.
    let nodes = [3, 3, 3, 4, 4, 5, 5, 7][rng.random_range(0..8)];
    let models = (0..rng.random_range(2..6)).map(|index| Model {
        id: model(index),
        bytes: rng.random_range(40..140) << 20,
        replicas: rng.random_range(1..4),
    });
    let models: Vec<Model> = models.collect();
    let mut plan = Plan::new();
    for _ in 0..rng.random_range(2..10) {
        let at = rng.random_range(0..SAFETY);
        let length = rng.random_range(500..12_000);
        let node = rng.random_range(0..nodes);
        let some = &models[rng.random_range(0..models.len())];
        match rng.random_range(0..17) {
            0 => plan.extend([
                (at, Fault::Loss(rng.random_range(0.05..0.5))),
                (at + length, Fault::Loss(0.0)),
            ]),
            1 => plan.extend([
                (at, Fault::Delay(rng.random_range(100..1500))),
                (at + length, Fault::Delay(20)),
            ]),
            2 | 3 => {
                let side = (0..nodes).filter(|_| rng.random_bool(0.4)).collect();
                plan.extend([(at, Fault::Partition(side)), (at + length, Fault::Heal)]);
            }
            4 | 5 => plan.extend([(at, Fault::Crash(node)), (at + length, Fault::Restart(node))]),
            6 => plan.extend([(at, Fault::PowerCut(node)), (at + length, Fault::Restart(node))]),
            7 => plan.extend([(at, Fault::Crash(node)), (at + 10, Fault::Restart(node))]),
            8 | 9 => plan.extend([(at, Fault::Freeze(node)), (at + length, Fault::Thaw(node))]),
            10 => plan.push((at, Fault::SlowDisk(node, rng.random_range(2..15)))),
            11 => plan.push((at, Fault::Skew(node, rng.random_range(-3000..3000)))),
            12 => plan.push((at, Fault::Budget(node, 50))),
            13 => plan.push((at, Fault::FailLoads(node, rng.random_range(1..3)))),
            14 => plan.push((at, Fault::Join)),
            15 => {
                let deployed = Fault::Deploy {
                    at: node,
                    model: some.id.clone(),
                    revision: rng.random_range(0..3),
                    replicas: rng.random_range(1..4),
                };
                plan.push((at, deployed));
            }
            _ => plan.push(match rng.random_bool(0.5) {
                // Two nodes stay, so that there is a grid.
                true if node >= 2 => (at, Fault::Leave(node)),
                _ => {
                    let model = some.id.clone();
                    (at, Fault::TakeBack { at: node, model })
                }
            }),
        }
    }
    plan.sort_by_key(|(at, _)| *at);
    Scenario {
        models,
        plan,
        ..Scenario::new(seed, nodes)
    }
}
