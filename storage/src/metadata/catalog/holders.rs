//! From a digest to a blob, for whoever may read something that holds it: a box, an ISO image, an upload.
//!
//! Whoever may not learns nothing: a blob that others hold is as absent as one that nobody ever stored.

use sqlx::any::AnyRow;

use super::blobs::labels_of;
use super::columns::blob_columns;
use crate::blob::BlobMeta;
use crate::digest::{Blake3, Sha256};
use crate::error::Result;
use crate::metadata::Metadata;
use crate::metadata::accounts::{AccountId, OrganizationId};
use crate::metadata::sql::{At as _, Columns as _};
use crate::metadata::uploads::Labels;

/// How many holders are looked at: enough to find bytes that are whole, and to tag an answer.
const MOST_HOLDERS: i64 = 16;

/// What a blob is asked for by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlobDigest {
    /// BLAKE3 of all bytes.
    Blake3(Blake3),
    /// SHA-256 of all bytes.
    Sha256(Sha256),
}

/// A blob that the caller may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldBlob {
    /// The blob.
    pub blob: BlobMeta,
    /// Name of the store that holds it.
    pub store: String,
    /// Whether all its bytes that the caller could have are quarantined.
    pub quarantined: bool,
    /// What was written on it.
    pub labels: Labels,
    /// Folded names of organization and box of public boxes that hold it, a few at most; with none it is for nobody else
    /// to keep: no event has caches drop an ISO image that is made private.
    pub public_holders: Vec<(String, String)>,
}

/// The way up from a blob to the boxes that hold it, in versions that are released or its members', as far as `$2`, narrowed to `$3`, may read them.
macro_rules! held_by_box {
    ($digest:literal) => {
        concat!(
            "SELECT ",
            blob_columns!(),
            ", CASE WHEN b.is_public = 1 AND v.status = 'active' THEN 1 ELSE 0 END AS is_public, o.folded AS organization, b.folded AS box_name
             FROM blobs x JOIN files f ON f.blob = x.key
                 JOIN architectures a ON a.id = f.architecture
                 JOIN providers p ON p.id = a.provider
                 JOIN versions v ON v.id = p.version
                 JOIN boxes b ON b.id = v.box
                 JOIN organizations o ON o.id = b.organization
             WHERE x.",
            $digest,
            " = $1 AND ((b.is_public = 1 AND v.status = 'active') OR EXISTS (
                 SELECT 1 FROM memberships m WHERE m.account = $2
                     AND m.organization = b.organization
                     AND (m.organization = $3 OR CAST($3 AS BIGINT) = 0)))
             ORDER BY is_public DESC, x.state, f.id LIMIT $4"
        )
    };
}

/// The same from a blob to the ISO images that hold it.
macro_rules! held_by_iso {
    ($digest:literal) => {
        concat!(
            "SELECT ",
            blob_columns!(),
            ", 0 AS is_public
             FROM blobs x JOIN isos i ON i.blob = x.key
             WHERE x.",
            $digest,
            " = $1 AND (i.is_public = 1 OR EXISTS (
                 SELECT 1 FROM memberships m WHERE m.account = $2
                     AND m.organization = i.organization
                     AND (m.organization = $3 OR CAST($3 AS BIGINT) = 0)))
             ORDER BY x.state LIMIT $4"
        )
    };
}

/// The same from a blob to the finished uploads without a target that hold it.
macro_rules! held_by_upload {
    ($digest:literal) => {
        concat!(
            "SELECT ",
            blob_columns!(),
            ", 0 AS is_public
             FROM blobs x JOIN uploads u ON u.held = x.key
                 JOIN memberships m ON m.organization = u.organization
             WHERE x.",
            $digest,
            " = $1 AND m.account = $2 AND (m.organization = $3 OR CAST($3 AS BIGINT) = 0)
             ORDER BY x.state LIMIT $4"
        )
    };
}

impl Metadata {
    /// The blob of a digest, if a public box or ISO image holds it, or `reader` is a member of the organization of a
    /// box, of an ISO image or of a finished upload that holds it. A credential that is bound to an
    /// organization counts there alone. Nobody (`None`) reads what is public.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn readable_blob(
        &self,
        digest: BlobDigest,
        reader: Option<(AccountId, Option<OrganizationId>)>,
    ) -> Result<Option<HeldBlob>> {
        let read = self.read_holders(digest, reader);
        match reader {
            None => self.inner.known.blobs.or_read(digest, read).await,
            Some(_) => read.await,
        }
    }

    async fn read_holders(
        &self,
        digest: BlobDigest,
        reader: Option<(AccountId, Option<OrganizationId>)>,
    ) -> Result<Option<HeldBlob>> {
        const OP: &str = "blob.readable";
        let (queries, bytes) = match digest {
            BlobDigest::Blake3(digest) => (
                [
                    held_by_box!("blake3"),
                    held_by_iso!("blake3"),
                    held_by_upload!("blake3"),
                ],
                digest.0,
            ),
            BlobDigest::Sha256(digest) => (
                [
                    held_by_box!("sha256"),
                    held_by_iso!("sha256"),
                    held_by_upload!("sha256"),
                ],
                digest.0,
            ),
        };
        // No row has the id 0: counters begin at 1.
        let (account, only) = reader.map_or((0, 0), |(account, only)| {
            (account.0, only.map_or(0, |only| only.0))
        });
        let mut connection = self.reader(OP).await?;
        for query in queries {
            let rows = sqlx::query(query)
                .bind(bytes.to_vec())
                .bind(account)
                .bind(only)
                .bind(MOST_HOLDERS)
                .fetch_all(&mut *connection)
                .await
                .at(OP, hex::encode(bytes))?;
            if let Some(held) = held(&rows)? {
                return Ok(Some(held));
            }
        }
        Ok(None)
    }
}

/// The first of the rows whose bytes are whole, else the first.
fn held(rows: &[AnyRow]) -> Result<Option<HeldBlob>> {
    let mut public_holders = Vec::new();
    let mut chosen: Option<HeldBlob> = None;
    for row in rows {
        if row.truth("is_public")? {
            public_holders.push((row.text("organization")?, row.text("box_name")?));
        }
        let quarantined = row.text("x_state")? == "quarantined";
        if chosen
            .as_ref()
            .is_none_or(|c| c.quarantined && !quarantined)
        {
            chosen = Some(HeldBlob {
                blob: row.blob_meta()?,
                store: row.text("x_store")?,
                quarantined,
                labels: labels_of(row, "x_labels")?,
                public_holders: Vec::new(),
            });
        }
    }
    Ok(chosen.map(|chosen| HeldBlob {
        public_holders,
        ..chosen
    }))
}
