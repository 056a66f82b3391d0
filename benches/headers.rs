//! Question: what does looking at a request's head cost, before and after it is routed?
//!
//! Unit: ns per call. `clone of the fields` is the baseline: what touching all of them costs at least. `framing` is
//! what every request pays before it is routed; `path` its path in one form; `media type` and `length` are fields that uploads
//! read. Worse means: every request pays it; beside 25 us of CPU for a small answer a microsecond shows.

use std::hint::black_box;

use boxgate::http::headers::{MediaType, content_length};
use boxgate_benches::hot;
use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue};

fn headers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("headers");
    let mut fields = HeaderMap::new();
    for (name, value) in [
        ("host", "boxes.example.org"),
        (
            "content-type",
            "multipart/form-data; boundary=\"----d74496d66958873e\"",
        ),
        ("content-length", "1073741824"),
        ("authorization", "Bearer 0123456789abcdef0123456789abcdef"),
    ] {
        fields.insert(name, HeaderValue::from_static(value));
    }
    group.bench_function("clone of the fields", |bencher| {
        bencher.iter(|| black_box(&fields).clone());
    });
    for (name, make) in [
        ("framing", hot::headers as fn() -> hot::Call),
        ("path", hot::path),
    ] {
        let mut call = make();
        group.bench_function(name, |bencher| bencher.iter(&mut call));
    }
    group.bench_function("media type", |bencher| {
        bencher.iter(|| MediaType::of(black_box(&fields)));
    });
    group.bench_function("length", |bencher| {
        bencher.iter(|| content_length(black_box(&fields)));
    });
}

criterion_group!(benches, headers);
criterion_main!(benches);
