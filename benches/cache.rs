//! Question: what does it cost to read a box from the local store: proved at each read, filled into the
//! cache, found in it?
//!
//! Unit: GiB/s of one reader that takes bytes and drops them; the file is in the page cache. Size: 256 MiB.
//!
//! - `proved at each read` is the baseline: what a download costs without a cache.
//! - `fill`: the first reader after a start. Worse than the baseline is what the cache costs those who are
//!   alone with their box.
//! - `hit`: every reader after it. It must be far above the baseline, or the cache is not worth its memory.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use boxgate_benches::{block, runtime};
use boxgate_storage::Result;
use boxgate_storage::backend::local;
use boxgate_storage::blob::{BlobKey, BlobMeta};
use boxgate_storage::digest::ContentHasher;
use boxgate_storage::layer::cache::{BlockCache, CacheOptions};
use boxgate_storage::layer::verify::{self, BlobTree};
use boxgate_storage::range::ByteRange;
use boxgate_storage::store::ReadBlob;
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tokio_util::task::TaskTracker;

const LENGTH: u64 = 256 << 20;

fn cache(criterion: &mut Criterion) {
    let runtime = runtime();
    let directory = tempfile::tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR")));
    let directory = directory.expect("the file system of target/ has room");
    let kept = runtime.block_on(Kept::new(directory.path()));
    let mut group = criterion.benchmark_group("read");
    group.throughput(Throughput::Bytes(LENGTH));
    group.sample_size(10);
    group.bench_function("proved at each read", |bencher| {
        bencher.to_async(&runtime).iter(async || {
            let opened =
                verify::open(&kept.read, &kept.meta, &kept.tree, ByteRange::whole(LENGTH)).await;
            drain(opened.expect("the file is there")).await;
        });
    });
    group.bench_function("fill", |bencher| {
        bencher
            .to_async(&runtime)
            .iter(async || kept.read_through(&new_cache()).await);
    });
    let warm = new_cache();
    runtime.block_on(kept.read_through(&warm));
    group.bench_function("hit", |bencher| {
        bencher
            .to_async(&runtime)
            .iter(async || kept.read_through(&warm).await);
    });
    group.finish();
}

fn new_cache() -> BlockCache {
    let options = CacheOptions {
        size_bytes: 2 * LENGTH,
        block_bytes: 1 << 20,
    };
    BlockCache::new(options, TaskTracker::new())
}

/// A blob in a local store.
struct Kept {
    read: Arc<dyn ReadBlob>,
    meta: BlobMeta,
    tree: BlobTree,
}

impl Kept {
    async fn new(directory: &Path) -> Self {
        let store = local::open(directory).await.expect("the directory is ours");
        let key = BlobKey::random();
        let name = key.to_string();
        let bytes = block().repeat(usize::try_from(LENGTH >> 20).expect("a few hundred"));
        let shard = directory.join(&name[..2]);
        std::fs::create_dir_all(&shard).expect("the directory is ours");
        std::fs::write(shard.join(&name), &bytes).expect("the disk has room");
        let mut hasher = ContentHasher::new([]);
        hasher.update(&bytes);
        let digests = hasher.finish();
        Self {
            read: store.read,
            meta: BlobMeta {
                key,
                length: LENGTH,
                blake3: digests.blake3,
                sha256: digests.sha256,
            },
            tree: BlobTree {
                values: hasher.take_values().into(),
            },
        }
    }

    async fn read_through(&self, cache: &BlockCache) {
        let opened = cache.open(&self.read, &self.meta, &self.tree, ByteRange::whole(LENGTH));
        drain(opened.await.expect("the file is there").1).await;
    }
}

async fn drain(mut stream: BoxStream<'static, Result<Bytes>>) {
    let mut read = 0;
    while let Some(bytes) = stream.next().await {
        read += black_box(bytes.expect("the file is whole")).len() as u64;
    }
    assert_eq!(read, LENGTH);
}

criterion_group!(benches, cache);
criterion_main!(benches);
