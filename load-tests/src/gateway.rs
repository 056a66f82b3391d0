//! A gateway of our own: started in a directory, asked for its metrics, ended in one way or another.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval, timeout};

use crate::error::{Failure, Result};
use crate::http::{self, Ask};
use crate::server::Server;

/// How long a gateway may take to answer its port, and to stop.
const PATIENCE: Duration = Duration::from_mins(1);

/// What is started, and where.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    /// The program under test.
    pub(crate) program: PathBuf,
    /// Its data directory.
    pub(crate) data: PathBuf,
    /// Where its log goes on.
    pub(crate) log: PathBuf,
    /// Keys of the configuration: `uploads.part_budget`.
    pub(crate) settings: BTreeMap<String, String>,
    /// A library that is loaded before all others.
    pub(crate) preload: Option<Preload>,
}

/// A library, and the variable that tells it what to do.
#[derive(Debug, Clone)]
pub(crate) struct Preload {
    /// Its file.
    pub(crate) library: PathBuf,
    /// Name and value.
    pub(crate) variable: (String, String),
}

/// A gateway that was started and did not yet say that its port answers; killed when dropped.
#[derive(Debug)]
pub(crate) struct Starting {
    child: Running,
    site: Site,
    begun: Instant,
    line: JoinHandle<std::io::Result<String>>,
}

/// A running gateway; killed when dropped.
#[derive(Debug)]
pub(crate) struct Gateway {
    child: Running,
    site: Site,
    address: SocketAddr,
    organization: String,
    key: String,
    admin: String,
    ready_after: Duration,
}

/// A process that does not outlive this.
#[derive(Debug)]
struct Running(Child);

/// The first line of `quickstart --json`.
#[derive(Debug, Deserialize)]
struct Ready {
    url: String,
    organization: String,
    admin: Admin,
    service_account: ServiceAccount,
}

#[derive(Debug, Deserialize)]
struct Admin {
    token: String,
}

#[derive(Debug, Deserialize)]
struct ServiceAccount {
    client_secret: String,
}

impl Site {
    /// Runs the program on the directory, with whatever is in it.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub(crate) fn start(&self) -> Result<Starting> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log: File = log.map_err(|e| Failure::file(&self.log, e))?;
        let mut command = Command::new(&self.program);
        command
            .arg("quickstart")
            .arg("--data-dir")
            .arg(&self.data)
            .args(["--listen", "127.0.0.1:0", "--json"])
            .envs(
                self.settings
                    .iter()
                    .map(|(key, value)| (variable(key), value)),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        if let Some(Preload { library, variable }) = &self.preload {
            command.env("LD_PRELOAD", library);
            command.env(&variable.0, &variable.1);
        }
        let begun = Instant::now();
        let child = command.spawn();
        let mut child = Running(child.map_err(|e| Failure::file(&self.program, e))?);
        let stdout = child
            .0
            .stdout
            .take()
            .expect("standard output was asked for");
        let line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).map(|_| line)
        });
        Ok(Starting {
            child,
            site: self.clone(),
            begun,
            line,
        })
    }
}

impl Site {
    /// What `boxgate fsck` finds wrong while no gateway runs here; nothing when all is right.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub(crate) async fn check(&self) -> Result<Option<String>> {
        let mut command = Command::new(&self.program);
        command.arg("fsck").arg("--data-dir").arg(&self.data);
        command.stdin(Stdio::null());
        let ran = tokio::task::spawn_blocking(move || command.output());
        let ran = ran.await.expect("running a program does not panic");
        let output = ran.map_err(|e| Failure::file(&self.program, e))?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        Ok((!output.status.success()).then_some(said))
    }
}

impl Starting {
    /// Waits until it answers.
    ///
    /// # Errors
    /// When it does not within a minute.
    pub(crate) async fn ready(self) -> Result<Gateway> {
        let Self {
            child,
            site,
            begun,
            line,
        } = self;
        let mut gateway = Gateway {
            child,
            site,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            organization: String::new(),
            key: String::new(),
            admin: String::new(),
            ready_after: Duration::ZERO,
        };
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
        gateway.admin = ready.admin.token;
        let mut tick = interval(Duration::from_millis(1));
        loop {
            tick.tick().await;
            let ask = Ask {
                method: "GET",
                path: "/readyz",
                token: None,
            };
            let answer = timeout(PATIENCE, http::get(gateway.address, ask)).await;
            let answer = answer.map_err(|_late| gateway.complaint("does not answer /readyz"))?;
            if answer.is_ok_and(|answer| answer.status == 200) {
                gateway.ready_after = begun.elapsed();
                return Ok(gateway);
            }
            if begun.elapsed() > PATIENCE {
                return Err(gateway.complaint("is not ready after a minute"));
            }
        }
    }

    /// Ends it by SIGKILL.
    ///
    /// # Errors
    /// When it had ended by itself.
    pub(crate) async fn kill(self) -> Result<()> {
        self.child.kill(&self.site.log).await
    }
}

impl Running {
    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let failed = |e: std::io::Error| Failure::Local {
            what: format!("signal to process {}", self.pid()),
            source: e,
        };
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
        kill_process(pid, signal).map_err(|e| failed(e.into()))
    }

    async fn kill(mut self, log: &Path) -> Result<()> {
        let by_itself = self.0.try_wait()?;
        self.0.kill()?;
        // Until the kernel is done with what its threads had begun.
        let ended = tokio::task::spawn_blocking(move || self.0.wait()).await;
        ended.expect("waiting for a process does not panic")?;
        match by_itself {
            None => Ok(()),
            Some(status) => Err(complaint(log, &format!("had ended by itself: {status}"))),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already, which is just as well.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
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
        let site = Site {
            program: program.to_owned(),
            data: directory.join("data"),
            log: directory.join("log"),
            settings: settings.clone(),
            preload: None,
        };
        site.start()?.ready().await
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Where it runs.
    pub(crate) fn site(&self) -> &Site {
        &self.site
    }

    /// From its start to its first good answer to `/readyz`.
    pub(crate) fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// The organization it was made with.
    pub(crate) fn organization(&self) -> &str {
        &self.organization
    }

    /// Stops it where it is: it keeps all that it has, and does nothing.
    ///
    /// # Errors
    /// When it is not there any more.
    pub(crate) fn freeze(&self) -> Result<()> {
        self.child.signal(Signal::STOP)
    }

    /// Ends it by SIGKILL.
    ///
    /// # Errors
    /// When it had ended by itself.
    pub(crate) async fn kill(self) -> Result<()> {
        self.child.kill(&self.site.log).await
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A credential that may upload.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// The credential of an administrator.
    pub(crate) fn admin(&self) -> &str {
        &self.admin
    }

    /// Path of a box file.
    pub(crate) fn file_path(&self, name: &str, version: &str) -> String {
        file_path(&self.organization, name, version)
    }

    /// Its metrics.
    ///
    /// # Errors
    /// When they are not answered with 200.
    pub(crate) async fn metrics(&self) -> Result<Metrics> {
        metrics(self.address).await
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

    /// Asks it to stop. Returns whether it ended well within a minute.
    pub(crate) async fn stop(mut self) -> Result<bool> {
        self.child.signal(Signal::TERM)?;
        let ended = self.ended(PATIENCE).await?;
        Ok(ended.is_some_and(|status| status.success()))
    }

    /// How it ended, if it does within that time.
    pub(crate) async fn ended(&mut self, within: Duration) -> Result<Option<ExitStatus>> {
        let late = Instant::now() + within;
        let mut tick = interval(Duration::from_millis(20));
        loop {
            tick.tick().await;
            match self.child.0.try_wait()? {
                None if Instant::now() <= late => {}
                status => return Ok(status),
            }
        }
    }

    fn complaint(&self, what: &str) -> Failure {
        complaint(&self.site.log, what)
    }
}

fn complaint(log: &Path, what: &str) -> Failure {
    Failure::said(format!("the gateway {what} (its log: {})", log.display()))
}

/// Path of a box file.
pub(crate) fn file_path(organization: &str, name: &str, version: &str) -> String {
    format!(
        "/api/organization/{organization}/box/{name}/version/{version}/provider/virtualbox/architecture/amd64/file"
    )
}

/// What a gateway tells of itself.
///
/// # Errors
/// When it is not answered with 200.
pub(crate) async fn metrics(server: impl Into<Server> + Send) -> Result<Metrics> {
    metrics_by(server, None).await
}

/// What a gateway tells of itself to who has that credential.
///
/// # Errors
/// When it is not answered with 200.
pub(crate) async fn metrics_by(
    server: impl Into<Server> + Send,
    token: Option<&str>,
) -> Result<Metrics> {
    let ask = Ask {
        method: "GET",
        path: "/metrics",
        token,
    };
    let answer = http::get(server, ask).await?;
    if answer.status != 200 {
        return Err(Failure::said(format!("/metrics: {}", answer.in_short())));
    }
    Ok(Metrics(String::from_utf8_lossy(&answer.body).into_owned()))
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
pub(crate) fn variable(key: &str) -> String {
    format!("BOXGATE_{}", key.to_ascii_uppercase().replace('.', "__"))
}

/// Removes a directory with all in it; one that is not there is success.
pub(crate) fn remove(directory: &Path) -> Result<()> {
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
