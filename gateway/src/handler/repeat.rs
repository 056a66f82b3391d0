//! What ended an upload once more, by a client that lost the answer to it: the last range of a file, or the request that
//! joined one of its pieces.

use boxgate_storage::blob::BlobMeta;
use boxgate_storage::catalog::BoxRef;
use boxgate_storage::digest::{Algorithm, Digest};
use boxgate_storage::layer::verify;
use boxgate_storage::metadata::accounts::OrganizationId;
use boxgate_storage::metadata::uploads::{Published, Target, UploadState};
use boxgate_storage::range::ByteRange;
use boxgate_storage::upload::UploadRow;
use bytes::{Buf as _, Bytes};
use futures_util::StreamExt as _;

use super::resumable::{Progress, Turn};
use super::upload::BY_NAME;
use crate::refusal::Refusal;
use crate::server::InboundBody;

/// The end of a file whose upload goes by its name.
#[derive(Debug)]
pub struct LastRange<'a> {
    /// The file's name.
    pub file: &'a BoxRef,
    /// The bytes, up to the file's end.
    pub bytes: ByteRange,
    /// Digests that the request tells of the whole file.
    pub expected: &'a [Digest],
}

impl Turn<'_> {
    /// What the caller's newest upload to that name became, if it was finished within the time that an open one
    /// may rest, is still what the name leads to, and ends with just the bytes that `body` brings. Nothing is
    /// stored. Without a digest of the whole those bytes must tell the file from another one of its length.
    ///
    /// # Errors
    /// What the rows, the store or the body answer.
    pub async fn last_range_again(
        &self,
        organization: OrganizationId,
        last: &LastRange<'_>,
        body: &mut InboundBody,
    ) -> Result<Option<Progress>, Refusal> {
        let target = self.target(last.file, last.expected);
        let newest = self.newest(organization, &target, Some(BY_NAME)).await?;
        let Some((row, published)) = newest.filter(|(row, published)| {
            published.blob.length == last.bytes.end() && are_of(last.expected, row, &published.blob)
        }) else {
            return Ok(None);
        };
        let Some(store) = self.still_named(last.file, &published).await? else {
            return Ok(None);
        };
        self.facts.set_upload(row.id.to_string());
        let _permit = self.gateway.admission.upload().await?;
        let mut seen = Seen::default();
        let same = self
            .is_stored(&store, &published.blob, last.bytes, body, &mut seen)
            .await?;
        let known = same && (seen.tells_files_apart() || !last.expected.is_empty());
        Ok(known.then(|| self.standing(&row)))
    }

    /// What the caller's newest upload to that name became that was joined in the same words, if that was within the
    /// time that an open one may rest and is still what the name leads to.
    ///
    /// # Errors
    /// What the rows answer.
    pub(super) async fn final_again(
        &self,
        organization: OrganizationId,
        (file, target): (&BoxRef, &Target),
        (note, expected): (Option<&str>, &[Digest]),
    ) -> Result<Option<Progress>, Refusal> {
        let newest = self.newest(organization, target, note).await?;
        let Some((row, published)) =
            newest.filter(|(row, _)| row.joins > 0 && row.expected == expected)
        else {
            return Ok(None);
        };
        let current = self.still_named(file, &published).await?;
        Ok(current.map(|_same| self.standing(&row)))
    }

    /// The caller's newest upload to that name with that note, if it was finished within the time that an open one
    /// may rest.
    async fn newest(
        &self,
        organization: OrganizationId,
        target: &Target,
        note: Option<&str>,
    ) -> Result<Option<(UploadRow, Published)>, Refusal> {
        let gateway = self.gateway;
        let rests = gateway.settings.uploads.idle_timeout;
        let since = gateway.clock.now().minus(rests);
        let rows = gateway
            .engine
            .uploads_to(&self.principal.sender(), organization, target, since)
            .await?;
        let newest = rows.into_iter().find(|row| row.note.as_deref() == note);
        let done = newest.filter(|row| row.state == UploadState::Done);
        Ok(done.and_then(|row| row.published.clone().map(|published| (row, published))))
    }

    /// The store of what the name leads to, if those are still the bytes that were published then.
    async fn still_named(
        &self,
        file: &BoxRef,
        published: &Published,
    ) -> Result<Option<String>, Refusal> {
        let metadata = &self.gateway.metadata;
        let found = if self.iso.is_some() {
            let name = file.name.as_str().parse().map_err(Refusal::name)?;
            let iso = metadata.iso_by_name(&file.organization, &name).await?;
            iso.map(|iso| (iso.blob.key, iso.quarantined, iso.store))
        } else {
            let file = metadata.resolve_file(file).await?;
            file.map(|found| (found.file.blob.key, found.quarantined, found.store))
        };
        let found =
            found.filter(|(key, quarantined, _)| *key == published.blob.key && !quarantined);
        Ok(found.map(|(_, _, store)| store))
    }

    /// Whether the body is that range of the blob. It is read no further than to the first other byte.
    async fn is_stored(
        &self,
        store: &str,
        blob: &BlobMeta,
        range: ByteRange,
        body: &mut InboundBody,
        seen: &mut Seen,
    ) -> Result<bool, Refusal> {
        let tree = self.gateway.metadata.blob_tree(blob).await?;
        let read = &self.gateway.store(store)?.read;
        let mut stored = verify::open(read, blob, &tree, range).await?;
        let mut held = Bytes::new();
        while let Some(mut chunk) = body.chunk().await? {
            seen.look_at(&chunk);
            while !chunk.is_empty() {
                if held.is_empty() {
                    let Some(next) = stored.next().await else {
                        return Ok(false);
                    };
                    held = next?;
                }
                let both = chunk.len().min(held.len());
                if chunk[..both] != held[..both] {
                    return Ok(false);
                }
                chunk.advance(both);
                held.advance(both);
            }
        }
        Ok(held.is_empty() && stored.next().await.is_none())
    }
}

/// How much the bytes of a range say. One byte is the last one of each 256th file, and images of one size end with the
/// same zeros.
#[derive(Debug, Default)]
struct Seen {
    last: Option<u8>,
    turns: u32,
}

impl Seen {
    /// Bytes that are other than those before them; each is worth some bits.
    const ENOUGH: u32 = 32;

    fn look_at(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.tells_files_apart() {
                return;
            }
            self.turns += u32::from(self.last.is_some_and(|last| last != *byte));
            self.last = Some(*byte);
        }
    }

    fn tells_files_apart(&self) -> bool {
        self.turns >= Self::ENOUGH
    }
}

/// Whether each digest is that of the published bytes: what was told then was verified, the others are known.
fn are_of(expected: &[Digest], row: &UploadRow, blob: &BlobMeta) -> bool {
    expected.iter().all(|told| match told.algorithm() {
        Algorithm::Sha256 => blob.sha256.is_some_and(|known| told.as_bytes() == known.0),
        Algorithm::Blake3 => told.as_bytes() == blob.blake3.0,
        _ => row.expected.contains(told),
    })
}
