//! Question: what does it cost to sign a webhook, and to believe one?
//!
//! Unit: ns per delivery of 1 KiB. `one HMAC` is the baseline: HMAC-SHA256 of the body alone. `sign` makes the two signatures
//! that a delivery carries (Standard Webhooks', and the older field); `verify` finds one right. Worse means:
//! 10,000 deliveries a second at 10 us are a tenth of a core; twice the hashes of the baseline are needed, more is waste.

use std::hint::black_box;

use boxgate_benches::hot;
use criterion::{Criterion, criterion_group, criterion_main};
use ring::hmac;

fn signing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("signing");
    let body = [b'x'; 1024];
    let key = hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]);
    group.bench_function("one HMAC", |bencher| {
        bencher.iter(|| hmac::sign(&key, black_box(&body)));
    });
    for (name, make) in [
        ("sign", hot::sign as fn() -> hot::Call),
        ("verify", hot::verify),
    ] {
        let mut call = make();
        group.bench_function(name, |bencher| bencher.iter(&mut call));
    }
}

criterion_group!(benches, signing);
criterion_main!(benches);
