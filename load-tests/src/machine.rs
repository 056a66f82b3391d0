//! Which machine, which file system and which commit a figure belongs to.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{Failure, Result};

/// What a figure depends on beside the program.
#[derive(Debug)]
pub(crate) struct Machine {
    /// One line: cores, memory, kernel, file system.
    pub(crate) line: String,
    /// Load of the last minute before the run: other work makes figures worse.
    pub(crate) load: String,
    /// Commit, with `+` when the tree had changes.
    pub(crate) commit: String,
}

impl Machine {
    /// Looks at this one; `directory` is on the file system that is measured.
    pub(crate) fn look(directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory).map_err(|e| Failure::file(directory, e))?;
        let model = line_of("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown CPU".into());
        let memory_kb: u64 = line_of("/proc/meminfo", "MemTotal")
            .and_then(|text| text.trim_end_matches(" kB").parse().ok())
            .unwrap_or(0);
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let kernel = said("uname", &["-r"]);
        let directory = directory.to_string_lossy();
        let file_system = said("stat", &["-f", "-c", "%T", &directory]);
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let changed = !said("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty();
        let commit = said("git", &["rev-parse", "--short=10", "HEAD"]);
        Ok(Self {
            line: format!(
                "{cores} x {model}, {} GiB, Linux {kernel}, {file_system}",
                memory_kb.div_ceil(1 << 20)
            ),
            load: load.split(' ').next().unwrap_or_default().to_owned(),
            commit: if changed {
                format!("{commit}+")
            } else {
                commit
            },
        })
    }
}

fn line_of(path: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// What a program prints; empty when it is missing or fails.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .stderr(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => String::new(),
    }
}
