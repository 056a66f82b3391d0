//! What went wrong, as a status and as `application/problem+json` (RFC 9457).
//!
//! The one place that turns kinds of errors into statuses. Doors with an error shape of their own
//! use [`status`] and write their own body.

use boxgate_storage::ErrorKind;
use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;
use serde_json::{Map, Value};

use super::response;
use crate::server::OutboundBody;

/// The media type of RFC 9457.
pub const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// The status of a kind of error. No `_`: a new kind does not compile until it has a row.
pub fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Invalid | ErrorKind::LengthMismatch { .. } => StatusCode::BAD_REQUEST,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict | ErrorKind::OffsetMismatch { .. } | ErrorKind::Fenced => {
            StatusCode::CONFLICT
        }
        ErrorKind::Forbidden => StatusCode::FORBIDDEN,
        ErrorKind::DigestMismatch => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorKind::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::Gone => StatusCode::GONE,
        // Damage may be healed by a replica or a new upload of the same bytes.
        ErrorKind::Damaged | ErrorKind::Withheld | ErrorKind::Unavailable => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        ErrorKind::Full => StatusCode::INSUFFICIENT_STORAGE,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Kinds of problems that IANA has names for, or will have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemType {
    /// The bytes do not start where the upload ends.
    MismatchingUploadOffset,
    /// The upload is complete.
    CompletedUpload,
    /// The lengths that were told do not agree.
    InconsistentUploadLength,
    /// A digest that its algorithm cannot give.
    InvalidDigest,
    /// The bytes have another digest.
    MismatchingDigest,
}

impl ProblemType {
    /// The name.
    pub fn uri(self) -> &'static str {
        match self {
            Self::MismatchingUploadOffset => {
                "https://iana.org/assignments/http-problem-types#mismatching-upload-offset"
            }
            Self::CompletedUpload => {
                "https://iana.org/assignments/http-problem-types#completed-upload"
            }
            Self::InconsistentUploadLength => {
                "https://iana.org/assignments/http-problem-types#inconsistent-upload-length"
            }
            Self::InvalidDigest => {
                "https://iana.org/assignments/http-problem-types#digest-invalid-values"
            }
            Self::MismatchingDigest => {
                "https://iana.org/assignments/http-problem-types#digest-mismatching-values"
            }
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::MismatchingUploadOffset => "Mismatching Upload Offset",
            Self::CompletedUpload => "Upload Is Completed",
            Self::InconsistentUploadLength => "Inconsistent Upload Length",
            Self::InvalidDigest => "Invalid Digest Values",
            Self::MismatchingDigest => "Mismatching Digest Values",
        }
    }
}

/// A problem for a client to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// RFC 9457 §4.2.1: with no type of its own, the title is the status' phrase.
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    #[serde(flatten)]
    members: Map<String, Value>,
}

impl Problem {
    /// A problem with the status of its own; `detail` is shown to the client.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: detail.into(),
            code,
            request_id: None,
            members: Map::new(),
        }
    }

    /// The same problem under the name that it has.
    #[must_use]
    pub fn of_type(mut self, problem: ProblemType) -> Self {
        self.r#type = problem.uri();
        self.title = problem.title();
        self
    }

    /// The same problem with members of its type (RFC 9457 §3.2); what is no object adds nothing.
    #[must_use]
    pub fn with_members(mut self, members: &Value) -> Self {
        if let Value::Object(members) = members {
            self.members.extend(members.clone());
        }
        self
    }

    /// The same problem with the request's id, by which the log finds it.
    #[must_use]
    pub fn with_request_id(mut self, id: impl Into<String>) -> Self {
        self.request_id = Some(id.into());
        self
    }

    /// The answer; 503 says when to come again.
    pub fn into_response(self) -> Response<OutboundBody> {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut answer = response::json(status, &self);
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, PROBLEM_JSON);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn body(answer: Response<OutboundBody>) -> serde_json::Value {
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[tokio::test]
    async fn a_problem_names_status_code_and_detail() {
        let detail = "box.find: acme/web: not found";
        let problem = Problem::new(status(ErrorKind::NotFound), "not_found", detail);
        let answer = problem.with_request_id("0f").into_response();
        assert_eq!(answer.status(), 404);
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        assert_eq!(
            body(answer).await,
            serde_json::json!({
                "type": "about:blank", "title": "Not Found", "status": 404,
                "detail": "box.find: acme/web: not found", "code": "not_found", "request_id": "0f",
            })
        );
    }

    #[test]
    fn unavailable_says_when_to_come_again() {
        let problem = Problem::new(status(ErrorKind::Unavailable), "unavailable", "main");
        let answer = problem.into_response();
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()["retry-after"], "5");
    }
}
