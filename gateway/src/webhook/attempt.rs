//! One request to an endpoint, and what its answer means.

use std::time::{Duration, UNIX_EPOCH};

use boxgate_storage::clock::UnixMillis;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use tokio::time::Instant;

use super::secret::Signer;
use crate::http::headers::retry_after;
use crate::outbound::{Caller, Destination, Incoming, Outgoing};
use crate::telemetry::trace::{self, Trace};

/// Bytes of an answer that are read: it says nothing that we need.
const READ_BYTES: usize = 16 << 10;
/// Bytes of it that the log may hold.
const LOGGED_BYTES: usize = 1 << 10;
const OURSELVES: HeaderValue =
    HeaderValue::from_static(concat!("boxgate/", env!("CARGO_PKG_VERSION"), " (webhook)"));

static EVENT: HeaderName = HeaderName::from_static("x-boxvault-event");
static ATTEMPT: HeaderName = HeaderName::from_static("x-boxgate-attempt");
static SEQUENCE: HeaderName = HeaderName::from_static("x-boxgate-sequence");

/// What is sent.
#[derive(Debug)]
pub struct Message<'m> {
    /// Id of the message, the same at each attempt.
    pub id: &'m str,
    /// Name of the event.
    pub event: &'m str,
    /// Its number at the endpoint.
    pub sequence: i64,
    /// Which attempt, from 1 on.
    pub number: u32,
    /// More header fields, checked.
    pub headers: HeaderMap,
    /// The body.
    pub body: String,
}

/// How an attempt went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// When it began.
    pub begun: UnixMillis,
    /// How long it took.
    pub took: Duration,
    /// Status of the answer.
    pub status: Option<u16>,
    /// A word: `ok`, or how it failed.
    pub result: &'static str,
    /// How it failed, for people.
    pub error: Option<String>,
    /// How the answer began, where that is kept.
    pub response: Option<String>,
    /// When the receiver asked to be tried again.
    pub wish: Option<Duration>,
}

impl Report {
    /// Whether it was taken.
    pub fn is_taken(&self) -> bool {
        self.error.is_none()
    }

    /// Whether the receiver never wants anything again.
    pub fn is_gone(&self) -> bool {
        self.status == Some(StatusCode::GONE.as_u16())
    }

    /// Whether the receiver has too much to do.
    pub fn is_overloaded(&self) -> bool {
        matches!(self.status, Some(429 | 502 | 504))
    }

    /// One that was never begun.
    pub fn unsent(now: UnixMillis, result: &'static str, error: String) -> Self {
        Self {
            begun: now,
            took: Duration::ZERO,
            status: None,
            result,
            error: Some(error),
            response: None,
            wish: None,
        }
    }

    /// In milliseconds.
    pub fn took_ms(&self) -> i64 {
        i64::try_from(self.took.as_millis()).unwrap_or(i64::MAX)
    }
}

/// Sends a message and reads what comes of it, within `time`.
pub async fn send(
    caller: &Caller,
    (to, signer): (&Destination, &Signer),
    message: Message<'_>,
    (now, time): (UnixMillis, Duration),
    log_bodies: bool,
) -> Report {
    let mut headers = message.headers;
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(USER_AGENT, OURSELVES);
    for (name, value) in [
        (&EVENT, message.event.to_owned()),
        (&ATTEMPT, message.number.to_string()),
        (&SEQUENCE, message.sequence.to_string()),
    ] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
    signer.sign(&mut headers, message.id, now, &message.body);
    let trace = Trace::taken(&mut headers);
    let request = Outgoing {
        method: Method::POST,
        to: to.clone(),
        headers,
        body: message.body.into(),
        time,
        most: READ_BYTES,
        cut: true,
    };
    let began = Instant::now();
    let answer = trace::within(trace.as_deref(), caller.send(request)).await;
    let took = began.elapsed();
    let mut report = Report {
        begun: now,
        took,
        status: None,
        result: "ok",
        error: None,
        response: None,
        wish: None,
    };
    match answer {
        Ok(answer) => judge(&mut report, &answer, log_bodies, now),
        Err(fault) => {
            report.result = fault.kind.name();
            report.error = Some(fault.to_string());
        }
    }
    report
}

fn judge(report: &mut Report, answer: &Incoming, log_bodies: bool, now: UnixMillis) {
    let status = answer.status;
    report.status = Some(status.as_u16());
    if log_bodies && answer.public {
        report.response = begins(answer);
    }
    if status.is_success() {
        return;
    }
    report.result = if status.is_redirection() {
        "redirect"
    } else {
        "status"
    };
    report.error = Some(if status.is_redirection() {
        format!(
            "it answered {}: redirects are not followed",
            status.as_u16()
        )
    } else {
        format!("it answered {}", status.as_u16())
    });
    if matches!(status.as_u16(), 429 | 503) {
        let now = UNIX_EPOCH + Duration::from_millis(u64::try_from(now.0).unwrap_or(0));
        report.wish = retry_after(&answer.headers, now);
    }
}

/// How an answer of text or JSON begins.
fn begins(answer: &Incoming) -> Option<String> {
    let kind = answer.headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let kind = kind
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let readable =
        kind.starts_with("text/") || kind == "application/json" || kind.ends_with("+json");
    let bytes = &answer.body[..answer.body.len().min(LOGGED_BYTES)];
    // PostgreSQL takes no NUL.
    readable.then(|| String::from_utf8_lossy(bytes).replace('\0', "\u{fffd}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

    fn answered(status: u16, fields: &[(&str, &str)], body: &str) -> Report {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.insert(
                HeaderName::try_from(*name).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        let answer = Incoming {
            status: StatusCode::from_u16(status).unwrap(),
            headers,
            body: body.to_owned().into(),
            public: true,
        };
        let mut report = Report::unsent(NOW, "ok", String::new());
        report.error = None;
        judge(&mut report, &answer, true, NOW);
        report
    }

    #[test]
    fn only_a_success_is_one() {
        for status in [200, 201, 204, 299] {
            assert!(answered(status, &[], "").is_taken(), "{status}");
        }
        for (status, result) in [
            (302, "redirect"),
            (400, "status"),
            (410, "status"),
            (500, "status"),
        ] {
            let report = answered(status, &[("location", "http://169.254.169.254/")], "");
            assert_eq!(
                (report.is_taken(), report.result),
                (false, result),
                "{status}"
            );
        }
        assert!(answered(410, &[], "").is_gone() && answered(502, &[], "").is_overloaded());
    }

    #[test]
    fn the_wish_of_a_busy_receiver_is_read_in_both_forms() {
        let wish = |status, text| answered(status, &[("retry-after", text)], "").wish;
        assert_eq!(wish(429, "120"), Some(Duration::from_mins(2)));
        assert_eq!(
            wish(503, "Tue, 14 Nov 2023 22:14:20 GMT"),
            Some(Duration::from_mins(1))
        );
        assert_eq!(
            wish(503, "Tue, 14 Nov 2000 22:14:20 GMT"),
            Some(Duration::ZERO)
        );
        assert_eq!(wish(500, "120"), None);
        assert_eq!(wish(429, "soon"), None);
    }

    #[test]
    fn of_an_answer_only_the_beginning_of_text_is_kept() {
        let kept = |kind: &str, body: &str| answered(500, &[("content-type", kind)], body).response;
        assert_eq!(
            kept("text/plain; charset=utf-8", "why\0not").as_deref(),
            Some("why\u{fffd}not")
        );
        assert_eq!(
            kept("application/problem+json", "{}").as_deref(),
            Some("{}")
        );
        assert_eq!(kept("application/octet-stream", "x"), None);
        assert_eq!(
            kept("text/html", &"x".repeat(5_000)).map(|t| t.len()),
            Some(1024)
        );
    }
}
