//! Joins uploads of others: one pass in order over their verified bytes, into an upload like any other.
//!
//! It is hashed and committed part by part as if a client sent it, so that a join that is cut, by a stop
//! or a crash, goes on where its last part was committed. Nobody has to ask for it: it begins when the
//! last source is whole, and what was cut or failed is found again by the sweep. Clients may wait for it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use boxgate_storage::blob::{BlobMeta, UploadId};
use boxgate_storage::error::chain;
use boxgate_storage::layer::verify;
use boxgate_storage::metadata::Metadata;
use boxgate_storage::metadata::uploads::{Published, UploadState};
use boxgate_storage::range::ByteRange;
use boxgate_storage::store::Store;
use boxgate_storage::upload::{UploadEngine, UploadRow, UploadWriter};
use boxgate_storage::{Error, ErrorKind};
use futures_util::future::{BoxFuture, Shared};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth;
use crate::refusal::Refusal;
use crate::resumable::tus;

/// Rows read at once.
const PAGE: u32 = 100;

/// Joins uploads; one per process, cheap to clone.
#[derive(Debug, Clone)]
pub struct Joiner {
    inner: Arc<Inner>,
}

/// Resolves when an upload was joined, for as many as wait.
pub type Joining = Shared<BoxFuture<'static, Result<Published, Arc<Refusal>>>>;

struct Inner {
    metadata: Metadata,
    engine: UploadEngine,
    stores: BTreeMap<String, Store>,
    places: Semaphore,
    /// How many wait in memory without a client, at most; the rows remember the others.
    waiting: usize,
    running: Mutex<HashMap<UploadId, Joining>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Joiner {
    /// Joins `at_once` uploads at most at a time, in the order in which they became ready; `waiting` more wait
    /// in memory.
    pub fn new(
        metadata: Metadata,
        engine: UploadEngine,
        stores: BTreeMap<String, Store>,
        at_once: usize,
        waiting: usize,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                metadata,
                engine,
                stores,
                places: Semaphore::new(at_once.min(Semaphore::MAX_PERMITS)),
                waiting: waiting.saturating_add(at_once),
                running: Mutex::default(),
                tasks: TaskTracker::new(),
                stop: CancellationToken::new(),
            }),
        }
    }

    /// Joins an upload in the background, unless that is under way. It goes on when what is returned is
    /// dropped. The credential, given by its hash, must be good at the end, too; without one it is the
    /// one that asked for the join.
    pub fn start(&self, id: UploadId, credential: Option<[u8; 32]>) -> Joining {
        let mut running = self.inner.running();
        if let Some(joining) = running.get(&id) {
            return joining.clone();
        }
        let inner = Arc::clone(&self.inner);
        let task = self.inner.tasks.spawn(async move {
            let entry = Entry { inner, id };
            let joined = entry.inner.run(id, credential).await;
            joined.map_err(Arc::new)
        });
        let joining = task.map(move |done| {
            done.unwrap_or_else(|panicked| {
                let error = Error::new(ErrorKind::Internal, OP, id.to_string());
                Err(Arc::new(error.with_source(panicked).into()))
            })
        });
        let joining = joining.boxed().shared();
        running.insert(id, joining.clone());
        joining
    }

    /// Joins all that is ready, in the background; what is more than a queue holds waits for the next
    /// call.
    ///
    /// # Errors
    /// When the rows do not answer.
    pub async fn start_ready(&self) -> Result<(), Error> {
        let mut after = None;
        loop {
            let page = self.inner.engine.joinable(after, PAGE).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some(*last);
            for id in page {
                if self.inner.running().len() >= self.inner.waiting {
                    return Ok(());
                }
                drop(self.start(id, None));
            }
        }
    }

    /// The same without waiting for the rows: an upload that others may wait for is whole.
    pub fn look(&self) {
        let this = self.clone();
        self.inner.tasks.spawn(async move {
            if let Err(error) = this.start_ready().await {
                tracing::warn!(error = %chain(&error), "what can be joined waits for the next sweep");
            }
        });
    }

    /// How many uploads are being joined, or wait for that in memory.
    pub fn in_memory(&self) -> usize {
        self.inner.running().len()
    }

    /// Ends what is under way at its last committed byte; another process goes on. Clients that wait
    /// are told where their uploads are.
    pub fn halt(&self) {
        self.inner.stop.cancel();
    }

    /// The same, and waits until nothing runs.
    pub async fn stop(&self) {
        self.halt();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}

/// An upload that is being joined, until this is dropped.
struct Entry {
    inner: Arc<Inner>,
    id: UploadId,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.inner.running().remove(&self.id);
    }
}

impl Inner {
    fn running(&self) -> MutexGuard<'_, HashMap<UploadId, Joining>> {
        // Every change of the map is one step.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(&self, id: UploadId, credential: Option<[u8; 32]>) -> Result<Published, Refusal> {
        let place = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(stopped()),
            place = self.places.acquire() => place,
        };
        let joined = self.join(id, credential).await;
        drop(place);
        match &joined {
            Ok(published) => tracing::info!(
                upload = %id, blob = %published.blob.key, length = published.blob.length,
                "upload joined"
            ),
            // It rests until who may ask for it does.
            Err(refusal) if refusal.status.is_client_error() => tracing::info!(
                upload = %id, status = refusal.status.as_u16(), "upload not joined: {}",
                refusal.message
            ),
            Err(refusal) => {
                let cause = refusal.cause.as_ref().map(|cause| chain(cause));
                tracing::warn!(
                    upload = %id, status = refusal.status.as_u16(), cause, "upload not joined: {}",
                    refusal.message
                );
            }
        }
        joined
    }

    async fn join(&self, id: UploadId, credential: Option<[u8; 32]>) -> Result<Published, Refusal> {
        let failed = |kind| Error::new(kind, OP, id.to_string());
        let row = self.engine.peek(id).await?;
        let row = row.ok_or_else(|| failed(ErrorKind::NotFound))?;
        match (row.state, &row.published) {
            (UploadState::Open, _) => {}
            (UploadState::Done, Some(published)) => return Ok(published.clone()),
            (UploadState::Done | UploadState::Completing, _) => {
                return Err(failed(ErrorKind::Unavailable).into());
            }
            (UploadState::Aborted | UploadState::Lost, _) => {
                return Err(failed(ErrorKind::Gone).into());
            }
        }
        let sources = self.engine.sources(id).await?;
        let whole: Option<Vec<_>> = sources.into_iter().map(|source| source.blob).collect();
        let whole = whole.ok_or_else(|| failed(ErrorKind::Unavailable))?;
        let length = whole
            .iter()
            .fold(0, |sum: u64, (blob, _)| sum.saturating_add(blob.length));
        let credential = credential.or_else(|| tus::asking_credential(row.note.as_deref()));
        self.authorize(&row, credential).await?;
        if length == 0 && row.target.is_some() {
            self.engine.cancel(id).await?;
            return Err(Refusal::empty_box());
        }
        if row.length.is_none()
            && let Err(error) = self.engine.set_length(id, length).await
        {
            if matches!(error.kind(), ErrorKind::TooLarge { .. }) {
                self.engine.cancel(id).await?;
            }
            return Err(error.into());
        }
        let mut writer = self.engine.resume(id, row.offset).await?;
        if let Err(error) = self.copy(&mut writer, &whole).await {
            self.rest(writer).await;
            if error.kind() == ErrorKind::Damaged {
                // It can never be whole; whoever sends the piece again makes a new one of it.
                self.engine.cancel(id).await?;
            }
            return Err(match error.kind() {
                // Bytes may come back with their volume.
                ErrorKind::NotFound => Refusal {
                    cause: Some(error),
                    ..stopped()
                },
                _ => error.into(),
            });
        }
        if let Err(refusal) = self.authorize(&row, credential).await {
            self.rest(writer).await;
            return Err(refusal);
        }
        Ok(writer.finish().await?)
    }

    /// Keeps what is joined so far for another time.
    async fn rest(&self, writer: UploadWriter) {
        if let Err(error) = writer.pause().await {
            tracing::debug!(error = %chain(&error), "a join rests at its last part");
        }
    }

    /// Writes what the upload lacks of its sources.
    async fn copy(
        &self,
        writer: &mut UploadWriter,
        whole: &[(BlobMeta, String)],
    ) -> Result<(), Error> {
        let mut start: u64 = 0;
        for (blob, store) in whole {
            let end = start.saturating_add(blob.length);
            let from = writer.received_bytes().max(start);
            if let Some(range) = ByteRange::try_new(from - start, blob.length)
                && !range.is_empty()
            {
                let copied = self.copy_one(writer, blob, store, range).await;
                if let Err(error) = &copied
                    && error.kind() == ErrorKind::Damaged
                {
                    tracing::error!(blob = %blob.key, error = %chain(error), "a piece is damaged");
                    self.metadata.quarantine_blob(&blob.key).await?;
                }
                copied?;
            }
            start = end;
        }
        Ok(())
    }

    async fn copy_one(
        &self,
        writer: &mut UploadWriter,
        blob: &BlobMeta,
        store: &str,
        range: ByteRange,
    ) -> Result<(), Error> {
        let store = self.stores.get(store);
        let store = store.ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, OP, blob.key.to_string())
                .with_source("no store has the name that its row tells")
        })?;
        let tree = self.metadata.blob_tree(blob).await?;
        let mut bytes = verify::open(&store.read, blob, &tree, range).await?;
        loop {
            let next = tokio::select! {
                biased;
                () = self.stop.cancelled() => {
                    return Err(Error::new(ErrorKind::Unavailable, OP, writer.id().to_string()));
                }
                next = bytes.next() => next,
            };
            match next {
                Some(chunk) => writer.write(chunk?).await?,
                None => return Ok(()),
            }
        }
    }

    /// Whether whoever asked for the join may still publish it, by the credential they asked with: one
    /// that was revoked publishes nothing, however much its account may do.
    async fn authorize(
        &self,
        row: &UploadRow,
        credential: Option<[u8; 32]>,
    ) -> Result<(), Refusal> {
        let principal = match &credential {
            Some(hash) => auth::authenticate_hash(&self.metadata, hash).await?,
            None => None,
        };
        let principal = principal
            .filter(|principal| principal.sender() == row.sender)
            .ok_or_else(auth::bad_token)?;
        let what = auth::Becomes::of(row.target.as_ref());
        auth::may_publish(&self.metadata, principal, row.organization, what).await
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("running", &self.running().len())
            .finish_non_exhaustive()
    }
}

fn stopped() -> Refusal {
    let text = "The upload is not joined yet; that goes on by itself.";
    Refusal::busy(text, Duration::from_secs(30))
}

const OP: &str = "upload.join";
