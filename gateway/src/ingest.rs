//! The pump of an upload: asks the body for a frame only when the writer has room for it. That one
//! rule is the back-pressure, down to the client's window.

use std::pin::pin;
use std::time::Duration;

use boxgate_storage::upload::UploadWriter;
use bytes::Bytes;
use http::StatusCode;
use tokio::time::timeout;

use crate::multipart::FormError;
use crate::refusal::Refusal;
use crate::server::{BodyError, InboundBody};

/// Moves the whole body into the writer.
///
/// # Errors
/// What the writer answers, and 408 or 400 for a body that stalls or ends early. The caller drops the
/// writer then, which gives the upload up.
pub async fn pump(body: &mut InboundBody, writer: &mut UploadWriter) -> Result<(), Refusal> {
    while let Some(chunk) = patiently(body.chunk(), writer).await? {
        writer.write(chunk).await?;
    }
    Ok(())
}

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
    let mut next = pin!(next);
    if let Ok(chunk) = timeout(SILENCE, &mut next).await {
        return Ok(chunk?);
    }
    writer.give_memory_back().await?;
    Ok(next.await?)
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

fn body_failed(error: BodyError) -> Refusal {
    match error {
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
    }
    .code("UPLOAD_INCOMPLETE")
    .closing()
}
