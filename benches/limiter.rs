//! Question: what does counting a request cost, and does it grow with those who are counted?
//!
//! Unit: ns per request. `map` is the baseline: a look-up of the same key in a map behind a lock. The others count one request
//! of an address that is known, beside so many others in the table. Worse means: every request pays it, twice once it
//! has a principal; growth with the table would be an attacker's lever.

use std::collections::HashMap;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;

use boxgate_benches::hot;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

fn limiter(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("limiter");
    let address = |number| IpAddr::V4(Ipv4Addr::from_bits(number));
    let map: HashMap<IpAddr, u64> = (0..1000).map(|number| (address(number), 0)).collect();
    let map = Mutex::new(map);
    group.bench_function("map", |bencher| {
        bencher.iter(|| {
            let mut map = map.lock().expect("nobody panics with it");
            if let Some(count) = map.get_mut(black_box(&address(7))) {
                *count += 1;
            }
        });
    });
    for others in [1, 1000, 100_000] {
        let mut call = hot::limiter_of(others);
        group.bench_function(BenchmarkId::new("known among", others), |bencher| {
            bencher.iter(&mut call);
        });
    }
}

criterion_group!(benches, limiter);
criterion_main!(benches);
