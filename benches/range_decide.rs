//! Question: what does deciding between 200, 206, 304, 412 and 416 cost?
//!
//! Unit: ns per decision. Sizes: no conditional header; a range; all conditional headers at once; 64
//! entity tags. Worse means: it is paid by every download, also by the cached ones that end in 304;
//! above a microsecond it would show beside 5 us of CPU for a small answer.

use std::hint::black_box;
use std::time::{Duration, SystemTime};

use boxgate::http::precondition::{PastEnd, Representation, decide_at};
use criterion::{Criterion, criterion_group, criterion_main};
use http::header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

const ETAG: &str = "\"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\"";

fn range_decide(criterion: &mut Criterion) {
    let now = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000);
    let meta = Representation {
        etag: ETAG,
        last_modified: Some(now - Duration::from_hours(1)),
        length: 12 << 30,
    };
    let many: Vec<String> = (0..64).map(|i| format!("\"{i:064x}\"")).collect();
    let many = many.join(", ");
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    let cases: [(&str, &[(HeaderName, &str)]); 4] = [
        ("nothing asked", &[]),
        ("range", &[(RANGE, "bytes=1048576-2097151")]),
        (
            "all conditions",
            &[
                (IF_MATCH, ETAG),
                (IF_NONE_MATCH, "\"other\""),
                (IF_MODIFIED_SINCE, date),
                (IF_RANGE, ETAG),
                (RANGE, "bytes=-1024"),
            ],
        ),
        ("64 tags", &[(IF_NONE_MATCH, &many)]),
    ];
    let mut group = criterion.benchmark_group("range_decide");
    for (name, lines) in cases {
        let mut headers = HeaderMap::new();
        for (header, value) in lines {
            headers.append(
                header,
                HeaderValue::from_str(value).expect("the values are ASCII"),
            );
        }
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                decide_at(
                    now,
                    &meta,
                    &Method::GET,
                    black_box(&headers),
                    PastEnd::WholeBody,
                )
            });
        });
    }
}

criterion_group!(benches, range_decide);
criterion_main!(benches);
