//! The cache of verified blocks: each filled once, all within its budget, nothing unproved.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use boxgate_storage::blob::BlobKey;
use boxgate_storage::layer::cache::{BlockCache, CacheOptions, Origin};
use boxgate_storage::range::ByteRange;
use boxgate_storage::store::ReadBlob;
use boxgate_storage::{ErrorKind, Result};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use proptest::prelude::*;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use crate::verify::{Kept, keep};

const MIB: usize = 1 << 20;

/// Counts what is read, and lets a read through per permit of its gate.
#[derive(Debug)]
struct Counted {
    inner: Arc<dyn ReadBlob>,
    opened: AtomicU64,
    gate: Semaphore,
}

#[async_trait]
impl ReadBlob for Counted {
    async fn stat(&self, key: &BlobKey) -> Result<u64> {
        self.inner.stat(key).await
    }

    async fn open(
        &self,
        key: &BlobKey,
        range: ByteRange,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        drop(self.gate.acquire().await);
        self.inner.open(key, range).await
    }
}

fn counted(kept: &Kept, permits: usize) -> Arc<Counted> {
    Arc::new(Counted {
        inner: Arc::clone(&kept.read),
        opened: AtomicU64::new(0),
        gate: Semaphore::new(permits),
    })
}

fn cache(size: usize, block: usize) -> (BlockCache, TaskTracker) {
    let tasks = TaskTracker::new();
    let options = CacheOptions {
        size_bytes: size as u64,
        block_bytes: block as u64,
    };
    (BlockCache::new(options, tasks.clone()), tasks)
}

fn range(start: usize, end: usize) -> ByteRange {
    ByteRange::try_new(start as u64, end as u64).unwrap()
}

async fn read(
    cache: &BlockCache,
    kept: &Kept,
    source: &Arc<dyn ReadBlob>,
    range: ByteRange,
) -> Result<(Origin, Vec<u8>)> {
    let (origin, mut stream) = cache.open(source, &kept.meta, &kept.tree, range).await?;
    let mut all = Vec::new();
    while let Some(bytes) = stream.next().await {
        all.extend_from_slice(&bytes?);
    }
    Ok((origin, all))
}

async fn ended(tasks: &TaskTracker) {
    tasks.close();
    tasks.wait().await;
}

#[tokio::test]
async fn a_block_is_filled_once_however_many_ask() {
    let kept = Arc::new(keep(4 * MIB + 5).await);
    let source = counted(&kept, 0);
    let read_from: Arc<dyn ReadBlob> = Arc::clone(&source) as _;
    let (cache, tasks) = cache(64 * MIB, MIB);
    let mut readers = JoinSet::new();
    for _ in 0..64 {
        let (cache, kept, read_from) = (cache.clone(), Arc::clone(&kept), Arc::clone(&read_from));
        readers.spawn(async move {
            let all = range(0, kept.bytes.len());
            let (_, bytes) = read(&cache, &kept, &read_from, all).await.unwrap();
            assert!(bytes == kept.bytes);
        });
    }
    // All of them wait for the one fill that stands at the gate.
    while cache.stats().misses < 64 {
        tokio::task::yield_now().await;
    }
    assert_eq!(source.opened.load(Ordering::SeqCst), 1);
    source.gate.add_permits(1000);
    while let Some(reader) = readers.join_next().await {
        reader.unwrap();
    }
    ended(&tasks).await;
    assert_eq!(source.opened.load(Ordering::SeqCst), 5);
    assert_eq!(cache.stats().fills, 5);
    let again = read(&cache, &kept, &read_from, range(7, MIB + 9)).await;
    let (origin, bytes) = again.unwrap();
    assert_eq!(origin, Origin::Hit);
    assert!(bytes == kept.bytes[7..MIB + 9]);
}

#[tokio::test]
async fn a_fill_whose_asker_left_goes_on() {
    let kept = keep(2 * MIB).await;
    let source = counted(&kept, 0);
    let read_from: Arc<dyn ReadBlob> = Arc::clone(&source) as _;
    let (cache, tasks) = cache(64 * MIB, MIB);
    {
        let asking = cache.open(&read_from, &kept.meta, &kept.tree, range(0, 10));
        let mut asking = std::pin::pin!(asking);
        assert!(futures_util::poll!(asking.as_mut()).is_pending());
    }
    source.gate.add_permits(10);
    ended(&tasks).await;
    let (origin, bytes) = read(&cache, &kept, &read_from, range(0, 10)).await.unwrap();
    assert_eq!(origin, Origin::Hit);
    assert!(bytes == kept.bytes[..10]);
    assert_eq!(cache.stats().fills, 1);
}

#[tokio::test]
async fn damage_reaches_everyone_who_waited_and_is_not_kept() {
    let kept = keep(2 * MIB).await;
    let mut wrong = kept.tree.values.to_vec();
    wrong[1] = [7; 32];
    let damaged = Kept {
        tree: boxgate_storage::layer::verify::BlobTree {
            values: wrong.into(),
        },
        ..kept
    };
    let (cache, tasks) = cache(64 * MIB, MIB);
    let all = range(0, 2 * MIB);
    let ask = || read(&cache, &damaged, &damaged.read, all);
    let (one, two) = tokio::join!(ask(), ask());
    assert_eq!(one.unwrap_err().kind(), ErrorKind::Damaged);
    assert_eq!(two.unwrap_err().kind(), ErrorKind::Damaged);
    ended(&tasks).await;
    assert_eq!(cache.stats().fills, 1, "the good block alone");
    assert_eq!(cache.stats().held_bytes, MIB as u64);
    assert_eq!(ask().await.unwrap_err().kind(), ErrorKind::Damaged);
}

#[tokio::test]
async fn a_range_past_the_end_is_refused() {
    let kept = keep(10).await;
    let (cache, _tasks) = cache(64 * MIB, MIB);
    let refused = cache
        .open(&kept.read, &kept.meta, &kept.tree, range(0, 11))
        .await;
    assert_eq!(refused.err().unwrap().kind(), ErrorKind::Invalid);
    let empty = read(&cache, &kept, &kept.read, range(10, 10)).await;
    assert!(empty.unwrap().1.is_empty());
}

#[tokio::test]
async fn a_block_that_gave_way_is_charged_until_its_last_reader_drops_it() {
    let kept = keep(16 * MIB).await;
    let (cache, tasks) = cache(8 * MIB, MIB);
    let (_, mut first) = cache
        .open(&kept.read, &kept.meta, &kept.tree, range(0, MIB))
        .await
        .unwrap();
    let held = first.next().await.unwrap().unwrap();
    let (_, bytes) = read(&cache, &kept, &kept.read, range(0, 16 * MIB))
        .await
        .unwrap();
    assert!(bytes == kept.bytes);
    ended(&tasks).await;
    let before = cache.stats();
    assert!(before.evictions > 0, "{before:?}");
    assert!(before.held_bytes <= 7 * MIB as u64, "{before:?}");
    assert!(held == kept.bytes[..MIB]);
    drop((held, first));
    assert!(cache.stats().held_bytes <= 6 * MIB as u64);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_keeps_small_copies() {
    let kept = keep(4 * MIB).await;
    let (cache, tasks) = cache(64 * MIB, MIB);
    let (_, mut stream) = cache
        .open(&kept.read, &kept.meta, &kept.tree, range(0, 4 * MIB))
        .await
        .unwrap();
    let mut all = Vec::new();
    for (wait, length) in [(0, MIB), (4, MIB), (6, 64 << 10), (0, 64 << 10)] {
        tokio::time::advance(Duration::from_secs(wait)).await;
        let bytes = stream.next().await.unwrap().unwrap();
        assert_eq!(bytes.len(), length, "after {wait} s");
        all.extend_from_slice(&bytes);
    }
    while let Some(bytes) = stream.next().await {
        all.extend_from_slice(&bytes.unwrap());
    }
    assert!(all == kept.bytes);
    ended(&tasks).await;
    assert_eq!(cache.stats().fills, 4);
}

/// Each of them holds what it was handed, and asks for nothing more.
#[tokio::test(start_paused = true)]
async fn clients_that_stop_reading_keep_nobody_from_reading() {
    let stalled = keep(24 * MIB).await;
    let (cache, tasks) = cache(16 * MIB, MIB);
    let mut held = Vec::new();
    for block in 0..24 {
        let wanted = range(block * MIB, (block + 1) * MIB);
        let opened = cache.open(&stalled.read, &stalled.meta, &stalled.tree, wanted);
        let (_, mut stream) = opened.await.unwrap();
        let bytes = stream.next().await.unwrap().unwrap();
        assert!(bytes == stalled.bytes[block * MIB..][..bytes.len()]);
        held.push((bytes, stream));
    }
    let lent = held.iter().filter(|(bytes, _)| bytes.len() == MIB).count();
    assert_eq!(
        lent, 6,
        "three eighths of the cache, and copies to all others"
    );
    let honest = keep(20 * MIB).await;
    let all = range(0, 20 * MIB);
    let reading = read(&cache, &honest, &honest.read, all);
    // The clock is paused: it reaches the bound only when nothing moves any more.
    let (_, bytes) = tokio::time::timeout(Duration::from_hours(1), reading)
        .await
        .expect("a fill waits for those who hold blocks")
        .unwrap();
    assert!(bytes == honest.bytes);
    drop(held);
    let opened = cache.open(&honest.read, &honest.meta, &honest.tree, all);
    let first = opened.await.unwrap().1.next().await.unwrap().unwrap();
    assert_eq!(first.len(), MIB, "every loan came back");
    drop(first);
    ended(&tasks).await;
    assert!(cache.stats().held_bytes <= 8 * MIB as u64);
}

#[tokio::test]
async fn one_loan_of_a_block_serves_all_its_readers() {
    let kept = keep(MIB).await;
    let (cache, _tasks) = cache(8 * MIB, MIB);
    let mut held = Vec::new();
    for _ in 0..100 {
        let opened = cache.open(&kept.read, &kept.meta, &kept.tree, range(0, MIB));
        held.push(opened.await.unwrap().1.next().await.unwrap().unwrap());
    }
    assert!(held.iter().all(|bytes| bytes == &kept.bytes));
    assert_eq!(cache.stats().held_bytes, MIB as u64);
}

/// Readers of more than fits, some of which leave early or keep what they got.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn never_more_than_its_bytes_are_held_under_stress() {
    const SIZE: usize = 8 * MIB;
    let (cache, tasks) = cache(SIZE, MIB);
    let mut blobs = Vec::new();
    for length in [5 * MIB + 3, 9 * MIB, 1, 7 * MIB + 77] {
        blobs.push(Arc::new(keep(length).await));
    }
    let mut readers = JoinSet::new();
    for reader in 0..48_usize {
        let (cache, kept) = (cache.clone(), Arc::clone(&blobs[reader % blobs.len()]));
        readers.spawn(async move {
            let length = kept.bytes.len();
            for round in 0..6_usize {
                let start = (reader * 7919 + round * 104_729) % length;
                let wanted = range(start, length);
                let opened = cache.open(&kept.read, &kept.meta, &kept.tree, wanted).await;
                let (_, mut stream) = opened.unwrap();
                let (mut at, mut taken) = (start, 0);
                while let Some(bytes) = stream.next().await {
                    let bytes = bytes.unwrap();
                    assert!(bytes == kept.bytes[at..at + bytes.len()]);
                    at += bytes.len();
                    taken += 1;
                    let held = cache.stats().held_bytes;
                    assert!(held <= SIZE as u64, "{held} bytes are held");
                    if (reader + round) % 3 == 0 && taken == 2 {
                        break;
                    }
                }
            }
        });
    }
    while let Some(reader) = readers.join_next().await {
        reader.unwrap();
    }
    ended(&tasks).await;
    assert!(tasks.is_empty());
    let stats = cache.stats();
    assert!(stats.held_bytes <= (SIZE - SIZE / 4) as u64, "{stats:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_ranges_of_any_blocks_are_the_blobs_bytes_within_the_budget(
        length in 1_usize..6 * MIB,
        block in 0_u32..3,
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..6),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let kept = keep(length).await;
            let block = MIB << block;
            let (cache, tasks) = cache(8 * block, block);
            for (a, b) in cuts {
                let (a, b) = (a.index(length + 1), b.index(length + 1));
                let (start, end) = (a.min(b), a.max(b));
                let (_, bytes) = read(&cache, &kept, &kept.read, range(start, end)).await.unwrap();
                assert!(bytes == kept.bytes[start..end]);
                assert!(cache.stats().held_bytes <= 8 * block as u64);
            }
            ended(&tasks).await;
        });
    }
}
