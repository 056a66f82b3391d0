//! tus 1.0.0 with all its extensions, and the method override (tus.io/protocols/resumable-upload).

mod concat;

use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boxgate_storage::clock::UnixMillis;
use boxgate_storage::digest::{Algorithm, Digest};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use self::concat::Note;
use super::command::{
    Answer, Append, Checksum, Concat, Create, Ends, Limits, Older, Reply, RequestHead, Standing,
    UploadCommand,
};
use super::metadata::UploadMetadata;
use super::{Owner, UPLOAD_LENGTH, digest};
use crate::handler::upload::declared;
use crate::http::headers::{MediaType, UPLOAD_OFFSET, single};
use crate::refusal::Refusal;

pub use self::concat::{asked_by, asking_credential, is_partial, upload_named_by};

/// The protocol's version, in each request and answer but OPTIONS.
pub const TUS_RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
/// The only version there is.
pub const VERSION: HeaderValue = HeaderValue::from_static("1.0.0");
/// The media type of bytes.
pub const MEDIA_TYPE: &str = "application/offset+octet-stream";
/// Versions that are spoken.
pub const TUS_VERSION: HeaderName = HeaderName::from_static("tus-version");

const TUS_EXTENSION: HeaderName = HeaderName::from_static("tus-extension");
const TUS_MAX_SIZE: HeaderName = HeaderName::from_static("tus-max-size");
const TUS_CHECKSUM_ALGORITHM: HeaderName = HeaderName::from_static("tus-checksum-algorithm");
const UPLOAD_DEFER_LENGTH: HeaderName = HeaderName::from_static("upload-defer-length");
const UPLOAD_METADATA: HeaderName = HeaderName::from_static("upload-metadata");
const UPLOAD_CHECKSUM: HeaderName = HeaderName::from_static("upload-checksum");
const UPLOAD_EXPIRES: HeaderName = HeaderName::from_static("upload-expires");
const UPLOAD_CONCAT: HeaderName = HeaderName::from_static("upload-concat");

/// Fields that only a tus client sends.
pub const REQUEST_FIELDS: [HeaderName; 4] = [
    UPLOAD_DEFER_LENGTH,
    UPLOAD_METADATA,
    UPLOAD_CHECKSUM,
    UPLOAD_CONCAT,
];

const EXTENSIONS: &str = "creation,creation-with-upload,creation-defer-length,expiration,checksum,\
    checksum-trailer,termination,concatenation,concatenation-unfinished";

/// What the bytes of one request are compared by.
pub const CHECKSUMS: [Algorithm; 7] = [
    Algorithm::Md5,
    Algorithm::Sha1,
    Algorithm::Sha256,
    Algorithm::Sha384,
    Algorithm::Sha512,
    Algorithm::Blake3,
    Algorithm::Crc32,
];

/// 460, which only tus knows.
pub const CHECKSUM_MISMATCH: u16 = 460;

/// What a tus request asks for.
///
/// # Errors
/// 412 for another version, 415 for another media type, 400 with the rule that is broken.
pub fn parse(head: &RequestHead<'_>) -> Result<UploadCommand, Refusal> {
    // tus 1.0, "OPTIONS": there the server ignores the version.
    if head.method == Method::OPTIONS {
        return Ok(UploadCommand::Discover);
    }
    version(head)?;
    match *head.method {
        Method::POST => create(head).map(|create| UploadCommand::Create(Box::new(create))),
        Method::HEAD => Ok(UploadCommand::Head),
        Method::PATCH => append(head).map(UploadCommand::Append),
        Method::DELETE => Ok(UploadCommand::Cancel),
        _ => Err(Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "tus knows POST, HEAD, PATCH, DELETE and OPTIONS.",
        )
        .code("METHOD_NOT_ALLOWED")),
    }
}

/// tus 1.0, "Tus-Resumable": a version that is not spoken, or none, means that nothing is done.
fn version(head: &RequestHead<'_>) -> Result<(), Refusal> {
    let given = single(head.headers, &TUS_RESUMABLE).map_err(invalid)?;
    if given.is_some_and(|given| given.as_bytes() == VERSION.as_bytes()) {
        return Ok(());
    }
    Err(Refusal::new(
        StatusCode::PRECONDITION_FAILED,
        "This server speaks tus 1.0.0: send Tus-Resumable: 1.0.0.",
    )
    .code("TUS_VERSION")
    .header(TUS_VERSION, VERSION)
    .closing())
}

fn create(head: &RequestHead<'_>) -> Result<Create, Refusal> {
    let in_others = single(head.headers, &UPLOAD_CONCAT).map_err(invalid)?;
    let concat = in_others.map(concat::parse).transpose().map_err(invalid)?;
    let concat = concat.unwrap_or_default();
    let is_final = matches!(concat, Concat::Final(_));
    let length = number(head, &UPLOAD_LENGTH)?;
    let deferred = single(head.headers, &UPLOAD_DEFER_LENGTH).map_err(invalid)?;
    // tus 1.0, "Creation": exactly one of the two, and the second is 1.
    match (length, deferred) {
        (None, None) if is_final => {}
        // tus 1.0, "Concatenation": its pieces have lengths.
        _ if is_final => {
            return Err(invalid(
                "A final upload is as long as its pieces: send neither Upload-Length nor \
                 Upload-Defer-Length.",
            ));
        }
        (Some(_), None) | (None, Some("1")) => {}
        (None, Some(_)) => return Err(invalid("Upload-Defer-Length must be 1.")),
        _ => {
            return Err(invalid(
                "Exactly one of Upload-Length and Upload-Defer-Length: 1 is needed.",
            ));
        }
    }
    let has_body = head.has_body();
    if has_body && is_final {
        return Err(invalid("A final upload takes no bytes; its pieces do."));
    }
    let checksum = checksum(head)?;
    if checksum.is_some() && is_final {
        return Err(invalid(
            "Upload-Checksum is of a request's bytes, and a final upload has none. Declare the digest of \
             the whole in Upload-Metadata: checksum and checksumType.",
        ));
    }
    if has_body {
        bytes_come(head)?;
    }
    if let (Some(length), Some(body)) = (length, head.body_length())
        && body > length
    {
        return Err(past_the_end(length));
    }
    let note = single(head.headers, &UPLOAD_METADATA).map_err(invalid)?;
    let metadata = UploadMetadata::parse(note.unwrap_or_default()).map_err(invalid)?;
    let told = |name: &str| metadata.text(name).map_err(invalid);
    let (value, kind) = (told("checksum")?, told("checksumType")?);
    let expected = declared(value, kind, ("checksum", "checksumType")).map_err(Refusal::closing)?;
    Ok(Create {
        length,
        ends: Ends::WhenFull,
        owner: owner(head, &metadata)?,
        note: Note::of(note.filter(|text| !text.is_empty()), in_others).text(),
        expected: digest::and_repr_digests(expected, head.headers)?,
        checksum: checksum_or_content_digest(checksum, head)?,
        has_body,
        concat,
        older: Older::Stay,
    })
}

/// The target from the metadata; from the query where the metadata tells nothing of it.
fn owner(head: &RequestHead<'_>, metadata: &UploadMetadata) -> Result<Owner, Refusal> {
    for name in super::owner::FIELDS {
        metadata.text(name).map_err(invalid)?;
    }
    let told = |name: &str| metadata.text(name).ok().flatten().map(str::to_owned);
    let in_metadata = Owner::parse(told).map_err(invalid)?;
    if in_metadata != Owner::Organization(None) {
        return Ok(in_metadata);
    }
    super::owner_by_query(head).map_err(invalid)
}

fn append(head: &RequestHead<'_>) -> Result<Append, Refusal> {
    bytes_come(head)?;
    let offset = number(head, &UPLOAD_OFFSET)?;
    let offset = offset.ok_or_else(|| invalid("Upload-Offset is missing."))?;
    if offset == u64::MAX {
        return Err(invalid("Upload-Offset is larger than any upload."));
    }
    let length = number(head, &UPLOAD_LENGTH)?;
    if length.is_some_and(|length| length < offset) {
        return Err(invalid("Upload-Length is less than Upload-Offset."));
    }
    Ok(Append {
        offset,
        ends: Ends::WhenFull,
        length,
        expected: digest::repr_digests(head.headers)?,
        checksum: checksum_or_content_digest(checksum(head)?, head)?,
        body_length: head.body_length(),
    })
}

fn bytes_come(head: &RequestHead<'_>) -> Result<(), Refusal> {
    if MediaType::of(head.headers).is_some_and(|m| m.essence() == MEDIA_TYPE) {
        return Ok(());
    }
    Err(super::other_media_type(MEDIA_TYPE))
}

/// `Upload-Checksum` over the body of this request, in its head or announced to stand behind it.
fn checksum(head: &RequestHead<'_>) -> Result<Option<Checksum>, Refusal> {
    let told = single(head.headers, &UPLOAD_CHECKSUM).map_err(invalid)?;
    match (told, announces_checksum(head.headers)) {
        (None, false) => Ok(None),
        (Some(text), false) => parse_checksum(text).map(|digest| Some(Checksum::Told(digest))),
        (None, true) => Ok(Some(Checksum::Trailer)),
        (Some(_), true) => Err(invalid(
            "Upload-Checksum stands in the head or behind the body, not in both.",
        )),
    }
}

/// What the body is compared by: tus's own field, or else RFC 9530's, which means the same.
fn checksum_or_content_digest(
    checksum: Option<Checksum>,
    head: &RequestHead<'_>,
) -> Result<Option<Checksum>, Refusal> {
    if checksum.is_some() || !head.has_body() {
        return Ok(checksum);
    }
    Ok(digest::content_digest(head.headers)?.map(Checksum::Told))
}

/// tus 1.0, "Checksum Trailer": who sends it behind the body says so with `Trailer` (RFC 9110 §6.6.2).
fn announces_checksum(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::TRAILER)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .any(|name| name.trim().eq_ignore_ascii_case(UPLOAD_CHECKSUM.as_str()))
}

/// The checksum behind the body.
///
/// # Errors
/// 400 when it is missing, malformed, or of an unknown algorithm.
pub fn trailing_checksum(trailers: Option<&HeaderMap>) -> Result<Digest, Refusal> {
    let told = trailers.map(|trailers| single(trailers, &UPLOAD_CHECKSUM).map_err(invalid));
    match told.transpose()?.flatten() {
        Some(text) => parse_checksum(text),
        None => Err(invalid(
            "Upload-Checksum was announced as a trailer and did not come. The bytes were discarded.",
        )),
    }
}

/// Answers a checksum behind the body that its head did not announce: it came too late to be compared.
pub fn unannounced_checksum(trailers: &HeaderMap) -> Option<Refusal> {
    trailers.contains_key(&UPLOAD_CHECKSUM).then(|| {
        Refusal::invalid(
            "Upload-Checksum stood behind the body without Trailer: Upload-Checksum in the head, so that \
             the bytes could not be compared with it. What was not committed yet was discarded.",
        )
        .code("CHECKSUM_NOT_ANNOUNCED")
    })
}

/// `sha1 BASE64`.
fn parse_checksum(text: &str) -> Result<Digest, Refusal> {
    let (name, value) = text.split_once(' ').unwrap_or((text, ""));
    // tus 1.0, "Checksum": names are lower-case ASCII, so this compares them as they are.
    let algorithm = CHECKSUMS.into_iter().find(|a| a.name() == name);
    let algorithm = algorithm.ok_or_else(|| {
        invalid(format!(
            "Upload-Checksum {name:?} is unknown; known are {}.",
            algorithms()
        ))
    })?;
    let value = STANDARD.decode(value.trim()).ok();
    let digest = value.and_then(|value| Digest::try_new(algorithm, value));
    digest.ok_or_else(|| {
        invalid(format!(
            "Upload-Checksum must be {name} and the base64 of {} bytes.",
            algorithm.digest_bytes()
        ))
    })
}

fn algorithms() -> String {
    CHECKSUMS.map(Algorithm::name).join(",")
}

/// A plain decimal number; more than 64 bits hold is as good as the largest, which no limit allows.
fn number(head: &RequestHead<'_>, name: &HeaderName) -> Result<Option<u64>, Refusal> {
    let Some(text) = single(head.headers, name).map_err(invalid)? else {
        return Ok(None);
    };
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(invalid(format!(
            "{name} must be a decimal number, not {text:?}."
        )));
    }
    Ok(Some(text.parse().unwrap_or(u64::MAX)))
}

fn invalid(rule: impl Into<String>) -> Refusal {
    Refusal::invalid(rule).closing()
}

/// Answers bytes that would make the upload longer than it was declared to be.
pub fn past_the_end(length: u64) -> Refusal {
    Refusal::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("The body ends past the {length} bytes of the upload. Upload-Offset tells what is there."),
    )
    .code("PAST_THE_END")
    .closing()
}

/// Answers a body whose digest is not the declared one; its bytes are gone, the offset stayed.
pub fn checksum_mismatch(offset: u64) -> Refusal {
    let status = StatusCode::from_u16(CHECKSUM_MISMATCH).unwrap_or(StatusCode::BAD_REQUEST);
    Refusal::new(
        status,
        format!(
            "The body's checksum is not the one that its head tells. Its bytes were discarded; \
             send them again from byte {offset}."
        ),
    )
    .code("CHECKSUM_MISMATCH")
    .header(UPLOAD_OFFSET, HeaderValue::from(offset))
}

/// Status and headers of an answer; `Tus-Resumable` is put on all of them where they leave.
pub fn reply(answer: Answer<'_>) -> Reply {
    match answer {
        Answer::Created {
            location,
            standing,
            has_body,
            outcome,
        } => {
            let reply = Reply::new(StatusCode::CREATED)
                .with(header::LOCATION, location)
                .body(outcome);
            let reply = expiring(reply, standing);
            // tus 1.0, "Creation With Upload": the offset tells how much of the body was taken.
            if has_body || standing.complete {
                reply.with(UPLOAD_OFFSET, standing.offset.to_string())
            } else {
                reply
            }
        }
        Answer::Standing(standing) => {
            let note = Note::read(standing.note.as_deref());
            let mut reply = Reply::new(StatusCode::OK).with(header::CACHE_CONTROL, "no-store");
            // tus 1.0, "Concatenation": a final upload has an offset once it is joined.
            if standing.complete || !note.is_final() {
                reply = reply.with(UPLOAD_OFFSET, standing.offset.to_string());
            }
            reply = match standing.length {
                Some(length) => reply.with(UPLOAD_LENGTH, length.to_string()),
                // Its client has no length to tell later.
                None if note.is_final() => reply,
                None => reply.with(UPLOAD_DEFER_LENGTH, "1"),
            };
            // An upload that another protocol made may have a note, too, which is no metadata.
            let metadata = note
                .metadata
                .filter(|text| UploadMetadata::parse(text).is_ok());
            for (name, text) in [(UPLOAD_METADATA, metadata), (UPLOAD_CONCAT, note.concat)] {
                if let Some(text) = text {
                    reply = reply.with(name, text);
                }
            }
            expiring(reply, standing)
        }
        Answer::Appended { standing, .. } => expiring(
            Reply::new(StatusCode::NO_CONTENT).with(UPLOAD_OFFSET, standing.offset.to_string()),
            standing,
        ),
        Answer::Cancelled => Reply::new(StatusCode::NO_CONTENT),
    }
}

/// What OPTIONS tells.
pub fn discovery(reply: Reply, limits: &Limits) -> Reply {
    reply
        .with(TUS_RESUMABLE, "1.0.0")
        .with(TUS_VERSION, "1.0.0")
        .with(TUS_EXTENSION, EXTENSIONS)
        .with(TUS_MAX_SIZE, limits.max_size.to_string())
        .with(TUS_CHECKSUM_ALGORITHM, algorithms())
}

fn expiring(reply: Reply, standing: &Standing) -> Reply {
    match standing.expires {
        Some(at) => reply.with(UPLOAD_EXPIRES, http_date(at)),
        None => reply,
    }
}

fn http_date(at: UnixMillis) -> String {
    let since = Duration::from_millis(u64::try_from(at.0).unwrap_or(0));
    httpdate::fmt_http_date(UNIX_EPOCH + since)
}

#[cfg(test)]
mod tests;
