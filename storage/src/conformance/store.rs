//! The contract of [`crate::store`]: what every backend and every layer must do. Cases that need a
//! capability run where it is present.
//!
//! Each case panics with what it expected; [`all`] runs those that the store can be asked for.

#![expect(
    clippy::missing_panics_doc,
    reason = "panicking with what was expected is what a case is for"
)]

use std::time::Duration;

use futures_util::StreamExt;

use crate::blob::{BlobKey, UploadId};
use crate::buffer::{BUFFER_BYTES, BufferPool};
use crate::error::{ErrorKind, Result};
use crate::range::ByteRange;
use crate::store::{Intake, Kept, PartIndex, Receipts, Run, RunBytes, Store, UploadSink};

/// Runs every case on `store`, which must be empty and is left so if it can delete.
pub async fn all(store: &Store) {
    what_was_written_is_read_back_whole_and_in_ranges(store).await;
    runs_may_arrive_in_any_order(store).await;
    a_run_may_be_short_anywhere(store).await;
    a_seal_may_be_asked_for_while_others_are_in_flight(store).await;
    a_blob_goes_on_where_it_was_left(store).await;
    if store.intake == Intake::InPlace {
        a_run_is_taken_without_being_polled(store).await;
        what_lies_behind_the_offset_is_cut_off(store).await;
    }
    a_blob_that_lost_bytes_does_not_go_on(store).await;
    a_blob_has_one_sink_at_a_time(store).await;
    a_key_is_used_once(store).await;
    an_aborted_upload_leaves_nothing(store).await;
    what_is_missing_is_not_found(store).await;
    a_range_past_the_end_is_damage(store).await;
    a_read_may_be_left_half_way(store).await;
    deleting_is_repeatable(store).await;
    sidecars_go_with_their_blob(store).await;
    pages_are_ordered_and_complete(store).await;
    free_space_is_within_the_whole(store).await;
}

/// Parts of 2 MiB keep the cases small.
const PART_BYTES: u64 = 2 << 20;
/// Two parts and a bit: full buffers, a short one, a short last part.
const LENGTH: usize = 4 * BUFFER_BYTES + 12_345;

/// Bytes that differ from place to place.
fn content(length: usize, salt: u8) -> Vec<u8> {
    (0..length)
        .map(|i| (i ^ (i >> 8) ^ (i >> 16)).to_le_bytes()[0] ^ salt)
        .collect()
}

async fn run_at(pool: &BufferPool, bytes: &[u8], at: usize) -> Run {
    let mut buffer = pool.take().await;
    buffer.fill(&bytes[at..]);
    Run {
        offset: at as u64,
        bytes: RunBytes::Buffer(std::sync::Arc::new(buffer)),
    }
}

async fn begin(store: &Store, key: &BlobKey, length: usize) -> Box<dyn UploadSink> {
    let begun = store
        .write
        .begin(key, PART_BYTES, Some(length as u64))
        .await;
    begun.expect("a fresh key can be begun")
}

/// Writes a whole blob as the engine does: runs, then a seal per part, then commit.
async fn put(store: &Store, bytes: &[u8]) -> BlobKey {
    let (key, pool) = (BlobKey::random(), BufferPool::new(PART_BYTES));
    let mut sink = begin(store, &key, bytes.len()).await;
    let runs_per_part = usize::try_from(PART_BYTES).expect("small") / BUFFER_BYTES;
    for (number, at) in (0..bytes.len()).step_by(BUFFER_BYTES).enumerate() {
        let written = sink.write(run_at(&pool, bytes, at).await).await;
        written.expect("a run is taken");
        let last = at + BUFFER_BYTES >= bytes.len();
        if last || (number + 1) % runs_per_part == 0 {
            let part = u32::try_from(number / runs_per_part).expect("few parts");
            let sealed = sink.seal(PartIndex(part)).await;
            sealed.expect("a written part becomes durable");
        }
    }
    let committed = sink.commit().await.expect("a sealed upload is committed");
    assert_eq!(committed, bytes.len() as u64, "commit tells the length");
    assert_eq!(pool.in_use_bytes(), 0, "the store keeps no buffer");
    key
}

async fn read(store: &Store, key: &BlobKey, start: usize, end: usize) -> Result<Vec<u8>> {
    let range = ByteRange::try_new(start as u64, end as u64).expect("ranges of cases are ordered");
    let mut stream = store.read.open(key, range).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        assert!(chunk.len() <= BUFFER_BYTES, "chunks are 1 MiB at most");
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

async fn remove(store: &Store, key: &BlobKey) {
    if let Some(delete) = &store.delete {
        delete.delete(key).await.expect("a blob can be deleted");
    }
}

/// Each is there under its own id, and none once the blob is deleted, whether it was there or not.
pub async fn sidecars_go_with_their_blob(store: &Store) {
    let Some(sidecars) = &store.sidecars else {
        return;
    };
    let key = put(store, &content(BUFFER_BYTES, 6)).await;
    let (one, other) = (UploadId::random(), UploadId::random());
    for (id, text) in [(one, "first"), (other, "other"), (one, "second")] {
        let put = sidecars.put(&key, id, text).await;
        put.expect("a sidecar is written");
    }
    let none = sidecars.beside(&BlobKey::random()).await;
    assert_eq!(none.expect("nothing is there"), []);
    let mut found = sidecars.beside(&key).await.expect("they are read");
    found.sort_unstable();
    let mut expected = vec![(one, b"second".to_vec()), (other, b"other".to_vec())];
    expected.sort_unstable();
    assert_eq!(found, expected);
    if let Some(list) = &store.list {
        let page = list.page(None, 10).await.expect("a page");
        assert_eq!(page, [key], "a sidecar is no blob");
    }
    for _ in 0..2 {
        let removed = sidecars.remove(&key, other).await;
        removed.expect("removing is repeatable");
    }
    let found = sidecars.beside(&key).await.expect("they are read");
    assert_eq!(found, [(one, b"second".to_vec())]);
    if store.delete.is_some() {
        remove(store, &key).await;
        let found = sidecars.beside(&key).await.expect("nothing is there");
        assert_eq!(found, [], "they went with the blob");
    }
}

/// What comes back is what went in, for the whole and for every odd range of it.
pub async fn what_was_written_is_read_back_whole_and_in_ranges(store: &Store) {
    for length in [1, BUFFER_BYTES, 2 * BUFFER_BYTES, LENGTH] {
        let bytes = content(length, 1);
        let key = put(store, &bytes).await;
        let held = store.read.stat(&key).await.expect("it is there");
        assert_eq!(held, length as u64);
        let edges = [
            0,
            1,
            BUFFER_BYTES - 1,
            BUFFER_BYTES,
            BUFFER_BYTES + 1,
            LENGTH - 1,
            LENGTH,
        ];
        for start in edges {
            for end in edges {
                if start <= end && end <= length {
                    let found = read(store, &key, start, end).await.expect("it can be read");
                    assert!(found == bytes[start..end], "{start}..{end} of {length}");
                }
            }
        }
        remove(store, &key).await;
    }
}

/// Several runs may be under way at once, and land in any order.
pub async fn runs_may_arrive_in_any_order(store: &Store) {
    let (key, bytes) = (BlobKey::random(), content(LENGTH, 2));
    let pool = BufferPool::new(8 << 20);
    let mut sink = begin(store, &key, LENGTH).await;
    let mut writes = Vec::new();
    for at in (0..LENGTH).step_by(BUFFER_BYTES).rev() {
        writes.push(sink.write(run_at(&pool, &bytes, at).await));
    }
    for written in futures_util::future::join_all(writes).await {
        written.expect("a run is taken");
    }
    for part in 0..3 {
        let sealed = sink.seal(PartIndex(part)).await;
        sealed.expect("a written part becomes durable");
    }
    assert_eq!(sink.commit().await.expect("it is whole"), LENGTH as u64);
    assert!(read(store, &key, 0, LENGTH).await.expect("it can be read") == bytes);
    remove(store, &key).await;
}

/// A slow upload hands over what it has; the next run goes on from there, unaligned.
pub async fn a_run_may_be_short_anywhere(store: &Store) {
    let (key, bytes) = (BlobKey::random(), content(LENGTH, 9));
    let pool = BufferPool::new(8 << 20);
    let mut sink = begin(store, &key, LENGTH).await;
    let cuts = [
        0,
        777,
        BUFFER_BYTES,
        BUFFER_BYTES + 4096,
        2 * BUFFER_BYTES,
        LENGTH,
    ];
    for cut in cuts.windows(2) {
        for at in (cut[0]..cut[1]).step_by(BUFFER_BYTES) {
            let end = cut[1].min(at + BUFFER_BYTES);
            let written = sink.write(run_at(&pool, &bytes[..end], at).await).await;
            written.expect("a run is taken");
        }
    }
    for part in 0..3 {
        let sealed = sink.seal(PartIndex(part)).await;
        sealed.expect("a written part becomes durable");
    }
    assert_eq!(sink.commit().await.expect("it is whole"), LENGTH as u64);
    assert!(read(store, &key, 0, LENGTH).await.expect("it can be read") == bytes);
    remove(store, &key).await;
}

/// A run gives its buffer back though nobody polls its future; else writers that wait for a buffer
/// would wait for ever.
pub async fn a_run_is_taken_without_being_polled(store: &Store) {
    let (key, bytes) = (BlobKey::random(), content(4 * BUFFER_BYTES, 3));
    let pool = BufferPool::new(2 << 20);
    let mut sink = begin(store, &key, bytes.len()).await;
    let mut writes = Vec::new();
    let patience = Duration::from_mins(1);
    for at in (0..bytes.len()).step_by(BUFFER_BYTES) {
        let run = tokio::time::timeout(patience, run_at(&pool, &bytes, at)).await;
        writes.push(sink.write(run.expect("a buffer comes back by itself")));
    }
    for written in futures_util::future::join_all(writes).await {
        written.expect("a run is taken");
    }
    sink.abort().await.expect("an upload can be given up");
}

/// Seals of several parts may overlap.
pub async fn a_seal_may_be_asked_for_while_others_are_in_flight(store: &Store) {
    let (key, bytes) = (BlobKey::random(), content(LENGTH, 4));
    let pool = BufferPool::new(8 << 20);
    let mut sink = begin(store, &key, LENGTH).await;
    for at in (0..LENGTH).step_by(BUFFER_BYTES) {
        let written = sink.write(run_at(&pool, &bytes, at).await).await;
        written.expect("a run is taken");
    }
    let seals: Vec<_> = (0..3).map(|part| sink.seal(PartIndex(part))).collect();
    for sealed in futures_util::future::join_all(seals).await {
        sealed.expect("a written part becomes durable");
    }
    assert_eq!(sink.commit().await.expect("it is whole"), LENGTH as u64);
    assert!(read(store, &key, 0, LENGTH).await.expect("it can be read") == bytes);
    remove(store, &key).await;
}

async fn resume(
    store: &Store,
    key: &BlobKey,
    offset: usize,
    (length, receipts): (usize, &Receipts),
) -> Result<Box<dyn UploadSink>> {
    let kept = Kept {
        shared: false,
        length: Some(length as u64),
        receipts: receipts.clone(),
        memory: None,
    };
    store
        .write
        .resume(key, PART_BYTES, offset as u64, kept)
        .await
}

/// Writes `bytes[from..to]` as the engine does: each run ends at a multiple of a buffer, or at `to`, and
/// each part is sealed.
async fn write(
    sink: &mut Box<dyn UploadSink>,
    receipts: &mut Receipts,
    bytes: &[u8],
    from: usize,
    to: usize,
) {
    let pool = BufferPool::new(2 * PART_BYTES);
    let mut at = from;
    while at < to {
        let end = to.min((at / BUFFER_BYTES + 1) * BUFFER_BYTES);
        let written = sink.write(run_at(&pool, &bytes[..end], at).await).await;
        written.expect("a run is taken");
        at = end;
        if at == to || (at as u64).is_multiple_of(PART_BYTES) {
            let part = u32::try_from((at as u64 - 1) / PART_BYTES).expect("few parts");
            let sealed = sink.seal(PartIndex(part)).await;
            let receipt = sealed.expect("a written part becomes durable");
            receipts.add(PartIndex(part), receipt);
        }
    }
}

/// A blob that was left anywhere, and left again, goes on from there.
pub async fn a_blob_goes_on_where_it_was_left(store: &Store) {
    let (key, bytes) = (BlobKey::random(), content(LENGTH, 10));
    drop(begin(store, &key, LENGTH).await);
    let (mut at, mut receipts) = (0, Receipts::default());
    for to in [1, 777, BUFFER_BYTES - 4096, 3 * BUFFER_BYTES + 1, LENGTH] {
        let resumed = resume(store, &key, at, (LENGTH, &receipts)).await;
        let mut sink = resumed.expect("what was left can go on");
        let last = at.saturating_sub(5);
        let range = ByteRange::try_new(last as u64, at as u64).expect("in order");
        if let Some(held) = sink.reread(range) {
            assert_eq!(held, bytes[last..at], "what it holds is what was written");
        }
        let old = receipts.tail;
        write(&mut sink, &mut receipts, &bytes, at, to).await;
        if let (Some(old), Some(delete)) = (old, &store.delete) {
            delete.delete(&old.key).await.expect("as the trash does");
        }
        at = to;
        if to == LENGTH {
            assert_eq!(sink.commit().await.expect("it is whole"), LENGTH as u64);
        }
    }
    assert!(read(store, &key, 0, LENGTH).await.expect("it can be read") == bytes);
    remove(store, &key).await;
}

/// Bytes that were written and never committed do not stay in the way, whoever cuts them off.
pub async fn what_lies_behind_the_offset_is_cut_off(store: &Store) {
    let (key, old, new) = (BlobKey::random(), content(LENGTH, 11), content(LENGTH, 12));
    let mut sink = begin(store, &key, LENGTH).await;
    let mut none = Receipts::default();
    write(&mut sink, &mut none, &old, 0, 3 * BUFFER_BYTES + 5).await;
    let paused = sink.pause(2 * BUFFER_BYTES as u64 + 7).await;
    paused.expect("a blob can be let go of");
    let held = store.read.stat(&key).await.expect("it is there");
    assert_eq!(held, 2 * BUFFER_BYTES as u64 + 7);
    let (from, to) = (BUFFER_BYTES + 9, BUFFER_BYTES + 20);
    let resumed = resume(store, &key, from, (LENGTH, &none)).await;
    let mut sink = resumed.expect("it goes on");
    assert_eq!(store.read.stat(&key).await.expect("there"), from as u64);
    write(&mut sink, &mut none, &new, from, to).await;
    assert_eq!(sink.commit().await.expect("it is whole"), to as u64);
    let found = read(store, &key, 0, to).await.expect("it can be read");
    assert!(found[..from] == old[..from] && found[from..] == new[from..to]);
    remove(store, &key).await;
}

/// What is shorter than what was committed, or is not there at all, is not gone on with.
pub async fn a_blob_that_lost_bytes_does_not_go_on(store: &Store) {
    let (key, bytes) = (BlobKey::random(), content(1000, 13));
    let mut receipts = Receipts::default();
    if store.intake == Intake::InPlace {
        let missing = resume(store, &key, 0, (1000, &receipts)).await;
        assert_eq!(missing.expect_err("missing").kind(), ErrorKind::NotFound);
    }
    let mut sink = begin(store, &key, 1000).await;
    write(&mut sink, &mut receipts, &bytes, 0, 900).await;
    drop(sink);
    let lost = resume(store, &key, 901, (1000, &receipts)).await;
    assert_eq!(lost.expect_err("too short").kind(), ErrorKind::Damaged);
    let kept = resume(store, &key, 900, (1000, &receipts)).await;
    kept.expect("nothing was changed")
        .abort()
        .await
        .expect("gone");
}

/// Whoever goes on waits until the sink before is gone.
pub async fn a_blob_has_one_sink_at_a_time(store: &Store) {
    let (key, bytes) = (BlobKey::random(), content(1000, 14));
    let mut first = begin(store, &key, 1000).await;
    let mut receipts = Receipts::default();
    write(&mut first, &mut receipts, &bytes, 0, 500).await;
    for _ in 0..2 {
        let mut second = Box::pin(resume(store, &key, 500, (1000, &receipts)));
        let waited = tokio::time::timeout(Duration::from_millis(50), &mut second).await;
        assert!(waited.is_err(), "the first one is still there");
        drop(first);
        first = second.await.expect("it is gone");
    }
    first.abort().await.expect("an upload can be given up");
}

/// Beginning under a key that is taken fails and leaves what is there alone.
pub async fn a_key_is_used_once(store: &Store) {
    let bytes = content(1000, 5);
    let key = put(store, &bytes).await;
    let again = store.write.begin(&key, PART_BYTES, None).await;
    assert_eq!(again.expect_err("taken").kind(), ErrorKind::Conflict);
    assert!(read(store, &key, 0, 1000).await.expect("it is still there") == bytes);
    remove(store, &key).await;
}

/// An upload that is given up is gone, with everything it wrote.
pub async fn an_aborted_upload_leaves_nothing(store: &Store) {
    let (key, bytes) = (BlobKey::random(), content(LENGTH, 6));
    let pool = BufferPool::new(8 << 20);
    let mut sink = begin(store, &key, LENGTH).await;
    let written = sink.write(run_at(&pool, &bytes, 0).await).await;
    written.expect("a run is taken");
    sink.abort().await.expect("an upload can be given up");
    let gone = store.read.stat(&key).await;
    assert_eq!(gone.expect_err("gone").kind(), ErrorKind::NotFound);
    assert_eq!(pool.in_use_bytes(), 0);
}

/// A key that was never used is not found.
pub async fn what_is_missing_is_not_found(store: &Store) {
    let key = BlobKey::random();
    let stat = store.read.stat(&key).await;
    assert_eq!(stat.expect_err("missing").kind(), ErrorKind::NotFound);
    let open = store.read.open(&key, ByteRange::whole(1)).await;
    assert_eq!(open.err().expect("missing").kind(), ErrorKind::NotFound);
}

/// Whoever asks for more than is there learns that the store lost something.
pub async fn a_range_past_the_end_is_damage(store: &Store) {
    let key = put(store, &content(1000, 7)).await;
    let past = read(store, &key, 0, 1001).await;
    assert_eq!(past.expect_err("too long").kind(), ErrorKind::Damaged);
    remove(store, &key).await;
}

/// Dropping a read half way is fine, and others go on.
pub async fn a_read_may_be_left_half_way(store: &Store) {
    let bytes = content(LENGTH, 8);
    let key = put(store, &bytes).await;
    let range = ByteRange::whole(LENGTH as u64);
    let mut left = store.read.open(&key, range).await.expect("it can be read");
    assert!(left.next().await.is_some_and(|chunk| chunk.is_ok()));
    drop(left);
    assert!(read(store, &key, 0, LENGTH).await.expect("it can be read") == bytes);
    remove(store, &key).await;
}

/// Deleting what is gone is success.
pub async fn deleting_is_repeatable(store: &Store) {
    let Some(delete) = &store.delete else { return };
    let key = put(store, b"x").await;
    for _ in 0..2 {
        delete.delete(&key).await.expect("it is gone");
    }
    let stat = store.read.stat(&key).await;
    assert_eq!(stat.expect_err("gone").kind(), ErrorKind::NotFound);
}

/// Pages give every key once, in order, whatever their size.
pub async fn pages_are_ordered_and_complete(store: &Store) {
    let Some(list) = &store.list else { return };
    let mut keys = Vec::new();
    for _ in 0..7 {
        keys.push(put(store, b"x").await);
    }
    keys.sort_unstable();
    for limit in [1, 3, 7, 100] {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = list.page(after, limit).await.expect("a page");
            assert!(page.len() <= limit);
            let Some(last) = page.last() else { break };
            after = Some(*last);
            found.extend(page);
        }
        assert_eq!(found, keys, "pages of {limit}");
    }
    for key in &keys {
        remove(store, key).await;
    }
}

/// Room is known, and no more than there is in all.
pub async fn free_space_is_within_the_whole(store: &Store) {
    let Some(space) = &store.space else { return };
    let space = space.free_space().await.expect("a volume tells its room");
    assert!(space.total_bytes > 0 && space.free_bytes <= space.total_bytes);
}
