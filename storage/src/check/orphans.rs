//! Garbage: what is due, and bytes that no row names.
//!
//! No way of ours leaves such bytes behind, since the row comes first and goes last. They mean a defect, a
//! hand in the directory, or a database that was restored from a backup, and then they are boxes that were
//! published since. So an orphan is removed only when it was seen twice, `age` apart, and not at all while
//! there are more of them than a few.
//!
//! What was seen is a row (`orphans`), where the local store could have moved the file aside. A row is the
//! same for every store, an object store has no cheap move; the bytes stay where a newer backup's rows look
//! for them; it travels with the rows that are being restored, so that a look from before a restore is not
//! held against bytes after it; and a file is never renamed, which would be one more state to crash in.
//! From there they go the way of all bytes: into the trash, in a transaction that looks once more whether
//! any row claims them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::walk::Walk;
use super::{Problem, Stock, claims_in};
use crate::blob::BlobKey;
use crate::error::Result;

/// When bytes that no row names may be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrphanLimits {
    /// How long they must be known.
    pub age: Duration,
    /// More of them in one store stop the sweep. Each costs 16 bytes while it runs.
    pub most: u64,
    /// More of them per hundred keys of a store stop the sweep.
    pub most_percent: u64,
}

impl Default for OrphanLimits {
    fn default() -> Self {
        Self {
            age: Duration::from_hours(7 * 24),
            most: 100,
            most_percent: 1,
        }
    }
}

/// What [`Stock::collect`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs and leftovers that were due and are removed, orphans included.
    pub removed: u64,
    /// What was found in each store.
    pub stores: BTreeMap<String, Orphans>,
}

/// The orphans of one store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Orphans {
    /// Keys that the store holds bytes under.
    pub stored: u64,
    /// How many of them no row names.
    pub orphans: u64,
    /// How many of these were known for long enough and are removed.
    pub removed: u64,
    /// There are too many: none was noted, none was removed.
    pub stopped: bool,
}

impl Collected {
    /// Whether a store has so many orphans that somebody must look.
    pub fn is_stopped(&self) -> bool {
        self.stores.values().any(|store| store.stopped)
    }
}

impl Stock {
    /// Removes what is due, and bytes that no row names once they were known for long enough.
    ///
    /// # Errors
    /// When rows or a store cannot be read. What a store does not remove stays due.
    /// # Cancel safety
    /// Dropping the future leaves the rest for another time.
    pub async fn collect(&self, limits: OrphanLimits) -> Result<Collected> {
        let removed = self.engine.sweep().await?;
        let mut found = self.orphans(limits).await?;
        let known_since = self.now().minus(limits.age);
        let mut condemned = 0;
        for (name, (counts, keys)) in &mut found {
            if is_too_many(counts, limits) {
                counts.stopped = true;
                tracing::error!(
                    store = name,
                    orphans = counts.orphans,
                    stored = counts.stored,
                    "no row names these bytes; none is removed, they are too many"
                );
                continue;
            }
            let seen = self.metadata.see_orphans(name, keys, known_since);
            counts.removed = seen.await?;
            condemned += counts.removed;
        }
        let more = if condemned > 0 {
            self.engine.sweep().await?
        } else {
            0
        };
        Ok(Collected {
            removed: removed + more,
            stores: found
                .into_iter()
                .map(|(name, (counts, _))| (name, counts))
                .collect(),
        })
    }

    /// The keys of each store that no row names: the first [`OrphanLimits::most`] of them, and how many
    /// there are.
    async fn orphans(
        &self,
        limits: OrphanLimits,
    ) -> Result<BTreeMap<String, (Orphans, Vec<BlobKey>)>> {
        let mut found: BTreeMap<String, (Orphans, Vec<BlobKey>)> = BTreeMap::new();
        for (name, store) in &self.engine.options().stores {
            if store.list.is_some() {
                found.entry(name.clone()).or_default();
            }
        }
        let mut walk = Walk::begin(self);
        while let Some(place) = walk.next().await? {
            for (name, store) in &place.stores {
                let (counts, keys) = found.entry((*name).to_owned()).or_default();
                counts.stored += 1;
                if claims_in(&place.claims, name) {
                    continue;
                }
                let problem = self.confirmed(&place.key, name, store).await?;
                if matches!(problem, Some(Problem::Orphan { .. })) {
                    counts.orphans += 1;
                    if counts.orphans <= limits.most {
                        keys.push(place.key);
                    }
                }
            }
        }
        Ok(found)
    }
}

fn is_too_many(counts: &Orphans, limits: OrphanLimits) -> bool {
    let per_hundred = u128::from(counts.orphans) * 100;
    let stored = u128::from(counts.stored);
    counts.orphans > limits.most || per_hundred > stored * u128::from(limits.most_percent)
}
