//! Trips a hook that mostly fails, so that it stops costing requests their time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Calls of a window from which on it may trip.
const LEAST_CALLS: u64 = 100;
/// Length of a window.
const WINDOW: Duration = Duration::from_secs(10);
/// How long a tripped hook rests.
pub(crate) const REST: Duration = Duration::from_secs(30);

/// Counts the calls of one hook of one plugin. Without a lock: a count that is off by one trips a call later.
#[derive(Debug)]
pub(crate) struct Breaker {
    born: Instant,
    window: AtomicU64,
    calls: AtomicU64,
    failures: AtomicU64,
    rests_until: AtomicU64,
}

impl Breaker {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            born: now,
            window: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            rests_until: AtomicU64::new(0),
        }
    }

    fn at(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.born).as_millis();
        u64::try_from(since).unwrap_or(u64::MAX)
    }

    /// Whether the hook rests.
    pub(crate) fn tripped(&self, now: Instant) -> bool {
        let until = self.rests_until.load(Ordering::Relaxed);
        until != 0 && self.at(now) < until
    }

    /// Begins anew: what is called from now on is another version.
    pub(crate) fn reset(&self) {
        for count in [&self.calls, &self.failures, &self.rests_until] {
            count.store(0, Ordering::Relaxed);
        }
    }

    /// Counts one call; whether the hook rests from now on.
    pub(crate) fn count(&self, failed: bool, now: Instant) -> bool {
        let at = self.at(now);
        let window = at / u64::try_from(WINDOW.as_millis()).unwrap_or(1);
        if self.window.swap(window, Ordering::Relaxed) != window {
            self.calls.store(0, Ordering::Relaxed);
            self.failures.store(0, Ordering::Relaxed);
        }
        let calls = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        if !failed {
            return false;
        }
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        let trips = calls >= LEAST_CALLS && failures * 2 >= calls;
        if trips {
            let rest = u64::try_from(REST.as_millis()).unwrap_or(u64::MAX);
            self.rests_until.store(at + rest, Ordering::Relaxed);
            self.calls.store(0, Ordering::Relaxed);
            self.failures.store(0, Ordering::Relaxed);
        }
        trips
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hook_that_mostly_fails_rests_and_comes_back() {
        #[expect(
            clippy::disallowed_methods,
            reason = "a beginning to count from; no time passes here"
        )]
        let begin = Instant::now();
        let breaker = Breaker::new(begin);
        for _ in 0..LEAST_CALLS - 1 {
            breaker.count(true, begin);
        }
        assert!(!breaker.tripped(begin));
        assert!(breaker.count(true, begin));
        assert!(breaker.tripped(begin + REST / 2));
        assert!(!breaker.tripped(begin + REST));
        breaker.reset();
        assert!(!breaker.tripped(begin + REST / 2));
    }

    #[test]
    fn hook_that_fails_less_than_half_the_time_goes_on() {
        #[expect(
            clippy::disallowed_methods,
            reason = "a beginning to count from; no time passes here"
        )]
        let begin = Instant::now();
        let breaker = Breaker::new(begin);
        for n in 0..1000 {
            breaker.count(n % 3 == 0, begin);
        }
        assert!(!breaker.tripped(begin));
        // What failed in an earlier window counts no more.
        let later = begin + WINDOW;
        for _ in 0..LEAST_CALLS - 1 {
            breaker.count(true, later);
        }
        assert!(!breaker.tripped(later));
    }
}
