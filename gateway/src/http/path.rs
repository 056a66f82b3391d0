//! Request paths: one spelling each, before any route is looked for.

use std::fmt;

/// A path without empty segments, decoded: `/a/b`, or `/` alone. It ends in no slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NormalPath {
    text: String,
    trailing_slash: bool,
}

/// A slash within a name.
pub const SLASH: &str = "%2F";

/// The rule that a path breaks; its `Display` is for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not begin with a slash.
    #[error("a path must begin with \"/\"")]
    NotAbsolute,
    /// A segment is `..`, however written.
    #[error("a path must not contain \"..\"")]
    DotDot,
    /// A slash is hidden in a segment.
    #[error("a path must not contain \"%2f\"")]
    EncodedSlash,
    /// A backslash, which some readers take for a slash.
    #[error("a path must not contain \"\\\" or \"%5c\"")]
    Backslash,
    /// A zero byte.
    #[error("a path must not contain \"%00\"")]
    Nul,
    /// A percent sign without two hexadecimal digits.
    #[error("a path must not contain \"%\" without two hexadecimal digits after it")]
    BadEscape,
    /// The decoded bytes are no text.
    #[error("a path must be valid UTF-8")]
    NotUtf8,
}

impl NormalPath {
    /// Reads the path of a request target (RFC 3986 §3.3), without its query.
    ///
    /// Runs of slashes are one slash: clients that join URLs by hand write them.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn parse(raw: &str) -> Result<Self, PathError> {
        Self::read(raw, false)
    }

    /// The same where names may hold a slash: a hidden one is written `%2F` in what comes of it.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn parse_with_slashes(raw: &str) -> Result<Self, PathError> {
        Self::read(raw, true)
    }

    fn read(raw: &str, with_slashes: bool) -> Result<Self, PathError> {
        Self::as_written(raw).map_or_else(|| Self::decoded(raw, with_slashes), Ok)
    }

    /// A path that is its one spelling already, as most are; `None` where that takes a closer look.
    fn as_written(raw: &str) -> Option<Self> {
        let text = raw.strip_suffix('/').unwrap_or(raw);
        is_plain(text.as_bytes()).then(|| Self {
            text: text.to_owned(),
            trailing_slash: text.len() < raw.len(),
        })
    }

    fn decoded(raw: &str, with_slashes: bool) -> Result<Self, PathError> {
        if !raw.starts_with('/') {
            return Err(PathError::NotAbsolute);
        }
        let mut text = String::with_capacity(raw.len());
        for segment in raw.split('/').filter(|segment| !segment.is_empty()) {
            let segment = decode(segment, with_slashes)?;
            if segment.split(SLASH).any(|part| part == "..") {
                return Err(PathError::DotDot);
            }
            text.push('/');
            text.push_str(&segment);
        }
        let trailing_slash = raw.ends_with('/') && !text.is_empty();
        if text.is_empty() {
            text.push('/');
        }
        Ok(Self {
            text,
            trailing_slash,
        })
    }

    /// The decoded path; since no segment holds a slash, it splits again into the same segments.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The decoded segments; none for `/`.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.text.split('/').filter(|segment| !segment.is_empty())
    }

    /// Whether the path was written with a slash at its end (`/` alone does not count).
    pub fn has_trailing_slash(&self) -> bool {
        self.trailing_slash
    }
}

impl fmt::Display for NormalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whether a path has unreserved characters of ASCII alone (RFC 3986 §2.3), no empty segment and none that may be `..`.
fn is_plain(path: &[u8]) -> bool {
    let mut before = [0, 0];
    for byte in path {
        let fits = match byte {
            b'/' => before[1] != b'/',
            b'.' => before != [b'/', b'.'],
            b'-' | b'_' | b'~' => true,
            byte => byte.is_ascii_alphanumeric(),
        };
        if !fits {
            return false;
        }
        before = [before[1], *byte];
    }
    path.first() == Some(&b'/') && before[1] != b'/'
}

/// RFC 3986 §2.1.
fn decode(segment: &str, with_slashes: bool) -> Result<String, PathError> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let (byte, encoded) = if *first == b'%' {
            let digits = after.get(..2).ok_or(PathError::BadEscape)?;
            let mut byte = [0];
            hex::decode_to_slice(digits, &mut byte).map_err(|_no_hex| PathError::BadEscape)?;
            rest = &after[2..];
            (byte[0], true)
        } else {
            (*first, false)
        };
        match byte {
            b'/' if encoded && with_slashes => bytes.extend_from_slice(SLASH.as_bytes()),
            b'/' if encoded => return Err(PathError::EncodedSlash),
            b'\\' => return Err(PathError::Backslash),
            0 => return Err(PathError::Nul),
            _ => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).map_err(|_bytes| PathError::NotUtf8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_become_their_one_spelling_or_name_the_rule() {
        let table = [
            ("/", Ok("/")),
            ("//", Ok("/")),
            ("/a/b", Ok("/a/b")),
            ("//a///b//", Ok("/a/b")),
            ("/a%20b/%c3%a4", Ok("/a b/ä")),
            ("/a%2Db", Ok("/a-b")),
            ("/a..b/...", Ok("/a..b/...")),
            ("/a%25b", Ok("/a%b")),
            ("/a/../b", Err(PathError::DotDot)),
            ("/a/%2e%2E/b", Err(PathError::DotDot)),
            ("/..", Err(PathError::DotDot)),
            ("/a%2fb", Err(PathError::EncodedSlash)),
            ("/a%2Fb", Err(PathError::EncodedSlash)),
            ("/a%5cb", Err(PathError::Backslash)),
            ("/a\\b", Err(PathError::Backslash)),
            ("/a%00", Err(PathError::Nul)),
            ("/a%", Err(PathError::BadEscape)),
            ("/a%4", Err(PathError::BadEscape)),
            ("/a%zz", Err(PathError::BadEscape)),
            ("/%ff", Err(PathError::NotUtf8)),
            ("/%c3", Err(PathError::NotUtf8)),
            ("", Err(PathError::NotAbsolute)),
            ("*", Err(PathError::NotAbsolute)),
        ];
        for (raw, want) in table {
            let got = NormalPath::parse(raw);
            assert_eq!(
                got.as_ref().map(NormalPath::as_str).map_err(|e| *e),
                want,
                "{raw}"
            );
        }
        assert!(NormalPath::parse("/a/").unwrap().has_trailing_slash());
        assert!(!NormalPath::parse("/").unwrap().has_trailing_slash());
    }

    #[test]
    fn only_what_needs_no_closer_look_is_taken_as_it_is_written() {
        for raw in ["/a", "/a/b/", "/org/box-1_2/1.0.0/x~y", "/a/./.b", "/a..b"] {
            assert!(NormalPath::as_written(raw).is_some(), "{raw}");
        }
        for raw in [
            "", "/", "//", "a", "//a", "/a//b", "/a//", "/..", "/a/../b", "/a/...", "/a%20",
            "/a%2fb", "/a\\b", "/a\0", "/ä", "/a b", "/a+b", "/a:b",
        ] {
            assert_eq!(NormalPath::as_written(raw), None, "{raw}");
        }
    }

    #[test]
    fn a_slash_within_a_name_stays_within_it_where_names_may_hold_one() {
        for (raw, want) in [
            ("/a%2fb/c", Ok("/a%2Fb/c")),
            ("/%2f", Ok("/%2F")),
            ("/a..%2f..b", Ok("/a..%2F..b")),
            ("/a%2f../b", Err(PathError::DotDot)),
            ("/%2e%2E%2Fb", Err(PathError::DotDot)),
            ("/a%5cb", Err(PathError::Backslash)),
        ] {
            let got = NormalPath::parse_with_slashes(raw);
            assert_eq!(
                got.as_ref().map(NormalPath::as_str),
                want.as_ref().copied(),
                "{raw}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_as_it_is_written_is_what_decoding_makes_of_it(raw in "[a-c./%0-9_~-]{0,24}") {
            if let Some(path) = NormalPath::as_written(&raw) {
                for with_slashes in [false, true] {
                    let decoded = NormalPath::decoded(&raw, with_slashes);
                    prop_assert_eq!(decoded, Ok(path.clone()));
                }
            }
        }

        #[test]
        fn whatever_is_taken_has_one_spelling_and_stays_inside(raw in "/[a-c./%0-9\\\\~-]{0,24}") {
            if let Ok(path) = NormalPath::parse(&raw) {
                prop_assert!(path.as_str().starts_with('/'));
                prop_assert!(path.segments().all(|segment| segment != ".." && !segment.contains('/')));
                let joined = path.segments().fold(String::new(), |all, one| all + "/" + one);
                prop_assert!(path.as_str() == "/" || path.as_str() == joined);
            }
        }
    }
}
