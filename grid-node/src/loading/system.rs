//! What the machine, or the container, gives this process.

use std::fs;
use std::path::Path;

use grid_core::config::NodeConfig;

/// Resident memory of this process that is not of files: what it has allocated and touched. 0 where the system does not
/// tell. The first load in a process touches a runtime's code, megabytes that are no model's.
pub fn allocated_bytes() -> u64 {
    let read = || {
        let text = fs::read_to_string("/proc/self/statm").ok()?;
        let mut fields = text.split_whitespace().skip(1).map(str::parse::<u64>);
        let (all, of_files) = (fields.next()?.ok()?, fields.next()?.ok()?);
        Some(all.saturating_sub(of_files) * rustix::param::page_size() as u64)
    };
    read().unwrap_or(0)
}

/// Bounds what glibc's allocator keeps of freed memory, for a process that is a node. To be called before threads start.
///
/// Without this the thresholds grow with the largest block that was ever freed, and each thread's arena keeps that much:
/// after unloads of a 23 MB model a node was left anywhere between 35 and 83 MiB. Large enough for the bodies of usual
/// requests, so that these do not cost system calls.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
pub fn bound_kept_memory() {
    const KEPT: libc::c_int = 4 << 20;
    // SAFETY: mallopt takes two integers; no other thread allocates yet, as the caller promises.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
    }
}

/// Bounds what the allocator keeps of freed memory: here nothing needs to be done.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn bound_kept_memory() {}

/// Lets the calling thread run only when no other wants its core: the scheduling policy `SCHED_IDLE`.
///
/// # Errors
/// When the system refuses.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
pub(super) fn run_when_idle() -> std::io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the pointer is to a value that outlives the call; 0 is the calling thread.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Lets the calling thread run only when no other wants its core: not known here.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub(super) fn run_when_idle() -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Gives memory that was freed back to the system, where the allocator keeps it otherwise.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
pub fn return_free_memory() {
    // SAFETY: malloc_trim takes no pointer and may be called from any thread at any time (MT-Safe in glibc's manual).
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Gives memory that was freed back to the system: here the allocator does so itself.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn return_free_memory() {}

/// The memory that this process may use: the tightest limit of its cgroup and those above it, else the machine's
/// memory. `None` where neither is told.
pub fn memory_limit() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    });
    let group = cgroup_values("memory.max", "memory.limit_in_bytes")
        .filter_map(|text| text.trim().parse::<u64>().ok())
        .min();
    [machine, group].into_iter().flatten().min()
}

/// The cores that this process may use: what its affinity and its cgroup's quota allow, at least one.
pub fn available_cores() -> usize {
    // The standard library looks at both affinity and quota.
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Compute threads of a node, the one for short runs not counted: what is configured, else one for each core.
pub fn compute_threads(config: &NodeConfig) -> usize {
    config.compute.threads.unwrap_or_else(available_cores)
}

/// The contents of a control file in this process's cgroup and all above it: the version 2 name where it is mounted,
/// else the version 1 name of the memory controller.
fn cgroup_values(v2: &str, v1: &str) -> impl Iterator<Item = String> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", v2),
            "memory" => ("/sys/fs/cgroup/memory", v1),
            _ => continue,
        };
        for folder in Path::new(path.trim_start_matches('/')).ancestors() {
            files.push(Path::new(root).join(folder).join(file));
        }
    }
    files.into_iter().filter_map(|file| fs::read_to_string(file).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_a_limit_and_cores() {
        let allocated = allocated_bytes();
        assert!(allocated > 100 << 10, "{allocated}");
        assert!(memory_limit().is_some_and(|limit| limit > allocated));
        assert!(available_cores() > 0);
    }
}
