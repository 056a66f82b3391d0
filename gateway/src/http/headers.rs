//! Typed reading of the headers that more than one door needs.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Bytes of an upload that are there, in answers that name its offset.
pub const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");

/// How long `Retry-After` asks to be waited for (RFC 9110 §10.2.3): seconds, or until a date.
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    const LONGEST: u64 = 1 << 32;
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds.min(LONGEST)));
    }
    let at = httpdate::parse_http_date(text).ok()?;
    Some(at.duration_since(now).unwrap_or_default())
}

/// A media type with its parameters (RFC 9110 §8.3.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaType {
    essence: String,
    parameters: Vec<(String, String)>,
}

impl MediaType {
    /// Reads a `Content-Type` value; `None` when it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = Parameters(text);
        let essence = parts.first()?.to_ascii_lowercase();
        let (kind, subkind) = essence.split_once('/')?;
        if !is_token(kind) || !is_token(subkind) {
            return None;
        }
        let parameters = parts.collect();
        Some(Self {
            essence,
            parameters,
        })
    }

    /// The `Content-Type` of a request or part; `None` when absent or malformed.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        Self::parse(headers.get(header::CONTENT_TYPE)?.to_str().ok()?)
    }

    /// `type/subtype` in lower case.
    pub fn essence(&self) -> &str {
        &self.essence
    }

    /// A parameter by its lower-case name; the first one counts.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        parameter(&self.parameters, name)
    }
}

/// The first of `parameters` with the lower-case `name`.
pub(crate) fn parameter<'a>(parameters: &'a [(String, String)], name: &str) -> Option<&'a str> {
    parameters
        .iter()
        .find(|(found, _)| found == name)
        .map(|(_, value)| value.as_str())
}

/// Iterates over `; name=value` with values as tokens or quoted strings (RFC 9110 §5.6.6).
/// Names come in lower case. What cannot be read ends the iteration.
pub(crate) struct Parameters<'a>(pub(crate) &'a str);

impl<'a> Parameters<'a> {
    /// What stands before the first `;`.
    pub(crate) fn first(&mut self) -> Option<&'a str> {
        let end = self.0.find(';').unwrap_or(self.0.len());
        let (first, rest) = self.0.split_at(end);
        self.0 = rest;
        let first = first.trim();
        (!first.is_empty()).then_some(first)
    }
}

impl Iterator for Parameters<'_> {
    type Item = (String, String);

    fn next(&mut self) -> Option<(String, String)> {
        self.0 = self.0.trim_start_matches([';', ' ', '\t']);
        let (name, rest) = self.0.split_once('=')?;
        let name = name.trim().to_ascii_lowercase();
        let rest = rest.trim_start_matches([' ', '\t']);
        let Some(quoted) = rest.strip_prefix('"') else {
            let end = rest.find(';').unwrap_or(rest.len());
            self.0 = &rest[end..];
            return Some((name, rest[..end].trim().to_owned()));
        };
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.0 = &quoted[at + 1..];
                    return Some((name, value));
                }
                // RFC 9110 §5.6.4: only these two need a backslash; browsers send others bare, so a
                // backslash before anything else is itself (a Windows path in `filename`).
                '\\' if quoted[at + 1..].starts_with(['"', '\\']) => {
                    value.extend(chars.next().map(|(_, escaped)| escaped));
                }
                c => value.push(c),
            }
        }
        self.0 = "";
        None
    }
}

/// RFC 9110 §5.6.2.
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// The one value of a header as text: `Ok(None)` when absent.
///
/// # Errors
/// The header stands more than once or holds what is no visible ASCII.
pub fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, String> {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(None),
        (Some(line), None) => line
            .to_str()
            .map(|text| Some(text.trim()))
            .map_err(|_binary| format!("the header {name} must be ASCII text")),
        (Some(_), Some(_)) => Err(format!("the header {name} must stand once")),
    }
}

/// `Content-Length`, where the request has one; hyper has checked it.
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// A strong entity tag from its opaque text, which is ASCII without quotes (a digest in hex).
pub fn strong_etag(opaque: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("\"{opaque}\"")).ok()
}

/// `Content-Disposition` that makes a browser save under `name` (RFC 6266 §4, appendix D).
pub fn attachment(name: &str) -> HeaderValue {
    let plain: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_graphic() && !matches!(c, '"' | '\\') || c == ' ' {
                c
            } else {
                '_'
            }
        })
        .collect();
    let text = if plain == name {
        format!("attachment; filename=\"{plain}\"")
    } else {
        // RFC 8187 §3.2.1: everything but attr-char is encoded.
        let encoded =
            percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
        format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}")
    };
    // All characters outside visible ASCII were replaced, so the second form is never used.
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("attachment"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_are_read_with_their_parameters() {
        let form =
            MediaType::parse("Multipart/Form-Data; Boundary=\"===a;b\\\"c==\" ; x=y").unwrap();
        assert_eq!(form.essence(), "multipart/form-data");
        assert_eq!(form.parameter("boundary"), Some("===a;b\"c=="));
        assert_eq!(form.parameter("x"), Some("y"));
        let bare = MediaType::parse("application/json").unwrap();
        assert_eq!(bare.essence(), "application/json");
        assert_eq!(bare.parameter("charset"), None);
        for wrong in ["", "json", "a b/c", "/x", "; boundary=x"] {
            assert_eq!(MediaType::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_unclosed_quote_gives_no_parameter() {
        let form = MediaType::parse("multipart/form-data; boundary=\"abc").unwrap();
        assert_eq!(form.parameter("boundary"), None);
    }

    #[test]
    fn a_header_that_stands_twice_is_an_error() {
        let name = HeaderName::from_static("x-checksum");
        let mut headers = HeaderMap::new();
        assert_eq!(single(&headers, &name), Ok(None));
        headers.append(&name, " abc ".parse().unwrap());
        assert_eq!(single(&headers, &name), Ok(Some("abc")));
        headers.append(&name, "def".parse().unwrap());
        assert!(single(&headers, &name).is_err());
    }

    #[test]
    fn names_for_saving_are_quoted_or_encoded() {
        assert_eq!(
            attachment("vagrant.box"),
            "attachment; filename=\"vagrant.box\""
        );
        assert_eq!(
            attachment("ä\"\n"),
            "attachment; filename=\"___\"; filename*=UTF-8''%C3%A4%22%0A"
        );
    }
}
