//! One call: on this thread for the fast lane, on a thread of its own within the permits for the work lane.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use rhai::{CallFnOptions, Dynamic, Scope};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use crate::call::{Entered, LogLine, called_by, note_cause};
use crate::error::{Failure, Fault};
use crate::facts::Event;
use crate::guard::{Guard, Usage};
use crate::hook::{Hook, Lane};
use crate::limits::STACK_BYTES;
use crate::plugin::Plugin;
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
}

impl Called {
    pub(crate) fn failed(failure: Failure) -> Self {
        Self {
            answer: Err(failure),
            usage: Usage::default(),
            log: Vec::new(),
            log_dropped: 0,
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
    let host = scene.map_or(&plugin.host, |scene| &scene.host);
    let entered = Entered::new(&Arc::clone(host), scene.cloned(), lane == Lane::Work);
    if let Some(event) = arguments.first().and_then(Dynamic::read_lock::<Arc<Event>>) {
        note_cause(event.depth + 1, &event.causes);
    }
    let guard = Guard::begin(limits, deadline, plugin.live);
    // A panic of the interpreter or of a host function is that call's failure and no more.
    let done = catch_unwind(AssertUnwindSafe(|| {
        let mut scope = Scope::new();
        let options = CallFnOptions::new().eval_ast(false).rewind_scope(true);
        engine.call_fn_with_options::<Dynamic>(
            options,
            &mut scope,
            &plugin.ast,
            function,
            arguments,
        )
    }));
    let usage = guard.usage();
    drop(guard);
    let gathered = entered.finish();
    let answer = match done {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Failure::of(&error, main, |file| {
            plugin.bundle.files.get(file).cloned()
        })),
        Err(_panic) => Err(Failure::new(
            Fault::Panic,
            main,
            format!("{function} panicked"),
        )),
    };
    Called {
        answer,
        usage,
        log: gathered.log,
        log_dropped: gathered.log_dropped,
    }
}

/// The permits of the work lane.
#[derive(Debug)]
pub(crate) struct Workers {
    all: Arc<Semaphore>,
    per_plugin: usize,
    queue: Duration,
}

/// The permits of one plugin: at most half of all.
pub(crate) type Share = Arc<Semaphore>;

impl Workers {
    pub(crate) fn new(workers: usize, queue: Duration) -> Self {
        Self {
            all: Arc::new(Semaphore::new(workers)),
            per_plugin: (workers / 2).max(1),
            queue,
        }
    }

    pub(crate) fn share(&self) -> Share {
        Arc::new(Semaphore::new(self.per_plugin))
    }

    async fn permits(&self, share: &Share, patient: bool) -> Option<[OwnedSemaphorePermit; 2]> {
        let both = async {
            let own = Arc::clone(share).acquire_owned().await.ok()?;
            let one = Arc::clone(&self.all).acquire_owned().await.ok()?;
            Some([own, one])
        };
        if patient {
            return both.await;
        }
        tokio::time::timeout(self.queue, both).await.ok().flatten()
    }

    /// Calls a hook on a thread of its own; its permits are held until that thread ends, whoever waits for it.
    pub(crate) async fn call(
        &self,
        plugin: &Arc<Plugin>,
        share: &Share,
        (hook, patient): (Hook, bool),
        arguments: Vec<Dynamic>,
    ) -> Called {
        let main = plugin.host.main.as_str();
        let deadline = plugin.manifest().deadline(hook);
        let Some(permits) = self.permits(share, patient).await else {
            let text = format!(
                "no worker was free within {:?} (scripts.queue_wait)",
                self.queue
            );
            return Called::failed(Failure::new(Fault::Queue, main, text));
        };
        let (sender, receiver) = oneshot::channel();
        // Dropped with this future: what the script waits for outside is given up then.
        let (_waits, waiting) = watch::channel(());
        let own = Arc::clone(plugin);
        let spawned = std::thread::Builder::new()
            .name("script-work".into())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                called_by(waiting);
                let called = call(&own, hook.name(), arguments, (Lane::Work, deadline), None);
                // Whoever waited may be gone.
                drop(sender.send(called));
                drop(permits);
            });
        if let Err(e) = spawned {
            return Called::failed(Failure::new(Fault::Queue, main, format!("no thread: {e}")));
        }
        // A host function may end a little after the deadline; one that does not is given up, its permits are not.
        match tokio::time::timeout(deadline * 2, receiver).await {
            Ok(Ok(called)) => called,
            Ok(Err(_)) => Called::failed(Failure::new(Fault::Panic, main, "its thread ended")),
            Err(_) => Called::failed(Failure::new(
                Fault::Deadline,
                main,
                "a host function did not return in time",
            )),
        }
    }
}
