//! What is unloaded is returned.

use std::process::Command;

use super::samples::path_of;
use super::*;

/// Kilobytes of this process in memory; `None` where the system does not tell.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

/// In a process of its own, because the tests beside it allocate too.
#[test]
fn two_hundred_cycles_of_open_run_drop_leave_the_memory_flat() {
    let (_, module) = module_path!().split_once("::").unwrap();
    let alone = format!("{module}::cycles_in_a_process_of_their_own");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &alone, "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    let out = String::from_utf8_lossy(&output.stdout);
    eprintln!("{text}");
    assert!(output.status.success(), "{text}");
    assert!(out.contains("1 passed"), "the cycles did not run: {out}");
}

#[test]
#[ignore = "run by the test above"]
fn cycles_in_a_process_of_their_own() {
    for runtime in runtimes() {
        for name in ["credit_forest", "digits"] {
            let Some(path) = path_of(name) else { continue };
            let cycle = || {
                let Ok(model) = open(&*runtime, &path) else { return };
                run(&mut *instance(&*model), [example(&*model, 64)]).unwrap();
            };
            (0..50).for_each(|_| cycle());
            let Some(before) = resident() else { return };
            (0..200).for_each(|_| cycle());
            let grown = resident().unwrap_or(before).saturating_sub(before);
            let runtime = runtime.name();
            eprintln!("{runtime} {name}: {before} kB resident after 50 cycles, {grown} kB more after 250");
            // A leak of these 55 kB files alone would be 11,000.
            assert!(grown < 4096, "{runtime} {name}: grown by {grown} kB");
        }
    }
}
