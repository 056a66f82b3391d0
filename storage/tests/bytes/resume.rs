//! Uploads that pause and go on: whatever lies between, the blob is the one that a single pass makes.

use std::sync::Arc;
use std::time::Duration;

use boxgate_storage::backend::faulty::Faults;
use boxgate_storage::backend::local;
use boxgate_storage::blob::UploadId;
use boxgate_storage::digest::{Algorithm, Digest, DigestHasher};
use boxgate_storage::metadata::uploads::{Published, UploadState};
use boxgate_storage::store::Store;
use boxgate_storage::upload::{Keep, UploadEngine, UploadIntent, UploadWriter};
use boxgate_storage::{ErrorKind, Result};
use bytes::Bytes;
use proptest::prelude::*;

use crate::bench::{Bench, MIB, content, intent, kept};
use crate::ledger::FaultyLedger;
use crate::rigs::Sql;

fn digest_of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let mut hasher = DigestHasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish()
}

fn whole_digests(bytes: &[u8]) -> Vec<Digest> {
    Algorithm::ALL.map(|a| digest_of(a, bytes)).to_vec()
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.expect_err("it must be refused").kind()
}

async fn create(bench: &Bench, length: Option<u64>, expected: Vec<Digest>) -> UploadId {
    let created = bench.engine.create(kept(length, expected)).await;
    created.unwrap().id
}

/// Sends `bytes[from..to]` and pauses.
async fn send(engine: &UploadEngine, id: UploadId, bytes: &Bytes, from: usize, to: usize) {
    let mut writer = engine.resume(id, from as u64).await.unwrap();
    write(&mut writer, bytes, from, to).await;
    assert_eq!(writer.pause().await.unwrap(), to as u64);
}

async fn write(writer: &mut UploadWriter, bytes: &Bytes, from: usize, to: usize) {
    for at in (from..to).step_by(700_001) {
        let chunk = bytes.slice(at..to.min(at + 700_001));
        writer.write(chunk).await.unwrap();
    }
}

/// Goes on with what a new request is told, to the end.
async fn finish(engine: &UploadEngine, id: UploadId, bytes: &Bytes) -> Result<Published> {
    let from = engine.head(id).await?.offset;
    let mut writer = engine.resume(id, from).await?;
    let from = usize::try_from(from).unwrap();
    write(&mut writer, bytes, from, bytes.len()).await;
    writer.finish().await
}

async fn state(bench: &Bench, id: UploadId) -> UploadState {
    bench.engine.peek(id).await.unwrap().unwrap().state
}

/// The blob is what one pass over `bytes` makes, on `store`.
async fn is_whole(bench: &Bench, store: &Store, published: &Published, bytes: &Bytes) {
    let blob = &published.blob;
    assert_eq!(blob.blake3.0, *blake3::hash(bytes).as_bytes());
    assert_eq!(blob.checksum(), digest_of(Algorithm::Sha256, bytes));
    let values = bench.rig.blob_tree(blob).await.unwrap();
    let expected = bytes.chunks(MIB).enumerate();
    let expected: Vec<_> = expected
        .map(|(k, block)| boxgate_storage::digest::block_value((k * MIB) as u64, block))
        .collect();
    assert_eq!(values, expected);
    assert!(bench.read_back_from(store, blob).await == *bytes);
}

#[tokio::test]
async fn several_requests_make_one_blob() {
    let bench = Bench::new().await;
    let bytes = content(21 * MIB + 77, 1);
    let id = create(&bench, Some(bytes.len() as u64), whole_digests(&bytes)).await;
    let mut at = 0;
    for to in [5, MIB, 8 * MIB, 8 * MIB, 9 * MIB + 3, 20 * MIB - 1] {
        send(&bench.engine, id, &bytes, at, to).await;
        assert_eq!(bench.engine.in_progress(), 0);
        at = to;
    }
    let published = finish(&bench.engine, id, &bytes).await.unwrap();
    is_whole(&bench, &bench.memory.store(), &published, &bytes).await;
    assert_eq!(bench.published().await, Some(published.blob));
    assert_eq!(bench.engine.stats().uploads_resumed, 7);
    bench.is_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_requests_make_one_blob_on_disk_with_rows_on_disk() {
    for parent in [env!("CARGO_TARGET_TMPDIR"), "/dev/shm"] {
        let home = tempfile::tempdir_in(parent).unwrap();
        let store = local::open(home.path()).await.unwrap();
        let bench = Bench::on(Sql::open().await).await;
        let bytes = content(19 * MIB + 4097, 2);
        let expected = whole_digests(&bytes);
        let first = bench.engine_on(bench.rig.ledger(), store.clone(), &bench.pool);
        let id = first.create(kept(None, expected)).await.unwrap().id;
        let mut at = 0;
        for to in [4096, 5000, 3 * MIB, 16 * MIB, 17 * MIB + 12_288] {
            // Each request comes to another process.
            let engine = bench.engine_on(bench.rig.ledger(), store.clone(), &bench.pool);
            send(&engine, id, &bytes, at, to).await;
            at = to;
        }
        let last = bench.engine_on(bench.rig.ledger(), store.clone(), &bench.pool);
        let published = finish(&last, id, &bytes).await.unwrap();
        is_whole(&bench, &store, &published, &bytes).await;
    }
}

#[tokio::test]
async fn a_dropped_writer_of_a_kept_upload_leaves_it_at_its_last_byte() {
    let bench = Bench::new().await;
    let bytes = content(9 * MIB + 5, 3);
    let begun = bench.engine.begin(kept(None, vec![])).await;
    let mut writer = begun.unwrap();
    let id = writer.id();
    write(&mut writer, &bytes, 0, 9 * MIB + 1).await;
    drop(writer);
    bench.engine.settled().await;
    let row = bench.engine.peek(id).await.unwrap().unwrap();
    assert_eq!((row.state, row.offset), (UploadState::Open, 9 << 20 | 1));
    let published = finish(&bench.engine, id, &bytes).await.unwrap();
    is_whole(&bench, &bench.memory.store(), &published, &bytes).await;
    bench.is_clean().await;
}

#[tokio::test]
async fn a_write_that_is_cut_keeps_what_it_took() {
    let bench = Bench::new().await;
    let bytes = content(12 * MIB, 4);
    let mut writer = bench.engine.begin(kept(None, vec![])).await.unwrap();
    let id = writer.id();
    // Other uploads hold all memory but four buffers.
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(bench.pool.take().await);
    }
    write(&mut writer, &bytes, 0, 100).await;
    for _ in 0..3 {
        held.push(bench.pool.take().await);
    }
    {
        // The rest of the first MiB is taken, then the write waits for memory, if not for the store.
        let mut cut = Box::pin(writer.write(bytes.slice(100..)));
        while bench.pool.waiting() == 0 {
            assert!(futures_util::poll!(&mut cut).is_pending());
            if bench.pool.waiting() == 0 {
                held.push(bench.pool.take().await);
            }
        }
    }
    assert_eq!(kind(writer.write(Bytes::new()).await), ErrorKind::Invalid);
    let offset = writer.pause().await.unwrap();
    assert!(
        offset >= MIB as u64 && offset.is_multiple_of(MIB as u64),
        "{offset}"
    );
    drop(held);
    let published = finish(&bench.engine, id, &bytes).await.unwrap();
    is_whole(&bench, &bench.memory.store(), &published, &bytes).await;
    bench.is_clean().await;
}

#[tokio::test]
async fn the_wrong_offset_is_told_the_right_one() {
    let bench = Bench::new().await;
    let bytes = content(100, 5);
    let id = create(&bench, Some(100), vec![]).await;
    send(&bench.engine, id, &bytes, 0, 60).await;
    for given in [0, 59, 61, u64::MAX] {
        let refused = bench.engine.resume(id, given).await;
        let expected = 60;
        assert_eq!(kind(refused), ErrorKind::OffsetMismatch { expected, given });
    }
    assert_eq!(bench.engine.in_progress(), 0);
    finish(&bench.engine, id, &bytes).await.unwrap();
    bench.is_clean().await;
}

#[tokio::test]
async fn what_ended_is_told_by_how_it_ended() {
    let bench = Bench::new().await;
    let bytes = content(100, 6);
    let absent = UploadId::random();
    assert_eq!(kind(bench.engine.head(absent).await), ErrorKind::NotFound);
    let resumed = bench.engine.resume(absent, 0).await;
    assert_eq!(kind(resumed), ErrorKind::NotFound);
    assert!(bench.engine.peek(absent).await.unwrap().is_none());
    assert!(!bench.engine.cancel(absent).await.unwrap());

    let id = create(&bench, None, vec![]).await;
    assert!(bench.engine.cancel(id).await.unwrap());
    assert!(!bench.engine.cancel(id).await.unwrap(), "only once");
    assert_eq!(kind(bench.engine.head(id).await), ErrorKind::Gone);
    assert_eq!(kind(bench.engine.resume(id, 0).await), ErrorKind::Gone);
    let fixed = bench.engine.set_length(id, 5).await;
    assert_eq!(kind(fixed), ErrorKind::Gone);
    assert_eq!(bench.memory.keys(), [], "no sweep is needed");

    let id = create(&bench, None, vec![]).await;
    let published = finish(&bench.engine, id, &bytes).await.unwrap();
    let told = bench.engine.head(id).await.unwrap();
    assert_eq!(told.state, UploadState::Done);
    assert_eq!(told.published, Some(published));
    assert_eq!(told.epoch, bench.engine.head(id).await.unwrap().epoch);
    let resumed = bench.engine.resume(id, 100).await;
    assert_eq!(kind(resumed), ErrorKind::Conflict);
    assert!(!bench.engine.cancel(id).await.unwrap(), "its name holds it");
    bench.is_clean().await;
}

#[tokio::test]
async fn a_length_may_be_fixed_once_and_late() {
    let bench = Bench::new().await;
    let bytes = content(2000, 7);
    let id = create(&bench, None, vec![]).await;
    send(&bench.engine, id, &bytes, 0, 1000).await;
    let (expected, given) = (999, 1000);
    let short = bench.engine.set_length(id, 999).await;
    assert_eq!(kind(short), ErrorKind::LengthMismatch { expected, given });
    let limit = 512 << 20;
    let long = bench.engine.set_length(id, limit + 1).await;
    assert_eq!(kind(long), ErrorKind::TooLarge { limit });
    let mut writer = bench.engine.resume(id, 1000).await.unwrap();
    for _ in 0..2 {
        let row = bench.engine.set_length(id, 2000).await.unwrap();
        assert_eq!(row.length, Some(2000));
    }
    let other = bench.engine.set_length(id, 2001).await;
    assert_eq!(kind(other), ErrorKind::Conflict);
    // The writer knows of it, and takes no harm from what it refuses.
    let (expected, given) = (2000, 2001);
    let past = writer.write(content(1001, 0)).await;
    assert_eq!(kind(past), ErrorKind::LengthMismatch { expected, given });
    write(&mut writer, &bytes, 1000, 2000).await;
    let published = writer.finish().await.unwrap();
    is_whole(&bench, &bench.memory.store(), &published, &bytes).await;
    bench.is_clean().await;
}

#[tokio::test]
async fn digests_declared_at_first_are_compared_at_last() {
    let bench = Bench::new().await;
    let bytes = content(MIB + 9, 8);
    for algorithm in Algorithm::ALL {
        let wrong = Digest::try_new(algorithm, vec![7; algorithm.digest_bytes()]).unwrap();
        let id = create(&bench, None, vec![wrong]).await;
        send(&bench.engine, id, &bytes, 0, MIB + 3).await;
        let finished = finish(&bench.engine, id, &bytes).await;
        assert_eq!(kind(finished), ErrorKind::DigestMismatch, "{algorithm:?}");
        assert_eq!(state(&bench, id).await, UploadState::Aborted);
    }
    let checksum = digest_of(Algorithm::Crc32, b"x");
    let created = bench.engine.create(kept(None, vec![checksum])).await;
    assert_eq!(kind(created), ErrorKind::Invalid);
    bench.is_clean().await;
}

#[tokio::test]
async fn a_finish_without_all_bytes_leaves_a_kept_upload_open() {
    let bench = Bench::new().await;
    let bytes = content(MIB + 9, 9);
    let id = create(&bench, Some(MIB as u64 + 9), vec![]).await;
    let mut writer = bench.engine.resume(id, 0).await.unwrap();
    write(&mut writer, &bytes, 0, MIB + 8).await;
    let short = writer.finish().await;
    assert!(matches!(kind(short), ErrorKind::LengthMismatch { .. }));
    assert_eq!(bench.engine.head(id).await.unwrap().offset, MIB as u64 + 8);
    let published = finish(&bench.engine, id, &bytes).await.unwrap();
    is_whole(&bench, &bench.memory.store(), &published, &bytes).await;
    bench.is_clean().await;
}

#[tokio::test]
async fn what_is_whole_already_is_finished_without_another_byte() {
    let bench = Bench::new().await;
    for length in [100, 8 * MIB, 8 * MIB + 1] {
        let bytes = content(length, 10);
        let id = create(&bench, None, whole_digests(&bytes)).await;
        send(&bench.engine, id, &bytes, 0, length).await;
        let published = finish(&bench.engine, id, &bytes).await.unwrap();
        is_whole(&bench, &bench.memory.store(), &published, &bytes).await;
    }
    bench.is_clean().await;
}

#[tokio::test]
async fn held_bytes_count_once_their_own_digest_is_right() {
    let bench = Bench::new().await;
    let bytes = content(35 * MIB, 11);
    let id = create(&bench, Some(35 << 20), vec![]).await;
    let mut at = 0;
    let algorithms = Algorithm::ALL.into_iter().chain([Algorithm::Crc32]);
    for (algorithm, to) in algorithms.zip([5, MIB, 2 * MIB + 1, 3 * MIB, 4 * MIB, 5 * MIB, 6 * MIB])
    {
        let mut writer = bench.engine.resume(id, at as u64).await.unwrap();
        let right = digest_of(algorithm, &bytes[at..to]);
        writer.hold(right.clone()).unwrap();
        assert_eq!(kind(writer.hold(right)), ErrorKind::Invalid, "one only");
        write(&mut writer, &bytes, at, to).await;
        assert_eq!(writer.pause().await.unwrap(), to as u64, "{algorithm:?}");
        at = to;
    }
    // More parts than may be in flight: all wait, and none is committed before the release.
    let mut writer = bench.engine.resume(id, at as u64).await.unwrap();
    let rest = digest_of(Algorithm::Sha1, &bytes[at..]);
    writer.hold(rest).unwrap();
    write(&mut writer, &bytes, at, bytes.len()).await;
    assert_eq!(*writer.progress().borrow(), at as u64);
    let row = bench.engine.peek(id).await.unwrap().unwrap();
    assert_eq!(row.offset, at as u64);
    writer.release().await.unwrap();
    writer.release().await.expect("nothing is held any more");
    let mut progress = writer.progress();
    progress.wait_for(|told| *told >= 32 << 20).await.unwrap();
    let published = writer.finish().await.unwrap();
    is_whole(&bench, &bench.memory.store(), &published, &bytes).await;
    bench.is_clean().await;
}

#[tokio::test]
async fn held_bytes_with_another_digest_are_discarded() {
    let bench = Bench::new().await;
    let bytes = content(20 * MIB, 12);
    let id = create(&bench, Some(20 << 20), vec![]).await;
    send(&bench.engine, id, &bytes, 0, 1000).await;
    let key = bench.memory.keys()[0];
    for way in 0..4 {
        let mut writer = bench.engine.resume(id, 1000).await.unwrap();
        let wrong = digest_of(Algorithm::Sha1, b"else");
        writer.hold(wrong).unwrap();
        write(&mut writer, &bytes, 1000, 20 * MIB).await;
        match way {
            0 => {
                assert_eq!(kind(writer.release().await), ErrorKind::DigestMismatch);
                let more = writer.write(Bytes::from_static(b"x")).await;
                assert_eq!(kind(more), ErrorKind::Invalid);
                drop(writer);
            }
            1 => assert_eq!(kind(writer.pause().await), ErrorKind::DigestMismatch),
            2 => assert_eq!(kind(writer.finish().await), ErrorKind::DigestMismatch),
            _ => drop(writer),
        }
        bench.engine.settled().await;
        let row = bench.engine.peek(id).await.unwrap().unwrap();
        assert_eq!((row.state, row.offset), (UploadState::Open, 1000));
        let stored = bench.memory.store().read.stat(&key).await.unwrap();
        assert_eq!(stored, 1000, "their room is given back");
    }
    let mut writer = bench.engine.resume(id, 1000).await.unwrap();
    writer.write(bytes.slice(1000..1001)).await.unwrap();
    let late = writer.hold(digest_of(Algorithm::Sha1, b""));
    assert_eq!(kind(late), ErrorKind::Invalid);
    drop(writer);
    let published = finish(&bench.engine, id, &bytes).await.unwrap();
    is_whole(&bench, &bench.memory.store(), &published, &bytes).await;
    bench.is_clean().await;
}

#[tokio::test]
async fn a_digest_that_is_told_behind_the_bytes_decides_over_them() {
    let bench = Bench::new().await;
    let bytes = content(20 * MIB, 15);
    let id = create(&bench, Some(20 << 20), vec![]).await;
    send(&bench.engine, id, &bytes, 0, 1000).await;
    let stays = async |writer: UploadWriter| {
        drop(writer);
        bench.engine.settled().await;
        let row = bench.engine.peek(id).await.unwrap().unwrap();
        assert_eq!((row.state, row.offset), (UploadState::Open, 1000));
    };
    let held = async |to: usize| {
        let mut writer = bench.engine.resume(id, 1000).await.unwrap();
        writer.hold_untold(&Algorithm::ALL).unwrap();
        write(&mut writer, &bytes, 1000, to).await;
        writer
    };
    // Never told, told wrong, told by an algorithm that was not hashed.
    let mut writer = held(20 * MIB).await;
    assert_eq!(kind(writer.release().await), ErrorKind::DigestMismatch);
    stays(writer).await;
    stays(held(20 * MIB).await).await;
    let mut writer = held(2 * MIB).await;
    writer.tell(digest_of(Algorithm::Md5, b"else")).unwrap();
    assert_eq!(kind(writer.release().await), ErrorKind::DigestMismatch);
    stays(writer).await;
    let mut writer = held(2 * MIB).await;
    let other = writer.tell(digest_of(Algorithm::Crc32, b""));
    assert_eq!(kind(other), ErrorKind::Invalid);
    stays(writer).await;
    let mut writer = bench.engine.resume(id, 1000).await.unwrap();
    let unasked = writer.tell(digest_of(Algorithm::Md5, b""));
    assert_eq!(kind(unasked), ErrorKind::Invalid, "nothing waits for it");
    stays(writer).await;

    let mut at = 1000;
    for (algorithm, to) in Algorithm::ALL.into_iter().zip((1..).map(|k| k * MIB + 7)) {
        let mut writer = bench.engine.resume(id, at as u64).await.unwrap();
        writer.hold_untold(&Algorithm::ALL).unwrap();
        write(&mut writer, &bytes, at, to).await;
        writer.tell(digest_of(algorithm, &bytes[at..to])).unwrap();
        writer.release().await.unwrap();
        assert_eq!(writer.pause().await.unwrap(), to as u64, "{algorithm:?}");
        at = to;
    }
    let published = finish(&bench.engine, id, &bytes).await.unwrap();
    is_whole(&bench, &bench.memory.store(), &published, &bytes).await;
    bench.is_clean().await;
}

#[tokio::test]
async fn an_upload_whose_bytes_are_lost_is_gone_and_never_smaller() {
    let bench = Bench::new().await;
    let bytes = content(10 * MIB, 13);
    for damage in 0..3 {
        let id = create(&bench, None, vec![]).await;
        send(&bench.engine, id, &bytes, 0, 9 * MIB + 500).await;
        let key = bench.memory.keys()[0];
        match damage {
            0 => bench.memory.cut(&key, 9 * MIB + 499),
            1 => assert!(bench.memory.damage(&key, 9 * MIB + 3)),
            _ => {
                let delete = bench.memory.store().delete.unwrap();
                delete.delete(&key).await.unwrap();
            }
        }
        let resumed = bench.engine.resume(id, (9 << 20) + 500).await;
        assert_eq!(kind(resumed), ErrorKind::Gone, "{damage}");
        assert_eq!(state(&bench, id).await, UploadState::Lost);
        assert_eq!(kind(bench.engine.head(id).await), ErrorKind::Gone);
        assert_eq!(bench.memory.keys(), []);
    }
    assert_eq!(bench.engine.stats().uploads_lost, 3);
    bench.is_clean().await;
}

#[tokio::test]
async fn a_row_whose_file_was_never_made_goes_on_from_nothing() {
    let bench = Bench::new().await;
    let bytes = content(1000, 14);
    let id = create(&bench, None, vec![]).await;
    let delete = bench.memory.store().delete.unwrap();
    delete.delete(&bench.memory.keys()[0]).await.unwrap();
    let published = finish(&bench.engine, id, &bytes).await.unwrap();
    is_whole(&bench, &bench.memory.store(), &published, &bytes).await;
    bench.is_clean().await;
}

#[tokio::test]
async fn hash_states_that_cannot_be_read_are_made_again_from_the_bytes() {
    let bench = Bench::new().await;
    let ledger = Arc::new(FaultyLedger {
        inner: bench.rig.ledger(),
        faults: Faults::new(),
        forgets_states: true,
    });
    let forgetful = bench.engine_on(ledger, bench.memory.store(), &bench.pool);
    let bytes = content(17 * MIB + 5, 15);
    let length = Some(bytes.len() as u64);
    let created = forgetful.create(kept(length, whole_digests(&bytes)));
    let id = created.await.unwrap().id;
    let mut at = 0;
    for to in [3, 8 * MIB, 8 * MIB + 1, 16 * MIB + 7] {
        send(&forgetful, id, &bytes, at, to).await;
        at = to;
    }
    let published = finish(&forgetful, id, &bytes).await.unwrap();
    is_whole(&bench, &bench.memory.store(), &published, &bytes).await;

    // Bytes that changed meanwhile are found out on the way.
    let id = create(&bench, None, vec![]).await;
    send(&bench.engine, id, &content(17 * MIB, 16), 0, 17 * MIB).await;
    let row = bench.engine.peek(id).await.unwrap().unwrap();
    assert!(bench.memory.damage(&row.key, 5));
    let resumed = forgetful.resume(id, 17 << 20).await;
    assert_eq!(kind(resumed), ErrorKind::Gone);
    assert_eq!(state(&bench, id).await, UploadState::Lost);
    bench.is_clean().await;
}

#[tokio::test]
async fn what_is_idle_or_old_expires_and_what_is_done_without_a_name_is_dropped() {
    const HOUR: Duration = Duration::from_hours(1);
    let bench = Bench::new().await;
    let bytes = content(1000, 17);
    let idle = create(&bench, None, vec![]).await;
    let busy = create(&bench, None, vec![]).await;
    let untargeted = UploadIntent {
        target: None,
        ..kept(None, vec![])
    };
    let held = bench.engine.create(untargeted).await.unwrap().id;
    let published = finish(&bench.engine, held, &bytes).await.unwrap();
    assert_eq!((published.file, published.version.as_str()), (None, ""));
    is_whole(&bench, &bench.memory.store(), &published, &bytes).await;
    for hours in 0..7 * 24 {
        assert_eq!(state(&bench, busy).await, UploadState::Open, "{hours}");
        assert_eq!(state(&bench, held).await, UploadState::Done, "{hours}");
        let expected = if hours < 24 {
            UploadState::Open
        } else {
            UploadState::Aborted
        };
        assert_eq!(state(&bench, idle).await, expected, "{hours}");
        send(&bench.engine, busy, &bytes, hours, hours + 1).await;
        bench.rig.clock().advance(HOUR);
        bench.engine.sweep().await.unwrap();
    }
    assert_eq!(state(&bench, busy).await, UploadState::Aborted, "too old");
    assert_eq!(state(&bench, held).await, UploadState::Aborted);
    assert_eq!(kind(bench.engine.head(held).await), ErrorKind::Gone);
    bench.is_clean().await;
}

#[tokio::test]
async fn a_finished_upload_without_a_name_holds_its_blob_until_it_is_cancelled() {
    let bench = Bench::new().await;
    let bytes = content(1000, 18);
    let untargeted = UploadIntent {
        target: None,
        ..kept(None, vec![])
    };
    let mut ids = Vec::new();
    for _ in 0..2 {
        let id = bench.engine.create(untargeted.clone()).await.unwrap().id;
        finish(&bench.engine, id, &bytes).await.unwrap();
        ids.push(id);
    }
    assert_eq!(bench.memory.keys().len(), 1, "equal bytes are kept once");
    assert_eq!(bench.rig.events().await, [], "no name, no event");
    assert!(bench.engine.cancel(ids[0]).await.unwrap());
    assert!(!bench.engine.cancel(ids[0]).await.unwrap());
    bench.rig.clock().advance(Duration::from_hours(48));
    bench.engine.sweep().await.unwrap();
    assert_eq!(bench.memory.keys().len(), 1, "the other one holds it");
    assert!(bench.engine.cancel(ids[1]).await.unwrap());
    bench.is_clean().await;
}

#[tokio::test]
async fn a_restart_keeps_what_is_kept_and_gives_up_the_rest() {
    let bench = Bench::new().await;
    let bytes = content(20 * MIB, 19);
    // A process that dies without a word, with one upload of each kind under way.
    let dead = bench.other();
    let mut kept = dead.begin(kept(None, vec![])).await.unwrap();
    let mut other = dead.begin(intent(None, vec![])).await.unwrap();
    let (kept_id, other_id) = (kept.id(), other.id());
    write(&mut kept, &bytes, 0, 19 * MIB).await;
    write(&mut other, &bytes, 0, 9 * MIB).await;
    let mut progress = kept.progress();
    progress.wait_for(|told| *told == 16 << 20).await.unwrap();
    bench.memory.lose_power();

    let recovered = bench.engine.recover().await.unwrap();
    assert_eq!((recovered.finished, recovered.aborted), (0, 1));
    assert_eq!(state(&bench, other_id).await, UploadState::Aborted);
    let told = bench.engine.head(kept_id).await.unwrap();
    assert_eq!((told.state, told.offset), (UploadState::Open, 16 << 20));
    // What the dead one still has in its hands changes nothing.
    assert_eq!(kind(kept.pause().await), ErrorKind::Fenced);
    other.abort().await;
    dead.settled().await;
    let published = finish(&bench.engine, kept_id, &bytes).await.unwrap();
    is_whole(&bench, &bench.memory.store(), &published, &bytes).await;
    bench.is_clean().await;
}

#[tokio::test]
async fn one_account_has_only_so_many_uploads_open() {
    let bench = Bench::new().await;
    let mut open = Vec::new();
    for _ in 0..64 {
        open.push(create(&bench, None, vec![]).await);
    }
    let limit = 64;
    let one_more = bench.engine.create(kept(None, vec![])).await;
    assert_eq!(kind(one_more), ErrorKind::TooMany { limit });
    // One that comes at once is taken all the same, but it does not stay.
    let mut writer = bench.engine.begin(kept(None, vec![])).await.unwrap();
    let id = writer.id();
    writer.write(content(100, 1)).await.unwrap();
    drop(writer);
    bench.engine.settled().await;
    let row = bench.engine.peek(id).await.unwrap().unwrap();
    assert_eq!((row.keep, row.state), (Keep::No, UploadState::Aborted));
    bench.engine.cancel(open[0]).await.unwrap();
    create(&bench, None, vec![]).await;
    for id in bench.engine.open_uploads(None, None, 100).await.unwrap() {
        assert!(bench.engine.cancel(id.id).await.unwrap());
    }
    bench.is_clean().await;
}

#[tokio::test]
async fn a_note_comes_back_with_the_row() {
    let bench = Bench::new().await;
    let noted = |note: &str| UploadIntent {
        note: Some(note.to_owned()),
        ..kept(None, vec![])
    };
    let note = "filename Zm9v,empty";
    let id = bench.engine.create(noted(note)).await.unwrap().id;
    let row = bench.engine.head(id).await.unwrap();
    assert_eq!(row.note.as_deref(), Some(note));
    bench.engine.cancel(id).await.unwrap();
    let long = bench
        .engine
        .create(noted(&"x".repeat((256 << 10) + 1)))
        .await;
    assert_eq!(kind(long), ErrorKind::Invalid);
    bench.is_clean().await;
}

#[test]
fn any_cuts_make_the_blob_that_one_pass_makes() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let config = ProptestConfig {
        cases: 40,
        failure_persistence: None,
        ..Default::default()
    };
    let input = (
        1..20 * MIB,
        proptest::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..7),
        any::<bool>(),
    );
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let tried = runner.run(&input, |(length, cuts, declared)| {
        runtime.block_on(async {
            let bench = Bench::new().await;
            let bytes = content(length, 20);
            let declared = declared.then_some(length as u64);
            let id = create(&bench, declared, whole_digests(&bytes)).await;
            let mut cuts: Vec<_> = cuts
                .iter()
                .map(|(at, aligned)| at.index(length + 1) & if *aligned { !4095 } else { !0 })
                .collect();
            cuts.sort_unstable();
            let mut at = 0;
            for to in cuts {
                send(&bench.engine, id, &bytes, at, to).await;
                at = to;
            }
            let published = finish(&bench.engine, id, &bytes).await.unwrap();
            is_whole(&bench, &bench.memory.store(), &published, &bytes).await;
            bench.is_clean().await;
        });
        Ok(())
    });
    tried.unwrap();
}
