//! What happens to grids in the field, one thing at a time, under load.

use std::collections::BTreeMap;

use grid_simulation::fault::{Fault, Plan};
use grid_simulation::history::Event;
use grid_simulation::scenario::{Report, Scenario, model, run};

/// Seeds of each scenario.
const SEEDS: std::ops::Range<u64> = 0..3;

fn under(nodes: usize, plan: &[(u64, Fault)]) -> Scenario {
    Scenario {
        plan: Plan::from(plan),
        safety: 15_000,
        ..Scenario::new(0, nodes)
    }
}

fn check(scenario: &Scenario) -> Vec<Report> {
    let reports = SEEDS.map(|seed| {
        let report = run(&Scenario {
            seed,
            ..scenario.clone()
        });
        report.check();
        report
    });
    reports.collect()
}

/// All that happens is planned: no request may fail either.
fn check_planned(nodes: usize, plan: &[(u64, Fault)]) -> Vec<Report> {
    check(&Scenario {
        only_planned: true,
        ..under(nodes, plan)
    })
}

#[test]
fn a_grid_without_faults_answers_everything() {
    let reports = check_planned(3, &[]);
    let answers = |report: &Report| {
        let mut all = report.history.iter();
        all.any(|record| matches!(record.event, Event::Outcome { result: Ok(()), .. }))
    };
    assert!(reports.iter().all(answers));
}

#[test]
fn nodes_that_join_cost_no_request() {
    check_planned(3, &[(1000, Fault::Join), (4000, Fault::Join)]);
}

#[test]
fn a_node_that_leaves_costs_no_request() {
    check_planned(4, &[(1000, Fault::Leave(3))]);
}

#[test]
fn nodes_that_leave_one_after_the_other_cost_no_request() {
    check_planned(5, &[(1000, Fault::Leave(4)), (3000, Fault::Leave(0))]);
}

#[test]
fn a_model_that_changes_is_served_throughout() {
    let change = Fault::Deploy {
        at: 1,
        model: model(2),
        revision: 1,
        replicas: 3,
    };
    check_planned(3, &[(1000, change)]);
}

#[test]
fn when_an_owner_crashes_under_load_others_take_over() {
    check(&under(3, &[(1000, Fault::Crash(1))]));
    check(&under(3, &[(1000, Fault::PowerCut(0))]));
}

#[test]
fn halves_of_a_grid_find_together_again() {
    check(&under(
        5,
        &[(1000, Fault::Partition(vec![0, 1])), (14_000, Fault::Heal)],
    ));
}

#[test]
fn a_node_that_stood_still_for_ten_seconds_goes_on() {
    check(&under(3, &[(1000, Fault::Freeze(1)), (11_000, Fault::Thaw(1))]));
}

#[test]
fn half_the_memory_is_enough_for_half_of_the_models() {
    check(&under(4, &[(1000, Fault::Budget(0, 12)), (2000, Fault::Budget(1, 50))]));
}

#[test]
fn memory_that_holds_not_all_is_never_passed() {
    let tight = Scenario {
        budget: 200 << 20,
        has_room: false,
        ..under(
            3,
            &[
                (1000, Fault::Crash(1)),
                (5000, Fault::Restart(1)),
                (6000, Fault::Budget(2, 50)),
            ],
        )
    };
    check(&tight);
}

#[test]
fn replicas_that_take_more_than_expected_are_refused_once_and_placed_elsewhere() {
    let surprising = |budget, has_room| Scenario {
        budget,
        has_room,
        surprise: 80,
        ..under(
            4,
            &[
                (1000, Fault::Budget(1, 50)),
                (9000, Fault::Crash(2)),
                (14_000, Fault::Restart(2)),
            ],
        )
    };
    check(&surprising(800 << 20, true));
    let mut refused = 0;
    for report in check(&surprising(180 << 20, false)) {
        let mut of_each = BTreeMap::new();
        for record in &report.history {
            if let Event::LoadFailed {
                node, content, reason, ..
            } = &record.event
                && reason.contains("what it takes")
            {
                *of_each.entry((node, content)).or_insert(0) += 1;
                refused += 1;
            }
        }
        // A node that was started anew may have forgotten.
        assert!(of_each.values().all(|times| *times <= 2), "{of_each:?}");
    }
    assert!(refused > 0, "nothing was surprising");
}

#[test]
fn nodes_are_restarted_one_after_the_other() {
    let restart = |node: usize| {
        let at = 5000 * node as u64;
        [(at, Fault::Crash(node)), (at + 500, Fault::Restart(node))]
    };
    check(&under(3, &[restart(0), restart(1), restart(2)].concat()));
}

#[test]
fn a_slow_disk_holds_up_nobody_else() {
    check_planned(4, &[(0, Fault::SlowDisk(1, 20)), (1000, Fault::Leave(3))]);
}

#[test]
fn loads_that_fail_are_tried_again() {
    check(&under(
        4,
        &[
            (0, Fault::FailLoads(1, 3)),
            (10, Fault::FailLoads(2, 2)),
            (1000, Fault::Crash(3)),
        ],
    ));
}

#[test]
fn a_clock_that_jumps_far_ahead_does_not_own_the_catalog() {
    let jump = [
        (1000, Fault::Skew(1, 3_600_000)),
        (
            2000,
            Fault::Deploy {
                at: 1,
                model: model(0),
                revision: 5,
                replicas: 1,
            },
        ),
        (8000, Fault::Skew(1, 0)),
    ];
    // What that node said can be taken by others an hour later only, so the grid cannot agree before.
    for seed in SEEDS {
        let report = run(&Scenario {
            seed,
            ..under(3, &jump)
        });
        let other: Vec<_> = report
            .violations
            .iter()
            .filter(|found| found.invariant != "convergence")
            .collect();
        assert!(other.is_empty(), "{report}");
    }
}
