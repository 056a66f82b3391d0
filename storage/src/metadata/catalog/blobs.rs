//! Committed blobs: their references, their subtree values, their damage.
//!
//! `refs` counts the files and the ISO images that name a blob, the uploads that hold one and those that are to be joined of one. At 0 it is doomed and keeps its bytes until `due_ms`, for
//! downloads in progress; publishing equal bytes revives it, but never once it is `deleting` (its bytes
//! may be gone) or `quarantined` (they are not what was hashed).

use futures_util::FutureExt as _;
use sqlx::any::AnyRow;

use crate::blob::{BlobKey, BlobMeta};
use crate::error::{Error, ErrorKind, Result};
use crate::layer::verify::BlobTree;
use crate::metadata::Metadata;
use crate::metadata::accounts::OrganizationId;
use crate::metadata::sql::{At as _, Columns as _, odd, signed};
use crate::metadata::uploads::Labels;
use crate::metadata::writer::Tx;

/// Labels of one blob; each may cost 2 KiB.
pub(in crate::metadata) const MOST_LABELS: usize = 64;
/// Bytes that one subtree value stands for.
const BLOCK_BYTES: u64 = 1 << 20;

/// How many subtree values `length` bytes have.
pub(in crate::metadata) fn blocks(length: u64) -> u64 {
    length.div_ceil(BLOCK_BYTES)
}

impl Metadata {
    /// The subtree values of a blob.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the blob is gone, [`ErrorKind::Internal`] when the values do not
    /// cover it.
    pub async fn blob_tree(&self, blob: &BlobMeta) -> Result<BlobTree> {
        let read = async { self.read_tree(blob).await.map(Some) };
        let tree = self.inner.known.trees.or_read(blob.key, read).await?;
        tree.ok_or_else(|| Error::new(ErrorKind::NotFound, "blob.tree", blob.key.to_string()))
    }

    /// The same, past what is kept of it.
    ///
    /// # Errors
    /// As [`Self::blob_tree`].
    #[cfg(feature = "conformance")]
    pub async fn stored_tree(&self, blob: &BlobMeta) -> Result<BlobTree> {
        self.read_tree(blob).await
    }

    async fn read_tree(&self, blob: &BlobMeta) -> Result<BlobTree> {
        const OP: &str = "blob.tree";
        let mut reader = self.reader(OP).await?;
        let key = blob.key.as_bytes().to_vec();
        let row = sqlx::query("SELECT cvs FROM blob_trees WHERE blob = $1")
            .bind(key.clone())
            .fetch_optional(&mut *reader)
            .await
            .at(OP, blob.key)?;
        let bytes = match row {
            Some(row) => row.bytes("cvs")?,
            // An upload that is whole and not visible yet has its values with its parts.
            None => sqlx::query(
                "SELECT p.cvs AS cvs FROM uploads u JOIN parts p ON p.upload = u.id
                 WHERE u.key = $1 AND u.state = 'completing' ORDER BY p.k",
            )
            .bind(key)
            .fetch_all(&mut *reader)
            .await
            .at(OP, blob.key)?
            .iter()
            .map(|part| part.bytes("cvs"))
            .collect::<Result<Vec<_>>>()?
            .concat(),
        };
        if bytes.is_empty() && blob.length > 0 {
            return Err(Error::new(ErrorKind::NotFound, OP, blob.key.to_string()));
        }
        let (values, rest) = bytes.as_chunks::<32>();
        if !rest.is_empty() || values.len() as u64 != blocks(blob.length) {
            let why = format!("{} bytes of values for {}", bytes.len(), blob.length);
            return Err(Error::new(ErrorKind::Internal, OP, blob.key.to_string()).with_source(why));
        }
        Ok(BlobTree {
            values: values.into(),
        })
    }

    /// Marks a blob as damaged, so that it is no longer served and a re-upload is not deduplicated
    /// against it.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the database does not answer.
    pub async fn quarantine_blob(&self, key: &BlobKey) -> Result<()> {
        const OP: &str = "blob.quarantine";
        let key = *key;
        self.write(OP, move |tx| {
            async move {
                sqlx::query(
                    "UPDATE blobs SET state = 'quarantined'
                     WHERE key = $1 AND state IN ('live', 'doomed')",
                )
                .bind(key.as_bytes().to_vec())
                .execute(&mut tx.connection)
                .await
                .at(OP, key)
                .map(drop)
            }
            .boxed()
        })
        .await
    }
}

/// A file names the blob: one more reference, and a doomed one lives again.
pub(in crate::metadata) async fn take_reference(
    tx: &mut Tx,
    op: &'static str,
    key: &BlobKey,
) -> Result<()> {
    let done = sqlx::query(
        "UPDATE blobs SET refs = refs + 1, state = 'live', due_ms = NULL
         WHERE key = $1 AND state IN ('live', 'doomed')",
    )
    .bind(key.as_bytes().to_vec())
    .execute(&mut tx.connection)
    .await
    .at(op, key)?;
    one(done.rows_affected(), op, key)
}

/// A file names the blob no longer; [`doom_unnamed`] must follow.
pub(in crate::metadata) async fn give_reference(
    tx: &mut Tx,
    op: &'static str,
    key: &BlobKey,
) -> Result<()> {
    let done = sqlx::query("UPDATE blobs SET refs = refs - 1 WHERE key = $1 AND refs > 0")
        .bind(key.as_bytes().to_vec())
        .execute(&mut tx.connection)
        .await
        .at(op, key)?;
    one(done.rows_affected(), op, key)
}

/// Equal bytes came in again and are whole: every file and upload that holds a damaged
/// blob with the same digest holds `whole` from now on.
pub(in crate::metadata) async fn heal(
    tx: &mut Tx,
    op: &'static str,
    tenant: OrganizationId,
    whole: &BlobMeta,
) -> Result<()> {
    let damaged = sqlx::query(
        "SELECT key FROM blobs WHERE tenant = $1 AND blake3 = $2 AND length = $3
             AND state = 'quarantined' AND refs > 0",
    )
    .bind(tenant.0)
    .bind(whole.blake3.0.to_vec())
    .bind(signed(op, whole.length)?)
    .fetch_all(&mut tx.connection)
    .await
    .at(op, whole.key)?;
    for row in &damaged {
        let key = row.bytes("key")?;
        let mut moved = 0;
        for holders in [
            "UPDATE files SET blob = $2 WHERE blob = $1",
            "UPDATE isos SET blob = $2 WHERE blob = $1",
            "UPDATE uploads SET held = $2 WHERE held = $1",
            "UPDATE joins SET blob = $2 WHERE blob = $1",
        ] {
            moved += sqlx::query(holders)
                .bind(key.clone())
                .bind(whole.key.as_bytes().to_vec())
                .execute(&mut tx.connection)
                .await
                .at(op, whole.key)?
                .rows_affected();
        }
        let moved = signed(op, moved)?;
        for (key, change) in [(key, -moved), (whole.key.as_bytes().to_vec(), moved)] {
            sqlx::query("UPDATE blobs SET refs = refs + $2 WHERE key = $1")
                .bind(key)
                .bind(change)
                .execute(&mut tx.connection)
                .await
                .at(op, whole.key)?;
        }
    }
    if damaged.is_empty() {
        Ok(())
    } else {
        doom_unnamed(tx).await
    }
}

/// Writes labels beside those that the blob has; a new value takes the place of the old.
///
/// # Errors
/// [`ErrorKind::TooMany`] for more than [`MOST_LABELS`] in all.
pub(in crate::metadata) async fn label(
    tx: &mut Tx,
    op: &'static str,
    key: &BlobKey,
    labels: &Labels,
) -> Result<()> {
    if labels.is_empty() {
        return Ok(());
    }
    let row = sqlx::query("SELECT labels FROM blobs WHERE key = $1")
        .bind(key.as_bytes().to_vec())
        .fetch_one(&mut tx.connection)
        .await
        .at(op, key)?;
    let mut all = labels_of(&row, "labels")?;
    all.extend(
        labels
            .iter()
            .map(|(name, value)| (name.clone(), value.clone())),
    );
    if all.len() > MOST_LABELS {
        let limit = MOST_LABELS as u64;
        return Err(Error::new(ErrorKind::TooMany { limit }, op, "labels"));
    }
    let text = serde_json::to_string(&all).map_err(|e| odd("labels").with_source(e))?;
    let done = sqlx::query("UPDATE blobs SET labels = $2 WHERE key = $1")
        .bind(key.as_bytes().to_vec())
        .bind(text)
        .execute(&mut tx.connection)
        .await
        .at(op, key)?;
    one(done.rows_affected(), op, key)
}

/// The labels that a row tells in `column`.
pub(in crate::metadata) fn labels_of(row: &AnyRow, column: &str) -> Result<Labels> {
    let text = row.opt_text(column)?;
    let labels = text.map(|text| serde_json::from_str(&text)).transpose();
    Ok(labels
        .map_err(|e| odd(column).with_source(e))?
        .unwrap_or_default())
}

fn one(rows: u64, op: &'static str, key: &BlobKey) -> Result<()> {
    if rows == 1 {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Internal, op, key.to_string()).with_source("its references are off"))
}

/// Gives every blob that just lost its last reference its day; a damaged one stays damaged.
pub(in crate::metadata) async fn doom_unnamed(tx: &mut Tx) -> Result<()> {
    sqlx::query(
        "UPDATE blobs SET due_ms = $1, state = CASE state WHEN 'live' THEN 'doomed' ELSE state END
         WHERE refs = 0 AND due_ms IS NULL",
    )
    .bind(tx.due().0)
    .execute(&mut tx.connection)
    .await
    .at("blob.doom", "blobs")
    .map(drop)
}
