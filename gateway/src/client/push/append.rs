//! A file sent in order, in requests that are halved as long as something on the way finds them too large: what a push
//! falls back on where a whole part does not get through. By tus, which every proxy that lets uploads through has seen.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use boxgate_storage::catalog::BoxRef;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderName, Method, StatusCode};
use reqwest::Body;
use tokio::sync::watch;
use tokio::time::sleep;

use super::body::{FileBody, Flight};
use super::protocol::{self, Outcome, joined, number, place_of};
use super::{Notice, Push, PushError, passing};
use crate::client::retry::{chance, delay};
use crate::client::{Client, ClientError};

/// What the first request carries; half the smallest part.
const FIRST_BYTES: u64 = 4 << 20;
/// What is refused though it is no larger than this is refused for another reason.
const SMALLEST_BYTES: u64 = 64 << 10;
/// How far the digest may be computed ahead of what is held.
const HASHED_AHEAD: u64 = 32 << 20;

const TUS_RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");

/// Whether the gateway, or what stands before it, takes no body of that length.
pub fn is_too_large(error: &ClientError) -> bool {
    error.status() == Some(StatusCode::PAYLOAD_TOO_LARGE.as_u16())
}

/// Makes an upload that is sent in order.
///
/// # Errors
/// As [`Client::send`].
pub async fn create(client: &Client, file: &BoxRef, length: u64) -> Result<String, ClientError> {
    let request = client
        .request(Method::POST, &place_of(file))
        .header(TUS_RESUMABLE, "1.0.0")
        .header("upload-length", length)
        .body(Body::default());
    let answer = client.send(request).await?;
    let location = answer.headers.get(LOCATION).and_then(|v| v.to_str().ok());
    let upload = location.and_then(|location| joined(client.base(), location));
    upload.ok_or_else(|| client.odd("it does not say where the upload is"))
}

/// Sends bytes from `offset` on; returns how many are held in all.
async fn append(
    client: &Client,
    upload: &str,
    offset: u64,
    body: FileBody,
    flight: &Arc<Flight>,
) -> Result<u64, ClientError> {
    let request = client
        .request(Method::PATCH, upload)
        .header(TUS_RESUMABLE, "1.0.0")
        .header("upload-offset", offset)
        .header(CONTENT_TYPE, "application/offset+octet-stream")
        .body(Body::wrap(body));
    let answer = protocol::unless_stalled(client, flight, client.send(request)).await?;
    number(&answer, "upload-offset")
        .ok_or_else(|| client.odd("it does not say how far the upload is"))
}

/// Where an upload stands.
enum Stands {
    At(u64),
    Published(Outcome),
}

impl Push<'_> {
    /// Sends what is missing, from the first byte that is not held to the last.
    pub(super) async fn send_in_order(
        &self,
        upload: &str,
        allow: &watch::Sender<u64>,
    ) -> Result<Outcome, PushError> {
        let mut bytes = FIRST_BYTES;
        let mut failures = 0;
        loop {
            // What is held is asked for first, and whenever it is in doubt.
            let stopped = match self.stands(upload).await {
                Ok(Stands::Published(outcome)) => return Ok(outcome),
                Ok(Stands::At(offset)) => {
                    let (held, stopped) = self.go_on(upload, offset, &mut bytes, allow).await?;
                    if held > offset {
                        failures = 0;
                    }
                    stopped
                }
                Err(error) => Some(error),
            };
            if failures > self.order.tries {
                let why = stopped.unwrap_or_else(|| self.client.odd("the upload does not move"));
                return Err(PushError::GivenUp { why });
            }
            failures += 1;
            let Some(error) = stopped else {
                // It is whole, and what became of it is asked for at once, but not for ever.
                sleep(delay(failures - 1, None, chance())).await;
                continue;
            };
            // Another offset than was thought is no reason to end.
            let error = match error.status() {
                Some(409) => error,
                _ => passing(error)?,
            };
            let wait = delay(failures, error.retry_after(), chance());
            self.again("sending", &error, wait);
            sleep(wait).await;
        }
    }

    async fn stands(&self, upload: &str) -> Result<Stands, ClientError> {
        let standing = protocol::standing(self.client, upload).await?;
        if standing.state != "done" {
            return Ok(Stands::At(standing.offset));
        }
        let outcome = standing.outcome.known();
        let untold = || self.client.odd("it does not say what the upload became");
        outcome.map(Stands::Published).ok_or_else(untold)
    }

    /// Sends from `offset` on, in requests of so many bytes or less, to the end or until one fails. Returns how many
    /// are held then. An upload whose bytes are all there is ended by an empty request.
    async fn go_on(
        &self,
        upload: &str,
        mut offset: u64,
        bytes: &mut u64,
        allow: &watch::Sender<u64>,
    ) -> Result<(u64, Option<ClientError>), PushError> {
        let length = self.source.identity.size;
        loop {
            self.progress.held.store(offset, Ordering::Relaxed);
            allow.send_replace(offset.saturating_add(HASHED_AHEAD));
            self.source.assert_unchanged()?;
            let end = length.min(offset.saturating_add(*bytes));
            let flight = Arc::new(Flight::new(Arc::clone(&self.progress.flying)));
            let file = Arc::clone(&self.source.file);
            let body = FileBody::new(file, offset..end, Arc::clone(&flight));
            match append(self.client, upload, offset, body, &flight).await {
                Ok(held) if held > offset || held >= length => {
                    offset = held;
                    (self.tell)(Notice::Part {
                        part: None,
                        held,
                        length,
                    });
                    if held >= length {
                        return Ok((length, None));
                    }
                }
                Ok(_) => return Ok((offset, Some(self.client.odd("the upload does not move")))),
                Err(error) if is_too_large(&error) && *bytes > SMALLEST_BYTES => {
                    *bytes /= 2;
                    (self.tell)(Notice::Halved { bytes: *bytes });
                }
                Err(error) => return Ok((offset, Some(error))),
            }
        }
    }
}
