//! Uploads that their client lost track of, and going on with them as a client that knows only its file.

use boxgate_storage::ErrorKind;
use boxgate_storage::catalog::BoxRef;
use boxgate_storage::clock::UnixMillis;
use boxgate_storage::digest::Digest;
use boxgate_storage::metadata::uploads::{Pieces, UploadState};
use boxgate_storage::upload::UploadRow;
use http::StatusCode;

use super::resumable::{Turn, expires};
use crate::refusal::Refusal;
use crate::resumable::{Standing, native};

/// Uploads to one name that are told of, the newest first.
const MOST: usize = 100;

impl Turn<'_> {
    /// The caller's own uploads to that name that take bytes still, the newest first. Asks what beginning one asks.
    ///
    /// # Errors
    /// The refusal to send.
    pub async fn unfinished_to(&self, file: &BoxRef) -> Result<Vec<UploadRow>, Refusal> {
        let gateway = self.gateway;
        let organization = self.may_publish(file).await?;
        let target = self.target(file, &[]);
        let (sender, none) = (self.principal.sender(), UnixMillis(i64::MAX));
        let rows = gateway
            .engine
            .uploads_to(&sender, organization, &target, none)
            .await?;
        let now = gateway.clock.now();
        let is_over = |row: &UploadRow| {
            expires(row, &gateway.settings.uploads).is_some_and(|at| at <= now)
                && !gateway.engine.is_busy(row.id)
        };
        // One that is joined of others takes nothing that could be sent.
        let goes_on = |row: &UploadRow| row.state == UploadState::Open && row.joins == 0;
        let open = rows.into_iter().filter(|row| goes_on(row) && !is_over(row));
        Ok(open.take(MOST).collect())
    }

    /// An upload of the caller's that can be told part by part: how it is cut, or nothing where it is sent in order.
    ///
    /// # Errors
    /// The refusal to send.
    pub async fn by_part(&self, id: &str) -> Result<(UploadRow, Option<Pieces>), Refusal> {
        let row = self.mine(id).await?;
        self.facts.set_upload(row.id.to_string());
        match row.pieces {
            Some(cut) if cut.bytes == Some(row.part_bytes) => Ok((row, Some(cut))),
            None if row.state == UploadState::Open && row.joins == 0 => Ok((row, None)),
            _ => Err(native::not_in_parts(row.offset)),
        }
    }

    /// Declares what the whole must be, of an upload of the caller's that takes bytes still: what comes from now on, and
    /// what came before, is published only if it is that.
    ///
    /// # Errors
    /// The refusal to send.
    pub async fn declare(&self, id: &str, digests: Vec<Digest>) -> Result<Standing, Refusal> {
        let row = self.mine(id).await?;
        self.facts.set_upload(row.id.to_string());
        match self.gateway.engine.declare(row.id, digests).await {
            Ok(row) => Ok(self.standing(&row).standing),
            Err(error) if error.kind() == ErrorKind::Conflict => Err(other_digest()),
            Err(error) => Err(self.why_ended(row.id, error.into()).await),
        }
    }
}

fn other_digest() -> Refusal {
    let text = "Another digest was declared of this upload, or it takes no more bytes. If the file is another, begin a \
                new upload.";
    Refusal::new(StatusCode::CONFLICT, text).code("DIGEST_DIFFERS")
}
