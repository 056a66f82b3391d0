//! A gateway that somebody else started: what it is given has names of its own, and is taken away again.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, interval, timeout};

use crate::content::Content;
use crate::error::{Failure, Result};
use crate::gateway::{self, Metrics};
use crate::http::{self, Answer, Ask, Piece};
use crate::server::Server;

/// How long it may take to answer one small request.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long what it was given may take to be taken away.
const LEAVES_WITHIN: Duration = Duration::from_mins(5);
/// How long one that does not answer, as while it is started anew, is asked again to take something away.
const RETRIED_FOR: Duration = Duration::from_mins(1);
/// How often its process is looked at before and after a measurement: a balancer may send each request elsewhere.
const PROCESS_ASKED: usize = 3;
/// Why it has no figures of one process.
const SEVERAL: &str = "/metrics is answered by more than one process (process_start_time_seconds differs, or CPU time goes \
    back): several nodes behind one address, or a restart";
/// How often it is asked for its memory, which it tells only as it is at the moment. An answer costs it about a
/// millisecond.
const LOOKED_AT_EVERY: Duration = Duration::from_millis(500);
/// When its process started.
const STARTED: &str = "process_start_time_seconds";
/// How often it is asked whether it is ready, or answers again.
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
    /// Paths of uploads by tus that are not at their end.
    open: Arc<Mutex<BTreeSet<String>>>,
    /// Whether it answered an upload before it had computed SHA-256.
    defers: Arc<AtomicBool>,
    /// Whether more than one process told its figures.
    several: Arc<AtomicBool>,
}

/// What its process had spent at a moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spent {
    /// CPU seconds.
    pub(crate) cpu_s: f64,
    /// When the process started, in seconds since 1970; `None` where nobody tells.
    pub(crate) started_s: Option<f64>,
}

impl Spent {
    /// CPU seconds since `before`; `None` where that was another process.
    fn since(self, before: Self) -> Option<f64> {
        let spent = self.cpu_s - before.cpu_s;
        (self.started_s == before.started_s && spent >= 0.0).then_some(spent)
    }
}

/// What is asked for memory until it is stopped.
#[derive(Debug)]
pub(crate) struct Looking {
    most_bytes: Arc<AtomicU64>,
    several: Arc<AtomicBool>,
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
            open: Arc::default(),
            defers: Arc::default(),
            several: Arc::default(),
        }
    }

    /// The name there of a box of this run, which is taken away at the end.
    pub(crate) fn give(&self, short: &str) -> String {
        let name = self.name(short);
        self.boxes(|given| given.insert(name.clone()));
        name
    }

    /// A box of that name was surely never made there: nothing is to be taken away.
    pub(crate) fn never_made(&self, name: &str) {
        self.boxes(|given| given.remove(name));
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

    /// Why figures of its process are missing since that was asked last.
    pub(crate) fn saw_several(&self) -> Option<&'static str> {
        self.several
            .swap(false, Ordering::Relaxed)
            .then_some(SEVERAL)
    }

    /// An upload by tus began, whose path is ended should nobody come to its end.
    pub(crate) fn opened(&self, path: &str) {
        self.uploads(|open| open.insert(path.to_owned()));
    }

    /// It came to its end.
    pub(crate) fn closed(&self, path: &str) {
        self.uploads(|open| open.remove(path));
    }

    fn uploads<T>(&self, with: impl FnOnce(&mut BTreeSet<String>) -> T) -> T {
        with(&mut self.open.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn boxes<T>(&self, with: impl FnOnce(&mut BTreeSet<String>) -> T) -> T {
        with(&mut self.given.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes away one box. One that is not there is as good.
    ///
    /// # Errors
    /// When it stays.
    pub(crate) async fn take_away(&self, name: &str) -> Result<()> {
        gone(&self.delete(name).await?)?;
        self.boxes(|given| given.remove(name));
        Ok(())
    }

    async fn delete(&self, name: &str) -> Result<Answer> {
        let path = format!("/api/organization/{}/box/{name}", self.organization);
        self.ask("DELETE", &path).await
    }

    /// Ends an upload by tus (tus 1.0, "Termination").
    async fn give_up(&self, path: &str) -> Result<Answer> {
        let ask = Ask {
            method: "DELETE",
            path,
            token: Some(&self.token),
        };
        let piece = Piece {
            headers: &[("tus-resumable", "1.0.0".to_owned())],
            content: &Content::empty(),
            from: 0,
            to: 0,
            cut: None,
        };
        let sent = http::send(self.server.clone(), ask, &piece, |_, _| {});
        let answer = timeout(PATIENCE, sent).await;
        let answer = answer.map_err(|late| Failure::said(late.to_string()))??;
        answer.ok_or_else(|| Failure::said("no answer"))
    }

    /// Takes away all that it was given. What stays there, and why.
    pub(crate) async fn leave(&self) -> Vec<String> {
        let mut stays = Vec::new();
        let begun = Instant::now();
        let (late, patient) = (begun + LEAVES_WITHIN, begun + RETRIED_FOR);
        let left = || late.saturating_duration_since(Instant::now());
        let open: Vec<String> = self.uploads(|open| open.iter().cloned().collect());
        for path in open {
            let ended = timeout(left(), patiently(patient, || self.give_up(&path))).await;
            match taken(ended) {
                Ok(()) => self.closed(&path),
                Err(failure) => stays.push(format!("the upload {path} stays there: {failure}")),
            }
        }
        let given: Vec<String> = self.boxes(|given| given.iter().cloned().collect());
        for name in given {
            let ended = timeout(left(), patiently(patient, || self.delete(&name))).await;
            match taken(ended) {
                Ok(()) => {
                    self.boxes(|given| given.remove(&name));
                }
                Err(failure) => stays.push(self.stays(&name, &failure.to_string())),
            }
        }
        stays
    }

    fn stays(&self, name: &str, why: &str) -> String {
        format!("{}/{name} stays there: {why}", self.organization)
    }

    /// Does something with it, and takes away what it was given: also after a failure, and when a person or a
    /// program ends this one.
    ///
    /// # Errors
    /// Those of the work; what stays there.
    pub(crate) async fn during<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let done = tokio::select! {
            done = work => done,
            () = told_to_end() => Err(Failure::ToldToEnd),
        };
        let stays = tokio::select! {
            stays = self.leave() => stays,
            // By somebody who will not wait.
            () = told_to_end() => self.boxes(|given| {
                given.iter().map(|name| self.stays(name, "told to end again")).collect()
            }),
        };
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

    /// What its process spent so far.
    ///
    /// # Errors
    /// When it does not tell, or more than one process does.
    pub(crate) async fn spent(&self) -> Result<Spent> {
        let mut spent = self.told().await?;
        for _ in 1..PROCESS_ASKED {
            let next = self.told().await?;
            self.of_one(next, spent)?;
            spent = next;
        }
        Ok(spent)
    }

    /// CPU seconds that its process spent since then.
    ///
    /// # Errors
    /// When it does not tell, or more than one process did.
    pub(crate) async fn cpu_since(&self, before: Spent) -> Result<f64> {
        let now = self.told().await?;
        let cpu_s = self.of_one(now, before)?;
        for _ in 1..PROCESS_ASKED {
            self.of_one(self.told().await?, now)?;
        }
        Ok(cpu_s)
    }

    fn of_one(&self, now: Spent, before: Spent) -> Result<f64> {
        now.since(before).ok_or_else(|| {
            self.several.store(true, Ordering::Relaxed);
            Failure::said(SEVERAL)
        })
    }

    async fn told(&self) -> Result<Spent> {
        let metrics = self.metrics().await?;
        let cpu_s = metrics.sum("process_cpu_seconds_total", "");
        Ok(Spent {
            cpu_s: cpu_s
                .ok_or_else(|| Failure::said("/metrics: there is no process_cpu_seconds_total"))?,
            started_s: metrics.sum(STARTED, ""),
        })
    }

    /// When its process started, in seconds since 1970; `None` where it does not tell.
    pub(crate) async fn started_s(&self) -> Option<f64> {
        self.metrics().await.ok()?.sum(STARTED, "")
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
        let several = Arc::new(AtomicBool::new(false));
        let (deployed, most, other) = (self.clone(), Arc::clone(&most_bytes), Arc::clone(&several));
        let asking = tokio::spawn(async move {
            let mut tick = interval(LOOKED_AT_EVERY);
            let mut first = None;
            loop {
                tick.tick().await;
                // One that does not answer now may later.
                if let Ok(metrics) = deployed.metrics().await {
                    most.fetch_max(resident_bytes(&metrics), Ordering::Relaxed);
                    let started_s = metrics.sum(STARTED, "");
                    if *first.get_or_insert(started_s) != started_s {
                        other.store(true, Ordering::Relaxed);
                        deployed.several.store(true, Ordering::Relaxed);
                    }
                }
            }
        });
        Looking {
            most_bytes,
            several,
            asking,
        }
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
    /// The most bytes that it told; `None` where it told none, or more than one process did.
    pub(crate) fn stop(self) -> Option<u64> {
        let bytes = self.most_bytes.load(Ordering::Relaxed);
        (bytes > 0 && self.why().is_none()).then_some(bytes)
    }

    /// Why what was told meanwhile is of no one process.
    pub(crate) fn why(&self) -> Option<&'static str> {
        self.several.load(Ordering::Relaxed).then_some(SEVERAL)
    }
}

/// Asks until it is answered by somebody who means it, or until then.
async fn patiently<F>(until: Instant, ask: impl Fn() -> F) -> Result<Answer>
where
    F: Future<Output = Result<Answer>>,
{
    let mut tick = interval(ASKED_EVERY);
    loop {
        tick.tick().await;
        let answer = ask().await;
        let may_pass = match &answer {
            Ok(answer) => answer.status / 100 == 5 || answer.status == 429,
            Err(_unreachable) => true,
        };
        if !may_pass || Instant::now() >= until {
            return answer;
        }
    }
}

/// Whether it is there no more.
fn gone(answer: &Answer) -> Result<()> {
    if answer.status / 100 == 2 || matches!(answer.status, 404 | 410) {
        Ok(())
    } else {
        Err(Failure::said(answer.in_short()))
    }
}

fn taken(ended: std::result::Result<Result<Answer>, tokio::time::error::Elapsed>) -> Result<()> {
    let answer = ended.map_err(|late| Failure::said(late.to_string()))?;
    gone(&answer?)
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

/// Until SIGINT, SIGTERM, or SIGHUP unless that is passed over (`nohup`).
pub(crate) async fn told_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    // Before the first signal is listened for: that takes it out of those that are passed over.
    let hangs_up = *HANGS_UP.get_or_init(|| !is_passed_over(&own_status(), HANGUP));
    let both = [SignalKind::interrupt(), SignalKind::terminate()].map(signal);
    let [Ok(mut interrupt), Ok(mut terminate)] = both else {
        // They end the process as ever.
        return std::future::pending().await;
    };
    let mut hangup = hangs_up
        .then(|| signal(SignalKind::hangup()).ok())
        .flatten();
    let hung_up = async {
        match &mut hangup {
            Some(hangup) => hangup.recv().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hung_up => {}
    }
}

/// Number of SIGHUP.
const HANGUP: u32 = 1;
static HANGS_UP: OnceLock<bool> = OnceLock::new();

fn own_status() -> String {
    std::fs::read_to_string("/proc/self/status").unwrap_or_default()
}

/// Whether a process was started so that it passes over a signal, by its /proc/PID/status.
fn is_passed_over(status: &str, number: u32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (number - 1)) != 0)
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
        let spent = deployed.spent().await.unwrap();
        assert!((spent.cpu_s - 2.5).abs() < 1e-9);
        assert!(deployed.cpu_since(spent).await.unwrap().abs() < 1e-9);
        assert_eq!(deployed.saw_several(), None);
        assert_eq!(deployed.started_s().await, Some(9.0));
        assert_eq!(resident_bytes(&deployed.metrics().await.unwrap()), 7);
        let (hiding, _asked) = there(|_| "403 not for you");
        let failed = hiding.spent().await.unwrap_err().to_string();
        assert_eq!(failed, "/metrics: 403 not for you");
        assert_eq!(hiding.started_s().await, None);
    }

    #[tokio::test]
    async fn figures_of_two_processes_are_none() {
        static ASKED: AtomicU64 = AtomicU64::new(0);
        let (deployed, _asked) = there(|_| match ASKED.fetch_add(1, Ordering::Relaxed) % 2 {
            0 => "200 process_cpu_seconds_total 2.5\nprocess_start_time_seconds 9\n",
            _ => "200 process_cpu_seconds_total 7\nprocess_start_time_seconds 8\n",
        });
        let failed = deployed.spent().await.unwrap_err().to_string();
        assert_eq!(failed, SEVERAL);
        assert_eq!(deployed.saw_several(), Some(SEVERAL));
        // It is told once for each time that it was seen.
        assert_eq!(deployed.saw_several(), None);
    }

    #[test]
    fn cpu_time_counts_for_one_process_alone() {
        let at = |cpu_s, started_s| Spent { cpu_s, started_s };
        let before = at(2.0, Some(9.0));
        assert_eq!(at(5.0, Some(9.0)).since(before), Some(3.0));
        assert_eq!(at(5.0, Some(8.0)).since(before), None);
        assert_eq!(at(1.0, Some(9.0)).since(before), None);
        assert_eq!(at(5.0, None).since(before), None);
        assert_eq!(at(5.0, None).since(at(5.0, None)), Some(0.0));
    }

    #[tokio::test]
    async fn one_that_is_started_anew_is_asked_again_to_take_away() {
        static ASKED: AtomicU64 = AtomicU64::new(0);
        let (deployed, asked) = there(|_| match ASKED.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => "503 starting",
            _ => "200 {}",
        });
        deployed.give("a");
        assert_eq!(deployed.leave().await, Vec::<String>::new());
        assert_eq!(asked.lock().unwrap().len(), 3);
    }

    #[tokio::test]
    async fn an_upload_that_did_not_come_to_its_end_is_given_up() {
        let (deployed, asked) = there(|_| "204 ");
        deployed.opened("/files/a");
        deployed.opened("/files/b");
        deployed.closed("/files/a");
        assert_eq!(deployed.leave().await, Vec::<String>::new());
        assert_eq!(*asked.lock().unwrap(), ["DELETE /files/b HTTP/1.1"]);
    }

    #[test]
    fn a_signal_that_is_passed_over_is_seen_by_its_bit() {
        let status = |mask: &str| format!("Name:\tload-tests\nSigIgn:\t{mask}\nSigCgt:\t1\n");
        assert!(is_passed_over(&status("0000000000001001"), HANGUP));
        assert!(!is_passed_over(&status("0000000000001000"), HANGUP));
        assert!(!is_passed_over("", HANGUP));
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
