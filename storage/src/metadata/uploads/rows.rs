//! The steps of the commit protocol in SQL.

use async_trait::async_trait;
use futures_util::FutureExt as _;
use sqlx::any::AnyRow;

use super::{
    Advance, Completion, Fence, Ledger, NewUpload, Published, Trash, UploadRow, UploadState,
    publish, trash,
};
use crate::blob::{BlobKey, UploadId};
use crate::clock::UnixMillis;
use crate::digest::{Blake3, Sha256};
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::Metadata;
use crate::metadata::accounts::{AccountId, OrganizationId};
use crate::metadata::catalog::blobs::blocks;
use crate::metadata::sql::{At as _, Columns as _, odd, signed};

macro_rules! upload_columns {
    () => {
        "id, account, organization, key, store, epoch, state, byte_offset, length, part_bytes,
         target, blake3, sha256, created_ms, updated_ms"
    };
}

pub(super) fn upload_of(row: &AnyRow) -> Result<UploadRow> {
    let target = serde_json::from_str(&row.text("target")?);
    let digests = match (row.opt_bytes("blake3")?, row.opt_bytes("sha256")?) {
        (Some(_), Some(_)) => Some((Blake3(row.fixed("blake3")?), Sha256(row.fixed("sha256")?))),
        _ => None,
    };
    let length = row.opt_int("length")?.map(u64::try_from).transpose();
    Ok(UploadRow {
        id: row.upload_id("id")?,
        account: AccountId(row.int("account")?),
        organization: OrganizationId(row.int("organization")?),
        key: row.key("key")?,
        store: row.text("store")?,
        epoch: row.int("epoch")?,
        state: row.word("state", UploadState::from_name)?,
        offset: row.unsigned("byte_offset")?,
        length: length.map_err(|e| odd("length").with_source(e))?,
        part_bytes: row.unsigned("part_bytes")?,
        target: target.map_err(|e| odd("target").with_source(e))?,
        digests,
        created: row.time("created_ms")?,
        updated: row.time("updated_ms")?,
    })
}

/// What every step answers when its fence matched no row.
pub(in crate::metadata) fn fenced(op: &'static str, id: UploadId) -> Error {
    Error::new(ErrorKind::Fenced, op, id.to_string())
}

/// Refuses a step that could not be part of any upload: part k holds exactly the bytes
/// `[k * part_bytes, (k + 1) * part_bytes)` (the last may be short), with one value per MiB.
pub(in crate::metadata) fn check_step(
    op: &'static str,
    id: UploadId,
    part_bytes: u64,
    step: &Advance,
) -> Result<()> {
    let start = u64::from(step.part).checked_mul(part_bytes);
    let length = step.to.checked_sub(step.from);
    let fits = start == Some(step.from)
        && length
            .is_some_and(|l| 0 < l && l <= part_bytes && step.values.len() as u64 == blocks(l));
    if fits {
        return Ok(());
    }
    let Advance {
        from,
        to,
        part,
        values,
        hash_states: _,
    } = step;
    let why = format!(
        "part {part} of {part_bytes} bytes: {from}..{to}, {} values",
        values.len()
    );
    Err(Error::new(ErrorKind::Invalid, op, id.to_string()).with_source(why))
}

#[async_trait]
impl Ledger for Metadata {
    async fn create(&self, new: NewUpload) -> Result<UploadRow> {
        const OP: &str = "upload.create";
        self.write(OP, move |tx| {
            async move {
                let target =
                    serde_json::to_string(&new.target).map_err(|e| odd("target").with_source(e))?;
                let row = sqlx::query(concat!(
                    "INSERT INTO uploads (id, account, organization, key, store, epoch, state,
                         byte_offset, length, part_bytes, target, created_ms, updated_ms)
                     VALUES ($1, $2, $3, $4, $5, 1, 'open', 0, $6, $7, $8, $9, $9) RETURNING ",
                    upload_columns!()
                ))
                .bind(new.id.as_bytes().to_vec())
                .bind(new.account.0)
                .bind(new.organization.0)
                .bind(new.key.as_bytes().to_vec())
                .bind(new.store)
                .bind(new.length.map(|l| signed(OP, l)).transpose()?)
                .bind(signed(OP, new.part_bytes)?)
                .bind(target)
                .bind(tx.now.0)
                .fetch_one(&mut tx.connection)
                .await
                .at(OP, new.id)?;
                upload_of(&row)
            }
            .boxed()
        })
        .await
    }

    async fn take_over(&self, id: UploadId) -> Result<Option<UploadRow>> {
        const OP: &str = "upload.take_over";
        self.write(OP, move |tx| {
            async move {
                sqlx::query(concat!(
                    "UPDATE uploads SET epoch = epoch + 1 WHERE id = $1 AND state = 'open'
                     RETURNING ",
                    upload_columns!()
                ))
                .bind(id.as_bytes().to_vec())
                .fetch_optional(&mut tx.connection)
                .await
                .at(OP, id)?
                .as_ref()
                .map(upload_of)
                .transpose()
            }
            .boxed()
        })
        .await
    }

    async fn upload(&self, id: UploadId) -> Result<Option<UploadRow>> {
        const OP: &str = "upload.read";
        let mut reader = self.reader(OP).await?;
        sqlx::query(concat!(
            "SELECT ",
            upload_columns!(),
            " FROM uploads WHERE id = $1"
        ))
        .bind(id.as_bytes().to_vec())
        .fetch_optional(&mut *reader)
        .await
        .at(OP, id)?
        .as_ref()
        .map(upload_of)
        .transpose()
    }

    async fn advance(&self, fence: Fence, step: Advance) -> Result<()> {
        const OP: &str = "upload.advance";
        self.write(OP, move |tx| {
            async move {
                let part_bytes = sqlx::query(
                    "UPDATE uploads SET byte_offset = $4, hash_states = $5, updated_ms = $6
                     WHERE id = $1 AND epoch = $2 AND byte_offset = $3 AND state = 'open'
                         AND (length IS NULL OR length >= $4)
                     RETURNING part_bytes",
                )
                .bind(fence.id.as_bytes().to_vec())
                .bind(fence.epoch)
                .bind(signed(OP, step.from)?)
                .bind(signed(OP, step.to)?)
                .bind(&step.hash_states)
                .bind(tx.now.0)
                .fetch_optional(&mut tx.connection)
                .await
                .at(OP, fence.id)?
                .ok_or_else(|| fenced(OP, fence.id))?
                .unsigned("part_bytes")?;
                check_step(OP, fence.id, part_bytes, &step)?;
                sqlx::query("INSERT INTO parts (upload, k, length, cvs) VALUES ($1, $2, $3, $4)")
                    .bind(fence.id.as_bytes().to_vec())
                    .bind(i64::from(step.part))
                    .bind(signed(OP, step.to - step.from)?)
                    .bind(step.values.concat())
                    .execute(&mut tx.connection)
                    .await
                    .at(OP, fence.id)
                    .map(drop)
            }
            .boxed()
        })
        .await
    }

    async fn complete(&self, fence: Fence, completion: Completion) -> Result<()> {
        const OP: &str = "upload.complete";
        self.write(OP, move |tx| {
            async move {
                let Completion {
                    length,
                    blake3,
                    sha256,
                } = completion;
                // The same completion again finds its own work done.
                let done = sqlx::query(
                    "UPDATE uploads SET state = 'completing', length = $3, blake3 = $4, sha256 = $5,
                         updated_ms = CASE state WHEN 'open' THEN $6 ELSE updated_ms END
                     WHERE id = $1 AND epoch = $2 AND byte_offset = $3
                         AND (state = 'open' AND (length IS NULL OR length = $3)
                              OR state = 'completing' AND blake3 = $4 AND sha256 = $5)",
                )
                .bind(fence.id.as_bytes().to_vec())
                .bind(fence.epoch)
                .bind(signed(OP, length)?)
                .bind(blake3.0.to_vec())
                .bind(sha256.0.to_vec())
                .bind(tx.now.0)
                .execute(&mut tx.connection)
                .await
                .at(OP, fence.id)?;
                if done.rows_affected() == 1 {
                    Ok(())
                } else {
                    Err(fenced(OP, fence.id))
                }
            }
            .boxed()
        })
        .await
    }

    async fn publish(&self, fence: Fence) -> Result<Published> {
        self.write(publish::OP, move |tx| publish::publish(tx, fence).boxed())
            .await
    }

    async fn abort(&self, id: UploadId) -> Result<bool> {
        const OP: &str = "upload.abort";
        self.write(OP, move |tx| {
            async move {
                // The epoch moves too, so that a writer that still runs is fenced by every rule.
                let row = sqlx::query(
                    "UPDATE uploads SET state = 'aborted', epoch = epoch + 1, hash_states = NULL,
                         updated_ms = $2
                     WHERE id = $1 AND state IN ('open', 'completing') RETURNING key, store",
                )
                .bind(id.as_bytes().to_vec())
                .bind(tx.now.0)
                .fetch_optional(&mut tx.connection)
                .await
                .at(OP, id)?;
                let Some(row) = row else { return Ok(false) };
                trash::add(tx, OP, &row.key("key")?, &row.text("store")?).await?;
                trash::forget_parts(tx, OP, id).await?;
                Ok(true)
            }
            .boxed()
        })
        .await
    }

    async fn uploads_in(
        &self,
        state: UploadState,
        until: UnixMillis,
        limit: u32,
    ) -> Result<Vec<UploadRow>> {
        const OP: &str = "upload.list";
        let mut reader = self.reader(OP).await?;
        sqlx::query(concat!(
            "SELECT ",
            upload_columns!(),
            " FROM uploads WHERE state = $1 AND updated_ms <= $2 ORDER BY updated_ms, id LIMIT $3"
        ))
        .bind(state.as_str())
        .bind(until.0)
        .bind(i64::from(limit))
        .fetch_all(&mut *reader)
        .await
        .at(OP, state.as_str())?
        .iter()
        .map(upload_of)
        .collect()
    }

    async fn due_trash(&self, limit: u32) -> Result<Vec<Trash>> {
        self.write(trash::DUE, move |tx| trash::due(tx, limit).boxed())
            .await
    }

    async fn forget(&self, key: &BlobKey) -> Result<()> {
        let key = *key;
        self.write(trash::FORGET, move |tx| trash::forget(tx, key).boxed())
            .await
    }
}

pub(super) use upload_columns;
