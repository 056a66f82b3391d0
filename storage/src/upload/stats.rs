//! What an engine did and where its time went, as plain numbers; the gateway gives them their names.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;

/// Where the time of an upload goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Waiting for a free buffer, or for the store to take what it was given.
    Room,
    /// Copying chunks into buffers.
    Copy,
    /// BLAKE3.
    Blake3,
    /// SHA-256 and the digests that a client declared.
    InOrder,
    /// Making a part durable (B2), from its last run handed over.
    Seal,
    /// Moving the offset in the row (B3).
    Advance,
    /// The last part's end to the answer: C0 to C3.
    Publish,
}

impl Stage {
    /// All of them, in the order in which bytes pass them.
    pub const ALL: [Self; 7] = [
        Self::Room,
        Self::Copy,
        Self::Blake3,
        Self::InOrder,
        Self::Seal,
        Self::Advance,
        Self::Publish,
    ];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Room => "room",
            Self::Copy => "copy",
            Self::Blake3 => "blake3",
            Self::InOrder => "sha256",
            Self::Seal => "seal",
            Self::Advance => "advance",
            Self::Publish => "publish",
        }
    }
}

/// A snapshot of what an engine did since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Bytes that writers took.
    pub bytes_received: u64,
    /// Bytes copied into buffers on their way to the store.
    pub bytes_copied: u64,
    /// Uploads in progress now, those ending in the background included.
    pub uploads_in_progress: u64,
    /// Uploads that were published.
    pub uploads_finished: u64,
    /// Uploads that were given up.
    pub uploads_aborted: u64,
    /// Times that an upload was gone on with.
    pub uploads_resumed: u64,
    /// Times that one gave the memory of its part back since others waited for it.
    pub uploads_gave_way: u64,
    /// Uploads whose stored bytes turned out to be gone.
    pub uploads_lost: u64,
    /// Blobs and leftovers that were due and are gone.
    pub blobs_removed: u64,
    /// Their bytes.
    pub bytes_removed: u64,
    /// Parts, and beginnings of parts, made durable and committed.
    pub part_commits: u64,
    /// Time spent per stage, in the order of [`Stage::ALL`].
    pub stages: [Duration; Stage::ALL.len()],
}

impl EngineStats {
    /// Time spent in one stage.
    pub fn stage(&self, stage: Stage) -> Duration {
        self.stages[stage as usize]
    }
}

/// Called with each commit of a part or an upload ([`Stage::Seal`], [`Stage::Advance`],
/// [`Stage::Publish`]) and the time it took.
pub(super) type Observer = Arc<dyn Fn(Stage, Duration) + Send + Sync>;

/// The numbers behind [`EngineStats`].
#[derive(Default)]
pub(super) struct Counters {
    pub(super) bytes_received: AtomicU64,
    /// Bytes copied into buffers, by the store that they went to.
    pub(super) copied: BTreeMap<String, Arc<AtomicU64>>,
    pub(super) uploads_finished: AtomicU64,
    pub(super) uploads_aborted: AtomicU64,
    pub(super) uploads_resumed: AtomicU64,
    pub(super) uploads_gave_way: AtomicU64,
    pub(super) uploads_lost: AtomicU64,
    pub(super) blobs_removed: AtomicU64,
    pub(super) bytes_removed: AtomicU64,
    pub(super) part_commits: AtomicU64,
    nanos: [AtomicU64; Stage::ALL.len()],
    observer: OnceLock<Observer>,
}

impl Counters {
    /// Of an engine that works on these stores.
    pub(super) fn of<'s>(stores: impl Iterator<Item = &'s String>) -> Self {
        Self {
            copied: stores
                .map(|store| (store.clone(), Arc::default()))
                .collect(),
            ..Self::default()
        }
    }

    pub(super) fn snapshot(&self, uploads_in_progress: u64) -> EngineStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        EngineStats {
            bytes_received: read(&self.bytes_received),
            bytes_copied: self.copied.values().map(|copied| read(copied)).sum(),
            uploads_in_progress,
            uploads_finished: read(&self.uploads_finished),
            uploads_aborted: read(&self.uploads_aborted),
            uploads_resumed: read(&self.uploads_resumed),
            uploads_gave_way: read(&self.uploads_gave_way),
            uploads_lost: read(&self.uploads_lost),
            blobs_removed: read(&self.blobs_removed),
            bytes_removed: read(&self.bytes_removed),
            part_commits: read(&self.part_commits),
            stages: Stage::ALL.map(|s| Duration::from_nanos(read(&self.nanos[s as usize]))),
        }
    }

    /// Sets who is told of commits; the first one stays.
    pub(super) fn observe_with(&self, observer: Observer) {
        let _second = self.observer.set(observer);
    }

    /// Adds the time since `since` to `stage`.
    pub(super) fn spent(&self, stage: Stage, since: Instant) {
        let took = since.elapsed();
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanos[stage as usize].fetch_add(nanos, Ordering::Relaxed);
        if matches!(stage, Stage::Seal | Stage::Advance | Stage::Publish)
            && let Some(observer) = self.observer.get()
        {
            observer(stage, took);
        }
    }
}

/// Adds to a counter that only grows.
pub(super) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.snapshot(0).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_numbered_as_they_are_listed() {
        for (number, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, number);
        }
    }
}
