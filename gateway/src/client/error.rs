//! Why a call to a gateway did not do what it should, in one line for people, and whether to try again.

use std::error::Error;
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use serde_json::Value;

/// Longest text of a server that is repeated, in characters.
const LONGEST_TEXT: usize = 500;

/// What went wrong with a call.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// Nothing could be sent: a credential or TLS is not right here.
    #[error("{0}")]
    Setup(String),
    /// No answer, or only a piece of one.
    #[error("cannot reach {url}: {why}")]
    Unreachable {
        /// The gateway.
        url: String,
        /// The innermost cause.
        why: String,
    },
    /// An answer that no gateway gives.
    #[error("{url} does not answer as boxgate does: {what}")]
    Odd {
        /// The gateway.
        url: String,
        /// What is odd about it.
        what: String,
    },
    /// The gateway says no.
    #[error("{0}")]
    Refused(Box<Refused>),
}

/// A gateway's no.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{url} answers {status}: {message}{hint}")]
pub struct Refused {
    /// The gateway.
    pub url: String,
    /// Its status.
    pub status: u16,
    /// Its word for programs.
    pub code: Option<String>,
    /// Its text for people.
    pub message: String,
    /// When to ask again.
    pub retry_after: Option<Duration>,
    hint: &'static str,
}

impl ClientError {
    pub(super) fn odd(url: &str, what: &str) -> Self {
        Self::Odd {
            url: url.to_owned(),
            what: printable(what),
        }
    }

    /// As the beginning of a sentence: a gateway's text ends with a full stop of its own.
    pub fn clause(&self) -> String {
        self.to_string().trim_end_matches('.').to_owned()
    }

    /// The status of a refusal.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused(refused) => Some(refused.status),
            _ => None,
        }
    }

    /// The code of a refusal.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused(refused) => refused.code.as_deref(),
            _ => None,
        }
    }

    /// When to ask again, as the gateway has it.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refused) => refused.retry_after,
            _ => None,
        }
    }

    /// Whether the same call may go well later, with nothing changed by anybody here.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            // Damaged bytes stay so until somebody sends them again.
            Self::Refused(_) if self.code().is_some_and(is_of_damage) => false,
            Self::Refused(refused) => matches!(refused.status, 408 | 425 | 429 | 500 | 502..=504),
            Self::Setup(_) | Self::Odd { .. } => false,
        }
    }

    /// Whether trying again soon is what a person or a job should do: also when there is no room.
    pub fn is_temporary(&self) -> bool {
        self.may_pass() || self.status() == Some(507)
    }
}

impl Refused {
    /// From an answer with any other status than 2xx.
    pub(super) fn read(url: &str, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let document: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |name: &str| document.get(name).and_then(Value::as_str);
        // A problem document (RFC 9457), or BoxVault's shape.
        let message = text("detail").or_else(|| text("message"));
        // Or Vagrant Cloud's.
        let message = message.or_else(|| document.pointer("/errors/0").and_then(Value::as_str));
        let message = message.or_else(|| status.canonical_reason());
        let code = text("code").or_else(|| text("error"));
        let seconds = headers
            .get(RETRY_AFTER)
            .and_then(|v| v.to_str().ok()?.parse().ok());
        Self {
            url: url.to_owned(),
            status: status.as_u16(),
            code: code.map(str::to_owned),
            message: printable(message.unwrap_or("no reason is given.")),
            retry_after: seconds.map(Duration::from_secs),
            hint: match status.as_u16() {
                401 => " Check the token or key: it is unknown, expired or revoked.",
                403 => " The caller may not do this; use another token or key.",
                _ => "",
            },
        }
    }
}

fn is_of_damage(code: &str) -> bool {
    code.eq_ignore_ascii_case("BLOB_DAMAGED")
}

/// The innermost cause: the outer ones say no more than that something failed.
pub(super) fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    printable(&cause.to_string())
}

/// A text from outside on one line, without what would steer a terminal.
pub(crate) fn printable(text: &str) -> String {
    let text = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    text.take(LONGEST_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, retry_after: Option<&'static str>, body: &str) -> ClientError {
        let mut headers = HeaderMap::new();
        if let Some(value) = retry_after {
            headers.insert(RETRY_AFTER, http::HeaderValue::from_static(value));
        }
        let status = StatusCode::from_u16(status).unwrap();
        let refused = Refused::read("http://h", status, &headers, body.as_bytes());
        ClientError::Refused(Box::new(refused))
    }

    #[test]
    fn all_shapes_of_refusals_are_read_and_neither_steers_the_terminal() {
        let problem = refused(
            507,
            Some("30"),
            r#"{"detail":"Full.","code":"STORAGE_FULL"}"#,
        );
        assert_eq!(problem.to_string(), "http://h answers 507: Full.");
        assert_eq!(problem.clause(), "http://h answers 507: Full");
        assert_eq!(problem.code(), Some("STORAGE_FULL"));
        assert_eq!(problem.retry_after(), Some(Duration::from_secs(30)));
        let vault = refused(
            404,
            None,
            r#"{"error":"NOT_FOUND","message":"No\nsuch\u001b[2J."}"#,
        );
        assert_eq!(vault.to_string(), "http://h answers 404: No such [2J.");
        assert_eq!(vault.code(), Some("NOT_FOUND"));
        let cloud = refused(404, None, r#"{"errors":["No box."],"success":false}"#);
        assert_eq!(cloud.to_string(), "http://h answers 404: No box.");
        let bare = refused(502, Some("Sun, 06 Nov 1994 08:49:37 GMT"), "<html>");
        assert_eq!(bare.to_string(), "http://h answers 502: Bad Gateway");
        assert_eq!(bare.retry_after(), None);
        let token = refused(401, None, r#"{"message":"Unauthorized!"}"#).to_string();
        assert!(token.ends_with("expired or revoked."), "{token}");
    }

    #[test]
    fn what_may_pass_is_tried_again_and_the_rest_is_not() {
        for (status, may_pass, temporary) in [
            (400, false, false),
            (401, false, false),
            (404, false, false),
            (408, true, true),
            (409, false, false),
            (413, false, false),
            (429, true, true),
            (500, true, true),
            (501, false, false),
            (503, true, true),
            (507, false, true),
        ] {
            let error = refused(status, None, "");
            assert_eq!(error.may_pass(), may_pass, "{status}");
            assert_eq!(error.is_temporary(), temporary, "{status}");
        }
        let damaged = refused(503, Some("300"), r#"{"code":"BLOB_DAMAGED"}"#);
        assert!(!damaged.may_pass() && !damaged.is_temporary());
    }
}
