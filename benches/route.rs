//! Question: what does finding the row of a request cost, and does it grow with the table?
//!
//! Unit: ns per look-up. Sizes: each row of the table once, by its own path (`all rows` is the sum
//! over them, divided by their number in the throughput column); the deepest path; a path that leads
//! nowhere. Worse means: it is paid by every request, before anything else is known about it.

use std::hint::black_box;

use boxgate::route::{ROUTES, Router};
use boxgate_benches::hot::doors;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::Method;

fn route(criterion: &mut Criterion) {
    let router = Router::try_new(&doors()).expect("no row shadows another");
    let all: Vec<(&Method, String)> = ROUTES
        .iter()
        .map(|row| (&row.method, row.path.replace(['{', '}'], "")))
        .collect();
    let deepest = all.iter().max_by_key(|(_, path)| path.matches('/').count());
    let (method, deepest) = deepest.expect("the table has rows");

    let mut group = criterion.benchmark_group("route");
    group.bench_function("deepest", |bencher| {
        bencher.iter(|| router.find(method, black_box(deepest)));
    });
    group.bench_function("nowhere", |bencher| {
        bencher.iter(|| router.find(&Method::GET, black_box("/a/b/c/d/e/f/g/h/i/j")));
    });
    group.throughput(Throughput::Elements(all.len() as u64));
    group.bench_function("all rows", |bencher| {
        bencher.iter(|| {
            for (method, path) in &all {
                black_box(router.find(method, black_box(path)));
            }
        });
    });
}

criterion_group!(benches, route);
criterion_main!(benches);
