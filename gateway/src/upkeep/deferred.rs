//! SHA-256 that was deferred, computed one box after the other, by one node of a cluster.
//!
//! What is missing stands in the rows; here is kept how far the box in hand is, so that a restart reads little of it again.

use std::time::Duration;

use boxgate_storage::Result;
use boxgate_storage::check::Halfway;
use boxgate_storage::metadata::deferred::Waiting;
use boxgate_storage::metadata::upkeep::UpkeepRow;
use tokio::time::{Instant, sleep, timeout};

use super::background::{KEPT_EVERY, claimed_for, failed};
use super::place::Place;
use crate::gateway::Gateway;

/// What the work is claimed as.
pub(super) const SHA256: &str = "sha256";
/// How long the claim of a process that was killed keeps others from the work, which Vagrant's clients wait for.
const CLAIM: Duration = Duration::from_secs(30);
/// How often rows are looked at for what other nodes took in.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long what could not be read is left alone.
const REST: Duration = Duration::from_secs(5);
/// How often the rows are asked how much waits: other nodes take boxes in, compute, and delete.
const COUNT_EVERY: Duration = Duration::from_secs(5);

/// Computes what is missing, whenever something is, and tells meanwhile how much that is.
pub(super) async fn run(gateway: &Gateway) {
    tokio::join!(computes(gateway), counts(gateway));
}

async fn computes(gateway: &Gateway) {
    loop {
        match pass(gateway).await {
            Ok(0) => {}
            Ok(_unreadable) => sleep(REST).await,
            Err(error) => sleep(failed(SHA256, &error)).await,
        }
        let _nothing_came = timeout(LOOK_EVERY, gateway.engine.deferred()).await;
    }
}

async fn counts(gateway: &Gateway) {
    loop {
        let wait = match count(gateway).await {
            Ok(_waiting) => COUNT_EVERY,
            Err(error) => failed(SHA256, &error),
        };
        sleep(wait).await;
    }
}

/// Computes what is missing now; returns how many blobs could not be read.
async fn pass(gateway: &Gateway) -> Result<u64> {
    if count(gateway).await? == 0 {
        return Ok(0);
    }
    let kept = gateway.metadata.upkeep(SHA256).await?;
    let from = kept.and_then(|row| Place::read(&row.state?)?.halfway());
    let mut kept_at = Instant::now();
    let bytes = &gateway.telemetry.metrics.upkeep.sha256_bytes;
    let tell = |more: u64, here: Option<Halfway>| {
        bytes.inc_by(more);
        let here = here.filter(|_| kept_at.elapsed() >= KEPT_EVERY);
        if here.is_some() {
            kept_at = Instant::now();
        }
        async move {
            if let Some(here) = here
                && let Err(error) = keep(gateway, &here).await
            {
                failed(SHA256, &error);
            }
        }
    };
    let stock = gateway.stock();
    let work = stock.complete_sha256(gateway.settings.digests.rate_bytes, from, tell);
    let computed = claimed_for(CLAIM, gateway, SHA256, work).await?;
    count(gateway).await?;
    Ok(computed.map_or(0, |computed| computed.failed))
}

/// Tells how much waits, and returns it.
async fn count(gateway: &Gateway) -> Result<u64> {
    let Waiting {
        blobs,
        oldest,
        bytes: _,
    } = gateway.metadata.waiting_for_sha256().await?;
    gateway.engine.set_waiting(blobs);
    let metrics = &gateway.telemetry.metrics.upkeep;
    metrics
        .sha256_waiting
        .set(i64::try_from(blobs).unwrap_or(i64::MAX));
    metrics
        .sha256_oldest
        .set(oldest.map_or(0, |oldest| oldest.0.div_euclid(1000)));
    Ok(blobs)
}

async fn keep(gateway: &Gateway, here: &Halfway) -> Result<()> {
    let row = UpkeepRow {
        ended: gateway.clock.now(),
        state: Some(Place::from(here).text()),
    };
    gateway.metadata.keep_upkeep(SHA256, row).await
}
