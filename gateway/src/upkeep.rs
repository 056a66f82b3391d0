//! Looking after what is stored: what `fsck` and `gc` do, told line by line, the same whether a person's
//! command works on the data directory itself or asks the gateway that runs on it.
//!
//! The work ends when nobody listens any more, and with the process. It knows no HTTP; the lines are what
//! `door::upkeep` sends and what `client::upkeep` reads.

pub mod line;

use std::sync::Arc;

use boxgate_storage::Error;
use boxgate_storage::check::{OrphanLimits, Stock, Told};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::line::Line;

/// Lines that wait for a slow reader; the work then waits too.
const LINES_AHEAD: usize = 64;

/// One kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chore {
    /// Rows and bytes, compared.
    Check,
    /// What nobody holds, removed.
    Collect {
        /// When bytes without a row go.
        limits: OrphanLimits,
        /// Tell what would be removed, and remove nothing.
        dry_run: bool,
    },
}

/// Who looks after a gateway's stores at this moment: each kind of work runs once at a time.
#[derive(Debug)]
pub struct Upkeep {
    checks: Arc<Semaphore>,
    collections: Arc<Semaphore>,
    ending: CancellationToken,
}

/// The right to do a chore; dropped when it is done.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "held, never read")] OwnedSemaphorePermit);

impl Upkeep {
    /// Nobody does; what runs ends with `ending`.
    pub fn new(ending: CancellationToken) -> Self {
        Self {
            checks: Arc::new(Semaphore::new(1)),
            collections: Arc::new(Semaphore::new(1)),
            ending,
        }
    }

    /// `None` while the same work runs already.
    pub fn turn(&self, chore: Chore) -> Option<Turn> {
        let turns = match chore {
            Chore::Check => &self.checks,
            Chore::Collect { .. } => &self.collections,
        };
        Arc::clone(turns).try_acquire_owned().ok().map(Turn)
    }

    /// Cancelled when what runs must end.
    pub fn ending(&self) -> CancellationToken {
        self.ending.clone()
    }
}

/// Does the chore in a task of its own and tells of it; the last line is the outcome. It ends early when
/// the receiver is dropped or `ending` is cancelled.
pub fn tell(
    stock: Stock,
    chore: Chore,
    turn: Option<Turn>,
    ending: CancellationToken,
    tasks: &TaskTracker,
) -> mpsc::Receiver<Line> {
    let (lines, told) = mpsc::channel(LINES_AHEAD);
    tasks.spawn(async move {
        let last = tokio::select! {
            biased;
            () = lines.closed() => return,
            () = ending.cancelled() => Line::Failed("the gateway is stopping".into()),
            outcome = perform(&stock, chore, &lines) => outcome.unwrap_or_else(|error| {
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

async fn perform(stock: &Stock, chore: Chore, lines: &mpsc::Sender<Line>) -> Result<Line, Error> {
    match chore {
        Chore::Check => {
            let tell = |told| {
                let lines = lines.clone();
                async move {
                    let line = match told {
                        Told::Finding(finding) => Line::Finding(finding.into()),
                        Told::Progress(checked) => Line::Checking(checked.into()),
                    };
                    let _nobody_listens = lines.send(line).await;
                }
            };
            Ok(Line::Checked(stock.check(tell).await?.into()))
        }
        Chore::Collect { limits, dry_run } => {
            let collected = if dry_run {
                stock.would_collect(limits).await?
            } else {
                stock.collect(limits).await?
            };
            Ok(Line::Collected(line::Collected::new(
                &collected, limits, dry_run,
            )))
        }
    }
}
