//! What a door answers when it will not or cannot do what was asked: status, text, and what to do
//! next. Each door gives it its own JSON shape.

use std::time::Duration;

use boxgate_storage::catalog::NameError;
use boxgate_storage::metadata::uploads::{GateState, Gating, Withheld};
use boxgate_storage::upload::GIVES_WAY;
use boxgate_storage::{Error, ErrorKind};
use http::header::{CONNECTION, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};

use crate::http::headers::UPLOAD_OFFSET;
use crate::http::problem::{self, ProblemType};

/// After which time it is worth asking for an upload that is just being looked at.
const ASKED_AGAIN: Duration = Duration::from_secs(1);
/// The same for one that is held.
const HELD_AGAIN: Duration = Duration::from_secs(30);
const HELD: &str = "The upload is whole, and what must be asked before it is published does not answer. It is asked \
                    again; no byte need be sent again. Ask for the upload later.";

/// An answer that is not the one hoped for.
#[derive(Debug)]
pub struct Refusal {
    /// The status, the same at every door.
    pub status: StatusCode,
    /// A fixed word for programs, where the door's shape has room for one.
    pub code: Option<&'static str>,
    /// For people: what is wrong, with which field, and what to do.
    pub message: String,
    /// Numbers and names that belong to the message.
    pub details: Option<Value>,
    /// What kind of problem it is, where a registry has a name for it (RFC 9457 §3.1.1).
    pub problem: Option<ProblemType>,
    /// Headers to send along.
    pub headers: HeaderMap,
    /// The cause, for the log only.
    pub cause: Option<Error>,
}

impl Refusal {
    /// A refusal with a text for people.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            code: None,
            message: message.into(),
            details: None,
            problem: None,
            headers: HeaderMap::new(),
            cause: None,
        }
    }

    /// 400: something in the request breaks a rule that the message names.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message).code("INVALID_REQUEST")
    }

    /// 400 for a box without a byte.
    pub fn empty_box() -> Self {
        Self::invalid("An empty file is no box.")
    }

    /// 400 for a name outside the grammar.
    #[expect(clippy::needless_pass_by_value, reason = "fits map_err")]
    pub fn name(error: NameError) -> Self {
        Self::invalid(error.to_string())
    }

    /// 404 for something below a box that may be read.
    pub fn missing(what: &str, name: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            format!("{what} '{name}' does not exist."),
        )
        .code("NOT_FOUND")
    }

    /// 503 with the time after which to try again.
    pub fn busy(message: impl Into<String>, retry_after: Duration) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
            .code("UNAVAILABLE")
            .retry_after(retry_after)
    }

    /// Why an upload that is whole is not published, for whoever sends it.
    pub fn withheld(gating: &Gating) -> Self {
        let why = if gating.is_verdict { &gating.why } else { "" };
        match gating.state {
            GateState::Asked | GateState::Passed => {
                let text = "The upload is whole, and is just being looked at before it is published. No byte \
                            need be sent again; ask again.";
                Self::busy(text, ASKED_AGAIN).code("UPLOAD_HELD")
            }
            GateState::Held => Self::busy(HELD, HELD_AGAIN).code("UPLOAD_HELD"),
            GateState::Quarantined => {
                let text = if why.is_empty() {
                    "The upload is whole, and could not be looked at before it is published. It is kept out of \
                     sight until an administrator lets it through."
                        .to_owned()
                } else {
                    format!("The upload is quarantined: {why}")
                };
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, text).code("UPLOAD_QUARANTINED")
            }
            GateState::Rejected => {
                let status = gating.code.and_then(|code| StatusCode::from_u16(code).ok());
                let status = status.unwrap_or(StatusCode::UNPROCESSABLE_ENTITY);
                let text = if why.is_empty() {
                    "The upload was rejected."
                } else {
                    why
                };
                Self::new(status, text).code("DENIED_BY_SCRIPT")
            }
        }
    }

    /// The same once more, for another who asked the same. The cause stays with the first.
    #[must_use]
    pub fn again(&self) -> Self {
        Self {
            status: self.status,
            code: self.code,
            message: self.message.clone(),
            details: self.details.clone(),
            problem: self.problem,
            headers: self.headers.clone(),
            cause: None,
        }
    }

    /// The same with a word for programs.
    #[must_use]
    pub fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// The same with numbers and names.
    #[must_use]
    pub fn details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    /// The same with the name that a registry has for it.
    #[must_use]
    pub fn problem(mut self, problem: ProblemType) -> Self {
        self.problem = Some(problem);
        self
    }

    /// The same with a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// The same with `Retry-After` in whole seconds (RFC 9110 §10.2.3).
    #[must_use]
    pub fn retry_after(self, after: Duration) -> Self {
        self.header(RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)))
    }

    /// The same, and the connection ends: the rest of the body is not wanted.
    #[must_use]
    pub fn closing(self) -> Self {
        self.header(CONNECTION, HeaderValue::from_static("close"))
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let kind = error.kind();
        if let Some(Withheld(gating)) = error.caused_by() {
            let refusal = Self::withheld(gating);
            return Self {
                cause: Some(error),
                ..refusal
            };
        }
        let refusal = Self::new(problem::status(kind), client_text(&error)).code(code(kind));
        let refusal = match kind {
            ErrorKind::TooMany { .. } | ErrorKind::Full | ErrorKind::Unavailable => {
                refusal.retry_after(Duration::from_secs(30))
            }
            ErrorKind::TooLarge { .. } | ErrorKind::Fenced => refusal.closing(),
            // Both offsets, so that a client can go on without asking.
            ErrorKind::OffsetMismatch { expected, given } => refusal
                .problem(ProblemType::MismatchingUploadOffset)
                .details(json!({ "expected-offset": expected, "provided-offset": given }))
                .header(UPLOAD_OFFSET, HeaderValue::from(expected))
                .closing(),
            _ => refusal,
        };
        Self {
            cause: Some(error),
            ..refusal
        }
    }
}

fn code(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Invalid | ErrorKind::LengthMismatch { .. } => "INVALID_REQUEST",
        ErrorKind::NotFound => "NOT_FOUND",
        ErrorKind::Conflict => "CONFLICT",
        ErrorKind::Forbidden => "PERMISSION_DENIED",
        ErrorKind::OffsetMismatch { .. } => "OFFSET_MISMATCH",
        ErrorKind::Fenced => "UPLOAD_TAKEN_OVER",
        ErrorKind::DigestMismatch => "CHECKSUM_MISMATCH",
        ErrorKind::TooLarge { .. } => "FILE_TOO_LARGE",
        ErrorKind::TooMany { .. } => "TOO_MANY_UPLOADS",
        ErrorKind::Gone => "GONE",
        ErrorKind::Damaged => "BLOB_DAMAGED",
        ErrorKind::Full => "STORAGE_FULL",
        ErrorKind::Withheld => "UPLOAD_HELD",
        ErrorKind::Unavailable => "UNAVAILABLE",
        ErrorKind::Internal => "UPLOAD_ERROR",
    }
}

/// The client's text: what happened and what to do, nothing of our insides.
fn client_text(error: &Error) -> String {
    match error.kind() {
        ErrorKind::Invalid => format!("{} is not valid.", error.subject()),
        ErrorKind::NotFound => format!("{} does not exist.", error.subject()),
        ErrorKind::Conflict => format!("{} already exists.", error.subject()),
        ErrorKind::Forbidden => "You may not do this.".into(),
        ErrorKind::OffsetMismatch { expected, given } => format!(
            "The upload stands at byte {expected}, not {given}. Continue from byte {expected}."
        ),
        ErrorKind::LengthMismatch { expected, given } => format!(
            "{expected} bytes were declared, {given} arrived. Nothing was published; send the whole file again."
        ),
        ErrorKind::DigestMismatch => {
            "The file's checksum is not the declared one. Nothing was published; compare the \
             checksum with the file, then send it again."
                .into()
        }
        ErrorKind::TooLarge { limit } => {
            format!("The file is larger than {limit} bytes, the limit of this server.")
        }
        ErrorKind::TooMany { limit } => format!(
            "{limit} uploads are open already, the most at once (uploads.open_per_principal, \
             uploads.open_per_organization). End one first: DELETE of its URL gives it up; GET of \
             .../file/upload lists yours to a box, and `boxgate admin upload list` all of an organization. \
             One that rests ends by itself (uploads.idle_timeout)."
        ),
        ErrorKind::Fenced => "A newer request took this upload over.".into(),
        ErrorKind::Gone => "This is gone for good.".into(),
        ErrorKind::Damaged => {
            "The stored bytes are damaged and are not served. Upload the file again to heal it."
                .into()
        }
        ErrorKind::Full if error.op().starts_with("metadata.") => {
            "The database has no room for this. Nothing was lost; try again when whoever runs it made some.".into()
        }
        ErrorKind::Full => {
            "The store has no room for this. Nothing was lost; try again when there is more.".into()
        }
        ErrorKind::Withheld => HELD.into(),
        ErrorKind::Unavailable if error.op() == GIVES_WAY => {
            "This part came so slowly that its memory went to others who wait. Send it again soon.".into()
        }
        ErrorKind::Unavailable => "A part of the server does not answer. Try again soon.".into(),
        ErrorKind::Internal => "Something broke on our side. It was logged; try again.".into(),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::door::files;

    #[tokio::test]
    async fn the_cause_of_a_defect_is_not_shown() {
        let error = Error::new(ErrorKind::Internal, "row.read", "secret table")
            .with_source(std::io::Error::other("secret cause"));
        let answer = files::refuse(&Refusal::from(error));
        assert_eq!(answer.status(), 500);
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(!String::from_utf8_lossy(&body).contains("secret"));
    }
}
