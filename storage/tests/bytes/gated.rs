//! A store whose parts become durable when the test says so: what may be told, and when.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use boxgate_storage::backend::faulty::{Fault, Faults};
use boxgate_storage::blob::BlobKey;
use boxgate_storage::metadata::uploads::UploadState;
use boxgate_storage::range::ByteRange;
use boxgate_storage::store::{Kept, PartIndex, Receipt, Run, Store, UploadSink, WriteBlob};
use boxgate_storage::upload::{UploadIntent, UploadWriter};
use boxgate_storage::{ErrorKind, Result};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

use crate::bench::{Bench, MIB, content, intent, kept};

/// One gate per part, shut until a permit is added.
#[derive(Debug)]
struct Gates {
    parts: Vec<Semaphore>,
    /// Seals that were asked for and did not end yet.
    waiting: AtomicUsize,
    most_waiting: AtomicUsize,
    /// Runs from here on are on their way until a permit is added for each.
    slow_from: u64,
    slow_runs: Semaphore,
    begun: AtomicUsize,
    /// The first of them waits for it.
    beginning: Semaphore,
}

#[derive(Debug)]
struct Gated(Arc<dyn WriteBlob>, Arc<Gates>);

#[async_trait]
impl WriteBlob for Gated {
    async fn begin(
        &self,
        key: &BlobKey,
        part_bytes: u64,
        length: Option<u64>,
    ) -> Result<Box<dyn UploadSink>> {
        if self.1.begun.fetch_add(1, Ordering::SeqCst) == 0 {
            self.1.beginning.acquire().await.unwrap().forget();
        }
        let inner = self.0.begin(key, part_bytes, length).await?;
        Ok(Box::new(GatedSink(inner, Arc::clone(&self.1))))
    }

    async fn resume(
        &self,
        key: &BlobKey,
        part_bytes: u64,
        offset: u64,
        kept: Kept,
    ) -> Result<Box<dyn UploadSink>> {
        let inner = self.0.resume(key, part_bytes, offset, kept).await?;
        Ok(Box::new(GatedSink(inner, Arc::clone(&self.1))))
    }
}

#[derive(Debug)]
struct GatedSink(Box<dyn UploadSink>, Arc<Gates>);

#[async_trait]
impl UploadSink for GatedSink {
    fn write(&mut self, run: Run) -> BoxFuture<'static, Result<()>> {
        if run.offset < self.1.slow_from {
            return self.0.write(run);
        }
        let gates = Arc::clone(&self.1);
        // Whether or not anybody waits for it, as on its way to a disk.
        let written = tokio::spawn(async move {
            gates.slow_runs.acquire().await.unwrap().forget();
            drop(run);
        });
        async move {
            written.await.unwrap();
            Ok(())
        }
        .boxed()
    }

    fn ends_at(&mut self, length: u64) {
        self.0.ends_at(length);
    }

    fn reread(&self, range: ByteRange) -> Option<Vec<u8>> {
        self.0.reread(range)
    }

    fn seal(&mut self, part: PartIndex) -> BoxFuture<'static, Result<Receipt>> {
        let (sealed, gates) = (self.0.seal(part), Arc::clone(&self.1));
        async move {
            let waiting = gates.waiting.fetch_add(1, Ordering::SeqCst) + 1;
            gates.most_waiting.fetch_max(waiting, Ordering::SeqCst);
            let gate = &gates.parts[part.0 as usize];
            gate.acquire().await.unwrap().forget();
            gates.waiting.fetch_sub(1, Ordering::SeqCst);
            sealed.await
        }
        .boxed()
    }

    async fn commit(self: Box<Self>) -> Result<u64> {
        self.0.commit().await
    }

    async fn pause(self: Box<Self>, offset: u64) -> Result<()> {
        self.0.pause(offset).await
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        self.0.abort().await
    }
}

impl Gates {
    fn new(slow_from: u64, begins_at_once: bool) -> Arc<Self> {
        Arc::new(Self {
            parts: (0..16).map(|_| Semaphore::new(0)).collect(),
            waiting: AtomicUsize::new(0),
            most_waiting: AtomicUsize::new(0),
            slow_from,
            slow_runs: Semaphore::new(0),
            begun: AtomicUsize::new(0),
            beginning: Semaphore::new(usize::from(begins_at_once)),
        })
    }

    fn around(self: &Arc<Self>, inner: Store) -> Store {
        Store {
            write: Arc::new(Gated(Arc::clone(&inner.write), Arc::clone(self))),
            ..inner
        }
    }
}

/// A writer whose whole parts wait for one another until they have `commit_bytes`.
async fn gated(bench: &Bench, commit_bytes: u64) -> (UploadWriter, Arc<Gates>) {
    let gates = Gates::new(u64::MAX, true);
    let store = gates.around(bench.memory.store());
    let engine = bench.gathering(bench.rig.ledger(), store, (commit_bytes, Duration::MAX));
    let length = Some(100 << 20);
    let writer = engine.begin(intent(length, vec![])).await.unwrap();
    (writer, gates)
}

/// Lets every task run until nothing moves any more: time is paused, so it passes only then.
async fn quiet() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn an_offset_moves_only_when_all_before_it_is_durable() {
    let bench = Bench::new().await;
    let (mut writer, gates) = gated(&bench, 0).await;
    writer.write(content(24 * MIB, 1)).await.unwrap();
    gates.parts[2].add_permits(1);
    gates.parts[1].add_permits(1);
    quiet().await;
    assert_eq!(
        gates.waiting.load(Ordering::SeqCst),
        1,
        "two parts are durable"
    );
    assert_eq!(writer.committed_bytes(), 0, "the first is not");
    gates.parts[0].add_permits(1);
    quiet().await;
    assert_eq!(writer.committed_bytes(), 24 << 20);
    writer.abort().await;
    bench.is_clean().await;
}

#[tokio::test(start_paused = true)]
async fn no_more_parts_are_in_flight_than_agreed() {
    let bench = Bench::new().await;
    let (mut writer, gates) = gated(&bench, 0).await;
    let bytes = content(100 * MIB, 1);
    let mut writing = Box::pin(writer.write(bytes));
    // Twelve parts, of which all but the last four must have gone.
    for part in 0..8 {
        let waited = tokio::time::timeout(Duration::from_secs(1), &mut writing).await;
        assert!(waited.is_err(), "part {} has to wait", part + 4);
        gates.parts[part].add_permits(1);
    }
    writing.await.unwrap();
    quiet().await;
    assert_eq!(gates.waiting.load(Ordering::SeqCst), 4);
    assert_eq!(gates.most_waiting.load(Ordering::SeqCst), 4);
    for gate in &gates.parts {
        gate.add_permits(1);
    }
    writer.abort().await;
    bench.is_clean().await;
}

#[tokio::test(start_paused = true)]
async fn giving_up_waits_for_what_is_in_flight_and_commits_nothing_more() {
    let bench = Bench::new().await;
    let (mut writer, gates) = gated(&bench, 0).await;
    writer.write(content(16 * MIB, 1)).await.unwrap();
    let mut aborting = Box::pin(writer.abort());
    let waited = tokio::time::timeout(Duration::from_secs(1), &mut aborting).await;
    assert!(waited.is_err(), "a part is still in flight");
    assert_eq!(bench.states().await, [UploadState::Open]);
    for gate in &gates.parts {
        gate.add_permits(1);
    }
    aborting.await;
    assert_eq!(bench.states().await, [UploadState::Aborted]);
    bench.is_clean().await;
}

#[tokio::test(start_paused = true)]
async fn parts_that_wait_for_one_another_are_at_stake_in_two_batches_at_most() {
    let bench = Bench::new().await;
    let (mut writer, gates) = gated(&bench, 16 << 20).await;
    let mut writing = Box::pin(writer.write(content(56 * MIB, 1)));
    let waited = tokio::time::timeout(Duration::from_secs(1), &mut writing).await;
    assert!(waited.is_err(), "the second batch waits for the first");
    assert_eq!(gates.waiting.load(Ordering::SeqCst), 1);
    gates.parts[1].add_permits(1);
    writing.await.unwrap();
    quiet().await;
    assert_eq!(writer.committed_bytes(), 16 << 20);
    // It grew to twice its size meanwhile.
    gates.parts[5].add_permits(1);
    quiet().await;
    assert_eq!(writer.committed_bytes(), 48 << 20);
    assert_eq!(gates.most_waiting.load(Ordering::SeqCst), 1);
    writer.abort().await;
    bench.is_clean().await;
}

#[tokio::test(start_paused = true)]
async fn what_found_no_place_behind_a_failed_part_is_waited_for() {
    let (bench, faults) = (Bench::new().await, Faults::new());
    let gates = Gates::new(15 << 20, true);
    let ledger = bench.failing_ledger(&faults);
    faults.plan("ledger.advance", 0, Fault::Before(ErrorKind::Invalid));
    let store = gates.around(bench.memory.store());
    let engine = bench.engine_on(ledger, store, &bench.pool);
    let bytes = content(16 * MIB, 1);
    let length = Some(17 << 20);
    let mut writer = engine.begin(kept(length, vec![])).await.unwrap();
    writer.write(bytes.slice(..15 * MIB)).await.unwrap();
    gates.parts[0].add_permits(1);
    quiet().await;
    writer.write(bytes.slice(15 * MIB..)).await.unwrap_err();
    drop(writer);
    let left = tokio::time::timeout(Duration::from_secs(1), engine.settled()).await;
    assert!(left.is_err(), "a run is on its way");
    assert_eq!(engine.in_progress(), 1);
    gates.slow_runs.add_permits(1);
    engine.settled().await;
    assert_eq!(bench.pool.in_use_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_is_waited_for_however_long_that_takes() {
    let bench = Bench::new().await;
    let gates = Gates::new(u64::MAX, true);
    let store = gates.around(bench.memory.store());
    let engine = bench.engine_on(bench.rig.ledger(), store, &bench.pool);
    let mut writer = engine.begin(kept(Some(9 << 20), vec![])).await.unwrap();
    writer.write(content(8 * MIB + 1, 1)).await.unwrap();
    drop(writer);
    let left = tokio::time::timeout(Duration::from_mins(1), engine.settled()).await;
    assert!(left.is_err(), "a part is on its way");
    assert_eq!(engine.in_progress(), 1);
    for gate in &gates.parts {
        gate.add_permits(1);
    }
    engine.settled().await;
    assert_eq!(engine.in_progress(), 0);
}

/// Who looks for what can be joined finds it as soon as its row is there.
#[tokio::test(start_paused = true)]
async fn an_upload_that_is_found_while_it_is_made_is_made_once() {
    let bench = Bench::new().await;
    let piece = UploadIntent {
        target: None,
        ..kept(Some(3), vec![])
    };
    let mut source = bench.engine.begin(piece.clone()).await.unwrap();
    source.write(content(3, 1)).await.unwrap();
    let source = (source.id(), source.finish().await.unwrap()).0;
    let gates = Gates::new(u64::MAX, false);
    let store = gates.around(bench.memory.store());
    let engine = bench.engine_on(bench.rig.ledger(), store, &bench.pool);
    let making = engine.create_joined(kept(Some(3), vec![]), vec![source]);
    let mut making = Box::pin(making);
    let waited = tokio::time::timeout(Duration::from_secs(1), &mut making).await;
    assert!(waited.is_err(), "its place is being made");
    let [id] = engine.joinable(None, 2).await.unwrap()[..] else {
        panic!("one can be joined");
    };
    let mut going_on = Box::pin(engine.resume(id, 0));
    // With or without success: whoever made it has not come to its end.
    let found = tokio::time::timeout(Duration::from_secs(1), &mut going_on).await;
    gates.beginning.add_permits(1);
    gates.parts[0].add_permits(1);
    assert_eq!(making.await.unwrap().id, id);
    let mut writer = match found {
        Ok(writer) => writer,
        Err(_elapsed) => going_on.await,
    }
    .unwrap();
    writer.write(content(3, 1)).await.unwrap();
    writer.finish().await.unwrap();
    assert!(bench.engine.cancel(source).await.unwrap());
    bench.is_clean().await;
}
