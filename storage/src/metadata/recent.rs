//! What was read of names, kept until any row changes that it may have been read from.
//!
//! A gateway reads the same few names thousands of times a second. All changes to an embedded database go through the one
//! writer of this process, which counts them before it answers: what was read at the present count is what a read would
//! find now. That nothing is there is never kept. Where other processes write too, nothing is kept at all; one that
//! writes beside an embedded gateway (`boxgate admin bootstrap`) is noticed within [`MOST_AGE`].

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;

use super::Metadata;
use crate::error::Result;

/// How long anything is kept.
const MOST_AGE: Duration = Duration::from_secs(1);
/// Reads at once of one kind: those of one key follow each other, and all but the first find what that one read.
const READS: usize = 16;
/// How long one waits for another's read before it reads by itself, as it would for a connection.
const READ_WAIT: Duration = Duration::from_secs(5);

/// Counts what may have changed names.
#[derive(Debug, Clone, Default)]
pub(super) struct Changes(Arc<AtomicU64>);

impl Changes {
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Values that were read, or made of what was read, by key.
pub struct Recent<K, V> {
    changes: Changes,
    kept: Option<moka::sync::Cache<K, (u64, V)>>,
    turns: [Mutex<()>; READS],
}

impl<K, V> Recent<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Keeps values of `most_bytes` together, each as heavy as `weigh` says, of the rows of `metadata`.
    pub fn new(metadata: &Metadata, most_bytes: u64, weigh: fn(&V) -> u32) -> Self {
        let inner = &metadata.inner;
        Self::with(&inner.changes, inner.alone, most_bytes, weigh)
    }

    /// `alone`: whether all changes are counted.
    pub(super) fn with(
        changes: &Changes,
        alone: bool,
        most_bytes: u64,
        weigh: fn(&V) -> u32,
    ) -> Self {
        let kept = alone.then(|| {
            moka::sync::Cache::builder()
                .weigher(move |_key, (_, value): &(u64, V)| weigh(value))
                .max_capacity(most_bytes)
                .time_to_live(MOST_AGE)
                .build()
        });
        Self {
            changes: changes.clone(),
            kept,
            turns: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// What is kept for `key`, else what `read` finds.
    ///
    /// # Errors
    /// Those of `read`.
    pub async fn or_read(
        &self,
        key: K,
        read: impl Future<Output = Result<Option<V>>>,
    ) -> Result<Option<V>> {
        let Some(kept) = &self.kept else {
            return read.await;
        };
        let at_present = || {
            let (then, found) = kept.get(&key)?;
            (then == self.changes.count()).then_some(found)
        };
        if let Some(found) = at_present() {
            return Ok(Some(found));
        }
        // A thousand that miss at once would keep each other from the few connections there are.
        let turn = self.turns[turn_of(&key)].lock();
        let turn = tokio::time::timeout(READ_WAIT, turn).await;
        if let Some(found) = at_present() {
            return Ok(Some(found));
        }
        // Before the read: what changes meanwhile makes it old at once.
        let now = self.changes.count();
        let found = read.await?;
        if let Some(found) = &found {
            kept.insert(key, (now, found.clone()));
        }
        drop(turn);
        Ok(found)
    }
}

fn turn_of(key: &impl Hash) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    usize::try_from(hasher.finish() % READS as u64).expect("it is a small number")
}

impl<K, V> fmt::Debug for Recent<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recent")
            .field("changes", &self.changes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recent(alone: bool) -> (Changes, Recent<u8, u8>) {
        let changes = Changes::default();
        let recent = Recent::with(&changes, alone, 100, |_| 1);
        (changes, recent)
    }

    async fn ask(recent: &Recent<u8, u8>, there: Option<u8>) -> Option<u8> {
        recent.or_read(1, async { Ok(there) }).await.unwrap()
    }

    #[tokio::test]
    async fn what_was_read_is_kept_until_anything_changes() {
        let (changes, recent) = recent(true);
        assert_eq!(ask(&recent, Some(1)).await, Some(1));
        assert_eq!(ask(&recent, Some(2)).await, Some(1));
        changes.add();
        assert_eq!(ask(&recent, Some(2)).await, Some(2));
    }

    #[tokio::test]
    async fn that_nothing_is_there_is_never_kept() {
        let (_changes, recent) = recent(true);
        assert_eq!(ask(&recent, None).await, None);
        assert_eq!(ask(&recent, Some(1)).await, Some(1));
    }

    #[tokio::test]
    async fn what_changed_while_it_was_read_is_read_again() {
        let (changes, recent) = recent(true);
        let read = async {
            changes.add();
            Ok(Some(1))
        };
        assert_eq!(recent.or_read(1, read).await.unwrap(), Some(1));
        assert_eq!(ask(&recent, Some(2)).await, Some(2));
    }

    #[tokio::test]
    async fn those_who_miss_at_once_read_once() {
        let (_changes, recent) = recent(true);
        let reads = AtomicU64::new(0);
        let ask = || {
            recent.or_read(1, async {
                reads.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                Ok(Some(1))
            })
        };
        let found = futures_util::future::join_all((0..100).map(|_| ask())).await;
        assert!(found.into_iter().all(|found| found.unwrap() == Some(1)));
        assert_eq!(reads.into_inner(), 1);
    }

    #[tokio::test]
    async fn where_others_write_nothing_is_kept() {
        let (_changes, recent) = recent(false);
        assert_eq!(ask(&recent, Some(1)).await, Some(1));
        assert_eq!(ask(&recent, Some(2)).await, Some(2));
    }
}
