//! Resumable Uploads for HTTP (draft-ietf-httpbis-resumable-upload), interop version 9.
//!
//! What later revisions ask for besides (`Accept-Patch` in answers to OPTIONS) is sent too; what they no
//! longer require (`Upload-Length` and `Upload-Complete` in answers to HEAD) is still sent.

use std::time::Duration;

use boxgate_storage::digest::Digest;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde_json::json;

use super::command::{
    Answer, Append, Checksum, Concat, Create, Ends, Limits, Older, Reply, RequestHead, Standing,
    UploadCommand,
};
use super::{Owner, UPLOAD_LENGTH, digest, fields};
use crate::http::headers::{MediaType, UPLOAD_OFFSET};
use crate::http::problem::ProblemType;
use crate::multipart;
use crate::refusal::Refusal;

/// Whether a body is the end of its upload.
pub const UPLOAD_COMPLETE: HeaderName = HeaderName::from_static("upload-complete");
/// What this server takes.
pub const UPLOAD_LIMIT: HeaderName = HeaderName::from_static("upload-limit");
/// Which revision a client was written for.
pub const INTEROP_VERSION: HeaderName = HeaderName::from_static("upload-draft-interop-version");
/// The revision that is spoken here, as the draft counts them.
pub const INTEROP: u64 = 9;
/// The status and reason of interim answers, draft §6.
pub const RESUMPTION_SUPPORTED: (u16, &str) = (104, "Upload Resumption Supported");
/// The media type of bytes in a PATCH.
pub const MEDIA_TYPE: &str = "application/partial-upload";

/// What a request of this protocol asks for.
///
/// # Errors
/// 415 for another media type, 400 with the rule that is broken.
pub fn parse(head: &RequestHead<'_>) -> Result<UploadCommand, Refusal> {
    match *head.method {
        Method::OPTIONS => Ok(UploadCommand::Discover),
        Method::HEAD => Ok(UploadCommand::Head),
        Method::DELETE => Ok(UploadCommand::Cancel),
        Method::PATCH => append(head).map(UploadCommand::Append),
        Method::POST => {
            let owner = super::owner_by_query(head).map_err(invalid)?;
            create(head, owner).map(|create| UploadCommand::Create(Box::new(create)))
        }
        _ => Err(Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "Uploads know POST, HEAD, PATCH, DELETE and OPTIONS.",
        )
        .code("METHOD_NOT_ALLOWED")),
    }
}

/// A creation at any target: the fields say how the upload goes on, its target what it becomes.
///
/// # Errors
/// As [`parse`].
pub fn create(head: &RequestHead<'_>, owner: Owner) -> Result<Create, Refusal> {
    if multipart::is_form(head.headers) {
        return Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "A resumable upload is the bare file; a form cannot be continued.",
        )
        .code("UNSUPPORTED_MEDIA_TYPE")
        .closing());
    }
    let ends = ends(head)?;
    let length = length(head, 0, ends)?;
    Ok(Create {
        length,
        ends,
        owner,
        note: None,
        expected: digest::repr_digests(head.headers)?,
        checksum: digest::content_digest(head.headers)?.map(Checksum::Told),
        has_body: head.has_body(),
        concat: Concat::Alone,
        older: Older::Stay,
    })
}

fn append(head: &RequestHead<'_>) -> Result<Append, Refusal> {
    if MediaType::of(head.headers).is_none_or(|m| m.essence() != MEDIA_TYPE) {
        return Err(super::other_media_type(MEDIA_TYPE));
    }
    let ends = ends(head)?;
    let offset = fields::integer(head.headers, &UPLOAD_OFFSET)
        .ok_or_else(|| invalid("Upload-Offset must be a non-negative integer."))?;
    Ok(Append {
        offset,
        ends,
        length: length(head, offset, ends)?,
        expected: digest::repr_digests(head.headers)?,
        checksum: digest::content_digest(head.headers)?.map(Checksum::Told),
        body_length: head.body_length(),
    })
}

fn ends(head: &RequestHead<'_>) -> Result<Ends, Refusal> {
    match fields::boolean(head.headers, &UPLOAD_COMPLETE) {
        Some(true) => Ok(Ends::Here),
        Some(false) => Ok(Ends::Later),
        None => Err(invalid("Upload-Complete must be ?1 or ?0.")),
    }
}

/// The length of the whole from both of its indicators, which must agree (draft §4.1.3, "Length").
fn length(head: &RequestHead<'_>, offset: u64, ends: Ends) -> Result<Option<u64>, Refusal> {
    let declared = fields::integer(head.headers, &UPLOAD_LENGTH);
    let end = head.body_length().map(|body| offset.saturating_add(body));
    if let (Some(declared), Some(end)) = (declared, end)
        && (end > declared || (ends == Ends::Here && end != declared))
    {
        return Err(inconsistent_length(declared));
    }
    if declared.is_some_and(|declared| declared < offset) {
        return Err(invalid("Upload-Length is less than Upload-Offset."));
    }
    Ok(match ends {
        Ends::Here => declared.or(end),
        _ => declared,
    })
}

/// Whether a client reads interim answers: it was written for the revision that is spoken here (draft
/// §4.2.1). All others might take one for the answer.
pub fn reads_interim(headers: &HeaderMap) -> bool {
    fields::integer(headers, &INTEROP_VERSION) == Some(INTEROP)
}

/// The interim answer to a creation: where the upload goes on if this request is cut.
pub fn resumption_supported(location: &str, limits: &Limits, left: Option<Duration>) -> HeaderMap {
    let left = left.map(|left| left.as_secs());
    interim()
        .with(header::LOCATION, location)
        .with(UPLOAD_LIMIT, upload_limit(limits, left))
        .headers
}

/// An interim answer that tells how much is durable (draft §4.4.2: without a `Location`).
pub fn progress(offset: u64) -> HeaderMap {
    let offset = fields::from_integer(offset);
    interim().with(UPLOAD_OFFSET, offset).headers
}

fn interim() -> Reply {
    Reply::new(StatusCode::PROCESSING).with(INTEROP_VERSION, INTEROP.to_string())
}

fn invalid(rule: impl Into<String>) -> Refusal {
    Refusal::invalid(rule).closing()
}

/// Answers lengths that do not agree with each other or with the upload's.
pub fn inconsistent_length(length: u64) -> Refusal {
    Refusal::invalid(format!(
        "The lengths of this request do not agree with the {length} bytes of the upload. HEAD tells what is there."
    ))
    .problem(ProblemType::InconsistentUploadLength)
    .closing()
}

/// Answers more bytes for an upload that is complete.
pub fn completed(length: u64) -> Refusal {
    Refusal::invalid("The upload is complete and takes no more bytes.")
        .problem(ProblemType::CompletedUpload)
        .header(UPLOAD_OFFSET, HeaderValue::from(length))
        .header(UPLOAD_COMPLETE, HeaderValue::from_static("?1"))
        .closing()
}

/// Answers a body whose digest is not the declared one; its bytes are gone, the offset stayed.
pub fn digest_mismatch(declared: &Digest, offset: u64) -> Refusal {
    let key = digest::key_of(declared.algorithm());
    Refusal::invalid(format!(
        "The body's digest is not the one of Content-Digest. Its bytes were discarded; send them \
         again from byte {offset}."
    ))
    .problem(ProblemType::MismatchingDigest)
    .details(json!({ "mismatching-digests": [{
        "algorithm": key, "header": "Content-Digest",
        "provided-digest": fields::from_bytes(declared.as_bytes()),
    }] }))
    .header(UPLOAD_OFFSET, HeaderValue::from(offset))
}

/// Status and headers of an answer.
pub fn reply(answer: Answer<'_>, limits: &Limits) -> Reply {
    match answer {
        Answer::Created {
            location,
            standing,
            outcome,
            ..
        } => standing_of(Reply::new(StatusCode::CREATED), standing, limits)
            .with(header::LOCATION, location)
            .body(outcome),
        Answer::Standing(standing) => {
            standing_of(Reply::new(StatusCode::NO_CONTENT), standing, limits)
                .with(header::CACHE_CONTROL, "no-store")
        }
        Answer::Appended { standing, outcome } => {
            let status = match outcome {
                Some(_) => StatusCode::OK,
                None => StatusCode::NO_CONTENT,
            };
            standing_of(Reply::new(status), standing, limits).body(outcome)
        }
        Answer::Cancelled => Reply::new(StatusCode::NO_CONTENT),
    }
}

/// What OPTIONS tells.
pub fn discovery(reply: Reply, limits: &Limits) -> Reply {
    reply
        .with(UPLOAD_LIMIT, upload_limit(limits, None))
        .with(HeaderName::from_static("accept-patch"), MEDIA_TYPE)
}

/// `Upload-Limit`, with the seconds that an upload has left.
pub fn upload_limit(limits: &Limits, max_age_s: Option<u64>) -> String {
    let members = [
        ("max-size", Some(limits.max_size)),
        ("max-append-size", limits.max_append_size),
        ("max-age", max_age_s),
    ];
    let members = members.into_iter().filter_map(|(key, value)| {
        let value = fields::from_integer(value?);
        Some(format!("{key}={value}"))
    });
    members.collect::<Vec<_>>().join(", ")
}

fn standing_of(reply: Reply, standing: &Standing, limits: &Limits) -> Reply {
    let left = standing.left.map(|left| left.as_secs());
    let reply = reply
        .with(UPLOAD_OFFSET, fields::from_integer(standing.offset))
        .with(UPLOAD_COMPLETE, fields::from_bool(standing.complete))
        .with(UPLOAD_LIMIT, upload_limit(limits, left));
    match standing.length {
        Some(length) => reply.with(UPLOAD_LENGTH, fields::from_integer(length)),
        None => reply,
    }
}

#[cfg(test)]
mod tests;
