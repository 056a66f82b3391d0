//! The call that runs on this thread: whose it is, and what host functions gather for it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rhai::EvalAltResult;
use serde::Serialize;
use serde_json::Value;

use crate::catalog::{Catalog, MAX_DEEDS};
use crate::error::{refusal, stopped, too_large};
use crate::event::{MAX_EVENTS, MAX_PURGES, Outbox};
use crate::facts::Context;
use crate::guard;
use crate::http::HttpClient;
use crate::kv::Store;
use crate::limits::{MAX_INPUT_BYTES, MAX_LOG_BYTES, MAX_LOG_LINES};
use crate::links::Links;
use crate::manifest::Manifest;
use crate::metric::Metrics;
use crate::unit::Scene;

/// What a plugin has beside its source: settings, secrets, and what outlives a reload.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) manifest: Manifest,
    /// The plugin's file that `main` is.
    pub(crate) main: String,
    pub(crate) secrets: BTreeMap<String, Arc<str>>,
    /// What signatures of webhooks that come in are compared with; no script reads them.
    pub(crate) inbound_secrets: BTreeMap<String, Arc<str>>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) settings: BTreeMap<String, Value>,
    pub(crate) kv: Arc<Store>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) http: Option<Arc<dyn HttpClient>>,
    pub(crate) http_reach: crate::http::Reach,
    pub(crate) outbox: Option<Arc<dyn Outbox>>,
    pub(crate) catalog: Option<Arc<dyn Catalog>>,
    pub(crate) links: Option<Arc<dyn Links>>,
}

/// How important a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

/// A line that a script wrote.
#[derive(Debug, Clone, Serialize)]
pub struct LogLine {
    /// How important.
    pub level: Level,
    /// Its text.
    pub message: String,
    /// Its fields.
    pub fields: Option<Value>,
}

/// What a call left behind.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    pub(crate) log: Vec<LogLine>,
    pub(crate) log_bytes: usize,
    pub(crate) log_dropped: usize,
    pub(crate) input_bytes: usize,
    pub(crate) http_calls: usize,
    pub(crate) events: usize,
    pub(crate) deeds: usize,
    pub(crate) purges: usize,
    pub(crate) depth: u32,
    pub(crate) causes: Vec<crate::facts::Text>,
    pub(crate) work: bool,
}

/// Whoever waits for a call; closed once nobody does.
pub(crate) type Waiting = tokio::sync::watch::Receiver<()>;

struct Running {
    host: Arc<Host>,
    gathered: Gathered,
    scene: Option<Arc<Scene>>,
    context: Option<Arc<Context>>,
}

thread_local! {
    // A unit test that calls a hook is a call within a call.
    static RUNNING: RefCell<Vec<Running>> = const { RefCell::new(Vec::new()) };
    // A thread of the work lane makes one call at a time.
    static CALLER: RefCell<Option<Waiting>> = const { RefCell::new(None) };
    static BAGGAGE: RefCell<Option<Arc<str>>> = const { RefCell::new(None) };
}

/// Ends the call when it is dropped, also by a panic.
pub(crate) struct Entered(usize);

impl Entered {
    pub(crate) fn new(host: &Arc<Host>, scene: Option<Arc<Scene>>, work: bool) -> Self {
        RUNNING.with_borrow_mut(|running| {
            running.push(Running {
                host: Arc::clone(host),
                gathered: Gathered {
                    work,
                    ..Gathered::default()
                },
                scene,
                context: None,
            });
            Self(running.len())
        })
    }

    /// What was gathered.
    pub(crate) fn finish(self) -> Gathered {
        let own = self.0 - 1;
        RUNNING.with_borrow_mut(|running| {
            running
                .get_mut(own)
                .map(|r| std::mem::take(&mut r.gathered))
                .unwrap_or_default()
        })
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let depth = self.0;
        RUNNING.with_borrow_mut(|running| running.truncate(depth - 1));
    }
}

type Refused = Box<EvalAltResult>;

/// The plugin that runs.
pub(crate) fn host() -> Result<Arc<Host>, Refused> {
    RUNNING.with_borrow(|running| {
        let last = running.last();
        last.map(|r| Arc::clone(&r.host))
            .ok_or_else(|| refusal("there is no call under way"))
    })
}

/// The unit test around the call, if it is one.
pub(crate) fn scene() -> Option<Arc<Scene>> {
    RUNNING.with_borrow(|running| running.iter().rev().find_map(|r| r.scene.clone()))
}

/// Notes who waits for the calls of this thread, and what their requests to outside carry along.
pub(crate) fn called_by(caller: Option<Waiting>, baggage: Option<Arc<str>>) {
    CALLER.with_borrow_mut(|waiting| *waiting = caller);
    BAGGAGE.with_borrow_mut(|carried| *carried = baggage);
}

/// What requests to outside carry along.
pub(crate) fn baggage() -> Option<Arc<str>> {
    BAGGAGE.with_borrow(Clone::clone)
}

/// Notes on whose behalf the call is.
pub(crate) fn note_context(context: &Arc<Context>) {
    RUNNING.with_borrow_mut(|running| {
        if let Some(last) = running.last_mut() {
            last.context = Some(Arc::clone(context));
        }
    });
}

/// On whose behalf the call is, where it is for somebody at a cloud.
pub(crate) fn context() -> Option<Arc<Context>> {
    RUNNING.with_borrow(|running| running.last().and_then(|r| r.context.clone()))
}

/// Who waits for the call, where that is known.
pub(crate) fn caller() -> Option<Waiting> {
    CALLER.with_borrow(Clone::clone)
}

/// Whether the call is on the work lane.
pub(crate) fn may_wait() -> bool {
    RUNNING.with_borrow(|running| running.last().is_some_and(|r| r.gathered.work))
}

/// Bytes of input that host functions go through in about the time of an operation.
const BYTES_AN_OPERATION: usize = 64;

/// Charges `bytes` of input to what hashes, encodings and patterns may take, and to the operations of the call.
pub(crate) fn charge(bytes: usize) -> Result<(), Refused> {
    if let Some(stop) = guard::labour((bytes / BYTES_AN_OPERATION) as u64) {
        return Err(stopped(stop));
    }
    RUNNING.with_borrow_mut(|running| {
        let Some(last) = running.last_mut() else {
            return Ok(());
        };
        let total = last.gathered.input_bytes.saturating_add(bytes);
        last.gathered.input_bytes = total;
        if total > MAX_INPUT_BYTES {
            return Err(too_large("Input of host functions"));
        }
        Ok(())
    })
}

/// Counts one request to outside against `most`.
pub(crate) fn count_http(most: usize) -> Result<(), Refused> {
    RUNNING.with_borrow_mut(|running| {
        let Some(last) = running.last_mut() else {
            return Ok(());
        };
        last.gathered.http_calls += 1;
        if last.gathered.http_calls > most {
            return Err(refusal(format!("one call may make {most} requests")));
        }
        Ok(())
    })
}

/// Notes which events and plugins led to the call.
pub(crate) fn note_cause(depth: u32, causes: &[crate::facts::Text]) {
    RUNNING.with_borrow_mut(|running| {
        if let Some(last) = running.last_mut() {
            last.gathered.depth = depth;
            last.gathered.causes = causes.to_vec();
        }
    });
}

/// Counts one event of the call; how many events and which plugins led to it.
pub(crate) fn count_event() -> Result<(u32, Vec<String>), Refused> {
    counted(|gathered| {
        gathered.events += 1;
        (gathered.events > MAX_EVENTS).then(|| format!("one call may emit {MAX_EVENTS} events"))
    })
}

/// Counts one deed of the call; how many events and which plugins led to it.
pub(crate) fn count_deed() -> Result<(u32, Vec<String>), Refused> {
    counted(|gathered| {
        gathered.deeds += 1;
        (gathered.deeds > MAX_DEEDS).then(|| format!("one call may use box:: {MAX_DEEDS} times"))
    })
}

/// Counts one purge of the call; how many events and which plugins led to it.
pub(crate) fn count_purge() -> Result<(u32, Vec<String>), Refused> {
    counted(|gathered| {
        gathered.purges += 1;
        (gathered.purges > MAX_PURGES).then(|| format!("one call may purge {MAX_PURGES} times"))
    })
}

/// Counts something that may not be done too often; `count` says so where it was.
fn counted(
    count: impl FnOnce(&mut Gathered) -> Option<String>,
) -> Result<(u32, Vec<String>), Refused> {
    RUNNING.with_borrow_mut(|running| {
        let Some(last) = running.last_mut() else {
            return Ok((0, Vec::new()));
        };
        let gathered = &mut last.gathered;
        if let Some(too_often) = count(gathered) {
            return Err(refusal(too_often));
        }
        let mut causes: Vec<String> = gathered.causes.iter().map(ToString::to_string).collect();
        causes.push(last.host.manifest.name.clone());
        Ok((gathered.depth, causes))
    })
}

/// Keeps a line, or counts it where there are too many.
pub(crate) fn log(line: LogLine) {
    RUNNING.with_borrow_mut(|running| {
        let Some(last) = running.last_mut() else {
            return;
        };
        let gathered = &mut last.gathered;
        let fields = line.fields.as_ref().map_or(0, |f| f.to_string().len());
        let bytes = line.message.len() + fields;
        if gathered.log.len() >= MAX_LOG_LINES || gathered.log_bytes + bytes > MAX_LOG_BYTES {
            gathered.log_dropped += 1;
            return;
        }
        gathered.log_bytes += bytes;
        gathered.log.push(line);
    });
}

/// The time in milliseconds since 1970; in a unit test the time of its scene.
pub(crate) fn now_ms() -> i64 {
    if let Some(scene) = scene() {
        return scene.now_ms();
    }
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
