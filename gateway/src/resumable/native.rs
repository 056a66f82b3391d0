//! Parts, our own protocol: an upload of known length is made without a body, and its parts are put in
//! any order and over any number of connections, each where its number says.
//!
//! `POST /files` with `Upload-Length` tells `Upload-Part-Size`; `PUT /files/{id}/parts/{k}` carries exactly
//! so many bytes, the last part the rest. PUT is idempotent (RFC 9110 §9.2.2), so any of them may be
//! sent again.

use boxgate_storage::catalog::BoxRef;
use boxgate_storage::digest::Digest;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde_json::Value;

use super::command::{Concat, Create, Ends, Limits, Older, Reply, RequestHead, Standing};
use super::{Owner, Protocol, UPLOAD_LENGTH, digest, fields, ietf};
use crate::http::headers::UPLOAD_OFFSET;
use crate::refusal::Refusal;

/// Bytes of each part but the last.
pub const UPLOAD_PART_SIZE: HeaderName = HeaderName::from_static("upload-part-size");
/// As Artifactory spells it: whether bytes that are held already need not be sent.
pub const X_CHECKSUM_DEPLOY: HeaderName = HeaderName::from_static("x-checksum-deploy");
/// Parts beyond the committed ones that are taken: what is ahead has to wait for SHA-256, which runs in
/// order, and may have to be read again for it.
pub const WINDOW_PARTS: u64 = 16;

/// A part on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutPart {
    /// Which one, from 0.
    pub k: u32,
    /// Bytes of this body, where its head tells.
    pub length: Option<u64>,
    /// Digest of this body alone.
    pub checksum: Option<Digest>,
}

/// Whether a request makes an upload in parts: it tells a length, has no body, and speaks neither of the
/// other protocols.
pub fn is_creation(head: &RequestHead<'_>) -> bool {
    head.method == Method::POST
        && head.headers.contains_key(UPLOAD_LENGTH)
        && !head.has_body()
        && Protocol::of(head.method, head.headers).is_none()
}

/// What is to be made.
///
/// # Errors
/// 400 with the rule that is broken.
pub fn create(head: &RequestHead<'_>) -> Result<Create, Refusal> {
    let length = fields::integer(head.headers, &UPLOAD_LENGTH)
        .ok_or_else(|| Refusal::invalid("Upload-Length must be a non-negative integer."))?;
    if length == 0 {
        return Err(Refusal::invalid("An empty file has no parts."));
    }
    Ok(Create {
        length: Some(length),
        ends: Ends::Later,
        owner: super::owner_by_query(head).map_err(Refusal::invalid)?,
        note: None,
        expected: digest::repr_digests(head.headers)?,
        checksum: None,
        has_body: false,
        concat: Concat::Alone,
        older: Older::Stay,
    })
}

/// To which name uploads are asked for.
///
/// # Errors
/// 400 with the rule that is broken.
pub fn wanted(head: &RequestHead<'_>) -> Result<BoxRef, Refusal> {
    match super::owner_by_query(head).map_err(Refusal::invalid)? {
        Owner::Target(file) => Ok(file),
        Owner::Organization(_) => Err(Refusal::invalid(
            "Say to which name: target=organization/box/version/provider/architecture.",
        )),
    }
}

/// Whether bytes that are held already need not be sent.
pub fn is_checksum_deploy(headers: &HeaderMap) -> bool {
    let told = headers.get(X_CHECKSUM_DEPLOY);
    told.is_some_and(|told| told.as_bytes().eq_ignore_ascii_case(b"true"))
}

/// Answers who asks for that by another protocol: none of them has an answer by which its clients know that they are done.
pub fn not_beside_a_protocol() -> Refusal {
    Refusal::invalid(
        "X-Checksum-Deploy goes with Upload-Length and Repr-Digest, without Tus-Resumable, Upload-Complete or a body. \
         Leave it out to send the bytes.",
    )
    .closing()
}

/// Answers a creation whose bytes were held already: it is published.
pub fn known(outcome: &Value) -> Reply {
    Reply::new(StatusCode::OK).body(Some(outcome))
}

/// Which part a request carries.
///
/// # Errors
/// 400 for what is no number of a part.
pub fn put(head: &RequestHead<'_>, k: &str) -> Result<PutPart, Refusal> {
    let number = k.bytes().all(|b| b.is_ascii_digit()).then(|| k.parse());
    let Some(Ok(k)) = number else {
        return Err(Refusal::invalid("Parts are numbered 0, 1, 2 and so on.").closing());
    };
    Ok(PutPart {
        k,
        length: head.body_length(),
        checksum: digest::content_digest(head.headers)?,
    })
}

/// Answers a creation.
pub fn created(location: &str, part_bytes: u64, standing: &Standing, limits: &Limits) -> Reply {
    let left = standing.left.map(|left| left.as_secs());
    Reply::new(StatusCode::CREATED)
        .with(header::LOCATION, location)
        .with(UPLOAD_PART_SIZE, part_bytes.to_string())
        .with(UPLOAD_OFFSET, standing.offset.to_string())
        .with(ietf::UPLOAD_LIMIT, ietf::upload_limit(limits, left))
}

/// Answers a part that is held; with what the upload became, if it was the last one that was missing.
pub fn held(committed: u64, outcome: Option<&Value>) -> Reply {
    let status = match outcome {
        Some(_) => StatusCode::CREATED,
        None => StatusCode::NO_CONTENT,
    };
    Reply::new(status)
        .with(UPLOAD_OFFSET, committed.to_string())
        .body(outcome)
}

/// Answers a part that is too far ahead.
pub fn too_far_ahead(k: u32, committed: u64, part_bytes: u64) -> Refusal {
    let first = committed / part_bytes;
    Refusal::new(
        StatusCode::CONFLICT,
        format!(
            "Part {k} is too far ahead: parts {first} to {} are taken now. Send those first.",
            first + WINDOW_PARTS - 1
        ),
    )
    .code("PART_AHEAD")
    .header(UPLOAD_OFFSET, HeaderValue::from(committed))
    .closing()
}

/// Answers other bytes than are held under that number.
pub fn differs(k: u32, committed: u64) -> Refusal {
    Refusal::new(
        StatusCode::CONFLICT,
        format!(
            "Part {k} is held already, with other bytes. If the file changed, begin a new upload."
        ),
    )
    .code("PART_DIFFERS")
    .header(UPLOAD_OFFSET, HeaderValue::from(committed))
}

/// Answers a part for an upload that is not sent in parts (any more).
pub fn not_in_parts(committed: u64) -> Refusal {
    Refusal::new(
        StatusCode::CONFLICT,
        "This upload is not sent in parts, or a request sends it from its offset on; continue it with \
         PATCH.",
    )
    .code("NOT_IN_PARTS")
    .header(UPLOAD_OFFSET, HeaderValue::from(committed))
    .closing()
}

/// Answers bytes in order for an upload that holds pieces behind them.
pub fn holds_pieces(committed: u64) -> Refusal {
    Refusal::new(
        StatusCode::CONFLICT,
        "Pieces behind this offset are held; send those that are missing, each by its number. GET tells \
         which are held. Nothing of the body was taken.",
    )
    .code("HOLDS_PIECES")
    .header(UPLOAD_OFFSET, HeaderValue::from(committed))
    .closing()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> http::HeaderMap {
        lines
            .iter()
            .map(|(n, v)| (HeaderName::from_static(n), v.parse().unwrap()))
            .collect()
    }

    fn head<'a>(method: &'a Method, headers: &'a http::HeaderMap) -> RequestHead<'a> {
        RequestHead {
            method,
            headers,
            query: Some("target=acme/web/1.0/virtualbox/amd64"),
        }
    }

    #[test]
    fn a_length_without_a_body_or_a_protocol_makes_an_upload_in_parts() {
        let post = Method::POST;
        let is = |lines: &[(&'static str, &str)]| is_creation(&head(&post, &headers(lines)));
        assert!(is(&[("upload-length", "9")]));
        assert!(is(&[("upload-length", "9"), ("content-length", "0")]));
        assert!(!is(&[("upload-length", "9"), ("content-length", "9")]));
        assert!(!is(&[
            ("upload-length", "9"),
            ("transfer-encoding", "chunked")
        ]));
        assert!(!is(&[("upload-length", "9"), ("tus-resumable", "1.0.0")]));
        assert!(!is(&[("upload-length", "9"), ("upload-complete", "?0")]));
        assert!(!is(&[("content-length", "0")]));
        let create = |length: &str| create(&head(&post, &headers(&[("upload-length", length)])));
        assert_eq!(create("9").unwrap().length, Some(9));
        for bad in ["0", "-1", "nine", "9.5", ""] {
            assert_eq!(create(bad).unwrap_err().status, 400, "{bad}");
        }
    }

    #[test]
    fn parts_have_plain_numbers() {
        let (method, headers) = (Method::PUT, headers(&[("content-length", "8")]));
        let put = |k: &str| put(&head(&method, &headers), k).map(|p| (p.k, p.length));
        assert_eq!(put("7").unwrap(), (7, Some(8)));
        for bad in ["", "-1", "+1", "1.0", "x", "4294967296"] {
            assert_eq!(put(bad).unwrap_err().status, 400, "{bad}");
        }
    }
}
