//! Commits the parts of one upload: several become durable at once, their rows move strictly in order.
//!
//! A task of its own, so that the writer goes on taking bytes meanwhile. It ends when the writer lets
//! go of it, and only after nothing of the upload is on its way to the store any more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::engine::Inner;
use super::state::{Step, UploadState};
use super::stats::{Stage, count};
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::uploads::{Advance, Fence};

/// The writer's end.
#[derive(Debug)]
pub(super) struct Committer {
    /// Absent once no more parts come.
    parts: Option<mpsc::Sender<Part>>,
    /// Absent once its outcome was taken.
    task: Option<JoinHandle<Result<()>>>,
    given_up: Arc<AtomicBool>,
}

/// One part that was handed over whole.
struct Part {
    step: Step,
    durable: JoinHandle<Result<()>>,
    values: Vec<[u8; 32]>,
    hash_states: Vec<u8>,
}

/// What a part is to be committed with.
#[derive(Debug)]
pub(super) struct PartHashes {
    /// One subtree value per MiB of the part.
    pub(super) values: Vec<[u8; 32]>,
    /// States of the hashes that need their bytes in order, at the part's end.
    pub(super) states: Vec<u8>,
}

/// An upload's numbers, shared between its writer and its committer.
#[derive(Debug, Clone)]
pub(super) struct Shared(Arc<Mutex<UploadState>>);

impl Shared {
    pub(super) fn new(state: UploadState) -> Self {
        Self(Arc::new(Mutex::new(state)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, UploadState> {
        // Each method of the state leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Committer {
    pub(super) fn start(
        engine: &Arc<Inner>,
        fence: Fence,
        state: Shared,
        runtime: &Handle,
    ) -> Self {
        // One part is with the task, the others wait in the queue.
        let queued = engine.options.parts_in_flight.saturating_sub(1).max(1);
        let (parts, incoming) = mpsc::channel(queued);
        let given_up = Arc::new(AtomicBool::new(false));
        let run = run(
            Arc::clone(engine),
            fence,
            state,
            incoming,
            Arc::clone(&given_up),
        );
        Self {
            parts: Some(parts),
            task: Some(runtime.spawn(run)),
            given_up,
        }
    }

    /// Takes a part as soon as there is room for one more in flight. `durable` runs at once, whatever
    /// happens to the parts before it.
    ///
    /// # Errors
    /// When an earlier part failed; [`Self::failure`] tells why.
    pub(super) async fn take(
        &self,
        step: Step,
        hashes: PartHashes,
        durable: BoxFuture<'static, Result<()>>,
    ) -> Result<(), Failed> {
        // Room first, so that no more than the agreed number are ever under way.
        let parts = self.parts.as_ref().ok_or(Failed)?;
        let room = parts.reserve().await.map_err(|_closed| Failed)?;
        room.send(Part {
            step,
            durable: tokio::spawn(durable),
            values: hashes.values,
            hash_states: hashes.states,
        });
        Ok(())
    }

    /// Whether a part failed already.
    pub(super) fn failed(&self) -> bool {
        self.parts.as_ref().is_none_or(mpsc::Sender::is_closed)
    }

    /// Why a part failed; `None` when that was told before.
    pub(super) async fn failure(&mut self) -> Option<Error> {
        // After a failure the task ends by itself: it took the rest of the queue for waiting only.
        outcome(self.task.take()?).await.err()
    }

    /// Waits until all parts are committed, or until the first failure and all that was under way.
    pub(super) async fn end(&mut self) -> Result<()> {
        // Without a sender the task ends when its queue is worked off.
        self.parts = None;
        match self.task.take() {
            Some(task) => outcome(task).await,
            None => Ok(()),
        }
    }

    /// Commits nothing more and waits for what is under way.
    pub(super) async fn give_up(&mut self) {
        self.given_up.store(true, Ordering::Relaxed);
        // Whoever gives up knows why; what else fails on the way adds nothing.
        let _outcome = self.end().await;
    }
}

async fn outcome(task: JoinHandle<Result<()>>) -> Result<()> {
    task.await.unwrap_or_else(|panicked| {
        Err(Error::new(ErrorKind::Internal, "upload.commit", "part").with_source(panicked))
    })
}

/// An earlier part failed.
#[derive(Debug)]
pub(super) struct Failed;

async fn run(
    engine: Arc<Inner>,
    fence: Fence,
    state: Shared,
    mut parts: mpsc::Receiver<Part>,
    given_up: Arc<AtomicBool>,
) -> Result<()> {
    let mut outcome = Ok(());
    while let Some(part) = parts.recv().await {
        let durable = part.durable.await.unwrap_or_else(|panicked| {
            let error = Error::new(ErrorKind::Internal, "upload.seal", fence.id.to_string());
            Err(error.with_source(panicked))
        });
        if outcome.is_err() || given_up.load(Ordering::Relaxed) {
            continue;
        }
        outcome = match durable {
            Ok(()) => {
                let advance = Advance {
                    from: part.step.from,
                    to: part.step.to,
                    part: part.step.part,
                    values: part.values,
                    hash_states: part.hash_states,
                };
                advance_row(&engine, fence, advance).await
            }
            Err(e) => Err(e),
        };
        if outcome.is_ok() {
            let in_order = state.lock().commit(part.step);
            debug_assert!(in_order, "parts arrive in order");
            count(&engine.counters.part_commits, 1);
        } else {
            // The writer learns of it at its next part; what is queued is still waited for.
            parts.close();
        }
    }
    outcome
}

/// B3. When the answer is lost, the row decides what happened.
async fn advance_row(engine: &Inner, fence: Fence, step: Advance) -> Result<()> {
    let started = Instant::now();
    let to = step.to;
    let mut done = engine.options.ledger.advance(fence, step).await;
    if let Err(lost) = &done
        && matches!(lost.kind(), ErrorKind::Unavailable | ErrorKind::Internal)
        && let Ok(Some(row)) = engine.options.ledger.upload(fence.id).await
        && row.epoch == fence.epoch
        && row.offset == to
    {
        done = Ok(());
    }
    engine.counters.spent(Stage::Advance, started);
    done
}
