//! Question: where do the CPU seconds of an uploaded GB go, and what does the upload engine cost beyond
//! the plain loop that anyone would write?
//!
//! Unit: GiB per CPU second of the receiving side (`upload_cpu`, the client's thread taken off) and
//! GiB/s (`upload_wall`, the whole arms only). Size: 256 MiB over one loopback connection, on the file
//! system of `target/`. Each numbered arm does what the one before does and one thing more, so the
//! difference of two neighbours is what that thing costs:
//!
//! 1. hyper receives; 2. BLAKE3 with a value per MiB; 3. SHA-256; 4. a copy into a pooled buffer, a
//!    direct write and one `fdatasync` per 16 MiB; 5. the upload engine with rows in memory; 6. with
//!    rows in `SQLite`. `plain loop` receives, hashes both and writes with `tokio::fs`, one `fdatasync`.
//!
//! Worse means: 4 against 3 is the price of the store, 5 against 4 that of the engine's bookkeeping,
//! 6 against 5 that of the rows. The engine should never be dearer than the plain loop.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use boxgate_benches::rows::Rows;
use boxgate_benches::{Cost, over_http, runtime};
use boxgate_storage::backend::local;
use boxgate_storage::blob::BlobKey;
use boxgate_storage::buffer::{Buffer, BufferPool};
use boxgate_storage::digest::{ContentHasher, TreeHasher};
use boxgate_storage::store::{PartIndex, Run, RunBytes, Store, UploadSink};
use bytes::{Buf as _, Bytes};
use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;
use tokio::runtime::Runtime;

const LENGTH: u64 = 256 << 20;
const PART_BYTES: u64 = 16 << 20;
const RUNS_IN_FLIGHT: usize = 4;

fn ingest(criterion: &mut Criterion) {
    let bench = Bench::new();
    let mut group = begin(criterion, "upload_cpu");
    let cpu: fn(&Cost) -> Duration = |cost| cost.cpu;
    arm(&mut group, "1 receive", cpu, || bench.receive(|_| {}));
    arm(&mut group, "2 and BLAKE3", cpu, || {
        let mut hasher = TreeHasher::new();
        bench.receive(move |bytes| hasher.update(bytes))
    });
    arm(&mut group, "3 and SHA-256", cpu, || {
        let mut hasher = ContentHasher::new([]);
        bench.receive(move |bytes| hasher.update(bytes))
    });
    arm(&mut group, "4 and write", cpu, || bench.store());
    arm(&mut group, "5 engine, rows in memory", cpu, || {
        bench.engine(&bench.in_memory)
    });
    arm(&mut group, "6 engine, rows in SQLite", cpu, || {
        bench.engine(&bench.in_sqlite)
    });
    arm(&mut group, "plain loop", cpu, || bench.plain_loop());
    group.finish();

    let mut group = begin(criterion, "upload_wall");
    let wall: fn(&Cost) -> Duration = |cost| cost.wall;
    arm(&mut group, "4 and write", wall, || bench.store());
    arm(&mut group, "5 engine, rows in memory", wall, || {
        bench.engine(&bench.in_memory)
    });
    arm(&mut group, "6 engine, rows in SQLite", wall, || {
        bench.engine(&bench.in_sqlite)
    });
    arm(&mut group, "plain loop", wall, || bench.plain_loop());
    group.finish();
}

fn begin<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group
        .throughput(Throughput::Bytes(LENGTH))
        .sample_size(10)
        .sampling_mode(SamplingMode::Flat);
    group
}

fn arm(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    of: fn(&Cost) -> Duration,
    mut once: impl FnMut() -> Cost,
) {
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|times| {
            let mut sum = Cost::default();
            for _ in 0..times {
                sum += once();
            }
            of(&sum)
        });
    });
}

/// What the arms stand on.
struct Bench {
    runtime: Runtime,
    directory: tempfile::TempDir,
    store: Store,
    pool: BufferPool,
    in_memory: Rows,
    in_sqlite: Rows,
}

impl Bench {
    fn new() -> Self {
        let runtime = runtime();
        // Not in the temporary directory, which may be memory: the disk is part of the question.
        let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let directory = tempfile::tempdir_in(target).expect("cargo made the directory");
        let store = runtime.block_on(local::open(&directory.path().join("blobs")));
        let store = store.expect("an empty directory is a store");
        let pool = BufferPool::new(128 << 20);
        let in_memory = Rows::in_memory(&store, &pool);
        let in_sqlite = runtime.block_on(Rows::in_sqlite(&store, &pool, directory.path()));
        Self {
            runtime,
            directory,
            store,
            pool,
            in_memory,
            in_sqlite,
        }
    }

    /// Receives, and shows each frame.
    fn receive(&self, mut show: impl FnMut(&[u8]) + Send + 'static) -> Cost {
        over_http(&self.runtime, LENGTH, move |mut body| async move {
            while let Some(frame) = next(&mut body).await {
                show(&frame);
            }
        })
    }

    /// What the engine does with a store, without the engine.
    fn store(&self) -> Cost {
        let key = BlobKey::random();
        let (write, pool) = (Arc::clone(&self.store.write), self.pool.clone());
        let cost = over_http(&self.runtime, LENGTH, move |mut body| async move {
            let sink = write
                .begin(&key, PART_BYTES, Some(LENGTH))
                .await
                .expect("there is room");
            let mut stored = Stored::new(sink, pool);
            let mut hasher = ContentHasher::new([]);
            while let Some(frame) = next(&mut body).await {
                hasher.update(&frame);
                stored.write(frame).await;
            }
            stored.end().await;
            hasher.finish();
        });
        let delete = self
            .store
            .delete
            .as_ref()
            .expect("a local store can delete");
        self.runtime
            .block_on(delete.delete(&key))
            .expect("the blob is there");
        cost
    }

    fn engine(&self, on: &Rows) -> Cost {
        let (engine, intent) = (on.uploads.clone(), on.intent(LENGTH));
        let cost = over_http(&self.runtime, LENGTH, move |mut body| async move {
            let mut writer = engine.begin(intent).await.expect("there is room");
            while let Some(frame) = next(&mut body).await {
                writer.write(frame).await.expect("the disk holds");
            }
            writer
                .finish()
                .await
                .expect("nothing stands against publishing");
        });
        // The blob before this one lost its name to it.
        self.runtime
            .block_on(on.uploads.sweep())
            .expect("rows can be read");
        cost
    }

    fn plain_loop(&self) -> Cost {
        let path = self.directory.path().join("plain");
        let written = path.clone();
        let cost = over_http(&self.runtime, LENGTH, move |body| async move {
            plain(body, written).await;
        });
        std::fs::remove_file(path).expect("the loop made it");
        cost
    }
}

/// Receive, hash, write, as anyone would.
async fn plain(mut body: Incoming, path: PathBuf) {
    let mut file = tokio::fs::File::create(path)
        .await
        .expect("the directory is there");
    let (mut blake3, mut sha256) = (blake3::Hasher::new(), Sha256::new());
    while let Some(frame) = next(&mut body).await {
        blake3.update(&frame);
        sha256.update(&frame);
        file.write_all(&frame).await.expect("the disk holds");
    }
    file.flush().await.expect("the disk holds");
    file.sync_data().await.expect("the disk holds");
    blake3.finalize();
    sha256.finalize();
}

async fn next(body: &mut Incoming) -> Option<Bytes> {
    loop {
        let frame = body.frame().await?.expect("loopback holds");
        if let Ok(bytes) = frame.into_data() {
            return Some(bytes);
        }
    }
}

/// A sink with buffers before it.
struct Stored {
    sink: Box<dyn UploadSink>,
    pool: BufferPool,
    buffer: Option<Buffer>,
    offset: u64,
    in_flight: tokio::task::JoinSet<()>,
}

impl Stored {
    fn new(sink: Box<dyn UploadSink>, pool: BufferPool) -> Self {
        Self {
            sink,
            pool,
            buffer: None,
            offset: 0,
            in_flight: tokio::task::JoinSet::new(),
        }
    }

    async fn write(&mut self, mut frame: Bytes) {
        while !frame.is_empty() {
            let mut buffer = match self.buffer.take() {
                Some(buffer) => buffer,
                None => self.pool.take().await,
            };
            frame.advance(buffer.fill(&frame));
            if !buffer.is_full() {
                self.buffer = Some(buffer);
                return;
            }
            self.hand_over(buffer).await;
        }
    }

    async fn hand_over(&mut self, buffer: Buffer) {
        if self.in_flight.len() >= RUNS_IN_FLIGHT {
            self.in_flight.join_next().await;
        }
        let run = Run {
            offset: self.offset,
            bytes: RunBytes::Buffer(Arc::new(buffer)),
        };
        self.offset = run.end();
        let written = self.sink.write(run);
        self.in_flight
            .spawn(async move { written.await.expect("the disk holds") });
        if self.offset.is_multiple_of(PART_BYTES) {
            self.seal().await;
        }
    }

    async fn seal(&mut self) {
        while self.in_flight.join_next().await.is_some() {}
        let part = u32::try_from(self.offset.div_ceil(PART_BYTES)).expect("a few parts");
        self.sink
            .seal(PartIndex(part - 1))
            .await
            .expect("the disk holds");
    }

    async fn end(mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.hand_over(buffer).await;
            self.seal().await;
        }
        self.sink.commit().await.expect("the disk holds");
    }
}

criterion_group!(benches, ingest);
criterion_main!(benches);
