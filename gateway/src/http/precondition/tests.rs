use super::*;

const ETAG: &str = "\"abc\"";
/// 1994-11-06 08:49:37 UTC and a bit.
const MODIFIED: Duration = Duration::from_millis(784_111_777_500);
const SAME: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

fn decided_after(
    age: Duration,
    method: &Method,
    headers: &[(&str, &str)],
    past_end: PastEnd,
) -> Decision {
    let modified = SystemTime::UNIX_EPOCH + MODIFIED;
    let meta = Representation {
        etag: ETAG,
        last_modified: Some(modified),
        length: 100,
    };
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            value.parse().unwrap(),
        );
    }
    decide_at(modified + age, &meta, method, &map, past_end)
}

fn decided(method: &Method, headers: &[(&str, &str)]) -> Decision {
    decided_after(
        Duration::from_mins(1),
        method,
        headers,
        PastEnd::NotSatisfiable,
    )
}

fn part(start: u64, end: u64) -> Decision {
    Decision::Partial(ByteRange::try_new(start, end).unwrap())
}

#[test]
fn preconditions_decide_in_the_order_of_the_rfc() {
    use Decision::{Full, NotModified, NotSatisfiable, PreconditionFailed};
    const IM: &str = "if-match";
    const INM: &str = "if-none-match";
    const IMS: &str = "if-modified-since";
    const IUS: &str = "if-unmodified-since";
    const IR: &str = "if-range";
    const R: (&str, &str) = ("range", "bytes=10-19");
    let get = Method::GET;
    let table: Vec<(&[(&str, &str)], Decision)> = vec![
        (&[], Full),
        (&[R], part(10, 20)),
        (&[("range", "bytes=100-")], NotSatisfiable),
        (&[("range", "bytes=0-9,20-29")], Full),
        (&[("range", "bytes=19-10")], Full),
        // If-Match: strong, lists, star; it beats If-Unmodified-Since.
        (&[(IM, "*")], Full),
        (&[(IM, ETAG)], Full),
        (&[(IM, "\"x\", \"abc\"")], Full),
        (&[(IM, "\"x\""), (IM, "\"abc\"")], Full),
        (&[(IM, "\"x,\\\", \"abc\"")], Full),
        (&[(IM, "\"x\"")], PreconditionFailed),
        (&[(IM, "W/\"abc\"")], PreconditionFailed),
        (&[(IM, "abc")], PreconditionFailed),
        (&[(IM, ETAG), (IUS, EARLIER)], Full),
        (&[(IUS, EARLIER)], PreconditionFailed),
        (&[(IUS, SAME)], Full),
        (&[(IUS, "yesterday")], Full),
        // If-None-Match: weak; it beats If-Modified-Since.
        (&[(INM, ETAG)], NotModified),
        (&[(INM, "W/\"abc\"")], NotModified),
        (&[(INM, "*")], NotModified),
        (&[(INM, "\"x\"")], Full),
        (&[(INM, "\"x\""), (IMS, LATER)], Full),
        (&[(IMS, SAME)], NotModified),
        (&[(IMS, LATER)], NotModified),
        (&[(IMS, EARLIER)], Full),
        (&[(IMS, "soon")], Full),
        // Failure comes before freshness, freshness before ranges.
        (&[(IM, "\"x\""), (INM, ETAG)], PreconditionFailed),
        (&[(INM, ETAG), R], NotModified),
        (&[(IM, "\"x\""), R], PreconditionFailed),
        // If-Range: strong tag or the very date; else the range is as if absent.
        (&[(IR, ETAG), R], part(10, 20)),
        (&[(IR, "W/\"abc\""), R], Full),
        (&[(IR, "\"x\""), R], Full),
        (&[(IR, SAME), R], part(10, 20)),
        (&[(IR, LATER), R], Full),
        (&[(IR, EARLIER), R], Full),
        (&[(IR, "never"), R], Full),
        (&[(IR, ETAG)], Full),
    ];
    for (headers, want) in table {
        assert_eq!(decided(&get, headers), want, "{headers:?}");
    }
}

#[test]
fn other_methods_have_their_own_outcomes() {
    use Decision::{Full, NotModified, PreconditionFailed};
    let none_match = [("if-none-match", ETAG)];
    let since = [("if-modified-since", LATER)];
    let range = [("range", "bytes=0-1")];
    assert_eq!(decided(&Method::HEAD, &none_match), NotModified);
    assert_eq!(decided(&Method::HEAD, &since), NotModified);
    assert_eq!(decided(&Method::HEAD, &range), Full);
    assert_eq!(decided(&Method::PUT, &none_match), PreconditionFailed);
    assert_eq!(decided(&Method::PUT, &since), Full);
    assert_eq!(decided(&Method::PUT, &range), Full);
}

#[test]
fn a_range_past_the_end_of_a_box_is_answered_whole() {
    let age = Duration::from_mins(1);
    for range in ["bytes=100-", "bytes=500-600", "bytes=-0"] {
        let headers = [("range", range)];
        assert_eq!(
            decided_after(age, &Method::GET, &headers, PastEnd::WholeBody),
            Decision::Full,
            "{range}"
        );
    }
    let headers = [("range", "bytes=99-")];
    assert_eq!(
        decided_after(age, &Method::GET, &headers, PastEnd::WholeBody),
        part(99, 100)
    );
}

#[test]
fn a_date_that_is_too_young_is_no_strong_validator() {
    let headers = [("if-range", SAME), ("range", "bytes=10-19")];
    let young = Duration::from_millis(400);
    assert_eq!(
        decided_after(young, &Method::GET, &headers, PastEnd::NotSatisfiable),
        Decision::Full
    );
}

#[test]
fn without_a_date_the_date_headers_mean_nothing() {
    let meta = Representation {
        etag: ETAG,
        last_modified: None,
        length: 100,
    };
    for name in ["if-modified-since", "if-unmodified-since", "if-range"] {
        let mut headers = HeaderMap::new();
        headers.insert(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            SAME.parse().unwrap(),
        );
        headers.insert(header::RANGE, "bytes=0-1".parse().unwrap());
        let got = decide(&meta, &Method::GET, &headers, PastEnd::NotSatisfiable);
        let want = if name == "if-range" {
            Decision::Full
        } else {
            part(0, 2)
        };
        assert_eq!(got, want, "{name}");
    }
}
