//! Who is too slow: the clocks of a body, in either direction.
//!
//! No I/O of its own. Time counts only while something is wanted from the client (a byte, or room
//! for one) and it has not come: a slow disk of ours never looks like a slow client.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// What is borne.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// How long nothing may move.
    pub(super) idle: Duration,
    /// The fewest bytes per second; 0 asks for none.
    pub(super) slowest_bytes: u64,
    /// How much waiting makes a rate.
    pub(super) window: Duration,
}

/// Why patience ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stalled {
    Idle,
    TooSlow,
}

/// The clocks of one direction of one connection or body.
pub(super) struct Pace {
    patience: Patience,
    /// Since when something is wanted that has not come.
    waiting_since: Option<Instant>,
    /// Waiting within the present window, before `waiting_since`.
    waited: Duration,
    /// Bytes moved within the present window.
    bytes: u64,
    timer: LazyTimer,
}

impl Pace {
    pub(super) fn new(patience: Patience) -> Self {
        Self {
            patience,
            waiting_since: None,
            waited: Duration::ZERO,
            bytes: 0,
            timer: LazyTimer::default(),
        }
    }

    /// `bytes` moved.
    pub(super) fn moved(&mut self, bytes: usize) {
        if let Some(since) = self.waiting_since.take() {
            self.waited += since.elapsed();
        }
        self.bytes += bytes as u64;
    }

    /// Nothing is wanted for now.
    pub(super) fn rest(&mut self) {
        self.moved(0);
    }

    /// Its timer is made anew, by the runtime that polls it next.
    pub(super) fn forget_timer(&mut self) {
        self.timer = LazyTimer::default();
    }

    /// Something is wanted and nothing moves: ready when that has lasted too long.
    pub(super) fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<Stalled> {
        loop {
            let now = Instant::now();
            let since = *self.waiting_since.get_or_insert(now);
            let waiting = now - since;
            let mut rest = self.patience.idle.saturating_sub(waiting);
            if rest.is_zero() {
                return Poll::Ready(Stalled::Idle);
            }
            if self.patience.slowest_bytes > 0 {
                let mut waited = self.waited + waiting;
                if waited >= self.patience.window {
                    if self.bytes < self.fewest() {
                        return Poll::Ready(Stalled::TooSlow);
                    }
                    // A new window; what is waited for now counts from its own beginning.
                    self.bytes = 0;
                    self.waited = Duration::ZERO;
                    waited = waiting;
                }
                rest = rest.min(self.patience.window.saturating_sub(waited));
            }
            // A day is for ever here, and far from the end of the clock.
            let deadline = now + rest.clamp(Duration::from_millis(1), Duration::from_hours(24));
            ready!(self.timer.poll_until(cx, deadline));
        }
    }

    /// The fewest bytes of one window.
    fn fewest(&self) -> u64 {
        self.patience
            .slowest_bytes
            .saturating_mul(self.patience.window.as_secs().max(1))
    }
}

/// A timer whose deadline mostly moves away before it is reached: it is set anew when it fires early,
/// which is rarer than each time the deadline moves.
#[derive(Debug, Default)]
pub(super) struct LazyTimer(Option<Pin<Box<Sleep>>>);

impl LazyTimer {
    /// Ready once `deadline` is reached; the deadline may differ from call to call.
    pub(super) fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        // One that is to fire before tells, without a look at the clock, that it is not time yet.
        if let Some(timer) = &mut self.0
            && !timer.is_elapsed()
            && timer.deadline() <= deadline
        {
            ready!(timer.as_mut().poll(cx));
        }
        while Instant::now() < deadline {
            let timer = self
                .0
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            if timer.is_elapsed() || timer.deadline() > deadline {
                timer.as_mut().reset(deadline);
            }
            ready!(timer.as_mut().poll(cx));
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const PATIENCE: Patience = Patience {
        idle: Duration::from_secs(30),
        slowest_bytes: 4096,
        window: Duration::from_mins(1),
    };

    /// Waits up to `limit` for the verdict.
    async fn wait(pace: &mut Pace, limit: Duration) -> Option<Stalled> {
        tokio::time::timeout(limit, poll_fn(|cx| pace.poll_stalled(cx)))
            .await
            .ok()
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_for_the_idle_time_is_idle() {
        let mut pace = Pace::new(PATIENCE);
        let start = Instant::now();
        assert_eq!(
            wait(&mut pace, Duration::from_secs(99)).await,
            Some(Stalled::Idle)
        );
        assert_eq!(start.elapsed().as_secs(), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_is_too_slow_after_one_window() {
        let mut pace = Pace::new(PATIENCE);
        let start = Instant::now();
        let verdict = loop {
            match wait(&mut pace, Duration::from_secs(10)).await {
                Some(verdict) => break verdict,
                None => pace.moved(1),
            }
        };
        assert_eq!(verdict, Stalled::TooSlow);
        assert_eq!(start.elapsed().as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn what_keeps_up_with_the_slowest_rate_is_borne_for_ever() {
        let mut pace = Pace::new(PATIENCE);
        for _ in 0..600 {
            assert_eq!(wait(&mut pace, Duration::from_secs(10)).await, None);
            // A fifth more than the rate, since the last tenth of a window has not come at its end.
            pace.moved(12 * 4096);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nothing_is_wanted_does_not_count() {
        let mut pace = Pace::new(PATIENCE);
        for _ in 0..10 {
            assert_eq!(wait(&mut pace, Duration::from_secs(1)).await, None);
            pace.moved(1);
            tokio::time::sleep(Duration::from_hours(1)).await;
        }
        assert_eq!(wait(&mut pace, Duration::from_secs(29)).await, None);
    }
}
