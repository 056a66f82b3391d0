//! Wire protocols for uploads that go on after a cut: tus 1.0.0, the IETF's resumable uploads, parts of
//! known places, and BoxVault's chunks.
//!
//! Each file here only translates: from method and headers to an [`UploadCommand`], and from an
//! [`Answer`] back to status and headers. No I/O, no clock, no row; `handler::resumable` does the
//! work in between, the same for both.

pub mod chunk;
pub mod command;
pub mod digest;
pub mod fields;
pub mod ietf;
pub mod metadata;
pub mod native;
pub mod owner;
pub mod tus;

use boxgate_storage::digest::Digest;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::auth::credential;
use crate::http::headers::MediaType;
use crate::refusal::Refusal;

pub use command::{
    Answer, Append, Checksum, Concat, Create, Ends, Limits, Older, Reply, RequestHead, Standing,
    UploadCommand,
};
pub use owner::Owner;

/// Bytes of the whole upload; both protocols.
pub const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");

/// Which protocol a request speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// tus 1.0.0.
    Tus,
    /// Resumable Uploads for HTTP.
    Ietf,
}

impl Protocol {
    /// Tells by the fields that only one of them has, then by its media type. HEAD and DELETE need no
    /// field of the IETF's protocol, so without one of tus they speak that. `None` speaks neither.
    pub fn of(method: &Method, headers: &HeaderMap) -> Option<Self> {
        if headers.contains_key(tus::TUS_RESUMABLE) {
            return Some(Self::Tus);
        }
        if headers.contains_key(ietf::UPLOAD_COMPLETE)
            || headers.contains_key(ietf::INTEROP_VERSION)
        {
            return Some(Self::Ietf);
        }
        match MediaType::of(headers).as_ref().map(MediaType::essence) {
            Some(tus::MEDIA_TYPE) => return Some(Self::Tus),
            Some(ietf::MEDIA_TYPE) => return Some(Self::Ietf),
            _ => {}
        }
        // A tus client that forgot its version shall hear of that, and of nothing else.
        if tus::REQUEST_FIELDS.iter().any(|f| headers.contains_key(f)) {
            return Some(Self::Tus);
        }
        (method == Method::HEAD || method == Method::DELETE).then_some(Self::Ietf)
    }

    /// What a request asks for.
    ///
    /// # Errors
    /// The refusal in this protocol's words.
    pub fn parse(self, head: &RequestHead<'_>) -> Result<UploadCommand, Refusal> {
        match self {
            Self::Tus => tus::parse(head),
            Self::Ietf => ietf::parse(head),
        }
    }

    /// Status and headers of an answer.
    pub fn reply(self, answer: Answer<'_>, limits: &Limits) -> Reply {
        match self {
            Self::Tus => tus::reply(answer),
            Self::Ietf => ietf::reply(answer, limits),
        }
    }

    /// Answers lengths that do not agree with that of the upload.
    pub fn inconsistent_length(self, length: u64) -> Refusal {
        match self {
            Self::Tus => Refusal::invalid(format!(
                "The upload has {length} bytes, and Upload-Length tells another number."
            ))
            .closing(),
            Self::Ietf => ietf::inconsistent_length(length),
        }
    }

    /// Answers bytes past the end of the upload.
    pub fn past_the_end(self, length: u64) -> Refusal {
        match self {
            Self::Tus => tus::past_the_end(length),
            Self::Ietf => ietf::inconsistent_length(length),
        }
    }

    /// Answers bytes for an upload that is finished.
    pub fn completed(self, length: u64) -> Refusal {
        match self {
            Self::Tus => tus::past_the_end(length),
            Self::Ietf => ietf::completed(length),
        }
    }

    /// The digest of a body that its head announced to stand behind it.
    ///
    /// # Errors
    /// 400 when it does not, or cannot be read.
    pub fn trailing_checksum(self, trailers: Option<&HeaderMap>) -> Result<Digest, Refusal> {
        match self {
            Self::Tus => tus::trailing_checksum(trailers),
            // RFC 9530 allows them there; nothing of this protocol announces one.
            Self::Ietf => Err(Refusal::invalid("No digest was announced.").closing()),
        }
    }

    /// Answers a digest behind the body that its head did not announce, if one stands there.
    pub fn unannounced_checksum(self, trailers: Option<&HeaderMap>) -> Option<Refusal> {
        match self {
            Self::Tus => tus::unannounced_checksum(trailers?),
            // RFC 9110 §6.5.1: who does not know a trailer field may leave it out.
            Self::Ietf => None,
        }
    }

    /// Answers a body whose digest is not the declared one.
    pub fn checksum_mismatch(self, declared: &Digest, offset: u64) -> Refusal {
        match self {
            Self::Tus => tus::checksum_mismatch(offset),
            Self::Ietf => ietf::digest_mismatch(declared, offset),
        }
    }

    /// The same refusal with what this server takes (draft §4.1.4: 413 from own limits).
    pub fn with_limits(self, refusal: Refusal, limits: &Limits) -> Refusal {
        match self {
            Self::Tus => refusal,
            Self::Ietf => match HeaderValue::from_str(&ietf::upload_limit(limits, None)) {
                Ok(value) => refusal.header(ietf::UPLOAD_LIMIT, value),
                Err(_unwritable) => refusal,
            },
        }
    }

    /// The same refusal as one of what the upload became: its transfer is over, and going on with it
    /// would not help (draft §4.4.2).
    pub fn from_the_target(self, refusal: Refusal) -> Refusal {
        match self {
            Self::Tus => refusal,
            Self::Ietf => refusal.header(ietf::UPLOAD_COMPLETE, HeaderValue::from_static("?1")),
        }
    }
}

/// What the query says that an upload becomes.
///
/// # Errors
/// The rule that is broken. A name that is not known is one, or given twice: a target that is misspelled
/// would else be none, and its upload become no box.
fn owner_by_query(head: &RequestHead<'_>) -> Result<Owner, String> {
    let query = head.query.unwrap_or_default();
    let mut seen = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let name = pair.split_once('=').map_or(pair, |(name, _)| name);
        if !owner::FIELDS.contains(&name) && name != credential::QUERY_FIELD {
            let known = owner::FIELDS.join(", ");
            return Err(format!(
                "{name:?} in the query is not known; known are {known}."
            ));
        }
        if seen.contains(&name) {
            return Err(format!("The query has {name} twice."));
        }
        seen.push(name);
    }
    Owner::parse(|name| credential::query_value(query, name))
}

/// Answers a body of another media type (RFC 5789 §2.2: and says which one is taken).
fn other_media_type(wanted: &'static str) -> Refusal {
    Refusal::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        format!("The bytes of an upload come as Content-Type: {wanted}."),
    )
    .code("UNSUPPORTED_MEDIA_TYPE")
    .header(
        HeaderName::from_static("accept-patch"),
        HeaderValue::from_static(wanted),
    )
    .closing()
}

/// The method that is meant: `X-HTTP-Method-Override` stands for it where a client cannot send PATCH or
/// DELETE (tus 1.0, "X-HTTP-Method-Override").
///
/// A safe method stays what it is: whoever follows a link changes nothing.
pub fn method(actual: &Method, headers: &HeaderMap) -> Method {
    if actual.is_safe() {
        return actual.clone();
    }
    headers
        .get("x-http-method-override")
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.trim().to_ascii_uppercase().parse().ok())
        .unwrap_or_else(|| actual.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(n, v)| (HeaderName::from_static(n), v.parse().unwrap()))
            .collect()
    }

    #[test]
    fn a_request_speaks_the_protocol_whose_fields_it_has() {
        use Protocol::{Ietf, Tus};
        type Case<'a> = (Method, &'a [(&'static str, &'static str)], Option<Protocol>);
        let table: &[Case<'_>] = &[
            (Method::POST, &[("tus-resumable", "1.0.0")], Some(Tus)),
            (Method::HEAD, &[("tus-resumable", "0.2.2")], Some(Tus)),
            (Method::POST, &[("upload-complete", "?0")], Some(Ietf)),
            (
                Method::POST,
                &[("upload-draft-interop-version", "9")],
                Some(Ietf),
            ),
            // Both: the version field of tus is the rarer accident.
            (
                Method::PATCH,
                &[("upload-complete", "?1"), ("tus-resumable", "1.0.0")],
                Some(Tus),
            ),
            (
                Method::PATCH,
                &[("content-type", "application/offset+octet-stream")],
                Some(Tus),
            ),
            (
                Method::PATCH,
                &[("content-type", "application/partial-upload")],
                Some(Ietf),
            ),
            (Method::POST, &[("upload-metadata", "a")], Some(Tus)),
            (Method::POST, &[("upload-defer-length", "1")], Some(Tus)),
            (Method::HEAD, &[], Some(Ietf)),
            (Method::DELETE, &[], Some(Ietf)),
            (Method::POST, &[("upload-length", "10")], None),
            (Method::PATCH, &[("upload-offset", "10")], None),
            (Method::OPTIONS, &[], None),
        ];
        for (method, lines, expected) in table {
            assert_eq!(
                Protocol::of(method, &headers(lines)),
                *expected,
                "{method} {lines:?}"
            );
        }
    }

    #[test]
    fn the_override_stands_for_the_method_but_never_for_a_safe_one() {
        let patch = headers(&[("x-http-method-override", "patch")]);
        assert_eq!(method(&Method::POST, &patch), Method::PATCH);
        assert_eq!(method(&Method::GET, &patch), Method::GET);
        assert_eq!(method(&Method::HEAD, &patch), Method::HEAD);
        assert_eq!(method(&Method::POST, &HeaderMap::new()), Method::POST);
        let odd = headers(&[("x-http-method-override", "no method")]);
        assert_eq!(method(&Method::POST, &odd), Method::POST);
    }
}
