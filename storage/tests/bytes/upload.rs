//! Uploads as a whole: what goes in comes out, and what ends early leaves nothing.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use boxgate_storage::backend::local;
use boxgate_storage::buffer::BufferPool;
use boxgate_storage::digest::{Algorithm, Digest};
use boxgate_storage::metadata::uploads::UploadState;
use boxgate_storage::upload::{Stage, UploadIntent, UploadWriter};
use boxgate_storage::{ErrorKind, Result};
use bytes::Bytes;

use crate::bench::{Bench, MIB, content, intent, kept};

async fn send(writer: &mut UploadWriter, bytes: &Bytes, chunk: usize) -> Result<()> {
    for at in (0..bytes.len()).step_by(chunk) {
        let end = bytes.len().min(at + chunk);
        writer.write(bytes.slice(at..end)).await?;
    }
    Ok(())
}

fn sha256_of(bytes: &[u8]) -> Digest {
    use sha2::Digest as _;
    Digest::try_new(Algorithm::Sha256, sha2::Sha256::digest(bytes).to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_in_comes_out_for_every_length_and_chunking() {
    let bench = Bench::new().await;
    let lengths = [
        1,
        4096,
        MIB - 1,
        MIB,
        MIB + 1,
        8 * MIB,
        8 * MIB + 1,
        17 * MIB + 123,
    ];
    let mut salt = 0;
    for length in lengths {
        for chunk in [7919, 64 << 10, MIB, 3 * MIB + 5] {
            for declared in [Some(length as u64), None] {
                if length / chunk > 500 {
                    continue;
                }
                salt += 1;
                let bytes = content(length, salt);
                let expected = vec![sha256_of(&bytes)];
                let begun = bench.engine.begin(intent(declared, expected)).await;
                let mut writer = begun.unwrap();
                send(&mut writer, &bytes, chunk).await.unwrap();
                assert_eq!(writer.received_bytes(), length as u64);
                let published = writer.finish().await.unwrap();
                assert_eq!(published.blob.length, length as u64);
                assert_eq!(published.blob.blake3.0, *blake3::hash(&bytes).as_bytes());
                let found = bench.read_back(&published.blob).await;
                assert!(found == bytes, "{length} bytes by {chunk}");
            }
        }
    }
    bench.is_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_to_a_local_disk_is_there_byte_by_byte() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = local::open(home.path()).await.unwrap();
    let bench = Bench::new().await;
    let engine = bench.engine_on(bench.rig.ledger(), store.clone(), &bench.pool);
    let bytes = content(40 * MIB + 4097, 3);
    let mut writer = engine.begin(intent(None, Vec::new())).await.unwrap();
    send(&mut writer, &bytes, 500_000).await.unwrap();
    let published = writer.finish().await.unwrap();
    assert!(bench.read_back_from(&store, &published.blob).await == bytes);
    let name = published.blob.key.to_string();
    let path = home.path().join(&name[..2]).join(&name);
    assert!(std::fs::read(path).unwrap() == bytes);
    assert_eq!(bench.pool.in_use_bytes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_uploads_share_two_buffers() {
    let bench = Bench::new().await;
    let pool = BufferPool::new(0);
    let engine = bench.engine_on(bench.rig.ledger(), bench.memory.store(), &pool);
    let uploads = (0..64u8).map(|salt| {
        let engine = engine.clone();
        tokio::spawn(async move {
            let bytes = content(2 * MIB + 77, salt);
            let mut writer = engine.begin(intent(None, Vec::new())).await.unwrap();
            send(&mut writer, &bytes, 3 * MIB).await.unwrap();
            writer.finish().await.unwrap()
        })
    });
    let all = futures_util::future::join_all(uploads);
    let finished = tokio::time::timeout(Duration::from_mins(2), all).await;
    for published in finished.expect("no upload waits for ever") {
        published.unwrap();
    }
    assert_eq!(pool.in_use_bytes(), 0);
    bench.is_clean().await;
}

#[tokio::test]
async fn a_dropped_writer_leaves_nothing() {
    let bench = Bench::new().await;
    let mut writer = bench.engine.begin(intent(None, vec![])).await.unwrap();
    writer.write(content(20 * MIB, 1)).await.unwrap();
    assert_eq!(bench.engine.in_progress(), 1);
    drop(writer);
    bench.is_clean().await;
    assert_eq!(bench.states().await, [UploadState::Aborted]);
    assert_eq!(bench.engine.stats().uploads_aborted, 1);
}

#[tokio::test]
async fn a_write_that_is_cut_cannot_be_finished() {
    let bench = Bench::new().await;
    // All memory is taken, so the write has to wait.
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(bench.pool.take().await);
    }
    let mut writer = bench.engine.begin(intent(None, vec![])).await.unwrap();
    let mut cut = Box::pin(writer.write(content(100, 1)));
    assert!(futures_util::poll!(&mut cut).is_pending());
    drop(cut);
    drop(held);
    let error = writer.write(content(1, 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let error = writer.finish().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    bench.is_clean().await;
}

#[tokio::test]
async fn a_caller_who_leaves_while_it_begins_leaves_nothing() {
    let bench = Bench::new().await;
    let mut begun = Box::pin(bench.engine.begin(intent(None, vec![])));
    assert!(futures_util::poll!(&mut begun).is_pending());
    drop(begun);
    bench.engine.settled().await;
    bench.is_clean().await;
    assert_eq!(bench.states().await, [UploadState::Aborted]);
}

#[tokio::test]
async fn a_finish_that_nobody_waits_for_still_publishes() {
    let bench = Bench::new().await;
    let mut writer = bench.engine.begin(intent(None, vec![])).await.unwrap();
    writer.write(content(9 * MIB, 1)).await.unwrap();
    let mut finishing = Box::pin(writer.finish());
    assert!(futures_util::poll!(&mut finishing).is_pending());
    drop(finishing);
    bench.engine.settled().await;
    assert_eq!(bench.states().await, [UploadState::Done]);
    bench.is_clean().await;
}

#[tokio::test]
async fn declared_digests_are_compared_by_every_algorithm() {
    let bench = Bench::new().await;
    let bytes = content(MIB + 5, 9);
    for algorithm in Algorithm::ALL {
        let wrong = Digest::try_new(algorithm, vec![7; algorithm.digest_bytes()]).unwrap();
        let begun = bench.engine.begin(intent(None, vec![wrong])).await;
        let mut writer = begun.unwrap();
        writer.write(bytes.clone()).await.unwrap();
        let error = writer.finish().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DigestMismatch, "{algorithm:?}");
    }
    assert_eq!(bench.published().await, None);
    bench.is_clean().await;
}

#[tokio::test]
async fn a_digest_may_come_late_only_when_its_hash_ran_all_along() {
    let bench = Bench::new().await;
    let mut writer = bench.engine.begin(intent(None, vec![])).await.unwrap();
    let bytes = content(100, 1);
    writer.write(bytes.clone()).await.unwrap();
    let md5 = Digest::try_new(Algorithm::Md5, vec![0; 16]).unwrap();
    assert_eq!(writer.expect(md5).unwrap_err().kind(), ErrorKind::Invalid);
    writer.expect(sha256_of(&bytes)).unwrap();
    writer.finish().await.unwrap();

    let mut writer = bench.engine.begin(intent(None, vec![])).await.unwrap();
    writer.write(bytes.clone()).await.unwrap();
    writer.expect(sha256_of(b"else")).unwrap();
    let error = writer.finish().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);
    bench.is_clean().await;
}

#[tokio::test]
async fn a_declared_length_that_lies_is_refused_in_both_directions() {
    let bench = Bench::new().await;
    let mut writer = bench.engine.begin(intent(Some(10), vec![])).await.unwrap();
    writer.write(content(8, 1)).await.unwrap();
    let error = writer.write(content(3, 1)).await.unwrap_err();
    let (expected, given) = (10, 11);
    assert_eq!(error.kind(), ErrorKind::LengthMismatch { expected, given });
    writer.abort().await;

    let mut writer = bench.engine.begin(intent(Some(10), vec![])).await.unwrap();
    writer.write(content(8, 1)).await.unwrap();
    let error = writer.finish().await.unwrap_err();
    let (expected, given) = (10, 8);
    assert_eq!(error.kind(), ErrorKind::LengthMismatch { expected, given });
    bench.is_clean().await;
}

#[tokio::test]
async fn a_box_without_a_byte_is_invalid() {
    let bench = Bench::new().await;
    let mut writer = bench.engine.begin(intent(None, vec![])).await.unwrap();
    writer.write(Bytes::new()).await.unwrap();
    let error = writer.finish().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    bench.is_clean().await;
    let declared = bench.engine.begin(intent(Some(0), vec![])).await;
    assert_eq!(declared.unwrap_err().kind(), ErrorKind::Invalid);
    let late = bench.engine.create(kept(None, vec![])).await.unwrap();
    let declared = bench.engine.set_length(late.id, 0).await;
    assert_eq!(declared.unwrap_err().kind(), ErrorKind::Invalid);
    let row = bench.engine.peek(late.id).await.unwrap().unwrap();
    assert_eq!(row.length, None, "nothing changed");
    assert!(bench.engine.cancel(late.id).await.unwrap());
    bench.is_clean().await;
}

#[tokio::test]
async fn an_upload_without_a_target_is_empty_only_where_that_was_declared() {
    let bench = Bench::new().await;
    let untargeted = |length| UploadIntent {
        target: None,
        ..kept(length, vec![])
    };
    let undeclared = bench.engine.begin(untargeted(None)).await.unwrap();
    let error = undeclared.finish().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let declared = bench.engine.begin(untargeted(Some(0))).await.unwrap();
    let published = declared.finish().await.unwrap();
    assert_eq!(published.blob.length, 0);
    assert_eq!(
        published.blob.blake3.to_hex(),
        blake3::hash(b"").to_hex().as_str()
    );
}

#[tokio::test]
async fn what_cannot_fit_is_refused_before_anything_is_recorded() {
    let bench = Bench::with_room(20 << 20).await;
    let limit = 512 << 20;
    let begun = bench.engine.begin(intent(Some(limit + 1), vec![])).await;
    assert_eq!(begun.unwrap_err().kind(), ErrorKind::TooLarge { limit });
    let begun = bench.engine.begin(intent(Some(20 << 20), vec![])).await;
    assert_eq!(begun.unwrap_err().kind(), ErrorKind::Full);
    assert_eq!(bench.states().await, []);
    let begun = bench.engine.begin(intent(Some(19 << 20), vec![])).await;
    begun.unwrap().abort().await;
    bench.is_clean().await;
}

#[tokio::test]
async fn a_store_that_fills_up_ends_the_upload_and_keeps_nothing_of_it() {
    let bench = Bench::with_room(20 << 20).await;
    let mut writer = bench.engine.begin(intent(None, vec![])).await.unwrap();
    let error = writer.write(content(64 * MIB, 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    let again = writer.write(content(1, 1)).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Invalid, "only abort is left");
    writer.abort().await;
    bench.is_clean().await;
    let mut writer = bench.engine.begin(intent(None, vec![])).await.unwrap();
    writer.write(content(10 * MIB, 1)).await.unwrap();
    writer.finish().await.expect("there is room again");
    bench.is_clean().await;
}

#[tokio::test]
async fn equal_bytes_are_stored_once() {
    let bench = Bench::new().await;
    let mut keys = Vec::new();
    for _ in 0..2 {
        let mut writer = bench.engine.begin(intent(None, vec![])).await.unwrap();
        writer.write(content(3 * MIB, 1)).await.unwrap();
        keys.push(writer.finish().await.unwrap().blob.key);
        assert_eq!(bench.memory.keys(), [keys[0]], "no sweep is needed");
    }
    assert_eq!(keys[0], keys[1]);
    bench.is_clean().await;
}

#[tokio::test]
async fn numbers_tell_what_happened() {
    let bench = Bench::new().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&seen);
    bench.engine.on_commit(Arc::new(move |stage, _took| {
        told.lock().unwrap().push(stage);
    }));
    let length = Some(17 * MIB as u64);
    let mut writer = bench.engine.begin(intent(length, vec![])).await.unwrap();
    writer.write(content(17 * MIB, 1)).await.unwrap();
    assert_eq!(bench.engine.stats().uploads_in_progress, 1);
    writer.finish().await.unwrap();
    let stats = bench.engine.stats();
    assert_eq!(stats.bytes_received, 17 << 20);
    assert_eq!(stats.bytes_copied, 17 << 20, "copied once");
    assert_eq!(stats.part_commits, 3);
    assert_eq!((stats.uploads_finished, stats.uploads_aborted), (1, 0));
    assert!(stats.stage(Stage::InOrder) > Duration::ZERO);
    let seen = seen.lock().unwrap();
    let times = |stage| seen.iter().filter(|s| **s == stage).count();
    let commits = (
        times(Stage::Seal),
        times(Stage::Advance),
        times(Stage::Publish),
    );
    assert_eq!(commits, (3, 3, 1));
}

#[tokio::test]
async fn recovery_ends_what_a_former_process_left() {
    let bench = Bench::new().await;
    // Two processes on the same rows and bytes: the first stops without a word.
    let ended = bench.engine_on(bench.rig.ledger(), bench.memory.store(), &bench.pool);
    let mut left_open = ended.begin(intent(None, vec![])).await.unwrap();
    left_open.write(content(9 * MIB, 1)).await.unwrap();
    let recovered = bench.engine.recover().await.unwrap();
    assert_eq!((recovered.finished, recovered.aborted), (0, 1));
    assert_eq!(bench.memory.keys(), []);
    // Its fence holds: what it still does changes nothing.
    left_open.write(content(16 * MIB, 1)).await.unwrap_err();
    left_open.abort().await;
    bench.is_clean().await;
}

#[tokio::test]
async fn a_sweep_leaves_uploads_in_progress_alone() {
    let bench = Bench::new().await;
    let mut writer = bench.engine.begin(intent(None, vec![])).await.unwrap();
    writer.write(content(MIB, 1)).await.unwrap();
    bench.rig.clock().advance(Duration::from_hours(48));
    assert_eq!(bench.engine.sweep().await.unwrap().removed, 0);
    writer.finish().await.unwrap();
    bench.is_clean().await;
}

#[tokio::test]
async fn what_others_declared_counts_as_taken() {
    let bench = Bench::with_room(40 << 20).await;
    let half = intent(Some(20 << 20), vec![]);
    let mut first = bench.engine.begin(half.clone()).await.unwrap();
    let second = bench.engine.begin(half.clone()).await;
    assert_eq!(second.unwrap_err().kind(), ErrorKind::Full);
    // What arrived is on the store's own account from here on.
    first.write(content(16 * MIB, 1)).await.unwrap();
    let second = bench.engine.begin(half).await;
    assert_eq!(second.unwrap_err().kind(), ErrorKind::Full);
    first.abort().await;
    let whole = intent(Some(39 << 20), vec![]);
    bench.engine.begin(whole).await.unwrap().abort().await;
    bench.is_clean().await;
}

#[tokio::test]
async fn memory_given_back_half_way_changes_nothing_but_the_runs() {
    let bench = Bench::new().await;
    let bytes = content(19 * MIB + 3, 4);
    let mut writer = bench.engine.begin(intent(None, vec![])).await.unwrap();
    for at in (0..bytes.len()).step_by(1_500_000) {
        let end = bytes.len().min(at + 1_500_000);
        writer.write(bytes.slice(at..end)).await.unwrap();
        writer.give_memory_back().await.unwrap();
        writer.give_memory_back().await.expect("twice is fine");
        assert_eq!(bench.pool.in_use_bytes(), 0);
    }
    let published = writer.finish().await.unwrap();
    let found = bench.read_back(&published.blob).await;
    assert!(found == bytes);
    bench.is_clean().await;
}

#[tokio::test(start_paused = true)]
async fn slow_uploads_let_others_have_the_memory() {
    let bench = Bench::new().await;
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut writer = bench.engine.begin(intent(None, vec![])).await.unwrap();
        writer.write(content(1000, 1)).await.unwrap();
        slow.push(writer);
    }
    assert_eq!(bench.pool.in_use_bytes(), bench.pool.capacity_bytes());
    let mut fast = bench.engine.begin(intent(None, vec![])).await.unwrap();
    let mut writing = Box::pin(fast.write(content(MIB, 2)));
    assert!(futures_util::poll!(&mut writing).is_pending());
    slow[0].write(content(1000, 1)).await.unwrap();
    assert!(
        futures_util::poll!(&mut writing).is_pending(),
        "not yet slow"
    );
    tokio::time::advance(Duration::from_secs(2)).await;
    slow[0].write(content(1000, 1)).await.unwrap();
    writing.await.unwrap();
    let published = slow.swap_remove(0).finish().await.unwrap();
    assert_eq!(published.blob.length, 3000);
    drop(slow);
    fast.finish().await.unwrap();
    bench.is_clean().await;
}
