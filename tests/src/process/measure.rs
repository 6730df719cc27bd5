//! What a process uses, read from `/proc`.

use std::fs;
use std::io;
use std::time::Duration;

/// Memory and CPU time of a process.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Memory that is in RAM now.
    pub resident_bytes: u64,
    /// The most that ever was.
    pub peak_resident_bytes: u64,
    /// User and system time of all threads since the start, in steps of a clock tick (10 ms).
    pub cpu: Duration,
}

impl Usage {
    /// Reads what the process uses now.
    pub fn of(id: u32) -> io::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{id}/status"))?;
        let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
        Self::parse(&status, &stat, rustix::param::clock_ticks_per_second()).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("process {id} shows no memory: it has ended"),
            )
        })
    }

    fn parse(status: &str, stat: &str, ticks_per_second: u64) -> Option<Self> {
        let kibibytes = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        // The name, in brackets, may hold spaces and brackets itself. Behind it comes field 3; times are fields 14 and 15.
        let fields: Vec<&str> = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().collect();
        let ticks = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let cpu = (ticks(14)? + ticks(15)?) as f64 / ticks_per_second as f64;
        Some(Self {
            resident_bytes: kibibytes("VmRSS:")? * 1024,
            peak_resident_bytes: kibibytes("VmHWM:")? * 1024,
            cpu: Duration::from_secs_f64(cpu),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_shifts_no_field() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 1 0 1 1 1";
        let usage = Usage::parse(status, stat, 100).expect("the usage");
        assert_eq!(usage.resident_bytes, 1 << 20);
        assert_eq!(usage.peak_resident_bytes, 2 << 20);
        assert_eq!(usage.cpu, Duration::from_secs(2));
    }

    #[test]
    fn this_process_uses_something() {
        assert!(Usage::of(std::process::id()).is_ok_and(|usage| usage.resident_bytes > 0));
    }
}
