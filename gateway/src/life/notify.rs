//! What systemd is told (`sd_notify(3)`): ready, reloading, stopping, who is in charge, and that it still works. Where nobody
//! listens, nothing is told.

use std::time::Duration;

use boxgate_storage::metadata::Metadata;
use sd_notify::NotifyState;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Requests are taken.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The configuration is read again; [`ready`] ends it.
pub fn reloading() {
    let now = NotifyState::monotonic_usec_now();
    let told = now.map(|now| tell(&[NotifyState::Reloading, now]));
    if let Err(error) = told {
        tracing::debug!(%error, "the time is not told");
    }
}

/// It ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Another process is in charge; its watchdog begins now.
pub fn succeeded_by(process: u32) {
    tell(&[NotifyState::MainPid(process), NotifyState::Watchdog]);
}

/// This process works, though it does not serve: it starts another one.
pub fn working() {
    tell(&[NotifyState::Watchdog]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd is not told");
    }
}

/// Tells again and again that the process works, where systemd wants to know (`WatchdogSec=`): that tasks run, and that the
/// rows' writer answers. What it answers does not matter: a full disk is mended by no restart. Once `handing_over`, it does: then
/// the database is closed and nobody serves, which shall not go on without an end.
pub async fn watch(metadata: Metadata, handing_over: CancellationToken) {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| *limit > Duration::ZERO) else {
        return;
    };
    let mut every = tokio::time::interval(limit / 2);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        if let Err(error) = metadata.prove_writer().await {
            let error = boxgate_storage::error::chain(&error);
            tracing::debug!(error, "the database answers, and does not work");
            if handing_over.is_cancelled() {
                continue;
            }
        }
        tell(&[NotifyState::Watchdog]);
    }
}
