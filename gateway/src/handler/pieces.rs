//! Uploads that arrive in pieces: parts with a number each, and BoxVault's chunks. One request carries one
//! piece; what they share is in the engine.

use std::time::Duration;

use boxgate_storage::catalog::BoxRef;
use boxgate_storage::clock::UnixMillis;
use boxgate_storage::digest::{Digest, DigestHasher, PieceHasher};
use boxgate_storage::metadata::accounts::OrganizationId;
use boxgate_storage::metadata::uploads::{GateState, HeldPiece, Published, Target, UploadState};
use boxgate_storage::upload::{Cut, PieceWriter, UploadIntent, UploadRow, part_bytes_for};
use boxgate_storage::{Error, ErrorKind};
use http::StatusCode;

use super::resumable::{Progress, Turn};
use crate::hooks::Terms;
use crate::ingest::{self, Pumped};
use crate::refusal::Refusal;
use crate::resumable::chunk::{self, Chunk};
use crate::resumable::native::{self, PutPart};
use crate::resumable::{Create, Standing};
use crate::server::InboundBody;

/// What a request with a piece came to.
#[derive(Debug)]
pub struct Held {
    /// Bytes that are committed, in order.
    pub committed: u64,
    /// Pieces that are held, in whatever order.
    pub held: u32,
    /// What the upload became, once it is finished.
    pub progress: Option<Progress>,
}

/// One piece, in nobody's words yet.
#[derive(Debug, Clone)]
struct Piece {
    k: u32,
    length: Option<u64>,
    checksum: Option<Digest>,
    kind: Kind,
}

/// In whose words it is refused.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Part,
    Chunk,
}

impl Turn<'_> {
    /// Makes an upload that is sent in parts; returns it with the bytes of a part.
    ///
    /// # Errors
    /// The refusal to send; then nothing is made.
    pub async fn create_in_parts(&self, create: Create) -> Result<(Progress, u64), Refusal> {
        self.fits(create.length, None)?;
        let (organization, target) = self.owner(&create).await?;
        let checksums = &create.expected;
        let terms = self
            .may_begin(organization, target.as_ref(), create.length, checksums)
            .await?;
        let mut intent = terms.bind(UploadIntent {
            length: create.length,
            expected: create.expected,
            cut: Some(Cut::Parts),
            ..self.intent(organization, target)
        });
        if self
            .part_fits_a_request(create.length, intent.part_bytes)
            .is_err()
        {
            // A script's wish; without it the limit decides.
            intent.part_bytes = None;
        }
        self.part_fits_a_request(create.length, intent.part_bytes)?;
        let row = self.gateway.engine.create(intent).await?;
        self.facts.set_upload(row.id.to_string());
        Ok((self.standing(&row), row.part_bytes))
    }

    /// Refuses an upload whose parts are longer than what one request may carry.
    fn part_fits_a_request(&self, length: Option<u64>, wanted: Option<u64>) -> Result<(), Refusal> {
        let limits = self.gateway.upload_limits();
        let wanted = wanted.unwrap_or(0).checked_next_power_of_two();
        let part = part_bytes_for(length).max(wanted.unwrap_or(u64::MAX));
        let part = part.min(length.unwrap_or(u64::MAX));
        match limits.max_append_size {
            Some(most) if part > most => {
                let text = format!(
                    "A part of this upload has {part} bytes, and one request takes {most} at most \
                     (uploads.max_append_size). Send it from its beginning on, in appends (PATCH); \
                     or have that limit raised to a part's length."
                );
                Err(self.too_large(&limits, text))
            }
            _ => Ok(()),
        }
    }

    /// Takes one part of an upload of the caller's.
    ///
    /// # Errors
    /// The refusal to send; the part is as if it had not been sent, and nothing else changes.
    pub async fn put_part(
        &self,
        id: &str,
        put: PutPart,
        body: &mut InboundBody,
    ) -> Result<Held, Refusal> {
        let row = self.mine(id).await?;
        self.facts.set_upload(row.id.to_string());
        let row = self.settled(row).await?;
        let Some(cut) = row.pieces.filter(|cut| cut.bytes == Some(row.part_bytes)) else {
            return Err(native::not_in_parts(row.offset));
        };
        if put.k >= cut.count {
            let rule = format!("There are {} parts, 0 to {}.", cut.count, cut.count - 1);
            return Err(Refusal::invalid(rule).closing());
        }
        if row.state == UploadState::Open {
            self.within_the_window(&row, put.k).await?;
        }
        let piece = Piece {
            k: put.k,
            length: put.length,
            checksum: put.checksum,
            kind: Kind::Part,
        };
        let before = u64::from(put.k) * row.part_bytes;
        let all = row
            .length
            .map(|length| length.saturating_sub(before).min(row.part_bytes));
        if let (Some(all), Some(given)) = (all, put.length)
            && all != given
        {
            return Err(piece.wrong_size(all));
        }
        self.take(row, piece, body).await
    }

    /// Waits while a part is too far ahead and those before it come: its body is not asked for
    /// meanwhile, which holds a client back that sends more parts at once than the window has.
    async fn within_the_window(&self, row: &UploadRow, k: u32) -> Result<(), Refusal> {
        let window = native::WINDOW_PARTS * row.part_bytes;
        let start = u64::from(k) * row.part_bytes;
        let fits = |committed: u64| start < committed - committed % row.part_bytes + window;
        if fits(row.offset) {
            return Ok(());
        }
        let mut committed = row.offset;
        if let Ok(mut progress) = self.gateway.engine.follow_pieces(row.id).await {
            let reached = progress.wait_for(|committed| fits(*committed));
            let reached = tokio::time::timeout(WINDOW_WAIT, reached).await;
            if reached.is_ok_and(|reached| reached.is_ok()) {
                return Ok(());
            }
            committed = *progress.borrow();
        }
        Err(native::too_far_ahead(k, committed, row.part_bytes))
    }

    /// Lets the offset move on over parts that a crash left held behind it: whoever only asks may wait for
    /// that, since all that it may send is held. Where nothing is missing it needs a request that may publish.
    pub(super) async fn catch_up(&self, row: &UploadRow) -> Result<(), Refusal> {
        let engine = &self.gateway.engine;
        let some_missing = row
            .pieces
            .is_some_and(|cut| (1..cut.count).contains(&cut.held));
        if row.state != UploadState::Open || !some_missing || engine.is_busy(row.id) {
            return Ok(());
        }
        let held = engine.held_pieces(row.id).await?;
        let next =
            |piece: &HeldPiece| (piece.start..piece.start + piece.length).contains(&row.offset);
        if held.iter().any(next) {
            // Whoever sends it in order meanwhile moves it, too.
            let _progress = engine.follow_pieces(row.id).await;
        }
        Ok(())
    }

    /// Takes one of BoxVault's chunks.
    ///
    /// # Errors
    /// As [`Self::put_part`].
    pub async fn put_chunk(
        &self,
        file: &BoxRef,
        organization: OrganizationId,
        chunk: &Chunk,
        body: &mut InboundBody,
    ) -> Result<Held, Refusal> {
        self.fits(None, chunk.length)?;
        let target = self.target(file, &chunk.whole);
        let row = self.session(organization, target, chunk).await?;
        self.facts.set_upload(row.id.to_string());
        self.asks_as_begun(&row)?;
        let row = self.settled(row).await?;
        let piece = Piece {
            k: chunk.index,
            length: chunk.length,
            checksum: chunk.checksum.clone(),
            kind: Kind::Chunk,
        };
        self.may_go_on(&row, chunk).await?;
        self.take(row, piece, body).await
    }

    /// Refuses a chunk that may be of another file than those which rest under its name. Without a checksum of
    /// the whole only equal bytes tell: a chunk that is held is compared, and then they rest no more.
    async fn may_go_on(&self, row: &UploadRow, chunk: &Chunk) -> Result<(), Refusal> {
        let engine = &self.gateway.engine;
        let rests = row.state == UploadState::Open
            && row.updated <= self.rested()
            && !engine.is_busy(row.id);
        if !chunk.whole.is_empty() || !rests {
            return Ok(());
        }
        let held = engine.held_pieces(row.id).await?;
        if held.is_empty() || held.iter().any(|piece| piece.k == chunk.index) {
            return Ok(());
        }
        Err(chunk::rests(self.gateway.settings.uploads.chunk_idle))
    }

    /// What was last written to before this has come to rest.
    fn rested(&self) -> UnixMillis {
        let idle = self.gateway.settings.uploads.chunk_idle;
        self.gateway.clock.now().minus(idle)
    }

    /// The upload that a chunk belongs to: the sender's of that name, number of chunks and checksum.
    async fn session(
        &self,
        organization: OrganizationId,
        target: Target,
        chunk: &Chunk,
    ) -> Result<UploadRow, Refusal> {
        let gateway = self.gateway;
        if let Some(row) = self.begun(organization, &target, chunk).await? {
            return Ok(row);
        }
        // All but the last are of one size, so this is the most that it can be.
        let most = chunk
            .size()
            .map(|size| size.saturating_mul(u64::from(chunk.total)));
        let terms = self
            .may_begin(organization, Some(&target), most, &chunk.whole)
            .await?;
        // Several chunks at once may all find none, here and at other nodes: one of them makes it.
        let _one_at_a_time = gateway.chunk_sessions.lock().await;
        let owner = gateway.upkeep.owner();
        let mut tries = 0;
        while !gateway
            .metadata
            .claim(SESSIONS, owner, SESSIONS_FOR)
            .await?
        {
            tries += 1;
            if tries > SESSIONS_TRIES {
                return Err(Error::new(ErrorKind::Unavailable, "upload.session", SESSIONS).into());
            }
            tokio::time::sleep(SESSIONS_EVERY).await;
        }
        let made = self.made(organization, target, chunk, terms).await;
        gateway.metadata.unclaim(SESSIONS, owner).await?;
        made
    }

    /// The same, made unless somebody just did.
    async fn made(
        &self,
        organization: OrganizationId,
        target: Target,
        chunk: &Chunk,
        terms: Terms,
    ) -> Result<UploadRow, Refusal> {
        if let Some(row) = self.begun(organization, &target, chunk).await? {
            return Ok(row);
        }
        let intent = terms.bind(UploadIntent {
            expected: chunk.whole.clone(),
            cut: Some(Cut::Chunks {
                count: chunk.total,
                bytes: chunk.size(),
            }),
            note: Some(chunk.note()),
            ..self.intent(organization, Some(target))
        });
        Ok(self.gateway.engine.create(intent).await?)
    }

    /// The same, where it was begun already and this chunk does not begin it anew.
    async fn begun(
        &self,
        organization: OrganizationId,
        target: &Target,
        chunk: &Chunk,
    ) -> Result<Option<UploadRow>, Refusal> {
        let engine = &self.gateway.engine;
        let (note, rested) = (chunk.note(), self.rested());
        match self.sessions(organization, target, &note, rested).await? {
            // Its sender is long gone, and this one begins anew.
            (Some(row), _)
                if chunk.index == 0 && row.updated <= rested && !engine.is_busy(row.id) =>
            {
                engine.cancel(row.id).await?;
                Ok(None)
            }
            (Some(row), _) => Ok(Some(row)),
            // The answer was lost, and the chunk is sent again. Without a checksum chunk 0 begins another
            // upload: that of a new file may have the same bytes.
            (None, done) => Ok(done.filter(|_| chunk.index > 0 || !chunk.whole.is_empty())),
        }
    }

    /// The oldest one that is open, and the newest that was finished since `since`.
    async fn sessions(
        &self,
        organization: OrganizationId,
        target: &Target,
        note: &str,
        since: UnixMillis,
    ) -> Result<(Option<UploadRow>, Option<UploadRow>), Refusal> {
        let sender = self.principal.sender();
        let engine = &self.gateway.engine;
        let rows = engine
            .uploads_to(&sender, organization, target, since)
            .await?;
        let (done, open): (Vec<_>, Vec<_>) = rows
            .into_iter()
            .filter(|row| row.note.as_deref() == Some(note) && !is_quarantined(row))
            .partition(|row| row.state == UploadState::Done);
        Ok((open.into_iter().last(), done.into_iter().next()))
    }

    async fn take(
        &self,
        row: UploadRow,
        piece: Piece,
        body: &mut InboundBody,
    ) -> Result<Held, Refusal> {
        let id = row.id;
        match self.take_in_place(row, piece, body).await {
            Err(refusal) => Err(self.why_ended(id, refusal).await),
            held => held,
        }
    }

    async fn take_in_place(
        &self,
        row: UploadRow,
        piece: Piece,
        body: &mut InboundBody,
    ) -> Result<Held, Refusal> {
        if row.state == UploadState::Done {
            return self.piece_again(row, &piece, body).await;
        }
        let _permit = self.gateway.admission.piece(row.id).await?;
        let engine = &self.gateway.engine;
        let mut writer = match engine.piece(row.id, piece.k, piece.length).await {
            Ok(writer) => writer,
            Err(e) if e.kind() == ErrorKind::Conflict => {
                // Finished meanwhile, or sent in order by somebody.
                let row = self.settled(self.mine(&row.id.to_string()).await?).await?;
                return match row.state {
                    UploadState::Done => self.piece_again(row, &piece, body).await,
                    _ => Err(native::not_in_parts(row.offset)),
                };
            }
            Err(e) => return Err(piece.unplaced(e)),
        };
        if let Some(checksum) = &piece.checksum {
            writer.hold(checksum.clone())?;
        }
        let most = writer.most_bytes();
        if let Pumped::Past = ingest::pump(body, &mut writer, most).await? {
            return Err(piece.wrong_size(most));
        }
        if let Some(checksum) = &piece.checksum {
            let released = writer.release();
            released.map_err(|e| self.unreleased(e, checksum, row.offset))?;
        }
        // Any of them may be the one that ends the upload.
        self.authorize_again(&row).await?;
        self.finish(row, &piece, writer).await
    }

    /// The piece's own digest is another: that ends the piece, and not the upload.
    fn unreleased(&self, error: Error, checksum: &Digest, committed: u64) -> Refusal {
        match error.kind() {
            ErrorKind::DigestMismatch => self.protocol.checksum_mismatch(checksum, committed),
            _ => error.into(),
        }
    }

    async fn finish(
        &self,
        row: UploadRow,
        piece: &Piece,
        writer: PieceWriter,
    ) -> Result<Held, Refusal> {
        let placed = match writer.finish().await {
            Ok(placed) => placed,
            Err(e) => {
                return Err(match e.kind() {
                    ErrorKind::Conflict => piece.differs(row.offset),
                    ErrorKind::LengthMismatch { expected, .. } => piece.wrong_size(expected),
                    ErrorKind::OffsetMismatch { expected, .. } => {
                        native::too_far_ahead(piece.k, expected, row.part_bytes)
                    }
                    _ => self.unfinished(e),
                });
            }
        };
        Ok(Held {
            committed: placed.committed,
            held: placed.held,
            progress: placed.published.map(|published| done(row, published)),
        })
    }

    /// A piece of an upload that is finished: the same once more to a client that lost the answer.
    async fn piece_again(
        &self,
        row: UploadRow,
        piece: &Piece,
        body: &mut InboundBody,
    ) -> Result<Held, Refusal> {
        let held = self.gateway.engine.held_piece(row.id, piece.k).await?;
        let (Some(held), Some(published)) = (held, row.published.clone()) else {
            return Err(native::not_in_parts(row.offset));
        };
        let mut hasher = PieceHasher::new(held.start);
        let mut alone = piece
            .checksum
            .as_ref()
            .map(|told| DigestHasher::new(told.algorithm()));
        let mut bytes = 0;
        while let Some(chunk) = body.chunk().await? {
            bytes += chunk.len() as u64;
            if bytes > held.length {
                return Err(piece.wrong_size(held.length));
            }
            hasher.update(&chunk);
            if let Some(alone) = &mut alone {
                alone.update(&chunk);
            }
        }
        if let (Some(told), Some(alone)) = (&piece.checksum, alone)
            && alone.finish() != *told
        {
            return Err(self.protocol.checksum_mismatch(told, row.offset));
        }
        if bytes != held.length || hasher.finish() != held.values {
            return Err(match piece.kind {
                Kind::Part => piece.differs(row.offset),
                Kind::Chunk => chunk::differs_from_published(piece.k),
            });
        }
        Ok(Held {
            committed: row.offset,
            held: row.pieces.map_or(0, |cut| cut.held),
            progress: Some(done(row, published)),
        })
    }
}

/// Nobody goes on with one that is quarantined: its sender may send something better to the same name.
fn is_quarantined(row: &UploadRow) -> bool {
    let said = row.gate.as_ref().map(|gating| gating.state);
    said == Some(GateState::Quarantined)
}

fn done(row: UploadRow, published: Published) -> Progress {
    let length = published.blob.length;
    Progress {
        id: row.id,
        standing: Standing {
            offset: length,
            length: Some(length),
            complete: true,
            note: row.note,
            ..Standing::default()
        },
        published: Some(published),
        target: row.target,
    }
}

/// The right to begin an upload in chunks, of one node at a time.
const SESSIONS: &str = "chunk sessions";
/// How long a node that died keeps it.
const SESSIONS_FOR: Duration = Duration::from_secs(5);
/// How often, and after how long each, it is asked for.
const SESSIONS_TRIES: u32 = 200;
const SESSIONS_EVERY: Duration = Duration::from_millis(50);
/// How long a part waits for those before it.
const WINDOW_WAIT: Duration = Duration::from_secs(10);

impl Piece {
    fn unplaced(&self, error: Error) -> Refusal {
        match (error.kind(), self.kind) {
            (ErrorKind::LengthMismatch { expected, .. }, _) => self.wrong_size(expected),
            (ErrorKind::Unavailable, Kind::Chunk) => {
                // Nothing is wrong here, and the same chunk again would wait as long.
                let text =
                    "The last chunk has its place once another one came. Send another first.";
                Refusal::new(StatusCode::CONFLICT, text)
                    .code("CHUNK_TOO_EARLY")
                    .closing()
            }
            (ErrorKind::Invalid, Kind::Chunk) => Refusal::invalid(
                "The place of this chunk cannot be told: its length is needed (Content-Length).",
            )
            .closing(),
            _ => Refusal::from(error).closing(),
        }
    }

    fn wrong_size(&self, expected: u64) -> Refusal {
        let k = self.k;
        let (rule, code) = match self.kind {
            Kind::Part => (
                format!("Part {k} has exactly {expected} bytes. Nothing of it was taken."),
                "PART_SIZE",
            ),
            Kind::Chunk => (
                format!(
                    "Chunk {k} of this upload has {expected} bytes: all but the last have one size. \
                     Nothing of it was taken."
                ),
                "CHUNK_SIZE",
            ),
        };
        Refusal::new(StatusCode::BAD_REQUEST, rule)
            .code(code)
            .closing()
    }

    fn differs(&self, committed: u64) -> Refusal {
        match self.kind {
            Kind::Part => native::differs(self.k, committed),
            Kind::Chunk => chunk::differs(self.k),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_last_chunk_without_a_place_is_no_failure_of_the_server() {
        let piece = |kind| Piece {
            k: 2,
            length: Some(5),
            checksum: None,
            kind,
        };
        let error = || Error::new(ErrorKind::Unavailable, "upload.piece", "upload");
        let refused = piece(Kind::Chunk).unplaced(error());
        let told = (refused.status.as_u16(), refused.code);
        assert_eq!(told, (409, Some("CHUNK_TOO_EARLY")));
        assert_eq!(piece(Kind::Part).unplaced(error()).status.as_u16(), 503);
    }
}
