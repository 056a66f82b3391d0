//! Looking after what is stored: what `fsck`, `gc` and `scrub` do, told line by line, the same whether a person's
//! command works on the data directory itself or asks the gateway that runs on it.
//!
//! The work ends when nobody listens any more, and with the process. It knows no HTTP; the lines are what
//! `door::upkeep` sends and what `client::upkeep` reads.

pub mod background;
mod deferred;
pub mod line;
mod place;

use std::sync::Arc;
use std::time::Duration;

use boxgate_storage::Error;
use boxgate_storage::check::{AdoptTold, CopyTold, OrphanLimits, ScrubTold, Stock, Told, Ways};
use boxgate_storage::metadata::Metadata;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::line::Line;
use crate::import::{self, Import};
use crate::telemetry::Telemetry;

/// Lines that wait for a slow reader; the work then waits too.
const LINES_AHEAD: usize = 64;

/// How long the row of an upload that ended is kept, for its answer to be asked for again.
pub(crate) const ENDED_UPLOADS_KEPT: Duration = Duration::from_hours(7 * 24);

/// Progress of a scrub is not told more often.
const TOLD_EVERY: Duration = Duration::from_millis(200);

/// One kind of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chore {
    /// Rows and bytes, compared.
    Check,
    /// What stands beside the bytes and no row knows, made rows again; then as [`Self::Check`].
    Adopt,
    /// What nobody holds, removed.
    Collect {
        /// When bytes without a row go.
        limits: OrphanLimits,
        /// Tell what would be removed, and remove nothing.
        dry_run: bool,
    },
    /// All stored bytes, read and compared with what was hashed.
    Scrub {
        /// Bytes in a second; 0 is as many as come.
        rate_bytes: u64,
    },
    /// What one store holds, taken to another.
    Copy {
        /// Name of the store that holds it.
        from: String,
        /// Name of the one that is to hold it.
        to: String,
        /// Bytes in a second; 0 is as many as come.
        rate_bytes: u64,
    },
    /// What another kind of server holds, taken into the catalog.
    Import(Import),
}

/// Who looks after a gateway's stores at this moment: each kind of work runs once at a time.
#[derive(Debug)]
pub struct Upkeep {
    checks: Arc<Semaphore>,
    adoptions: Arc<Semaphore>,
    collections: Arc<Semaphore>,
    scrubs: Arc<Semaphore>,
    copies: Arc<Semaphore>,
    imports: Arc<Semaphore>,
    owner: String,
    ending: CancellationToken,
}

/// The right to do a chore; dropped when it is done.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "held, never read")] OwnedSemaphorePermit);

impl Upkeep {
    /// Nobody does; what runs ends with `ending`, and is claimed for `node`.
    pub fn new(ending: CancellationToken, node: &str) -> Self {
        Self {
            checks: Arc::new(Semaphore::new(1)),
            adoptions: Arc::new(Semaphore::new(1)),
            collections: Arc::new(Semaphore::new(1)),
            scrubs: Arc::new(Semaphore::new(1)),
            copies: Arc::new(Semaphore::new(1)),
            imports: Arc::new(Semaphore::new(1)),
            owner: Metadata::owner_at(node, &crate::auth::credential::fresh()),
            ending,
        }
    }

    /// `None` while the same work runs already.
    pub fn turn(&self, chore: &Chore) -> Option<Turn> {
        let turns = match chore {
            Chore::Check => &self.checks,
            Chore::Adopt => &self.adoptions,
            Chore::Collect { .. } => &self.collections,
            Chore::Scrub { .. } => &self.scrubs,
            Chore::Copy { .. } => &self.copies,
            Chore::Import(_) => &self.imports,
        };
        Arc::clone(turns).try_acquire_owned().ok().map(Turn)
    }

    /// What this process claims work under.
    pub(crate) fn owner(&self) -> &str {
        &self.owner
    }

    /// Cancelled when what runs must end.
    pub fn ending(&self) -> CancellationToken {
        self.ending.clone()
    }
}

/// A chore, and all that it needs.
#[derive(Debug)]
pub struct Job {
    /// What it is done on.
    pub stock: Stock,
    /// What is done.
    pub chore: Chore,
    /// The right to do it, where others may want to.
    pub turn: Option<Turn>,
    /// Cancelled when it must end.
    pub ending: CancellationToken,
    /// Who counts what was done, in a gateway.
    pub telemetry: Option<Arc<Telemetry>>,
}

/// Does the chore in a task of its own and tells of it; the last line is the outcome. It ends early when
/// the receiver is dropped or [`Job::ending`] is cancelled.
pub fn tell(job: Job, tasks: &TaskTracker) -> mpsc::Receiver<Line> {
    let (lines, told) = mpsc::channel(LINES_AHEAD);
    let Job {
        stock,
        chore,
        turn,
        ending,
        telemetry,
    } = job;
    tasks.spawn(async move {
        let last = tokio::select! {
            biased;
            () = lines.closed() => return,
            () = ending.cancelled() => Line::Failed("the gateway is stopping".into()),
            outcome = perform(&stock, &chore, &lines, telemetry) => outcome.unwrap_or_else(|error| {
                let text = boxgate_storage::error::chain(&error);
                tracing::error!(error = text, ?chore, "upkeep failed");
                Line::Failed(text)
            }),
        };
        // Before the last line: whoever reads it may want the next turn.
        drop(turn);
        let _nobody_listens = lines.send(last).await;
    });
    told
}

async fn perform(
    stock: &Stock,
    chore: &Chore,
    lines: &mpsc::Sender<Line>,
    telemetry: Option<Arc<Telemetry>>,
) -> Result<Line, Error> {
    let mut listener = Listener {
        lines: lines.clone(),
        told_at: None,
    };
    match *chore {
        Chore::Check => check(stock, &listener).await,
        Chore::Adopt => {
            let tell = |told| {
                let line = match told {
                    AdoptTold::Name { path, key, store } => Some(Line::Adopted(line::Adopted {
                        name: path,
                        key: key.to_string(),
                        store,
                    })),
                    AdoptTold::Finding(finding) => Some(Line::Finding(finding.into())),
                    AdoptTold::Progress(adopted) => {
                        listener.now_and_then(|| Line::Adopting(adopted))
                    }
                };
                listener.hear(line)
            };
            let adopted = stock.adopt(ENDED_UPLOADS_KEPT, tell).await?;
            tracing::info!(?adopted, "names were made of what stands beside boxes");
            listener.hear(Some(Line::Adopting(adopted))).await;
            check(stock, &listener).await
        }
        Chore::Collect { limits, dry_run } => {
            let collected = if dry_run {
                stock.would_collect(limits).await?
            } else {
                stock.collect(limits).await?
            };
            if let Some(telemetry) = telemetry.filter(|_| !dry_run) {
                telemetry.metrics.upkeep.collected(&collected);
            }
            Ok(Line::Collected(line::Collected::new(
                &collected, limits, dry_run,
            )))
        }
        Chore::Scrub { rate_bytes } => {
            let mut counted = Counted::new(telemetry, 0);
            let tell = |told| {
                counted.count(&told);
                let line = match told {
                    ScrubTold::Finding(finding) => Some(Line::Finding(finding.into())),
                    ScrubTold::Progress(scrubbed, _) => {
                        listener.now_and_then(|| Line::Scrubbing(scrubbed))
                    }
                };
                listener.hear(line)
            };
            let scrubbed = stock.scrub(rate_bytes, None, tell).await?;
            Ok(Line::Scrubbed(scrubbed))
        }
        Chore::Copy {
            ref from,
            ref to,
            rate_bytes,
        } => {
            let tell = |told| {
                let line = match told {
                    CopyTold::Finding(finding) => Some(Line::Finding(finding.into())),
                    CopyTold::Progress(copied) => listener.now_and_then(|| Line::Copying(copied)),
                };
                listener.hear(line)
            };
            let copied = stock.copy(Ways { from, to }, rate_bytes, tell).await?;
            tracing::info!(from, to, ?copied, "boxes copied to another store");
            Ok(Line::Copied(copied))
        }
        Chore::Import(ref import) => Ok(bring(stock, import, &mut listener).await),
    }
}

/// Brings what another kind of server holds.
async fn bring(stock: &Stock, import: &Import, listener: &mut Listener) -> Line {
    let tell = |told| {
        let line = match told {
            import::Told::Left(path, why) => {
                tracing::warn!(path, why, "it was not brought");
                Some(Line::Left(line::Left { path, why }))
            }
            import::Told::Progress(imported) => listener.now_and_then(|| Line::Importing(imported)),
        };
        listener.hear(line)
    };
    match import.clone().run(stock.clone(), tell).await {
        Ok(imported) => {
            let (home, by) = (import.home().display(), import.actor());
            tracing::info!(%home, by, ?imported, "what another server held was taken into the catalog");
            Line::Imported(imported)
        }
        Err(why) => Line::Failed(why),
    }
}

async fn check(stock: &Stock, listener: &Listener) -> Result<Line, Error> {
    let tell = |told| {
        listener.hear(Some(match told {
            Told::Finding(finding) => Line::Finding(finding.into()),
            Told::Progress(checked) => Line::Checking(checked),
        }))
    };
    Ok(Line::Checked(stock.check(tell).await?))
}

/// Who hears of a chore while it is done.
struct Listener {
    lines: mpsc::Sender<Line>,
    told_at: Option<Instant>,
}

impl Listener {
    /// Progress, if it was not told just now.
    fn now_and_then(&mut self, line: impl FnOnce() -> Line) -> Option<Line> {
        let due = self.told_at.is_none_or(|at| at.elapsed() >= TOLD_EVERY);
        due.then(|| {
            self.told_at = Some(Instant::now());
            line()
        })
    }

    /// Resolves once there is room for the line.
    fn hear(&self, line: Option<Line>) -> impl Future<Output = ()> + Send + use<> {
        let lines = self.lines.clone();
        async move {
            if let Some(line) = line {
                let _nobody_listens = lines.send(line).await;
            }
        }
    }
}

/// Counts what a scrub reads while it does.
struct Counted {
    telemetry: Option<Arc<Telemetry>>,
    bytes: u64,
}

impl Counted {
    /// Of a scrub that leaves out so many bytes of its first blob.
    fn new(telemetry: Option<Arc<Telemetry>>, left_out: u64) -> Self {
        Self {
            telemetry,
            bytes: left_out,
        }
    }

    fn count(&mut self, told: &ScrubTold) {
        let Some(telemetry) = &self.telemetry else {
            return;
        };
        let metrics = &telemetry.metrics.upkeep;
        match told {
            ScrubTold::Finding(_) => metrics.scrub_damaged.inc(),
            ScrubTold::Progress(scrubbed, _) => {
                metrics
                    .scrub_bytes
                    .inc_by(scrubbed.bytes.saturating_sub(self.bytes));
                self.bytes = scrubbed.bytes;
            }
        }
    }
}
