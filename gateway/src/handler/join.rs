//! Uploads that are joined of others (tus: concatenation): made by a request, joined by the `joiner`.

use std::collections::HashMap;

use boxgate_storage::blob::UploadId;
use boxgate_storage::metadata::uploads::UploadState;
use boxgate_storage::upload::{UploadIntent, UploadRow};
use boxgate_storage::{Error, ErrorKind};
use http::StatusCode;

use super::resumable::{Progress, Turn};
use crate::auth::{self, Credential};
use crate::refusal::Refusal;
use crate::resumable::{Create, Owner, tus};

impl Turn<'_> {
    /// Makes an upload that is joined of the caller's pieces, and waits until it is, if they are whole
    /// already. It goes on without the caller.
    ///
    /// # Errors
    /// The refusal to send; a piece is named in it as the client wrote it.
    pub(super) async fn create_final(
        &self,
        create: Create,
        urls: &[String],
    ) -> Result<Progress, Refusal> {
        let most = self.gateway.settings.uploads.final_pieces;
        if urls.len() > most {
            let rule = format!("A final upload has {most} pieces at most (uploads.final_pieces).");
            return Err(Refusal::invalid(rule).closing());
        }
        let (organization, target) = self.owner(&create).await?;
        let credential = self.credential()?;
        let note = tus::asked_by(create.note.as_deref(), credential);
        if let (Owner::Target(file), Some(target)) = (&create.owner, &target) {
            let words = (note.as_deref(), &create.expected[..]);
            // Its pieces may be gone by now.
            if let Some(progress) = self
                .final_again(organization, (file, target), words)
                .await?
            {
                return Ok(progress);
            }
        }
        let mut rows: HashMap<UploadId, &str> = HashMap::new();
        let mut sources = Vec::with_capacity(urls.len());
        let (mut length, mut at_least) = (Some(0u64), 0u64);
        for url in urls {
            let row = self.piece(url).await?;
            let add = |sum: u64, bytes: Option<u64>| bytes.map(|bytes| sum.saturating_add(bytes));
            length = length.and_then(|sum| add(sum, row.length));
            at_least = at_least.saturating_add(row.length.unwrap_or(row.offset));
            sources.push(row.id);
            rows.insert(row.id, url);
        }
        self.fits(Some(at_least), None)?;
        if length == Some(0) && target.is_some() {
            return Err(Refusal::empty_box().closing());
        }
        let terms = self
            .may_begin(organization, target.as_ref(), length, &create.expected)
            .await?;
        let intent = terms.bind(UploadIntent {
            length,
            expected: create.expected,
            note,
            ..self.intent(organization, target)
        });
        let made = self.gateway.engine.create_joined(intent, sources).await;
        let row = made.map_err(|error| of_a_piece(error, &rows))?;
        self.facts.set_upload(row.id.to_string());
        let sources = self.gateway.engine.sources(row.id).await?;
        if sources.iter().any(|source| source.blob.is_none()) {
            return Ok(self.standing(&row));
        }
        self.joined(&row, credential).await
    }

    /// What the database knows this request's credential by.
    fn credential(&self) -> Result<[u8; 32], Refusal> {
        let found = Credential::find(&self.head.headers, self.head.uri.query());
        found.map(|found| found.hash()).ok_or_else(auth::no_token)
    }

    /// Waits until the upload is joined. What fails for now is tried again without its client, who is told
    /// where the upload is.
    async fn joined(&self, row: &UploadRow, credential: [u8; 32]) -> Result<Progress, Refusal> {
        let joining = self.gateway.joiner.start(row.id, Some(credential));
        let outcome = joining.await;
        let row = self.gateway.engine.peek(row.id).await?;
        match (outcome, row) {
            (Ok(_), Some(row)) => Ok(self.standing(&row)),
            (Err(refusal), Some(row))
                if refusal.status.is_server_error() && row.state == UploadState::Open =>
            {
                Ok(self.standing(&row))
            }
            (Err(refusal), _) => Err(refusal.again()),
            (Ok(_), None) => Err(Error::new(ErrorKind::Gone, "upload.join", "upload").into()),
        }
    }

    /// Where an upload stands that is joined of others. Nobody is replaced: no client writes to it. One
    /// that is ready and rests, for the credential that asked for it ended, goes on by this one.
    pub(super) async fn head_of_final(&self, row: UploadRow) -> Result<Progress, Refusal> {
        let row = self.settled(row).await?;
        let mut progress = self.standing(&row);
        if row.state == UploadState::Open {
            let sources = self.gateway.engine.sources(row.id).await?;
            if row.length.is_none() {
                // tus 1.0, "Concatenation": told as soon as it can be calculated.
                let lengths = sources.iter().map(|source| source.length);
                progress.standing.length = lengths.sum();
            }
            if sources.iter().all(|source| source.blob.is_some()) {
                let credential = self.credential()?;
                drop(self.gateway.joiner.start(row.id, Some(credential)));
            }
        }
        Ok(progress)
    }

    /// The caller's piece that a URL names.
    async fn piece(&self, url: &str) -> Result<UploadRow, Refusal> {
        let own = self.gateway.authorities(self.facts);
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        let prefix = &self.gateway.settings.doors.files.prefix;
        let id = tus::upload_named_by(url, &own, prefix).ok_or_else(|| absent(url))?;
        let row = self
            .mine(id)
            .await
            .map_err(|refusal| match refusal.status {
                StatusCode::NOT_FOUND => absent(url),
                StatusCode::GONE => gone(url),
                _ => refusal,
            })?;
        if row.joins > 0 || !tus::is_partial(row.note.as_deref()) {
            return Err(no_piece(url));
        }
        Ok(row)
    }
}

/// Answers bytes for an upload that gets its bytes from others.
pub(super) fn takes_no_bytes() -> Refusal {
    // tus 1.0, "Concatenation": the server answers PATCH of a final upload so.
    Refusal::new(
        StatusCode::FORBIDDEN,
        "This upload is joined of others; it takes no bytes.",
    )
    .code("FINAL_UPLOAD")
    .closing()
}

/// What the engine found out about a piece that was fine a moment ago.
fn of_a_piece(error: Error, urls: &HashMap<UploadId, &str>) -> Refusal {
    let id = error.subject().parse().ok();
    let Some(url) = id.and_then(|id: UploadId| urls.get(&id)) else {
        return error.into();
    };
    match error.kind() {
        ErrorKind::NotFound => absent(url),
        ErrorKind::Gone => gone(url),
        ErrorKind::Invalid => no_piece(url),
        ErrorKind::Damaged => Refusal {
            message: format!("The stored bytes of {url} are damaged. Send this piece again."),
            ..error.into()
        },
        _ => error.into(),
    }
}

fn absent(url: &str) -> Refusal {
    let text = format!("Upload-Concat: {url} does not exist, or it is not yours.");
    Refusal::new(StatusCode::NOT_FOUND, text)
        .code("NOT_FOUND")
        .closing()
}

fn gone(url: &str) -> Refusal {
    let text = format!("Upload-Concat: {url} was given up or has expired. Send this piece again.");
    Refusal::new(StatusCode::GONE, text).code("GONE").closing()
}

fn no_piece(url: &str) -> Refusal {
    Refusal::invalid(format!(
        "Upload-Concat: {url} was not made with Upload-Concat: partial."
    ))
    .closing()
}
