//! The pump of an upload: asks the body for a frame only when the writer has room for it. That one
//! rule is the back-pressure, down to the client's window.

use boxgate_storage::upload::UploadWriter;

use crate::refusal::Refusal;
use crate::server::{BodyError, InboundBody};

/// Moves the whole body into the writer.
///
/// # Errors
/// What the writer answers, and 408 or 400 for a body that stalls or ends early. The caller drops the
/// writer then, which gives the upload up.
pub async fn pump(body: &mut InboundBody, writer: &mut UploadWriter) -> Result<(), Refusal> {
    while let Some(chunk) = body.chunk().await.map_err(body_failed)? {
        writer.write(chunk).await?;
    }
    Ok(())
}

/// The refusal for a body that did not arrive whole; often nobody is left to read it.
pub fn body_failed(error: BodyError) -> Refusal {
    use http::StatusCode;
    match error {
        BodyError::Idle => Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            "No byte of the body came for too long (server.body_idle). Nothing was published.",
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
