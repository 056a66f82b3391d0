//! Garbage: what is due, and bytes that no row names.
//!
//! No way of ours leaves such bytes behind, since the row comes first and goes last. They mean a defect, a
//! hand in the directory, or a database that was restored from a backup, and then they are boxes that were
//! published since. So an orphan is removed only when it was seen twice, `age` apart, and not at all while
//! there are too many of them ([`Brake`]).
//!
//! What was seen is a row (`orphans`), where the local store could have moved the file aside. A row is the
//! same for every store, an object store has no cheap move; the bytes stay where a newer backup's rows look
//! for them; it travels with the rows that are being restored, so that a look from before a restore is not
//! held against bytes after it; and a file is never renamed, which would be one more state to crash in.
//! From there they go the way of all bytes: into the trash, in a transaction that looks once more whether
//! any row claims them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::walk::{Place, Walk};
use super::{Problem, Stock, Stored, claims_in, stored};
use crate::blob::BlobKey;
use crate::clock::UnixMillis;
use crate::error::Result;
use crate::metadata::check::{Claim, Claimant};
use crate::upload::Swept;

/// When bytes that no row names may be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrphanLimits {
    /// How long they must be known.
    pub age: Duration,
    /// When there are too many of them.
    pub brake: Brake,
}

/// How many orphans of one store are too many: then something happened to the rows, and none is noted or
/// removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Brake {
    /// So few are never too many: in a small store the share alone would let none go.
    pub few: u64,
    /// More are too many. Each costs 16 bytes while a sweep runs.
    pub most: u64,
    /// More per hundred keys of the store are too many.
    pub most_percent: u64,
}

impl Default for OrphanLimits {
    fn default() -> Self {
        Self {
            age: Duration::from_hours(7 * 24),
            brake: Brake::default(),
        }
    }
}

impl Default for Brake {
    fn default() -> Self {
        Self {
            few: 3,
            most: 100,
            most_percent: 1,
        }
    }
}

impl Brake {
    /// For somebody who looked, and knows that they are to go. What is beyond this number goes the next
    /// time: 16 MiB of keys.
    pub const RELEASED: Self = Self {
        few: 1 << 20,
        most: u64::MAX,
        most_percent: 100,
    };

    fn stops(self, counts: &Orphans) -> bool {
        let per_hundred = u128::from(counts.orphans) * 100;
        let allowed = u128::from(counts.stored) * u128::from(self.most_percent);
        counts.orphans > self.few && (counts.orphans > self.most || per_hundred > allowed)
    }

    /// As many keys are remembered as can be of use.
    fn keys(self) -> u64 {
        self.most.max(self.few).min(Self::RELEASED.few)
    }
}

/// What [`Stock::collect`] did, or what it would do now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs and leftovers that were due, orphans included, and are gone.
    pub removed: Amount,
    /// What is due and did not go: its store does not remove it, or is away.
    pub kept: Amount,
    /// What nobody holds any more and is not due yet: downloads may still read it.
    pub waiting: Amount,
    /// What was found in each store.
    pub stores: BTreeMap<String, Orphans>,
}

/// So many, with so many bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// How many.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// The orphans of one store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orphans {
    /// Keys that the store holds bytes under.
    pub stored: u64,
    /// How many of them no row names.
    pub orphans: u64,
    /// Their bytes.
    pub bytes: u64,
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

/// What a walk over all keys found for [`Stock::collect`].
#[derive(Debug, Default)]
struct Survey {
    due: Amount,
    waiting: Amount,
    stores: BTreeMap<String, (Orphans, Vec<BlobKey>)>,
}

impl Stock {
    /// Removes what is due, and bytes that no row names once they were known for long enough.
    ///
    /// # Errors
    /// When rows or a store cannot be read. What a store does not remove stays due.
    /// # Cancel safety
    /// Dropping the future leaves the rest for another time.
    pub async fn collect(&self, limits: OrphanLimits) -> Result<Collected> {
        let swept = self.engine.sweep().await?;
        let mut survey = self.survey(limits.brake).await?;
        let known_since = self.now().minus(limits.age);
        let mut condemned = 0;
        for (name, (counts, keys)) in &mut survey.stores {
            if counts.stopped {
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
            Swept::default()
        };
        let removed = Amount {
            count: swept.removed + more.removed,
            bytes: swept.bytes + more.bytes,
        };
        Ok(survey.collected(removed))
    }

    /// What [`Self::collect`] would do now; changes nothing.
    ///
    /// # Errors
    /// When rows or a store cannot be read.
    pub async fn would_collect(&self, limits: OrphanLimits) -> Result<Collected> {
        let mut survey = self.survey(limits.brake).await?;
        let known_since = self.now().minus(limits.age);
        let mut removed = survey.due;
        for (name, (counts, keys)) in &mut survey.stores {
            if counts.stopped {
                continue;
            }
            let store = self.engine.options().stores.get(name);
            for key in self.metadata.known_orphans(name, keys, known_since).await? {
                if let Some(store) = store
                    && let Stored::Bytes(bytes) = stored(store, &key).await?
                {
                    counts.removed += 1;
                    removed.add(bytes);
                }
            }
        }
        survey.due = Amount::default();
        Ok(survey.collected(removed))
    }

    /// The keys of each store that no row names, as many as a sweep takes at once; how many there are; and
    /// what is, or will be, due.
    async fn survey(&self, brake: Brake) -> Result<Survey> {
        let mut survey = Survey::default();
        for (name, store) in &self.engine.options().stores {
            if store.list.is_some() && self.covers(name) {
                survey.stores.insert(name.clone(), Default::default());
            }
        }
        let mut walk = Walk::begin(self);
        while let Some(place) = walk.next().await? {
            self.survey_unheld(&place, &mut survey).await?;
            for (name, store) in &place.stores {
                let (counts, keys) = survey.stores.entry((*name).to_owned()).or_default();
                counts.stored += 1;
                if claims_in(&place.claims, name) {
                    continue;
                }
                let problem = self.confirmed(&place.key, name, store).await?;
                if let Some(Problem::Orphan { length }) = problem {
                    counts.orphans += 1;
                    counts.bytes += length;
                    if counts.orphans <= brake.keys() {
                        keys.push(place.key);
                    }
                }
            }
        }
        for (counts, _) in survey.stores.values_mut() {
            counts.stopped = brake.stops(counts);
        }
        Ok(survey)
    }

    /// Adds what rows have at this place that nobody holds.
    async fn survey_unheld(&self, place: &Place<'_>, survey: &mut Survey) -> Result<()> {
        for claim in self.covered(place) {
            let Some(due) = due(claim) else { continue };
            let found = place.stores.iter().find(|(name, _)| *name == claim.store);
            let bytes = match found {
                Some((_, store)) => match stored(store, &place.key).await? {
                    Stored::Bytes(bytes) => bytes,
                    Stored::Nothing | Stored::NoObject | Stored::Unreadable(_) => 0,
                },
                None => 0,
            };
            if due <= self.now() {
                survey.due.add(bytes);
            } else {
                survey.waiting.add(bytes);
            }
        }
        Ok(())
    }
}

impl Survey {
    fn collected(self, removed: Amount) -> Collected {
        let stores = self.stores.into_iter();
        Collected {
            removed,
            kept: self.due,
            waiting: self.waiting,
            stores: stores.map(|(name, (counts, _))| (name, counts)).collect(),
        }
    }
}

/// When the bytes of a claim may go, if nobody holds them.
fn due(claim: &Claim) -> Option<UnixMillis> {
    match &claim.by {
        Claimant::Blob(blob) => blob.due.filter(|_| blob.refs == 0),
        Claimant::Upload(_) | Claimant::Apart { .. } => None,
        Claimant::Trash { due } => Some(*due),
    }
}
