//! A gateway that somebody else started: what it is given has names of its own, and is taken away again.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, interval, timeout};

use crate::error::{Failure, Result};
use crate::gateway::{self, Metrics};
use crate::http::{self, Ask};
use crate::server::Server;

/// How long it may take to answer one small request.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long what it was given may take to be taken away.
const LEAVES_WITHIN: Duration = Duration::from_mins(5);
/// How often it is asked for its memory, which it tells only as it is at the moment. An answer costs it about a
/// millisecond.
const LOOKED_AT_EVERY: Duration = Duration::from_millis(500);
/// How often it is asked whether it is ready.
const ASKED_EVERY: Duration = Duration::from_millis(100);

/// A gateway that somebody else started.
#[derive(Debug, Clone)]
pub(crate) struct Deployed {
    /// Where it is.
    pub(crate) server: Server,
    /// A credential that may upload to the organization, and take away what it uploaded.
    pub(crate) token: String,
    /// Where boxes are put.
    pub(crate) organization: String,
    /// Begins the names of all boxes of this run: nobody else's box may be taken for one of them, and taken away.
    run: Arc<str>,
    /// Boxes that it was given.
    given: Arc<Mutex<BTreeSet<String>>>,
    /// Whether it answered an upload before it had computed SHA-256.
    defers: Arc<AtomicBool>,
}

/// What is asked for memory until it is stopped.
#[derive(Debug)]
pub(crate) struct Looking {
    most_bytes: Arc<AtomicU64>,
    asking: JoinHandle<()>,
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.asking.abort();
    }
}

impl Deployed {
    /// One there, in whose organization boxes may be made.
    pub(crate) fn new(server: Server, token: String, organization: String) -> Self {
        Self {
            server,
            token,
            organization,
            run: format!("load-{:08x}", fastrand::u32(..)).into(),
            given: Arc::default(),
            defers: Arc::default(),
        }
    }

    /// The name there of a box of this run, which is taken away at the end.
    pub(crate) fn give(&self, short: &str) -> String {
        let name = self.name(short);
        self.boxes(|given| given.insert(name.clone()));
        name
    }

    /// The name there of a box of this run.
    pub(crate) fn name(&self, short: &str) -> String {
        format!("{}-{short}", self.run)
    }

    /// What it told of an upload had no SHA-256.
    pub(crate) fn saw_deferred(&self) {
        self.defers.store(true, Ordering::Relaxed);
    }

    /// Whether that was seen.
    pub(crate) fn defers(&self) -> bool {
        self.defers.load(Ordering::Relaxed)
    }

    fn boxes<T>(&self, with: impl FnOnce(&mut BTreeSet<String>) -> T) -> T {
        with(&mut self.given.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes away one box. One that is not there is as good.
    ///
    /// # Errors
    /// When it stays.
    pub(crate) async fn take_away(&self, name: &str) -> Result<()> {
        let path = format!("/api/organization/{}/box/{name}", self.organization);
        let answer = self.ask("DELETE", &path).await?;
        if answer.status / 100 != 2 && answer.status != 404 {
            return Err(Failure::said(answer.in_short()));
        }
        self.boxes(|given| given.remove(name));
        Ok(())
    }

    /// Takes away all that it was given. What stays there, and why.
    pub(crate) async fn leave(&self) -> Vec<String> {
        let mut stays = Vec::new();
        let late = Instant::now() + LEAVES_WITHIN;
        let given: Vec<String> = self.boxes(|given| given.iter().cloned().collect());
        for name in given {
            let left = late.saturating_duration_since(Instant::now());
            let taken = timeout(left, self.take_away(&name)).await;
            let taken = taken.unwrap_or_else(|late| Err(Failure::said(late.to_string())));
            if let Err(failure) = taken {
                stays.push(format!(
                    "{}/{name} stays there: {failure}",
                    self.organization
                ));
            }
        }
        stays
    }

    /// Does something with it, and takes away what it was given: also after a failure, and when a person or a
    /// program ends this one.
    ///
    /// # Errors
    /// Those of the work; what stays there.
    pub(crate) async fn during<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let done = tokio::select! {
            done = work => done,
            () = told_to_end() => Err(Failure::said("told to end")),
        };
        let stays = self.leave().await;
        if stays.is_empty() {
            return done;
        }
        let first = done.err().map(|failure| failure.to_string());
        let all: Vec<String> = first.into_iter().chain(stays).collect();
        Err(Failure::said(all.join("\n")))
    }

    /// Its metrics.
    ///
    /// # Errors
    /// When it does not tell them to this machine and credential.
    pub(crate) async fn metrics(&self) -> Result<Metrics> {
        let asked = gateway::metrics_by(self.server.clone(), Some(&self.token));
        let metrics = timeout(PATIENCE, asked);
        metrics
            .await
            .map_err(|late| Failure::said(format!("/metrics: {late}")))?
    }

    /// CPU seconds that it spent so far.
    ///
    /// # Errors
    /// When it does not tell.
    pub(crate) async fn cpu_s(&self) -> Result<f64> {
        let told = self.metrics().await?.sum("process_cpu_seconds_total", "");
        told.ok_or_else(|| Failure::said("/metrics: there is no process_cpu_seconds_total"))
    }

    /// When its process started, in seconds since 1970; `None` where it does not tell.
    pub(crate) async fn started_s(&self) -> Option<f64> {
        self.metrics()
            .await
            .ok()?
            .sum("process_start_time_seconds", "")
    }

    /// Its version; `None` where it does not tell.
    pub(crate) async fn version(&self) -> Option<String> {
        let answer = self.ask("GET", "/api/status").await.ok()?;
        let told: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
        Some(told.get("version")?.as_str()?.to_owned())
    }

    /// Asks for its memory again and again from now on.
    pub(crate) fn look(&self) -> Looking {
        let most_bytes = Arc::new(AtomicU64::new(0));
        let (deployed, most) = (self.clone(), Arc::clone(&most_bytes));
        let asking = tokio::spawn(async move {
            let mut tick = interval(LOOKED_AT_EVERY);
            loop {
                tick.tick().await;
                // One that does not answer now may later.
                if let Ok(metrics) = deployed.metrics().await {
                    most.fetch_max(resident_bytes(&metrics), Ordering::Relaxed);
                }
            }
        });
        Looking { most_bytes, asking }
    }

    /// Waits until `/readyz` answers 200.
    ///
    /// # Errors
    /// When it does not within that time: its last answer.
    pub(crate) async fn ready(&self, within: Duration) -> Result<()> {
        let late = Instant::now() + within;
        let mut tick = interval(ASKED_EVERY);
        loop {
            tick.tick().await;
            let left = late.saturating_duration_since(Instant::now());
            let said = match timeout(left, self.ask("GET", "/readyz")).await {
                Ok(Ok(answer)) if answer.status == 200 => return Ok(()),
                Ok(Ok(answer)) => answer.in_short(),
                Ok(Err(failure)) => failure.to_string(),
                Err(_late) => "no answer".to_owned(),
            };
            if Instant::now() >= late {
                let (url, within) = (self.server.url(), within.as_secs());
                return Err(Failure::said(format!(
                    "{url}/readyz does not answer 200 within {within} s: {said}"
                )));
            }
        }
    }

    async fn ask(&self, method: &str, path: &str) -> Result<http::Answer> {
        let ask = Ask {
            method,
            path,
            token: Some(&self.token),
        };
        let answer = timeout(PATIENCE, http::get(self.server.clone(), ask)).await;
        answer.map_err(|late| Failure::said(format!("{method} {path}: {late}")))?
    }
}

impl Looking {
    /// The most bytes that it told; `None` where it told none.
    pub(crate) fn stop(self) -> Option<u64> {
        Some(self.most_bytes.load(Ordering::Relaxed)).filter(|bytes| *bytes > 0)
    }
}

fn resident_bytes(metrics: &Metrics) -> u64 {
    let told = metrics.sum("process_resident_memory_bytes", "");
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bytes of memory fit"
    )]
    let bytes = told.unwrap_or_default() as u64;
    bytes
}

/// Until SIGINT or SIGTERM.
async fn told_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let both = [SignalKind::interrupt(), SignalKind::terminate()].map(signal);
    let [Ok(mut interrupt), Ok(mut terminate)] = both else {
        // They end the process as ever.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    /// Answers each request by its first line; what was asked for is told in order.
    fn serving(answers: fn(&str) -> &'static str) -> (Server, Arc<Mutex<Vec<String>>>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut seen = Vec::new();
                let mut byte = [0];
                while !seen.ends_with(b"\r\n\r\n") {
                    stream.read_exact(&mut byte).unwrap();
                    seen.push(byte[0]);
                }
                let text = String::from_utf8(seen).unwrap();
                let line = text.lines().next().unwrap().to_owned();
                let (status, body) = answers(&line).split_once(' ').unwrap();
                told.lock().unwrap().push(line);
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        (address.into(), asked)
    }

    fn there(answers: fn(&str) -> &'static str) -> (Deployed, Arc<Mutex<Vec<String>>>) {
        let (server, asked) = serving(answers);
        let deployed = Deployed::new(server, "key".to_owned(), "acme".to_owned());
        (deployed, asked)
    }

    #[tokio::test]
    async fn what_was_given_is_taken_away_also_after_a_failure_and_nothing_else() {
        let (deployed, asked) = there(|_| "200 {}");
        let given = [deployed.give("a"), deployed.give("b")];
        let kept = deployed.give("c");
        deployed.take_away(&kept).await.unwrap();
        asked.lock().unwrap().clear();
        let work = async { Err::<(), _>(Failure::said("broken")) };
        let failed = deployed.during(work).await.unwrap_err();
        assert_eq!(failed.to_string(), "broken");
        let wanted = given.map(|name| format!("DELETE /api/organization/acme/box/{name} HTTP/1.1"));
        assert_eq!(*asked.lock().unwrap(), wanted);
    }

    #[tokio::test]
    async fn what_stays_there_is_said_beside_the_failure() {
        let (deployed, _asked) = there(|_| "403 no");
        let name = deployed.give("a");
        let work = async { Err::<(), _>(Failure::said("broken")) };
        let failed = deployed.during(work).await.unwrap_err().to_string();
        assert_eq!(failed, format!("broken\nacme/{name} stays there: 403 no"));
        let failed = deployed.during(async { Ok(()) }).await.unwrap_err();
        assert!(failed.to_string().contains("stays there"), "{failed}");
    }

    #[tokio::test]
    async fn two_runs_never_share_a_name() {
        let (one, _asked) = there(|_| "200 {}");
        let (other, _asked) = there(|_| "200 {}");
        assert_ne!(one.name("a"), other.name("a"));
    }

    #[tokio::test]
    async fn figures_are_those_that_it_tells() {
        let (deployed, _asked) = there(
            |_| "200 process_cpu_seconds_total 2.5\nprocess_resident_memory_bytes 7\nprocess_start_time_seconds 9\n",
        );
        assert!((deployed.cpu_s().await.unwrap() - 2.5).abs() < 1e-9);
        assert_eq!(deployed.started_s().await, Some(9.0));
        assert_eq!(resident_bytes(&deployed.metrics().await.unwrap()), 7);
        let (hiding, _asked) = there(|_| "403 not for you");
        let failed = hiding.cpu_s().await.unwrap_err().to_string();
        assert_eq!(failed, "/metrics: 403 not for you");
        assert_eq!(hiding.started_s().await, None);
    }

    #[tokio::test]
    async fn one_that_is_not_ready_is_waited_for_and_not_for_ever() {
        let (deployed, _asked) = there(|_| "503 starting");
        let failed = deployed.ready(Duration::ZERO).await.unwrap_err();
        assert!(
            failed
                .to_string()
                .contains("does not answer 200 within 0 s"),
            "{failed}"
        );
        let (deployed, _asked) = there(|_| "200 {}");
        deployed.ready(Duration::from_mins(1)).await.unwrap();
    }
}
