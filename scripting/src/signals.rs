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

/// Upper ends of the buckets of times, in seconds: from a fast hook to the longest deadline.
pub const SECONDS: [f64; 12] = [
    0.00001, 0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0,
];
/// Upper ends of the buckets of operations.
pub const OPERATIONS: [f64; 6] = [100.0, 1e3, 1e4, 5e4, 5e5, 5e6];

/// How often something was up to how much.
#[derive(Debug)]
struct Histogram<const N: usize> {
    ends: &'static [f64; N],
    // Each by itself; the last is beyond all ends.
    within: [AtomicU64; N],
    beyond: AtomicU64,
    // In billionths, so that no addition waits.
    sum: AtomicU64,
}

impl<const N: usize> Histogram<N> {
    fn new(ends: &'static [f64; N]) -> Self {
        Self {
            ends,
            within: std::array::from_fn(|_| AtomicU64::new(0)),
            beyond: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }

    fn add(&self, value: f64, units: u64) {
        let bucket = self.ends.iter().position(|end| value <= *end);
        let bucket = bucket.map_or(&self.beyond, |index| &self.within[index]);
        bucket.fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(units, Ordering::Relaxed);
    }

    fn read(&self) -> Distribution {
        let mut below = 0;
        let buckets = self.ends.iter().zip(&self.within).map(|(end, count)| {
            below += count.load(Ordering::Relaxed);
            (*end, below)
        });
        Distribution {
            buckets: buckets.collect(),
            count: below + self.beyond.load(Ordering::Relaxed),
            units: self.sum.load(Ordering::Relaxed),
        }
    }
}

/// How often something was up to how much, as metrics tell it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Distribution {
    /// Upper ends, and how often it was at most that.
    pub buckets: Vec<(f64, u64)>,
    /// How often.
    pub count: u64,
    /// All together: nanoseconds of times.
    pub units: u64,
}

/// Counts of one hook of one plugin.
#[derive(Debug)]
pub(crate) struct Counters {
    outcomes: [AtomicU64; OUTCOMES.len()],
    seconds: Histogram<{ SECONDS.len() }>,
    queued: Histogram<{ SECONDS.len() }>,
    operations: Histogram<{ OPERATIONS.len() }>,
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
            seconds: Histogram::new(&SECONDS),
            queued: Histogram::new(&SECONDS),
            operations: Histogram::new(&OPERATIONS),
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
        self.seconds
            .add(usage.elapsed.as_secs_f64(), nanoseconds(usage.elapsed));
        #[expect(clippy::cast_precision_loss, reason = "buckets are coarser than that")]
        self.operations
            .add(usage.operations as f64, usage.operations);
        self.peak_bytes
            .fetch_max(usage.peak_bytes as u64, Ordering::Relaxed);
    }

    /// Counts how long a call waited for a worker.
    pub(crate) fn waited(&self, time: Duration) {
        self.queued.add(time.as_secs_f64(), nanoseconds(time));
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

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What was counted of one hook.
#[derive(Debug, Clone, PartialEq)]
pub struct Counted {
    /// The plugin.
    pub plugin: String,
    /// The hook.
    pub hook: Hook,
    /// Calls by outcome.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Time spent in calls.
    pub seconds: Distribution,
    /// Time that calls of the work lane waited for a worker.
    pub queued: Distribution,
    /// Operations of calls.
    pub operations: Distribution,
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
            seconds: self.seconds.read(),
            queued: self.queued.read(),
            operations: self.operations.read(),
            peak_bytes: self.peak_bytes.load(Ordering::Relaxed),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            tripped: self.breaker.tripped(now),
        }
    }
}
