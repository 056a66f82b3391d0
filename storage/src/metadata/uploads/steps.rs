//! B3 and C0 in SQL: the offset moves over parts that are durable, and all of them are there. The last parts and the end
//! are one change, so that a crash leaves the upload open where it stood, or whole.

use sqlx::any::AnyRow;

use super::publish::beside;
use super::rows::{fenced, upload_columns, upload_of};
use super::{Advance, Completion, Fence, UploadRow, trash};
use crate::blob::UploadId;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::catalog::blobs::blocks;
use crate::metadata::sql::{At as _, Columns as _, sha256_column, signed};
use crate::metadata::writer::Tx;
use crate::sidecar::Sidecar;
use crate::store::Receipt;

/// Where an upload stands behind some steps.
macro_rules! step_taken {
    () => {
        "UPDATE uploads SET byte_offset = $4, hash_states = $5, updated_ms = $6,
             s3_id = COALESCE($7, s3_id), tail_key = $8, tail_length = $9, tail_crc = $10"
    };
}

/// The right to move an open upload from where it stands, within the same upload of the store.
macro_rules! step_fits {
    () => {
        " WHERE id = $1 AND epoch = $2 AND byte_offset = $3 AND state = 'open'
             AND (s3_id IS NULL OR $7 IS NULL OR s3_id = $7) "
    };
}

pub(super) const ADVANCE: &str = "upload.advance";
pub(super) const COMPLETE: &str = "upload.complete";

/// One change of the upload's row for all steps, and a row for the part of each.
pub(super) async fn advance(tx: &mut Tx, fence: Fence, steps: &[Advance]) -> Result<()> {
    if steps.is_empty() {
        return Ok(());
    }
    let part_bytes = moved(tx, ADVANCE, fence, steps, None)
        .await?
        .unsigned("part_bytes")?;
    put_parts(tx, ADVANCE, fence, part_bytes, steps).await
}

/// All bytes are there, with the `last` steps or without any. Returns what is to stand beside the blob.
pub(super) async fn complete(
    tx: &mut Tx,
    fence: Fence,
    last: &[Advance],
    completion: Completion,
) -> Result<Option<(Sidecar, String)>> {
    let upload = if last.is_empty() {
        completed(tx, fence, completion).await?
    } else {
        ended(tx, fence, last, completion).await?
    };
    let now = tx.now;
    beside(&mut tx.connection, COMPLETE, &upload, now).await
}

/// The last steps and the end, in one statement.
async fn ended(
    tx: &mut Tx,
    fence: Fence,
    steps: &[Advance],
    completion: Completion,
) -> Result<UploadRow> {
    let end = steps.last().map(|step| step.to);
    if end != Some(completion.length) {
        return Err(fenced(COMPLETE, fence.id));
    }
    let row = moved(tx, COMPLETE, fence, steps, Some(completion)).await?;
    let upload = upload_of(&row)?;
    put_parts(tx, COMPLETE, fence, upload.part_bytes, steps).await?;
    Ok(upload)
}

/// Moves the offset of an open upload, and with a completion makes it `completing`: the row as it is then.
async fn moved(
    tx: &mut Tx,
    op: &'static str,
    fence: Fence,
    steps: &[Advance],
    completion: Option<Completion>,
) -> Result<AnyRow> {
    let (Some(first), Some(last)) = (steps.first(), steps.last()) else {
        return Err(fenced(op, fence.id));
    };
    // Where the beginning of the part may be an object of its own.
    if !first.begins_part() {
        trash::add_tail(tx, op, fence.id, Some(first.from)).await?;
    }
    let statement = if completion.is_some() {
        concat!(
            step_taken!(),
            ", state = 'completing', length = $4, blake3 = $11, sha256 = $12",
            step_fits!(),
            "AND (length IS NULL OR length = $4) RETURNING ",
            upload_columns!()
        )
    } else {
        concat!(
            step_taken!(),
            step_fits!(),
            "AND (length IS NULL OR length >= $4) RETURNING part_bytes"
        )
    };
    let Receipt { upload, tail, .. } = &last.receipt;
    let mut change = sqlx::query(statement)
        .bind(fence.id.as_bytes().to_vec())
        .bind(fence.epoch)
        .bind(signed(op, first.from)?)
        .bind(signed(op, last.to)?)
        .bind(&last.hash_states)
        .bind(tx.now.0)
        .bind(upload.as_deref())
        .bind(tail.map(|tail| tail.key.as_bytes().to_vec()))
        .bind(tail.map(|tail| signed(op, tail.length)).transpose()?)
        .bind(tail.map(|tail| tail.crc64.cast_signed()));
    if let Some(Completion {
        length: _,
        blake3,
        sha256,
    }) = completion
    {
        change = change.bind(blake3.0.to_vec()).bind(sha256_column(sha256));
    }
    change
        .fetch_optional(&mut tx.connection)
        .await
        .at(op, fence.id)?
        .ok_or_else(|| fenced(op, fence.id))
}

/// A row for the part of each step.
async fn put_parts(
    tx: &mut Tx,
    op: &'static str,
    fence: Fence,
    part_bytes: u64,
    steps: &[Advance],
) -> Result<()> {
    check_steps(op, fence.id, part_bytes, steps)?;
    for step in steps {
        put_part(tx, op, fence, part_bytes, step).await?;
    }
    Ok(())
}

/// A part whose beginning is there already gets its new length and all its values.
async fn put_part(
    tx: &mut Tx,
    op: &'static str,
    fence: Fence,
    part_bytes: u64,
    step: &Advance,
) -> Result<()> {
    let part = step.receipt.part.as_ref();
    sqlx::query(
        "INSERT INTO parts (upload, k, length, cvs, etag, crc64)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (upload, k) DO UPDATE SET length = EXCLUDED.length,
             cvs = EXCLUDED.cvs, etag = EXCLUDED.etag, crc64 = EXCLUDED.crc64",
    )
    .bind(fence.id.as_bytes().to_vec())
    .bind(i64::from(step.part))
    .bind(signed(op, step.to - u64::from(step.part) * part_bytes)?)
    .bind(step.values.concat())
    .bind(part.map(|part| part.etag.as_str()))
    .bind(part.map(|part| part.crc64.to_be_bytes().to_vec()))
    .execute(&mut tx.connection)
    .await
    .at(op, fence.id)
    .map(drop)
}

/// The end alone, where all parts are committed; the same completion again finds its own work done.
async fn completed(tx: &mut Tx, fence: Fence, completion: Completion) -> Result<UploadRow> {
    let Completion {
        length,
        blake3,
        sha256,
    } = completion;
    let row = sqlx::query(concat!(
        "UPDATE uploads SET state = 'completing', length = $3, blake3 = $4, sha256 = $5,
             updated_ms = CASE state WHEN 'open' THEN $6 ELSE updated_ms END
         WHERE id = $1 AND epoch = $2 AND byte_offset = $3
             AND (state = 'open' AND (length IS NULL OR length = $3)
                  OR state = 'completing' AND blake3 = $4 AND sha256 = $5) RETURNING ",
        upload_columns!()
    ))
    .bind(fence.id.as_bytes().to_vec())
    .bind(fence.epoch)
    .bind(signed(COMPLETE, length)?)
    .bind(blake3.0.to_vec())
    .bind(sha256_column(sha256))
    .bind(tx.now.0)
    .fetch_optional(&mut tx.connection)
    .await
    .at(COMPLETE, fence.id)?
    .ok_or_else(|| fenced(COMPLETE, fence.id))?;
    upload_of(&row)
}

/// Refuses steps that could not be part of any upload: part k holds exactly the bytes
/// `[k * part_bytes, (k + 1) * part_bytes)`, a step stays within its part, and there is one value per
/// MiB from the part's start on. Each goes on from the one before, and none but the last has a tail, which would be lost.
pub(in crate::metadata) fn check_steps(
    op: &'static str,
    id: UploadId,
    part_bytes: u64,
    steps: &[Advance],
) -> Result<()> {
    let invalid =
        |why: String| Err(Error::new(ErrorKind::Invalid, op, id.to_string()).with_source(why));
    let mut pairs = steps.windows(2);
    if !pairs.all(|pair| pair[0].to == pair[1].from && pair[0].receipt.tail.is_none()) {
        return invalid("steps with a gap or a tail between them".to_owned());
    }
    for step in steps {
        let start = u64::from(step.part).checked_mul(part_bytes);
        let fits = start.is_some_and(|start| {
            start <= step.from
                && step.from < step.to
                && step.to - start <= part_bytes
                && step.values.len() as u64 == blocks(step.to - start)
        });
        if !fits {
            let Advance { from, to, part, .. } = step;
            return invalid(format!(
                "part {part} of {part_bytes} bytes: {from}..{to}, {} values",
                step.values.len()
            ));
        }
    }
    Ok(())
}
