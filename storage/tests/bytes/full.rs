//! A store or a database without room: what was told stays true, and what is whole is published by whoever
//! asks once there is room.

use boxgate_storage::ErrorKind;
use boxgate_storage::backend::faulty::{Fault, Faults};
use boxgate_storage::blob::UploadId;
use boxgate_storage::metadata::accounts::AccountId;
use boxgate_storage::metadata::uploads::UploadState;
use boxgate_storage::upload::{Sender, UploadEngine};
use bytes::Bytes;

use crate::bench::{ACME, Bench, MIB, content, kept, target};
use crate::fail_points::failing;

const FULL: Fault = Fault::Before(ErrorKind::Full);

/// Two whole parts and a short one.
const LENGTH: usize = 17 * MIB + 5;

async fn state(bench: &Bench, id: UploadId) -> UploadState {
    let row = bench.engine.peek(id).await.unwrap();
    row.unwrap().state
}

/// An upload that rests at a byte that was told.
async fn resting(bench: &Bench, engine: &UploadEngine, bytes: &Bytes, to: usize) -> UploadId {
    let length = Some(bytes.len() as u64);
    let mut writer = engine.begin(kept(length, vec![])).await.unwrap();
    let id = writer.id();
    writer.write(bytes.slice(..to)).await.unwrap();
    assert_eq!(writer.pause().await.unwrap(), to as u64);
    assert_eq!(bench.memory.keys().len(), 1);
    id
}

/// The upload that a client of that name goes on with.
async fn newest(engine: &UploadEngine) -> Option<UploadId> {
    let ann = Sender::person(AccountId(1));
    let target = target();
    let newest = engine.newest_unpublished(&ann, ACME, &target, None);
    let newest = newest.await;
    newest.unwrap().map(|row| row.id)
}

#[tokio::test]
async fn an_upload_without_room_replaces_none_that_was_told() {
    let (bench, faults) = (Bench::new().await, Faults::new());
    let engine = failing(&bench, &faults);
    let bytes = content(LENGTH, 1);
    let older = resting(&bench, &engine, &bytes, 5 * MIB).await;
    // No room for its row, for its file, for its first part.
    let (row, file) = (
        faults.times()["ledger.create"],
        faults.times()["store.begin"],
    );
    faults.plan("ledger.create", row, FULL);
    faults.plan("store.begin", file, FULL);
    for _ in 0..2 {
        let refused = engine.begin(kept(None, vec![])).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Full);
        assert_eq!(newest(&engine).await, Some(older));
    }
    let mut newer = engine.begin(kept(None, vec![])).await.unwrap();
    newer.supersede().unwrap();
    let writes = faults.times()["sink.write"];
    for nth in writes..writes + 20 {
        faults.plan("sink.write", nth, FULL);
    }
    assert_eq!(
        newer.write(bytes.clone()).await.unwrap_err().kind(),
        ErrorKind::Full
    );
    drop(newer);
    engine.settled().await;
    assert_eq!(state(&bench, older).await, UploadState::Open);
    // The newer one stays open without a byte, and hides nothing of what was told.
    assert_eq!(newest(&engine).await, Some(older));
    let mut writer = bench.engine.resume(older, 5 << 20).await.unwrap();
    writer.write(bytes.slice(5 * MIB..)).await.unwrap();
    let published = writer.finish().await.unwrap();
    assert!(bench.read_back(&published.blob).await == bytes);
}

#[tokio::test]
async fn the_first_bytes_that_are_committed_end_what_was_left_open_before() {
    let bench = Bench::new().await;
    let engine = &bench.engine;
    let bytes = content(LENGTH, 2);
    let older = resting(&bench, engine, &bytes, 5 * MIB).await;
    let busy = engine.begin(kept(None, vec![])).await.unwrap();
    let mut newer = engine.begin(kept(None, vec![])).await.unwrap();
    newer.supersede().unwrap();
    newer.write(bytes.slice(..MIB)).await.unwrap();
    assert_eq!(state(&bench, older).await, UploadState::Open);
    let id = newer.id();
    newer.pause().await.unwrap();
    assert_eq!(state(&bench, older).await, UploadState::Aborted);
    assert_eq!(state(&bench, busy.id()).await, UploadState::Open);
    assert_eq!(newest(engine).await, Some(id));
    drop(busy);
    // One that came to rest later ends with the publication.
    let mut newer = engine.resume(id, MIB as u64).await.unwrap();
    newer.write(bytes.slice(MIB..)).await.unwrap();
    newer.finish().await.unwrap();
    engine.settled().await;
    engine.supersede(id).await.unwrap();
    assert_eq!(newest(engine).await, None);
    bench.is_clean().await;
}

#[tokio::test]
async fn an_offset_can_be_asked_for_without_room_and_stays_true() {
    let (bench, faults) = (Bench::new().await, Faults::new());
    let engine = failing(&bench, &faults);
    let bytes = content(LENGTH, 3);
    let mut older = engine.begin(kept(None, vec![])).await.unwrap();
    let id = older.id();
    older.write(bytes.slice(..16 * MIB + 5)).await.unwrap();
    let mut progress = older.progress();
    progress.wait_for(|told| *told == 16 << 20).await.unwrap();
    faults.plan("ledger.take_over", 0, FULL);
    let told = engine.head(id).await.unwrap().offset;
    assert_eq!(told, 16 << 20);
    // The row was not touched, so only this ended the writer: all that it still had is not committed.
    let late = older.write(bytes.slice(16 * MIB + 5..)).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Fenced);
    drop(older);
    engine.settled().await;
    assert_eq!(bench.engine.peek(id).await.unwrap().unwrap().offset, told);
    let mut newer = engine.resume(id, told).await.unwrap();
    newer.write(bytes.slice(16 * MIB..)).await.unwrap();
    let published = newer.finish().await.unwrap();
    assert!(bench.read_back(&published.blob).await == bytes);
    bench.is_clean().await;
}

#[tokio::test]
async fn what_is_whole_without_room_is_published_by_whoever_asks() {
    let (bench, faults) = (Bench::new().await, Faults::new());
    let engine = failing(&bench, &faults);
    let bytes = content(LENGTH, 4);
    for nth in 0..4 {
        faults.plan("ledger.publish", nth, FULL);
    }
    let mut writer = engine.begin(kept(None, vec![])).await.unwrap();
    let id = writer.id();
    writer.write(bytes.clone()).await.unwrap();
    let refused = writer.finish().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Full);
    assert_eq!(state(&bench, id).await, UploadState::Completing);
    // It is what a client of that name is told of, and has room to be published only at the next but one try.
    assert_eq!(newest(&engine).await, Some(id));
    let mut tries = 0;
    while engine.publish_left(id).await.is_err() {
        tries += 1;
        assert!(tries < 3);
    }
    assert_eq!(state(&bench, id).await, UploadState::Done);
    let blob = bench.published().await.unwrap();
    assert!(bench.read_back(&blob).await == bytes);
    engine.publish_left(id).await.unwrap();
    bench.is_clean().await;
}

#[tokio::test]
async fn what_waits_to_be_published_does_not_replace_what_came_after_it() {
    let (bench, faults) = (Bench::new().await, Faults::new());
    let engine = failing(&bench, &faults);
    let (first, second) = (content(LENGTH, 5), content(LENGTH, 6));
    for nth in 0..3 {
        faults.plan("ledger.publish", nth, FULL);
    }
    let mut writer = engine.begin(kept(None, vec![])).await.unwrap();
    let older = writer.id();
    writer.write(first).await.unwrap();
    assert_eq!(writer.finish().await.unwrap_err().kind(), ErrorKind::Full);
    let mut writer = engine.begin(kept(None, vec![])).await.unwrap();
    writer.supersede().unwrap();
    let id = writer.id();
    writer.write(second.clone()).await.unwrap();
    writer.finish().await.unwrap();
    engine.supersede(id).await.unwrap();
    assert_eq!(state(&bench, older).await, UploadState::Aborted);
    engine.recover().await.unwrap();
    let blob = bench.published().await.unwrap();
    assert!(bench.read_back(&blob).await == second);
    bench.is_clean().await;
}

#[tokio::test]
async fn one_that_could_not_be_written_to_its_end_replaces_none_that_was_told() {
    let (bench, faults) = (Bench::new().await, Faults::new());
    let engine = failing(&bench, &faults);
    let bytes = content(LENGTH, 7);
    let older = resting(&bench, &engine, &bytes, 5 * MIB).await;
    let mut newer = engine.begin(kept(None, vec![])).await.unwrap();
    newer.supersede().unwrap();
    // Short enough to be committed with its end alone.
    newer.write(bytes.slice(..MIB)).await.unwrap();
    faults.plan("ledger.complete", 0, FULL);
    let refused = newer.finish().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Full);
    engine.settled().await;
    assert_eq!(state(&bench, older).await, UploadState::Open);
    assert_eq!(newest(&engine).await, Some(older));
}
