//! One download: decide by RFC 9110, prove the first block, then answer and go on proving.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boxgate_storage::ErrorKind;
use boxgate_storage::layer::verify;
use boxgate_storage::metadata::catalog::ResolvedFile;
use boxgate_storage::range::ByteRange;
use futures_util::StreamExt as _;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_LOCATION,
    CONTENT_RANGE, CONTENT_TYPE, ETAG, LAST_MODIFIED,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::BodyExt as _;

use crate::egress::BlobBody;
use crate::gateway::Gateway;
use crate::http::precondition::{Decision, PastEnd, Representation, decide};
use crate::http::{range, response};
use crate::refusal::Refusal;
use crate::server::OutboundBody;

/// How long what is served may be kept, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Freshness {
    /// A name that may lead to other bytes tomorrow; anyone may keep them for a minute.
    PublicName,
    /// The URL holds the digest: these bytes or none, for ever.
    Immutable,
    /// Only the caller may keep it, and must ask again.
    Private,
}

impl Freshness {
    // `no-transform`: a proxy that recompresses a box breaks its ranges and its digest.
    fn cache_control(&self) -> &'static str {
        match self {
            Self::PublicName => "public, max-age=60, no-transform",
            Self::Immutable => "public, max-age=31536000, immutable, no-transform",
            Self::Private => "private, no-cache, no-transform",
        }
    }
}

/// Answers GET or HEAD for a box file.
///
/// # Errors
/// 404 or 503 when the stored bytes are gone or damaged, before the head is sent.
pub async fn serve(
    gateway: &Gateway,
    head: &Parts,
    resolved: ResolvedFile,
    freshness: Freshness,
) -> Result<Response<OutboundBody>, Refusal> {
    let blob = resolved.file.blob;
    if resolved.quarantined {
        return Err(damaged());
    }
    let etag = format!("\"{}\"", blob.blake3.to_hex());
    let modified = UNIX_EPOCH + Duration::from_millis(resolved.file.updated.0.unsigned_abs());
    let representation = Representation {
        etag: &etag,
        last_modified: Some(modified),
        length: blob.length,
    };
    // Vagrant resumes with a bare `Range: bytes=N-` and gives up for a day on 416, so a range at or
    // past the end of a box means the whole box.
    let decision = decide(
        &representation,
        &head.method,
        &head.headers,
        PastEnd::WholeBody,
    );
    let mut headers = headers(&etag, modified, &resolved, &freshness);
    let (status, range) = match decision {
        Decision::Full => (StatusCode::OK, ByteRange::whole(blob.length)),
        Decision::Partial(range) => {
            headers.insert(CONTENT_RANGE, range::content_range(range, blob.length));
            (StatusCode::PARTIAL_CONTENT, range)
        }
        Decision::NotModified => return Ok(with_headers(StatusCode::NOT_MODIFIED, headers)),
        Decision::PreconditionFailed => {
            return Ok(with_headers(StatusCode::PRECONDITION_FAILED, headers));
        }
        Decision::NotSatisfiable => {
            headers.insert(CONTENT_RANGE, range::content_range_unsatisfied(blob.length));
            return Ok(with_headers(StatusCode::RANGE_NOT_SATISFIABLE, headers));
        }
    };
    headers.insert(CONTENT_LENGTH, range.length().into());
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(
        CONTENT_DISPOSITION,
        HeaderValue::from_static("attachment; filename=\"vagrant.box\""),
    );
    if head.method == Method::HEAD {
        return Ok(with_headers(status, headers));
    }
    let body = open(gateway, &resolved, range).await?;
    if range.start() == 0 {
        gateway.count_download(resolved.file.id);
    }
    Ok(with_body(status, headers, body))
}

fn headers(
    etag: &str,
    modified: SystemTime,
    resolved: &ResolvedFile,
    freshness: &Freshness,
) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ETAG, value(etag));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(
        CACHE_CONTROL,
        HeaderValue::from_static(freshness.cache_control()),
    );
    headers.insert(LAST_MODIFIED, value(&httpdate::fmt_http_date(modified)));
    // RFC 9530 §3: over the whole representation, the same in 200 and 206.
    let sha256 = STANDARD.encode(resolved.file.blob.sha256.0);
    headers.insert(
        HeaderName::from_static("repr-digest"),
        value(&format!("sha-256=:{sha256}:")),
    );
    headers
}

/// Adds where the same bytes can be had under a URL that never changes its mind (RFC 9110 §8.7).
pub fn content_location(response: &mut Response<OutboundBody>, url: &str) {
    if let Ok(url) = HeaderValue::from_str(url) {
        response.headers_mut().insert(CONTENT_LOCATION, url);
    }
}

async fn open(
    gateway: &Gateway,
    resolved: &ResolvedFile,
    range: ByteRange,
) -> Result<OutboundBody, Refusal> {
    let blob = resolved.file.blob;
    let store = gateway.store(&resolved.store)?;
    let tree = gateway.metadata.blob_tree(&blob).await?;
    let opened = verify::open(&store.read, &blob, &tree, range).await;
    let mut stream = match opened {
        Ok(stream) => stream,
        Err(error) => return Err(broken(gateway, resolved, error)),
    };
    // The first block is proved before the head is sent, so that most damage is a readable 503.
    let first = match stream.next().await {
        None => None,
        Some(Ok(bytes)) => Some(bytes),
        Some(Err(error)) => return Err(broken(gateway, resolved, error)),
    };
    let body = BlobBody::new(
        first,
        stream,
        range.length(),
        gateway.damage_report(blob.key),
    );
    Ok(body.boxed_unsync())
}

fn broken(gateway: &Gateway, resolved: &ResolvedFile, error: boxgate_storage::Error) -> Refusal {
    match error.kind() {
        ErrorKind::NotFound => {
            gateway.damage_report(resolved.file.blob.key).report(&error);
            Refusal {
                cause: Some(error),
                ..Refusal::busy(
                    "The stored bytes of this file cannot be reached now. Try again later.",
                    Duration::from_secs(30),
                )
            }
        }
        ErrorKind::Damaged => {
            gateway.damage_report(resolved.file.blob.key).report(&error);
            Refusal {
                cause: Some(error),
                ..damaged()
            }
        }
        _ => error.into(),
    }
}

fn damaged() -> Refusal {
    Refusal::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "The stored bytes of this file are damaged and are not served. Upload it again to heal it.",
    )
    .code("BLOB_DAMAGED")
    .retry_after(Duration::from_mins(5))
}

/// An answer of a head alone.
pub fn with_headers(status: StatusCode, headers: HeaderMap) -> Response<OutboundBody> {
    with_body(status, headers, response::empty_body())
}

/// An answer of these parts.
pub fn with_body(
    status: StatusCode,
    headers: HeaderMap,
    body: OutboundBody,
) -> Response<OutboundBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("digests, dates and numbers are visible ASCII")
}
