//! Whether to answer whole, in part, or not at all: RFC 9110 §13.2.2 as one pure function.

use std::time::{Duration, SystemTime};

use boxgate_storage::range::ByteRange;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use super::range::{RangeSpec, Resolved};

/// What is known of the thing asked for.
#[derive(Debug, Clone, Copy)]
pub struct Representation<'a> {
    /// Its strong validator as it stands on the wire, quotes included.
    pub etag: &'a str,
    /// When it last changed, where that is known.
    pub last_modified: Option<SystemTime>,
    /// Its length in bytes.
    pub length: u64,
}

/// What to do with a range that starts at or past the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PastEnd {
    /// Answer the whole: box files, whose clients resume with a range that may be past the end.
    WholeBody,
    /// Answer 416.
    NotSatisfiable,
}

/// What the answer is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// 200, all of it.
    Full,
    /// 206, these bytes.
    Partial(ByteRange),
    /// 304.
    NotModified,
    /// 412.
    PreconditionFailed,
    /// 416.
    NotSatisfiable,
}

/// Decides, as of now.
pub fn decide(
    meta: &Representation<'_>,
    method: &Method,
    headers: &HeaderMap,
    past_end: PastEnd,
) -> Decision {
    // Only a date of If-Range is held against the clock.
    let now = if headers.contains_key(header::IF_RANGE) {
        SystemTime::now()
    } else {
        SystemTime::UNIX_EPOCH
    };
    decide_at(now, meta, method, headers, past_end)
}

/// Decides in the order of RFC 9110 §13.2.2, with the present time as a value.
pub fn decide_at(
    now: SystemTime,
    meta: &Representation<'_>,
    method: &Method,
    headers: &HeaderMap,
    past_end: PastEnd,
) -> Decision {
    let reads = method == Method::GET || method == Method::HEAD;
    // Steps 1 and 2.
    if headers.contains_key(header::IF_MATCH) {
        if !any_tag(headers, &header::IF_MATCH, |tag| strong_eq(tag, meta.etag)) {
            return Decision::PreconditionFailed;
        }
    } else if let (Some(date), Some(modified)) = (
        date(headers, &header::IF_UNMODIFIED_SINCE),
        meta.last_modified,
    ) && whole_seconds(modified) > date
    {
        return Decision::PreconditionFailed;
    }
    // Steps 3 and 4.
    if headers.contains_key(header::IF_NONE_MATCH) {
        if any_tag(headers, &header::IF_NONE_MATCH, |tag| {
            weak_eq(tag, meta.etag)
        }) {
            return if reads {
                Decision::NotModified
            } else {
                Decision::PreconditionFailed
            };
        }
    } else if reads
        && let (Some(date), Some(modified)) = (
            date(headers, &header::IF_MODIFIED_SINCE),
            meta.last_modified,
        )
        && whole_seconds(modified) <= date
    {
        return Decision::NotModified;
    }
    // Step 5. RFC 9110 §14.2: a range means something on GET only.
    if method != Method::GET || !if_range_holds(now, meta, headers) {
        return Decision::Full;
    }
    match RangeSpec::parse(headers).map(|range| range.resolve(meta.length)) {
        None => Decision::Full,
        Some(Resolved::Bytes(range)) => Decision::Partial(range),
        Some(Resolved::PastEnd) => match past_end {
            PastEnd::WholeBody => Decision::Full,
            PastEnd::NotSatisfiable => Decision::NotSatisfiable,
        },
    }
}

/// RFC 9110 §13.1.5: a strong tag that is equal, or the very date, if it is strong.
fn if_range_holds(now: SystemTime, meta: &Representation<'_>, headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::IF_RANGE).iter();
    let Some(line) = lines.next() else {
        return true;
    };
    let (Ok(value), None) = (line.to_str(), lines.next()) else {
        return false;
    };
    let value = value.trim();
    if value.starts_with('"') || value.starts_with("W/") {
        return strong_eq(value, meta.etag);
    }
    let (Ok(date), Some(modified)) = (httpdate::parse_http_date(value), meta.last_modified) else {
        return false;
    };
    // RFC 9110 §8.8.2.2: a date is strong once no second change can hide in its second.
    let settled = now
        .duration_since(modified)
        .is_ok_and(|age| age >= Duration::from_secs(1));
    settled && whole_seconds(modified) == date
}

/// Whether a list of tags is `*` or holds one that `is_equal`. A malformed list holds none.
fn any_tag(headers: &HeaderMap, name: &HeaderName, is_equal: impl Fn(&str) -> bool) -> bool {
    headers.get_all(name).iter().any(|line| {
        let Ok(line) = line.to_str() else {
            return false;
        };
        line.trim() == "*" || tags(line).any(&is_equal)
    })
}

/// Whether a field is what RFC 9110 §13.1 has: `*`, or tags with commas between them.
pub fn is_list_of_tags(headers: &HeaderMap, name: &HeaderName) -> bool {
    let lines = headers.get_all(name).iter().map(HeaderValue::to_str);
    let Ok(lines) = lines.collect::<Result<Vec<_>, _>>() else {
        return false;
    };
    let all = lines.join(",");
    if all.trim() == "*" {
        return true;
    }
    let mut rest = all.as_str();
    let mut found = false;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return found;
        }
        let Some(tag) = tags(rest).next() else {
            return false;
        };
        let inside = tag.trim_start_matches("W/").as_bytes();
        if inside.iter().any(|b| !b.is_ascii_graphic()) {
            return false;
        }
        rest = rest[tag.len()..].trim_start_matches([' ', '\t']);
        if !rest.is_empty() && !rest.starts_with(',') {
            return false;
        }
        found = true;
    }
}

/// The tags of a list. RFC 9110 §8.8.3: a tag may hold commas, so quotes decide where it ends.
fn tags(mut rest: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let opening = if rest.starts_with("W/\"") { 3 } else { 1 };
        if !rest.starts_with("W/\"") && !rest.starts_with('"') {
            return None;
        }
        let closing = rest[opening..].find('"')? + opening + 1;
        let (tag, after) = rest.split_at(closing);
        rest = after;
        Some(tag)
    })
}

/// RFC 9110 §8.8.3.2, strong comparison: equal, and neither weak.
fn strong_eq(a: &str, b: &str) -> bool {
    !a.starts_with("W/") && a == b
}

/// RFC 9110 §8.8.3.2, weak comparison.
fn weak_eq(a: &str, b: &str) -> bool {
    a.strip_prefix("W/").unwrap_or(a) == b.strip_prefix("W/").unwrap_or(b)
}

/// A date header; RFC 9110 §13.1.3: what is no valid date is ignored.
fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let mut lines = headers.get_all(name).iter();
    let (line, None) = (lines.next()?, lines.next()) else {
        return None;
    };
    httpdate::parse_http_date(line.to_str().ok()?.trim()).ok()
}

/// The wire's dates have whole seconds.
fn whole_seconds(time: SystemTime) -> SystemTime {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(time, |since| {
            SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
        })
}

#[cfg(test)]
mod tests;
