//! Blobs taken back by what stands beside them, where the rows were lost or are older than the stores.
//!
//! What stands beside bytes tells which name led to them and what they hash to; the bytes are read and hashed again
//! before a row is made of that. Rows that are there are asked first and never overruled ([`crate::metadata`] decides),
//! so that on a sound installation nothing happens. What has no sidecar, or another content than it says, stays and is
//! told.

use std::time::Duration;

use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};

use super::{Finding, Problem, Stock, Stored, Subject, stored};
use crate::blob::{BlobKey, BlobMeta};
use crate::digest::{BLOCK_BYTES, ContentHasher};
use crate::error::{ErrorKind, Result};
use crate::metadata::adopt::Foundling;
use crate::metadata::check::{BlobState, Claim, Claimant};
use crate::range::ByteRange;
use crate::sidecar::Sidecar;
use crate::store::Store;

use super::walk::Walk;

/// What was taken back, and what was not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// Blobs that have a row again.
    pub blobs: u64,
    /// Names that lead to a blob again.
    pub names: u64,
    /// Bytes that were read for it.
    pub bytes: u64,
    /// Blobs whose bytes are not what their sidecars say, and stay without a row.
    pub damaged: u64,
}

/// What [`Stock::adopt`] tells on its way.
#[derive(Debug, Clone)]
pub enum AdoptTold {
    /// A name leads to a blob again.
    Name {
        /// All of it.
        path: String,
        /// The blob.
        key: BlobKey,
        /// Name of its store.
        store: String,
    },
    /// The bytes of a blob are not what its sidecar says.
    Finding(Finding),
    /// So far it is.
    Progress(Adopted),
}

/// Progress is told after so many bytes.
const TOLD_EVERY: u64 = 64 * BLOCK_BYTES;

/// What the rows miss of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    /// All.
    Blob,
    /// Names, perhaps.
    Names,
}

impl Stock {
    /// Makes rows of what stands beside the bytes and no row knows. Rows of uploads that ended are kept for
    /// `known_for`: what has none and was published since is news to them.
    ///
    /// # Errors
    /// When rows or a store cannot be read. What was taken back until then is.
    /// # Cancel safety
    /// Dropping the future leaves the rest for another time.
    pub async fn adopt<F>(
        &self,
        known_for: Duration,
        mut tell: impl FnMut(AdoptTold) -> F + Send,
    ) -> Result<Adopted>
    where
        F: Future<Output = ()> + Send,
    {
        let mut adopted = Adopted::default();
        let known_since = self.now().minus(known_for);
        let mut walk = Walk::begin(self);
        while let Some(place) = walk.next().await? {
            for (name, store) in &place.stores {
                let Some(missing) = missing(&place.claims, name) else {
                    continue;
                };
                let Some(sidecars) = beside(store, &place.key).await? else {
                    continue;
                };
                let found = Foundling {
                    blob: sidecars[0].blob,
                    store: (*name).to_owned(),
                    values: None,
                    sidecars,
                    known_since,
                };
                let found = match missing {
                    Missing::Names => found,
                    Missing::Blob => {
                        match self.read(found, store, &mut adopted, &mut tell).await? {
                            Some(found) => found,
                            None => continue,
                        }
                    }
                };
                let names = self.metadata.adopt(found).await?;
                adopted.blobs += u64::from(missing == Missing::Blob && !names.is_empty());
                adopted.names += names.len() as u64;
                for path in names {
                    tracing::warn!(name = path, blob = %place.key, store = name, "taken back");
                    let (key, store) = (place.key, (*name).to_owned());
                    tell(AdoptTold::Name { path, key, store }).await;
                }
            }
        }
        Ok(adopted)
    }

    /// With the subtree values of its bytes, if those are what its sidecars say; else it is told.
    async fn read<F>(
        &self,
        found: Foundling,
        store: &Store,
        adopted: &mut Adopted,
        tell: &mut (impl FnMut(AdoptTold) -> F + Send),
    ) -> Result<Option<Foundling>>
    where
        F: Future<Output = ()> + Send,
    {
        let read = hashed(store, &found.blob, adopted, tell).await?;
        match read {
            Ok((blob, values)) => Ok(Some(Foundling {
                blob,
                values: Some(values),
                ..found
            })),
            Err(problem) => {
                adopted.damaged += 1;
                let finding = Finding::new(Subject::Bytes, found.blob.key, &found.store, problem);
                let names = found.sidecars.iter().filter_map(Sidecar::path).collect();
                tell(AdoptTold::Finding(Finding { names, ..finding })).await;
                Ok(None)
            }
        }
    }
}

/// What rows miss of bytes in that store; `None` where nothing is missing, or is to be.
fn missing(claims: &[Claim], store: &str) -> Option<Missing> {
    match claims {
        [] => Some(Missing::Blob),
        [claim] if claim.store == store => match &claim.by {
            // Its sidecar came when it was whole: that it is open still is what the rows were long ago.
            Claimant::Upload(upload) if !upload.completing => Some(Missing::Blob),
            Claimant::Blob(blob) if matches!(blob.state, BlobState::Live | BlobState::Doomed) => {
                Some(Missing::Names)
            }
            _ => None,
        },
        _ => None,
    }
}

/// The names that stand beside a blob and agree on what it is, oldest first; `None` where none does.
async fn beside(store: &Store, key: &BlobKey) -> Result<Option<Vec<Sidecar>>> {
    let Some(sidecars) = &store.sidecars else {
        return Ok(None);
    };
    let texts = sidecars.beside(key).await?;
    let parsed = texts.iter().filter_map(|(id, text)| {
        let sidecar = Sidecar::parse(text)?;
        let is_its = sidecar.upload == *id && sidecar.blob.key == *key;
        (is_its && sidecar.target.is_some()).then_some(sidecar)
    });
    let mut sidecars: Vec<_> = parsed.collect();
    sidecars.sort_by_key(|sidecar| (sidecar.published, sidecar.upload));
    let Some(first) = sidecars.first().map(|sidecar| sidecar.blob) else {
        return Ok(None);
    };
    // The first may have been written before its SHA-256 was known.
    let is_first = |blob: &BlobMeta| (blob.length, blob.blake3) == (first.length, first.blake3);
    sidecars.retain(|sidecar| is_first(&sidecar.blob));
    let sha256 = sidecars.iter().find_map(|sidecar| sidecar.blob.sha256);
    sidecars.retain(|sidecar| sidecar.blob.sha256.is_none() || sidecar.blob.sha256 == sha256);
    sidecars[0].blob.sha256 = sha256;
    Ok(Some(sidecars))
}

/// The blob with both digests and its subtree values, or what is wrong with its bytes.
async fn hashed<F>(
    store: &Store,
    blob: &BlobMeta,
    adopted: &mut Adopted,
    tell: &mut (impl FnMut(AdoptTold) -> F + Send),
) -> Result<Result<(BlobMeta, Vec<[u8; 32]>), Problem>>
where
    F: Future<Output = ()> + Send,
{
    let expected = blob.length;
    match stored(store, &blob.key).await? {
        Stored::Bytes(found) if found == expected => {}
        Stored::Bytes(found) => return Ok(Err(Problem::Length { expected, found })),
        Stored::Nothing | Stored::NoObject => return Ok(Err(Problem::Missing { expected })),
        Stored::Unreadable(why) => return Ok(Err(Problem::Unreadable { why })),
    }
    let mut hasher = ContentHasher::new([]);
    let mut told_at = adopted.bytes;
    let mut bytes = store
        .read
        .open(&blob.key, ByteRange::whole(expected))
        .await?;
    while let Some(chunk) = bytes.next().await {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(e) if e.kind() == ErrorKind::Unavailable => return Err(e),
            Err(e) => {
                let why = crate::error::chain(&e);
                return Ok(Err(Problem::Unreadable { why }));
            }
        };
        hasher.update(&chunk);
        adopted.bytes += chunk.len() as u64;
        if adopted.bytes - told_at >= TOLD_EVERY {
            told_at = adopted.bytes;
            tell(AdoptTold::Progress(*adopted)).await;
        }
    }
    let digests = hasher.finish();
    let sha256 = blob.sha256.or(digests.sha256);
    if digests.blake3 != blob.blake3 || digests.sha256 != sha256 {
        return Ok(Err(Problem::Unlike));
    }
    let blob = BlobMeta { sha256, ..*blob };
    Ok(Ok((blob, hasher.take_values())))
}
