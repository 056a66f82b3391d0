//! Plugins that must miss no event and failed at one. Each is told by itself what came since, in order, and again with
//! growing pauses, until it has caught up with all others.
//!
//! An event that a plugin fails at for as long as a delivery is tried (`webhooks.delays`) is passed over, counted and
//! logged. One node at a time tells a plugin, under a claim. It may be told an event twice, and never out of order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use boxgate_scripting::Unavailable;
use boxgate_scripting::verdict::Directed;
use boxgate_storage::Result;
use boxgate_storage::clock::UnixMillis;
use boxgate_storage::error::chain;
use boxgate_storage::metadata::outbox::Event;
use boxgate_storage::metadata::stragglers::Straggler;
use boxgate_storage::metadata::webhooks::Spread;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{CLAIM, EVENTS, LATER, LOOK_EVERY, PAGE, place};
use crate::door::boxvault::shape;
use crate::gateway::Gateway;
use crate::hooks::{Families, escaped};
use crate::telemetry::trace;
use crate::webhook::spread::{self, Spreading};

/// How long a plugin is let alone at most: one that works again must not wait for hours.
const LONGEST_PAUSE: Duration = Duration::from_mins(15);
/// And at least.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// What was counted of stragglers since the start.
#[derive(Debug, Default)]
pub struct PassedOver(Mutex<BTreeMap<String, u64>>);

impl PassedOver {
    fn count(&self, plugin: &str) {
        *self.lock().entry(plugin.to_owned()).or_default() += 1;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a plugin is told one event, at most.
pub fn patience(delays: &[Duration]) -> Duration {
    delays.iter().sum()
}

/// How long a plugin is let alone that failed so often.
fn pause(delays: &[Duration], tries: u32) -> Duration {
    let step = delays.get(tries as usize).or(delays.last());
    let pause = step.copied().unwrap_or_default();
    let pause = pause.clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
    // Those that failed together do not come again together.
    pause.mul_f64(0.8 + 0.4 * fastrand::f64())
}

/// Whether an event that fails since then, and failed so often before, is told no more.
fn is_over(delays: &[Duration], straggler: &Straggler, now: UnixMillis) -> bool {
    let since = straggler.failing_since.unwrap_or(now);
    straggler.tries as usize + 1 >= delays.len() && now >= since.plus(patience(delays))
}

/// Has a plugin be told an event later, at which it failed.
pub(super) async fn fall_behind(
    gateway: &Gateway,
    event: &Event,
    failed: &Unavailable,
) -> Result<()> {
    let plugin = failed.plugin.as_str();
    let due = gateway
        .clock
        .now()
        .plus(pause(&gateway.settings.webhooks.delays, 1));
    tracing::warn!(
        plugin,
        event = event.name,
        seq = event.seq,
        error = %failed,
        "a plugin is behind: it is told events later, as it must not miss them"
    );
    gateway
        .metadata
        .fall_behind(plugin, event.seq - 1, due, failed.to_string())
        .await
}

/// Tells those that are behind until the gateway drains.
pub async fn run(gateway: Arc<Gateway>) {
    let ending = gateway.upkeep.ending();
    let mut chases: JoinSet<String> = JoinSet::new();
    let mut chased = BTreeSet::new();
    while !ending.is_cancelled() {
        let wait = match gateway.metadata.stragglers().await {
            Ok(rows) => {
                for row in rows {
                    if is_chased_here(&gateway, &row).await && chased.insert(row.plugin.clone()) {
                        chases.spawn(chase(Arc::clone(&gateway), ending.clone(), row.plugin));
                    }
                }
                LOOK_EVERY
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "plugins that are behind wait");
                LATER
            }
        };
        tokio::select! {
            () = ending.cancelled() => {}
            () = sleep(wait) => {}
            Some(done) = chases.join_next() => match done {
                Ok(plugin) => { chased.remove(&plugin); }
                Err(error) => {
                    tracing::error!(%error, "telling a plugin that is behind broke");
                    // Which one is not told: those that go on find their claims taken.
                    chased.clear();
                }
            }
        }
    }
    // Each ends with the event that it is at.
    while chases.join_next().await.is_some() {}
}

/// Whether it is time to tell one, and this node can. One that nobody knew for long is forgotten.
async fn is_chased_here(gateway: &Gateway, row: &Straggler) -> bool {
    let now = gateway.clock.now();
    if gateway.scripts.hears(&row.plugin) {
        return row.due <= now;
    }
    let patience = patience(&gateway.settings.webhooks.delays);
    if now >= row.since.plus(patience) && now >= row.due.plus(patience) {
        tracing::warn!(
            plugin = row.plugin,
            "a plugin that was behind is not there any more, and forgotten"
        );
        if let Err(error) = gateway.metadata.forget_straggler(&row.plugin).await {
            tracing::warn!(error = chain(&error), "a plugin is not forgotten yet");
        }
    }
    false
}

/// Tells one what came since, as far as it goes; gives its name.
async fn chase(gateway: Arc<Gateway>, ending: CancellationToken, plugin: String) -> String {
    let (metadata, owner) = (&gateway.metadata, gateway.upkeep.owner());
    let claim = format!("{EVENTS} of {plugin}");
    let done = async {
        if metadata.claim(&claim, owner, CLAIM).await? {
            let told = Box::pin(tell(&gateway, &ending, &plugin, &claim)).await;
            metadata.unclaim(&claim, owner).await?;
            told?;
        }
        Ok(())
    };
    let done: Result<()> = done.await;
    if let Err(error) = done {
        tracing::warn!(plugin, error = chain(&error), "a plugin stays behind");
    }
    plugin
}

async fn tell(
    gateway: &Gateway,
    ending: &CancellationToken,
    plugin: &str,
    claim: &str,
) -> Result<()> {
    let metadata = &gateway.metadata;
    let mut claimed = Instant::now();
    loop {
        let rows = metadata.stragglers().await?;
        let Some(mut row) = rows.into_iter().find(|row| row.plugin == plugin) else {
            return Ok(());
        };
        // What others were not told yet may still be told to all at once.
        let all = place(metadata).await?;
        let events = metadata.events(row.place, PAGE).await?;
        let events: Vec<Event> = events.into_iter().filter(|e| e.seq <= all).collect();
        if row.due > gateway.clock.now() || row.place >= all || ending.is_cancelled() {
            return Ok(());
        }
        if events.is_empty() {
            // What it was to be told is not kept any more.
            let nothing = Spread {
                up_to: all,
                ..Spread::default()
            };
            if !moved(gateway, &mut row, nothing).await? {
                return Ok(());
            }
        }
        let subscribers = spread::subscribers(metadata).await?;
        for event in events {
            if ending.is_cancelled() {
                return Ok(());
            }
            if claimed.elapsed() > CLAIM / 3 {
                if !metadata.claim(claim, gateway.upkeep.owner(), CLAIM).await? {
                    return Ok(());
                }
                claimed = Instant::now();
            }
            let Some(verdict) = ask(gateway, &row, &event).await? else {
                return Ok(());
            };
            // Endpoints were told without it; what it sends to single ones goes to them now.
            let mut spreading = Spreading::new(&gateway.scripts, &subscribers);
            spreading.add_directed(&event, verdict);
            if !moved(gateway, &mut row, spreading.into_spread()).await? {
                return Ok(());
            }
        }
    }
}

/// What a plugin says of an event to single endpoints; `None` when it is told again later.
async fn ask(gateway: &Gateway, row: &Straggler, event: &Event) -> Result<Option<Vec<Directed>>> {
    let (plugin, delays) = (row.plugin.as_str(), &gateway.settings.webhooks.delays);
    let data = serde_json::from_str(&event.data).unwrap_or_default();
    let facts = Arc::new(spread::facts_of(event, data));
    let asking = gateway.scripts.on_event_of(plugin, &facts);
    let failed = match trace::within(event.trace.as_deref(), asking).await {
        Ok(decision) => return Ok(Some(decision.verdict.deliver)),
        Err(failed) => failed,
    };
    let (now, tries) = (gateway.clock.now(), row.tries.saturating_add(1));
    if is_over(delays, row, now) {
        gateway.passed_over.count(plugin);
        tracing::error!(
            plugin,
            event = event.name,
            seq = event.seq,
            tries,
            error = %failed,
            "an event is passed over: a plugin failed at it for too long"
        );
        return Ok(Some(Vec::new()));
    }
    let pause = pause(delays, tries);
    tracing::info!(plugin, tries, ?pause, error = %failed, "a plugin stays behind");
    gateway
        .metadata
        .stay_behind(row, now.plus(pause), failed.to_string())
        .await?;
    Ok(None)
}

/// Moves one forward with what came of it; false when there is nothing more to tell it here.
async fn moved(gateway: &Gateway, row: &mut Straggler, spread: Spread) -> Result<bool> {
    let (up_to, any) = (spread.up_to, !spread.letters.is_empty());
    let most = gateway.settings.webhooks.queue;
    let progress = gateway.metadata.catch_up(row, EVENTS, spread, most).await?;
    if any {
        gateway.outlet.tell();
    }
    let Some(progress) = progress else {
        return Ok(false);
    };
    gateway.outlet.count_skipped(progress.skipped);
    if progress.caught_up {
        tracing::info!(plugin = row.plugin, "a plugin has caught up");
        return Ok(false);
    }
    (row.place, row.tries, row.failing_since) = (up_to, 0, None);
    Ok(true)
}

/// How those stand that are behind, by plugin, for people.
///
/// # Errors
/// When the rows do not answer.
pub async fn standing(gateway: &Gateway) -> Result<BTreeMap<String, Value>> {
    let metadata = &gateway.metadata;
    let rows = metadata.stragglers().await?;
    if rows.is_empty() {
        return Ok(BTreeMap::new());
    }
    let all = place(metadata).await?;
    let told = rows.into_iter().map(|row| {
        let shown = json!({
            "events": (all - row.place).max(0), "since": shape::time(row.since), "tries": row.tries,
            "next_try_at": shape::time(row.due), "error": row.error,
        });
        (row.plugin, shown)
    });
    Ok(told.collect())
}

/// All families of stragglers; what the rows do not tell is left out.
pub async fn metrics(gateway: &Gateway) -> String {
    let mut out = Families::default();
    for (plugin, count) in gateway.passed_over.lock().iter() {
        let labels = format!("plugin=\"{}\"", escaped(plugin));
        let doc = "Events that a plugin must not miss and was passed over for, as it failed at them for too long";
        let name = "boxgate_script_events_passed_over_total";
        out.add(name, "counter", doc, &labels, count);
    }
    if let Err(error) = behind(&mut out, gateway).await {
        let error = chain(&error);
        tracing::debug!(error, "how far plugins are behind is not known now");
    }
    out.text()
}

async fn behind(out: &mut Families, gateway: &Gateway) -> Result<()> {
    let (metadata, now) = (&gateway.metadata, gateway.clock.now());
    let rows = metadata.stragglers().await?;
    if rows.is_empty() {
        return Ok(());
    }
    let all = place(metadata).await?;
    for row in rows {
        let labels = format!("plugin=\"{}\"", escaped(&row.plugin));
        let doc = "Events that a plugin which must not miss them was not told yet";
        let name = "boxgate_script_events_behind";
        out.add(name, "gauge", doc, &labels, (all - row.place).max(0));
        let doc = "Since when it is behind, in seconds";
        let seconds = (now.0 - row.since.0).max(0) / 1000;
        let name = "boxgate_script_behind_seconds";
        out.add(name, "gauge", doc, &labels, seconds);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: UnixMillis = UnixMillis(1_700_000_000_000);

    fn schedule() -> Vec<Duration> {
        let seconds = [
            0, 5, 60, 300, 900, 3_600, 7_200, 18_000, 36_000, 50_400, 72_000,
        ];
        seconds.map(Duration::from_secs).to_vec()
    }

    #[test]
    fn pauses_grow_and_never_reach_hours() {
        for (tries, around) in [(1, 5), (2, 60), (3, 300), (4, 900), (5, 900), (99, 900)] {
            let pause = pause(&schedule(), tries).as_secs_f64();
            let around = f64::from(around);
            assert!(
                (0.8 * around..=1.2 * around).contains(&pause),
                "{tries}: {pause}"
            );
        }
        assert!(pause(&[Duration::ZERO], 1) >= SHORTEST_PAUSE.mul_f64(0.8));
    }

    #[test]
    fn an_event_is_passed_over_once_its_schedule_is() {
        let row = |tries| Straggler {
            plugin: "crier".to_owned(),
            place: 7,
            since: START,
            tries,
            failing_since: Some(START),
            due: START,
            error: None,
        };
        let (delays, hours) = (schedule(), |n| START.plus(Duration::from_hours(n)));
        assert!(!is_over(&delays, &row(200), hours(52)));
        assert!(is_over(&delays, &row(200), hours(53)));
        assert!(!is_over(&delays, &row(3), hours(53)), "too few tries");
    }
}
