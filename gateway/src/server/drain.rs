//! Stopping without harm: first say so, then take no more, then wait, then cut.
//!
//! The first signal begins; load balancers get a moment to look elsewhere, running requests get
//! their time. Uploads whose senders know how to go on need none: they are told where to, at the end of a part. A second signal
//! shortens what is left: bodies that come have half of its time, and what is answered to them the rest.
//!
//! Where another process comes in the place of this one, connections wait in its sockets meanwhile: then whatever may write
//! ends at once, and only answers that are on their way get their time.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::settings;

/// How long answers end their connections before those are ended that wait for their next request: one that comes as its
/// connection ends is lost to a client that does not try again.
const LAST_ANSWERS: Duration = Duration::from_millis(300);
/// How long a connection that was taken at the last moment has for its first request.
const FIRST_REQUESTS: Duration = Duration::from_secs(3);
/// How long requests of HTTP/2 may come that were on their way.
const LAST_STREAMS: Duration = Duration::from_millis(200);
/// How long bodies that come are still read, for another process that waits for it.
const LAST_REQUESTS: Duration = Duration::from_millis(500);

/// What a server is at.
pub(super) struct Tasks {
    /// The listeners' tasks.
    pub(super) accepting: TaskTracker,
    /// Connections that had no request yet.
    pub(super) fresh: TaskTracker,
    /// Requests that have no answer yet.
    pub(super) working: TaskTracker,
    /// Connections.
    pub(super) running: TaskTracker,
}

/// The steps of stopping, each a token that is cancelled once it is reached.
#[derive(Debug, Clone)]
pub struct Drain {
    /// Held while it is decided what begins.
    deciding: Arc<Mutex<()>>,
    begun: CancellationToken,
    handing_over: CancellationToken,
    hurried: CancellationToken,
    shut: CancellationToken,
    leaving: CancellationToken,
    closing: CancellationToken,
    ending: CancellationToken,
    cut: CancellationToken,
    accept: Duration,
    requests: Duration,
    hurry: Duration,
}

impl Drain {
    /// Not begun, with the times of the configuration.
    pub fn new(server: &settings::Server) -> Self {
        Self {
            deciding: Arc::default(),
            begun: CancellationToken::new(),
            handing_over: CancellationToken::new(),
            hurried: CancellationToken::new(),
            shut: CancellationToken::new(),
            leaving: CancellationToken::new(),
            closing: CancellationToken::new(),
            ending: CancellationToken::new(),
            cut: CancellationToken::new(),
            accept: server.drain_accept,
            requests: server.drain_requests,
            hurry: server.drain_hurried,
        }
    }

    /// Asks to stop; asked again, to stop soon.
    pub fn signal(&self) {
        let _deciding = self.deciding.lock().unwrap_or_else(PoisonError::into_inner);
        if self.begun.is_cancelled() {
            self.hurried.cancel();
        } else {
            self.begun.cancel();
        }
    }

    /// Begins to stop for another process that listens at the same sockets; whether it does: who stops already hands nothing
    /// over.
    pub fn hand_over(&self) -> bool {
        let _deciding = self.deciding.lock().unwrap_or_else(PoisonError::into_inner);
        if self.begun.is_cancelled() {
            return false;
        }
        self.handing_over.cancel();
        self.begun.cancel();
        true
    }

    /// Cancelled when another process comes in the place of this one.
    pub fn handing_over(&self) -> CancellationToken {
        self.handing_over.clone()
    }

    /// Whether stopping has begun; `/readyz` says no from here on.
    pub fn is_draining(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// Cancelled when stopping begins.
    pub fn begun(&self) -> CancellationToken {
        self.begun.clone()
    }

    /// Whether it was asked to stop soon.
    pub fn is_hurried(&self) -> bool {
        self.hurried.is_cancelled()
    }

    /// Cancelled when no more connections are taken.
    pub fn shut(&self) -> CancellationToken {
        self.shut.clone()
    }

    /// Cancelled when uploads that can go on elsewhere do so, each at the end of the part that is coming.
    pub fn leaving(&self) -> CancellationToken {
        self.leaving.clone()
    }

    /// Cancelled when idle connections are closed.
    pub fn closing(&self) -> CancellationToken {
        self.closing.clone()
    }

    /// Cancelled when bodies that still come are no longer read: what came of them is kept, and they are answered.
    pub fn ending(&self) -> CancellationToken {
        self.ending.clone()
    }

    /// Cancelled when what still runs is cut.
    pub fn cut(&self) -> CancellationToken {
        self.cut.clone()
    }

    /// Turns every SIGTERM and SIGINT into [`Drain::signal`], for as long as it is polled: when stopping is over, another process
    /// may still be waited for.
    ///
    /// # Errors
    /// The system does not let the signals be caught.
    pub async fn on_signals(self) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        loop {
            tokio::select! {
                _ = terminate.recv() => self.signal(),
                _ = interrupt.recv() => self.signal(),
            }
        }
    }

    /// Waits for the signal, then goes through all steps.
    pub(super) async fn run(&self, tasks: &Tasks) {
        self.begun.cancelled().await;
        if self.handing_over.is_cancelled() {
            return self.release(tasks).await;
        }
        let Tasks {
            accepting, running, ..
        } = tasks;
        tracing::info!(connections = running.len(), "stopping: no longer ready");
        self.pause(self.accept).await;
        self.shut.cancel();
        self.leaving.cancel();
        self.closing.cancel();
        // What was accepted at the last moment is counted before the counting ends.
        accepting.close();
        accepting.wait().await;
        running.close();
        tracing::info!(connections = running.len(), "stopping: no more connections");
        tokio::select! {
            () = running.wait() => {}
            () = self.patience(self.requests, self.hurry / 2) => {
                tracing::info!(connections = running.len(), "stopping: bodies are no longer read");
                self.ending.cancel();
                tokio::select! {
                    () = running.wait() => {}
                    () = self.patience(self.hurry, self.hurry / 2) => {
                        tracing::warn!(connections = running.len(), "stopping: what still runs is cut");
                    }
                }
            }
        }
        self.cut.cancel();
        running.wait().await;
    }

    /// Ends whatever may write, for another process that listens at the same sockets; answers go on.
    async fn release(&self, tasks: &Tasks) {
        let Tasks {
            accepting,
            fresh,
            working,
            running,
        } = tasks;
        tracing::info!(
            connections = running.len(),
            "handing over: answers end their connections"
        );
        self.pause(LAST_ANSWERS).await;
        self.shut.cancel();
        accepting.close();
        accepting.wait().await;
        tracing::info!(
            connections = fresh.len(),
            "handing over: no more connections"
        );
        fresh.close();
        let _silent = timeout(FIRST_REQUESTS, fresh.wait()).await;
        self.closing.cancel();
        // Clients of HTTP/2 may send requests until they read that they shall not.
        self.pause(LAST_STREAMS).await;
        working.close();
        if timeout(LAST_REQUESTS, working.wait()).await.is_ok() {
            return;
        }
        self.ending.cancel();
        if timeout(self.hurry, working.wait()).await.is_ok() {
            return;
        }
        tracing::warn!(
            requests = working.len(),
            "handing over: requests and answers are cut"
        );
        self.cut.cancel();
        running.close();
        running.wait().await;
    }

    /// Gives the last answers their time, then cuts them.
    pub(super) async fn see_out(&self, running: &TaskTracker) {
        running.close();
        tokio::select! {
            () = running.wait() => {}
            () = self.patience(self.requests, self.hurry) => {
                tracing::warn!(connections = running.len(), "stopping: what still runs is cut");
            }
        }
        self.cut.cancel();
        running.wait().await;
    }

    /// `time`, or less when hurried.
    async fn pause(&self, time: Duration) {
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = self.hurried.cancelled() => {}
        }
    }

    /// `time`, or no more than `in_a_hurry` once hurried.
    async fn patience(&self, time: Duration, in_a_hurry: Duration) {
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = async {
                self.hurried.cancelled().await;
                tokio::time::sleep(in_a_hurry).await;
            } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn who_stops_hands_nothing_over_and_who_hands_over_may_be_hurried() {
        let server = crate::config::defaults().server;
        let stopping = Drain::new(&server);
        stopping.signal();
        assert!(!stopping.hand_over());
        assert!(!stopping.handing_over().is_cancelled());

        let handing_over = Drain::new(&server);
        assert!(handing_over.hand_over());
        assert!(!handing_over.hand_over());
        assert!(!handing_over.is_hurried());
        handing_over.signal();
        assert!(handing_over.is_hurried());
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_second_signal_all_is_cut_in_its_time() {
        let server = crate::config::defaults().server;
        let drain = Drain::new(&server);
        let tasks = Tasks {
            accepting: TaskTracker::new(),
            fresh: TaskTracker::new(),
            working: TaskTracker::new(),
            running: TaskTracker::new(),
        };
        tasks.running.spawn(drain.cut().cancelled_owned());
        drain.signal();
        let hurrying = async {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            drain.signal();
            Instant::now()
        };
        let (hurried, ()) = tokio::join!(hurrying, drain.run(&tasks));
        let took = hurried.elapsed();
        // The clock's ticks are milliseconds.
        let late = took.saturating_sub(server.drain_hurried);
        assert!(late < Duration::from_millis(20), "{took:?}");
        assert!(drain.ending().is_cancelled());
    }
}
