//! Question: what does it cost to make parts of frames as they come?
//!
//! Unit: GiB per CPU second of one thread. Size: a MiB in frames of 40,000 bytes. `copy` is the baseline: the
//! same frames into one piece of memory. `buffer` takes a buffer of the pool, fills it and gives it back. Worse means:
//! every uploaded byte pays it once; above the baseline is what the pool costs.

use std::hint::black_box;

use boxgate_benches::{BLOCK_BYTES, block, hot, on_this_thread};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn assembly(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("assembly");
    group.throughput(Throughput::Bytes(BLOCK_BYTES as u64));
    let content = block();
    let mut into = vec![0; BLOCK_BYTES];
    group.bench_function("copy", |bencher| {
        bencher.iter_custom(|times| {
            on_this_thread(times, || {
                for (from, to) in content.chunks(40_000).zip(into.chunks_mut(40_000)) {
                    to.copy_from_slice(black_box(from));
                }
            })
        });
    });
    let mut call = hot::assemble();
    group.bench_function("buffer", |bencher| {
        bencher.iter_custom(|times| on_this_thread(times, &mut call));
    });
}

criterion_group!(benches, assembly);
criterion_main!(benches);
