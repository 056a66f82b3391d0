//! `Range` and `Content-Range`: the wire's inclusive forms and our half-open one (RFC 9110 §14).

use boxgate_storage::range::ByteRange;
use http::{HeaderMap, HeaderValue, header};

/// One byte range that a client asks for. Sets of several are not served in parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeSpec {
    /// `first-last`, both included.
    FromTo {
        /// The first byte.
        first: u64,
        /// The last byte.
        last: u64,
    },
    /// `first-`.
    From {
        /// The first byte.
        first: u64,
    },
    /// `-length`: the last bytes.
    Suffix {
        /// How many.
        length: u64,
    },
}

/// What a range comes to, once the length is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolved {
    /// These bytes.
    Bytes(ByteRange),
    /// None: the range begins at or past the end.
    PastEnd,
}

impl RangeSpec {
    /// Reads the `Range` of a request. `None` means "as if there were none": no header, another
    /// unit, a malformed value, or a set.
    ///
    /// RFC 9110 §14.2 lets a server ignore the field always; a set is answered whole.
    pub fn parse(headers: &HeaderMap) -> Option<Self> {
        let mut lines = headers.get_all(header::RANGE).iter();
        let (line, None) = (lines.next()?, lines.next()) else {
            return None;
        };
        let (unit, set) = line.to_str().ok()?.split_once('=')?;
        // RFC 9110 §14.1: range units are case-insensitive.
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        // RFC 9110 §5.6.1.2: empty elements of a list do not count.
        let mut specs = set
            .split(',')
            .map(|spec| spec.trim_matches([' ', '\t']))
            .filter(|spec| !spec.is_empty());
        let (spec, None) = (specs.next()?, specs.next()) else {
            return None;
        };
        Self::parse_one(spec)
    }

    fn parse_one(spec: &str) -> Option<Self> {
        let (first, last) = spec.split_once('-')?;
        match (first, last) {
            ("", length) => Some(Self::Suffix {
                length: digits(length)?,
            }),
            (first, "") => Some(Self::From {
                first: digits(first)?,
            }),
            (first, last) => {
                let (first, last) = (digits(first)?, digits(last)?);
                // RFC 9110 §14.1.1: a reversed range is invalid, and so is ignored.
                (first <= last).then_some(Self::FromTo { first, last })
            }
        }
    }

    /// The bytes of a representation of `length` bytes that the range names.
    pub fn resolve(self, length: u64) -> Resolved {
        let (start, end) = match self {
            Self::FromTo { first, last } => (first, last.saturating_add(1).min(length)),
            Self::From { first } => (first, length),
            // RFC 9110 §14.1.2: a suffix longer than the blob means all of it; one of no bytes, or of
            // no blob, cannot be satisfied.
            Self::Suffix { length: 0 } => return Resolved::PastEnd,
            Self::Suffix { length: wanted } => (length.saturating_sub(wanted), length),
        };
        if start >= length {
            return Resolved::PastEnd;
        }
        ByteRange::try_new(start, end).map_or(Resolved::PastEnd, Resolved::Bytes)
    }
}

/// `1*DIGIT`; what 64 bits do not hold is past any end, so it saturates.
fn digits(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

/// `Content-Range` of a 206 answer (RFC 9110 §14.4). `range` is not empty.
pub fn content_range(range: ByteRange, length: u64) -> HeaderValue {
    let last = range.end().saturating_sub(1);
    ascii(&format!("bytes {}-{last}/{length}", range.start()))
}

/// `Content-Range` of a 416 answer.
pub fn content_range_unsatisfied(length: u64) -> HeaderValue {
    ascii(&format!("bytes */{length}"))
}

fn ascii(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("digits and punctuation make a header value")
}

/// `Content-Range` of a request that carries a piece of an upload: `bytes a-b/N` or `bytes a-b/*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentRange {
    /// The bytes that the body holds; never empty.
    pub range: ByteRange,
    /// The length of the whole, where it is known.
    pub length: Option<u64>,
}

impl ContentRange {
    /// Reads the header; `Ok(None)` when there is none.
    ///
    /// # Errors
    /// The rule that is broken. Unlike `Range` it may not be ignored: bytes would land elsewhere.
    pub fn parse(headers: &HeaderMap) -> Result<Option<Self>, &'static str> {
        const SHAPE: &str = "Content-Range must be \"bytes first-last/length\"";
        let mut lines = headers.get_all(header::CONTENT_RANGE).iter();
        let line = match (lines.next(), lines.next()) {
            (None, _) => return Ok(None),
            (Some(line), None) => line.to_str().map_err(|_binary| SHAPE)?,
            (Some(_), Some(_)) => return Err("Content-Range must stand once"),
        };
        let (unit, rest) = line.trim().split_once(' ').ok_or(SHAPE)?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return Err(SHAPE);
        }
        let (bytes, length) = rest.trim().split_once('/').ok_or(SHAPE)?;
        let (first, last) = bytes.split_once('-').ok_or(SHAPE)?;
        let exact = |text: &str| {
            digits(text)
                .and_then(|_| text.parse::<u64>().ok())
                .ok_or(SHAPE)
        };
        let (first, last) = (exact(first)?, exact(last)?);
        let length = match length {
            "*" => None,
            length => Some(exact(length)?),
        };
        let end = last.checked_add(1).ok_or(SHAPE)?;
        let range = (first <= last)
            .then(|| ByteRange::try_new(first, end))
            .flatten()
            .ok_or("Content-Range must not be reversed")?;
        if length.is_some_and(|length| end > length) {
            return Err("Content-Range must end within its length");
        }
        Ok(Some(Self { range, length }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(lines: &[&str]) -> Option<RangeSpec> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::RANGE, line.parse().unwrap());
        }
        RangeSpec::parse(&headers)
    }

    #[test]
    fn single_ranges_are_read_and_everything_else_is_as_if_absent() {
        use RangeSpec::{From, FromTo, Suffix};
        let table = [
            ("bytes=0-0", Some(FromTo { first: 0, last: 0 })),
            ("bytes=5-9", Some(FromTo { first: 5, last: 9 })),
            ("BYTES = 5-9", Some(FromTo { first: 5, last: 9 })),
            ("bytes=5-", Some(From { first: 5 })),
            ("bytes=-7", Some(Suffix { length: 7 })),
            ("bytes=,5-9, ,", Some(FromTo { first: 5, last: 9 })),
            (
                "bytes=99999999999999999999999-",
                Some(From { first: u64::MAX }),
            ),
            (
                "bytes=1-99999999999999999999999",
                Some(FromTo {
                    first: 1,
                    last: u64::MAX,
                }),
            ),
            ("bytes=9-5", None),
            ("bytes=0-1,5-9", None),
            ("bytes=", None),
            ("bytes=-", None),
            ("bytes=a-b", None),
            ("bytes=+1-2", None),
            ("bytes=1--2", None),
            ("bytes=0x1-2", None),
            ("bytes 1-2", None),
            ("lines=1-2", None),
        ];
        for (line, want) in table {
            assert_eq!(spec(&[line]), want, "{line}");
        }
        assert_eq!(spec(&[]), None);
        assert_eq!(spec(&["bytes=0-1", "bytes=0-1"]), None);
    }

    #[test]
    fn ranges_resolve_within_the_length() {
        let table = [
            ("bytes=0-0", 10, Some((0, 1))),
            ("bytes=5-99", 10, Some((5, 10))),
            ("bytes=1-99999999999999999999999", 10, Some((1, 10))),
            ("bytes=9-", 10, Some((9, 10))),
            ("bytes=10-", 10, None),
            ("bytes=10-20", 10, None),
            ("bytes=-3", 10, Some((7, 10))),
            ("bytes=-99", 10, Some((0, 10))),
            ("bytes=-0", 10, None),
            ("bytes=-5", 0, None),
            ("bytes=0-", 0, None),
            (
                "bytes=18446744073709551614-",
                u64::MAX,
                Some((u64::MAX - 1, u64::MAX)),
            ),
        ];
        for (line, length, want) in table {
            let want = want.map_or(Resolved::PastEnd, |(start, end)| {
                Resolved::Bytes(ByteRange::try_new(start, end).unwrap())
            });
            assert_eq!(
                spec(&[line]).unwrap().resolve(length),
                want,
                "{line} of {length}"
            );
        }
    }

    #[test]
    fn content_range_is_written_inclusive() {
        let range = ByteRange::try_new(5, 10).unwrap();
        assert_eq!(content_range(range, 20), "bytes 5-9/20");
        assert_eq!(content_range_unsatisfied(20), "bytes */20");
    }

    #[test]
    fn content_range_of_a_request_is_read_strictly() {
        let read = |line: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_RANGE, line.parse().unwrap());
            ContentRange::parse(&headers)
                .ok()
                .flatten()
                .map(|found| (found.range.start(), found.range.end(), found.length))
        };
        assert_eq!(read("bytes 0-9/10"), Some((0, 10, Some(10))));
        assert_eq!(read("bytes 5-9/*"), Some((5, 10, None)));
        for wrong in [
            "bytes 9-5/10",
            "bytes 0-10/10",
            "bytes */10",
            "bytes 0-9",
            "0-9/10",
            "bytes 0-9/x",
            "bytes 0-18446744073709551615/*",
            "bytes 0-99999999999999999999999/*",
            "items 0-9/10",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(ContentRange::parse(&HeaderMap::new()), Ok(None));
    }
}
