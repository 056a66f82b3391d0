//! Bytes on their way out: what is due, and what is gone.

use std::collections::BTreeMap;

use futures_util::FutureExt as _;

use super::Trash;
use crate::blob::{BlobKey, UploadId};
use crate::clock::UnixMillis;
use crate::error::Result;
use crate::metadata::Metadata;
use crate::metadata::sql::{At as _, Columns as _, signed};
use crate::metadata::writer::Tx;

pub(super) const DUE: &str = "trash.due";
pub(super) const FORGET: &str = "trash.forget";

impl Metadata {
    /// Forgets uploads that ended (published, given up or lost) at or before `until`; returns how many.
    /// Their answers can no longer be repeated afterwards. One that holds its blob stays.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn purge_uploads(&self, until: UnixMillis) -> Result<u64> {
        const OP: &str = "upload.purge";
        self.write(OP, move |tx| {
            async move {
                let ended = "state IN ('done', 'aborted', 'lost') AND held IS NULL
                             AND updated_ms <= $1";
                let of = |table| {
                    let ended = format!("SELECT id FROM uploads WHERE {ended}");
                    format!("DELETE FROM {table} WHERE upload IN ({ended})")
                };
                let uploads = format!("DELETE FROM uploads WHERE {ended}");
                let mut removed = 0;
                for statement in [of("parts"), of("pieces"), uploads] {
                    removed = sqlx::query(sqlx::AssertSqlSafe(statement))
                        .bind(until.0)
                        .execute(&mut tx.connection)
                        .await
                        .at(OP, "uploads")?
                        .rows_affected();
                }
                Ok(removed)
            }
            .boxed()
        })
        .await
    }
}

/// Puts bytes that nobody names into the trash, due now.
pub(in crate::metadata) async fn add(
    tx: &mut Tx,
    op: &'static str,
    key: &BlobKey,
    store: &str,
) -> Result<()> {
    let now = tx.now;
    add_due(tx, op, key, store, now).await
}

/// The same, due at a time.
pub(in crate::metadata) async fn add_due(
    tx: &mut Tx,
    op: &'static str,
    key: &BlobKey,
    store: &str,
    due: UnixMillis,
) -> Result<()> {
    sqlx::query("INSERT INTO trash (key, store, due_ms) VALUES ($1, $2, $3)")
        .bind(key.as_bytes().to_vec())
        .bind(store)
        .bind(due.0)
        .execute(&mut tx.connection)
        .await
        .at(op, key)
        .map(drop)
}

/// What is in the trash goes now, whatever its time was.
pub(super) async fn hasten(tx: &mut Tx, op: &'static str, key: &BlobKey) -> Result<()> {
    sqlx::query("UPDATE trash SET due_ms = $2 WHERE key = $1")
        .bind(key.as_bytes().to_vec())
        .bind(tx.now.0)
        .execute(&mut tx.connection)
        .await
        .at(op, key)
        .map(drop)
}

/// Takes bytes out of the trash; false where they are due, or gone.
pub(super) async fn take_back(tx: &mut Tx, op: &'static str, key: &BlobKey) -> Result<bool> {
    sqlx::query("DELETE FROM trash WHERE key = $1 AND due_ms > $2")
        .bind(key.as_bytes().to_vec())
        .bind(tx.now.0)
        .execute(&mut tx.connection)
        .await
        .at(op, key)
        .map(|taken| taken.rows_affected() == 1)
}

/// Puts what pieces of an upload hold apart into the trash, of those that fit a condition on `pieces`.
pub(super) async fn add_apart(
    tx: &mut Tx,
    op: &'static str,
    id: UploadId,
    fits: &str,
) -> Result<()> {
    let add = format!(
        "INSERT INTO trash (key, store, due_ms)
         SELECT p.key, u.store, $2 FROM uploads u,
             (SELECT key FROM pieces WHERE {fits}) p WHERE u.id = $1"
    );
    sqlx::query(sqlx::AssertSqlSafe(add))
        .bind(id.as_bytes().to_vec())
        .bind(tx.now.0)
        .execute(&mut tx.connection)
        .await
        .at(op, id)?;
    let take = format!("UPDATE pieces SET key = NULL WHERE {fits}");
    sqlx::query(sqlx::AssertSqlSafe(take))
        .bind(id.as_bytes().to_vec())
        .execute(&mut tx.connection)
        .await
        .at(op, id)
        .map(drop)
}

/// Puts the tail of an upload into the trash, if it has one; with an offset only while the upload stands
/// there. Whoever calls takes it from the upload in the same transaction.
pub(super) async fn add_tail(
    tx: &mut Tx,
    op: &'static str,
    id: UploadId,
    at: Option<u64>,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO trash (key, store, due_ms)
         SELECT tail_key, store, $2 FROM uploads
         WHERE id = $1 AND tail_key IS NOT NULL AND byte_offset = COALESCE($3, byte_offset)",
    )
    .bind(id.as_bytes().to_vec())
    .bind(tx.now.0)
    .bind(at.map(|at| signed(op, at)).transpose()?)
    .execute(&mut tx.connection)
    .await
    .at(op, id)?;
    if at.is_none() {
        sqlx::query("UPDATE uploads SET tail_key = NULL WHERE id = $1")
            .bind(id.as_bytes().to_vec())
            .execute(&mut tx.connection)
            .await
            .at(op, id)?;
    }
    Ok(())
}

/// The parts of an upload that ended are of no use any more.
pub(super) async fn forget_parts(tx: &mut Tx, op: &'static str, id: UploadId) -> Result<()> {
    sqlx::query("DELETE FROM parts WHERE upload = $1")
        .bind(id.as_bytes().to_vec())
        .execute(&mut tx.connection)
        .await
        .at(op, id)
        .map(drop)
}

/// The subtree values of the parts of an upload that ended, in order; the parts are of no use any more.
pub(super) async fn take_values(tx: &mut Tx, op: &'static str, id: UploadId) -> Result<Vec<u8>> {
    let parts = sqlx::query("DELETE FROM parts WHERE upload = $1 RETURNING k, cvs")
        .bind(id.as_bytes().to_vec())
        .fetch_all(&mut tx.connection)
        .await
        .at(op, id)?;
    // They come in whatever order they went.
    let mut values = BTreeMap::new();
    for part in &parts {
        values.insert(part.int("k")?, part.bytes("cvs")?);
    }
    Ok(values.into_values().flatten().collect())
}

/// Nor are the pieces of one that was given up; those of a finished one tell a piece that is sent again.
pub(super) async fn forget_pieces(tx: &mut Tx, op: &'static str, id: UploadId) -> Result<()> {
    add_apart(tx, op, id, "upload = $1 AND key IS NOT NULL").await?;
    sqlx::query("DELETE FROM pieces WHERE upload = $1")
        .bind(id.as_bytes().to_vec())
        .execute(&mut tx.connection)
        .await
        .at(op, id)
        .map(drop)
}

/// D2: what is due, trash first. Blobs become `deleting` here, so that publishing revives them before
/// or never; what was `deleting` already is told again, for whoever was to remove it may have died.
pub(super) async fn due(tx: &mut Tx, limit: u32) -> Result<Vec<Trash>> {
    let limit = i64::from(limit);
    let mut rows = sqlx::query(
        "SELECT key, store FROM trash WHERE due_ms <= $1 ORDER BY due_ms, key LIMIT $2",
    )
    .bind(tx.now.0)
    .bind(limit)
    .fetch_all(&mut tx.connection)
    .await
    .at(DUE, "trash")?;
    let room = limit - i64::try_from(rows.len()).unwrap_or(limit);
    let doomed = sqlx::query(
        "SELECT key, store, state FROM blobs WHERE refs = 0 AND due_ms <= $1
         ORDER BY due_ms, key LIMIT $2",
    )
    .bind(tx.now.0)
    .bind(room)
    .fetch_all(&mut tx.connection)
    .await
    .at(DUE, "blobs")?;
    for row in &doomed {
        if row.text("state")? == "deleting" {
            continue;
        }
        let key = row.key("key")?;
        // The condition again: a reference taken in between, on a database with several writers, wins.
        sqlx::query("UPDATE blobs SET state = 'deleting' WHERE key = $1 AND refs = 0")
            .bind(key.as_bytes().to_vec())
            .execute(&mut tx.connection)
            .await
            .at(DUE, key)?;
    }
    rows.extend(doomed);
    rows.iter()
        .map(|row| {
            Ok(Trash {
                key: row.key("key")?,
                store: row.text("store")?,
            })
        })
        .collect()
}

/// D4: forgets bytes that are gone. A blob that is not `deleting` stays, whoever asks, and so does one that is in
/// another store by now.
pub(super) async fn forget(tx: &mut Tx, trash: Trash) -> Result<()> {
    let Trash { key, store } = trash;
    for statement in [
        "DELETE FROM trash WHERE key = $1 AND store = $2",
        "DELETE FROM former_files WHERE blob IN (
             SELECT key FROM blobs WHERE key = $1 AND store = $2 AND state = 'deleting')",
        "DELETE FROM blob_trees WHERE blob IN (
             SELECT key FROM blobs WHERE key = $1 AND store = $2 AND state = 'deleting')",
        "DELETE FROM blobs WHERE key = $1 AND store = $2 AND state = 'deleting'",
    ] {
        sqlx::query(statement)
            .bind(key.as_bytes().to_vec())
            .bind(store.clone())
            .execute(&mut tx.connection)
            .await
            .at(FORGET, key)?;
    }
    Ok(())
}
