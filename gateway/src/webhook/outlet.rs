//! What all of a process share that send to endpoints: the client, the key of secrets, news of what is to be sent, counts.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::attempt::Report;
use crate::auth::master_key::MasterKey;
use crate::config::settings;
use crate::outbound::{Caller, Outbound};

/// How long connecting may take.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// The setting that opens networks.
pub const OPENS: &str = "webhooks.allow_networks";
/// Upper bounds of how long attempts took, in seconds.
const BUCKETS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0];

/// Shared by all that send to endpoints.
pub struct Outlet {
    /// What requests are sent by.
    pub caller: Caller,
    /// Seals secrets.
    pub key: MasterKey,
    pub(super) news: Arc<Notify>,
    /// Plugins are to be asked at once about what they said nothing of.
    pub(super) asks: Notify,
    counted: Mutex<Counted>,
}

impl fmt::Debug for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outlet").finish_non_exhaustive()
    }
}

/// What was counted since the start.
#[derive(Debug, Clone, Default)]
pub struct Counted {
    /// Attempts by endpoint, event and result.
    pub attempts: BTreeMap<(String, String, &'static str), u64>,
    /// Attempts that took up to each of [`Counted::bounds`], and those that took longer.
    pub took: [u64; BUCKETS.len() + 1],
    /// Seconds that all took.
    pub seconds: f64,
    /// Deliveries that were skipped.
    pub skipped: u64,
}

impl Counted {
    /// Upper bounds of [`Self::took`], in seconds.
    pub const fn bounds() -> [f64; BUCKETS.len()] {
        BUCKETS
    }
}

impl Outlet {
    /// Sends as the settings say.
    pub fn new(outbound: &Outbound, settings: &settings::Webhooks, key: MasterKey) -> Self {
        let caller = outbound.caller(OPENS, &settings.allow_networks, CONNECT_TIME);
        Self {
            caller: caller.through(settings.egress_proxy.clone()),
            key,
            news: Arc::new(Notify::new()),
            asks: Notify::new(),
            counted: Mutex::default(),
        }
    }

    /// Tells that something is to be sent, or to whom.
    pub fn tell(&self) {
        self.news.notify_one();
    }

    /// Has plugins asked about what they said nothing of, and tells that something is to be sent.
    pub fn ask(&self) {
        self.asks.notify_one();
        self.tell();
    }

    /// Counts deliveries that were skipped.
    pub fn count_skipped(&self, skipped: u64) {
        self.lock().skipped += skipped;
    }

    pub(super) fn count(&self, endpoint: &str, event: &str, report: &Report) {
        let seconds = report.took.as_secs_f64();
        let mut counted = self.lock();
        // Events of plugins may be called anything.
        let event = if event.starts_with("x.") { "x" } else { event };
        *counted
            .attempts
            .entry((endpoint.to_owned(), event.to_owned(), report.result))
            .or_default() += 1;
        let bucket = BUCKETS.iter().position(|bound| seconds <= *bound);
        counted.took[bucket.unwrap_or(BUCKETS.len())] += 1;
        counted.seconds += seconds;
    }

    /// What was counted since the start.
    pub fn counted(&self) -> Counted {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
