//! What kind of answer a client prefers (RFC 9110 §12.5.1), as far as we have several.

use http::{HeaderMap, HeaderValue, header};

/// What a client would rather have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preference {
    /// A page.
    Html,
    /// JSON.
    Json,
    /// It does not say, or takes both alike.
    Anything,
}

/// Reads `Accept`; no header means anything.
pub fn preference(headers: &HeaderMap) -> Preference {
    let mut lines = headers.get_all(header::ACCEPT).iter();
    // What most clients that are no browsers say.
    match (lines.next().map(HeaderValue::as_bytes), lines.next()) {
        (None | Some(b"*/*"), None) => return Preference::Anything,
        (Some(b"application/json"), None) => return Preference::Json,
        _ => {}
    }
    let html = quality(headers, "text", "html");
    let json = quality(headers, "application", "json");
    match (html, json) {
        (Some(html), Some(json)) if html > json => Preference::Html,
        (Some(html), Some(json)) if html < json => Preference::Json,
        _ => Preference::Anything,
    }
}

/// Whether a client takes `kind/subkind` at all.
pub fn accepts(headers: &HeaderMap, kind: &str, subkind: &str) -> bool {
    quality(headers, kind, subkind).is_none_or(|quality| quality > 0)
}

/// The weight of a type in thousandths; `None` without a header. The most specific range counts.
fn quality(headers: &HeaderMap, kind: &str, subkind: &str) -> Option<u16> {
    let mut best: Option<(u8, u16)> = None;
    let mut said = false;
    for line in headers.get_all(header::ACCEPT) {
        for range in line.to_str().unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let Some((k, s)) = parts.next().and_then(|name| name.split_once('/')) else {
                continue;
            };
            said = true;
            let specific = match (k, s) {
                ("*", "*") => 0,
                (k, "*") if k.eq_ignore_ascii_case(kind) => 1,
                (k, s) if k.eq_ignore_ascii_case(kind) && s.eq_ignore_ascii_case(subkind) => 2,
                // Vagrant and API clients ask for `application/vnd.x+json`.
                (k, s) if k.eq_ignore_ascii_case(kind) && has_suffix(s, subkind) => 2,
                _ => continue,
            };
            let weight = parts
                .filter_map(|parameter| parameter.split_once('='))
                .find(|(name, _)| name.trim().eq_ignore_ascii_case("q"))
                .map_or(1000, |(_, value)| thousandths(value.trim()));
            if best.is_none_or(|(found, _)| specific > found) {
                best = Some((specific, weight));
            }
        }
    }
    said.then(|| best.map_or(0, |(_, weight)| weight))
}

fn has_suffix(subkind: &str, suffix: &str) -> bool {
    subkind
        .rsplit_once('+')
        .is_some_and(|(_, found)| found.eq_ignore_ascii_case(suffix))
}

/// RFC 9110 §12.4.2: `0` to `1` with at most three digits; what is none of these weighs nothing.
fn thousandths(text: &str) -> u16 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = fraction.len() <= 3 && fraction.bytes().all(|b| b.is_ascii_digit());
    match (whole, digits) {
        ("1", true) => 1000,
        ("0", true) => format!("{fraction:0<3}").parse().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preferred(lines: &[&str]) -> Preference {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::ACCEPT, line.parse().unwrap());
        }
        preference(&headers)
    }

    #[test]
    fn the_heavier_type_wins() {
        use Preference::{Anything, Html, Json};
        let firefox = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        let table: [(&[&str], Preference); 13] = [
            (&[], Anything),
            (&["*/*"], Anything),
            (&[firefox], Html),
            (&["application/json"], Json),
            (&["application/json, */*"], Anything),
            (&["application/json, */*;q=0.5"], Json),
            (&["text/html;q=0.5, application/json;q=0.75"], Json),
            (&["text/html", "application/json;q=0.9"], Html),
            (&["text/*"], Html),
            (&["application/vnd.api+json"], Json),
            (&["text/html;q=0, */*"], Json),
            (&["TEXT/HTML; Q=1.000, application/json;q=0.999"], Html),
            (&["image/png"], Anything),
        ];
        for (lines, want) in table {
            assert_eq!(preferred(lines), want, "{lines:?}");
        }
    }

    #[test]
    fn a_weight_of_nought_is_a_refusal() {
        let mut headers = HeaderMap::new();
        assert!(accepts(&headers, "text", "html"));
        headers.insert(header::ACCEPT, "text/html;q=0, */*;q=0.1".parse().unwrap());
        assert!(!accepts(&headers, "text", "html"));
        assert!(accepts(&headers, "application", "json"));
    }
}
