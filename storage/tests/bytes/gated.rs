//! A store whose parts become durable when the test says so: what may be told, and when.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use boxgate_storage::Result;
use boxgate_storage::blob::BlobKey;
use boxgate_storage::metadata::uploads::UploadState;
use boxgate_storage::range::ByteRange;
use boxgate_storage::store::{Kept, PartIndex, Receipt, Run, Store, UploadSink, WriteBlob};
use boxgate_storage::upload::UploadWriter;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

use crate::bench::{Bench, MIB, content, intent};

/// One gate per part, shut until a permit is added.
#[derive(Debug)]
struct Gates {
    parts: Vec<Semaphore>,
    /// Seals that were asked for and did not end yet.
    waiting: AtomicUsize,
    most_waiting: AtomicUsize,
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
        self.0.write(run)
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

/// A writer whose whole parts wait for one another until they have `commit_bytes`.
async fn gated(bench: &Bench, commit_bytes: u64) -> (UploadWriter, Arc<Gates>) {
    let gates = Arc::new(Gates {
        parts: (0..16).map(|_| Semaphore::new(0)).collect(),
        waiting: AtomicUsize::new(0),
        most_waiting: AtomicUsize::new(0),
    });
    let inner = bench.memory.store();
    let store = Store {
        write: Arc::new(Gated(Arc::clone(&inner.write), Arc::clone(&gates))),
        ..inner
    };
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
