//! Question: what does it cost to make a part count: the one fenced row update behind which it is durable?
//!
//! Unit: commits per second of one upload that waits for each. `rename` is the baseline: the cheapest change of a file
//! system that survives a crash without a flush. `advance` is a transaction of `SQLite` that moves an upload's offset by a part and keeps
//! its subtree values and hash states. Worse means: at 16 MiB a part, 100 commits a second are 1.7 GB/s; below
//! a few thousand the rows, not the disk, would bound many small uploads.

use boxgate_benches::hot;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn journal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("journal");
    group.throughput(Throughput::Elements(1)).sample_size(20);
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"));
    let directory = directory.expect("the file system of target/ has room");
    let (one, other) = (directory.path().join("one"), directory.path().join("other"));
    std::fs::write(&one, "row").expect("the disk has room");
    group.bench_function("rename", |bencher| {
        bencher.iter(|| {
            std::fs::rename(&one, &other).expect("it is there");
            std::fs::rename(&other, &one).expect("it is there");
        });
    });
    let mut commits = hot::commit();
    group.bench_function("advance", |bencher| bencher.iter(&mut commits.call));
}

criterion_group!(benches, journal);
criterion_main!(benches);
