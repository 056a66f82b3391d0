//! The steps of the commit protocol in SQL.

use async_trait::async_trait;
use futures_util::FutureExt as _;
use sqlx::any::AnyRow;

use super::publish::Answer;
use super::{
    Advance, Completion, Fence, GateAnswer, Gating, HeldPiece, Keep, Ledger, MostOpen, NewUpload,
    Over, Piece, Published, Sender, Source, Target, Trash, UploadRow, UploadState, find, gate,
    joins, pieces, publish, steps, trash,
};
use crate::blob::{BlobKey, UploadId};
use crate::clock::UnixMillis;
use crate::digest::{Algorithm, Blake3, ContentHasher, Digest};
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::accounts::{AccountId, OrganizationId};
use crate::metadata::catalog::isos;
use crate::metadata::catalog::publish::Names;
use crate::metadata::sql::{At as _, Columns as _, odd, signed};
use crate::metadata::writer::Tx;
use crate::metadata::{Metadata, audit};
use crate::sidecar::Sidecar;
use crate::store::Receipts;

macro_rules! upload_columns {
    () => {
        "id, account, service, organization, key, store, epoch, state, byte_offset, length, part_bytes,
         piece_count, piece_bytes, pieces_held, pieces_apart, joins, target, keep, note, expected, hash_states, blake3, sha256, answer, held, gate,
         gate_due_ms, hook_state, created_ms, updated_ms"
    };
}

pub(super) fn upload_of(row: &AnyRow) -> Result<UploadRow> {
    let target = row.opt_text("target")?;
    let target = target.map(|text| serde_json::from_str(&text)).transpose();
    let digests = match (row.opt_bytes("blake3")?, row.opt_bytes("sha256")?) {
        (Some(_), Some(_)) => Some((Blake3(row.fixed("blake3")?), row.sha256("sha256")?)),
        _ => None,
    };
    let length = row.opt_int("length")?.map(u64::try_from).transpose();
    let mut published = row.opt_text("answer")?.as_deref().map(Answer::read);
    if let (Some(Ok(published)), Some(_)) = (&mut published, row.opt_bytes("held")?) {
        // Equal bytes may have taken the place of damaged ones since.
        published.blob.key = row.key("held")?;
    }
    Ok(UploadRow {
        id: row.upload_id("id")?,
        sender: sender_of(row)?,
        organization: OrganizationId(row.int("organization")?),
        key: row.key("key")?,
        store: row.text("store")?,
        epoch: row.int("epoch")?,
        state: row.word("state", UploadState::from_name)?,
        offset: row.unsigned("byte_offset")?,
        length: length.map_err(|e| odd("length").with_source(e))?,
        part_bytes: row.unsigned("part_bytes")?,
        pieces: pieces::cut_of(row)?,
        joins: u32::try_from(row.int("joins")?).map_err(|e| odd("joins").with_source(e))?,
        target: target.map_err(|e| odd("target").with_source(e))?,
        keep: if row.truth("keep")? {
            Keep::UntilIdle
        } else {
            Keep::No
        },
        note: row.opt_text("note")?,
        expected: expected_of(&row.text("expected")?)?,
        hash_states: row.opt_bytes("hash_states")?.unwrap_or_default(),
        digests,
        published: published.transpose()?,
        gate: gate::gating_of(row)?,
        created: row.time("created_ms")?,
        updated: row.time("updated_ms")?,
    })
}

pub(super) fn sender_of(row: &AnyRow) -> Result<Sender> {
    Ok(Sender {
        account: AccountId(row.int("account")?),
        service: row.opt_text("service")?,
    })
}

/// The row within a change; [`ErrorKind::NotFound`] when there is none.
pub(super) async fn row_in(tx: &mut Tx, op: &'static str, id: UploadId) -> Result<UploadRow> {
    let row = sqlx::query(concat!(
        "SELECT ",
        upload_columns!(),
        " FROM uploads WHERE id = $1"
    ))
    .bind(id.as_bytes().to_vec())
    .fetch_one(&mut tx.connection)
    .await
    .at(op, id)?;
    upload_of(&row)
}

/// Declared digests as a row keeps them: `algorithm:hex`, separated by commas.
fn expected_text(expected: &[Digest]) -> String {
    let texts: Vec<_> = expected
        .iter()
        .map(|digest| format!("{}:{}", digest.algorithm().name(), digest.to_hex()))
        .collect();
    texts.join(",")
}

fn expected_of(text: &str) -> Result<Vec<Digest>> {
    text.split_terminator(',')
        .map(|digest| {
            let (algorithm, hex) = digest.split_once(':')?;
            Digest::from_hex(Algorithm::from_name(algorithm)?, hex)
        })
        .collect::<Option<_>>()
        .ok_or_else(|| odd("expected"))
}

/// The form under which an open upload is found by its name.
pub(in crate::metadata) fn folded_target(op: &'static str, target: &Target) -> Result<String> {
    if target.iso.is_some() {
        // No name of a box holds a colon.
        return Ok(format!("iso:{}", isos::name_of(op, target)?.folded()));
    }
    let names = Names::parse(op, target)?;
    Ok([
        names.box_name.folded(),
        names.version.folded(),
        names.provider.folded(),
        names.architecture.folded(),
    ]
    .join("/"))
}

/// What every step answers when its fence matched no row.
pub(in crate::metadata) fn fenced(op: &'static str, id: UploadId) -> Error {
    Error::new(ErrorKind::Fenced, op, id.to_string())
}

/// What one more kept upload than the limit answers.
pub(in crate::metadata) fn too_many(op: &'static str, limit: u64) -> Error {
    Error::new(ErrorKind::TooMany { limit }, op, "open uploads")
}

/// Why an open upload without a length does not get this one.
pub(in crate::metadata) fn check_length(
    op: &'static str,
    row: &UploadRow,
    length: u64,
) -> Result<()> {
    let kind = match (row.state, row.length) {
        (UploadState::Aborted | UploadState::Lost, _) => ErrorKind::Gone,
        (UploadState::Open, None) if row.offset > length => ErrorKind::LengthMismatch {
            expected: length,
            given: row.offset,
        },
        // An upload without a target may be declared to have no bytes; a box has some.
        (UploadState::Open, None) if length == 0 && row.target.is_some() => ErrorKind::Invalid,
        (UploadState::Open, None) => return Ok(()),
        (UploadState::Open, Some(fixed)) if fixed == length => return Ok(()),
        _ => ErrorKind::Conflict,
    };
    Err(Error::new(kind, op, row.id.to_string()))
}

/// What is declared of an upload with these digests beside what was.
pub(in crate::metadata) fn declared_beside(
    op: &'static str,
    row: &UploadRow,
    digests: &[Digest],
) -> Result<Vec<Digest>> {
    let refused = |kind| Err(Error::new(kind, op, row.id.to_string()));
    match row.state {
        UploadState::Open => {}
        UploadState::Aborted | UploadState::Lost => return refused(ErrorKind::Gone),
        UploadState::Completing | UploadState::Done => return refused(ErrorKind::Conflict),
    }
    // Bytes went by: no other algorithm can begin with them, nor can a SHA-256 that was deferred. Where their states
    // cannot be read, all of them are hashed again.
    let begun = (row.offset > 0).then_some(&row.hash_states);
    let computed = begun.and_then(|states| ContentHasher::restore(states).ok());
    let computed = computed.unwrap_or_else(|| ContentHasher::new([]));
    let mut all = row.expected.clone();
    for digest in digests {
        match all
            .iter()
            .find(|known| known.algorithm() == digest.algorithm())
        {
            Some(known) if known == digest => {}
            Some(_other) => return refused(ErrorKind::Conflict),
            None if computed.has(digest.algorithm()) => all.push(digest.clone()),
            None => {
                let late = Error::new(ErrorKind::Invalid, op, row.id.to_string());
                let name = digest.algorithm().name();
                return Err(
                    late.with_source(format!("{name} can be declared at the beginning only"))
                );
            }
        }
    }
    Ok(all)
}

/// Refuses one more kept upload than the limits allow.
async fn assert_room(tx: &mut Tx, op: &'static str, new: &NewUpload) -> Result<()> {
    let MostOpen {
        per_account,
        per_organization,
    } = new.most_open;
    let open = sqlx::query(
        "SELECT (SELECT COUNT(*) FROM uploads
                 WHERE account = $1 AND state = 'open' AND keep = 1) AS of_account,
             (SELECT COUNT(*) FROM uploads
                 WHERE organization = $2 AND state = 'open' AND keep = 1) AS of_organization",
    )
    .bind(new.sender.account.0)
    .bind(new.organization.0)
    .fetch_one(&mut tx.connection)
    .await
    .at(op, new.id)?;
    for (of, limit) in [
        ("of_account", per_account),
        ("of_organization", per_organization),
    ] {
        if open.unsigned(of)? >= limit {
            return Err(too_many(op, limit));
        }
    }
    Ok(())
}

#[async_trait]
impl Ledger for Metadata {
    async fn create(&self, new: NewUpload) -> Result<UploadRow> {
        const OP: &str = "upload.create";
        self.write(OP, move |tx| {
            async move {
                let target = new.target.as_ref();
                let folded = target.map(|t| folded_target(OP, t)).transpose()?;
                let target = target.map(serde_json::to_string).transpose();
                let target = target.map_err(|e| odd("target").with_source(e))?;
                let piece_bytes = new.pieces.and_then(|cut| cut.bytes);
                let piece_bytes = piece_bytes.map(|bytes| signed(OP, bytes)).transpose()?;
                if let Some(row) = joins::alike(tx, OP, &new).await? {
                    return Ok(row);
                }
                if new.keep == Keep::UntilIdle {
                    assert_room(tx, OP, &new).await?;
                }
                let row = sqlx::query(concat!(
                    "INSERT INTO uploads (id, account, organization, key, store, epoch, state,
                         byte_offset, length, part_bytes, target, target_folded, keep, note,
                         expected, created_ms, updated_ms, piece_count, piece_bytes, joins, service, pieces_apart)
                     VALUES ($1, $2, $3, $4, $5, 1, 'open', 0, $6, $7, $8, $9, $10, $11, $12, $13,
                         $13, $14, $15, $16, $17, $18)
                     RETURNING ",
                    upload_columns!()
                ))
                .bind(new.id.as_bytes().to_vec())
                .bind(new.sender.account.0)
                .bind(new.organization.0)
                .bind(new.key.as_bytes().to_vec())
                .bind(&new.store)
                .bind(new.length.map(|l| signed(OP, l)).transpose()?)
                .bind(signed(OP, new.part_bytes)?)
                .bind(target)
                .bind(folded)
                .bind(i64::from(new.keep == Keep::UntilIdle))
                .bind(&new.note)
                .bind(expected_text(&new.expected))
                .bind(tx.now.0)
                .bind(new.pieces.map(|cut| i64::from(cut.count)))
                .bind(piece_bytes)
                .bind(signed(OP, new.joins.len() as u64)?)
                .bind(&new.sender.service)
                .bind(i64::from(new.pieces.is_some_and(|cut| cut.apart)))
                .fetch_one(&mut tx.connection)
                .await
                .at(OP, new.id)?;
                joins::insert(tx, OP, &new).await?;
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
                    "UPDATE uploads SET epoch = epoch + CASE state WHEN 'open' THEN 1 ELSE 0 END
                     WHERE id = $1 RETURNING ",
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
        find::upload(self, id).await
    }

    async fn set_length(&self, id: UploadId, length: u64) -> Result<UploadRow> {
        const OP: &str = "upload.set_length";
        self.write(OP, move |tx| {
            async move {
                check_length(OP, &row_in(tx, OP, id).await?, length)?;
                // The conditions again, for a database with several writers.
                let fixed = sqlx::query(concat!(
                    "UPDATE uploads SET length = $2 WHERE id = $1 AND state = 'open'
                         AND byte_offset <= $2 AND (length IS NULL OR length = $2) RETURNING ",
                    upload_columns!()
                ))
                .bind(id.as_bytes().to_vec())
                .bind(signed(OP, length)?)
                .fetch_optional(&mut tx.connection)
                .await
                .at(OP, id)?
                .ok_or_else(|| fenced(OP, id))?;
                upload_of(&fixed)
            }
            .boxed()
        })
        .await
    }

    async fn declare(&self, id: UploadId, digests: Vec<Digest>) -> Result<UploadRow> {
        const OP: &str = "upload.declare";
        self.write(OP, move |tx| {
            async move {
                let row = row_in(tx, OP, id).await?;
                let all = declared_beside(OP, &row, &digests)?;
                // The conditions again, for a database with several writers.
                let declared = sqlx::query(concat!(
                    "UPDATE uploads SET epoch = epoch + 1, expected = $3
                     WHERE id = $1 AND epoch = $2 AND state = 'open' AND byte_offset = $4 RETURNING ",
                    upload_columns!()
                ))
                .bind(id.as_bytes().to_vec())
                .bind(row.epoch)
                .bind(expected_text(&all))
                .bind(signed(OP, row.offset)?)
                .fetch_optional(&mut tx.connection)
                .await
                .at(OP, id)?
                .ok_or_else(|| fenced(OP, id))?;
                upload_of(&declared)
            }
            .boxed()
        })
        .await
    }

    async fn part_values(&self, id: UploadId, part: u32) -> Result<Option<Vec<[u8; 32]>>> {
        find::part_values(self, id, part).await
    }

    async fn receipts(&self, id: UploadId) -> Result<Receipts> {
        find::receipts(self, id).await
    }

    async fn name_store_upload(&self, fence: Fence, name: &str) -> Result<String> {
        const OP: &str = "upload.name_store_upload";
        let name = name.to_owned();
        self.write(OP, move |tx| {
            async move {
                sqlx::query(
                    "UPDATE uploads SET s3_id = COALESCE(s3_id, $3)
                     WHERE id = $1 AND epoch = $2 AND state = 'open' RETURNING s3_id",
                )
                .bind(fence.id.as_bytes().to_vec())
                .bind(fence.epoch)
                .bind(name.as_str())
                .fetch_optional(&mut tx.connection)
                .await
                .at(OP, fence.id)?
                .ok_or_else(|| fenced(OP, fence.id))?
                .text("s3_id")
            }
            .boxed()
        })
        .await
    }

    async fn advance_all(&self, fence: Fence, steps: Vec<Advance>) -> Result<()> {
        self.write(steps::ADVANCE, move |tx| {
            async move { steps::advance(tx, fence, &steps).await }.boxed()
        })
        .await
    }

    async fn set_piece_bytes(&self, id: UploadId, bytes: u64) -> Result<UploadRow> {
        self.write(pieces::CUT, move |tx| {
            pieces::set_bytes(tx, id, bytes).boxed()
        })
        .await
    }

    async fn hold_piece(&self, fence: Fence, piece: Piece) -> Result<u32> {
        self.write(pieces::HOLD, move |tx| {
            async move { pieces::hold(tx, fence, &piece).await }.boxed()
        })
        .await
    }

    async fn piece(&self, id: UploadId, k: u32) -> Result<Option<Piece>> {
        pieces::piece(self, id, k).await
    }

    async fn held_pieces(&self, id: UploadId) -> Result<Vec<HeldPiece>> {
        pieces::held(self, id).await
    }

    async fn set_aside(&self, key: BlobKey, store: &str, until: UnixMillis) -> Result<()> {
        let store = store.to_owned();
        self.write(pieces::ASIDE, move |tx| {
            async move { trash::add_due(tx, pieces::ASIDE, &key, &store, until).await }.boxed()
        })
        .await
    }

    async fn hasten(&self, key: BlobKey) -> Result<()> {
        self.write(pieces::ASIDE, move |tx| {
            async move { trash::hasten(tx, pieces::ASIDE, &key).await }.boxed()
        })
        .await
    }

    async fn pass_pieces(&self, id: UploadId) -> Result<()> {
        self.write(pieces::PASS, move |tx| pieces::pass(tx, id).boxed())
            .await
    }

    async fn drop_pieces(&self, fence: Fence) -> Result<()> {
        self.write(pieces::DROP, move |tx| pieces::drop_all(tx, fence).boxed())
            .await
    }

    async fn complete(
        &self,
        fence: Fence,
        last: Vec<Advance>,
        completion: Completion,
    ) -> Result<Option<(Sidecar, String)>> {
        self.write(steps::COMPLETE, move |tx| {
            async move { steps::complete(tx, fence, &last, completion).await }.boxed()
        })
        .await
    }

    async fn ask_gate(
        &self,
        fence: Fence,
        (over, until): (UnixMillis, UnixMillis),
        mine: Option<UnixMillis>,
    ) -> Result<Option<UploadRow>> {
        self.write(gate::ASK, move |tx| {
            gate::ask(tx, fence, (over, until), mine).boxed()
        })
        .await
    }

    async fn answer_gate(
        &self,
        fence: Fence,
        mine: UnixMillis,
        answer: GateAnswer,
    ) -> Result<bool> {
        self.write(gate::ANSWER, move |tx| {
            gate::answer(tx, fence, mine, answer).boxed()
        })
        .await
    }

    async fn let_through(&self, id: UploadId, actor: &str) -> Result<bool> {
        let actor = actor.to_owned();
        self.write(gate::LET_THROUGH, move |tx| {
            async move { gate::let_through(tx, id, &actor).await }.boxed()
        })
        .await
    }

    async fn waiting(
        &self,
        until: UnixMillis,
        over: UnixMillis,
        limit: u32,
    ) -> Result<Vec<UploadRow>> {
        gate::waiting(self, until, over, limit).await
    }

    async fn quarantined_like(&self, row: &UploadRow) -> Result<Option<Gating>> {
        gate::quarantined_like(self, row).await
    }

    async fn publish(&self, fence: Fence) -> Result<Published> {
        self.write(publish::OP, move |tx| publish::publish(tx, fence).boxed())
            .await
    }

    async fn abort(&self, id: UploadId, epoch: Option<i64>) -> Result<bool> {
        const OP: &str = "upload.abort";
        self.write(OP, move |tx| {
            end(tx, OP, id, epoch, UploadState::Aborted).boxed()
        })
        .await
    }

    async fn abort_by(&self, id: UploadId, actor: &str) -> Result<bool> {
        const OP: &str = "upload.abort";
        let actor = actor.to_owned();
        self.write(OP, move |tx| {
            async move {
                let ended = end(tx, OP, id, None, UploadState::Aborted).await?;
                if ended {
                    audit::record(tx, &actor, OP, &id.to_string()).await?;
                }
                Ok(ended)
            }
            .boxed()
        })
        .await
    }

    async fn lose(&self, fence: Fence) -> Result<()> {
        const OP: &str = "upload.lose";
        self.write(OP, move |tx| {
            async move {
                let Fence { id, epoch } = fence;
                if end(tx, OP, id, Some(epoch), UploadState::Lost).await? {
                    Ok(())
                } else {
                    Err(fenced(OP, id))
                }
            }
            .boxed()
        })
        .await
    }

    async fn release(&self, id: UploadId) -> Result<bool> {
        self.write(publish::RELEASE, move |tx| publish::release(tx, id).boxed())
            .await
    }

    async fn close(&self, id: UploadId) -> Result<bool> {
        self.write(publish::CLOSE, move |tx| publish::close(tx, id).boxed())
            .await
    }

    async fn sources(&self, id: UploadId) -> Result<Vec<Source>> {
        joins::sources(self, id).await
    }

    async fn joinable(&self, after: Option<UploadId>, limit: u32) -> Result<Vec<UploadId>> {
        joins::joinable(self, after, limit).await
    }

    async fn uploads_in(
        &self,
        state: UploadState,
        until: UnixMillis,
        limit: u32,
    ) -> Result<Vec<UploadRow>> {
        find::uploads_in(self, state, until, limit).await
    }

    async fn uploads_to(
        &self,
        sender: &Sender,
        organization: OrganizationId,
        target: &Target,
        since: UnixMillis,
    ) -> Result<Vec<UploadRow>> {
        find::uploads_to(self, sender, organization, target, since).await
    }

    async fn replaced_by(&self, id: UploadId) -> Result<Vec<UploadRow>> {
        find::replaced_by(self, id).await
    }

    async fn open_uploads(
        &self,
        organization: Option<OrganizationId>,
        after: Option<UploadId>,
        limit: u32,
    ) -> Result<Vec<UploadRow>> {
        find::open_uploads(self, organization, after, limit).await
    }

    async fn over(&self, over: Over, limit: u32) -> Result<Vec<UploadRow>> {
        find::over(self, over, limit).await
    }

    async fn sidecar(&self, fence: Fence) -> Result<Option<(Sidecar, String)>> {
        publish::sidecar(self, fence).await
    }

    async fn condemn(&self, key: &BlobKey) -> Result<()> {
        self.quarantine_blob(key).await
    }

    async fn due_trash(&self, limit: u32) -> Result<Vec<Trash>> {
        self.write(trash::DUE, move |tx| trash::due(tx, limit).boxed())
            .await
    }

    async fn forget(&self, trash: &Trash) -> Result<()> {
        let trash = trash.clone();
        self.write(trash::FORGET, move |tx| trash::forget(tx, trash).boxed())
            .await
    }
}

/// An upload that did not finish ends here, and with it those that wait to be joined of it.
pub(super) async fn end(
    tx: &mut Tx,
    op: &'static str,
    id: UploadId,
    epoch: Option<i64>,
    state: UploadState,
) -> Result<bool> {
    if !end_one(tx, op, id, epoch, state).await? {
        return Ok(false);
    }
    for waiting in joins::waiting_for(tx, op, id).await? {
        end_one(tx, op, waiting, None, UploadState::Aborted).await?;
    }
    Ok(true)
}

/// What an organization's open uploads have goes with it; those that are whole end where they would be published.
pub(in crate::metadata) async fn end_open_of(
    tx: &mut Tx,
    op: &'static str,
    organization: OrganizationId,
) -> Result<()> {
    let rows = sqlx::query("SELECT id FROM uploads WHERE organization = $1 AND state = 'open'")
        .bind(organization.0)
        .fetch_all(&mut tx.connection)
        .await
        .at(op, organization.0)?;
    for row in rows {
        end(tx, op, row.upload_id("id")?, None, UploadState::Aborted).await?;
    }
    Ok(())
}

/// What it stored is trash.
async fn end_one(
    tx: &mut Tx,
    op: &'static str,
    id: UploadId,
    epoch: Option<i64>,
    state: UploadState,
) -> Result<bool> {
    // The epoch moves too, so that a writer that still runs is fenced by every rule.
    let row = sqlx::query(
        "UPDATE uploads SET state = $4, epoch = epoch + 1, hash_states = NULL, updated_ms = $3
         WHERE id = $1 AND epoch = COALESCE($2, epoch) AND state IN ('open', 'completing')
         RETURNING key, store",
    )
    .bind(id.as_bytes().to_vec())
    .bind(epoch)
    .bind(tx.now.0)
    .bind(state.as_str())
    .fetch_optional(&mut tx.connection)
    .await
    .at(op, id)?;
    let Some(row) = row else { return Ok(false) };
    trash::add(tx, op, &row.key("key")?, &row.text("store")?).await?;
    trash::add_tail(tx, op, id, None).await?;
    trash::forget_parts(tx, op, id).await?;
    trash::forget_pieces(tx, op, id).await?;
    joins::release(tx, op, id).await?;
    Ok(true)
}

/// An open upload whose bytes turned out to be a published blob's ends without them.
pub(in crate::metadata) async fn let_go(
    tx: &mut Tx,
    op: &'static str,
    key: &BlobKey,
) -> Result<()> {
    let row = sqlx::query(
        "UPDATE uploads SET state = 'aborted', epoch = epoch + 1, hash_states = NULL, updated_ms = $2
         WHERE key = $1 AND state = 'open' RETURNING id",
    )
    .bind(key.as_bytes().to_vec())
    .bind(tx.now.0)
    .fetch_optional(&mut tx.connection)
    .await
    .at(op, key)?;
    let Some(row) = row else { return Ok(()) };
    let id = row.upload_id("id")?;
    trash::add_tail(tx, op, id, None).await?;
    trash::forget_parts(tx, op, id).await?;
    trash::forget_pieces(tx, op, id).await?;
    joins::release(tx, op, id).await
}

pub(super) use upload_columns;
