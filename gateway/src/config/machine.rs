//! What the machine offers, as far as defaults depend on it: memory and open files.

use std::path::Path;

use rustix::process::{Resource, getrlimit};

/// The machine's measures that defaults are computed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Memory this process may use, in bytes: the smaller of RAM and the control group's limit.
    pub memory_bytes: u64,
    /// Open files allowed, once the soft limit is raised to the hard one.
    pub open_files: u64,
}

impl Machine {
    /// Asks the running system; what it does not tell counts as small.
    pub fn probe() -> Self {
        let ram = std::fs::read_to_string("/proc/meminfo")
            .ok()
            .and_then(|text| meminfo_total(&text))
            .unwrap_or(ASSUMED_MEMORY_BYTES);
        let group = std::fs::read_to_string("/proc/self/cgroup")
            .ok()
            .and_then(|text| group_limit(&text));
        let files = getrlimit(Resource::Nofile);
        Self {
            memory_bytes: group.map_or(ram, |limit| limit.min(ram)),
            open_files: files.maximum.or(files.current).unwrap_or(u64::MAX),
        }
    }
}

/// Where nothing can be read, the smallest machine worth running on.
const ASSUMED_MEMORY_BYTES: u64 = 1 << 30;

fn meminfo_total(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kib.checked_mul(1024)
}

/// The tightest `memory.max` from this process' control group (version 2) up to the root.
fn group_limit(text: &str) -> Option<u64> {
    let own = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let root = Path::new("/sys/fs/cgroup");
    Path::new(own)
        .ancestors()
        .filter_map(|group| std::fs::read_to_string(root.join(group).join("memory.max")).ok())
        .filter_map(|limit| limit.trim().parse().ok())
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_meminfo() {
        let text = "MemTotal:       24519312 kB\nMemFree: 1 kB\n";
        assert_eq!(meminfo_total(text), Some(24_519_312 * 1024));
        assert_eq!(meminfo_total("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn this_machine_has_memory_and_files() {
        let machine = Machine::probe();
        assert!(machine.memory_bytes > 0);
        assert!(machine.open_files > 0);
    }
}
