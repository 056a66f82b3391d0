//! What the kernel says about a process: memory and CPU time, from /proc.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::error::{Failure, Result};

/// Ticks of /proc/PID/stat per second: `USER_HZ`, 100 on every Linux that Rust runs on.
const TICKS_PER_S: f64 = 100.0;

/// CPU time that a process spent, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Cpu {
    /// In its own code.
    pub(crate) user_s: f64,
    /// In the kernel on its behalf.
    pub(crate) system_s: f64,
}

impl Cpu {
    /// CPU time of all threads of `pid` so far, dead ones too.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let text = read(pid, "stat")?;
        parse_stat(&text).ok_or_else(|| Failure::said(format!("/proc/{pid}/stat is unreadable")))
    }

    /// CPU time of all processes that this one started and saw the end of.
    pub(crate) fn of_ended_children() -> Result<Self> {
        let text = read(std::process::id(), "stat")?;
        // They stand behind the process' own.
        parse_fields(&text, 13).ok_or_else(|| Failure::said("/proc/self/stat is unreadable"))
    }

    /// What was spent since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            user_s: self.user_s - before.user_s,
            system_s: self.system_s - before.system_s,
        }
    }

    /// In all.
    pub(crate) fn total_s(self) -> f64 {
        self.user_s + self.system_s
    }
}

/// The fields behind the name, which may hold anything: `utime` is the 14th of the line, 12 behind it.
fn parse_stat(text: &str) -> Option<Cpu> {
    parse_fields(text, 11)
}

fn parse_fields(text: &str, behind: usize) -> Option<Cpu> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(behind);
    let mut seconds = || Some(fields.next()?.parse::<f64>().ok()? / TICKS_PER_S);
    Some(Cpu {
        user_s: seconds()?,
        system_s: seconds()?,
    })
}

/// One line of /proc/PID/status that is given in kB, in bytes.
pub(crate) fn status_bytes(pid: u32, name: &str) -> Result<u64> {
    let text = read(pid, "status")?;
    parse_status(&text, name)
        .ok_or_else(|| Failure::said(format!("/proc/{pid}/status has no {name}")))
}

fn parse_status(text: &str, name: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kb: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kb * 1024)
}

fn read(pid: u32, name: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{name}");
    std::fs::read_to_string(&path).map_err(|e| Failure::Local {
        what: path,
        source: e,
    })
}

/// Memory of a process over a while.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    /// The kernel's own high-water mark of resident bytes.
    pub(crate) peak_bytes: u64,
    /// Most anonymous resident bytes that a sample met: heap and stacks, without mapped files.
    pub(crate) anonymous_bytes: u64,
}

/// Watches a process until asked for the result.
#[derive(Debug)]
pub(crate) struct Watch {
    pid: u32,
    anonymous: Arc<AtomicU64>,
    done: Arc<AtomicBool>,
    sampler: JoinHandle<()>,
}

impl Watch {
    /// Sets the high-water mark back to what is resident now, and begins.
    pub(crate) fn start(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/clear_refs");
        std::fs::write(&path, "5").map_err(|e| Failure::Local {
            what: path,
            source: e,
        })?;
        let anonymous = Arc::new(AtomicU64::new(0));
        let done = Arc::new(AtomicBool::new(false));
        let sampler = tokio::spawn({
            let (anonymous, done) = (Arc::clone(&anonymous), Arc::clone(&done));
            async move {
                // 20 samples a second cost the machine nothing; the peak itself comes from the kernel.
                let mut tick = tokio::time::interval(Duration::from_millis(50));
                while !done.load(Ordering::Relaxed) {
                    tick.tick().await;
                    let Ok(now) = status_bytes(pid, "RssAnon") else {
                        return;
                    };
                    anonymous.fetch_max(now, Ordering::Relaxed);
                }
            }
        });
        Ok(Self {
            pid,
            anonymous,
            done,
            sampler,
        })
    }

    /// What was seen.
    pub(crate) async fn stop(self) -> Result<Memory> {
        self.done.store(true, Ordering::Relaxed);
        let memory = Memory {
            peak_bytes: status_bytes(self.pid, "VmHWM")?,
            anonymous_bytes: 0,
        };
        // A sampler that failed saw nothing more; the kernel's figure stands.
        let _ended = self.sampler.await;
        Ok(Memory {
            anonymous_bytes: self.anonymous.load(Ordering::Relaxed),
            ..memory
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_a_name_with_spaces_and_brackets() {
        let text = "42 (a ) b) S 1 42 42 0 -1 4194560 1 2 3 4 250 50 9 9 20 0 3 0 100 0 0";
        assert_eq!(
            parse_stat(text),
            Some(Cpu {
                user_s: 2.5,
                system_s: 0.5
            })
        );
        assert_eq!(parse_stat("42"), None);
    }

    #[test]
    fn memory_is_given_in_bytes() {
        let text = "VmPeak:\t    9 kB\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n";
        assert_eq!(parse_status(text, "VmHWM"), Some(2 << 20));
        assert_eq!(parse_status(text, "Vm"), None);
    }

    #[tokio::test]
    async fn this_process_can_be_watched() {
        let watch = Watch::start(std::process::id()).unwrap();
        let memory = watch.stop().await.unwrap();
        assert!(memory.peak_bytes >= 1 << 20);
        assert!(Cpu::of(std::process::id()).unwrap().total_s() >= 0.0);
    }
}
