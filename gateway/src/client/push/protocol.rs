//! The calls of the gateway's protocol of parts, one function each, and what their answers say.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boxgate_storage::catalog::BoxRef;
use boxgate_storage::digest::content::Digests;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Body, Url};
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::time::sleep;

use super::body::{FileBody, Flight};
use crate::client::{Answer, Client, ClientError};

/// A call that moves nothing for so long is given up and made again.
const STALLED: Duration = Duration::from_mins(2);
/// The largest part that any length leads to is smaller.
pub(super) const LARGEST_PART: u64 = 1 << 52;

const REPR_DIGEST: &str = "repr-digest";

/// An upload that was just made.
#[derive(Debug, Clone)]
pub struct Created {
    /// Where it goes on.
    pub upload: String,
    /// Bytes of each part but the last.
    pub part_bytes: u64,
}

/// What a gateway says of an upload.
#[derive(Debug, Deserialize)]
pub struct Standing {
    /// `open`, `completing`, `done`.
    pub state: String,
    /// Committed bytes.
    pub offset: u64,
    /// Bytes in all.
    pub length: Option<u64>,
    /// How it is cut; absent when it is not (any more).
    pub parts: Option<Parts>,
    /// What it became.
    #[serde(flatten)]
    pub outcome: MaybeOutcome,
}

/// How an upload is cut, and what is held beyond its offset.
#[derive(Debug, Deserialize)]
pub struct Parts {
    /// Bytes of each part but the last.
    pub size: u64,
    /// Whole parts beyond the offset.
    pub held: Vec<u64>,
}

/// What an upload became, where it ended.
#[derive(Debug, Default, Deserialize)]
pub struct MaybeOutcome {
    details: Option<Details>,
    #[serde(default)]
    warnings: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Details {
    file_size: u64,
    blake3: String,
    sha256: Option<String>,
}

/// What an upload became.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Bytes.
    pub length: u64,
    /// Hexadecimal.
    pub blake3: String,
    /// Hexadecimal; empty while the gateway computes it.
    pub sha256: String,
    /// What its sender should know.
    pub warnings: Vec<String>,
}

impl MaybeOutcome {
    /// The outcome, if there is one.
    pub fn known(self) -> Option<Outcome> {
        let details = self.details?;
        Some(Outcome {
            length: details.file_size,
            blake3: details.blake3,
            sha256: details.sha256.unwrap_or_default(),
            warnings: self.warnings,
        })
    }
}

/// What became of a part.
#[derive(Debug)]
pub enum Put {
    /// It is held; so many bytes are committed.
    Held(u64),
    /// It was the last one that was missing.
    Finished(Outcome),
}

/// What beginning came to.
#[derive(Debug)]
pub enum Begun {
    /// An upload that takes parts.
    Made(Created),
    /// The organization held its bytes already, and it is published.
    Known(Outcome),
}

/// Makes an upload of so many bytes. With their digests, what the organization holds already is published at once;
/// a gateway that does not know of that makes an upload as ever.
///
/// # Errors
/// As [`Client::send`].
pub async fn create(
    client: &Client,
    file: &BoxRef,
    length: u64,
    digests: Option<&Digests>,
) -> Result<Begun, ClientError> {
    let mut request = client
        .request(Method::POST, &place_of(file))
        .header("upload-length", length);
    if let Some(sha256) = digests.and_then(|digests| digests.sha256) {
        request = request
            .header("x-checksum-deploy", "true")
            .header(REPR_DIGEST, repr_digest("sha-256", &sha256.0));
    }
    let answer = client.send(request.body(Body::default())).await?;
    if answer.status == StatusCode::OK {
        let outcome = answer.json::<MaybeOutcome>()?.known();
        let untold = || client.odd("it does not say what the upload became");
        return outcome.map(Begun::Known).ok_or_else(untold);
    }
    let part_bytes = number(&answer, "upload-part-size");
    let part_bytes = part_bytes.filter(|bytes| (1..LARGEST_PART).contains(bytes));
    let location = answer.headers.get(LOCATION).and_then(|v| v.to_str().ok());
    let upload = location.and_then(|location| joined(client.base(), location));
    match (upload, part_bytes) {
        (Some(upload), Some(part_bytes)) => Ok(Begun::Made(Created { upload, part_bytes })),
        _ => Err(client.odd("it takes no uploads in parts; is it an older one?")),
    }
}

/// Where uploads are made that become this file.
pub(super) fn place_of(file: &BoxRef) -> String {
    let target = file.to_string();
    let target = utf8_percent_encode(&target, NON_ALPHANUMERIC);
    format!("/files?target={target}")
}

/// An address that the gateway gave, made whole; `None` for one that would show the credential to all.
pub(super) fn joined(base: &str, location: &str) -> Option<String> {
    let base = Url::parse(base).ok()?;
    let joined = base.join(location).ok()?;
    let weaker = base.scheme() == "https" && joined.scheme() != "https";
    (joined.has_host() && !weaker).then(|| joined.to_string())
}

/// Where an upload stands. Disturbs nobody.
///
/// # Errors
/// As [`Client::send`].
pub async fn standing(client: &Client, upload: &str) -> Result<Standing, ClientError> {
    client
        .send(client.request(Method::GET, upload))
        .await?
        .json()
}

/// An upload of the caller's that takes bytes still.
#[derive(Debug, Deserialize)]
pub struct Unfinished {
    /// Where it goes on.
    pub url: String,
    /// Committed bytes.
    pub offset: u64,
    /// Bytes in all.
    pub length: Option<u64>,
    /// How it is cut; absent when it is not sent in parts.
    pub parts: Option<Parts>,
    /// Of one that comes in BoxVault's chunks, which nobody else goes on with.
    chunks: Option<IgnoredAny>,
}

impl Unfinished {
    /// Whether it is sent from its offset on.
    pub fn is_in_order(&self) -> bool {
        self.parts.is_none() && self.chunks.is_none()
    }
}

#[derive(Debug, Deserialize)]
struct UnfinishedOnes {
    uploads: Vec<Unfinished>,
}

/// Uploads of the caller's that would become this file, the newest first.
///
/// # Errors
/// As [`Client::send`]; [`ClientError::Refused`] with 404 or 405 by an older gateway, which does not tell.
pub async fn unfinished(client: &Client, file: &BoxRef) -> Result<Vec<Unfinished>, ClientError> {
    let request = client.request(Method::GET, &place_of(file));
    let found: UnfinishedOnes = client.send(request).await?.json()?;
    let whole = |one: Unfinished| {
        let url = joined(client.base(), &one.url)?;
        Some(Unfinished { url, ..one })
    };
    Ok(found.uploads.into_iter().filter_map(whole).collect())
}

/// Some of the parts that are held.
#[derive(Debug, Deserialize)]
pub struct HeldParts {
    /// Bytes of each part but the last.
    pub size: u64,
    /// Where an upload ends so far that is sent in order: within the last part, mostly.
    pub offset: Option<u64>,
    /// In the order of their numbers.
    pub parts: Vec<HeldPart>,
    /// The next one, where there are more.
    pub next: Option<u64>,
}

/// A part that is held.
#[derive(Debug, Deserialize)]
pub struct HeldPart {
    /// Which one.
    pub part: u64,
    /// The BLAKE3 value of its bytes at their place, hexadecimal.
    pub blake3: String,
}

/// Parts that are held, from that one on.
///
/// # Errors
/// As [`Client::send`].
pub async fn held_parts(
    client: &Client,
    upload: &str,
    from: u64,
) -> Result<HeldParts, ClientError> {
    let place = format!("{upload}/parts?from={from}");
    client
        .send(client.request(Method::GET, &place))
        .await?
        .json()
}

/// Has the gateway publish the upload only if it becomes what has this digest; BLAKE3 is computed of every upload.
///
/// # Errors
/// As [`Client::send`]; [`ClientError::Refused`] with 409 where it is to become something else.
pub async fn declare(client: &Client, upload: &str, digests: &Digests) -> Result<(), ClientError> {
    let request = client
        .request(Method::PUT, &format!("{upload}/digest"))
        .header(REPR_DIGEST, repr_digest("blake3", &digests.blake3.0))
        .body(Body::default());
    client.send(request).await.map(drop)
}

fn repr_digest(key: &str, digest: &[u8]) -> String {
    format!("{key}=:{}:", STANDARD.encode(digest))
}

/// Gives an upload up.
///
/// # Errors
/// As [`Client::send`].
pub async fn cancel(client: &Client, upload: &str) -> Result<(), ClientError> {
    client
        .send(client.request(Method::DELETE, upload))
        .await
        .map(drop)
}

/// Sends one part.
///
/// # Errors
/// As [`Client::send`]; [`ClientError::Unreachable`] too when nothing moves for some minutes.
pub async fn put(
    client: &Client,
    upload: &str,
    part: u64,
    body: FileBody,
    flight: &Arc<Flight>,
) -> Result<Put, ClientError> {
    let request = client
        .request(Method::PUT, &format!("{upload}/parts/{part}"))
        .header(CONTENT_TYPE, "application/octet-stream")
        .body(Body::wrap(body));
    let answer = unless_stalled(client, flight, client.send(request)).await?;
    if answer.status == StatusCode::CREATED {
        let outcome = answer.json::<MaybeOutcome>()?.known();
        return match outcome {
            Some(outcome) => Ok(Put::Finished(outcome)),
            None => Err(client.odd("it does not say what the upload became")),
        };
    }
    match number(&answer, "upload-offset") {
        Some(offset) => Ok(Put::Held(offset)),
        None => Err(client.odd("it does not say how far the upload is")),
    }
}

/// The answer to a request with bytes of the file, unless those stop moving.
pub(super) async fn unless_stalled(
    client: &Client,
    flight: &Flight,
    sending: impl Future<Output = Result<Answer, ClientError>>,
) -> Result<Answer, ClientError> {
    tokio::select! {
        answer = sending => answer,
        () = stalled(flight) => Err(client.unreachable(format!(
            "nothing moved for {} s",
            STALLED.as_secs()
        ))),
    }
}

/// Ends once nothing moved for [`STALLED`].
async fn stalled(flight: &Flight) {
    let mut before = None;
    loop {
        let now = flight.bytes();
        if before == Some(now) {
            return;
        }
        before = Some(now);
        sleep(STALLED).await;
    }
}

pub(super) fn number(answer: &Answer, name: &str) -> Option<u64> {
    answer.header(name)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_made_whole_and_never_lead_from_tls_to_plain() {
        for (base, location, whole) in [
            ("http://h:1", "/files/a", Some("http://h:1/files/a")),
            ("http://h:1/p", "/p/files/a", Some("http://h:1/p/files/a")),
            (
                "http://h:1",
                "https://up.h/files/a",
                Some("https://up.h/files/a"),
            ),
            (
                "https://h",
                "https://up.h/files/a",
                Some("https://up.h/files/a"),
            ),
            ("https://h", "http://h/files/a", None),
            ("http://h", "mailto:a", None),
        ] {
            assert_eq!(joined(base, location).as_deref(), whole, "{location}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_moves_is_not_stalled() {
        let flight = Arc::new(Flight::new(Arc::default()));
        let watched = Arc::clone(&flight);
        let begun = tokio::time::Instant::now();
        let moving = async {
            for _ in 0..5 {
                sleep(STALLED * 9 / 10).await;
                flight.add(1);
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = stalled(&watched) => {}
            () = moving => {}
        }
        assert!(begun.elapsed() >= STALLED * 4);
        assert!(begun.elapsed() <= STALLED * 7);
    }

    #[test]
    fn an_open_upload_and_a_finished_one_are_read_from_one_shape() {
        let open = r#"{"id":"0","state":"open","offset":8,"length":30,
            "parts":{"size":8,"total":4,"held":[2]}}"#;
        let open: Standing = serde_json::from_str(open).unwrap();
        assert_eq!(open.parts.unwrap().held, [2]);
        assert_eq!(open.outcome.known(), None);
        let done = r#"{"state":"done","offset":30,"length":30,"message":"File upload completed",
            "details":{"isComplete":true,"fileSize":30,"blake3":"b","sha256":"s"},"warnings":["w"]}"#;
        let done: Standing = serde_json::from_str(done).unwrap();
        let outcome = done.outcome.known().unwrap();
        assert_eq!(
            (outcome.length, outcome.warnings),
            (30, vec!["w".to_owned()])
        );
    }
}
