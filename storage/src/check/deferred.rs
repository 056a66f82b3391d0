//! Computing the SHA-256 of what came in without one: each such blob is read MiB by MiB against what was hashed when it
//! came, so that the digest is of the very bytes that BLAKE3 proves.
//!
//! What is missing stands in the rows alone. A computation that is cut goes on where it last told that it was
//! ([`Halfway`]), or begins that one blob again.

use digest::common::hazmat::{SerializableState as _, SerializedState};
use futures_util::StreamExt as _;
use sha2::Digest as _;

use super::scrub::Pace;
use super::{Finding, Problem, Stock};
use crate::blob::BlobKey;
use crate::digest::{BLOCK_BYTES, Sha256};
use crate::error::{Error, ErrorKind, Result, chain};
use crate::layer::verify;
use crate::metadata::deferred::After;
use crate::metadata::scrub::ToScrub;
use crate::range::ByteRange;

/// Where the computation of one blob stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Halfway {
    /// The blob.
    pub key: BlobKey,
    /// How many of its bytes were hashed, a multiple of a MiB.
    pub offset: u64,
    /// The state of the hash there, as its crate writes it.
    pub state: Vec<u8>,
}

/// What one pass came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Computed {
    /// Blobs whose SHA-256 is known now.
    pub blobs: u64,
    /// Those that cannot be read as they were hashed, for now or at all.
    pub failed: u64,
}

/// Progress is told after so many bytes, and after each blob.
const TOLD_EVERY: u64 = 16 * BLOCK_BYTES;

impl Stock {
    /// Computes what is missing, oldest first, reading at most `rate_bytes` in a second (0: as many as come), until nothing
    /// is. Takes damage out of service as a scrub does. Tells how many bytes more were read, and where it goes on after a
    /// cut; goes on itself when the future that told it is over.
    ///
    /// # Errors
    /// When the rows do not answer.
    /// # Cancel safety
    /// Dropping the future leaves the rest for another time.
    pub async fn complete_sha256<F>(
        &self,
        rate_bytes: u64,
        mut from: Option<Halfway>,
        mut tell: impl FnMut(u64, Option<Halfway>) -> F + Send,
    ) -> Result<Computed>
    where
        F: Future<Output = ()> + Send,
    {
        let mut pace = Pace::of(rate_bytes);
        let mut computed = Computed::default();
        let mut after: Option<After> = None;
        while let Some((blob, place)) = self.metadata.next_deferred(after).await? {
            after = Some(place);
            let begun = from.take_if(|from| from.key == blob.meta.key);
            match self.sha256_of(&blob, begun, &mut pace, &mut tell).await {
                Ok(sha256) => {
                    self.metadata.learn_sha256(&blob.meta.key, sha256).await?;
                    computed.blobs += 1;
                    tell(0, None).await;
                }
                Err(e) => {
                    computed.failed += 1;
                    self.put_off(&blob, &e, &mut pace).await?;
                }
            }
        }
        Ok(computed)
    }

    async fn sha256_of<F>(
        &self,
        blob: &ToScrub,
        begun: Option<Halfway>,
        pace: &mut Pace,
        tell: &mut (impl FnMut(u64, Option<Halfway>) -> F + Send),
    ) -> Result<Sha256>
    where
        F: Future<Output = ()> + Send,
    {
        let meta = blob.meta;
        let (mut at, mut hasher) = begun
            .and_then(|begun| restored(&begun, meta.length))
            .unwrap_or_else(|| (0, sha2::Sha256::new()));
        let store = self.engine.options().stores.get(&blob.store);
        let store = store.ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, OP, meta.key.to_string())
                .with_source("no store has the name that its row tells")
        })?;
        let tree = self.metadata.blob_tree(&meta).await?;
        let rest = ByteRange::try_new(at, meta.length).expect("it begins within its length");
        let mut blocks = verify::open(&store.read, &meta, &tree, rest).await?;
        let mut told_at = at;
        while let Some(block) = blocks.next().await {
            let block = block?;
            let bytes = block.len() as u64;
            hasher.update(&block);
            at += bytes;
            pace.read(bytes).await;
            if at - told_at >= TOLD_EVERY && at.is_multiple_of(BLOCK_BYTES) {
                let here = Halfway {
                    key: meta.key,
                    offset: at,
                    state: hasher.serialize().to_vec(),
                };
                tell(at - told_at, Some(here)).await;
                told_at = at;
            }
            // A MiB took some milliseconds of hashing; others want this thread, too.
            tokio::task::yield_now().await;
        }
        tell(at - told_at, None).await;
        Ok(Sha256(hasher.finalize().into()))
    }

    /// What cannot be computed now is looked at as a scrub would, and waits for the next pass.
    async fn put_off(&self, blob: &ToScrub, error: &Error, pace: &mut Pace) -> Result<()> {
        let key = blob.meta.key;
        tracing::warn!(blob = %key, error = chain(error), "its SHA-256 is not known yet");
        if !matches!(error.kind(), ErrorKind::Damaged | ErrorKind::NotFound) {
            return Ok(());
        }
        let problem: Option<Problem> = self.examine(blob, pace).await?;
        let _told: Option<Finding> = self.settle(blob, problem).await?;
        Ok(())
    }
}

/// A computation as it was; `None` begins anew.
fn restored(begun: &Halfway, length: u64) -> Option<(u64, sha2::Sha256)> {
    let fits = begun.offset.is_multiple_of(BLOCK_BYTES) && begun.offset <= length;
    let state = SerializedState::<sha2::Sha256>::try_from(&begun.state[..]).ok()?;
    let hasher = sha2::Sha256::deserialize(&state).ok()?;
    fits.then_some((begun.offset, hasher))
}

const OP: &str = "deferred.compute";
