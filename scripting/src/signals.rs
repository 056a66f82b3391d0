//! What is counted of the calls of one hook of one plugin; outlives a reload.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::breaker::Breaker;
use crate::guard::Usage;
use crate::hook::Hook;

/// How a call ended, as metrics write it.
pub const OUTCOMES: [&str; 9] = [
    "ok", "answer", "error", "deadline", "limit", "memory", "queue", "panic", "skipped",
];

/// Counts of one hook of one plugin.
#[derive(Debug)]
pub(crate) struct Counters {
    outcomes: [AtomicU64; OUTCOMES.len()],
    nanoseconds: AtomicU64,
    operations: AtomicU64,
    peak_bytes: AtomicU64,
    pub(crate) in_flight: AtomicU64,
    pub(crate) breaker: Breaker,
    logged_at: AtomicU64,
    unlogged: AtomicU64,
    born: Instant,
}

impl Counters {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            outcomes: std::array::from_fn(|_| AtomicU64::new(0)),
            nanoseconds: AtomicU64::new(0),
            operations: AtomicU64::new(0),
            peak_bytes: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            breaker: Breaker::new(now),
            logged_at: AtomicU64::new(0),
            unlogged: AtomicU64::new(0),
            born: now,
        }
    }

    pub(crate) fn count(&self, outcome: &str, usage: Usage) {
        if let Some(index) = OUTCOMES.iter().position(|o| *o == outcome) {
            self.outcomes[index].fetch_add(1, Ordering::Relaxed);
        }
        let nanoseconds = u64::try_from(usage.elapsed.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
        self.operations
            .fetch_add(usage.operations, Ordering::Relaxed);
        self.peak_bytes
            .fetch_max(usage.peak_bytes as u64, Ordering::Relaxed);
    }

    /// Whether an error may be logged now (one a second), and how many were not.
    pub(crate) fn may_log(&self, now: Instant) -> Option<u64> {
        let second = now.saturating_duration_since(self.born).as_secs() + 1;
        if self.logged_at.swap(second, Ordering::Relaxed) == second {
            self.unlogged.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.unlogged.swap(0, Ordering::Relaxed))
    }
}

/// What was counted of one hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// The plugin.
    pub plugin: String,
    /// The hook.
    pub hook: Hook,
    /// Calls by outcome.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Time spent in all calls.
    pub time: Duration,
    /// Operations of all calls.
    pub operations: u64,
    /// The most memory that a call held.
    pub peak_bytes: u64,
    /// Calls under way.
    pub in_flight: u64,
    /// Whether it rests after too many failures.
    pub tripped: bool,
}

impl Counters {
    pub(crate) fn read(&self, plugin: &str, hook: Hook, now: Instant) -> Counted {
        let outcome = |index: usize| self.outcomes[index].load(Ordering::Relaxed);
        Counted {
            plugin: plugin.to_owned(),
            hook,
            outcomes: OUTCOMES
                .iter()
                .enumerate()
                .map(|(index, name)| (*name, outcome(index)))
                .collect(),
            time: Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)),
            operations: self.operations.load(Ordering::Relaxed),
            peak_bytes: self.peak_bytes.load(Ordering::Relaxed),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            tripped: self.breaker.tripped(now),
        }
    }
}
