//! Uploads that are joined of others: which ones, what they became, and what is held of them until then.

use super::rows::{sender_of, upload_columns, upload_of};
use super::{NewUpload, Source, UploadRow, UploadState};
use crate::blob::{BlobKey, UploadId};
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::Metadata;
use crate::metadata::catalog::blobs;
use crate::metadata::sql::{At as _, Columns as _, signed};
use crate::metadata::writer::Tx;

/// Why an upload cannot be joined into another; nothing when it can.
pub(in crate::metadata) fn check_source(
    op: &'static str,
    id: UploadId,
    state: UploadState,
    is_plain: bool,
    held: Option<Health>,
) -> Result<()> {
    let kind = match (is_plain, state, held) {
        (false, ..) => ErrorKind::Invalid,
        (true, UploadState::Open | UploadState::Completing, _)
        | (true, UploadState::Done, Some(Health::Whole)) => return Ok(()),
        (true, UploadState::Done, Some(Health::Damaged)) => ErrorKind::Damaged,
        (true, UploadState::Done | UploadState::Aborted | UploadState::Lost, _) => ErrorKind::Gone,
    };
    Err(Error::new(kind, op, id.to_string()))
}

/// What is known of the blob that a finished upload holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::metadata) enum Health {
    /// Its bytes are those that were hashed, as far as anybody knows.
    Whole,
    /// They are not.
    Damaged,
}

/// Whether a row is what is asked for once more.
pub(in crate::metadata) fn is_alike(row: &UploadRow, new: &NewUpload) -> bool {
    matches!(row.state, UploadState::Open | UploadState::Completing)
        && (&row.sender, row.organization) == (&new.sender, new.organization)
        && (&row.note, &row.target, &row.expected) == (&new.note, &new.target, &new.expected)
}

/// The upload that the same sender asked for in the same words, of the same uploads, and that is not joined
/// yet: whoever asks again has not got the answer.
pub(super) async fn alike(
    tx: &mut Tx,
    op: &'static str,
    new: &NewUpload,
) -> Result<Option<UploadRow>> {
    if new.joins.is_empty() || new.note.is_none() {
        return Ok(None);
    }
    let rows = sqlx::query(concat!(
        "SELECT ",
        upload_columns!(),
        " FROM uploads WHERE state IN ('open', 'completing') AND account = $1 AND joins = $2 AND note = $3"
    ))
    .bind(new.sender.account.0)
    .bind(signed(op, new.joins.len() as u64)?)
    .bind(&new.note)
    .fetch_all(&mut tx.connection)
    .await
    .at(op, new.id)?;
    for row in &rows {
        let row = upload_of(row)?;
        if is_alike(&row, new) && sources_of(tx, op, row.id).await? == new.joins {
            return Ok(Some(row));
        }
    }
    Ok(None)
}

async fn sources_of(tx: &mut Tx, op: &'static str, id: UploadId) -> Result<Vec<UploadId>> {
    sqlx::query("SELECT source FROM joins WHERE upload = $1 ORDER BY n")
        .bind(id.as_bytes().to_vec())
        .fetch_all(&mut tx.connection)
        .await
        .at(op, id)?
        .iter()
        .map(|row| row.upload_id("source"))
        .collect()
}

/// Records of what a new upload is joined, and holds what is whole already.
pub(super) async fn insert(tx: &mut Tx, op: &'static str, new: &NewUpload) -> Result<()> {
    for (n, source) in (0i64..).zip(&new.joins) {
        let held = joinable_blob(tx, op, *source, new).await?;
        if let Some(blob) = &held {
            blobs::take_reference(tx, op, blob).await?;
        }
        sqlx::query("INSERT INTO joins (upload, n, source, blob) VALUES ($1, $2, $3, $4)")
            .bind(new.id.as_bytes().to_vec())
            .bind(n)
            .bind(source.as_bytes().to_vec())
            .bind(held.map(|blob| blob.as_bytes().to_vec()))
            .execute(&mut tx.connection)
            .await
            .at(op, new.id)?;
    }
    Ok(())
}

/// The blob that an upload holds, if it is whole by now; refused when it cannot be joined.
async fn joinable_blob(
    tx: &mut Tx,
    op: &'static str,
    id: UploadId,
    new: &NewUpload,
) -> Result<Option<BlobKey>> {
    let row = sqlx::query(
        "SELECT u.state, u.account, u.service, u.joins, u.target, u.held, x.state AS x_state
         FROM uploads u LEFT JOIN blobs x ON x.key = u.held WHERE u.id = $1",
    )
    .bind(id.as_bytes().to_vec())
    .fetch_optional(&mut tx.connection)
    .await
    .at(op, id)?;
    let missing = || Error::new(ErrorKind::NotFound, op, id.to_string());
    let row = row.ok_or_else(missing)?;
    if sender_of(&row)? != new.sender {
        return Err(missing());
    }
    let is_plain = row.int("joins")? == 0 && row.opt_text("target")?.is_none();
    let health = row.opt_text("x_state")?.map(|state| match &*state {
        "live" | "doomed" => Health::Whole,
        _ => Health::Damaged,
    });
    let state = row.word("state", UploadState::from_name)?;
    check_source(op, id, state, is_plain, health)?;
    match state {
        UploadState::Done => row.key("held").map(Some),
        _ => Ok(None),
    }
}

/// The upload is whole: those that wait for it hold its blob from here on.
pub(super) async fn hold(
    tx: &mut Tx,
    op: &'static str,
    source: UploadId,
    blob: &BlobKey,
) -> Result<()> {
    let waiting = sqlx::query("UPDATE joins SET blob = $2 WHERE source = $1 AND blob IS NULL")
        .bind(source.as_bytes().to_vec())
        .bind(blob.as_bytes().to_vec())
        .execute(&mut tx.connection)
        .await
        .at(op, source)?
        .rows_affected();
    refer(tx, op, blob, signed(op, waiting)?).await
}

/// The upload was joined or given up: nothing is held for it any more.
pub(super) async fn release(tx: &mut Tx, op: &'static str, id: UploadId) -> Result<()> {
    let held = sqlx::query(
        "SELECT blob, COUNT(*) AS n FROM joins WHERE upload = $1 AND blob IS NOT NULL GROUP BY blob",
    )
    .bind(id.as_bytes().to_vec())
    .fetch_all(&mut tx.connection)
    .await
    .at(op, id)?;
    sqlx::query("DELETE FROM joins WHERE upload = $1")
        .bind(id.as_bytes().to_vec())
        .execute(&mut tx.connection)
        .await
        .at(op, id)?;
    for row in &held {
        refer(tx, op, &row.key("blob")?, -row.int("n")?).await?;
    }
    if held.is_empty() {
        return Ok(());
    }
    blobs::doom_unnamed(tx).await
}

/// Those that wait for an upload, and cannot be whole without it.
pub(super) async fn waiting_for(
    tx: &mut Tx,
    op: &'static str,
    source: UploadId,
) -> Result<Vec<UploadId>> {
    sqlx::query("SELECT DISTINCT upload FROM joins WHERE source = $1 AND blob IS NULL")
        .bind(source.as_bytes().to_vec())
        .fetch_all(&mut tx.connection)
        .await
        .at(op, source)?
        .iter()
        .map(|row| row.upload_id("upload"))
        .collect()
}

async fn refer(tx: &mut Tx, op: &'static str, blob: &BlobKey, change: i64) -> Result<()> {
    sqlx::query("UPDATE blobs SET refs = refs + $2 WHERE key = $1")
        .bind(blob.as_bytes().to_vec())
        .bind(change)
        .execute(&mut tx.connection)
        .await
        .at(op, blob)
        .map(drop)
}

pub(super) async fn sources(metadata: &Metadata, id: UploadId) -> Result<Vec<Source>> {
    const OP: &str = "upload.sources";
    let mut reader = metadata.reader(OP).await?;
    sqlx::query(
        "SELECT j.source, u.length, x.key AS x_key, x.length AS x_length, x.blake3 AS x_blake3,
             x.sha256 AS x_sha256, x.store AS x_store
         FROM joins j LEFT JOIN uploads u ON u.id = j.source LEFT JOIN blobs x ON x.key = j.blob
         WHERE j.upload = $1 ORDER BY j.n",
    )
    .bind(id.as_bytes().to_vec())
    .fetch_all(&mut *reader)
    .await
    .at(OP, id)?
    .iter()
    .map(|row| {
        let blob = match row.opt_bytes("x_key")? {
            Some(_) => Some((row.blob_meta()?, row.text("x_store")?)),
            None => None,
        };
        let declared = match row.opt_int("length")? {
            Some(_) => Some(row.unsigned("length")?),
            None => None,
        };
        Ok(Source {
            id: row.upload_id("source")?,
            length: blob.as_ref().map(|(blob, _)| blob.length).or(declared),
            blob,
        })
    })
    .collect()
}

pub(super) async fn joinable(
    metadata: &Metadata,
    after: Option<UploadId>,
    limit: u32,
) -> Result<Vec<UploadId>> {
    const OP: &str = "upload.joinable";
    let mut reader = metadata.reader(OP).await?;
    // No id is empty, so an empty one stands before the first.
    let after = after.map_or_else(Vec::new, |id| id.as_bytes().to_vec());
    sqlx::query(
        "SELECT u.id FROM uploads u WHERE u.state = 'open' AND u.joins > 0 AND u.id > $1
             AND NOT EXISTS (SELECT 1 FROM joins j WHERE j.upload = u.id AND j.blob IS NULL)
         ORDER BY u.id LIMIT $2",
    )
    .bind(after)
    .bind(i64::from(limit))
    .fetch_all(&mut *reader)
    .await
    .at(OP, "uploads")?
    .iter()
    .map(|row| row.upload_id("id"))
    .collect()
}
