//! Question: what do the two digests of every upload cost per byte, apart and together, and what do
//! subtree values per MiB cost beyond a plain BLAKE3?
//!
//! Unit: GiB per CPU second of one thread. Sizes: 64 MiB in pieces of 8 KiB, 64 KiB (what the upload engine hashes
//! at once) and 1 MiB. Worse means: the upload path cannot be faster than the slowest arm here, since
//! both run in order within one task; `both` below the sum of its parts means lost cache hits.

use boxgate_benches::{block, on_this_thread};
use boxgate_storage::digest::{ContentHasher, TreeHasher};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sha2::{Digest, Sha256};

const LENGTH: usize = 64 << 20;
const PIECES: [usize; 3] = [8 << 10, 64 << 10, 1 << 20];

fn hash(criterion: &mut Criterion) {
    let content = block().repeat(LENGTH >> 20);
    let mut group = criterion.benchmark_group("hash");
    group
        .throughput(Throughput::Bytes(LENGTH as u64))
        .sample_size(20);
    for piece in PIECES {
        let name = format!("{}KiB", piece >> 10);
        group.bench_function(BenchmarkId::new("blake3", &name), |bencher| {
            bencher.iter_custom(|times| {
                on_this_thread(times, || {
                    let mut hasher = blake3::Hasher::new();
                    content.chunks(piece).for_each(|bytes| {
                        hasher.update(bytes);
                    });
                    hasher.finalize()
                })
            });
        });
        group.bench_function(BenchmarkId::new("blake3 by MiB", &name), |bencher| {
            bencher.iter_custom(|times| {
                on_this_thread(times, || {
                    let mut hasher = TreeHasher::new();
                    content.chunks(piece).for_each(|bytes| hasher.update(bytes));
                    hasher.finish()
                })
            });
        });
        group.bench_function(BenchmarkId::new("sha256", &name), |bencher| {
            bencher.iter_custom(|times| {
                on_this_thread(times, || {
                    let mut hasher = Sha256::new();
                    content.chunks(piece).for_each(|bytes| hasher.update(bytes));
                    hasher.finalize()
                })
            });
        });
        group.bench_function(BenchmarkId::new("both", &name), |bencher| {
            bencher.iter_custom(|times| {
                on_this_thread(times, || {
                    let mut hasher = ContentHasher::new([]);
                    content.chunks(piece).for_each(|bytes| hasher.update(bytes));
                    hasher.finish()
                })
            });
        });
    }
}

criterion_group!(benches, hash);
criterion_main!(benches);
