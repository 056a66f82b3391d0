//! Stopping without harm: first say so, then take no more, then wait, then cut.
//!
//! The first signal begins; load balancers get a moment to look elsewhere, running requests get
//! their time. A second signal shortens what is left.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::settings;

/// The steps of stopping, each a token that is cancelled once it is reached.
#[derive(Debug, Clone)]
pub struct Drain {
    begun: CancellationToken,
    hurried: CancellationToken,
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
            begun: CancellationToken::new(),
            hurried: CancellationToken::new(),
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
        if self.begun.is_cancelled() {
            self.hurried.cancel();
        } else {
            self.begun.cancel();
        }
    }

    /// Whether stopping has begun; `/readyz` says no from here on.
    pub fn is_draining(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// Cancelled when stopping begins.
    pub fn begun(&self) -> CancellationToken {
        self.begun.clone()
    }

    /// Cancelled when no more connections are taken and idle ones are closed.
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

    /// Turns every SIGTERM and SIGINT into [`Drain::signal`]; returns when stopping is over.
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
                () = self.cut.cancelled() => return Ok(()),
            }
        }
    }

    /// Waits for the signal, then goes through all steps; `accepting` are the listeners' tasks,
    /// `running` the connections.
    pub(super) async fn run(&self, accepting: &TaskTracker, running: &TaskTracker) {
        self.begun.cancelled().await;
        tracing::info!(connections = running.len(), "stopping: no longer ready");
        self.pause(self.accept).await;
        self.closing.cancel();
        // What was accepted at the last moment is counted before the counting ends.
        accepting.close();
        accepting.wait().await;
        running.close();
        tracing::info!(connections = running.len(), "stopping: no more connections");
        tokio::select! {
            () = running.wait() => {}
            () = self.patience() => {
                tracing::info!(connections = running.len(), "stopping: bodies are no longer read");
                self.ending.cancel();
                if tokio::time::timeout(self.hurry, running.wait()).await.is_err() {
                    tracing::warn!(connections = running.len(), "stopping: what still runs is cut");
                }
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

    async fn patience(&self) {
        tokio::select! {
            () = tokio::time::sleep(self.requests) => {}
            () = async {
                self.hurried.cancelled().await;
                tokio::time::sleep(self.hurry).await;
            } => {}
        }
    }
}
