//! Commits the parts of one upload: several become durable at once, their rows move strictly in order.
//!
//! A task of its own, so that the writer goes on taking bytes meanwhile. It ends when the writer lets
//! go of it, and only after nothing of the upload is on its way to the store any more. While a request's
//! own digest is not compared yet, parts become durable and their rows stay where they are.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::engine::Inner;
use super::lane::States;
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
    task: Option<JoinHandle<Outcome>>,
    given_up: Arc<AtomicBool>,
    unsure: Arc<AtomicBool>,
    supersedes: Arc<AtomicBool>,
    /// How many batches of parts were handed over.
    given: AtomicU64,
    /// How many of them nothing is under way of any more.
    done: watch::Receiver<u64>,
}

/// How the parts ended; with the last ones, where they are durable and left to whoever completes the upload.
type Outcome = Result<Vec<Advance>>;

/// What the writer tells.
enum Message {
    /// Parts were handed over, of the last one perhaps its beginning.
    Parts(Parts),
    /// Nothing that follows may be committed yet.
    Hold,
    /// What was held may be committed.
    Release,
}

/// Parts that were handed over, one after the other, and become durable together.
struct Parts {
    steps: Vec<(Step, PartHashes)>,
    /// Whether they are committed with the end of the upload, in one change.
    is_left: bool,
    /// What the store gives for the last one.
    durable: JoinHandle<Result<Receipt>>,
}

/// What a part is to be committed with.
#[derive(Debug)]
pub(super) struct PartHashes {
    /// One subtree value per MiB of the part so far.
    pub(super) values: Vec<[u8; 32]>,
    /// States of all hashes at the step's end.
    pub(super) states: States,
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
        // One batch is with the task, the others wait in the queue.
        let queued = engine.options.parts_in_flight.saturating_sub(1).max(1);
        let (messages, incoming) = mpsc::channel(queued);
        let given_up = Arc::new(AtomicBool::new(false));
        let unsure = Arc::new(AtomicBool::new(false));
        let supersedes = Arc::new(AtomicBool::new(false));
        let (done, told) = watch::channel(0);
        let task = Task {
            engine: Arc::clone(engine),
            fence,
            state,
            progress,
            given_up: Arc::clone(&given_up),
            unsure: Arc::clone(&unsure),
            supersedes: Arc::clone(&supersedes),
            done,
        };
        Self {
            messages: Some(messages),
            task: Some(runtime.spawn(task.run(incoming))),
            given_up,
            unsure,
            supersedes,
            given: AtomicU64::new(0),
            done: told,
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

    /// Whether nothing that was handed over is under way any more.
    pub(super) fn is_idle(&self) -> bool {
        *self.done.borrow() >= self.given.load(Ordering::Relaxed)
    }

    /// Waits until nothing that was handed over is under way any more, or a part failed.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub(super) async fn idle(&mut self) {
        let given = self.given.load(Ordering::Relaxed);
        // Whoever asks next learns of a failure.
        let _failed = self.done.wait_for(|done| *done >= given).await.is_err();
    }

    /// Waits until one more batch of parts may be on its way.
    ///
    /// # Errors
    /// When an earlier part failed; [`Self::failure`] tells why.
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub(super) async fn room(&self) -> Result<Room<'_>, Failed> {
        let messages = self.messages.as_ref().ok_or(Failed)?;
        let place = messages.reserve().await.map_err(|_closed| Failed)?;
        Ok(Room {
            place,
            given: &self.given,
        })
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
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub(super) async fn failure(&mut self) -> Option<Error> {
        // After a failure the task ends by itself: it took the rest of the queue for waiting only.
        let outcome = outcome(self.task.as_mut()?).await;
        self.task = None;
        outcome.err()
    }

    /// Waits until all parts are committed, or until the first failure and all that was under way. Returns the last
    /// parts where those were [left](Room::take).
    ///
    /// # Cancel safety
    /// Dropping the future lets what was handed over go on; the next call waits for it.
    pub(super) async fn end(&mut self) -> Outcome {
        // Without a sender the task ends when its queue is worked off.
        self.messages = None;
        let Some(task) = &mut self.task else {
            return Ok(Vec::new());
        };
        let outcome = outcome(task).await;
        self.task = None;
        outcome
    }

    /// Commits nothing more and waits for what is under way.
    pub(super) async fn give_up(&mut self) {
        self.stop();
        // Whoever gives up knows why; what else fails on the way adds nothing.
        let _outcome = self.end().await;
    }
}

async fn outcome(task: &mut JoinHandle<Outcome>) -> Outcome {
    task.await.unwrap_or_else(|panicked| {
        Err(Error::new(ErrorKind::Internal, "upload.commit", "part").with_source(panicked))
    })
}

/// An earlier part failed.
#[derive(Debug)]
pub(super) struct Failed;

/// Room for one message.
pub(super) struct Room<'c> {
    place: mpsc::Permit<'c, Message>,
    given: &'c AtomicU64,
}

impl Room<'_> {
    /// Hands parts over that become durable together. `durable` runs at once, whatever happens to the parts before, and
    /// brings what the store gives for the last of them. Those that are left are not committed here:
    /// [`Committer::end`] returns them.
    pub(super) fn take(
        self,
        (steps, is_left): (Vec<(Step, PartHashes)>, bool),
        durable: BoxFuture<'static, Result<Receipt>>,
    ) {
        self.given.fetch_add(1, Ordering::Relaxed);
        let durable = tokio::spawn(durable);
        self.place.send(Message::Parts(Parts {
            steps,
            is_left,
            durable,
        }));
    }

    /// What was held may be committed, and what follows.
    pub(super) fn release(self) {
        self.place.send(Message::Release);
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
    done: watch::Sender<u64>,
}

impl Task {
    async fn run(self, mut messages: mpsc::Receiver<Message>) -> Outcome {
        let mut outcome = Ok(());
        let mut left = Vec::new();
        // Steps that are durable and held; a kilobyte for each part.
        let mut held: Option<Vec<Advance>> = None;
        while let Some(message) = messages.recv().await {
            let is_batch = matches!(message, Message::Parts(_));
            let mut ready = match message {
                Message::Hold => {
                    held = Some(Vec::new());
                    continue;
                }
                Message::Release => held.take().unwrap_or_default(),
                Message::Parts(parts) if parts.is_left => {
                    match self.durable(parts).await {
                        Ok(steps) => left = steps,
                        Err(e) => outcome = self.failed(outcome, e).await,
                    }
                    Vec::new()
                }
                Message::Parts(parts) => match (self.durable(parts).await, &mut held) {
                    (Ok(steps), Some(held)) => {
                        held.extend(steps);
                        Vec::new()
                    }
                    (Ok(steps), None) => steps,
                    (Err(e), _) => {
                        outcome = self.failed(outcome, e).await;
                        Vec::new()
                    }
                },
            };
            while !ready.is_empty() && outcome.is_ok() && !self.given_up.load(Ordering::Relaxed) {
                let later = ready.split_off(ready.len().min(STEPS_AT_ONCE));
                outcome = self.commit(std::mem::replace(&mut ready, later)).await;
            }
            if is_batch {
                self.done.send_modify(|done| *done += 1);
            }
            if outcome.is_err() {
                // The writer learns of it at its next part; what is queued is still waited for.
                messages.close();
            }
        }
        outcome.map(|()| left)
    }

    /// What parts that did not become durable add to how it went so far.
    async fn failed(&self, outcome: Result<()>, e: Error) -> Result<()> {
        // The store gave up what was told to be durable.
        if e.kind() == ErrorKind::Gone && outcome.is_ok() {
            self.engine.lose_row(self.fence).await;
        }
        outcome.and(Err(e))
    }

    /// Waits until the parts are durable.
    async fn durable(&self, parts: Parts) -> Result<Vec<Advance>> {
        let durable = parts.durable.await.unwrap_or_else(|panicked| {
            let subject = self.fence.id.to_string();
            Err(Error::new(ErrorKind::Internal, "upload.seal", subject).with_source(panicked))
        });
        let receipt = durable?;
        let mut steps = Vec::with_capacity(parts.steps.len());
        for (step, hashes) in parts.steps {
            let hash_states = hashes.states.known().await.ok_or_else(|| {
                let subject = self.fence.id.to_string();
                Error::new(ErrorKind::Internal, "upload.hash", subject)
            })?;
            steps.push(Advance {
                from: step.from,
                to: step.to,
                part: step.part,
                values: hashes.values,
                hash_states,
                receipt: Receipt::default(),
            });
        }
        if let Some(last) = steps.last_mut() {
            last.receipt = receipt;
        }
        Ok(steps)
    }

    /// Moves the row over some steps, at least one, in one transaction.
    async fn commit(&self, advances: Vec<Advance>) -> Result<()> {
        let steps = advances.iter().map(|advance| Step {
            part: advance.part,
            from: advance.from,
            to: advance.to,
        });
        let steps: Vec<_> = steps.collect();
        // Until it is answered; and for good, when the upload is another's or the answer is lost.
        self.unsure.store(true, Ordering::Relaxed);
        advance_row(&self.engine, self.fence, advances).await?;
        self.unsure.store(false, Ordering::Relaxed);
        let to = {
            let mut state = self.state.lock();
            for step in &steps {
                let in_order = state.commit(*step);
                debug_assert!(in_order, "parts arrive in order");
            }
            state.committed()
        };
        self.progress.send_replace(to);
        count(&self.engine.counters.part_commits, steps.len() as u64);
        // Where that was all of it, it is published next, and replaces what was left open as it is.
        let is_all = self.state.lock().length() == Some(to);
        if !is_all && self.supersedes.swap(false, Ordering::Relaxed) {
            self.engine.supersede_or_log(self.fence.id).await;
        }
        Ok(())
    }
}

/// B3. When the answer is lost, the row decides what happened.
pub(super) async fn advance_row(engine: &Inner, fence: Fence, steps: Vec<Advance>) -> Result<()> {
    let Some(to) = steps.last().map(|step| step.to) else {
        return Ok(());
    };
    let started = Instant::now();
    let mut done = engine.options.ledger.advance_all(fence, steps).await;
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

/// Steps in one transaction: many may have waited for a digest, and others wait meanwhile for their turn to write.
const STEPS_AT_ONCE: usize = 64;
