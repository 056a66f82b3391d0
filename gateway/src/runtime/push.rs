//! An image on its way to another runtime.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, DATE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::Value;

use super::Current;
use crate::config::settings::Secret;
use crate::gateway::Gateway;
use crate::outbound::{Caller, Destination, OutgoingStream};

/// How long connecting may take.
pub const CONNECT_TIME: Duration = Duration::from_secs(10);
/// How long nothing may move, either way.
const IDLE_TIME: Duration = Duration::from_mins(1);
/// How many gateways an image came through by pushes.
const HOPS: HeaderName = HeaderName::from_static("boxgate-hops");
/// An image that came through so many is pushed no further.
pub const MOST_HOPS: u32 = 4;
/// So much of a refusal's text is told on.
const TOLD_CHARACTERS: usize = 200;

/// Another runtime, and its key.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where its image is.
    pub to: Destination,
    /// Its key.
    pub key: Secret,
}

impl Target {
    /// Reads the URL of a runtime, with or without the path of its image.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(url: &str, key: Secret) -> Result<Self, String> {
        let url = url.trim().trim_end_matches('/');
        let mut last = url.rsplit('/');
        let names_image = last.next() == Some("image")
            && (last.next() == Some("runtime") || last.next() == Some("runtimes"));
        let url = if names_image {
            url.to_owned()
        } else {
            format!("{url}/runtime/image")
        };
        if HeaderValue::try_from(key.expose()).is_err() || key.expose().is_empty() {
            return Err("the key of the target must be text of one line".to_owned());
        }
        let to = Destination::parse(&url).map_err(|e| format!("the URL of the target: {e}"))?;
        Ok(Self { to, key })
    }

    /// Reads `{"targetUrl": .., "targetAPIKey": ..}` as the vendor's page has it: with a comma too many, in any case.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of_document(text: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(text).map_err(|_e| "the body is no UTF-8".to_owned())?;
        let document = document(text).map_err(|e| format!("the body is no JSON: {e}"))?;
        let members = document.as_object().ok_or("the body is no JSON object")?;
        let member = |name: &str| {
            let found = members.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
            let text = found.and_then(|(_, value)| value.as_str());
            text.ok_or_else(|| format!("{name} is missing, or is no text"))
        };
        Self::parse(member("targetUrl")?, Secret::new(member("targetAPIKey")?))
    }
}

/// Most objects and lists in a document: the reader's stack grows with each that it is in.
const NESTED: usize = 256;

/// Reads what the vendor's programs and pages call JSON.
///
/// # Errors
/// What is wrong with it.
pub fn document(text: &str) -> Result<Value, String> {
    if text.bytes().filter(|b| matches!(b, b'[' | b'{')).count() > NESTED {
        return Err(format!("more than {NESTED} objects and lists"));
    }
    json5::from_str(text).map_err(|e| e.to_string())
}

/// Through how many gateways an image came by pushes; 0 where somebody deploys it.
pub fn hops(headers: &HeaderMap) -> u32 {
    let value = headers.get(HOPS).and_then(|value| value.to_str().ok());
    value.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Sends an image that came through so many gateways; it is there, staged, when this returns.
///
/// # Errors
/// What went wrong, without the key.
pub async fn push(
    caller: &Caller,
    target: &Target,
    image: Current,
    hops: u32,
    gateway: &Gateway,
) -> Result<(), String> {
    let bearer = format!("Bearer {}", target.key.expose());
    let mut bearer = HeaderValue::try_from(bearer).map_err(|e| e.to_string())?;
    bearer.set_sensitive(true);
    let now = gateway.clock.now();
    let date = std::time::UNIX_EPOCH + Duration::from_millis(now.0.unsigned_abs());
    let date = HeaderValue::try_from(httpdate::fmt_http_date(date)).map_err(|e| e.to_string())?;
    let headers = HeaderMap::from_iter([
        (AUTHORIZATION, bearer),
        (DATE, date),
        (HOPS, hops.saturating_add(1).into()),
        (
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        ),
    ]);
    let length = image.length();
    let body = image.read(gateway).await;
    let body = body.map_err(|e| format!("the image cannot be read: {e}"))?;
    let sent = caller
        .post_stream(OutgoingStream {
            to: target.to.clone(),
            headers,
            length,
            body,
            idle: IDLE_TIME,
        })
        .await;
    let (status, body) = sent.map_err(|fault| fault.to_string())?;
    if status == StatusCode::ACCEPTED {
        return Ok(());
    }
    Err(format!(
        "target answered {}: {}",
        status.as_u16(),
        told(&body, &target.key)
    ))
}

/// The beginning of what a target said, without anything that it should not say.
fn told(body: &Bytes, key: &Secret) -> String {
    let text = String::from_utf8_lossy(body).replace(key.expose(), "***");
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(TOLD_CHARACTERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_body_is_read_comma_and_all() {
        let text = br#"{
            "targetUrl": "https://192.168.1.3",
            "targetAPIKey": "TARGET RUNTIME API KEY HERE",
        }"#;
        let target = Target::of_document(text).unwrap();
        assert_eq!(
            target.to.url().as_str(),
            "https://192.168.1.3/runtime/image"
        );
        assert_eq!(target.key.expose(), "TARGET RUNTIME API KEY HERE");
        let other = br#"{"TARGETURL": "http://a.example:8080/runtime/image/", "targetapikey": "k", "x": 1}"#;
        let target = Target::of_document(other).unwrap();
        assert_eq!(
            target.to.url().as_str(),
            "http://a.example:8080/runtime/image"
        );
        let named =
            Target::parse("https://a.example/runtimes/two/image", Secret::new("k")).unwrap();
        assert_eq!(
            named.to.url().as_str(),
            "https://a.example/runtimes/two/image"
        );
    }

    #[test]
    fn an_image_that_nobody_pushed_came_through_no_gateway() {
        let of = |value: &'static str| {
            hops(&HeaderMap::from_iter([(
                HOPS,
                HeaderValue::from_static(value),
            )]))
        };
        assert_eq!(hops(&HeaderMap::new()), 0);
        assert_eq!((of("1"), of("4"), of("x"), of("-1")), (1, 4, 0, 0));
    }

    #[test]
    fn what_cannot_be_meant_is_said() {
        for (text, said) in [
            ("", "no JSON"),
            ("[]", "no JSON object"),
            (&"[".repeat(100_000), "objects and lists"),
            (r#"{"targetUrl": "https://a.example"}"#, "targetAPIKey"),
            (r#"{"targetUrl": 1, "targetAPIKey": "k"}"#, "targetUrl"),
            (
                r#"{"targetUrl": "ftp://a.example", "targetAPIKey": "k"}"#,
                "scheme",
            ),
            (
                r#"{"targetUrl": "https://u:p@a.example", "targetAPIKey": "k"}"#,
                "user",
            ),
            (
                r#"{"targetUrl": "https://a.example", "targetAPIKey": ""}"#,
                "key",
            ),
            (
                r#"{"targetUrl": "https://a.example", "targetAPIKey": "a\nb"}"#,
                "key",
            ),
        ] {
            let error = Target::of_document(text.as_bytes()).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
