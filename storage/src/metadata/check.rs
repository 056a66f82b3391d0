//! What the rows say of each key, for whoever compares them with the bytes in a store.
//!
//! Each page is one statement, and with it one moment: an upload that becomes a blob in between is seen as
//! one of the two, never as neither.

use sqlx::any::AnyRow;

use super::Metadata;
use super::catalog::{FileId, isos};
use super::sql::{At as _, Columns as _};
use crate::blob::{BlobKey, UploadId};
use crate::clock::UnixMillis;
use crate::error::Result;

/// One row that needs, or is to be rid of, the bytes under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Key of the bytes.
    pub key: BlobKey,
    /// Name of the store that holds them.
    pub store: String,
    /// Which row.
    pub by: Claimant,
}

/// The row behind a [`Claim`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimant {
    /// A committed blob.
    Blob(BlobClaim),
    /// An upload that did not end.
    Upload(UploadClaim),
    /// An upload of which some bytes are under a key of their own: the beginning of a part, or a piece.
    Apart {
        /// Which upload.
        upload: UploadId,
        /// How many bytes.
        length: u64,
    },
    /// Bytes to be removed from then on.
    Trash {
        /// When they may go.
        due: UnixMillis,
    },
}

/// A blob's row, and what other rows say of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobClaim {
    /// Where it stands.
    pub state: BlobState,
    /// Its bytes.
    pub length: u64,
    /// References that the row counts.
    pub refs: i64,
    /// Files, ISO images and uploads that do hold it, and those that are to be joined of it.
    pub holders: i64,
    /// Bytes of its subtree values; 0 when there are none.
    pub tree_bytes: u64,
    /// When it may go, once it has no reference.
    pub due: Option<UnixMillis>,
}

/// Where a blob stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobState {
    /// Held by a file or an upload.
    Live,
    /// Held by none, kept for a while.
    Doomed,
    /// Being removed: its bytes may be gone.
    Deleting,
    /// Its bytes are known not to be what was hashed.
    Quarantined,
}

impl BlobState {
    /// Its word in the row.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Doomed => "doomed",
            Self::Deleting => "deleting",
            Self::Quarantined => "quarantined",
        }
    }

    fn from_name(text: &str) -> Option<Self> {
        [Self::Live, Self::Doomed, Self::Deleting, Self::Quarantined]
            .into_iter()
            .find(|state| state.as_str() == text)
    }
}

/// The row of an upload that did not end, and what its parts and pieces add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadClaim {
    /// Which upload.
    pub id: UploadId,
    /// Whether all of it is there, and only its publication is missing.
    pub completing: bool,
    /// Whether something is said of it: then it may stay so for long.
    pub gated: bool,
    /// Committed bytes.
    pub offset: u64,
    /// Where the last held piece ends; 0 when none is.
    pub pieces_end: u64,
    /// Bytes of all recorded parts.
    pub parts_bytes: u64,
    /// Whether it is joined of other uploads, and idle while those are sent.
    pub joined: bool,
    /// When it was made.
    pub created: UnixMillis,
    /// When its offset or state last moved.
    pub updated: UnixMillis,
}

/// A row that names a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder<I> {
    /// Which row.
    pub id: I,
    /// The blob that it names.
    pub blob: BlobKey,
    /// Whether that blob has a row.
    pub exists: bool,
    /// When the row last changed.
    pub updated: UnixMillis,
}

/// The claims on keys in a relation to `$1`, by key. An upload that ended claims nothing; the condition
/// names the states that way round so that keys are walked in order, by their index.
macro_rules! claims {
    ($relation:literal) => {
        concat!(
            "SELECT x.key AS key, x.store AS store, 'blob' AS claimant, x.key AS id,
                 x.state AS state, x.length AS bytes, 0 AS pieces_end, 0 AS parts_bytes,
                 0 AS joins, x.refs AS refs,
                 (SELECT COUNT(*) FROM files f WHERE f.blob = x.key)
                     + (SELECT COUNT(*) FROM isos i WHERE i.blob = x.key)
                     + (SELECT COUNT(*) FROM uploads h WHERE h.held = x.key)
                     + (SELECT COUNT(*) FROM joins j WHERE j.blob = x.key) AS holders,
                 COALESCE((SELECT LENGTH(t.cvs) FROM blob_trees t WHERE t.blob = x.key), 0)
                     AS tree_bytes,
                 x.created_ms AS created_ms, COALESCE(x.due_ms, 0) AS moved_ms
             FROM blobs x WHERE x.key ",
            $relation,
            " $1 UNION ALL
             SELECT u.key, u.store, 'upload', u.id, u.state, u.byte_offset,
                 (SELECT COALESCE(MAX(p.byte_start + p.length), 0) FROM pieces p
                  WHERE p.upload = u.id),
                 (SELECT COALESCE(CAST(SUM(q.length) AS BIGINT), 0) FROM parts q
                  WHERE q.upload = u.id),
                 u.joins, CASE WHEN u.gate IS NULL THEN 0 ELSE 1 END, 0, 0, u.created_ms, u.updated_ms
             FROM uploads u WHERE u.state NOT IN ('done', 'aborted', 'lost') AND u.key ",
            $relation,
            " $1 UNION ALL
             SELECT u.tail_key, u.store, 'apart', u.id, u.state, u.tail_length, 0, 0, 0, 0, 0, 0,
                 u.created_ms, u.updated_ms
             FROM uploads u WHERE u.tail_key ",
            $relation,
            " $1 UNION ALL
             SELECT w.key, u.store, 'apart', u.id, u.state, w.length, 0, 0, 0, 0, 0, 0,
                 u.created_ms, u.updated_ms
             FROM pieces w JOIN uploads u ON u.id = w.upload WHERE w.key ",
            $relation,
            " $1 UNION ALL
             SELECT t.key, t.store, 'trash', t.key, 'trash', 0, 0, 0, 0, 0, 0, 0, t.due_ms, t.due_ms
             FROM trash t WHERE t.key ",
            $relation,
            " $1 ORDER BY 1 LIMIT $2"
        )
    };
}

/// More rows than one key can have.
const ROWS_OF_A_KEY: u32 = 4;

impl Metadata {
    /// The stores that rows of blobs name.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn stores_in_use(&self) -> Result<Vec<String>> {
        const OP: &str = "check.stores";
        let mut reader = self.reader(OP).await?;
        sqlx::query("SELECT DISTINCT store FROM blobs WHERE state <> 'deleting' ORDER BY store")
            .fetch_all(&mut *reader)
            .await
            .at(OP, "blobs")?
            .iter()
            .map(|row| row.text("store"))
            .collect()
    }

    /// Claims on keys after `after`, in the order of keys: about `limit` of them, and always all those of
    /// a key. An empty page is the end.
    pub(crate) async fn claims_after(
        &self,
        after: Option<BlobKey>,
        limit: u32,
    ) -> Result<Vec<Claim>> {
        const OP: &str = "check.claims";
        let limit = limit.max(ROWS_OF_A_KEY);
        let mut reader = self.reader(OP).await?;
        let rows = sqlx::query(claims!(">"))
            // No key is empty, so an empty one stands before the first.
            .bind(after.map_or_else(Vec::new, |key| key.as_bytes().to_vec()))
            .bind(i64::from(limit))
            .fetch_all(&mut *reader)
            .await
            .at(OP, "claims")?;
        let mut claims = rows.iter().map(claim_of).collect::<Result<Vec<_>>>()?;
        if rows.len() == limit as usize
            && let Some(last) = claims.last().map(|claim| claim.key)
        {
            // Others of its claims may be on the next page, which begins behind it.
            let whole = claims.iter().take_while(|claim| claim.key != last).count();
            if whole > 0 {
                claims.truncate(whole);
            }
        }
        Ok(claims)
    }

    /// The claims on one key.
    pub(crate) async fn claims_on(&self, key: &BlobKey) -> Result<Vec<Claim>> {
        const OP: &str = "check.claims";
        let mut reader = self.reader(OP).await?;
        sqlx::query(claims!("="))
            .bind(key.as_bytes().to_vec())
            .bind(i64::from(ROWS_OF_A_KEY))
            .fetch_all(&mut *reader)
            .await
            .at(OP, key)?
            .iter()
            .map(claim_of)
            .collect()
    }

    /// Files after `after` whose blob has no row.
    pub(crate) async fn files_of_nothing(
        &self,
        after: FileId,
        limit: u32,
    ) -> Result<Vec<Holder<FileId>>> {
        const OP: &str = "check.files";
        let mut reader = self.reader(OP).await?;
        sqlx::query(
            "SELECT f.id, f.blob, f.updated_ms, 0 AS is_there FROM files f WHERE f.id > $1
                 AND NOT EXISTS (SELECT x.key FROM blobs x WHERE x.key = f.blob)
             ORDER BY f.id LIMIT $2",
        )
        .bind(after.0)
        .bind(i64::from(limit))
        .fetch_all(&mut *reader)
        .await
        .at(OP, "files")?
        .iter()
        .map(|row| holder_of(row, FileId(row.int("id")?), "blob"))
        .collect()
    }

    /// Finished uploads after `after` that hold their blob themselves, by id.
    pub(crate) async fn holding_uploads(
        &self,
        after: Option<UploadId>,
        limit: u32,
    ) -> Result<Vec<Holder<UploadId>>> {
        const OP: &str = "check.uploads";
        let mut reader = self.reader(OP).await?;
        sqlx::query(
            "SELECT u.id, u.held, u.updated_ms,
                 (SELECT COUNT(*) FROM blobs x WHERE x.key = u.held) AS is_there
             FROM uploads u WHERE u.held IS NOT NULL AND u.id > $1 ORDER BY u.id LIMIT $2",
        )
        .bind(after.map_or_else(Vec::new, |id| id.as_bytes().to_vec()))
        .bind(i64::from(limit))
        .fetch_all(&mut *reader)
        .await
        .at(OP, "uploads")?
        .iter()
        .map(|row| holder_of(row, row.upload_id("id")?, "held"))
        .collect()
    }

    /// Up to `limit` full names that hold the blob.
    pub(crate) async fn names_of(&self, key: &BlobKey, limit: u32) -> Result<Vec<String>> {
        const OP: &str = "check.names";
        let mut reader = self.reader(OP).await?;
        sqlx::query(
            "SELECT o.name AS o, b.name AS b, v.name AS v, p.name AS p, a.name AS a
             FROM files f JOIN architectures a ON a.id = f.architecture
                 JOIN providers p ON p.id = a.provider JOIN versions v ON v.id = p.version
                 JOIN boxes b ON b.id = v.box JOIN organizations o ON o.id = b.organization
             WHERE f.blob = $1 ORDER BY f.id LIMIT $2",
        )
        .bind(key.as_bytes().to_vec())
        .bind(i64::from(limit))
        .fetch_all(&mut *reader)
        .await
        .at(OP, key)?
        .iter()
        .map(|row| {
            let names = ["o", "b", "v", "p", "a"].map(|level| row.text(level));
            let names = names.into_iter().collect::<Result<Vec<_>>>()?;
            Ok(names.join("/"))
        })
        .chain(isos::paths_of(&mut reader, OP, key, limit).await?)
        .take(limit as usize)
        .collect()
    }
}

fn claim_of(row: &AnyRow) -> Result<Claim> {
    let bytes = row.unsigned("bytes")?;
    let by = match row.text("claimant")?.as_str() {
        "blob" => Claimant::Blob(BlobClaim {
            state: row.word("state", BlobState::from_name)?,
            length: bytes,
            refs: row.int("refs")?,
            holders: row.int("holders")?,
            tree_bytes: row.unsigned("tree_bytes")?,
            due: Some(row.time("moved_ms")?).filter(|due| due.0 != 0),
        }),
        "upload" => Claimant::Upload(UploadClaim {
            id: row.upload_id("id")?,
            completing: row.text("state")? == "completing",
            gated: row.truth("refs")?,
            offset: bytes,
            pieces_end: row.unsigned("pieces_end")?,
            parts_bytes: row.unsigned("parts_bytes")?,
            joined: row.truth("joins")?,
            created: row.time("created_ms")?,
            updated: row.time("moved_ms")?,
        }),
        "apart" => Claimant::Apart {
            upload: row.upload_id("id")?,
            length: bytes,
        },
        _ => Claimant::Trash {
            due: row.time("moved_ms")?,
        },
    };
    Ok(Claim {
        key: row.key("key")?,
        store: row.text("store")?,
        by,
    })
}

fn holder_of<I>(row: &AnyRow, id: I, blob: &str) -> Result<Holder<I>> {
    Ok(Holder {
        id,
        blob: row.key(blob)?,
        exists: row.truth("is_there")?,
        updated: row.time("updated_ms")?,
    })
}
