//! Who holds memory for a part, and who of them gives it back when others wait for it.
//!
//! Where a store takes whole parts, whoever began one holds memory for all of it, however slowly its client
//! sends. When memory has been short for a second, the upload that would hold it for longest is asked to give
//! way: it commits what it has of its part as a tail and goes on from there once there is memory again. One of many
//! pieces of an upload has no tail, so it must come very slowly to be asked, and ends then.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::engine::Inner;
use crate::buffer::Reservation;

/// Uploads that hold memory for a part.
#[derive(Debug, Default)]
pub(super) struct Holders(Arc<Mutex<List>>);

#[derive(Debug, Default)]
struct List {
    held: HashMap<u64, Arc<Holder>>,
    next: u64,
    asked: Option<Instant>,
}

#[derive(Debug)]
struct Holder {
    since: Instant,
    /// Bytes of the part that had not come then.
    lacking: u64,
    /// Of those, what came.
    received: AtomicU64,
    /// Not asked before that.
    spared_until: Instant,
    /// Not asked if all of the part would be there within this time.
    soon: Duration,
    asked: AtomicBool,
}

/// Keeps one among those that hold memory, until it is dropped.
#[derive(Debug)]
pub(super) struct Holding {
    holder: Arc<Holder>,
    number: u64,
    list: Arc<Mutex<List>>,
}

fn lock(list: &Mutex<List>) -> MutexGuard<'_, List> {
    // Each change is one step.
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Holders {
    /// Enters one that holds memory for a part of which `lacking` bytes did not come yet.
    pub(super) fn enter(&self, lacking: u64, spared_until: Instant) -> Holding {
        self.add(lacking, spared_until, SOON)
    }

    /// Enters one that loses what it has of a part of so many bytes when it gives way.
    pub(super) fn enter_piece(&self, bytes: u64) -> Holding {
        self.add(bytes, Instant::now() + PIECE_SPARED, PIECE_SOON)
    }

    fn add(&self, lacking: u64, spared_until: Instant, soon: Duration) -> Holding {
        let holder = Arc::new(Holder {
            since: Instant::now(),
            lacking,
            received: AtomicU64::new(0),
            spared_until,
            soon,
            asked: AtomicBool::new(false),
        });
        let mut list = lock(&self.0);
        let number = list.next;
        list.next += 1;
        list.held.insert(number, Arc::clone(&holder));
        Holding {
            holder,
            number,
            list: Arc::clone(&self.0),
        }
    }

    /// Asks the one that would hold its memory for longest to give way, however many wait: one a second.
    fn ask_slowest(&self) {
        let mut list = lock(&self.0);
        let now = Instant::now();
        if list.asked.is_some_and(|asked| now - asked < SHORT_FOR) {
            return;
        }
        let left = |holder: &Arc<Holder>| Some((holder.left(now)?, Arc::clone(holder)));
        let slowest = list.held.values().filter_map(left).max_by_key(|(l, _)| *l);
        if let Some((_, slowest)) = slowest {
            slowest.asked.store(true, Ordering::Relaxed);
            list.asked = Some(now);
        }
    }
}

impl Holder {
    /// How long it would hold its memory at the rate so far; `None` for one that is not asked.
    fn left(&self, now: Instant) -> Option<Duration> {
        let held = now - self.since;
        let asked = self.asked.load(Ordering::Relaxed);
        if asked || held < SHORT_FOR || now < self.spared_until {
            return None;
        }
        let received = self.received.load(Ordering::Relaxed);
        let lacking = self.lacking.saturating_sub(received);
        let left = held.as_millis() * u128::from(lacking) / u128::from(received.max(1));
        let left = Duration::from_millis(u64::try_from(left).unwrap_or(u64::MAX));
        (left >= self.soon).then_some(left)
    }
}

impl Holding {
    /// Takes note of bytes that came.
    pub(super) fn received(&self, bytes: usize) {
        self.holder
            .received
            .fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Whether this one is to give way.
    pub(super) fn is_asked(&self) -> bool {
        self.holder.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        lock(&self.list).held.remove(&self.number);
    }
}

impl Inner {
    /// Waits for memory that is reserved for a part. For as long as it is short, one after the other of those
    /// that hold some is asked to give way.
    ///
    /// # Cancel safety
    /// As that of `memory`.
    pub(super) async fn memory(&self, memory: impl Future<Output = Reservation>) -> Reservation {
        let mut memory = std::pin::pin!(memory);
        loop {
            match timeout(SHORT_FOR, &mut memory).await {
                Ok(memory) => return memory,
                Err(_elapsed) => self.holders.ask_slowest(),
            }
        }
    }
}

/// How long memory is short before anybody is asked, and how long one holds it before that is the one.
const SHORT_FOR: Duration = Duration::from_secs(1);
/// Whoever has all of its part within this time is not asked: that is as soon as it could give way.
const SOON: Duration = Duration::from_secs(2);
/// How long a piece has before it is asked at all, and how soon all of one must be there that is not.
const PIECE_SPARED: Duration = Duration::from_secs(5);
const PIECE_SOON: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use super::*;

    const PART: u64 = 8 << 20;

    #[tokio::test(start_paused = true)]
    async fn the_slowest_is_asked_first_and_one_a_second() {
        let holders = Holders::default();
        let now = Instant::now();
        let (fast, slow, silent) = (
            holders.enter(PART, now),
            holders.enter(PART, now),
            holders.enter(PART, now),
        );
        let spared = holders.enter(PART, now + Duration::from_secs(30));
        holders.ask_slowest();
        assert!(!silent.is_asked(), "it just began");
        tokio::time::advance(Duration::from_secs(4)).await;
        fast.received(7 << 20);
        slow.received(1 << 20);
        holders.ask_slowest();
        assert!(silent.is_asked() && !slow.is_asked() && !fast.is_asked());
        holders.ask_slowest();
        assert!(!slow.is_asked(), "one a second");
        tokio::time::advance(SHORT_FOR).await;
        holders.ask_slowest();
        assert!(slow.is_asked() && !fast.is_asked());
        tokio::time::advance(SHORT_FOR).await;
        holders.ask_slowest();
        assert!(!fast.is_asked(), "it will have all of its part soon");
        assert!(!spared.is_asked(), "it gave way a moment ago");
    }

    #[tokio::test(start_paused = true)]
    async fn a_piece_is_asked_once_it_proved_to_be_very_slow() {
        let holders = Holders::default();
        let (silent, slow) = (holders.enter_piece(PART), holders.enter_piece(PART));
        tokio::time::advance(PIECE_SPARED / 2).await;
        holders.ask_slowest();
        assert!(!silent.is_asked(), "it just began");
        tokio::time::advance(PIECE_SPARED / 2).await;
        slow.received(2 << 20);
        holders.ask_slowest();
        assert!(silent.is_asked() && !slow.is_asked());
        tokio::time::advance(SHORT_FOR).await;
        holders.ask_slowest();
        assert!(!slow.is_asked(), "all of it is there within a minute");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_left_is_not_asked() {
        let holders = Holders::default();
        let gone = holders.enter(PART, Instant::now());
        let here = holders.enter(PART, Instant::now());
        tokio::time::advance(SHORT_FOR).await;
        here.received(100);
        drop(gone);
        holders.ask_slowest();
        assert!(here.is_asked());
    }
}
