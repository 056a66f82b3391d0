//! How many requests of one asker are worked on at once: further ones wait for their turn, in order.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::rates::Key;

/// All who are at work or wait; nobody else is known.
#[derive(Debug)]
pub struct Turns {
    most: usize,
    wait: Duration,
    by: Mutex<HashMap<Key, Arc<Semaphore>>>,
}

/// One request's turn; given back when dropped.
#[derive(Debug)]
pub struct Turn {
    turns: Arc<Turns>,
    key: Key,
    permit: Option<OwnedSemaphorePermit>,
}

impl Turns {
    /// So many at once, and so long for a turn.
    pub fn new(most: usize, wait: Duration) -> Arc<Self> {
        Arc::new(Self {
            most: most.min(Semaphore::MAX_PERMITS),
            wait,
            by: Mutex::default(),
        })
    }

    /// A turn for `key`, or `None` when none came in time.
    pub async fn take(self: &Arc<Self>, key: Key) -> Option<Turn> {
        // Before the semaphore: it must be dropped after it, wherever this future ends.
        let mut turn = Turn {
            turns: Arc::clone(self),
            key,
            permit: None,
        };
        let semaphore = {
            let mut by = self.by();
            let entry = by.entry(turn.key.clone());
            Arc::clone(entry.or_insert_with(|| Arc::new(Semaphore::new(self.most))))
        };
        // Most need not wait, nor a clock for it.
        if let Ok(permit) = Arc::clone(&semaphore).try_acquire_owned() {
            turn.permit = Some(permit);
            return Some(turn);
        }
        let taken = timeout(self.wait, semaphore.acquire_owned()).await;
        // It is never closed: an error is the time that ran out.
        turn.permit = Some(taken.ok()?.ok()?);
        Some(turn)
    }

    /// Whether there is one for `key` now.
    pub fn is_free(&self, key: &Key) -> bool {
        let by = self.by();
        by.get(key)
            .is_none_or(|semaphore| semaphore.available_permits() > 0)
    }

    fn by(&self) -> MutexGuard<'_, HashMap<Key, Arc<Semaphore>>> {
        self.by.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.permit = None;
        let mut by = self.turns.by();
        // Each who holds or waits has a hand on it, and gets one under this lock only.
        if by
            .get(&self.key)
            .is_some_and(|semaphore| Arc::strong_count(semaphore) == 1)
        {
            by.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Key {
        Key::Address([192, 0, 2, last].into())
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_its_share_at_work_waits_and_nobody_is_remembered_after() {
        let turns = Turns::new(2, Duration::from_secs(10));
        let first = turns.take(address(1)).await.unwrap();
        let second = turns.take(address(1)).await.unwrap();
        assert!(turns.take(address(1)).await.is_none());
        assert!(turns.take(address(2)).await.is_some());
        assert_eq!(turns.by().len(), 1);
        assert!(!turns.is_free(&address(1)) && turns.is_free(&address(2)));
        let (third, ()) = tokio::join!(turns.take(address(1)), async { drop(first) });
        drop((second, third.unwrap()));
        assert_eq!(turns.by().len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_waiting_leaves_nothing() {
        let turns = Turns::new(1, Duration::from_secs(10));
        let held = turns.take(address(1)).await.unwrap();
        let waiting = tokio::spawn({
            let turns = Arc::clone(&turns);
            async move { turns.take(address(1)).await }
        });
        tokio::task::yield_now().await;
        drop(held);
        waiting.abort();
        let _given_up = waiting.await;
        assert_eq!(turns.by().len(), 0);
        assert!(turns.take(address(1)).await.is_some());
    }
}
