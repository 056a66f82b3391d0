//! The time of all nodes: that of the database that they share.

use std::sync::Arc;
use std::time::Duration;

use boxgate_storage::clock::Clock;
use boxgate_storage::metadata::Metadata;

use crate::gateway::Gateway;

/// A clock of a machine may be this far off before it is told of.
const OFF: Duration = Duration::from_secs(30);

/// The time is asked for so often.
const AGREE_EVERY: Duration = Duration::from_secs(10);

/// Sets our clock by the one that all nodes share.
pub(super) async fn agree(clock: &dyn Clock, metadata: &Metadata) -> boxgate_storage::Result<()> {
    let Some(told) = metadata.shared_time().await? else {
        return Ok(());
    };
    let ahead = clock.agree(told);
    if u128::from(ahead.unsigned_abs()) > OFF.as_millis() {
        tracing::warn!(
            seconds = ahead / 1_000,
            "this machine's clock is ahead of the database's by so much (behind, where it is less than 0); the \
             database's counts for what expires. Set the clock: a bucket may refuse requests signed by it"
        );
    }
    Ok(())
}

/// Keeps our clock with the one that all nodes share.
pub(super) async fn keep_time(gateway: Arc<Gateway>) {
    let mut every = tokio::time::interval(AGREE_EVERY);
    loop {
        every.tick().await;
        if let Err(error) = agree(&*gateway.clock, &gateway.metadata).await {
            tracing::debug!(
                error = boxgate_storage::error::chain(&error),
                "the time is not told"
            );
        }
    }
}
