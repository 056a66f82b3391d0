//! The newest request wins at once, and nobody who was replaced changes anything.

use std::time::Duration;

use boxgate_storage::ErrorKind;
use boxgate_storage::backend::faulty::{Fault, Faults};
use boxgate_storage::backend::local;
use boxgate_storage::digest::Algorithm;
use boxgate_storage::metadata::uploads::UploadState;
use bytes::Bytes;
use futures_util::FutureExt;

use crate::bench::{Bench, MIB, content, intent, kept};
use crate::fail_points::failing;
use crate::rigs::Sql;

#[tokio::test]
async fn a_newer_request_replaces_a_writer_that_waits_for_its_client() {
    let bench = Bench::new().await;
    let bytes = content(20 * MIB, 1);
    let mut old = bench.engine.begin(kept(None, vec![])).await.unwrap();
    let (id, taken_over) = (old.id(), old.taken_over());
    old.write(bytes.slice(..9 * MIB)).await.unwrap();
    let mut progress = old.progress();
    progress.wait_for(|told| *told == 0).await.unwrap();
    let offset = bench.engine.head(id).await.unwrap().offset;
    taken_over.await;
    // It does not even have to be dropped.
    let mut new = bench.engine.resume(id, offset).await.unwrap();
    let late = old.write(bytes.slice(9 * MIB..10 * MIB)).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(old.pause().await.unwrap_err().kind(), ErrorKind::Fenced);
    let from = usize::try_from(offset).unwrap();
    new.write(bytes.slice(from..)).await.unwrap();
    let published = new.finish().await.unwrap();
    assert!(bench.read_back(&published.blob).await == bytes);
    bench.is_clean().await;
}

#[tokio::test]
async fn whoever_makes_an_upload_writes_to_it_without_taking_it_over() {
    let (bench, faults) = (Bench::new().await, Faults::new());
    let engine = failing(&bench, &faults);
    let bytes = content(9 * MIB + 5, 11);
    let made = engine.create_to_write(kept(None, vec![])).await;
    let (row, mut writer) = made.unwrap();
    assert_eq!((writer.id(), row.state), (row.id, UploadState::Open));
    writer.write(bytes.slice(..9 * MIB)).await.unwrap();
    assert_eq!(writer.pause().await.unwrap(), 9 << 20);
    assert!(!faults.times().contains_key("ledger.take_over"));
    // It stays for others as any does.
    let mut next = engine.resume(row.id, 9 << 20).await.unwrap();
    next.write(bytes.slice(9 * MIB..)).await.unwrap();
    let published = next.finish().await.unwrap();
    assert!(bench.read_back(&published.blob).await == bytes);
    engine.settled().await;
    bench.is_clean().await;
}

#[tokio::test]
async fn whoever_is_replaced_changes_nothing_whatever_it_does_next() {
    let bench = Bench::new().await;
    let bytes = content(20 * MIB, 2);
    for next in 0..6 {
        let keep = if next == 5 { intent } else { kept };
        let mut old = bench.engine.begin(keep(None, vec![])).await.unwrap();
        let id = old.id();
        old.write(bytes.slice(..MIB + 5)).await.unwrap();
        let mut new = bench.engine.resume(id, 0).await.unwrap();
        new.write(bytes.slice(..3 * MIB)).await.unwrap();
        match next {
            1 => assert_eq!(old.pause().await.unwrap_err().kind(), ErrorKind::Fenced),
            2 => assert_eq!(old.finish().await.unwrap_err().kind(), ErrorKind::Fenced),
            3 => old.abort().await,
            4 => {
                let held = old.release().await;
                assert_eq!(held.unwrap_err().kind(), ErrorKind::Fenced);
                drop(old);
            }
            // Also one that would have given the upload up.
            _ => drop(old),
        }
        new.write(bytes.slice(3 * MIB..)).await.unwrap();
        let published = new.finish().await.unwrap();
        assert!(bench.read_back(&published.blob).await == bytes, "{next}");
    }
    bench.is_clean().await;
}

#[tokio::test]
async fn a_writer_of_another_process_is_fenced_by_the_row_alone() {
    let bench = Bench::new().await;
    let bytes = content(30 * MIB, 3);
    for next in 0..5 {
        let other = bench.other();
        let keep = if next == 4 { intent } else { kept };
        let mut old = other.begin(keep(None, vec![])).await.unwrap();
        let id = old.id();
        old.write(bytes.slice(..17 * MIB)).await.unwrap();
        let mut progress = old.progress();
        progress.wait_for(|told| *told == 16 << 20).await.unwrap();
        let told = bench.engine.head(id).await.unwrap();
        assert_eq!(told.offset, 16 << 20);
        match next {
            0 => drop(old),
            1 => assert_eq!(old.pause().await.unwrap_err().kind(), ErrorKind::Fenced),
            2 => assert_eq!(old.finish().await.unwrap_err().kind(), ErrorKind::Fenced),
            _ => old.abort().await,
        }
        other.settled().await;
        let row = bench.engine.peek(id).await.unwrap().unwrap();
        assert_eq!((row.state, row.offset), (UploadState::Open, 16 << 20));
        let mut new = bench.engine.resume(id, 16 << 20).await.unwrap();
        new.write(bytes.slice(16 * MIB..)).await.unwrap();
        let published = new.finish().await.unwrap();
        assert!(bench.read_back(&published.blob).await == bytes, "{next}");
    }
    bench.is_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_another_process_holds_is_waited_for_and_then_refused() {
    let bench = Bench::new().await;
    let other = bench.other();
    let mut old = other.begin(kept(None, vec![])).await.unwrap();
    let id = old.id();
    old.write(content(100, 1)).await.unwrap();
    let refused = bench.engine.resume(id, 0).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(bench.engine.in_progress(), 0);
    drop(old);
    other.settled().await;
    // Fenced before it could commit what it had.
    let mut new = bench.engine.resume(id, 0).await.unwrap();
    new.write(content(100, 1)).await.unwrap();
    new.finish().await.unwrap();
    bench.is_clean().await;
}

#[tokio::test]
async fn head_is_one_change_of_a_row_and_asks_nothing_of_the_store() {
    let (bench, faults) = (Bench::new().await, Faults::new());
    let engine = failing(&bench, &faults);
    let mut writer = engine.begin(kept(None, vec![])).await.unwrap();
    let id = writer.id();
    writer.write(content(100, 1)).await.unwrap();
    let before = faults.calls().len();
    let told = engine.head(id).await.unwrap();
    assert_eq!((told.offset, told.epoch), (0, 2));
    engine.settled().await;
    assert_eq!(faults.calls()[before..], ["ledger.take_over"]);
    drop(writer);
    engine.settled().await;
    assert_eq!(faults.calls()[before..], ["ledger.take_over"]);
    assert!(engine.cancel(id).await.unwrap());
    bench.is_clean().await;
}

#[tokio::test]
async fn reading_a_row_replaces_nobody() {
    let bench = Bench::new().await;
    let mut writer = bench.engine.begin(kept(None, vec![])).await.unwrap();
    let id = writer.id();
    writer.write(content(100, 1)).await.unwrap();
    let row = bench.engine.peek(id).await.unwrap().unwrap();
    assert_eq!((row.epoch, row.state), (1, UploadState::Open));
    bench.engine.set_length(id, 200).await.unwrap();
    let open = bench.engine.open_uploads(None, None, 10).await.unwrap();
    assert_eq!(open.len(), 1);
    assert!(writer.taken_over().now_or_never().is_none());
    writer.write(content(100, 2)).await.unwrap();
    writer.finish().await.unwrap();
    bench.is_clean().await;
}

#[tokio::test]
async fn a_cancelled_upload_takes_its_writer_and_its_bytes_along() {
    let bench = Bench::new().await;
    let mut writer = bench.engine.begin(kept(None, vec![])).await.unwrap();
    let (id, taken_over) = (writer.id(), writer.taken_over());
    writer.write(content(20 * MIB, 1)).await.unwrap();
    assert!(bench.engine.cancel(id).await.unwrap());
    taken_over.await;
    assert_eq!(bench.memory.keys(), [], "no sweep is needed");
    let late = writer.write(content(1, 1)).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Fenced);
    drop(writer);
    bench.is_clean().await;
    assert_eq!(bench.states().await, [UploadState::Aborted]);
}

#[tokio::test]
async fn a_write_that_waits_ends_when_it_is_replaced() {
    let bench = Bench::new().await;
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(bench.pool.take().await);
    }
    let mut old = bench.engine.begin(kept(None, vec![])).await.unwrap();
    let id = old.id();
    let waiting = tokio::spawn(async move { old.write(content(100, 1)).await });
    while bench.pool.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    let mut new = bench.engine.resume(id, 0).await.unwrap();
    let ended = waiting.await.unwrap();
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::Fenced);
    drop(held);
    new.write(content(100, 1)).await.unwrap();
    new.finish().await.unwrap();
    bench.is_clean().await;
}

#[tokio::test]
async fn a_request_that_comes_while_the_last_one_ends_finds_all_that_it_sent() {
    let bench = Bench::new().await;
    let bytes = content(12 * MIB, 4);
    let mut at = 0;
    let created = bench.engine.create(kept(None, vec![])).await;
    let id = created.unwrap().id;
    for to in [5 * MIB, 5 * MIB + 1, 11 * MIB] {
        let mut writer = bench.engine.resume(id, at).await.unwrap();
        let from = usize::try_from(at).unwrap();
        writer.write(bytes.slice(from..to)).await.unwrap();
        // The connection is cut; the client asks at once where to go on.
        drop(writer);
        at = bench.engine.head(id).await.unwrap().offset;
        assert_eq!(at, to as u64);
    }
    let mut writer = bench.engine.resume(id, at).await.unwrap();
    writer.write(bytes.slice(11 * MIB..)).await.unwrap();
    let mut finishing = Box::pin(writer.finish());
    assert!(futures_util::poll!(&mut finishing).is_pending());
    drop(finishing);
    let told = bench.engine.head(id).await.unwrap();
    assert_eq!(told.state, UploadState::Done, "it is waited for, too");
    bench.is_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_at_once_leave_one_writer_and_no_harm() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = local::open(home.path()).await.unwrap();
    let bench = Bench::on(Sql::open().await).await;
    let engine = bench.engine_on(bench.rig.ledger(), store.clone(), &bench.pool);
    let bytes = content(12 * MIB, 5);
    let id = engine.create(kept(None, vec![])).await.unwrap().id;
    let requests = (0..24usize).map(|number| {
        let (engine, bytes) = (engine.clone(), bytes.clone());
        tokio::spawn(async move {
            let told = match engine.head(id).await {
                Ok(row) if row.state == UploadState::Open => row.offset,
                _ => return None,
            };
            let mut writer = engine.resume(id, told).await.ok()?;
            let mut at = usize::try_from(told).unwrap();
            while at < bytes.len() {
                let to = bytes.len().min(at + 100_000 * (number + 1));
                writer.write(bytes.slice(at..to)).await.ok()?;
                at = to;
            }
            writer.finish().await.ok()
        })
    });
    let all = futures_util::future::join_all(requests);
    let ended = tokio::time::timeout(Duration::from_mins(1), all).await;
    let published: Vec<_> = ended
        .expect("nobody waits for ever")
        .into_iter()
        .filter_map(Result::unwrap)
        .collect();
    engine.settled().await;
    assert_eq!(engine.in_progress(), 0);
    assert_eq!(bench.pool.in_use_bytes(), 0);
    assert!(published.len() <= 1);
    if engine.head(id).await.unwrap().state == UploadState::Open {
        let offset = engine.head(id).await.unwrap().offset;
        let mut writer = engine.resume(id, offset).await.unwrap();
        let from = usize::try_from(offset).unwrap();
        writer.write(bytes.slice(from..)).await.unwrap();
        writer.finish().await.unwrap();
    }
    let blob = bench.published().await.unwrap();
    assert!(bench.read_back_from(&store, &blob).await == bytes);
}

#[tokio::test]
async fn a_writer_that_only_told_its_progress_told_the_truth() {
    let bench = Bench::new().await;
    let begun = bench.engine.begin(kept(Some(40 << 20), vec![])).await;
    let mut writer = begun.unwrap();
    let (id, mut progress) = (writer.id(), writer.progress());
    assert_eq!(*progress.borrow_and_update(), 0);
    let mut told = Vec::new();
    for part in 0..3u8 {
        writer.write(content(8 * MIB, part)).await.unwrap();
        let offset = (u64::from(part) + 1) * (8 << 20);
        progress.wait_for(|now| *now == offset).await.unwrap();
        told.push(bench.engine.peek(id).await.unwrap().unwrap().offset);
    }
    assert_eq!(told, [8 << 20, 16 << 20, 24 << 20]);
    writer.write(Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(writer.pause().await.unwrap(), (24 << 20) + 1);
    assert_eq!(*progress.borrow(), (24 << 20) + 1);
    assert!(bench.engine.cancel(id).await.unwrap());
    bench.is_clean().await;
}

#[tokio::test]
async fn nothing_is_told_whose_row_was_not_written() {
    let bench = Bench::new().await;
    let faults = Faults::new();
    let engine = failing(&bench, &faults);
    faults.plan("ledger.advance", 1, Fault::Before(ErrorKind::Unavailable));
    let begun = engine.begin(kept(Some(40 << 20), vec![])).await;
    let mut writer = begun.unwrap();
    let (id, mut progress) = (writer.id(), writer.progress());
    writer.write(content(8 * MIB, 1)).await.unwrap();
    progress.wait_for(|now| *now == 8 << 20).await.unwrap();
    writer.write(content(8 * MIB, 2)).await.unwrap();
    assert!(writer.pause().await.is_err());
    assert_eq!(*progress.borrow(), 8 << 20);
    assert_eq!(engine.peek(id).await.unwrap().unwrap().offset, 8 << 20);
    assert!(engine.cancel(id).await.unwrap());
    engine.settled().await;
    bench.is_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_keeps_what_it_sent_when_it_is_replaced() {
    let bench = Bench::new().await;
    let bytes = content(3 * MIB + 7, 9);
    let piece = |from: usize, to: usize| bytes.slice(from..to);
    let mut old = bench.engine.begin(kept(None, vec![])).await.unwrap();
    let (id, mut progress) = (old.id(), old.progress());
    // As fast as a part in a few seconds: nothing is committed before its part is whole.
    old.write(piece(0, MIB)).await.unwrap();
    tokio::time::advance(Duration::from_secs(4)).await;
    old.write(piece(MIB, MIB + 1)).await.unwrap();
    assert_eq!(*progress.borrow(), 0);
    // Slower, what came is committed from time to time.
    tokio::time::advance(Duration::from_secs(1)).await;
    old.write(piece(MIB + 1, MIB + 2)).await.unwrap();
    progress
        .wait_for(|told| *told == MIB as u64 + 2)
        .await
        .unwrap();
    old.write(piece(MIB + 2, 2 * MIB)).await.unwrap();
    tokio::time::advance(Duration::from_secs(5)).await;
    old.write(piece(2 * MIB, 2 * MIB + 1)).await.unwrap();
    progress
        .wait_for(|told| *told == 2 * MIB as u64 + 1)
        .await
        .unwrap();
    // Silent, once more soon, and then not more often than that.
    old.write(piece(2 * MIB + 1, 2 * MIB + 2)).await.unwrap();
    old.give_memory_back().await.unwrap();
    bench.engine.peek(id).await.unwrap();
    assert_eq!(*progress.borrow(), 2 * MIB as u64 + 1);
    tokio::time::advance(Duration::from_secs(5)).await;
    old.give_memory_back().await.unwrap();
    let at = 2 * MIB + 2;
    progress.wait_for(|told| *told == at as u64).await.unwrap();
    let mut new = bench.engine.resume(id, at as u64).await.unwrap();
    new.write(piece(at, bytes.len())).await.unwrap();
    let published = new.finish().await.unwrap();
    assert!(bench.read_back(&published.blob).await == bytes);
    drop(old);
    bench.is_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_keeps_what_it_sent_but_for_what_waits_for_its_digest() {
    let bench = Bench::new().await;
    let bytes = content(MIB, 10);
    let mut silent = bench.engine.begin(kept(None, vec![])).await.unwrap();
    let (id, mut progress) = (silent.id(), silent.progress());
    silent.write(bytes.slice(..5)).await.unwrap();
    silent.give_memory_back().await.unwrap();
    progress.wait_for(|told| *told == 5).await.unwrap();
    let mut held = bench.engine.resume(id, 5).await.unwrap();
    held.hold_untold(&[Algorithm::Sha1]).unwrap();
    held.write(bytes.slice(5..100)).await.unwrap();
    held.give_memory_back().await.unwrap();
    tokio::time::advance(Duration::from_secs(6)).await;
    held.write(bytes.slice(100..200)).await.unwrap();
    assert_eq!(bench.engine.head(id).await.unwrap().offset, 5);
    drop((silent, held));
    assert!(bench.engine.cancel(id).await.unwrap());
    bench.is_clean().await;
}

#[tokio::test]
async fn who_asks_and_leaves_takes_no_writer_along() {
    let bench = Bench::new().await;
    let held = bench.pool.reserve(8).await;
    let mut writer = bench.engine.begin(kept(None, vec![])).await.unwrap();
    let id = writer.id();
    // It waits for memory, and whoever asks waits for it.
    let mut writing = Box::pin(writer.write(content(MIB, 12)));
    assert!(futures_util::poll!(&mut writing).is_pending());
    let mut asking = Box::pin(bench.engine.head(id));
    assert!(futures_util::poll!(&mut asking).is_pending());
    let fenced = writing.await.unwrap_err();
    assert_eq!(fenced.kind(), ErrorKind::Fenced);
    // It has the right to what the writer held by now, and does not come to use it.
    drop(writer);
    drop(asking);
    bench.engine.settled().await;
    assert_eq!(bench.engine.in_progress(), 0);
    drop(held);
    assert!(bench.engine.cancel(id).await.unwrap());
    bench.is_clean().await;
}
