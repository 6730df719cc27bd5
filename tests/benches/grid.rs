//! What a grid's callers notice of what happens to it, and what the grid costs when nothing does. All of real processes on
//! this machine, with the quickstart's small models.
//!
//! - `moves`: an open loop at 30 % of what the grid was measured to do, before and while a node joins, leaves, all are
//!   restarted one after the other, and one has its memory halved: requests that failed, and the ratio of the 99th
//!   percentiles. Callers, nodes and whatever loads share the machine's cores, so a ratio here is an upper bound.
//! - `kills`: nodes are killed and frozen under the same load, and with sequences under way: requests that failed, how long
//!   after it the other nodes answered for every model again, and how long sequences were away.
//! - `nothing`: the same as `moves` with nothing happening: what the ratio is worth.
//! - `idle`: CPU time of each node of a grid that nobody calls, as a share of one core.
//!
//! `cargo bench -p grid-tests --bench grid -- [SECONDS [KILLS [idle|nothing|moves|kills]]]`; 20 seconds a phase, 5 kills, all.

use std::error::Error;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use grid_tests::grid::{
    Beds, BedsReport, Callers, CallersOptions, CallersReport, Grid, MODELS, copy_model, question, repository_of,
};

const BINARY: &str = env!("CARGO_BIN_EXE_grid-node-under-test");

/// Callers of the open loops, and of the loop that measures the capacity.
const CALLERS: usize = 32;
/// Share of the capacity that the open loops ask for.
const SHARE: f64 = 0.3;
/// Sequences under way, and the time between an output and the next message of each.
const BEDS: usize = 16;
const PACE: Duration = Duration::from_millis(20);
/// How long the capacity is measured.
const MEASURED: Duration = Duration::from_secs(5);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let seconds = arguments.first().map_or(Ok(20.0), |text| text.parse())?;
    let kills = arguments.get(1).map_or(Ok(5), |text| text.parse())?;
    let only = arguments.get(2).map_or("", String::as_str);
    let phase = Duration::from_secs_f64(seconds);
    let repository = repository_of(&MODELS);
    copy_model("vitals", &repository.path().join("vitals"));
    let mut grid = Grid::of(BINARY, &["a", "b", "c"], repository.path());
    if "idle".contains(only) {
        idle(&mut grid, phase)?;
    }
    let capacity = Callers::start(grid.callers(CALLERS, &MODELS));
    thread::sleep(MEASURED / 5);
    capacity.take();
    thread::sleep(MEASURED);
    let capacity = capacity.stop().per_second;
    println!(
        "capacity: {capacity:.0} requests a second; open loops ask for {:.0}",
        capacity * SHARE
    );
    let per_second = Some(capacity * SHARE);
    if "nothing".contains(only) {
        let three = grid.addresses();
        compare(&mut grid, "nothing", three, phase, per_second, |_| {});
    }
    if "moves".contains(only) {
        moves(&mut grid, phase, per_second, repository.path());
    }
    if "kills".contains(only) {
        break_nodes(&mut grid, kills, per_second);
    }
    Ok(())
}

fn idle(grid: &mut Grid, phase: Duration) -> Result<(), Box<dyn Error>> {
    // What follows a start has ended.
    thread::sleep(Duration::from_secs(5));
    let mut cpu = Vec::new();
    for place in 0..grid.nodes().len() {
        cpu.push(grid.node(place).process().usage()?.cpu);
    }
    thread::sleep(phase);
    for (place, before) in cpu.into_iter().enumerate() {
        let usage = grid.node(place).process().usage()?;
        let share = (usage.cpu - before).as_secs_f64() / phase.as_secs_f64();
        let resident = usage.resident_bytes >> 20;
        println!(
            "idle: node {} takes {:.2} % of a core, {resident} MiB",
            grid.nodes()[place].name(),
            share * 100.0
        );
    }
    Ok(())
}

/// Calls before something happens, and while it does.
fn compare(
    grid: &mut Grid,
    what: &str,
    nodes: Vec<SocketAddr>,
    phase: Duration,
    per_second: Option<f64>,
    happens: impl FnOnce(&mut Grid),
) {
    let callers = Callers::start(CallersOptions {
        nodes,
        per_second,
        ..grid.callers(CALLERS, &MODELS)
    });
    thread::sleep(Duration::from_secs(2));
    callers.take();
    thread::sleep(phase);
    let before = callers.take();
    let begun = Instant::now();
    happens(grid);
    grid.rests();
    let rested = begun.elapsed();
    thread::sleep(phase.saturating_sub(rested));
    let during = callers.stop();
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    println!(
        "{what:<16} {:>6} requests, {} + {} failed | p99 {:>7.2} ms before, {:>7.2} ms during, ratio {:>5.2} | longest {:>7.1} and {:>7.1} ms | at rest after {:.1} s",
        before.requests + during.requests,
        before.failed,
        during.failed,
        ms(before.p99),
        ms(during.p99),
        ms(during.p99) / ms(before.p99),
        ms(before.max),
        ms(during.max),
        rested.as_secs_f64(),
    );
    show_failures(&before);
    show_failures(&during);
}

fn show_failures(report: &CallersReport) {
    for failure in &report.failures {
        println!("  failed: {failure}");
    }
}

fn moves(grid: &mut Grid, phase: Duration, per_second: Option<f64>, repository: &std::path::Path) {
    let three = grid.addresses();
    let d = grid.plan("d", repository);
    compare(grid, "join", three.clone(), phase, per_second, |grid| grid.start(d));
    let four = grid.addresses();
    compare(grid, "leave", four, phase, per_second, |grid| grid.node(d).stop());
    compare(grid, "rolling restart", three.clone(), phase, per_second, |grid| {
        for place in 0..3 {
            grid.node(place).stop();
            grid.start(place);
            grid.rests();
        }
    });
    let status = grid.rests();
    let used = |place: &usize| {
        status
            .node(grid.nodes()[*place].name())
            .map_or(0, |node| node.memory_used)
    };
    let fullest = (0..3).max_by_key(used).unwrap_or_default();
    let half = used(&fullest) / 2;
    compare(grid, "capacity halved", three, phase, per_second, |grid| {
        grid.nodes()[fullest].post("/v2/grid/capacity", &format!("{{\"memory\": {half}}}"));
    });
    // As it was configured.
    grid.node(fullest).reload();
}

/// How long until every other node has answered for every model.
fn answered_everywhere(grid: &Grid, but: usize) -> Duration {
    let begun = Instant::now();
    thread::scope(|scope| {
        let others = grid
            .addresses()
            .into_iter()
            .take(3)
            .enumerate()
            .filter(|(place, _)| *place != but);
        for (_, node) in others {
            for model in MODELS {
                scope.spawn(move || while question(model).ask(node, Duration::from_secs(10)).is_err() {});
            }
        }
    });
    begun.elapsed()
}

fn break_nodes(grid: &mut Grid, kills: usize, per_second: Option<f64>) {
    let three: Vec<SocketAddr> = grid.addresses().into_iter().take(3).collect();
    let mut tally = Tally::default();
    let beds = Beds::start(three.clone(), BEDS, PACE);
    for kill in 0..kills {
        let place = kill % 3;
        let callers = Callers::start(CallersOptions {
            nodes: three.clone(),
            per_second,
            ..grid.callers(CALLERS, &MODELS)
        });
        thread::sleep(Duration::from_secs(2));
        callers.take();
        grid.node(place).kill();
        let answered = answered_everywhere(grid, place);
        let begun = Instant::now();
        grid.rests();
        let rested = begun.elapsed();
        let report = callers.stop();
        println!(
            "kill {}: {} of {} requests failed, {} sent again, longest {:?}; answered everywhere after {answered:?}; replicas back after {rested:?}",
            grid.nodes()[place].name(),
            report.failed,
            report.requests,
            report.resent,
            report.max,
        );
        show_failures(&report);
        tally.requests += report.requests;
        tally.failed += report.failed;
        tally.answered.push(answered);
        tally.longest.push(report.max);
        grid.start(place);
        grid.rests();
    }
    println!(
        "{kills} kills: {} of {} requests failed; answered everywhere after {}; longest request {}",
        tally.failed,
        tally.requests,
        spread(&mut tally.answered),
        spread(&mut tally.longest),
    );
    show_beds("kills", beds.take());
    for place in 0..3 {
        let others: Vec<SocketAddr> = (0..3)
            .filter(|other| *other != place)
            .map(|other| three[other])
            .collect();
        let callers = Callers::start(CallersOptions {
            nodes: others,
            per_second,
            ..grid.callers(CALLERS, &MODELS)
        });
        thread::sleep(Duration::from_secs(2));
        callers.take();
        grid.node(place).process().freeze().expect("a signal");
        thread::sleep(Duration::from_secs(5));
        let report = callers.take();
        grid.node(place).process().resume().expect("a signal");
        grid.rests();
        println!(
            "freeze {}: {} of {} requests of the others' callers failed, routed around within {:?} (p99 {:?})",
            grid.nodes()[place].name(),
            report.failed,
            report.requests,
            report.max,
            report.p99,
        );
        show_failures(&report);
    }
    show_beds("freezes", beds.stop());
}

/// What all kills together came to.
#[derive(Default)]
struct Tally {
    requests: u64,
    failed: u64,
    answered: Vec<Duration>,
    longest: Vec<Duration>,
}

/// The median and the longest.
fn spread(durations: &mut [Duration]) -> String {
    durations.sort_unstable();
    match (durations.get(durations.len() / 2), durations.last()) {
        (Some(median), Some(longest)) => format!("{median:.1?} (median), {longest:.1?} (longest)"),
        _ => "no time".to_owned(),
    }
}

fn show_beds(what: &str, mut report: BedsReport) {
    println!(
        "{what}: {} outputs of sequences, {} wrong, {} computed again; {} times a sequence went on elsewhere, away for {}",
        report.outputs,
        report.wrong.len(),
        report.again,
        report.gaps.len(),
        spread(&mut report.gaps),
    );
    for wrong in &report.wrong {
        println!("  wrong: {wrong}");
    }
}
