//! Group commit: one task owns the one connection that writes.
//!
//! A flush of the disk costs milliseconds and serves any number of changes, so what waits is taken
//! together: one transaction, each job in a savepoint of its own, one commit, then the answers. A job
//! that fails takes back its own changes only. The first needs no savepoint, which most have no use for: where it fails,
//! it is rolled back with the transaction, which has nothing else in it yet.
//!
//! Work that nobody waits for (what endpoints are sent, what is forgotten) stands in a line of its own, of which one
//! transaction takes one: whoever waits for an answer waits for one of them at most. It has its turn in every second
//! transaction, however much else there is.

use std::any::Any;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use sqlx::{AnyConnection, AssertSqlSafe, Connection as _};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::dialect::{self, Database, TransactionId};
use super::recent::Changes;
use super::sql::{At as _, Columns as _, odd, places};
use super::{Cause, MetadataOptions};
use crate::clock::UnixMillis;
use crate::error::{Error, ErrorKind, Result, chain};

/// Told how long each commit took.
pub(super) type Observer = Arc<dyn Fn(Duration) + Send + Sync>;

/// What one job works in: the connection inside its part of the transaction, and the moment of that.
#[derive(Debug)]
pub(super) struct Tx {
    pub(super) connection: AnyConnection,
    pub(super) now: UnixMillis,
    /// What leads to the change that is made.
    pub(super) cause: Option<Arc<Cause>>,
    /// The trace that the change belongs to.
    pub(super) trace: Option<Arc<str>>,
    /// Ids that the job took in advance, by table.
    reserved: Vec<(&'static str, i64)>,
    doomed_for: Duration,
}

impl Tx {
    /// When bytes that lost their last name now may be removed.
    pub(super) fn due(&self) -> UnixMillis {
        self.now.plus(self.doomed_for)
    }

    /// The next integer id (or sequence number) of `table`.
    pub(super) async fn next_id(&mut self, table: &'static str) -> Result<i64> {
        match self.reserved.iter().position(|(of, _)| *of == table) {
            Some(at) => Ok(self.reserved.swap_remove(at).1),
            None => self.next_ids(table, 1).await,
        }
    }

    /// Takes the next id of each of these tables in one statement, for [`Self::next_id`] to give.
    pub(super) async fn reserve(&mut self, tables: &[&'static str]) -> Result<()> {
        const OP: &str = "metadata.reserve";
        let statement = format!(
            "INSERT INTO counters (name, value) VALUES {}
             ON CONFLICT (name) DO UPDATE SET value = counters.value + EXCLUDED.value
             RETURNING name, value",
            places(2, tables.len())
        );
        let mut reserve = sqlx::query(AssertSqlSafe(statement));
        for table in tables {
            reserve = reserve.bind(*table).bind(1_i64);
        }
        for row in reserve
            .fetch_all(&mut self.connection)
            .await
            .at(OP, "counters")?
        {
            let name = row.text("name")?;
            let table = tables.iter().find(|table| **table == name);
            let table = table.ok_or_else(|| odd("name"))?;
            self.reserved.push((table, row.int("value")?));
        }
        Ok(())
    }

    /// The first of the next `count` ids of `table`, which follow each other.
    pub(super) async fn next_ids(&mut self, table: &'static str, count: usize) -> Result<i64> {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let last = sqlx::query(
            "INSERT INTO counters (name, value) VALUES ($1, $2)
             ON CONFLICT (name) DO UPDATE SET value = counters.value + EXCLUDED.value RETURNING value",
        )
        .bind(table)
        .bind(count)
        .fetch_one(&mut self.connection)
        .await
        .at("metadata.next_id", table)?
        .int("value")?;
        Ok(last - count + 1)
    }
}

/// The way to the writing task.
pub(super) struct Writer {
    // Taken at the close; the task ends when the last senders are gone.
    queues: Mutex<Option<Queues<Sender>>>,
    task: Mutex<Option<JoinHandle<()>>>,
    observer: Arc<Mutex<Option<Observer>>>,
}

impl Writer {
    pub(super) fn spawn(
        connection: AnyConnection,
        database: Database,
        options: MetadataOptions,
        changes: Changes,
    ) -> Self {
        let (front, from_front) = mpsc::channel(QUEUE_JOBS);
        let (back, from_back) = mpsc::channel(QUEUE_JOBS);
        let line = Line {
            queues: Queues {
                front: from_front,
                back: from_back,
            },
            is_owed: false,
        };
        let observer = Arc::new(Mutex::new(None));
        let task = Task {
            connection: Some(connection),
            database,
            options,
            changes,
            observer: Arc::clone(&observer),
        };
        Self {
            queues: Mutex::new(Some(Queues { front, back })),
            task: Mutex::new(Some(tokio::spawn(task.run(line)))),
            observer,
        }
    }

    pub(super) fn observe(&self, observer: Observer) {
        *lock(&self.observer) = Some(observer);
    }

    /// Runs `work` in the next transaction and answers once that is committed.
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether the work is done; it is done whole or not at all.
    pub(super) async fn run<T, F>(&self, op: &'static str, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T>> + Send + 'static,
    {
        let unavailable =
            |why: &'static str| Error::new(ErrorKind::Unavailable, op, "database").with_source(why);
        let queue = match &*lock(&self.queues) {
            Some(queues) if is_for_nobody(op) => queues.back.clone(),
            Some(queues) => queues.front.clone(),
            None => return Err(unavailable("it is closed")),
        };
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Work {
            op,
            change: Some(work),
            outcome: None,
            reply,
        });
        match tokio::time::timeout(QUEUE_WAIT, queue.reserve()).await {
            Ok(Ok(permit)) => permit.send(job),
            Ok(Err(_closed)) => return Err(unavailable("its writer ended")),
            Err(_elapsed) => return Err(unavailable("too many changes wait for it")),
        }
        drop(queue);
        answer
            .await
            .map_err(|_dropped| unavailable("its writer ended"))?
    }

    /// Commits what waits, then ends the task.
    pub(super) async fn close(&self) {
        drop(lock(&self.queues).take());
        let task = lock(&self.task).take();
        if let Some(task) = task
            && let Err(e) = task.await
        {
            tracing::error!(error = %e, "the database's writer failed");
        }
    }
}

type Sender = mpsc::Sender<Box<dyn Job>>;
type Receiver = mpsc::Receiver<Box<dyn Job>>;

/// The two lines.
struct Queues<T> {
    /// What somebody waits for.
    front: T,
    /// What nobody does.
    back: T,
}

/// Jobs in the order in which they are done.
struct Line {
    queues: Queues<Receiver>,
    /// Whether the next turn is that of the back.
    is_owed: bool,
}

impl Line {
    /// The first job of the next transaction; `None` when all is done and nobody can ask for more.
    async fn next(&mut self) -> Option<Box<dyn Job>> {
        let Queues { front, back } = &mut self.queues;
        if self.is_owed
            && let Ok(job) = back.try_recv()
        {
            self.is_owed = false;
            return Some(job);
        }
        tokio::select! {
            biased;
            Some(job) = front.recv() => {
                self.is_owed = true;
                Some(job)
            }
            Some(job) = back.recv() => {
                self.is_owed = false;
                Some(job)
            }
            else => None,
        }
    }

    /// What goes along with it.
    fn more(&mut self) -> Option<Box<dyn Job>> {
        self.queues.front.try_recv().ok()
    }
}

/// Whether nobody waits for what a job of that name does.
fn is_for_nobody(op: &str) -> bool {
    matches!(
        op,
        "webhook.spread"
            | "webhook.settle"
            | "webhook.claim"
            | "webhook.prune"
            | "stragglers.catch_up"
            | "inbound.prune"
            | "outbox.prune"
            | "token.purge"
            | "upload.purge"
    )
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

/// A change on its way through a batch.
trait Job: Send {
    /// Does the work inside a savepoint; true to keep it.
    fn run<'j>(&'j mut self, tx: &'j mut Tx) -> BoxFuture<'j, bool>;
    /// What may be another afterwards of what is known of names.
    fn changes(&self) -> Change;
    /// Answers, once the batch is committed or lost.
    fn answer(self: Box<Self>, batch: Result<(), Lost>);
}

/// What a job may change of what is kept of names ([`super::recent`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    /// Nothing: no name leads to it.
    Nothing,
    /// A number that is told with a name, and that other processes may tell a moment later.
    Number,
    /// Names, and what they lead to.
    Names,
    /// Who may do what, and perhaps names.
    Rights,
}

/// What the jobs of a batch are told that was not committed, as far as is known.
#[derive(Debug, Clone, Copy)]
struct Lost {
    kind: ErrorKind,
    why: &'static str,
}

const UNDONE: &str = "its transaction was not committed";
const UNKNOWN: &str = "whether its transaction was committed is not known";

struct Work<F, T> {
    op: &'static str,
    change: Option<F>,
    outcome: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
}

impl<F, T> Job for Work<F, T>
where
    T: Send + 'static,
    F: for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T>> + Send + 'static,
{
    fn run<'j>(&'j mut self, tx: &'j mut Tx) -> BoxFuture<'j, bool> {
        let op = self.op;
        let change = self.change.take();
        async move {
            let Some(change) = change else { return false };
            // One bad job must not end the writing of all others.
            let outcome = AssertUnwindSafe(async { change(tx).await })
                .catch_unwind()
                .await;
            let outcome = outcome.unwrap_or_else(|panic| {
                Err(Error::new(ErrorKind::Internal, op, "panic").with_source(text_of(&*panic)))
            });
            self.outcome.insert(outcome).is_ok()
        }
        .boxed()
    }

    fn changes(&self) -> Change {
        match self.op {
            // Nor does one to whom events are told.
            op if ["webhook.", "stragglers.", "order.", "imported.", "rates."]
                .iter()
                .any(|prefix| op.starts_with(prefix)) =>
            {
                Change::Nothing
            }
            // What uploads and upkeep do all the time, to rows that no name leads to.
            "upload.advance"
            | "upload.hold_piece"
            | "upload.create"
            | "upload.take_over"
            | "upload.set_length"
            | "upload.declare"
            | "upload.complete"
            | "upload.abort"
            | "upload.lose"
            | "upload.name_store_upload"
            | "upload.set_piece_bytes"
            | "upload.set_aside"
            | "upload.pass_pieces"
            | "upload.drop_pieces"
            | "upload.purge"
            | "upload.ask_gate"
            | "upload.answer_gate"
            | "upload.let_through"
            | "outbox.prune"
            | "upkeep.claim"
            | "upkeep.unclaim"
            | "upkeep.keep"
            | "upkeep.prove_writer"
            | "trash.due"
            | "orphans.see"
            | "token.purge" => Change::Nothing,
            "file.count_download" => Change::Number,
            "upload.publish" | "deferred.learn" | "trash.forget" => Change::Names,
            _ => Change::Rights,
        }
    }

    fn answer(self: Box<Self>, batch: Result<(), Lost>) {
        let lost = |kind, why| Error::new(kind, self.op, "database").with_source(why);
        let outcome = match (batch, self.outcome) {
            (Ok(()), Some(outcome)) => outcome,
            // What failed by itself changed nothing anyway and tells more.
            (Err(_), Some(Err(own))) => Err(own),
            (Err(Lost { kind, why }), _) => Err(lost(kind, why)),
            (Ok(()), None) => Err(lost(ErrorKind::Internal, UNDONE)),
        };
        // Whoever asked may have gone.
        drop(self.reply.send(outcome));
    }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default()
}

struct Task {
    // None after a failure: what state the connection is in is then anybody's guess.
    connection: Option<AnyConnection>,
    database: Database,
    options: MetadataOptions,
    changes: Changes,
    observer: Arc<Mutex<Option<Observer>>>,
}

impl Task {
    async fn run(mut self, mut line: Line) {
        let mut batch = Vec::with_capacity(BATCH_JOBS);
        while let Some(first) = line.next().await {
            let result = self.transact(first, &mut line, &mut batch).await;
            let mut is_known = true;
            let result = result.map_err(|(e, why)| {
                is_known = why == UNDONE;
                tracing::error!(error = %chain(&e), jobs = batch.len(), "a transaction failed: {why}");
                // Nothing is known against any single change: each may succeed when tried again.
                let kind = match e.kind() {
                    ErrorKind::Full => ErrorKind::Full,
                    _ => ErrorKind::Unavailable,
                };
                Lost { kind, why }
            });
            // Others tell of what they change, and of no number.
            let tells_numbers = matches!(self.database, Database::Sqlite(_));
            let may_be_done = result.is_ok() || !is_known;
            match change_of(&batch) {
                Change::Rights if may_be_done => self.changes.add_rights(),
                Change::Names if may_be_done => self.changes.add(),
                Change::Number if may_be_done && tells_numbers => self.changes.add_number(),
                Change::Rights | Change::Names | Change::Number | Change::Nothing => {}
            }
            for job in batch.drain(..) {
                job.answer(result);
            }
        }
        if let Some(connection) = self.connection.take()
            && let Err(e) = connection.close().await
        {
            tracing::warn!(error = %e, "closing the database failed");
        }
    }

    /// Runs `first` and what waits behind it as one transaction; all that ran is in `batch` afterwards.
    async fn transact(
        &mut self,
        first: Box<dyn Job>,
        line: &mut Line,
        batch: &mut Vec<Box<dyn Job>>,
    ) -> Result<(), (Error, &'static str)> {
        let (mut tx, id) = match self.open().await {
            Ok(open) => open,
            Err(e) => {
                batch.push(first);
                return Err((e, UNDONE));
            }
        };
        let patience = self.database.patience();
        let mut next = Some(first);
        let mut result = Ok(());
        let mut is_undone = false;
        while let Some(mut job) = next.take() {
            let step = step(&mut tx, &mut *job, batch.is_empty());
            match within(patience, "change", step).await {
                Ok(Step::Kept) if batch.len() + 1 < BATCH_JOBS => next = line.more(),
                Ok(Step::Kept) => {}
                Ok(Step::Undone) => is_undone = true,
                Err(e) => result = Err(e),
            }
            batch.push(job);
        }
        if is_undone {
            // What it failed with is its answer.
            let rolled_back = within(patience, "ROLLBACK", execute(&mut tx, "ROLLBACK")).await;
            if rolled_back.is_ok() {
                self.connection = Some(tx.connection);
            } else {
                drop(within(patience, "close", closed(tx.connection)).await);
            }
            return Ok(());
        }
        if result.is_ok() && change_of(batch) >= Change::Names {
            let telling = self.database.tell(&mut tx.connection);
            result = within(patience, "tell", telling).await;
        }
        let committed = match result {
            Ok(()) => commit(&self.database, &mut tx, id, &self.observer).await,
            Err(e) => {
                let rolled_back = execute(&mut tx, "ROLLBACK");
                drop(within(patience, "ROLLBACK", rolled_back).await);
                Err((e, UNDONE))
            }
        };
        if let Ok(Committed::Here) = committed {
            self.connection = Some(tx.connection);
        } else {
            // What is still open on it is rolled back with its end.
            drop(within(patience, "close", closed(tx.connection)).await);
        }
        committed.map(drop)
    }

    /// A transaction that has its turn. The connection of the last one may have been lost since, which
    /// is found out here: then by another one.
    async fn open(&mut self) -> Result<(Tx, Option<TransactionId>)> {
        // Put back only when the transaction ended as it should.
        if let Some(connection) = self.connection.take() {
            match begin(&self.database, &self.options, connection).await {
                Err(e) if e.kind() == ErrorKind::Unavailable => {
                    tracing::warn!(error = %chain(&e), "connecting to the database again");
                }
                begun => return begun,
            }
        }
        let connection = self.database.connect_writer().await?;
        begin(&self.database, &self.options, connection).await
    }
}

/// Begins, and waits for this process's turn to write.
async fn begin(
    database: &Database,
    options: &MetadataOptions,
    connection: AnyConnection,
) -> Result<(Tx, Option<TransactionId>)> {
    let mut tx = Tx {
        connection,
        now: options.clock.now(),
        cause: None,
        trace: None,
        reserved: Vec::new(),
        doomed_for: options.doomed_for,
    };
    let begun = async {
        execute(&mut tx, database.begin_write()).await?;
        database.take_turn(&mut tx.connection).await
    };
    let id = within(database.patience(), "BEGIN", begun).await?;
    Ok((tx, id))
}

async fn commit(
    database: &Database,
    tx: &mut Tx,
    id: Option<TransactionId>,
    observer: &Mutex<Option<Observer>>,
) -> Result<Committed, (Error, &'static str)> {
    let started = tokio::time::Instant::now();
    let result = within(database.patience(), "COMMIT", execute(tx, "COMMIT")).await;
    if let Err(e) = &result
        && dialect::is_disk_failure(e)
    {
        tracing::error!(error = %chain(e), "the disk below the database failed; ending the process");
        std::process::abort();
    }
    let observer = lock(observer).clone();
    if let Some(observe) = observer {
        observe(started.elapsed());
    }
    let (Err(failed), Some(id)) = (&result, id) else {
        return result.map(|()| Committed::Here).map_err(|e| (e, UNDONE));
    };
    // The connection went with the answer, perhaps after the change was made.
    match database.was_committed(&id).await {
        Ok(true) => {
            tracing::warn!(error = %chain(failed), "a lost COMMIT was done all the same");
            Ok(Committed::AsTold)
        }
        Ok(false) => result.map(|()| Committed::Here).map_err(|e| (e, UNDONE)),
        Err(e) => Err((e, UNKNOWN)),
    }
}

/// How a transaction is known to be committed.
enum Committed {
    /// The connection answered, and is good for the next one.
    Here,
    /// The connection was lost with the answer; another one told.
    AsTold,
}

/// `work`, given up when the database does not answer in time; its connection is not to be used again.
async fn within<T>(
    patience: Option<Duration>,
    what: &'static str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let Some(patience) = patience else {
        return work.await;
    };
    tokio::time::timeout(patience, work)
        .await
        .unwrap_or_else(|_elapsed| {
            let late = Error::new(ErrorKind::Unavailable, "metadata.transaction", what);
            Err(late.with_source("the database does not answer"))
        })
}

/// What became of a job within its transaction.
enum Step {
    /// It stays, with what others do; what failed was taken back by itself.
    Kept,
    /// It failed, and all of the transaction is to be rolled back.
    Undone,
}

/// One job, in a savepoint unless it is the first. An error means that the whole transaction is lost.
async fn step(tx: &mut Tx, job: &mut dyn Job, is_first: bool) -> Result<Step> {
    tx.reserved.clear();
    if is_first {
        let is_done = job.run(tx).await;
        return Ok(if is_done { Step::Kept } else { Step::Undone });
    }
    execute(tx, "SAVEPOINT job").await?;
    if !job.run(tx).await {
        // Also fails when the database itself rolled everything back, as it does on a full disk.
        execute(tx, "ROLLBACK TO SAVEPOINT job").await?;
    }
    execute(tx, "RELEASE SAVEPOINT job").await?;
    Ok(Step::Kept)
}

async fn closed(connection: AnyConnection) -> Result<()> {
    connection.close().await.at("metadata.transaction", "close")
}

async fn execute(tx: &mut Tx, statement: &'static str) -> Result<()> {
    sqlx::query(statement)
        .execute(&mut tx.connection)
        .await
        .at("metadata.transaction", statement)
        .map(drop)
}

/// The most that any of the jobs may change.
fn change_of(batch: &[Box<dyn Job>]) -> Change {
    let changes = batch.iter().map(|job| job.changes());
    changes.max().unwrap_or(Change::Nothing)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Changes that may wait; whoever comes later waits outside, with the memory that is theirs.
const QUEUE_JOBS: usize = 256;

/// How long a change waits for its place in the queue (the rule for a database call: 10 s).
const QUEUE_WAIT: Duration = Duration::from_secs(10);

/// Changes in one transaction: beyond it the first would wait for the last without gain.
const BATCH_JOBS: usize = 64;
