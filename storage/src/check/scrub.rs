//! Reading what is stored, MiB by MiB, against what was hashed when it came in: bits rot, and a download
//! that happens to need them is the wrong moment to find out.
//!
//! What is damaged or missing is taken out of service and named to the MiB; sending the same bytes again
//! heals every name that held them. Blobs are read in the order of their keys, so that one key and one
//! offset tell where an interrupted scrub goes on ([`Cursor`]).

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Finding, NAMES, Problem, Stock, Stored, Subject, extent, stored};
use crate::blob::{BlobKey, BlobMeta};
use crate::digest::BLOCK_BYTES;
use crate::error::{ErrorKind, Result, chain};
use crate::layer::verify::{self, BlobTree};
use crate::metadata::scrub::ToScrub;
use crate::range::ByteRange;
use crate::sidecar::Sidecar;
use crate::store::Store;

/// Where a scrub stands: what is before this byte of this blob, and all blobs of smaller keys, was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The blob.
    pub key: BlobKey,
    /// The byte.
    pub offset: u64,
}

/// How much was read, and what was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrubbed {
    /// Blobs, up to their ends.
    pub blobs: u64,
    /// Bytes, damaged and missing ones included.
    pub bytes: u64,
    /// Bytes that were to be read when it began.
    pub total_bytes: u64,
    /// Blobs that are not what was hashed, or not there.
    pub damaged: u64,
    /// Blobs that were out of service and are whole again.
    pub healed: u64,
}

/// What [`Stock::scrub`] tells on its way.
#[derive(Debug, Clone)]
pub enum ScrubTold {
    /// A blob is not what was hashed.
    Finding(Finding),
    /// So far it is.
    Progress(Scrubbed, Cursor),
}

/// Damaged blocks that a finding names; the rest is counted.
pub const NAMED_BLOCKS: usize = 16;
/// Progress is told after so many bytes, and after each blob.
const TOLD_EVERY: u64 = 16 * BLOCK_BYTES;

impl Stock {
    /// Reads all blobs from `from` on, at most `rate_bytes` in a second (0: as many as come), and takes what
    /// is damaged or missing out of service. Tells each damaged blob as it is found, and every so often how
    /// far it is; goes on when the future that told it is over.
    ///
    /// # Errors
    /// When rows or a store cannot be read.
    /// # Cancel safety
    /// Dropping the future leaves the rest for another time.
    pub async fn scrub<F>(
        &self,
        rate_bytes: u64,
        from: Option<Cursor>,
        mut tell: impl FnMut(ScrubTold) -> F + Send,
    ) -> Result<Scrubbed>
    where
        F: Future<Output = ()> + Send,
    {
        let only = self.only.as_deref();
        let mut after = from.map_or_else(Vec::new, |from| place_of(from.key));
        let mut scrubbed = Scrubbed {
            total_bytes: self.metadata.bytes_to_scrub(&after, only).await?,
            ..Scrubbed::default()
        };
        let mut pace = Pace::of(rate_bytes);
        while let Some(blob) = self.metadata.next_to_scrub(&after, only).await? {
            let offset = from.filter(|from| from.key == blob.meta.key && !blob.quarantined);
            let offset = offset.map_or(0, |from| from.offset.min(blob.meta.length));
            let end = scrubbed.bytes + blob.meta.length;
            scrubbed.bytes += offset;
            let mut reading = Reading::new(&blob, offset, scrubbed);
            let problem = self.read_blob(&mut reading, &mut pace, &mut tell).await?;
            scrubbed.bytes = end;
            let is_whole = problem.is_none();
            scrubbed.blobs += 1;
            if is_whole {
                self.retell(&blob).await?;
            }
            match self.settle(&blob, problem).await? {
                Some(finding) => {
                    scrubbed.damaged += 1;
                    tell(ScrubTold::Finding(finding)).await;
                }
                // One that was not read from its start may be damaged before.
                None if is_whole && blob.quarantined && offset == 0 => {
                    self.metadata.heal_blob(&blob.meta.key).await?;
                    scrubbed.healed += 1;
                }
                None => {}
            }
            let here = Cursor {
                key: blob.meta.key,
                offset: blob.meta.length,
            };
            tell(ScrubTold::Progress(scrubbed, here)).await;
            after = place_behind(blob.meta.key);
        }
        Ok(scrubbed)
    }

    /// Writes beside a blob what its names are, where that is not told yet: they are older than sidecars, or were
    /// changed since.
    async fn retell(&self, blob: &ToScrub) -> Result<()> {
        let store = self.engine.options().stores.get(&blob.store);
        let Some(sidecars) = store.and_then(|store| store.sidecars.as_ref()) else {
            return Ok(());
        };
        let key = &blob.meta.key;
        let beside = sidecars.beside(key).await?;
        let told = beside
            .iter()
            .filter_map(|(_, text)| Sidecar::parse(text)?.path());
        let told: BTreeSet<String> = told.collect();
        for sidecar in self.metadata.sidecars_of(&blob.meta).await? {
            if sidecar.path().is_some_and(|path| !told.contains(&path)) {
                sidecars
                    .put(key, sidecar.upload, &sidecar.to_text())
                    .await?;
            }
        }
        Ok(())
    }

    /// Takes a blob with a problem out of service; `None` when there is none after all.
    pub(super) async fn settle(
        &self,
        blob: &ToScrub,
        problem: Option<Problem>,
    ) -> Result<Option<Finding>> {
        let Some(problem) = problem else {
            return Ok(None);
        };
        let key = blob.meta.key;
        let claims = self.metadata.claims_on(&key).await?;
        // It may have been deleted while it was read.
        if !claims.iter().any(|claim| extent(claim) > 0) {
            return Ok(None);
        }
        tracing::error!(blob = %key, store = blob.store, %problem, "a blob is damaged");
        // Where nothing was read, nothing is known of the bytes themselves.
        if !matches!(problem, Problem::NoStore | Problem::Unreadable { .. }) {
            self.metadata.quarantine_blob(&key).await?;
        }
        let finding = Finding::new(Subject::Blob, key, &blob.store, problem);
        let names = self.metadata.names_of(&key, NAMES).await?;
        Ok(Some(Finding { names, ..finding }))
    }

    /// What is wrong with one blob, damage to the MiB.
    pub(super) async fn examine(&self, blob: &ToScrub, pace: &mut Pace) -> Result<Option<Problem>> {
        let mut reading = Reading::new(blob, 0, Scrubbed::default());
        let mut tell_nobody = |_told| std::future::ready(());
        self.read_blob(&mut reading, pace, &mut tell_nobody).await
    }

    /// What a blob's bytes are compared with, or that it is not there.
    pub(super) async fn tree_of(&self, meta: &BlobMeta) -> Result<Result<BlobTree, Problem>> {
        match self.metadata.blob_tree(meta).await {
            Ok(tree) => Ok(Ok(tree)),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Internal) => {
                let expected = meta.length.div_ceil(BLOCK_BYTES);
                Ok(Err(Problem::Tree { expected, found: 0 }))
            }
            Err(e) => Err(e),
        }
    }

    async fn read_blob<F>(
        &self,
        reading: &mut Reading<'_>,
        pace: &mut Pace,
        tell: &mut (impl FnMut(ScrubTold) -> F + Send),
    ) -> Result<Option<Problem>>
    where
        F: Future<Output = ()> + Send,
    {
        let (meta, expected) = (reading.blob.meta, reading.blob.meta.length);
        let Some(store) = self.engine.options().stores.get(&reading.blob.store) else {
            return Ok(Some(Problem::NoStore));
        };
        match stored(store, &meta.key).await? {
            Stored::Bytes(found) if found == expected => {}
            Stored::Bytes(found) => return Ok(Some(Problem::Length { expected, found })),
            Stored::Nothing | Stored::NoObject => {
                return Ok(Some(Problem::Missing { expected }));
            }
            Stored::Unreadable(why) => return Ok(Some(Problem::Unreadable { why })),
        }
        let tree = match self.tree_of(&meta).await? {
            Ok(tree) => tree,
            Err(problem) => return Ok(Some(problem)),
        };
        while reading.at < expected {
            let Some(error) = reading.run(store, &tree, pace, tell).await else {
                continue;
            };
            match error.kind() {
                ErrorKind::Damaged => reading.damage.add(reading.at / BLOCK_BYTES),
                ErrorKind::NotFound => return Ok(Some(Problem::Missing { expected })),
                ErrorKind::Unavailable => return Err(error),
                _ => reading.damage.unreadable = Some(chain(&error)),
            }
            // The next block may be sound.
            reading.skip_block();
        }
        Ok(std::mem::take(&mut reading.damage).problem())
    }
}

fn place_of(key: BlobKey) -> Vec<u8> {
    key.as_bytes().to_vec()
}

/// No key has this place: it stands right behind.
pub(super) fn place_behind(key: BlobKey) -> Vec<u8> {
    let mut place = place_of(key);
    place.push(0);
    place
}

/// One blob, being read.
struct Reading<'b> {
    blob: &'b ToScrub,
    at: u64,
    damage: Damage,
    scrubbed: Scrubbed,
    told_at: u64,
}

impl<'b> Reading<'b> {
    fn new(blob: &'b ToScrub, at: u64, scrubbed: Scrubbed) -> Self {
        Self {
            blob,
            at,
            damage: Damage::default(),
            scrubbed,
            told_at: at,
        }
    }

    /// Reads verified blocks to the end, or to the first bad one; returns what ended it.
    async fn run<F>(
        &mut self,
        store: &Store,
        tree: &BlobTree,
        pace: &mut Pace,
        tell: &mut (impl FnMut(ScrubTold) -> F + Send),
    ) -> Option<crate::error::Error>
    where
        F: Future<Output = ()> + Send,
    {
        let meta = self.blob.meta;
        let rest = ByteRange::try_new(self.at, meta.length).expect("it ends at its length");
        let mut blocks = match verify::open(&store.read, &meta, tree, rest).await {
            Ok(blocks) => blocks,
            Err(e) => return Some(e),
        };
        while let Some(block) = blocks.next().await {
            let bytes = match block {
                Ok(bytes) => bytes.len() as u64,
                Err(e) => return Some(e),
            };
            self.moved(bytes);
            pace.read(bytes).await;
            // While there is damage the blob is not done with, and goes on from its start.
            if self.at - self.told_at >= TOLD_EVERY && self.damage.is_none() {
                self.told_at = self.at;
                let here = Cursor {
                    key: meta.key,
                    offset: self.at,
                };
                tell(ScrubTold::Progress(self.scrubbed, here)).await;
            }
        }
        None
    }

    fn moved(&mut self, bytes: u64) {
        self.at += bytes;
        self.scrubbed.bytes += bytes;
    }

    fn skip_block(&mut self) {
        let end = self.at - self.at % BLOCK_BYTES + BLOCK_BYTES;
        self.moved(end.min(self.blob.meta.length) - self.at);
    }
}

#[derive(Debug, Default)]
struct Damage {
    blocks: Vec<u64>,
    count: u64,
    unreadable: Option<String>,
}

impl Damage {
    fn add(&mut self, block: u64) {
        self.count += 1;
        if self.blocks.len() < NAMED_BLOCKS {
            self.blocks.push(block);
        }
    }

    fn is_none(&self) -> bool {
        self.count == 0 && self.unreadable.is_none()
    }

    fn problem(self) -> Option<Problem> {
        let Self {
            blocks,
            count,
            unreadable,
        } = self;
        if count > 0 {
            return Some(Problem::Damaged { blocks, count });
        }
        unreadable.map(|why| Problem::Unreadable { why })
    }
}

/// So many bytes in a second; a slow disk is not hurried afterwards by more than a second's worth.
#[derive(Debug)]
pub(super) struct Pace {
    rate_bytes: u64,
    next: Instant,
}

impl Pace {
    pub(super) fn of(rate_bytes: u64) -> Self {
        Self {
            rate_bytes,
            next: Instant::now(),
        }
    }

    pub(super) async fn read(&mut self, bytes: u64) {
        if self.rate_bytes == 0 {
            return;
        }
        let now = Instant::now();
        let due = now.checked_sub(Duration::from_secs(1)).unwrap_or(now);
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate_bytes);
        let share = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.next = self.next.max(due) + share;
        tokio::time::sleep_until(self.next).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_more_is_read_in_a_second_than_allowed() {
        let mut pace = Pace::of(10 << 20);
        let began = Instant::now();
        for _ in 0..50 {
            pace.read(1 << 20).await;
        }
        assert_eq!(began.elapsed().as_secs(), 5);
        // A pause is made up for by a second's worth and no more.
        tokio::time::sleep(Duration::from_mins(1)).await;
        let again = Instant::now();
        for _ in 0..50 {
            pace.read(1 << 20).await;
        }
        assert_eq!(again.elapsed().as_secs(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_nothing_is_waited_for() {
        let mut pace = Pace::of(0);
        let began = Instant::now();
        pace.read(1 << 40).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
