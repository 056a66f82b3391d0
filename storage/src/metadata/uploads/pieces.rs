//! Pieces that arrive in any order: how an upload is cut, and which of them are held.

use sqlx::any::AnyRow;

use super::rows::{fenced, row_in, upload_columns, upload_of};
use super::{Fence, HeldPiece, Piece, Pieces, UploadRow, UploadState, trash};
use crate::blob::UploadId;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::Metadata;
use crate::metadata::catalog::blobs::blocks;
use crate::metadata::sql::{At as _, Columns as _, odd, signed};
use crate::metadata::writer::Tx;

pub(super) const CUT: &str = "upload.set_piece_bytes";
pub(super) const HOLD: &str = "upload.hold_piece";
pub(super) const ASIDE: &str = "upload.set_aside";
pub(super) const PASS: &str = "upload.pass_pieces";
pub(super) const DROP: &str = "upload.drop_pieces";

/// How the upload of that row is cut.
pub(super) fn cut_of(row: &AnyRow) -> Result<Option<Pieces>> {
    let Some(count) = row.opt_int("piece_count")? else {
        return Ok(None);
    };
    let bytes = row.opt_int("piece_bytes")?.map(u64::try_from).transpose();
    Ok(Some(Pieces {
        count: u32::try_from(count).map_err(|e| odd("piece_count").with_source(e))?,
        bytes: bytes.map_err(|e| odd("piece_bytes").with_source(e))?,
        held: number(row.int("pieces_held")?, "pieces_held")?,
        apart: row.truth("pieces_apart")?,
    }))
}

/// Why an upload's pieces do not get this size; nothing when they do.
pub(in crate::metadata) fn check_piece_bytes(
    op: &'static str,
    row: &UploadRow,
    bytes: u64,
) -> Result<()> {
    let kind = match (row.state, row.pieces) {
        (UploadState::Aborted | UploadState::Lost, _) => ErrorKind::Gone,
        (UploadState::Open, Some(cut)) if cut.bytes.is_none_or(|known| known == bytes) => {
            return Ok(());
        }
        _ => ErrorKind::Conflict,
    };
    Err(Error::new(kind, op, row.id.to_string()))
}

/// Refuses a piece that is none of its upload's: piece k begins at k piece lengths, all but the last
/// have that length, there is one value per MiB, and only an upload whose pieces are apart has some with keys.
pub(in crate::metadata) fn assert_cut(
    op: &'static str,
    row: &UploadRow,
    piece: &Piece,
) -> Result<()> {
    let Piece {
        k,
        start,
        length,
        values,
        apart,
    } = piece;
    let fits = row.pieces.is_some_and(|cut| {
        let last = *k == cut.count.saturating_sub(1);
        let begins = match cut.bytes {
            Some(bytes) => u64::from(*k).checked_mul(bytes) == Some(*start),
            None => *k == 0 && *start == 0,
        };
        let long = cut.bytes.is_none_or(|bytes| *length == bytes);
        let kept = cut.apart || apart.is_none();
        *k < cut.count && begins && (last || long) && *length > 0 && kept
    });
    let end = start.checked_add(*length);
    let within = end.is_some_and(|end| row.length.is_none_or(|length| end <= length));
    if fits && within && values.len() as u64 == blocks(*length) {
        return Ok(());
    }
    let why = format!(
        "piece {k} at {start}, {length} bytes, {} values",
        values.len()
    );
    Err(Error::new(ErrorKind::Invalid, op, row.id.to_string()).with_source(why))
}

pub(super) async fn set_bytes(tx: &mut Tx, id: UploadId, bytes: u64) -> Result<UploadRow> {
    check_piece_bytes(CUT, &row_in(tx, CUT, id).await?, bytes)?;
    // The conditions again, for a database with several writers.
    let fixed = sqlx::query(concat!(
        "UPDATE uploads SET piece_bytes = $2 WHERE id = $1 AND state = 'open'
             AND piece_count IS NOT NULL AND (piece_bytes IS NULL OR piece_bytes = $2) RETURNING ",
        upload_columns!()
    ))
    .bind(id.as_bytes().to_vec())
    .bind(signed(CUT, bytes)?)
    .fetch_optional(&mut tx.connection)
    .await
    .at(CUT, id)?
    .ok_or_else(|| Error::new(ErrorKind::Conflict, CUT, id.to_string()))?;
    upload_of(&fixed)
}

pub(super) async fn hold(tx: &mut Tx, fence: Fence, piece: &Piece) -> Result<u32> {
    let Fence { id, epoch } = fence;
    // Locks the row, so that two nodes count one after the other.
    let row = sqlx::query(concat!(
        "UPDATE uploads SET updated_ms = $3 WHERE id = $1 AND epoch = $2 AND state = 'open'
         RETURNING ",
        upload_columns!()
    ))
    .bind(id.as_bytes().to_vec())
    .bind(epoch)
    .bind(tx.now.0)
    .fetch_optional(&mut tx.connection)
    .await
    .at(HOLD, id)?
    .ok_or_else(|| fenced(HOLD, id))?;
    let upload = upload_of(&row)?;
    assert_cut(HOLD, &upload, piece)?;
    let inserted = sqlx::query(
        "INSERT INTO pieces (upload, k, byte_start, length, cvs, key) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (upload, k) DO NOTHING",
    )
    .bind(id.as_bytes().to_vec())
    .bind(i64::from(piece.k))
    .bind(signed(HOLD, piece.start)?)
    .bind(signed(HOLD, piece.length)?)
    .bind(piece.values.concat())
    .bind(piece.apart.map(|key| key.as_bytes().to_vec()))
    .execute(&mut tx.connection)
    .await
    .at(HOLD, id)?
    .rows_affected();
    if inserted == 0 {
        let held = read(&mut tx.connection, HOLD, id, piece.k).await?;
        if !held.is_some_and(|held| held.is_same(piece)) {
            return Err(Error::new(ErrorKind::Conflict, HOLD, id.to_string()));
        }
        if let Some(key) = &piece.apart {
            trash::hasten(tx, HOLD, key).await?;
        }
    } else if upload.pieces.is_some_and(|cut| cut.apart) {
        let kept = match &piece.apart {
            Some(key) => trash::take_back(tx, HOLD, key).await?,
            None => false,
        };
        assert_kept(HOLD, id, kept)?;
    }
    let counted = sqlx::query(
        "UPDATE uploads SET pieces_held = pieces_held + $2 WHERE id = $1 RETURNING pieces_held",
    )
    .bind(id.as_bytes().to_vec())
    .bind(signed(HOLD, inserted)?)
    .fetch_one(&mut tx.connection)
    .await
    .at(HOLD, id)?;
    number(counted.int("pieces_held")?, "pieces_held")
}

pub(super) async fn piece(metadata: &Metadata, id: UploadId, k: u32) -> Result<Option<Piece>> {
    const OP: &str = "upload.piece";
    let mut reader = metadata.reader(OP).await?;
    read(&mut reader, OP, id, k).await
}

pub(super) async fn held(metadata: &Metadata, id: UploadId) -> Result<Vec<HeldPiece>> {
    const OP: &str = "upload.held_pieces";
    let mut reader = metadata.reader(OP).await?;
    sqlx::query("SELECT k, byte_start, length FROM pieces WHERE upload = $1 ORDER BY k")
        .bind(id.as_bytes().to_vec())
        .fetch_all(&mut *reader)
        .await
        .at(OP, id)?
        .iter()
        .map(|row| {
            Ok(HeldPiece {
                k: number(row.int("k")?, "k")?,
                start: row.unsigned("byte_start")?,
                length: row.unsigned("length")?,
            })
        })
        .collect()
}

/// Refuses a piece whose bytes were removed before it was held, since it took so long.
pub(in crate::metadata) fn assert_kept(op: &'static str, id: UploadId, kept: bool) -> Result<()> {
    if kept {
        return Ok(());
    }
    let error = Error::new(ErrorKind::Unavailable, op, id.to_string());
    Err(error.with_source("the piece came so slowly that its bytes are gone"))
}

pub(super) async fn pass(tx: &mut Tx, id: UploadId) -> Result<()> {
    let covered = "upload = $1 AND key IS NOT NULL AND byte_start + length <= (
                       SELECT u.byte_offset FROM uploads u WHERE u.id = $1)";
    trash::add_apart(tx, PASS, id, covered).await
}

pub(super) async fn drop_all(tx: &mut Tx, fence: Fence) -> Result<()> {
    let Fence { id, epoch } = fence;
    let row = sqlx::query(
        "UPDATE uploads SET piece_count = NULL, piece_bytes = NULL, pieces_held = 0
         WHERE id = $1 AND epoch = $2 AND state = 'open'
         RETURNING (SELECT COUNT(*) FROM pieces p WHERE p.upload = uploads.id
             AND p.byte_start + p.length > uploads.byte_offset) AS ahead",
    )
    .bind(id.as_bytes().to_vec())
    .bind(epoch)
    .fetch_optional(&mut tx.connection)
    .await
    .at(DROP, id)?
    .ok_or_else(|| fenced(DROP, id))?;
    // The change goes with the transaction.
    refuse_held_ahead(DROP, id, row.int("ahead")? > 0)?;
    trash::forget_pieces(tx, DROP, id).await
}

/// Refuses to forget pieces that were answered and that the offset does not cover.
pub(in crate::metadata) fn refuse_held_ahead(
    op: &'static str,
    id: UploadId,
    any: bool,
) -> Result<()> {
    if any {
        let error = Error::new(ErrorKind::Conflict, op, id.to_string());
        return Err(error.with_source("pieces ahead of the offset are held"));
    }
    Ok(())
}

async fn read(
    connection: &mut sqlx::AnyConnection,
    op: &'static str,
    id: UploadId,
    k: u32,
) -> Result<Option<Piece>> {
    let row =
        sqlx::query("SELECT byte_start, length, cvs, key FROM pieces WHERE upload = $1 AND k = $2")
            .bind(id.as_bytes().to_vec())
            .bind(i64::from(k))
            .fetch_optional(connection)
            .await
            .at(op, id)?;
    let Some(row) = row else { return Ok(None) };
    let bytes = row.bytes("cvs")?;
    let (values, []) = bytes.as_chunks::<32>() else {
        return Err(odd("cvs").with_source(format!("{} bytes", bytes.len())));
    };
    Ok(Some(Piece {
        k,
        start: row.unsigned("byte_start")?,
        length: row.unsigned("length")?,
        values: values.to_vec(),
        apart: match row.opt_bytes("key")? {
            Some(_) => Some(row.key("key")?),
            None => None,
        },
    }))
}

fn number(value: i64, column: &str) -> Result<u32> {
    u32::try_from(value).map_err(|e| odd(column).with_source(e))
}
