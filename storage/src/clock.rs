//! Time as a value, so that expiry and retries can be tested without waiting.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Milliseconds since 1970-01-01 UTC; the only form of time that rows hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixMillis(pub i64);

impl UnixMillis {
    /// The moment `by` later; saturates.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// The moment `by` earlier; saturates.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)),
        )
    }
}

/// Where the current time comes from. Clocks affect speed and expiry only, never safety.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The current time.
    fn now(&self) -> UnixMillis;

    /// Goes by what was just told elsewhere from now on, where it can; how far ahead of that it was, in milliseconds.
    fn agree(&self, _told: UnixMillis) -> i64 {
        0
    }
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> UnixMillis {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        UnixMillis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// A clock that several machines share: each goes on from what it was told last, whatever its own is set to meanwhile.
#[derive(Debug)]
pub struct SharedClock(Mutex<(UnixMillis, Instant)>);

impl Default for SharedClock {
    /// By this machine's clock, until it is told another time.
    fn default() -> Self {
        Self(Mutex::new((SystemClock.now(), Instant::now())))
    }
}

impl Clock for SharedClock {
    fn now(&self) -> UnixMillis {
        let (told, since) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.plus(since.elapsed())
    }

    fn agree(&self, told: UnixMillis) -> i64 {
        let ahead = self.now().0.saturating_sub(told.0);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (told, Instant::now());
        ahead
    }
}

/// A clock that moves only when told to.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that stands at `start`.
    pub fn new(start: UnixMillis) -> Self {
        Self(AtomicI64::new(start.0))
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(
            i64::try_from(by.as_millis()).unwrap_or(i64::MAX),
            Ordering::SeqCst,
        );
    }
}

impl Clock for ManualClock {
    fn now(&self) -> UnixMillis {
        UnixMillis(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_shared_clock_goes_on_from_what_it_was_told() {
        let clock = SharedClock::default();
        let day = 24 * 3_600_000;
        let told = UnixMillis(clock.now().0 - day);
        assert_eq!(clock.agree(told), day);
        assert_eq!(clock.now(), told);
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(clock.now(), told.plus(Duration::from_secs(7)));
        assert_eq!(clock.agree(told.plus(Duration::from_secs(8))), -1_000);
    }
}
