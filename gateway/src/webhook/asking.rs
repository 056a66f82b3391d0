//! Asking plugins once more about deliveries of which they failed to say what is sent: beside those that send, so that
//! nobody waits for it, however many there are. Each delivery is asked about by itself, whatever becomes of others: which
//! of them waits for which is the lane's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use boxgate_storage::Result;
use boxgate_storage::error::chain;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::spread::{self, Subscriber};
use crate::gateway::Gateway;

/// The claim of whoever asks, and how long it lasts unless that is said again.
const BLOCKED: &str = "blocked webhooks";
const CLAIM: Duration = Duration::from_mins(1);
/// How often it is looked whether there is anything to ask.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often plugins are asked about what they failed at, though they did not change.
const ASK_EVERY: Duration = Duration::from_mins(1);
/// After a failure of the rows.
const LATER: Duration = Duration::from_secs(5);
/// Deliveries of one endpoint that are asked about before others have their turn.
const PAGE: u32 = 50;
/// Deliveries of one endpoint that fail once more in a round: the next one goes on behind them.
const FAILED_AT_ONCE: u32 = 16;

/// Asks until the gateway drains.
pub async fn run(gateway: Arc<Gateway>) {
    let ending = gateway.upkeep.ending();
    let mut desk = Desk::new(Arc::clone(&gateway), ending.clone());
    while !ending.is_cancelled() {
        let wait = match desk.turn().await {
            Ok(true) => continue,
            Ok(false) => LOOK_EVERY,
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "blocked deliveries wait to be asked about"
                );
                LATER
            }
        };
        tokio::select! {
            () = ending.cancelled() => {}
            () = gateway.outlet.asks.notified() => desk.is_due = true,
            () = sleep(wait) => {}
        }
    }
    if let Err(error) = desk.end().await {
        tracing::warn!(
            error = chain(&error),
            "blocked deliveries stay claimed for a while"
        );
    }
}

struct Desk {
    gateway: Arc<Gateway>,
    ending: CancellationToken,
    /// What plugins there were when it was last looked.
    generation: Option<u64>,
    /// A round is to begin at the next look.
    is_due: bool,
    /// When a round last began or ended.
    asked: Instant,
    /// Since when this node asks, while it does.
    claimed: Option<Instant>,
    /// How far the round has come, by endpoint.
    places: BTreeMap<String, Place>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// The last delivery that was asked about.
    after: i64,
    failed: u32,
    /// Nothing of it is asked about any more in this round.
    is_over: bool,
}

impl Desk {
    fn new(gateway: Arc<Gateway>, ending: CancellationToken) -> Self {
        Self {
            gateway,
            ending,
            generation: None,
            is_due: true,
            asked: Instant::now(),
            claimed: None,
            places: BTreeMap::new(),
        }
    }

    /// Begins a round once plugins changed, and now and then, or goes on with one; whether more of it is left.
    async fn turn(&mut self) -> Result<bool> {
        let generation = self.gateway.scripts.generation();
        let has_changed = self.generation.replace(generation) != Some(generation);
        if has_changed {
            // What failed may be what they can say now.
            self.places.clear();
        }
        if self.claimed.is_none() {
            self.is_due |= has_changed || self.asked.elapsed() >= ASK_EVERY;
            if !self.is_due || !self.begin().await? {
                return Ok(false);
            }
        }
        let is_left = self.pages().await?;
        if !is_left {
            self.end().await?;
        }
        Ok(is_left)
    }

    /// Whether there is anything to ask, and nobody else who asks: one node does, and tells none of it twice.
    async fn begin(&mut self) -> Result<bool> {
        let begins = self.gateway.metadata.has_blocked_deliveries().await? && self.claim().await?;
        for place in self.places.values_mut() {
            (place.failed, place.is_over) = (0, false);
        }
        (self.is_due, self.asked) = (false, Instant::now());
        Ok(begins)
    }

    async fn claim(&mut self) -> Result<bool> {
        let owner = self.gateway.upkeep.owner();
        let metadata = &self.gateway.metadata;
        let is_ours = metadata.claim(BLOCKED, owner, CLAIM).await?;
        self.claimed = is_ours.then(Instant::now);
        Ok(is_ours)
    }

    async fn end(&mut self) -> Result<()> {
        self.asked = Instant::now();
        if self.claimed.take().is_some() {
            let owner = self.gateway.upkeep.owner();
            self.gateway.metadata.unclaim(BLOCKED, owner).await?;
        }
        Ok(())
    }

    /// Asks about a page of each endpoint; whether any has more.
    async fn pages(&mut self) -> Result<bool> {
        let subscribers = spread::subscribers(&self.gateway.metadata).await?;
        let there: BTreeSet<&str> = subscribers.iter().map(|one| one.id.as_str()).collect();
        self.places.retain(|id, _| there.contains(id.as_str()));
        let mut is_left = false;
        for subscriber in &subscribers {
            is_left |= self.page(subscriber).await?;
            if self.claimed.is_none() || self.ending.is_cancelled() {
                return Ok(false);
            }
        }
        Ok(is_left)
    }

    /// Asks about a page of an endpoint; whether it has more.
    async fn page(&mut self, subscriber: &Subscriber) -> Result<bool> {
        let gateway = Arc::clone(&self.gateway);
        let metadata = &gateway.metadata;
        let id = &subscriber.id;
        let mut place = self.places.get(id).copied().unwrap_or_default();
        if place.is_over {
            return Ok(false);
        }
        let Some(plugin) = &subscriber.terms.transform else {
            // It names none any more: what was told is sent as it is.
            let freed = metadata.unblock_deliveries(id).await?;
            self.tell(id, freed);
            (place.after, place.is_over) = (0, true);
            self.places.insert(id.clone(), place);
            return Ok(false);
        };
        if !gateway.scripts.transforms(plugin) {
            return Ok(false);
        }
        let blocked = metadata.blocked_deliveries(id, place.after, PAGE).await?;
        if blocked.is_empty() {
            (place.after, place.is_over) = (0, true);
        }
        let (endpoint, mut freed) = (subscriber.facts(), 0);
        for one in &blocked {
            if !self.is_claimed().await? {
                break;
            }
            let said = tokio::select! {
                biased;
                () = self.ending.cancelled() => break,
                said = spread::told_again(&gateway.scripts, plugin, &endpoint, subscriber, one) => said,
            };
            match said {
                Ok(change) => {
                    metadata.unblock_delivery(one.seq, change).await?;
                    freed += 1;
                }
                Err(why) => {
                    tracing::debug!(endpoint = id, why, "a delivery stays blocked");
                    place.failed += 1;
                }
            }
            place.after = one.seq;
            if place.failed == FAILED_AT_ONCE {
                place.is_over = true;
                break;
            }
        }
        self.tell(id, freed);
        self.places.insert(id.clone(), place);
        Ok(!place.is_over)
    }

    /// Whether nobody else may ask, for longer than a plugin takes to answer.
    async fn is_claimed(&mut self) -> Result<bool> {
        match self.claimed {
            Some(since) if since.elapsed() <= CLAIM / 3 => Ok(true),
            Some(_) => self.claim().await,
            None => Ok(false),
        }
    }

    fn tell(&self, endpoint: &str, freed: u64) {
        if freed > 0 {
            tracing::info!(endpoint, freed, "deliveries are blocked no more");
            self.gateway.outlet.tell();
        }
    }
}
