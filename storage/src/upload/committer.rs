//! Commits the parts of one upload: several become durable at once, their rows move strictly in order.
//!
//! A task of its own, so that the writer goes on taking bytes meanwhile. It ends when the writer lets
//! go of it, and only after nothing of the upload is on its way to the store any more. While a request's
//! own digest is not compared yet, parts become durable and their rows stay where they are.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::engine::Inner;
use super::state::{Step, UploadState};
use super::stats::{Stage, count};
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::uploads::{Advance, Fence};
use crate::store::Receipt;

/// The writer's end.
#[derive(Debug)]
pub(super) struct Committer {
    /// Absent once no more parts come.
    messages: Option<mpsc::Sender<Message>>,
    /// Absent once its outcome was taken.
    task: Option<JoinHandle<Result<()>>>,
    given_up: Arc<AtomicBool>,
    unsure: Arc<AtomicBool>,
    supersedes: Arc<AtomicBool>,
}

/// What the writer tells.
enum Message {
    /// A part was handed over, or its beginning.
    Part(Part),
    /// Nothing that follows may be committed yet.
    Hold,
    /// What was held may be committed.
    Release,
}

/// Bytes of one part that were handed over.
struct Part {
    step: Step,
    durable: JoinHandle<Result<Receipt>>,
    values: Vec<[u8; 32]>,
    hash_states: Vec<u8>,
}

/// What a part is to be committed with.
#[derive(Debug)]
pub(super) struct PartHashes {
    /// One subtree value per MiB of the part so far.
    pub(super) values: Vec<[u8; 32]>,
    /// States of all hashes at the step's end.
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
    /// `progress` is told every offset that is committed.
    pub(super) fn start(
        engine: &Arc<Inner>,
        fence: Fence,
        state: Shared,
        progress: watch::Sender<u64>,
        runtime: &Handle,
    ) -> Self {
        // One part is with the task, the others wait in the queue.
        let queued = engine.options.parts_in_flight.saturating_sub(1).max(1);
        let (messages, incoming) = mpsc::channel(queued);
        let given_up = Arc::new(AtomicBool::new(false));
        let unsure = Arc::new(AtomicBool::new(false));
        let supersedes = Arc::new(AtomicBool::new(false));
        let task = Task {
            engine: Arc::clone(engine),
            fence,
            state,
            progress,
            given_up: Arc::clone(&given_up),
            unsure: Arc::clone(&unsure),
            supersedes: Arc::clone(&supersedes),
        };
        Self {
            messages: Some(messages),
            task: Some(runtime.spawn(task.run(incoming))),
            given_up,
            unsure,
            supersedes,
        }
    }

    /// Lets the next commit end what the same sender left open under the same name.
    pub(super) fn supersede(&self) {
        self.supersedes.store(true, Ordering::Relaxed);
    }

    /// Whether the committed offset may not be where the last commit seemed to leave it.
    pub(super) fn is_unsure(&self) -> bool {
        self.unsure.load(Ordering::Relaxed)
    }

    /// Waits until one more part may be on its way.
    ///
    /// # Errors
    /// When an earlier part failed; [`Self::failure`] tells why.
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub(super) async fn room(&self) -> Result<Room<'_>, Failed> {
        let messages = self.messages.as_ref().ok_or(Failed)?;
        messages.reserve().await.map(Room).map_err(|_closed| Failed)
    }

    /// Lets nothing be committed until it is released; false once a part was handed over.
    pub(super) fn hold(&self) -> bool {
        let messages = self.messages.as_ref();
        messages.is_some_and(|messages| messages.try_send(Message::Hold).is_ok())
    }

    /// Whether a part failed already.
    pub(super) fn failed(&self) -> bool {
        self.messages.as_ref().is_none_or(mpsc::Sender::is_closed)
    }

    /// Commits nothing more; what is under way goes on.
    pub(super) fn stop(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// Why a part failed; `None` when that was told before.
    pub(super) async fn failure(&mut self) -> Option<Error> {
        // After a failure the task ends by itself: it took the rest of the queue for waiting only.
        outcome(self.task.take()?).await.err()
    }

    /// Waits until all parts are committed, or until the first failure and all that was under way.
    pub(super) async fn end(&mut self) -> Result<()> {
        // Without a sender the task ends when its queue is worked off.
        self.messages = None;
        match self.task.take() {
            Some(task) => outcome(task).await,
            None => Ok(()),
        }
    }

    /// Commits nothing more and waits for what is under way.
    pub(super) async fn give_up(&mut self) {
        self.stop();
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

/// Room for one message.
pub(super) struct Room<'c>(mpsc::Permit<'c, Message>);

impl Room<'_> {
    /// Hands a part over. `durable` runs at once, whatever happens to the parts before it.
    pub(super) fn take(
        self,
        step: Step,
        hashes: PartHashes,
        durable: BoxFuture<'static, Result<Receipt>>,
    ) {
        self.0.send(Message::Part(Part {
            step,
            durable: tokio::spawn(durable),
            values: hashes.values,
            hash_states: hashes.states,
        }));
    }

    /// What was held may be committed, and what follows.
    pub(super) fn release(self) {
        self.0.send(Message::Release);
    }
}

/// The committer's end.
struct Task {
    engine: Arc<Inner>,
    fence: Fence,
    state: Shared,
    progress: watch::Sender<u64>,
    given_up: Arc<AtomicBool>,
    unsure: Arc<AtomicBool>,
    supersedes: Arc<AtomicBool>,
}

impl Task {
    async fn run(self, mut messages: mpsc::Receiver<Message>) -> Result<()> {
        let mut outcome = Ok(());
        // Steps that are durable and held; a kilobyte for each part.
        let mut held: Option<Vec<Advance>> = None;
        while let Some(message) = messages.recv().await {
            let ready = match message {
                Message::Hold => {
                    held = Some(Vec::new());
                    continue;
                }
                Message::Release => held.take().unwrap_or_default(),
                Message::Part(part) => match (self.durable(part).await, &mut held) {
                    (Ok(advance), Some(held)) => {
                        held.push(advance);
                        continue;
                    }
                    (Ok(advance), None) => vec![advance],
                    (Err(e), _) => {
                        // The store gave up what was told to be durable.
                        if e.kind() == ErrorKind::Gone && outcome.is_ok() {
                            self.engine.lose_row(self.fence).await;
                        }
                        outcome = outcome.and(Err(e));
                        Vec::new()
                    }
                },
            };
            for advance in ready {
                if outcome.is_ok() && !self.given_up.load(Ordering::Relaxed) {
                    outcome = self.commit(advance).await;
                }
            }
            if outcome.is_err() {
                // The writer learns of it at its next part; what is queued is still waited for.
                messages.close();
            }
        }
        outcome
    }

    /// Waits until the part is durable.
    async fn durable(&self, part: Part) -> Result<Advance> {
        let durable = part.durable.await.unwrap_or_else(|panicked| {
            let subject = self.fence.id.to_string();
            Err(Error::new(ErrorKind::Internal, "upload.seal", subject).with_source(panicked))
        });
        durable.map(|receipt| Advance {
            from: part.step.from,
            to: part.step.to,
            part: part.step.part,
            values: part.values,
            hash_states: part.hash_states,
            receipt,
        })
    }

    async fn commit(&self, advance: Advance) -> Result<()> {
        let step = Step {
            part: advance.part,
            from: advance.from,
            to: advance.to,
        };
        // Until it is answered; and for good, when the upload is another's or the answer is lost.
        self.unsure.store(true, Ordering::Relaxed);
        advance_row(&self.engine, self.fence, advance).await?;
        self.unsure.store(false, Ordering::Relaxed);
        let in_order = self.state.lock().commit(step);
        debug_assert!(in_order, "parts arrive in order");
        self.progress.send_replace(step.to);
        count(&self.engine.counters.part_commits, 1);
        // Where that was all of it, it is published next, and replaces what was left open as it is.
        let is_all = self.state.lock().length() == Some(step.to);
        if !is_all && self.supersedes.swap(false, Ordering::Relaxed) {
            self.engine.supersede_or_log(self.fence.id).await;
        }
        Ok(())
    }
}

/// B3. When the answer is lost, the row decides what happened.
pub(super) async fn advance_row(engine: &Inner, fence: Fence, step: Advance) -> Result<()> {
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
