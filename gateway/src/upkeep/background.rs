//! Upkeep that nobody asks for: a collection now and then, a slow scrub that goes on where it was, and digests that were
//! deferred.
//!
//! When either ran last, and where a scrub stands, is kept in rows, so that it matters little how often the
//! process is started. Each is claimed in a row as well: of several processes on the same rows one does it.
//! A claim of a process that was killed runs out by itself.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use boxgate_storage::Result;
use boxgate_storage::check::ScrubTold;
use boxgate_storage::clock::UnixMillis;
use boxgate_storage::metadata::upkeep::UpkeepRow;
use tokio::time::{Instant, interval, sleep};

use super::place::Place;
use super::{Chore, Counted, deferred};
use crate::gateway::Gateway;

const GC: &str = "gc";
const SCRUB: &str = "scrub";
/// How long a claim lasts unless it is renewed.
const CLAIM: Duration = Duration::from_mins(5);
/// The clock of the rows is asked again after so long at most: it may be set.
const LOOK_AGAIN: Duration = Duration::from_mins(1);
/// How much reading is done again after a kill.
pub(super) const KEPT_EVERY: Duration = Duration::from_secs(30);

/// Does what is due until the gateway drains.
pub async fn run(gateway: Arc<Gateway>) {
    let ending = gateway.upkeep.ending();
    tokio::select! {
        () = ending.cancelled() => {}
        () = async {
            tokio::join!(collections(&gateway), scrubs(&gateway), deferred::run(&gateway));
        } => {}
    }
    // What was cut off is anybody's.
    for name in [GC, SCRUB, deferred::SHA256] {
        if let Err(error) = gateway.metadata.unclaim(name, gateway.upkeep.owner()).await {
            failed(name, &error);
        }
    }
}

async fn collections(gateway: &Gateway) {
    let Some(every) = gateway.settings.gc.every else {
        return;
    };
    loop {
        let wait = match due(gateway, GC, every).await {
            Ok((Duration::ZERO, _)) => collect(gateway).await.map(|()| LOOK_AGAIN.min(every)),
            Ok((wait, _)) => Ok(wait.min(LOOK_AGAIN)),
            Err(error) => Err(error),
        };
        sleep(wait.unwrap_or_else(|error| failed(GC, &error))).await;
    }
}

async fn collect(gateway: &Gateway) -> Result<()> {
    let limits = gateway.settings.gc.orphans;
    let chore = Chore::Collect {
        limits,
        dry_run: false,
    };
    // Somebody asked for one: the next look is in a moment.
    let Some(_turn) = gateway.upkeep.turn(&chore) else {
        return Ok(());
    };
    let stock = gateway.stock();
    if let Some(collected) = claimed(gateway, GC, stock.collect(limits)).await? {
        gateway.telemetry.metrics.upkeep.collected(&collected);
        ended(gateway, GC).await?;
        tracing::info!(?collected, "garbage collected");
    }
    Ok(())
}

async fn scrubs(gateway: &Gateway) {
    let Some(every) = gateway.settings.scrub.every else {
        return;
    };
    loop {
        let wait = match due(gateway, SCRUB, every).await {
            Ok((wait, None)) if !wait.is_zero() => Ok(wait.min(LOOK_AGAIN)),
            Ok((_, from)) => scrub(gateway, from.as_deref())
                .await
                .map(|()| LOOK_AGAIN.min(every)),
            Err(error) => Err(error),
        };
        sleep(wait.unwrap_or_else(|error| failed(SCRUB, &error))).await;
    }
}

async fn scrub(gateway: &Gateway, from: Option<&str>) -> Result<()> {
    let rate_bytes = gateway.settings.scrub.rate_bytes;
    let Some(_turn) = gateway.upkeep.turn(&Chore::Scrub { rate_bytes }) else {
        return Ok(());
    };
    let began = last_end(gateway, SCRUB).await?;
    let from = from.and_then(|text| Place::read(text)?.cursor());
    let left_out = from.map_or(0, |from| from.offset);
    let mut counted = Counted::new(Some(Arc::clone(&gateway.telemetry)), left_out);
    let mut kept_at = None::<Instant>;
    let tell = |told: ScrubTold| {
        counted.count(&told);
        let due = kept_at.is_none_or(|at| at.elapsed() >= KEPT_EVERY);
        let row = match told {
            ScrubTold::Progress(_, here) if due => {
                kept_at = Some(Instant::now());
                Some(UpkeepRow {
                    ended: began,
                    state: Some(Place::from(here).text()),
                })
            }
            ScrubTold::Progress(..) | ScrubTold::Finding(_) => None,
        };
        let metadata = gateway.metadata.clone();
        async move {
            if let Some(row) = row
                && let Err(error) = metadata.keep_upkeep(SCRUB, row).await
            {
                failed(SCRUB, &error);
            }
        }
    };
    let stock = gateway.stock();
    let work = stock.scrub(rate_bytes, from, tell);
    if let Some(scrubbed) = claimed(gateway, SCRUB, work).await? {
        gateway
            .telemetry
            .metrics
            .upkeep
            .scrub_last_end
            .set(seconds(gateway));
        ended(gateway, SCRUB).await?;
        tracing::info!(?scrubbed, "scrub ended");
    }
    Ok(())
}

/// Does the work while no other process does; `None` when one does.
pub(crate) async fn claimed<T>(
    gateway: &Gateway,
    name: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<Option<T>> {
    claimed_for(CLAIM, gateway, name, work).await
}

/// The same under a claim that lasts so long after a kill.
pub(super) async fn claimed_for<T>(
    claim: Duration,
    gateway: &Gateway,
    name: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<Option<T>> {
    let (metadata, owner) = (&gateway.metadata, gateway.upkeep.owner());
    let mut work = pin!(work);
    let mut renewal = interval(claim / 3);
    let done = loop {
        tokio::select! {
            biased;
            _ = renewal.tick() => {
                if !metadata.claim(name, owner, claim).await? {
                    return Ok(None);
                }
            }
            done = &mut work => break done?,
        }
    };
    metadata.unclaim(name, owner).await?;
    Ok(Some(done))
}

/// How long until it is due, and where it goes on. On new rows the first time is after `every`.
async fn due(gateway: &Gateway, name: &str, every: Duration) -> Result<(Duration, Option<String>)> {
    let now = gateway.clock.now();
    let Some(row) = gateway.metadata.upkeep(name).await? else {
        ended(gateway, name).await?;
        return Ok((every, None));
    };
    let wait = row.ended.plus(every).0.saturating_sub(now.0);
    let wait = u64::try_from(wait).unwrap_or(0);
    Ok((Duration::from_millis(wait).min(every), row.state))
}

async fn last_end(gateway: &Gateway, name: &str) -> Result<UnixMillis> {
    let row = gateway.metadata.upkeep(name).await?;
    Ok(row.map_or_else(|| gateway.clock.now(), |row| row.ended))
}

async fn ended(gateway: &Gateway, name: &str) -> Result<()> {
    let row = UpkeepRow {
        ended: gateway.clock.now(),
        state: None,
    };
    gateway.metadata.keep_upkeep(name, row).await
}

fn seconds(gateway: &Gateway) -> i64 {
    gateway.clock.now().0.div_euclid(1000)
}

pub(super) fn failed(name: &str, error: &boxgate_storage::Error) -> Duration {
    let error = boxgate_storage::error::chain(error);
    tracing::warn!(error, "{name} in the background failed");
    LOOK_AGAIN
}
