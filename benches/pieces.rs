//! Question: what does it cost to send an upload in several requests, or in parts at once, and how long
//! does its last answer take?
//!
//! Unit: GiB/s of the engine alone (bytes come from memory, rows are in `SQLite`, the store is on the file
//! system of `target/`). Size: 256 MiB.
//!
//! - `send`: `one request` is the baseline; `eight requests` pauses and resumes seven times; `parts, 8 at
//!   once` sends 8 MiB parts over eight tasks, as a client with eight connections does. Worse means that
//!   resuming or sending in parallel costs throughput: neither should be more than 5 % below the baseline.
//! - `last answer`: from the last byte taken to the answer, for one request and for parts, at 64 MiB and
//!   1 GiB. It must not grow with the length: then something is read or copied at the end.
//! - `head`: asking for the offset, which is one change of a row.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use boxgate_benches::rows::Rows;
use boxgate_benches::{BLOCK_BYTES, block, runtime};
use boxgate_storage::backend::local;
use boxgate_storage::buffer::BufferPool;
use boxgate_storage::upload::{Cut, Keep, UploadEngine, UploadIntent};
use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group,
    criterion_main,
};
use tokio::runtime::Runtime;
use tokio::time::Instant;

const LENGTH: u64 = 256 << 20;
const CONNECTIONS: usize = 8;
const REQUESTS: u64 = 8;
/// How far ahead of the committed offset the door lets a part be.
const WINDOW_PARTS: u64 = 16;

fn pieces(criterion: &mut Criterion) {
    let bench = Bench::new();
    let mut group = begin(criterion, "send");
    group.throughput(Throughput::Bytes(LENGTH));
    bench.arm(
        &mut group,
        BenchmarkId::from_parameter("one request"),
        LENGTH,
        |took| took.all,
    );
    group.bench_function("eight requests", |bencher| {
        bencher.iter_custom(|times| bench.times(times, |b| b.in_requests(LENGTH)));
    });
    group.bench_function("parts, 8 at once", |bencher| {
        bencher.iter_custom(|times| bench.times(times, |b| b.in_parts(LENGTH).all));
    });
    group.finish();

    let mut group = begin(criterion, "last answer");
    for length in [64 << 20, 1 << 30] {
        let mib = length >> 20;
        bench.arm(
            &mut group,
            BenchmarkId::new("one request", mib),
            length,
            |took| took.end,
        );
        group.bench_function(BenchmarkId::new("parts, 8 at once", mib), |bencher| {
            bencher.iter_custom(|times| bench.times(times, |b| b.in_parts(length).end));
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("head");
    let kept = UploadIntent {
        keep: Keep::UntilIdle,
        ..bench.rows.intent(LENGTH)
    };
    let engine = &bench.rows.uploads;
    let row = bench.runtime.block_on(engine.create(kept));
    let id = row.expect("there is room").id;
    group.bench_function("one", |bencher| {
        bencher.iter(|| bench.runtime.block_on(engine.head(id)).expect("it is open"));
    });
    group.finish();
}

fn begin<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group
}

/// How long an upload took.
#[derive(Debug, Clone, Copy)]
struct Took {
    all: Duration,
    /// From the last byte to the answer.
    end: Duration,
}

struct Bench {
    runtime: Runtime,
    rows: Rows,
    block: Vec<u8>,
    uploads: AtomicU64,
    _directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let runtime = runtime();
        let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let directory = tempfile::tempdir_in(target).expect("cargo made the directory");
        let store = runtime.block_on(local::open(&directory.path().join("blobs")));
        let store = store.expect("an empty directory is a store");
        let pool = BufferPool::new(128 << 20);
        let rows = runtime.block_on(Rows::in_sqlite(&store, &pool, directory.path()));
        Self {
            runtime,
            rows,
            block: block(),
            uploads: AtomicU64::new(0),
            _directory: directory,
        }
    }

    fn arm(
        &self,
        group: &mut BenchmarkGroup<'_, WallTime>,
        name: BenchmarkId,
        length: u64,
        of: fn(&Took) -> Duration,
    ) {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| self.times(times, |b| of(&b.in_one_request(length))));
        });
    }

    fn times(&self, times: u64, once: impl Fn(&Self) -> Duration) -> Duration {
        (0..times)
            .map(|_| {
                let took = once(self);
                // The blob before this one lost its name to it.
                let swept = self.runtime.block_on(self.rows.uploads.sweep());
                swept.expect("rows can be read");
                took
            })
            .sum()
    }

    /// A MiB that no other upload begins with: equal blobs are kept once.
    fn first(&self) -> Bytes {
        let mut first = self.block.clone();
        let number = self.uploads.fetch_add(1, Ordering::Relaxed);
        first[..8].copy_from_slice(&number.to_be_bytes());
        first.into()
    }

    /// The MiB at `offset`.
    fn chunks(&self) -> impl Fn(u64) -> Bytes + Send + Sync + Clone + 'static {
        let (first, other) = (self.first(), Bytes::from(self.block.clone()));
        move |offset| {
            if offset == 0 {
                first.clone()
            } else {
                other.clone()
            }
        }
    }

    fn in_one_request(&self, length: u64) -> Took {
        let chunks = self.chunks();
        self.runtime.block_on(async {
            let begun = Instant::now();
            let writer = self.rows.uploads.begin(self.rows.intent(length)).await;
            let mut writer = writer.expect("there is room");
            for offset in (0..length).step_by(BLOCK_BYTES) {
                writer.write(chunks(offset)).await.expect("the disk holds");
            }
            let last = Instant::now();
            writer.finish().await.expect("nothing stands against it");
            Took {
                all: begun.elapsed(),
                end: last.elapsed(),
            }
        })
    }

    fn in_requests(&self, length: u64) -> Duration {
        let chunks = self.chunks();
        let engine = &self.rows.uploads;
        self.runtime.block_on(async {
            let begun = Instant::now();
            let intent = UploadIntent {
                keep: Keep::UntilIdle,
                ..self.rows.intent(length)
            };
            let id = engine.create(intent).await.expect("there is room").id;
            let each = length / REQUESTS;
            for request in 0..REQUESTS {
                let from = request * each;
                let mut writer = engine.resume(id, from).await.expect("it is open");
                for offset in (from..from + each).step_by(BLOCK_BYTES) {
                    writer.write(chunks(offset)).await.expect("the disk holds");
                }
                if request + 1 == REQUESTS {
                    writer.finish().await.expect("nothing stands against it");
                } else {
                    writer.pause().await.expect("the disk holds");
                }
            }
            begun.elapsed()
        })
    }

    fn in_parts(&self, length: u64) -> Took {
        let chunks = self.chunks();
        let engine = self.rows.uploads.clone();
        self.runtime.block_on(async {
            let begun = Instant::now();
            let intent = UploadIntent {
                keep: Keep::UntilIdle,
                cut: Some(Cut::Parts),
                ..self.rows.intent(length)
            };
            let row = engine.create(intent).await.expect("there is room");
            let next = Arc::new(AtomicU32::new(0));
            let count = u32::try_from(length.div_ceil(row.part_bytes)).expect("a few");
            let connections: Vec<_> = (0..CONNECTIONS)
                .map(|_| {
                    let (engine, chunks) = (engine.clone(), chunks.clone());
                    let (next, part) = (Arc::clone(&next), row.part_bytes);
                    tokio::spawn(async move {
                        let mut last = begun;
                        loop {
                            let k = next.fetch_add(1, Ordering::Relaxed);
                            if k >= count {
                                return last;
                            }
                            last = put(&engine, row.id, k, part, length, &chunks).await;
                        }
                    })
                })
                .collect();
            let mut last = begun;
            for connection in connections {
                last = last.max(connection.await.expect("no connection panics"));
            }
            Took {
                all: begun.elapsed(),
                end: last.elapsed(),
            }
        })
    }
}

/// Sends one part; returns when its last byte was taken.
async fn put(
    engine: &UploadEngine,
    id: boxgate_storage::blob::UploadId,
    k: u32,
    part_bytes: u64,
    length: u64,
    chunks: &(impl Fn(u64) -> Bytes + Sync),
) -> Instant {
    let start = u64::from(k) * part_bytes;
    let end = length.min(start + part_bytes);
    let progress = engine.follow_pieces(id).await;
    let window = WINDOW_PARTS * part_bytes;
    let mut progress = progress.expect("the upload takes pieces");
    let near = progress.wait_for(|committed| start < committed + window);
    near.await.expect("the upload is open");
    let writer = engine.piece(id, k, Some(end - start)).await;
    let mut writer = writer.expect("it is open");
    for offset in (start..end).step_by(BLOCK_BYTES) {
        writer.write(chunks(offset)).await.expect("the disk holds");
    }
    let last = Instant::now();
    writer.finish().await.expect("the disk holds");
    last
}

criterion_group!(benches, pieces);
criterion_main!(benches);
