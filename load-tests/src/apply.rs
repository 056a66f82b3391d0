//! How settings come to a gateway that somebody else started: by a command of theirs.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::time::{Instant, interval};

use crate::deployed::Deployed;
use crate::error::{Failure, Result};
use crate::gateway::variable;
use crate::variants::Variant;

/// Lines of a command's output that are shown when it fails, and letters of each.
const LINES: usize = 5;
const LETTERS: usize = 300;

/// A command that has a gateway run by other settings.
#[derive(Debug)]
pub(crate) struct Apply {
    command: String,
    /// For the command and for `/readyz` together.
    within: Duration,
    /// Where the command's output goes.
    log: PathBuf,
    /// Which combination it has now; `None` where that is not known.
    in_force: Option<String>,
    /// Combinations for which no process was started anew.
    same_process: Vec<String>,
    /// Whether the gateway did not tell when its process started.
    is_unseen: bool,
}

impl Apply {
    /// The command, which may take so long until the gateway is ready. Its output goes to `log`.
    pub(crate) fn new(command: String, within: Duration, log: PathBuf) -> Self {
        Self {
            command,
            within,
            log,
            in_force: None,
            same_process: Vec::new(),
            is_unseen: false,
        }
    }

    /// Combinations that may never have been in force.
    pub(crate) fn same_process(&self) -> &[String] {
        &self.same_process
    }

    /// Has it run by these settings, and waits until it is ready.
    ///
    /// # Errors
    /// When the command fails or takes too long, with the last lines of its output; when the gateway is not ready.
    pub(crate) async fn apply(&mut self, variant: &Variant, deployed: &Deployed) -> Result<()> {
        let late = Instant::now() + self.within;
        let before = deployed.started_s().await;
        let was = self.in_force.take();
        self.run(variant, late).await?;
        let left = late.saturating_duration_since(Instant::now());
        deployed.ready(left).await?;
        self.in_force = Some(variant.name.clone());
        let after = deployed.started_s().await;
        self.is_unseen |= after.is_none();
        // One that has the combination already need not start anew for it.
        let is_same = before.is_some() && before == after && was.as_ref() != Some(&variant.name);
        if is_same && !self.same_process.contains(&variant.name) {
            self.same_process.push(variant.name.clone());
        }
        std::fs::remove_file(&self.log).map_err(|e| Failure::file(&self.log, e))
    }

    /// Which settings the gateway has now, for a person; `variants` are all that there are.
    pub(crate) fn told(&self, variants: &[Variant]) -> String {
        let in_force = variants
            .iter()
            .find(|variant| Some(&variant.name) == self.in_force.as_ref());
        let now = match in_force {
            Some(Variant { name, lines, .. }) if self.same_process.contains(name) => {
                format!(
                    "Given to --apply last, perhaps not in force ({name}):\n\n```toml\n{lines}```\n"
                )
            }
            Some(Variant { name, lines, .. }) => {
                format!("In force at the gateway now ({name}):\n\n```toml\n{lines}```\n")
            }
            None => "Which settings are in force at the gateway now is not known.\n".to_owned(),
        };
        let same = self.same_process.iter().map(|name| {
            format!(
                "- told: {name}: the process was not started anew (process_start_time_seconds is the same), so these \
                 settings may not be in force: --apply must start the gateway anew by them\n"
            )
        });
        let unseen = if self.is_unseen {
            "- told: the gateway does not tell its metrics to this machine and credential, so that --apply started it anew \
             cannot be seen\n"
        } else {
            ""
        };
        format!("{}{unseen}\n{now}", same.collect::<String>())
    }

    async fn run(&self, variant: &Variant, late: Instant) -> Result<()> {
        let opened = File::create(&self.log).and_then(|log| Ok((log.try_clone()?, log)));
        let (out, complaints) = opened.map_err(|e| Failure::file(&self.log, e))?;
        let variables = variant.settings.iter();
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(&self.command)
            // Ours. To a gateway that it starts, every such variable is a setting.
            .env_remove("BOXGATE_TOKEN")
            .env_remove("BOXGATE_TOOLS")
            .envs(variables.map(|(key, value)| (variable(key), value)))
            .stdin(Stdio::piped())
            // No pipes: a gateway that it starts may hold them for as long as it runs.
            .stdout(out)
            .stderr(complaints)
            .process_group(0);
        let child = command.spawn().map_err(|e| self.failed(&e.to_string()))?;
        let mut group = Group(child);
        if let Some(mut lines) = group.0.stdin.take() {
            // It may read the variables instead.
            let _unread = lines.write_all(variant.lines.as_bytes());
        }
        match group.ended(late).await? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(self.failed(&status.to_string())),
            None => Err(self.failed(&format!("did not end within {} s", self.within.as_secs()))),
        }
    }

    fn failed(&self, how: &str) -> Failure {
        let said = std::fs::read(&self.log).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = said.lines().collect();
        let last = &lines[lines.len().saturating_sub(LINES)..];
        let last = last.iter().map(|line| {
            let line: String = line.chars().take(LETTERS).collect();
            format!("\n    {line}")
        });
        Failure::said(format!(
            "--apply {:?}: {how}{}",
            self.command,
            last.collect::<String>()
        ))
    }
}

/// A command with all that it started; ended when dropped, unless it ended by itself.
struct Group(Child);

impl Group {
    /// How the command ended; `None` when it did not in time.
    async fn ended(&mut self, late: Instant) -> Result<Option<ExitStatus>> {
        let mut tick = interval(Duration::from_millis(20));
        loop {
            tick.tick().await;
            match self.0.try_wait()? {
                None if Instant::now() < late => {}
                status => return Ok(status),
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
            if let Some(pid) = pid {
                let _gone = kill_process_group(pid, Signal::KILL);
            }
            let _reaped = self.0.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::play::Options;

    fn variant() -> Variant {
        Variant {
            name: "cache.size=1GiB".to_owned(),
            settings: BTreeMap::from([("cache.size".to_owned(), "1GiB".to_owned())]),
            lines: "[cache]\nsize = \"1GiB\"\n".to_owned(),
            options: Options {
                gateway: PathBuf::from("boxgate"),
                directory: PathBuf::from("."),
                deployed: None,
            },
        }
    }

    /// A command with a directory of its own, in whose file `out` it writes what it names `OUT`.
    fn apply(name: &str, command: &str, within: Duration) -> (Apply, PathBuf) {
        let directory = std::env::temp_dir().join(format!("apply-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let command = command.replace("OUT", &directory.join("out").display().to_string());
        let apply = Apply::new(command, within, directory.join("log"));
        (apply, directory)
    }

    /// Runs it; what came of it, and what is in `out`.
    async fn ran(name: &str, command: &str, within: Duration) -> (Result<()>, String) {
        let (apply, directory) = apply(name, command, within);
        let ran = apply.run(&variant(), Instant::now() + within).await;
        let out = std::fs::read_to_string(directory.join("out")).unwrap_or_default();
        std::fs::remove_dir_all(&directory).unwrap();
        (ran, out)
    }

    fn pid(text: &str) -> Option<Pid> {
        Pid::from_raw(text.strip_suffix('\n')?.parse().ok()?)
    }

    #[tokio::test]
    async fn a_command_gets_the_lines_and_the_variables() {
        let command = "cat > OUT; echo $BOXGATE_CACHE__SIZE ${BOXGATE_TOKEN-none} >> OUT";
        let (ran, out) = ran("lines", command, Duration::from_mins(1)).await;
        ran.unwrap();
        assert_eq!(out, "[cache]\nsize = \"1GiB\"\n1GiB none\n");
    }

    #[tokio::test]
    async fn one_that_starts_what_stays_is_not_waited_for_longer_than_itself() {
        let command = "sleep 600 & echo $! > OUT";
        let (ran, out) = ran("stays", command, Duration::from_mins(1)).await;
        ran.unwrap();
        // It is there still.
        rustix::process::kill_process(pid(&out).unwrap(), Signal::KILL).unwrap();
    }

    #[tokio::test]
    async fn one_that_fails_is_told_with_the_last_lines_of_its_output() {
        let command = "for n in 1 2 3 4 5 6 7; do echo line $n; done; exit 3";
        let (ran, _) = ran("fails", command, Duration::from_mins(1)).await;
        let failed = ran.unwrap_err().to_string();
        assert!(failed.contains("exit status: 3\n    line 3\n"), "{failed}");
        assert!(failed.ends_with("    line 7"), "{failed}");
    }

    #[tokio::test]
    async fn one_that_does_not_end_in_time_is_said() {
        let (ran, _) = ran("late", "sleep 600", Duration::ZERO).await;
        let failed = ran.unwrap_err().to_string();
        assert!(failed.contains("did not end within 0 s"), "{failed}");
    }

    #[tokio::test]
    async fn one_that_is_given_up_is_ended_with_what_it_started() {
        let within = Duration::from_mins(1);
        let (apply, directory) = apply("given-up", "sleep 600 & echo $! > OUT; wait", within);
        let out = directory.join("out");
        let mut tick = interval(Duration::from_millis(5));
        let started = async {
            loop {
                tick.tick().await;
                let text = std::fs::read_to_string(&out).unwrap_or_default();
                if let Some(pid) = pid(&text) {
                    return pid;
                }
            }
        };
        let played = variant();
        let started = tokio::select! {
            ran = apply.run(&played, Instant::now() + within) => panic!("it ended: {ran:?}"),
            pid = started => pid,
        };
        let stat = format!("/proc/{}/stat", started.as_raw_nonzero());
        let gone = async {
            let mut tick = interval(Duration::from_millis(5));
            // Who takes in orphans here may leave it for dead.
            while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
                tick.tick().await;
            }
        };
        tokio::time::timeout(within, gone).await.unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn what_is_in_force_is_told_and_what_is_not_known_is_said() {
        let command = String::new();
        let mut apply = Apply::new(command, Duration::ZERO, PathBuf::new());
        let variants = [variant()];
        assert!(apply.told(&variants).contains("is not known"));
        apply.in_force = Some(variants[0].name.clone());
        let told = apply.told(&variants);
        assert!(
            told.contains("now (cache.size=1GiB):\n\n```toml\n[cache]\nsize = \"1GiB\"\n```"),
            "{told}"
        );
        apply.same_process.push(variants[0].name.clone());
        apply.is_unseen = true;
        let told = apply.told(&variants);
        assert!(
            told.contains("told: cache.size=1GiB: the process was not started anew"),
            "{told}"
        );
        assert!(told.contains("perhaps not in force"), "{told}");
        assert!(!told.contains("In force"), "{told}");
        assert!(told.contains("cannot be seen"), "{told}");
    }
}
