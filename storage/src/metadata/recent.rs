//! What was read of names, kept until any row changes that it may have been read from.
//!
//! A gateway reads the same few names thousands of times a second. All changes to an embedded database go through the one
//! writer of this process, which counts them before it answers: what was read at the present count is what a read would
//! find now. That nothing is there is never kept. Where other processes write too, nothing is kept at all; one that
//! writes beside an embedded gateway (`boxgate admin bootstrap`) is noticed within [`MOST_AGE`].

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Metadata;
use crate::error::Result;

/// How long anything is kept.
const MOST_AGE: Duration = Duration::from_secs(1);

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
        // Before the read: what changes meanwhile makes it old at once.
        let now = self.changes.count();
        if let Some((then, found)) = kept.get(&key)
            && then == now
        {
            return Ok(Some(found));
        }
        let found = read.await?;
        if let Some(found) = &found {
            kept.insert(key, (now, found.clone()));
        }
        Ok(found)
    }
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
    async fn where_others_write_nothing_is_kept() {
        let (_changes, recent) = recent(false);
        assert_eq!(ask(&recent, Some(1)).await, Some(1));
        assert_eq!(ask(&recent, Some(2)).await, Some(2));
    }
}
