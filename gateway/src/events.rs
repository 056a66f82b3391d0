//! What happened, told to plugins and kept for endpoints: from the outbox, in order, each event at least once, by one
//! node at a time.
//!
//! The outbox is read behind a place that a row keeps (`events`), under a claim that runs out by itself when its node
//! is killed. The place moves once all plugins were told, in the transaction that keeps the event for endpoints; a kill in
//! between tells plugins again, and endpoints once. What fails is passed over by the hook's rule. Where a manifest says
//! `closed` the plugin falls behind: it gets a place of its own ([`stragglers`]), and nobody waits for it.

pub mod stragglers;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use boxgate_scripting::event::{Emitted, Outbox};
use boxgate_scripting::hook::Hook;
use boxgate_scripting::verdict::EventVerdict;
use boxgate_storage::Result;
use boxgate_storage::clock::UnixMillis;
use boxgate_storage::metadata::Metadata;
use boxgate_storage::metadata::outbox::Emission;
use boxgate_storage::metadata::upkeep::UpkeepRow;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::gateway::Gateway;
use crate::telemetry::trace;
use crate::webhook::spread::{self, Spreading, Subscriber};

/// The row of the place, and of the claim.
const EVENTS: &str = "events";
/// How long a claim lasts unless it is renewed: longer than all plugins of one event may take.
const CLAIM: Duration = Duration::from_mins(2);
/// How often the outbox is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After a failure.
const LATER: Duration = Duration::from_secs(5);
/// Events read at once.
const PAGE: u32 = 100;
/// Deliveries kept in one change of the rows: others write between them.
const SPREAD_AT_ONCE: usize = 128;
/// Events forgotten in one change of the rows: others write between them.
const PRUNED_AT_ONCE: u32 = 1000;

/// Where events of scripts go.
#[derive(Debug)]
pub struct ScriptOutbox {
    metadata: Metadata,
    handle: Handle,
}

impl ScriptOutbox {
    /// Into these rows; calls wait on threads of their own for what `handle` runs.
    pub fn new(metadata: Metadata, handle: Handle) -> Self {
        Self { metadata, handle }
    }
}

impl Outbox for ScriptOutbox {
    fn emit(&self, event: Emitted) -> std::result::Result<(), String> {
        let emission = Emission {
            name: event.name,
            plugin: event.plugin,
            data: event.data,
            depth: event.depth,
            causes: event.causes,
        };
        let kept = self.handle.block_on(self.metadata.emit(emission));
        kept.map_err(|e| boxgate_storage::error::chain(&e))
    }
}

/// Sets the first place, behind what happened so far: plugins are told news, not history.
///
/// # Errors
/// When the rows do not answer.
pub async fn begin(metadata: &Metadata, now: UnixMillis) -> Result<()> {
    if metadata.upkeep(EVENTS).await?.is_none() {
        keep(metadata, metadata.newest_event().await?, now).await?;
    }
    Ok(())
}

/// Tells what happens until the gateway drains.
pub async fn run(gateway: Arc<Gateway>) {
    let ending = gateway.upkeep.ending();
    while !ending.is_cancelled() {
        let wait = match page(&gateway, &ending).await {
            Ok(true) => continue,
            Ok(false) => LOOK_EVERY,
            Err(error) => {
                let error = boxgate_storage::error::chain(&error);
                tracing::warn!(error, "events wait to be told");
                LATER
            }
        };
        tokio::select! {
            () = ending.cancelled() => {}
            () = sleep(wait) => {}
        }
    }
}

/// Tells one page; true when there may be more.
async fn page(gateway: &Gateway, ending: &CancellationToken) -> Result<bool> {
    let metadata = &gateway.metadata;
    // Looked at without a claim first: where nothing happens, nothing is written.
    let place = place(metadata).await?;
    if metadata.newest_event().await? <= place {
        return Ok(false);
    }
    let owner = gateway.upkeep.owner();
    if !metadata.claim(EVENTS, owner, CLAIM).await? {
        return Ok(false);
    }
    let told = tell(gateway, ending).await;
    metadata.unclaim(EVENTS, owner).await?;
    told
}

async fn tell(gateway: &Gateway, ending: &CancellationToken) -> Result<bool> {
    let metadata = &gateway.metadata;
    // Another node may have moved it before the claim was ours.
    let events = metadata.events(place(metadata).await?, PAGE).await?;
    let more = events.len() == PAGE as usize;
    if events.is_empty() {
        return Ok(false);
    }
    let subscribers = spread::subscribers(metadata).await?;
    let asks = subscribers.iter().any(Subscriber::is_asked_about);
    if !asks && !gateway.scripts.defines(Hook::OnEvent) {
        let fresh = || Spreading::new(&gateway.scripts, &subscribers);
        let mut spreading = fresh();
        for event in &events {
            spreading.add(event, EventVerdict::default()).await;
            if spreading.letters() >= SPREAD_AT_ONCE {
                let full = std::mem::replace(&mut spreading, fresh());
                spread::keep(gateway, EVENTS, full.into_spread()).await?;
            }
        }
        if spreading.up_to() > 0 {
            spread::keep(gateway, EVENTS, spreading.into_spread()).await?;
        }
        return Ok(more);
    }
    let mut claimed = Instant::now();
    for event in events {
        if ending.is_cancelled() {
            return Ok(false);
        }
        let data = serde_json::from_str(&event.data).unwrap_or_default();
        let facts = Arc::new(spread::facts_of(&event, data));
        let rows = metadata.stragglers().await?;
        let behind: BTreeSet<String> = rows.into_iter().map(|row| row.plugin).collect();
        let asking = gateway.scripts.on_event(&facts, &behind);
        let told = trace::within(event.trace.as_deref(), asking).await;
        // A plugin that fails changes nothing for endpoints.
        for failed in told.failed {
            stragglers::fall_behind(gateway, &event, &failed).await?;
        }
        if claimed.elapsed() > CLAIM / 3 {
            if !metadata
                .claim(EVENTS, gateway.upkeep.owner(), CLAIM)
                .await?
            {
                return Ok(false);
            }
            claimed = Instant::now();
        }
        let mut spreading = Spreading::new(&gateway.scripts, &subscribers);
        spreading.add(&event, told.verdict).await;
        let mut spread = spreading.into_spread();
        spread.left_out = told.left_out;
        spread::keep(gateway, EVENTS, spread).await?;
    }
    Ok(more)
}

/// Forgets events that all were told of and that are older than the settings keep them.
///
/// # Errors
/// When the rows do not answer.
pub async fn prune(gateway: &Gateway) -> Result<()> {
    let metadata = &gateway.metadata;
    let until = gateway.clock.now().minus(gateway.settings.events_kept);
    // Looked at first: where nothing is due, nothing is written.
    if metadata
        .oldest_event()
        .await?
        .is_none_or(|oldest| oldest > until)
    {
        return Ok(());
    }
    let told = place(metadata).await?;
    // What stragglers were not told stays as long as they are told it, and no longer.
    let behind = metadata.stragglers().await?;
    let slowest = behind.iter().map(|row| row.place).min().unwrap_or(told);
    let patience = stragglers::patience(&gateway.settings.webhooks.delays);
    let oldest = until.min(gateway.clock.now().minus(patience));
    for (told, until) in [(slowest.min(told), until), (told, oldest)] {
        let most = u64::from(PRUNED_AT_ONCE);
        while metadata.prune_events(told, until, PRUNED_AT_ONCE).await? == most {}
    }
    Ok(())
}

async fn place(metadata: &Metadata) -> Result<i64> {
    let row = metadata.upkeep(EVENTS).await?;
    let state = row.and_then(|row| row.state);
    Ok(state.and_then(|text| text.parse().ok()).unwrap_or(0))
}

async fn keep(metadata: &Metadata, seq: i64, now: UnixMillis) -> Result<()> {
    let row = UpkeepRow {
        ended: now,
        state: Some(seq.to_string()),
    };
    metadata.keep_upkeep(EVENTS, row).await
}
