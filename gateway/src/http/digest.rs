//! Digest fields of answers (RFC 9530): which digests a client wants, and how they are written.
//!
//! `blake3` is no registered key; whoever does not know it ignores it, and finds `sha-256` beside it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boxgate_storage::digest::{Blake3, Sha256};
use http::{HeaderMap, HeaderName, HeaderValue};
use sfv::{Dictionary, ListEntry, Parser};

/// Over the whole representation, the same in 200 and 206.
pub const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
/// Over the content of this message alone.
pub const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");
/// Which of the former a client wants.
pub const WANT_REPR_DIGEST: HeaderName = HeaderName::from_static("want-repr-digest");
/// Which of the latter a client wants.
pub const WANT_CONTENT_DIGEST: HeaderName = HeaderName::from_static("want-content-digest");

/// Which of our digests a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// `sha-256`.
    pub sha256: bool,
    /// `blake3`.
    pub blake3: bool,
}

impl Wanted {
    /// Both.
    pub const ALL: Self = Self {
        sha256: true,
        blake3: true,
    };

    /// Reads a `Want-...` field; `None` when there is none, or none that can be read (RFC 9651 §4.2: a
    /// field that fails to parse is ignored whole).
    ///
    /// A client that wants only what we do not have gets `sha-256`: RFC 9530 §4 makes it a hint.
    pub fn parse(headers: &HeaderMap, name: &HeaderName) -> Option<Self> {
        let mut lines = headers.get_all(name).iter().peekable();
        lines.peek()?;
        let mut text = Vec::new();
        for line in lines {
            if !text.is_empty() {
                text.push(b',');
            }
            text.extend_from_slice(line.as_bytes());
        }
        let wants: Dictionary = Parser::new(&text).parse().ok()?;
        let weight = |key: &str| {
            let entry = wants.iter().find(|(found, _)| found.as_str() == key)?.1;
            let ListEntry::Item(item) = entry else {
                return None;
            };
            item.bare_item.as_integer().map(i64::from)
        };
        let (sha256, blake3) = (weight("sha-256"), weight("blake3"));
        let wanted = |weight: Option<i64>| weight.is_some_and(|weight| weight > 0);
        Some(Self {
            sha256: wanted(sha256) || (!wanted(blake3) && sha256.is_none()),
            blake3: wanted(blake3),
        })
    }

    /// The field's value; `None` when nothing is wanted that is known.
    pub fn write(self, sha256: Option<&Sha256>, blake3: &Blake3) -> Option<HeaderValue> {
        let field = |key: &str, digest: &[u8; 32]| format!("{key}=:{}:", STANDARD.encode(digest));
        let fields = [
            sha256
                .filter(|_| self.sha256)
                .map(|sha256| field("sha-256", &sha256.0)),
            self.blake3.then(|| field("blake3", &blake3.0)),
        ];
        let fields: Vec<String> = fields.into_iter().flatten().collect();
        if fields.is_empty() {
            return None;
        }
        HeaderValue::from_str(&fields.join(", ")).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_read_and_what_cannot_be_read_is_ignored() {
        type Row<'a> = (&'a [&'a str], Option<(bool, bool)>);
        let table: [Row<'_>; 14] = [
            (&[], None),
            (&["sha-256=10"], Some((true, false))),
            (&["blake3=1"], Some((false, true))),
            (&["sha-256=1, blake3=10"], Some((true, true))),
            (&["sha-256=1", "blake3=10"], Some((true, true))),
            (&["sha-256=0"], Some((false, false))),
            (&["sha-256=0, blake3=3"], Some((false, true))),
            (&["sha-256=0, sha-512=3"], Some((false, false))),
            (&["sha-512=10"], Some((true, false))),
            (&["sha-256"], Some((true, false))),
            (&["blake3=9;x=y"], Some((false, true))),
            (&["sha-256=:AAAA:, blake3=2"], Some((false, true))),
            (&["sha-256=10,,"], None),
            (&["?!"], None),
        ];
        for (lines, want) in table {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(WANT_REPR_DIGEST, line.parse().unwrap());
            }
            let found = Wanted::parse(&headers, &WANT_REPR_DIGEST);
            assert_eq!(found.map(|w| (w.sha256, w.blake3)), want, "{lines:?}");
        }
    }

    #[test]
    fn digests_are_written_as_byte_sequences() {
        let (sha256, blake3) = (Sha256([0; 32]), Blake3([255; 32]));
        let zeros = "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:";
        let ones = "blake3=://////////////////////////////////////////8=:";
        let both = Wanted::ALL.write(Some(&sha256), &blake3).unwrap();
        assert_eq!(both, format!("{zeros}, {ones}"));
        let none = Wanted {
            sha256: false,
            blake3: false,
        };
        assert_eq!(none.write(Some(&sha256), &blake3), None);
        let deferred = Wanted::ALL.write(None, &blake3).unwrap();
        assert!(deferred.to_str().unwrap().starts_with("blake3=:"));
    }
}
