//! What plugins remember (`kv::`), written to this node's disk now and then, and once more at the end.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::gateway::Gateway;

/// How much of what plugins remember a kill may cost, beside what they set durably.
const WRITTEN_EVERY: Duration = Duration::from_secs(30);

/// Writes it down until the gateway drains.
pub async fn remember(gateway: Arc<Gateway>) {
    let ending = gateway.upkeep.ending();
    loop {
        tokio::select! {
            () = ending.cancelled() => return,
            () = sleep(WRITTEN_EVERY) => write_down(&gateway).await,
        }
    }
}

/// Writes it down, off the reactor.
pub async fn write_down(gateway: &Gateway) {
    let scripts = Arc::clone(&gateway.scripts);
    if let Err(panicked) = tokio::task::spawn_blocking(move || scripts.write_down()).await {
        tracing::error!(error = %panicked, "writing down what plugins remember broke");
    }
}
