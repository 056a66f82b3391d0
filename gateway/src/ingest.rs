//! The pump of an upload: asks the body for a frame only when the writer has room for it. That one
//! rule is the back-pressure, down to the client's window.

use std::pin::pin;
use std::time::Duration;

use boxgate_storage::upload::{PieceWriter, UploadWriter};
use boxgate_storage::{Error, ErrorKind, Result as Stored};
use bytes::Bytes;
use http::StatusCode;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use crate::multipart::FormError;
use crate::refusal::Refusal;
use crate::server::{BodyError, InboundBody};

/// How a body came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pumped {
    /// All of it is in the writer.
    All,
    /// It goes on past what was allowed; nothing of the chunk that did is in the writer.
    Past,
}

/// Where the bytes of a body go.
pub trait TakeBytes: Send {
    /// Waits until there is room, if nothing else is known of what comes.
    fn room(&mut self) -> impl Future<Output = Stored<()>> + Send;

    /// Takes one chunk; waits while there is no room.
    fn write(&mut self, chunk: Bytes) -> impl Future<Output = Stored<()>> + Send;

    /// Gives back memory that a silent client keeps.
    fn give_memory_back(&mut self) -> impl Future<Output = Stored<()>> + Send;

    /// Resolves when a newer request takes its place.
    fn taken_over(&self) -> impl Future<Output = ()> + Send + 'static;

    /// Bytes until a place where it may stop and go on at another node; `None` where it had better come to its end.
    fn to_rest(&self) -> Option<u64>;
}

impl TakeBytes for UploadWriter {
    fn room(&mut self) -> impl Future<Output = Stored<()>> + Send {
        self.room()
    }

    fn write(&mut self, chunk: Bytes) -> impl Future<Output = Stored<()>> + Send {
        self.write(chunk)
    }

    fn give_memory_back(&mut self) -> impl Future<Output = Stored<()>> + Send {
        self.give_memory_back()
    }

    fn taken_over(&self) -> impl Future<Output = ()> + Send + 'static {
        self.taken_over()
    }

    fn to_rest(&self) -> Option<u64> {
        self.to_part_end()
    }
}

impl TakeBytes for PieceWriter {
    /// What it needs was reserved with the piece.
    async fn room(&mut self) -> Stored<()> {
        Ok(())
    }

    fn write(&mut self, chunk: Bytes) -> impl Future<Output = Stored<()>> + Send {
        self.write(chunk)
    }

    fn give_memory_back(&mut self) -> impl Future<Output = Stored<()>> + Send {
        self.give_memory_back()
    }

    fn taken_over(&self) -> impl Future<Output = ()> + Send + 'static {
        self.taken_over()
    }

    /// It ends where it may stop.
    fn to_rest(&self) -> Option<u64> {
        None
    }
}

/// Moves a body of at most `most` bytes into the writer.
///
/// # Errors
/// What the writer answers, 409 when a newer request takes the upload over, 408 or 400 for a body
/// that stalls or ends early, and 503 where it may go on at another node when this one stops. What came before is in the writer; the caller pauses or drops it.
pub async fn pump(
    body: &mut InboundBody,
    writer: &mut impl TakeBytes,
    most: u64,
) -> Result<Pumped, Refusal> {
    pump_telling(body, writer, most, None).await
}

/// Tells, while a body comes, how much of it is committed.
pub struct Telling<'t> {
    /// The committed offset as it moves.
    pub progress: watch::Receiver<u64>,
    /// Told each new value, not more often than once a second.
    pub tell: &'t mut (dyn FnMut(u64) + Send),
}

impl std::fmt::Debug for Telling<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telling").finish_non_exhaustive()
    }
}

/// The same as [`pump`], and the client is told meanwhile how far it is.
///
/// # Errors
/// As [`pump`].
pub async fn pump_telling(
    body: &mut InboundBody,
    writer: &mut impl TakeBytes,
    most: u64,
    mut telling: Option<Telling<'_>>,
) -> Result<Pumped, Refusal> {
    let mut tell_at = Instant::now();
    let mut taken_over = pin!(writer.taken_over());
    let leaving = body.leaving();
    let mut leaves = pin!(leaving.cancelled());
    let mut left = most;
    loop {
        let is_leaving = leaving.is_cancelled();
        let rests_in = is_leaving.then(|| writer.to_rest()).flatten();
        if rests_in == Some(0) {
            return Err(BodyError::Draining.into());
        }
        tokio::select! {
            biased;
            ready = writer.room() => ready?,
            () = &mut leaves, if !is_leaving => continue,
        }
        let chunk = tokio::select! {
            biased;
            () = &mut taken_over => {
                return Err(Error::new(ErrorKind::Fenced, "upload.write", "upload").into());
            }
            offset = moved(&mut telling, tell_at) => {
                if let Some(telling) = &mut telling {
                    (telling.tell)(offset);
                }
                tell_at = Instant::now() + TELL_EVERY;
                continue;
            }
            chunk = timeout(SILENCE, body.chunk()) => chunk,
            () = &mut leaves, if !is_leaving => continue,
        };
        let Ok(chunk) = chunk else {
            writer.give_memory_back().await?;
            continue;
        };
        let Some(mut chunk) = chunk? else {
            return Ok(Pumped::All);
        };
        let Some(rest) = left.checked_sub(chunk.len() as u64) else {
            return Ok(Pumped::Past);
        };
        left = rest;
        if let Some(rests_in) = rests_in {
            chunk.truncate(usize::try_from(rests_in).unwrap_or(usize::MAX));
        }
        writer.write(chunk).await?;
    }
}

/// The committed offset, once it moved and `at` came; never, where nobody is told.
async fn moved(telling: &mut Option<Telling<'_>>, at: Instant) -> u64 {
    let Some(telling) = telling else {
        return std::future::pending().await;
    };
    sleep_until(at).await;
    match telling.progress.changed().await {
        Ok(()) => *telling.progress.borrow_and_update(),
        Err(_ended) => std::future::pending().await,
    }
}

/// How often a client is told how far it is: often enough for a bar to move.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How long a client may be silent before the buffer that its upload holds is given back.
const SILENCE: Duration = Duration::from_secs(1);

/// Awaits the next chunk; a client that falls silent meanwhile does not keep memory that others need.
///
/// # Errors
/// What the body or the writer answers.
pub async fn patiently<E>(
    next: impl Future<Output = Result<Option<Bytes>, E>>,
    writer: &mut UploadWriter,
) -> Result<Option<Bytes>, Refusal>
where
    Refusal: From<E>,
{
    writer.room().await?;
    let mut next = pin!(next);
    if let Ok(chunk) = timeout(SILENCE, &mut next).await {
        return Ok(chunk?);
    }
    loop {
        writer.give_memory_back().await?;
        if let Ok(chunk) = timeout(SILENCE, &mut next).await {
            return Ok(chunk?);
        }
    }
}

impl From<BodyError> for Refusal {
    /// For a body that did not arrive whole; often nobody is left to read it.
    fn from(error: BodyError) -> Self {
        body_failed(error)
    }
}

impl From<FormError> for Refusal {
    fn from(error: FormError) -> Self {
        match error {
            FormError::Body(error) => body_failed(error),
            error => Refusal::invalid(format!(
                "The form cannot be read: {error}. Nothing was published."
            ))
            .closing(),
        }
    }
}

/// The code of a body that did not arrive whole.
const INCOMPLETE: &str = "UPLOAD_INCOMPLETE";
/// The code of one that was not read to its end, since the gateway stops.
const DRAINING: &str = "DRAINING";
/// After which another node takes it, or this one again.
const DRAINED_AGAIN: Duration = Duration::from_secs(2);

impl Refusal {
    /// Whether it answers a body that did not arrive whole.
    pub fn is_incomplete(&self) -> bool {
        matches!(self.code, Some(INCOMPLETE | DRAINING))
    }
}

fn body_failed(error: BodyError) -> Refusal {
    match error {
        BodyError::Draining => {
            let text = "The gateway is stopping and reads no more of the body. Nothing was published.";
            return Refusal::busy(text, DRAINED_AGAIN).code(DRAINING).closing();
        }
        BodyError::Idle => Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            "No byte of the body came for too long (server.body_idle_timeout). Nothing was published.",
        ),
        BodyError::TooSlow => Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            "The body came too slowly (server.slowest_rate). Nothing was published.",
        ),
        BodyError::Cut | BodyError::Protocol => {
            Refusal::invalid("The body ended before its declared length. Nothing was published.")
        }
        BodyError::Trailers => Refusal::invalid(
            "More stands behind the body than is read (limits.trailer_bytes, limits.trailer_fields). \
             Nothing was published.",
        ),
    }
    .code(INCOMPLETE)
    .closing()
}
