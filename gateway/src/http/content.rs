//! What a request's body is: its media type with parameters, and its place in a larger whole.

use boxgate_storage::range::ByteRange;

/// A media type (RFC 9110 §8.3.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaType {
    essence: String,
    parameters: Vec<(String, String)>,
}

impl MediaType {
    /// From a `Content-Type` value; `None` when it is malformed.
    pub fn parse(text: &str) -> Option<Self> {
        let (essence, mut rest) = text.split_once(';').unwrap_or((text, ""));
        let essence = essence.trim().to_ascii_lowercase();
        let (kind, subtype) = essence.split_once('/')?;
        if kind.is_empty() || subtype.is_empty() {
            return None;
        }
        let mut parameters = Vec::new();
        while !rest.trim().is_empty() {
            let (name, value) = rest.split_once('=')?;
            let (value, after) = parameter_value(value.trim_start())?;
            parameters.push((name.trim().to_ascii_lowercase(), value));
            rest = after.trim_start();
            rest = rest.strip_prefix(';').unwrap_or(rest);
        }
        Some(Self { essence, parameters })
    }

    /// Whether it is this type, given in lower case.
    pub fn is(&self, essence: &str) -> bool {
        self.essence == essence
    }

    /// The value of a parameter, unquoted.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

// RFC 9110 §5.6.4: a token, or a quoted string with backslash escapes.
fn parameter_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(';').unwrap_or(text.len());
        return Some((text[..end].trim_end().to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

/// A `Content-Range` of bytes (RFC 9110 §14.4), as requests use it too (§14.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentRange {
    /// The bytes that the body holds.
    pub range: ByteRange,
    /// Length of the whole, unless it is `*`.
    pub complete_length: Option<u64>,
}

impl ContentRange {
    /// From a header's value; `None` unless it is `bytes first-last/length` with first ≤ last < length.
    pub fn parse(text: &str) -> Option<Self> {
        let (unit, rest) = text.trim().split_once(' ')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (range, complete) = rest.trim().split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let end = number(last)?.checked_add(1)?;
        let range = ByteRange::try_new(number(first)?, end).filter(|r| !r.is_empty())?;
        let complete_length = if complete == "*" { None } else { Some(number(complete)?) };
        if complete_length.is_some_and(|length| range.end() > length) {
            return None;
        }
        Some(Self { range, complete_length })
    }
}

fn number(text: &str) -> Option<u64> {
    // `parse` alone would take "+3".
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_may_be_quoted_escaped_and_many() {
        let media = MediaType::parse("Multipart/Form-Data; charset=utf-8 ; boundary=\"a;\\\"b\"").unwrap();
        assert!(media.is("multipart/form-data"));
        assert_eq!(media.parameter("boundary"), Some("a;\"b"));
        assert_eq!(media.parameter("charset"), Some("utf-8"));
        assert_eq!(media.parameter("other"), None);
        for bad in ["", "text", "/", "a/b; x", "a/b; x=\"open"] {
            assert_eq!(MediaType::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn content_ranges_are_checked_against_their_whole() {
        let range = ContentRange::parse("bytes 5-9/10").unwrap();
        assert_eq!((range.range.start(), range.range.end(), range.complete_length), (5, 10, Some(10)));
        assert_eq!(ContentRange::parse("bytes 0-0/*").unwrap().complete_length, None);
        for bad in [
            "bytes 5-4/10", "bytes 5-10/10", "bytes */10", "items 0-1/2", "bytes 0-1",
            "bytes +0-1/2", "bytes 0-18446744073709551615/*", "",
        ] {
            assert_eq!(ContentRange::parse(bad), None, "{bad}");
        }
    }
}
