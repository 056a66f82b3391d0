//! Pulling one box file: ranges in parallel, each block proved by the box's BLAKE3 tree before it is written,
//! gone on with after a kill, only what is damaged or missing fetched.
//!
//! Trust begins at the digest that the gateway lists for the box. From there on every byte is proved, so it
//! does not matter who sends it: a cache or proxy that sends other bytes is found out at that block.
//!
//! [`plan`] decides what to fetch next, without I/O or clock; here is what does it.

pub mod choice;
pub mod fetch;
pub mod file;
pub mod plan;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use boxgate_storage::catalog::{BoxName, OrganizationName};
use boxgate_storage::digest::Sha256;
use boxgate_storage::digest::outboard::{ProvedTree, outboard_bytes};
use http::Method;
use http::header::ACCEPT;
use indicatif::HumanBytes;
use serde_json::{Value, json};
use tokio::task::{JoinSet, spawn_blocking};

use super::progress::{Again, Progress, Told};
use super::retry::{self, Pause, Through};
use super::{Client, ClientError};
use choice::{Chosen, Listed, Wanted};
use fetch::{End, Fetcher, Landed};
use file::{Destination, Survey};
use plan::Plan;

/// Blocks of one request: enough that its round trip does not show, few enough that a cut costs little and
/// a cache need not keep the whole file.
const RUN_BLOCKS: u64 = 16;
/// How often other bytes may come for one block before it is a lie.
const MOST_WRONG: u32 = 3;
/// How often what was written is looked at again before the disk is called bad.
const MOST_SURVEYS: u32 = 3;
/// 128 TiB; a longer file is none of ours, and its tree would not fit here.
const LONGEST: u64 = 128 << 40;

/// What to pull, and where to.
#[derive(Debug, Clone)]
pub struct Order {
    /// Whose box.
    pub organization: OrganizationName,
    /// Which box.
    pub name: BoxName,
    /// Which file of it.
    pub wanted: Wanted,
    /// The file here; `BOX-VERSION-PROVIDER-ARCH.box` if it is left open.
    pub output: Option<PathBuf>,
    /// Requests at once.
    pub streams: usize,
    /// Tries that may fail after the first, with nothing moving in between.
    pub tries: u32,
}

/// A file that is here, all of it proved.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// What it is.
    pub chosen: Chosen,
    /// Its SHA-256, computed from what the disk holds.
    pub sha256: Sha256,
    /// Where it is.
    pub path: PathBuf,
    /// Bytes that this run did not have to fetch.
    pub held_before: u64,
}

/// Something that a person who waits should know.
#[derive(Debug, Clone)]
pub enum Notice {
    /// What is here is read and compared first.
    Looking {
        /// Bytes to read.
        bytes: u64,
    },
    /// A part of it is here already.
    GoesOn {
        /// Bytes that are here.
        held: u64,
        /// Bytes in all.
        length: u64,
    },
    /// Other bytes came for a block than it has; it is fetched again by itself.
    Wrong {
        /// Which.
        block: u64,
    },
    /// The disk gave back other bytes than were written to it.
    Damaged {
        /// How many blocks.
        blocks: usize,
    },
    /// A call failed and is made again.
    Again(Again),
}

impl Told for Notice {
    fn again(&self) -> Option<&Again> {
        match self {
            Self::Again(again) => Some(again),
            _ => None,
        }
    }

    fn event(&self) -> (&'static str, Value) {
        match self {
            Self::Looking { bytes } => ("looking", json!({ "bytes": bytes })),
            Self::GoesOn { held, length } => ("resumed", json!({ "held": held, "length": length })),
            Self::Wrong { block } => ("wrong", json!({ "block": block })),
            Self::Damaged { blocks } => ("damaged", json!({ "blocks": blocks })),
            Self::Again(again) => again.event(),
        }
    }

    fn is_for_people(&self) -> bool {
        true
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Looking { bytes } => {
                write!(f, "looking at what is here: {}", HumanBytes(*bytes))
            }
            Self::GoesOn { held, length } => write!(
                f,
                "goes on: {} of {} are here and right",
                HumanBytes(*held),
                HumanBytes(*length)
            ),
            Self::Wrong { block } => write!(
                f,
                "block {block} came with other bytes than the box has; it is fetched again, past every cache"
            ),
            Self::Damaged { blocks } => write!(
                f,
                "the disk gave back other bytes than were written in {blocks} blocks; they are fetched again"
            ),
            Self::Again(again) => again.fmt(f),
        }
    }
}

/// Why a pull ended without its file being here.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// What is wanted is not there, or not the only one.
    #[error("{organization}/{name}: {why}")]
    Choice {
        /// Whose box.
        organization: String,
        /// Which box.
        name: String,
        /// What is there instead.
        why: String,
    },
    /// Reading or writing here failed.
    #[error("{path}: {why}", path = path.display())]
    Disk {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Another pull to the same place is running.
    #[error("another pull to {path} is running; wait for it", path = .0.display())]
    Running(PathBuf),
    /// The tree does not belong to the digest.
    #[error(
        "{url} sends a tree that is not the box's: something between here and the gateway changes what it says. Nothing was written"
    )]
    WrongTree {
        /// The gateway.
        url: String,
    },
    /// Other bytes come for a block, again and again.
    #[error(
        "{url} sends other bytes than the box has in block {block}, {MOST_WRONG} times: it, or something between here and the gateway, is damaged or lies. What is right is kept: the same command goes on"
    )]
    Lies {
        /// Where the bytes come from.
        url: String,
        /// Which block.
        block: u64,
    },
    /// The disk does not keep what is written.
    #[error("{path} does not hold what is written to it; the disk is damaged", path = .0.display())]
    BadDisk(PathBuf),
    /// The box, or the right to read it, went away.
    #[error("the box is gone from {url}, or may not be read any more")]
    Gone {
        /// The gateway.
        url: String,
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

/// Pulls a file. `progress` is kept up to date, and `tell` hears what a person should know.
///
/// # Errors
/// [`PullError`]; what is here stays for the next pull, which goes on with it.
/// # Cancel safety
/// Dropping the future cuts the pull, as a kill does.
pub async fn pull(
    client: &Client,
    order: &Order,
    progress: &Arc<Progress>,
    tell: &(dyn Fn(Notice) + Send + Sync),
) -> Result<Pulled, PullError> {
    let pull = Pull {
        client,
        order,
        progress,
        tell,
    };
    let chosen = pull.choose().await?;
    let tree = Arc::new(pull.tree(&chosen).await?);
    let path = order.output.clone().unwrap_or_else(|| {
        let Chosen {
            version,
            provider,
            architecture,
            ..
        } = &chosen;
        format!("{}-{version}-{provider}-{architecture}.box", order.name).into()
    });
    let bytes = file::here(&path);
    if bytes > 0 {
        tell(Notice::Looking { bytes });
    }
    if let Some(sha256) = pull.is_whole(&path, &tree).await? {
        return Ok(Pulled {
            held_before: chosen.length,
            chosen,
            sha256,
            path,
        });
    }
    let destination = Destination::open(&path)?;
    let fetcher = Fetcher {
        client: client.clone(),
        url: chosen.url.clone(),
        etag: format!("\"{}\"", chosen.blake3.to_hex()),
        tree,
        destination,
        progress: Arc::clone(progress),
    };
    let (sha256, held_before) = pull.gather(&fetcher).await?;
    let destination = fetcher.destination;
    blocking(move || destination.publish()).await?;
    Ok(Pulled {
        chosen,
        sha256,
        path,
        held_before,
    })
}

/// One pull on its way.
struct Pull<'a> {
    client: &'a Client,
    order: &'a Order,
    progress: &'a Arc<Progress>,
    tell: &'a (dyn Fn(Notice) + Send + Sync),
}

impl Pull<'_> {
    /// Asks which file it is.
    async fn choose(&self) -> Result<Chosen, PullError> {
        let Order {
            organization, name, ..
        } = self.order;
        let place = format!("/{organization}/{name}?by=blake3");
        let ask = || {
            let request = self.client.request(Method::GET, &place);
            self.client.send(request.header(ACCEPT, "application/json"))
        };
        let again = |why, failures| self.again(why, failures).map(|pause| pause.longest);
        let listed: Listed = retry::patiently(ask, again).await?.json()?;
        let chosen = listed.choose(&self.order.wanted);
        let chosen = chosen.map_err(|why| PullError::Choice {
            organization: organization.to_string(),
            name: name.to_string(),
            why,
        })?;
        // A credential that was given for TLS does not go out without it.
        let downgraded =
            self.client.base().starts_with("https:") && chosen.url.starts_with("http:");
        if downgraded || chosen.length > LONGEST {
            return Err(self
                .client
                .odd("it lists no file that can be pulled")
                .into());
        }
        Ok(chosen)
    }

    /// Fetches what proves each block, and proves it.
    async fn tree(&self, chosen: &Chosen) -> Result<ProvedTree, PullError> {
        let place = format!("/blobs/b3/{}/outboard", chosen.blake3.to_hex());
        let blocks = usize::try_from(chosen.length.div_ceil(1 << 20)).unwrap_or(usize::MAX);
        let longest = outboard_bytes(blocks);
        let ask = || {
            let request = self.client.request(Method::GET, &place);
            self.client.send_within(request, longest)
        };
        let again = |why, failures| self.again(why, failures).map(|pause| pause.longest);
        let answer = retry::patiently(ask, again).await?;
        let proved = ProvedTree::try_new(chosen.blake3, chosen.length, answer.body());
        proved.ok_or_else(|| PullError::WrongTree {
            url: self.client.base().to_owned(),
        })
    }

    async fn is_whole(
        &self,
        path: &Path,
        tree: &Arc<ProvedTree>,
    ) -> Result<Option<Sha256>, PullError> {
        let (path, tree) = (path.to_owned(), Arc::clone(tree));
        let hashed = Arc::clone(&self.progress.hashed);
        blocking(move || file::is_whole(&path, &tree, &hashed)).await
    }

    /// Fetches what is missing until nothing is; what was written is read again, so that the digest is that
    /// of what the disk holds. Gives it, and how much was here before.
    async fn gather(&self, fetcher: &Fetcher) -> Result<(Sha256, u64), PullError> {
        let mut before = None;
        for _ in 0..=MOST_SURVEYS {
            let survey = self.survey(fetcher).await?;
            let held = survey.held;
            let length = fetcher.tree.length();
            self.progress.held.store(held, Ordering::Relaxed);
            // From here on there is something to show: what was here is no sign of how fast the rest comes.
            self.progress.length.store(length, Ordering::Relaxed);
            match (survey.sha256, before) {
                (Some(sha256), before) => return Ok((sha256, before.unwrap_or(held))),
                (None, None) if held > 0 => (self.tell)(Notice::GoesOn { held, length }),
                (None, None) => {}
                (None, Some(_)) => (self.tell)(Notice::Damaged {
                    blocks: survey.missing.len(),
                }),
            }
            before = before.or(Some(held));
            self.fetch_all(fetcher, Plan::new(survey.missing, RUN_BLOCKS))
                .await?;
        }
        Err(PullError::BadDisk(fetcher.destination.path().to_owned()))
    }

    async fn survey(&self, fetcher: &Fetcher) -> Result<Survey, PullError> {
        let (destination, tree) = (fetcher.destination.clone(), Arc::clone(&fetcher.tree));
        let hashed = Arc::clone(&self.progress.hashed);
        blocking(move || destination.survey(&tree, &hashed)).await
    }

    async fn fetch_all(&self, fetcher: &Fetcher, mut plan: Plan) -> Result<(), PullError> {
        let mut flights: JoinSet<Landed> = JoinSet::new();
        let mut failures = 0;
        let mut pause = Pause::default();
        let through = Through::default();
        loop {
            while flights.len() < self.order.streams.max(1)
                && let Some(run) = plan.take()
            {
                let (fetcher, fresh) = (fetcher.clone(), plan.is_distrusted(run.start));
                let turn = through.end_of(pause);
                flights.spawn(async move {
                    turn.await;
                    fetcher.fetch(run, fresh).await
                });
            }
            let Some(landed) = flights.join_next().await else {
                return Ok(());
            };
            // A task that panicked left no word of its blocks.
            let landed = landed.map_err(|_panicked| self.client.odd("a range is lost"))?;
            if !landed.stored.is_empty() {
                (failures, pause) = (0, Pause::default());
                through.tell();
            }
            for block in landed.stored {
                plan.stored(block);
            }
            for block in landed.wrong {
                (self.tell)(Notice::Wrong { block });
                if plan.wrong(block) >= MOST_WRONG {
                    let url = fetcher.url.clone();
                    return Err(PullError::Lies { url, block });
                }
            }
            plan.give_back(landed.run);
            match landed.end {
                Ok(()) => {}
                Err(End::Disk(error)) => return Err(error),
                Err(End::Call(error)) => {
                    let error = self.passing(error)?;
                    failures += 1;
                    pause = self.again(error, failures)?;
                }
            }
        }
    }

    /// How long to wait before what failed is tried again.
    fn again(&self, why: ClientError, failures: u32) -> Result<Pause, PullError> {
        if failures > self.order.tries {
            return Err(PullError::GivenUp { why });
        }
        let pause = Pause::after(failures, &why);
        let after = pause.longest;
        self.progress.retries.fetch_add(1, Ordering::Relaxed);
        let what = "a range".to_owned();
        (self.tell)(Notice::Again(Again { what, why, after }));
        Ok(pause)
    }

    /// A failure that may pass; any other one ends the pull.
    fn passing(&self, error: ClientError) -> Result<ClientError, PullError> {
        match error.status() {
            Some(404 | 410) => Err(PullError::Gone {
                url: self.client.base().to_owned(),
            }),
            _ if error.may_pass() => Ok(error),
            _ => Err(error.into()),
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PullError> + Send + 'static,
) -> Result<T, PullError> {
    match spawn_blocking(work).await {
        Ok(done) => done,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}
