//! One call: on this thread for the fast lane, on a thread of its own within the permits for the work lane.

use std::sync::Arc;
use std::time::Duration;

use rhai::{Dynamic, EvalAltResult};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use crate::api::answer::{is_failure, thrown};
use crate::call::{Entered, LogLine, called_by, note_cause, note_context};
use crate::error::{Failure, Fault};
use crate::facts::{Context, Event};
use crate::guard::{Guard, Usage};
use crate::hook::{Hook, Lane};
use crate::limits::CLOUD_BYTES;
use crate::panics;
use crate::plugin::Plugin;
use crate::set::now;
use crate::threads::Threads;
use crate::unit::Scene;

/// A call that ended.
#[derive(Debug)]
pub(crate) struct Called {
    /// What it returned.
    pub(crate) answer: Result<Dynamic, Failure>,
    /// What it used.
    pub(crate) usage: Usage,
    /// What it wrote.
    pub(crate) log: Vec<LogLine>,
    /// Lines that were too many.
    pub(crate) log_dropped: usize,
    /// How long it waited for a worker, where it had to have one.
    pub(crate) queued: Option<Duration>,
}

impl Called {
    pub(crate) fn failed(failure: Failure) -> Self {
        Self {
            answer: Err(failure),
            usage: Usage::default(),
            log: Vec::new(),
            log_dropped: 0,
            queued: None,
        }
    }
}

/// Calls a function on this thread.
pub(crate) fn call(
    plugin: &Plugin,
    function: &str,
    arguments: Vec<Dynamic>,
    (lane, deadline): (Lane, Duration),
    scene: Option<&Arc<Scene>>,
) -> Called {
    let (engine, limits) = plugin.engine(lane);
    let main = plugin.host.main.as_str();
    let Some(body) = plugin.bodies.get(function) else {
        let text = format!("the plugin defines no {function}");
        return Called::failed(Failure::new(Fault::Error, main, text));
    };
    let host = scene.map_or(&plugin.host, |scene| &scene.host);
    let entered = Entered::new(&Arc::clone(host), scene.cloned(), lane == Lane::Work);
    let context = arguments
        .first()
        .and_then(Dynamic::read_lock::<Arc<Context>>)
        .map(|context| Arc::clone(&context));
    if let Some(context) = &context {
        note_context(context);
    }
    if let Some(event) = arguments.first().and_then(Dynamic::read_lock::<Arc<Event>>) {
        note_cause(event.depth + 1, &event.causes);
    }
    let mut limits = *limits;
    if Hook::by_name(function).is_some_and(Hook::asks_a_cloud) {
        limits.memory_bytes = limits.memory_bytes.min(CLOUD_BYTES);
    }
    let guard = Guard::begin(&limits, deadline, plugin.live);
    // A panic of the interpreter or of a host function is that call's failure and no more.
    let done = panics::catch(|| body.run(engine, arguments));
    let usage = guard.usage();
    let stopped = guard.stopped();
    drop(guard);
    let mut gathered = entered.finish();
    let text_of = |file: &str| plugin.bundle.files.get(file).cloned();
    let was_stopped =
        |error: &EvalAltResult| matches!(error.unwrap_inner(), EvalAltResult::ErrorTerminated(..));
    let mut answer = match (done, stopped) {
        // Whatever the script made of it.
        (Ok(Ok(_)), Some(stop)) => {
            Err(Failure::of_stop(stop, main).at_least((main, body.last), text_of))
        }
        (Ok(Err(error)), Some(stop)) if !was_stopped(&error) => {
            let failure = Failure::of(&error, main, text_of).stopped(stop);
            Err(failure.at_least((main, body.last), text_of))
        }
        (Ok(Ok(value)), None) => returned(Hook::by_name(function), value)
            .map_err(|wrong| Failure::new(Fault::Error, main, wrong)),
        (Ok(Err(error)), _) => thrown(&error).ok_or_else(|| {
            Failure::of(&error, main, text_of).at_least((main, body.begin), text_of)
        }),
        (Err(panicked), _) => {
            let failure = Failure::new(Fault::Panic, main, panicked.text(function));
            let at = panicked.called.unwrap_or(body.begin);
            Err(failure.at_least((main, at), text_of))
        }
    };
    if let Some(context) = &context {
        if let Err(failure) = &mut answer {
            context.mask_failure(failure);
        }
        for line in &mut gathered.log {
            line.message = context.masked(&line.message).into_owned();
            if let Some(fields) = &mut line.fields {
                context.mask(fields);
            }
        }
    }
    Called {
        answer,
        usage,
        log: gathered.log,
        log_dropped: gathered.log_dropped,
        queued: None,
    }
}

/// What a function returned, where it was to return something. A script's last value is returned, meant or not: what
/// `verify` returns must be meant, for all but a failure are good credentials.
fn returned(hook: Option<Hook>, value: Dynamic) -> Result<Dynamic, &'static str> {
    let is_told = value.is_unit() || is_failure(&value);
    match hook {
        Some(Hook::Verify) if !is_told => Err(
            "verify(ctx) returns () for good credentials, fail(..) for bad ones, and nothing else",
        ),
        Some(hook) if hook.returns_nothing() && !is_told => Ok(Dynamic::UNIT),
        _ => Ok(value),
    }
}

/// The permits of the work lane.
#[derive(Debug)]
pub(crate) struct Workers {
    all: Pool,
    clouds: Pool,
    queue: Duration,
    threads: Threads,
}

/// Permits of one kind.
#[derive(Debug)]
struct Pool {
    permits: Arc<Semaphore>,
    per_plugin: usize,
}

impl Pool {
    fn new(permits: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(permits)),
            per_plugin: (permits / 2).max(1),
        }
    }

    fn share(&self) -> Arc<Semaphore> {
        Arc::new(Semaphore::new(self.per_plugin))
    }
}

/// The permits of one plugin: at most half of all.
#[derive(Debug, Clone)]
pub(crate) struct Share {
    all: Arc<Semaphore>,
    clouds: Arc<Semaphore>,
}

impl Workers {
    /// As many calls at once as `workers`, and beside them as many as `clouds` that ask a cloud.
    pub(crate) fn new((workers, clouds): (usize, usize), queue: Duration) -> Self {
        Self {
            all: Pool::new(workers),
            clouds: Pool::new(clouds),
            queue,
            threads: Threads::default(),
        }
    }

    pub(crate) fn share(&self) -> Share {
        Share {
            all: self.all.share(),
            clouds: self.clouds.share(),
        }
    }

    async fn permits(
        &self,
        share: &Share,
        (hook, patient): (Hook, bool),
    ) -> Option<[OwnedSemaphorePermit; 2]> {
        let (own, all) = if hook.asks_a_cloud() {
            (&share.clouds, &self.clouds)
        } else {
            (&share.all, &self.all)
        };
        let both = async {
            let own = Arc::clone(own).acquire_owned().await.ok()?;
            let one = Arc::clone(&all.permits).acquire_owned().await.ok()?;
            Some([own, one])
        };
        if patient {
            return both.await;
        }
        tokio::time::timeout(self.queue, both).await.ok().flatten()
    }

    /// Calls a hook on a thread of its own; its permits are held until it ends there, whoever waits for it.
    pub(crate) async fn call(
        &self,
        plugin: &Arc<Plugin>,
        share: &Share,
        (hook, patient): (Hook, bool),
        arguments: Vec<Dynamic>,
    ) -> Called {
        let main = plugin.host.main.as_str();
        let deadline = plugin.manifest().deadline(hook);
        let asked = now();
        let permits = self.permits(share, (hook, patient)).await;
        let queued = Some(now().saturating_duration_since(asked));
        let waited = |called: Called| Called { queued, ..called };
        let Some(permits) = permits else {
            let text = format!(
                "no worker was free within {:?} (scripts.queue_wait)",
                self.queue
            );
            return waited(Called::failed(Failure::new(Fault::Queue, main, text)));
        };
        let (sender, receiver) = oneshot::channel();
        // Dropped with this future: what the script waits for outside is given up then.
        let (_waits, waiting) = watch::channel(());
        let own = Arc::clone(plugin);
        let baggage = plugin.host.http.as_ref().and_then(|http| http.baggage());
        let begun = self.threads.run(Box::new(move || {
            called_by(Some(waiting), baggage);
            let called = call(&own, hook.name(), arguments, (Lane::Work, deadline), None);
            called_by(None, None);
            // Whoever waited may be gone.
            drop(sender.send(called));
            drop(permits);
        }));
        if let Err(e) = begun {
            return Called::failed(Failure::new(Fault::Queue, main, format!("no thread: {e}")));
        }
        // A host function may end a little after the deadline; one that does not is given up, its permits are not.
        waited(match tokio::time::timeout(deadline * 2, receiver).await {
            Ok(Ok(called)) => called,
            Ok(Err(_)) => Called::failed(Failure::new(Fault::Panic, main, "its thread ended")),
            Err(_) => Called::failed(Failure::new(
                Fault::Deadline,
                main,
                "a host function did not return in time",
            )),
        })
    }
}
