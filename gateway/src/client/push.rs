//! Pushing one file over the gateway's protocol of parts: several parts at once, each sent again until it
//! is held, gone on with after a kill of either side, compared with the gateway's digests at the end.
//!
//! [`plan`] decides what to do next, without I/O or clock; here is what does it.

pub mod body;
pub mod hash;
pub mod plan;
pub mod protocol;
pub mod source;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use boxgate_storage::catalog::BoxRef;
use boxgate_storage::digest::content::Digests;
use indicatif::HumanBytes;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

pub use super::progress::Progress;
use super::retry::{self, chance, delay};
use super::{Client, ClientError};
use body::{FileBody, Flight};
use plan::{Cut, Plan, Step, WINDOW_PARTS};
use protocol::{Created, Outcome, Put};
use source::Source;

/// What to push where, and how.
#[derive(Debug, Clone)]
pub struct Order {
    /// The file.
    pub file: PathBuf,
    /// What it becomes.
    pub target: BoxRef,
    /// Parts on their way at once.
    pub streams: usize,
    /// Tries that may fail after the first, with nothing moving in between.
    pub tries: u32,
    /// Give up what was begun before.
    pub afresh: bool,
}

/// A file that was pushed.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// What it became; its digests are those of the file here.
    pub outcome: Outcome,
    /// Bytes that this run did not have to send.
    pub held_before: u64,
}

/// Something that a person who waits should know.
#[derive(Debug, Clone)]
pub enum Notice {
    /// A push that was begun before goes on.
    GoesOn {
        /// Bytes that the gateway holds.
        held: u64,
        /// Bytes in all.
        length: u64,
    },
    /// What was begun before is gone.
    Gone,
    /// A call failed and is made again.
    Again {
        /// What failed.
        what: String,
        /// Why.
        why: ClientError,
        /// How soon.
        after: Duration,
    },
    /// The push cannot go on after a cut: nothing could be kept beside the file.
    NotKept(String),
    /// All is sent; the file's digests are not ready yet.
    Hashing {
        /// Bytes left to read.
        left: u64,
    },
}

impl Notice {
    /// Why a call is made again, if that is what it says.
    pub fn why(&self) -> Option<&ClientError> {
        match self {
            Self::Again { why, .. } => Some(why),
            _ => None,
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GoesOn { held, length } => write!(
                f,
                "goes on: the gateway holds {} of {}; they are read once more for the digest",
                HumanBytes(*held),
                HumanBytes(*length)
            ),
            Self::Gone => f.write_str(
                "the push that was begun before is gone from the gateway; this one begins afresh",
            ),
            Self::Again { what, why, after } => {
                write!(
                    f,
                    "{what} failed, again in {:.1} s: {why}",
                    after.as_secs_f64()
                )
            }
            Self::NotKept(why) => write!(f, "a cut push could not go on: {why}"),
            Self::Hashing { left } => {
                let left = HumanBytes(*left);
                write!(f, "all is sent; {left} are left to be hashed")
            }
        }
    }
}

/// Why a push ended without its file being published.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The file cannot be read.
    #[error("cannot read {path}: {why}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// No box is empty.
    #[error("{path} is empty; an empty file is no box", path = .0.display())]
    Empty(PathBuf),
    /// Another push of the file is running.
    #[error("another push of {path} is running; wait for it", path = .0.display())]
    Running(PathBuf),
    /// The file is not what it was when the push began.
    #[error(
        "{path} has changed since its push began, so its parts do not fit together; nothing was \
         published. Push it anew with --afresh",
        path = .0.display()
    )]
    Changed(PathBuf),
    /// The file's kept push is another than the one that is wanted.
    #[error(
        "{path} is being pushed to {target} at {url}; go on with that, or give it up with --afresh",
        path = path.display()
    )]
    Elsewhere {
        /// The file.
        path: PathBuf,
        /// Where to.
        target: String,
        /// Which gateway.
        url: String,
    },
    /// What is kept beside the file is of no use.
    #[error("{path} is no kept push ({why}); begin anew with --afresh", path = path.display())]
    State {
        /// The kept file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The upload was ended from elsewhere.
    #[error(
        "the upload was given up on the gateway, by an administrator or since it rested for too \
         long; nothing was published. The same command begins afresh"
    )]
    Gone,
    /// Another client goes on with the upload in its own way.
    #[error(
        "another client sends this upload from its offset on; nothing was published. Push it anew \
         with --afresh"
    )]
    TakenOver,
    /// The gateway holds other bytes than the file has.
    #[error(
        "part {part} is held with other bytes than {path} has: it has changed since its push began; \
         nothing was published. Push it anew with --afresh",
        path = path.display()
    )]
    Differs {
        /// Which part.
        part: u64,
        /// The file.
        path: PathBuf,
    },
    /// What was published is not what the file holds.
    #[error(
        "what was published is not what {path} holds (sha256 {there} there, {here} here): it changed \
         while it was pushed. Push it again",
        path = path.display()
    )]
    WrongDigest {
        /// The file.
        path: PathBuf,
        /// SHA-256 at the gateway.
        there: String,
        /// SHA-256 of the file.
        here: String,
    },
    /// Nothing moved for as many tries as are allowed.
    #[error("{}. Nothing is lost: the same command goes on where this one stopped", .why.clause())]
    GivenUp {
        /// What the last try came to.
        why: ClientError,
    },
    /// The gateway said no.
    #[error("{0}")]
    Refused(#[from] ClientError),
}

/// Pushes a file. `progress` is kept up to date, and `tell` hears what a person should know.
///
/// # Errors
/// [`PushError`]; whatever the gateway held stays there for the next push, which goes on with it.
/// # Cancel safety
/// Dropping the future cuts the push, as a kill does.
pub async fn push(
    client: &Client,
    order: &Order,
    progress: &Progress,
    tell: &(dyn Fn(Notice) + Send + Sync),
) -> Result<Pushed, PushError> {
    let source = Source::open(&order.file)?;
    progress
        .length
        .store(source.identity.size, Ordering::Relaxed);
    let push = Push {
        client,
        order,
        source: &source,
        progress,
        tell,
    };
    let begun = match push.begun_before().await? {
        Some(begun) => begun,
        None => push.begin().await?,
    };
    let held_before = begun.held_before;
    let outcome = push.run(begun).await?;
    if let Err(e) = source.forget() {
        tell(Notice::NotKept(e.to_string()));
    }
    Ok(Pushed {
        outcome,
        held_before,
    })
}

/// One push on its way.
struct Push<'a> {
    client: &'a Client,
    order: &'a Order,
    source: &'a Source,
    progress: &'a Progress,
    tell: &'a (dyn Fn(Notice) + Send + Sync),
}

/// An upload to go on with.
struct Begun {
    upload: String,
    plan: Plan,
    cut: Cut,
    held_before: u64,
    /// It is finished already; only the answer was lost.
    outcome: Option<Outcome>,
}

/// A part on its way.
type Flights = JoinSet<(u64, Result<Put, ClientError>)>;

impl Push<'_> {
    /// What an earlier run of the same push left.
    async fn begun_before(&self) -> Result<Option<Begun>, PushError> {
        let kept = match self.source.kept() {
            Ok(Some(kept)) => kept,
            Err(PushError::State { .. }) if self.order.afresh => return Ok(None),
            Ok(None) => return Ok(None),
            Err(e) => return Err(e),
        };
        if self.order.afresh {
            // One that is gone already is as good; one that stays is given up by its idle limit.
            if kept.url == self.client.base() {
                let _gone = protocol::cancel(self.client, &kept.upload).await;
            }
            return Ok(None);
        }
        let path = self.source.path.clone();
        if kept.url != self.client.base() || kept.target != self.order.target.to_string() {
            let (target, url) = (kept.target, kept.url);
            return Err(PushError::Elsewhere { path, target, url });
        }
        if kept.identity != self.source.identity {
            return Err(PushError::Changed(path));
        }
        let standing = self
            .patiently("asking for the upload", || {
                protocol::standing(self.client, &kept.upload)
            })
            .await;
        let standing = match standing {
            Ok(standing) => standing,
            Err(PushError::Refused(e)) if matches!(e.status(), Some(404 | 410)) => {
                (self.tell)(Notice::Gone);
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        let length = self.source.identity.size;
        if standing.length != Some(length) {
            return Err(self.client.odd("its upload has another length").into());
        }
        let created = Created {
            upload: kept.upload,
            part_bytes: kept.part_bytes,
        };
        let mut begun = self.planned(created);
        if standing.state == "done" {
            begun.held_before = length;
            begun.outcome = standing.outcome.known();
        } else {
            let parts = standing.parts.ok_or(PushError::TakenOver)?;
            begun.plan.read(standing.offset, parts.held);
            begun.held_before = begun.plan.held_bytes();
        }
        let held = begun.held_before;
        (self.tell)(Notice::GoesOn { held, length });
        Ok(Some(begun))
    }

    /// A new upload, kept beside the file before the first part is sent.
    async fn begin(&self) -> Result<Begun, PushError> {
        let length = self.source.identity.size;
        let created = self
            .patiently("beginning the upload", || {
                protocol::create(self.client, &self.order.target, length)
            })
            .await?;
        let target = self.order.target.to_string();
        let (url, upload) = (self.client.base(), &created.upload);
        if let Err(e) = self.source.keep(url, &target, upload, created.part_bytes) {
            (self.tell)(Notice::NotKept(e.to_string()));
        }
        Ok(self.planned(created))
    }

    fn planned(&self, created: Created) -> Begun {
        let cut = Cut {
            length: self.source.identity.size,
            part_bytes: created.part_bytes,
        };
        Begun {
            upload: created.upload,
            plan: Plan::new(cut, self.order.streams, self.order.tries),
            cut,
            held_before: 0,
            outcome: None,
        }
    }

    /// Sends what is missing, and compares what became of it with the file.
    async fn run(&self, begun: Begun) -> Result<Outcome, PushError> {
        let (allow, allowed) = watch::channel(0);
        let hashing = AbortOnDropHandle::new(tokio::spawn(hash::hash(
            Arc::clone(&self.source.file),
            self.source.identity.size,
            allowed,
            Arc::clone(&self.progress.hashed),
        )));
        let outcome = match begun.outcome {
            Some(outcome) => outcome,
            None => {
                self.send_all(&begun.upload, begun.plan, begun.cut, &allow)
                    .await?
            }
        };
        let length = self.source.identity.size;
        self.progress.held.store(length, Ordering::Relaxed);
        allow.send_replace(length);
        let left = length - self.progress.hashed.load(Ordering::Relaxed);
        if left > 0 {
            (self.tell)(Notice::Hashing { left });
        }
        let digests = self.digests(hashing).await?;
        let (there, here) = (&outcome.sha256, digests.sha256.to_hex());
        if *there != here || outcome.blake3 != digests.blake3.to_hex() || outcome.length != length {
            // What is kept leads to bytes that nobody wants.
            let _stays = self.source.forget();
            return Err(PushError::WrongDigest {
                path: self.source.path.clone(),
                there: there.clone(),
                here,
            });
        }
        Ok(outcome)
    }

    async fn digests(
        &self,
        hashing: AbortOnDropHandle<io::Result<Digests>>,
    ) -> Result<Digests, PushError> {
        let digests = hashing.await.map_err(io::Error::other).flatten();
        digests.map_err(|e| PushError::Unreadable {
            path: self.source.path.clone(),
            why: e.to_string(),
        })
    }

    async fn send_all(
        &self,
        upload: &str,
        mut plan: Plan,
        cut: Cut,
        allow: &watch::Sender<u64>,
    ) -> Result<Outcome, PushError> {
        let mut flights = Flights::new();
        let mut trouble = Trouble::default();
        let mut outcome = None;
        loop {
            self.progress
                .held
                .store(plan.held_bytes(), Ordering::Relaxed);
            let window = WINDOW_PARTS.saturating_mul(cut.part_bytes);
            allow.send_replace(plan.committed_bytes().saturating_add(window));
            match plan.step() {
                Step::Send { part, failures } => {
                    self.source.assert_unchanged()?;
                    let wait = self.before(Call::Part(part), failures, &mut trouble);
                    self.take_off(&mut flights, upload, part, cut, wait);
                }
                Step::Read { failures } => {
                    sleep(self.before(Call::Reading, failures, &mut trouble)).await;
                    match protocol::standing(self.client, upload).await {
                        Ok(standing) if standing.state == "done" => {
                            plan.finished();
                            outcome = standing.outcome.known();
                        }
                        Ok(standing) => {
                            let parts = standing.parts.ok_or(PushError::TakenOver)?;
                            plan.read(standing.offset, parts.held);
                        }
                        Err(e) => {
                            trouble.note(Call::Reading, passing(e)?);
                            plan.unread();
                        }
                    }
                }
                Step::Wait => {
                    let landed = flights.join_next().await.and_then(Result::ok);
                    // A task that panicked left no word of its part: nothing can be known any more.
                    let (part, result) = landed.ok_or_else(|| self.client.odd("a part is lost"))?;
                    match result {
                        Ok(Put::Held(offset)) => plan.stored(part, offset),
                        Ok(Put::Finished(what)) => {
                            plan.finished();
                            outcome = Some(what);
                        }
                        Err(e) if e.code() == Some("PART_DIFFERS") => {
                            let path = self.source.path.clone();
                            return Err(PushError::Differs { part, path });
                        }
                        Err(e) if e.status() == Some(409) => {
                            trouble.note(Call::Part(part), e);
                            plan.conflicted(part);
                        }
                        Err(e) => {
                            self.source.assert_unchanged()?;
                            trouble.note(Call::Part(part), passing(e)?);
                            plan.failed(part);
                        }
                    }
                }
                Step::Finished => {
                    return outcome.ok_or_else(|| {
                        self.client
                            .odd("it does not say what the upload became")
                            .into()
                    });
                }
                Step::GiveUp => {
                    let why = trouble.last.take();
                    let why = why.unwrap_or_else(|| self.client.odd("the upload does not move"));
                    return Err(PushError::GivenUp { why });
                }
            }
        }
    }

    /// Sends one part, in a task of its own, after a wait.
    fn take_off(&self, flights: &mut Flights, upload: &str, part: u64, cut: Cut, wait: Duration) {
        let (client, upload) = (self.client.clone(), upload.to_owned());
        let file = Arc::clone(&self.source.file);
        let all = Arc::clone(&self.progress.flying);
        flights.spawn(async move {
            sleep(wait).await;
            let flight = Arc::new(Flight::new(all));
            let body = FileBody::new(file, cut.range(part), Arc::clone(&flight));
            (
                part,
                protocol::put(&client, &upload, part, body, &flight).await,
            )
        });
    }

    /// The wait before a call, which is told where the same call failed before.
    fn before(&self, call: Call, failures: u32, trouble: &mut Trouble) -> Duration {
        let Some(error) = trouble.of.remove(&call) else {
            return delay(failures, None, chance());
        };
        let wait = delay(failures.max(1), error.retry_after(), chance());
        self.again(&call.to_string(), &error, wait);
        wait
    }

    fn again(&self, what: &str, error: &ClientError, after: Duration) {
        self.progress.retries.fetch_add(1, Ordering::Relaxed);
        (self.tell)(Notice::Again {
            what: what.to_owned(),
            why: error.clone(),
            after,
        });
    }

    async fn patiently<T, F>(&self, what: &str, call: impl Fn() -> F) -> Result<T, PushError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let again = |error: ClientError, failures| {
            if failures > self.order.tries {
                return Err(PushError::GivenUp { why: error });
            }
            let wait = delay(failures, error.retry_after(), chance());
            self.again(what, &error, wait);
            Ok(wait)
        };
        retry::patiently(call, again).await
    }
}

/// What is called in the course of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Call {
    Part(u64),
    Reading,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Part(part) => write!(f, "part {part}"),
            Self::Reading => f.write_str("asking for the upload"),
        }
    }
}

/// Calls that failed and are to be made again.
#[derive(Debug, Default)]
struct Trouble {
    of: BTreeMap<Call, ClientError>,
    last: Option<ClientError>,
}

impl Trouble {
    fn note(&mut self, call: Call, error: ClientError) {
        self.last = Some(error.clone());
        self.of.insert(call, error);
    }
}

/// A failure that may pass; any other one ends the push.
fn passing(error: ClientError) -> Result<ClientError, PushError> {
    match error.status() {
        Some(404 | 410) => Err(PushError::Gone),
        _ if error.may_pass() => Ok(error),
        _ => Err(error.into()),
    }
}
