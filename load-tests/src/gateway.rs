//! A gateway of our own: started in an empty directory, asked for its metrics, stopped by SIGTERM.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, interval, timeout};

use crate::error::{Failure, Result};
use crate::http::{self, Ask};

/// How long a gateway may take to answer its port, and to stop.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running gateway; killed when dropped.
#[derive(Debug)]
pub(crate) struct Gateway {
    child: Child,
    directory: PathBuf,
    address: SocketAddr,
    organization: String,
    key: String,
}

/// The first line of `quickstart --json`.
#[derive(Debug, Deserialize)]
struct Ready {
    url: String,
    organization: String,
    service_account: ServiceAccount,
}

#[derive(Debug, Deserialize)]
struct ServiceAccount {
    client_secret: String,
}

impl Gateway {
    /// Starts `program` with an empty data directory below `directory`. `settings` are keys of the
    /// configuration: `uploads.part_budget`.
    ///
    /// # Errors
    /// When it does not say within a minute that its port answers.
    pub(crate) async fn start(
        program: &Path,
        directory: &Path,
        settings: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let directory = directory.join(format!("gateway-{}", std::process::id()));
        remove(&directory)?;
        std::fs::create_dir_all(&directory).map_err(|e| Failure::file(&directory, e))?;
        let log = directory.join("log");
        let log = File::create(&log).map_err(|e| Failure::file(&log, e))?;
        let mut child = Command::new(program)
            .arg("quickstart")
            .arg("--data-dir")
            .arg(directory.join("data"))
            .args(["--listen", "127.0.0.1:0", "--json"])
            .envs(settings.iter().map(|(key, value)| (variable(key), value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|e| Failure::file(program, e))?;
        let stdout = child.stdout.take().expect("standard output was asked for");
        // From here on the process is killed whatever happens.
        let mut gateway = Self {
            child,
            directory,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            organization: String::new(),
            key: String::new(),
        };
        let line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).map(|_| line)
        });
        let line = timeout(PATIENCE, line)
            .await
            .map_err(|_late| gateway.complaint("said nothing for a minute"))?
            .expect("reading a line does not panic")?;
        let ready: Ready = serde_json::from_str(&line)
            .map_err(|_other| gateway.complaint(&format!("began with {line:?}")))?;
        gateway.address = ready
            .url
            .strip_prefix("http://")
            .and_then(|address| address.trim_end_matches('/').parse().ok())
            .ok_or_else(|| gateway.complaint(&format!("listens on {:?}", ready.url)))?;
        gateway.organization = ready.organization;
        gateway.key = ready.service_account.client_secret;
        Ok(gateway)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A credential that may upload.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// Path of a box file.
    pub(crate) fn file_path(&self, name: &str, version: &str) -> String {
        format!(
            "/api/organization/{}/box/{name}/version/{version}/provider/virtualbox/architecture/amd64/file",
            self.organization
        )
    }

    /// Its metrics.
    ///
    /// # Errors
    /// When they are not answered with 200.
    pub(crate) async fn metrics(&self) -> Result<Metrics> {
        let ask = Ask {
            method: "GET",
            path: "/metrics",
            token: None,
        };
        let answer = http::get(self.address, ask).await?;
        if answer.status != 200 {
            return Err(self.complaint(&format!("answers {} to /metrics", answer.status)));
        }
        Ok(Metrics(String::from_utf8_lossy(&answer.body).into_owned()))
    }

    /// Waits until no upload is in progress. Returns how many are left after a minute.
    pub(crate) async fn quiet(&self) -> Result<f64> {
        let late = Instant::now() + PATIENCE;
        let mut tick = interval(Duration::from_millis(20));
        loop {
            tick.tick().await;
            let left = self.metrics().await?.sum("boxgate_uploads_in_progress", "");
            let left = left.ok_or_else(|| self.complaint("has no boxgate_uploads_in_progress"))?;
            if left <= 0.0 || Instant::now() > late {
                return Ok(left);
            }
        }
    }

    /// Asks it to stop, and removes its data. Returns whether it ended well within a minute.
    pub(crate) async fn stop(mut self) -> Result<bool> {
        let asked = Command::new("kill")
            .args(["-TERM", &self.pid().to_string()])
            .status();
        asked.map_err(|e| Failure::Local {
            what: "kill".into(),
            source: e,
        })?;
        let late = Instant::now() + PATIENCE;
        let mut tick = interval(Duration::from_millis(20));
        let status = loop {
            tick.tick().await;
            match self.child.try_wait()? {
                Some(status) => break Some(status),
                None if Instant::now() > late => break None,
                None => {}
            }
        };
        remove(&self.directory.join("data"))?;
        Ok(status.is_some_and(|status| status.success()))
    }

    fn complaint(&self, what: &str) -> Failure {
        Failure::said(format!(
            "the gateway {what} (its log: {}/log)",
            self.directory.display()
        ))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended already, which is just as well.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Prometheus' text.
#[derive(Debug)]
pub(crate) struct Metrics(String);

impl Metrics {
    /// Sum over all series of a metric whose labels hold `label`; `None` when there is no such metric.
    pub(crate) fn sum(&self, name: &str, label: &str) -> Option<f64> {
        let mut known = false;
        let mut sum = 0.0;
        for line in self.0.lines() {
            let Some(rest) = line.strip_prefix(name) else {
                continue;
            };
            let (labels, value) = match rest.strip_prefix('{').and_then(|r| r.rsplit_once('}')) {
                Some(split) => split,
                None if rest.starts_with(' ') => ("", rest),
                None => continue,
            };
            known = true;
            if labels.contains(label) {
                sum += value.split_ascii_whitespace().next()?.parse::<f64>().ok()?;
            }
        }
        known.then_some(sum)
    }
}

/// The variable of a key: `uploads.part_budget` is `BOXGATE_UPLOADS__PART_BUDGET`.
fn variable(key: &str) -> String {
    format!("BOXGATE_{}", key.to_ascii_uppercase().replace('.', "__"))
}

fn remove(directory: &Path) -> Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Failure::file(directory, e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_label() {
        let metrics = Metrics(
            "# TYPE up gauge\nup 2\nhits_total{status=\"2xx\"} 3\nhits_total{status=\"5xx\"} 1\nuptime 9\n".into(),
        );
        assert_eq!(metrics.sum("up", ""), Some(2.0));
        assert_eq!(metrics.sum("hits_total", "5xx"), Some(1.0));
        assert_eq!(metrics.sum("hits_total", ""), Some(4.0));
        assert_eq!(metrics.sum("hits_total", "404"), Some(0.0));
        assert_eq!(metrics.sum("nothing", ""), None);
    }

    #[test]
    fn a_key_becomes_its_variable() {
        assert_eq!(
            variable("uploads.part_budget"),
            "BOXGATE_UPLOADS__PART_BUDGET"
        );
    }
}
