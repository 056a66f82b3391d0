//! Pushing one file over the gateway's protocol of parts: several parts at once, each sent again until it
//! is held, gone on with after a kill of either side, compared with the gateway's digests at the end.
//!
//! [`plan`] decides what to do next, without I/O or clock; here is what does it.

pub mod append;
mod begin;
pub mod body;
pub mod error;
mod found;
pub mod hash;
pub mod notice;
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
use boxgate_storage::digest::Algorithm;
use boxgate_storage::digest::content::Digests;
use futures_util::TryFutureExt as _;
use futures_util::future::{Either, ready};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::progress::Again;
pub use super::progress::Progress;
use super::retry::{self, Pause, Through, chance, delay};
use super::{Client, ClientError};
use body::{FileBody, Flight};
pub use error::PushError;
use hash::{Hashed, Values};
pub use notice::Notice;
use plan::{Cut, Plan, Step, WINDOW_PARTS};
use protocol::{Outcome, Put};
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
    /// Compute the digest first, and send nothing where the organization holds those bytes already.
    pub digest_first: bool,
}

/// A file that was pushed.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// What it became; its digests are those of the file here.
    pub outcome: Outcome,
    /// Bytes that this run did not have to send.
    pub held_before: u64,
    /// Whether the organization held all of them before, and none was ever sent for it.
    pub was_known: bool,
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
    let (held_before, was_known) = (begun.held_before, begun.was_known);
    let outcome = push.run(begun).await?;
    if let Err(e) = source.forget() {
        tell(Notice::NotKept(e.to_string()));
    }
    Ok(Pushed {
        outcome,
        held_before,
        was_known,
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
    /// How it is sent in parts; without it, in order.
    parts: Option<(Plan, Cut)>,
    held_before: u64,
    /// It is finished already; only the answer was lost, or its bytes were known.
    outcome: Option<Outcome>,
    was_known: bool,
    /// The file's own, where they were computed first.
    digests: Option<Digests>,
}

/// A part on its way.
type Flights = JoinSet<(u64, Result<Put, ClientError>)>;

impl Push<'_> {
    fn hashing(
        &self,
        allowed: watch::Receiver<u64>,
        values: Values,
        wanted: Option<Algorithm>,
    ) -> AbortOnDropHandle<io::Result<Hashed>> {
        AbortOnDropHandle::new(tokio::spawn(hash::hash(
            Arc::clone(&self.source.file),
            self.source.identity.size,
            allowed,
            Arc::clone(&self.progress.hashed),
            values,
            wanted,
        )))
    }

    /// Sends what is missing, and compares what became of it with the file.
    async fn run(&self, begun: Begun) -> Result<Outcome, PushError> {
        let (allow, allowed) = watch::channel(0);
        let digests = if let Some(digests) = begun.digests {
            Either::Left(ready(Ok(digests)))
        } else {
            let hashed = self.hashed(self.hashing(allowed, Values::Dropped, None));
            Either::Right(hashed.map_ok(|hashed| hashed.digests))
        };
        let outcome = match (begun.outcome, begun.parts) {
            (Some(outcome), _) => outcome,
            (None, Some((plan, cut))) => {
                match self.send_all(&begun.upload, plan, cut, &allow).await {
                    Err(PushError::Refused(why)) if append::is_too_large(&why) => {
                        let _gone = protocol::cancel(self.client, &begun.upload).await;
                        let upload = self.begin_in_order(why).await?;
                        self.send_in_order(&upload, &allow).await?
                    }
                    sent => sent?,
                }
            }
            (None, None) => self.send_in_order(&begun.upload, &allow).await?,
        };
        let length = self.source.identity.size;
        self.progress.held.store(length, Ordering::Relaxed);
        allow.send_replace(length);
        let left = length - self.progress.hashed.load(Ordering::Relaxed);
        if left > 0 {
            (self.tell)(Notice::Hashing { left });
        }
        let digests = digests.await?;
        let here = digests.blake3.to_hex();
        if outcome.blake3 != here || outcome.length != length {
            // What is kept leads to bytes that nobody wants.
            let _stays = self.source.forget();
            return Err(PushError::WrongDigest {
                path: self.source.path.clone(),
                there: outcome.blake3,
                here,
            });
        }
        // The gateway's SHA-256 is of the same bytes; where it computes that later, it is computed here.
        let sha256 = match outcome.sha256.as_str() {
            "" => self.sha256(&digests).await?,
            known => known.to_owned(),
        };
        Ok(Outcome { sha256, ..outcome })
    }

    /// SHA-256 of the file, once it is known that it is needed.
    async fn sha256(&self, digests: &Digests) -> Result<String, PushError> {
        let known = digests.by(Algorithm::Sha256);
        let found = if known.is_some() {
            known
        } else {
            let length = self.source.identity.size;
            (self.tell)(Notice::Hashing { left: length });
            self.progress.hashed.store(0, Ordering::Relaxed);
            let (_allow, allowed) = watch::channel(length);
            let hashing = self.hashing(allowed, Values::Dropped, Some(Algorithm::Sha256));
            self.hashed(hashing).await?.digests.by(Algorithm::Sha256)
        };
        Ok(found.map(|sha256| sha256.to_hex()).unwrap_or_default())
    }

    async fn hashed(
        &self,
        hashing: AbortOnDropHandle<io::Result<Hashed>>,
    ) -> Result<Hashed, PushError> {
        let hashed = hashing.await.map_err(io::Error::other).flatten();
        hashed.map_err(|e| PushError::Unreadable {
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
        let through = Through::default();
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
                    let pause = self.before(Call::Part(part), failures, &mut trouble);
                    let turn = through.end_of(pause);
                    self.take_off(&mut flights, upload, part, cut, turn);
                }
                Step::Read { failures } => {
                    sleep(self.before(Call::Reading, failures, &mut trouble).longest).await;
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
                        Ok(Put::Held(offset)) => {
                            plan.stored(part, offset);
                            through.tell();
                            (self.tell)(Notice::Part {
                                part: Some(part),
                                held: plan.held_bytes(),
                                length: cut.length,
                            });
                        }
                        Ok(Put::Finished(what)) => {
                            plan.finished();
                            (self.tell)(Notice::Part {
                                part: Some(part),
                                held: cut.length,
                                length: cut.length,
                            });
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

    /// Sends one part, in a task of its own, once it is its turn.
    fn take_off(
        &self,
        flights: &mut Flights,
        upload: &str,
        part: u64,
        cut: Cut,
        turn: impl Future<Output = ()> + Send + 'static,
    ) {
        let (client, upload) = (self.client.clone(), upload.to_owned());
        let file = Arc::clone(&self.source.file);
        let all = Arc::clone(&self.progress.flying);
        flights.spawn(async move {
            turn.await;
            let flight = Arc::new(Flight::new(all));
            let body = FileBody::new(file, cut.range(part), Arc::clone(&flight));
            (
                part,
                protocol::put(&client, &upload, part, body, &flight).await,
            )
        });
    }

    /// The pause before a call, which is told where the same call failed before.
    fn before(&self, call: Call, failures: u32, trouble: &mut Trouble) -> Pause {
        let Some(error) = trouble.of.remove(&call) else {
            return Pause {
                longest: delay(failures, None, chance()),
                is_asked: false,
            };
        };
        let pause = Pause::after(failures.max(1), &error);
        self.again(&call.to_string(), &error, pause.longest);
        pause
    }

    fn again(&self, what: &str, error: &ClientError, after: Duration) {
        self.progress.retries.fetch_add(1, Ordering::Relaxed);
        (self.tell)(Notice::Again(Again {
            what: what.to_owned(),
            why: error.clone(),
            after,
        }));
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
