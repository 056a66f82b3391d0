//! One download: decide by RFC 9110, prove the first block, then answer and go on proving.

mod known;

pub use known::KnownFile;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use boxgate_storage::ErrorKind;
use boxgate_storage::blob::{BlobKey, BlobMeta};
use boxgate_storage::catalog::BoxRef;
use boxgate_storage::digest::{BLOCK_BYTES, Blake3, Sha256};
use boxgate_storage::layer::cache::Origin;
use boxgate_storage::layer::files::RememberedFile;
use boxgate_storage::metadata::catalog::{Counted, Iso, ResolvedFile};
use boxgate_storage::metadata::uploads::Labels;
use boxgate_storage::range::ByteRange;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_LOCATION,
    CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_MATCH, IF_UNMODIFIED_SINCE, LAST_MODIFIED, LOCATION,
    RANGE, REFERRER_POLICY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::BodyExt as _;
use sha2::Digest as _;

use crate::egress::{BlobBody, FileBody, SlowBody};
use crate::gateway::{DamageReport, Gateway};
use crate::hooks::{self, Instead};
use crate::http::digest::{
    CONTENT_DIGEST, REPR_DIGEST, WANT_CONTENT_DIGEST, WANT_REPR_DIGEST, Wanted,
};
use crate::http::freshness::{Ages, Freshness, Tags};
use crate::http::precondition::{Decision, PastEnd, Representation, decide};
use crate::http::{range, response};
use crate::refusal::Refusal;
use crate::server::{FileSender, OutboundBody};
use crate::shortcut::{Known, Place};

/// Bytes from which on an answer goes as a file: what is shorter costs more by the calls that takes than by a copy.
const FILE_FROM: u64 = 16 << 10;

/// How the cache took part in an answer.
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// The name under which browsers keep a box.
pub const BOX_FILE: &str = "vagrant.box";

/// What is to be served, and as what.
#[derive(Debug)]
pub struct Download {
    /// The blob.
    pub blob: BlobMeta,
    /// Name of the store that holds it.
    pub store: String,
    /// What was written on it.
    pub labels: Labels,
    /// Whether it is damaged.
    pub quarantined: bool,
    /// The name that it was asked for by; a URL of the blob itself has none.
    pub name: Option<BoxRef>,
    /// Whose download counts; a URL of the blob itself names nothing.
    pub counted: Option<Counted>,
    /// The name under which a browser keeps it.
    pub file_name: Cow<'static, str>,
    /// When the name came to lead to these bytes; a URL of the blob itself never leads elsewhere.
    pub modified: Option<SystemTime>,
    /// What a range past the end means here.
    pub past_end: PastEnd,
    /// How long the answer may be kept, and by whom.
    pub freshness: Freshness,
    /// By what a CDN can be told to drop it.
    pub tags: Tags,
    /// Where the same bytes can be had under a URL that never changes its mind (RFC 9110 §8.7).
    pub location: Option<String>,
    /// Where it is kept for whoever asks the same, if anybody may.
    pub place: Option<Place>,
}

impl Download {
    /// The download of a box file under one of its names.
    pub fn of_file(name: &BoxRef, resolved: ResolvedFile, freshness: Freshness) -> Self {
        let updated = Duration::from_millis(resolved.file.updated.0.unsigned_abs());
        Self {
            tags: Tags::of_file(name, &resolved.file.blob.blake3),
            blob: resolved.file.blob,
            store: resolved.store,
            labels: resolved.file.labels,
            quarantined: resolved.quarantined,
            name: Some(name.clone()),
            counted: Some(Counted::File(resolved.file.id)),
            file_name: BOX_FILE.into(),
            modified: Some(UNIX_EPOCH + updated),
            // Vagrant resumes with a bare `Range: bytes=N-` and gives up for a day on 416, so a range at
            // or past the end of a box means the whole box.
            past_end: PastEnd::WholeBody,
            freshness,
            location: None,
            place: None,
        }
    }

    /// The download of an ISO image.
    pub fn of_iso(iso: Iso) -> Self {
        let updated = Duration::from_millis(iso.updated.0.unsigned_abs());
        Self {
            file_name: iso.name.to_string().into(),
            counted: Some(Counted::Iso(iso.id)),
            blob: iso.blob,
            store: iso.store,
            labels: iso.labels,
            quarantined: iso.quarantined,
            name: None,
            modified: Some(UNIX_EPOCH + updated),
            past_end: PastEnd::NotSatisfiable,
            // No event has caches drop one that is replaced, deleted or made private.
            freshness: Freshness::Private,
            tags: Tags::default(),
            location: None,
            place: None,
        }
    }

    /// What 200, 206 and 304 say alike (RFC 9110 §15.4.5).
    fn validators(&self, ages: &Ages) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ETAG, value(&self.etag()));
        self.freshness.write(ages, &self.tags, &mut headers);
        if let Some(location) = self.location.as_deref().and_then(|url| url.parse().ok()) {
            headers.insert(CONTENT_LOCATION, location);
        }
        headers
    }

    fn etag(&self) -> String {
        format!("\"{}\"", self.blob.blake3.to_hex())
    }

    /// What is known of the whole, whichever bytes of it are sent.
    fn describe(&self, asked: &HeaderMap, headers: &mut HeaderMap) {
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if let Some(modified) = self.modified {
            headers.insert(LAST_MODIFIED, value(&httpdate::fmt_http_date(modified)));
        }
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        let disposition = format!("attachment; filename=\"{}\"", self.file_name);
        headers.insert(CONTENT_DISPOSITION, value(&disposition));
        let wanted = Wanted::parse(asked, &WANT_REPR_DIGEST).unwrap_or(Wanted::ALL);
        if let Some(digests) = wanted.write(self.blob.sha256.as_ref(), &self.blob.blake3) {
            headers.insert(REPR_DIGEST, digests);
        }
    }
}

/// Answers GET or HEAD for the bytes of a blob.
///
/// # Errors
/// 503 when the stored bytes are gone or damaged, before the head is sent.
pub async fn serve(
    gateway: &Gateway,
    head: &Parts,
    download: Download,
) -> Result<Response<OutboundBody>, Refusal> {
    if download.quarantined {
        return Err(damaged());
    }
    if !hooks::are_asked(head) {
        return answer(gateway, head, download, None).await;
    }
    let terms = match Box::pin(hooks::on_download(gateway, head, &download)).await {
        Ok(terms) => terms,
        Err(Instead::Answer(answer)) => return Ok(answer),
        Err(Instead::Refusal(refusal)) => return Err(refusal),
    };
    let mut answer = Box::pin(answer(gateway, head, download, terms.rate_bps)).await?;
    hooks::on_terms(&mut answer, &terms);
    Ok(answer)
}

async fn answer(
    gateway: &Gateway,
    head: &Parts,
    download: Download,
    rate_bps: Option<u64>,
) -> Result<Response<OutboundBody>, Refusal> {
    let blob = download.blob;
    let etag = download.etag();
    let representation = Representation {
        etag: &etag,
        last_modified: download.modified,
        length: blob.length,
    };
    let decision = decide(
        &representation,
        &head.method,
        &head.headers,
        download.past_end,
    );
    let mut headers = download.validators(&gateway.settings.downloads);
    let (status, range) = match selected(decision, blob.length, &mut headers) {
        Selected::Content(status, range) => (status, range),
        Selected::Nothing(answer) => return Ok(answer),
    };
    download.describe(&head.headers, &mut headers);
    headers.insert(CONTENT_LENGTH, range.length().into());
    if head.method == Method::HEAD {
        return Ok(with_headers(status, headers));
    }
    // Neither a store nor the kernel is told how fast it may be.
    if rate_bps.is_none()
        && let Some(answer) = redirect(gateway, head, &download, status, range).await?
    {
        return Ok(answer);
    }
    let wanted = Wanted::parse(&head.headers, &WANT_CONTENT_DIGEST);
    let sender = head.extensions.get::<FileSender>();
    // A digest of bytes that are not in memory would have to be made of a second read.
    let as_file = rate_bps.is_none()
        && range.length() >= FILE_FROM
        && (wanted.is_none() || range.length() > BLOCK_BYTES);
    let Opened {
        origin,
        first,
        body,
        file,
    } = match sender.filter(|_| as_file) {
        Some(sender) => open_file(gateway, &download, range, sender).await?,
        None => open(gateway, &download, range).await?,
    };
    headers.insert(CACHE_STATUS, cache_status(origin));
    if let (Some(place), Some(file)) = (&download.place, file)
        && !KnownFile::is_told_otherwise(&head.headers)
    {
        let known = KnownFile::new(&download, &etag, headers.clone(), file);
        place.keep(gateway, Known::File(Box::new(known)));
    }
    if let Some(digest) = wanted.and_then(|wanted| content_digest(wanted, &blob, range, &first)) {
        headers.insert(CONTENT_DIGEST, digest);
    }
    if let (0, Some(counted)) = (range.start(), download.counted) {
        gateway.count_download(counted);
    }
    let body = match rate_bps {
        Some(rate) => SlowBody::new(body, rate).boxed_unsync(),
        None => body,
    };
    Ok(with_body(status, headers, body))
}

/// Sends the client to the store, where that is wanted and the store would answer as we do: it knows neither our
/// validators nor that a range past the end of a box means all of it.
async fn redirect(
    gateway: &Gateway,
    head: &Parts,
    download: &Download,
    status: StatusCode,
    range: ByteRange,
) -> Result<Option<Response<OutboundBody>>, Refusal> {
    let store = gateway.store(&download.store)?;
    let (Some(presign), Some(life)) = (&store.presign, store.redirect_for) else {
        return Ok(None);
    };
    let asks = |name| head.headers.contains_key(name);
    if [IF_MATCH, IF_UNMODIFIED_SINCE].into_iter().any(asks)
        || asks(RANGE) && status != StatusCode::PARTIAL_CONTENT
    {
        return Ok(None);
    }
    let url = presign.url(&download.blob.key, life).await?;
    if let (0, Some(counted)) = (range.start(), download.counted) {
        gateway.count_download(counted);
    }
    // It opens the blob to whoever has it.
    let nobody = HeaderValue::from_static("private, no-store");
    let headers = HeaderMap::from_iter([
        (LOCATION, value(&url)),
        (CACHE_CONTROL, nobody),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (CONTENT_LENGTH, HeaderValue::from(0)),
    ]);
    Ok(Some(with_headers(StatusCode::FOUND, headers)))
}

/// What of a representation an answer holds.
#[derive(Debug)]
pub enum Selected {
    /// These bytes; its headers say which.
    Content(StatusCode, ByteRange),
    /// None: this is the answer.
    Nothing(Response<OutboundBody>),
}

/// What a decision about a representation of `length` bytes comes to; `headers` are its validators.
pub fn selected(decision: Decision, length: u64, headers: &mut HeaderMap) -> Selected {
    // 412 and 416 answer a request's own fields: under the URL alone no cache may keep them.
    let (status, headers) = match decision {
        Decision::Full => return Selected::Content(StatusCode::OK, ByteRange::whole(length)),
        Decision::Partial(range) => {
            headers.insert(CONTENT_RANGE, range::content_range(range, length));
            return Selected::Content(StatusCode::PARTIAL_CONTENT, range);
        }
        Decision::NotModified => (StatusCode::NOT_MODIFIED, std::mem::take(headers)),
        Decision::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, HeaderMap::new()),
        Decision::NotSatisfiable => {
            let unsatisfied = range::content_range_unsatisfied(length);
            let headers = HeaderMap::from_iter([(CONTENT_RANGE, unsatisfied)]);
            (StatusCode::RANGE_NOT_SATISFIABLE, headers)
        }
    };
    Selected::Nothing(with_headers(status, headers))
}

/// The digest of what this answer holds: known for the whole blob, and made for what lies in one block,
/// which is in memory anyhow. A longer part would have to be read twice.
fn content_digest(
    wanted: Wanted,
    blob: &BlobMeta,
    range: ByteRange,
    first: &Bytes,
) -> Option<HeaderValue> {
    if range == ByteRange::whole(blob.length) {
        return wanted.write(blob.sha256.as_ref(), &blob.blake3);
    }
    if first.len() as u64 != range.length() {
        return None;
    }
    let sha256 = Sha256(sha2::Sha256::digest(first).into());
    let blake3 = Blake3(*blake3::hash(first).as_bytes());
    wanted.write(Some(&sha256), &blake3)
}

/// Whether the answer began with what was in memory (RFC 9211).
fn cache_status(origin: Option<Origin>) -> HeaderValue {
    HeaderValue::from_static(match origin {
        Some(Origin::Hit) => "boxgate; hit",
        Some(Origin::Miss) => "boxgate; fwd=miss",
        None => "boxgate; fwd=bypass",
    })
}

/// A range of a blob that was opened.
struct Opened {
    /// Where it comes from; `None` is past the cache.
    origin: Option<Origin>,
    /// What of it is in memory.
    first: Bytes,
    body: OutboundBody,
    /// The file, and where its damage is told, if the kernel sends it.
    file: Option<(RememberedFile, Arc<DamageReport>)>,
}

/// The body that the kernel sends from the blob's file; as [`open`] where that cannot be.
async fn open_file(
    gateway: &Gateway,
    download: &Download,
    range: ByteRange,
    sender: &FileSender,
) -> Result<Opened, Refusal> {
    let Some(files) = &gateway.files else {
        return open(gateway, download, range).await;
    };
    let blob = download.blob;
    let store = gateway.store(&download.store)?;
    let tree = gateway.metadata.blob_tree(&blob).await?;
    let refuse = |error| broken(gateway, &blob.key, error);
    let Some(file) = files.open(store, &blob, &tree).await.map_err(refuse)? else {
        return open(gateway, download, range).await;
    };
    // Before the head is sent, as there: the first block, of which only what is asked for need be in memory.
    let block = range.start() / BLOCK_BYTES;
    let end = range.end().min((block + 1) * BLOCK_BYTES);
    let first = ByteRange::try_new(range.start(), end).unwrap_or(range);
    if file.ready(first).map_err(refuse)? < first.length() {
        file.prove(block).await.map_err(refuse)?;
    }
    let damage = Arc::new(gateway.damage_report(blob.key));
    let remembered = (file.remembered(), Arc::clone(&damage));
    let body = FileBody::new(file, sender.clone(), range, damage);
    Ok(Opened {
        origin: None,
        first: Bytes::new(),
        body: body.boxed_unsync(),
        file: Some(remembered),
    })
}

/// The first bytes of the range, proved, and the body that begins with them.
async fn open(gateway: &Gateway, download: &Download, range: ByteRange) -> Result<Opened, Refusal> {
    let blob = download.blob;
    let store = gateway.store(&download.store)?;
    let tree = gateway.metadata.blob_tree(&blob).await?;
    let opened = gateway.cache.open(&store.read, &blob, &tree, range).await;
    let (origin, mut stream) = match opened {
        Ok(opened) => opened,
        Err(error) => return Err(broken(gateway, &blob.key, error)),
    };
    // The first block is proved before the head is sent, so that most damage is a readable 503.
    let first = match stream.next().await {
        None => None,
        Some(Ok(bytes)) => Some(bytes),
        Some(Err(error)) => return Err(broken(gateway, &blob.key, error)),
    };
    let body = BlobBody::new(
        first.clone(),
        stream,
        range.length(),
        gateway.damage_report(blob.key),
    );
    Ok(Opened {
        origin: Some(origin),
        first: first.unwrap_or_default(),
        body: body.boxed_unsync(),
        file: None,
    })
}

fn broken(gateway: &Gateway, key: &BlobKey, error: boxgate_storage::Error) -> Refusal {
    match error.kind() {
        ErrorKind::NotFound => {
            gateway.damage_report(*key).report(&error);
            Refusal {
                cause: Some(error),
                ..Refusal::busy(
                    "The stored bytes of this file cannot be reached now. Try again later.",
                    Duration::from_secs(30),
                )
            }
        }
        ErrorKind::Damaged => {
            gateway.damage_report(*key).report(&error);
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
