//! When files are looked at again that an operator may change under a running gateway: now and then, and at
//! each SIGHUP.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

/// Tells when to look.
#[derive(Debug)]
pub struct Lookout {
    /// `None` waits for SIGHUP alone.
    every: Option<Duration>,
    /// `None` where it cannot be caught.
    hang_up: Option<Signal>,
}

impl Lookout {
    /// From now on no SIGHUP is missed.
    pub fn new(every: Option<Duration>) -> Self {
        let hang_up = signal(SignalKind::hangup());
        let hang_up =
            hang_up.inspect_err(|error| tracing::warn!(%error, "SIGHUP cannot be caught"));
        Self {
            every,
            hang_up: hang_up.ok(),
        }
    }

    /// Resolves when it is time to look; never when nothing asks for it.
    pub async fn next(&mut self) {
        let asked = async {
            match &mut self.hang_up {
                Some(hang_up) => hang_up.recv().await,
                None => std::future::pending().await,
            }
        };
        let due = async {
            match self.every {
                Some(every) => sleep(every).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = asked => {}
            () = due => {}
        }
    }
}
