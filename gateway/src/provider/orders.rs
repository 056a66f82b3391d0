//! Orders of servers: one for one name, whoever asks how often and at which node, and what is told of what became of them.
//!
//! Those who ask for the same at one node wait for one task; between nodes the row decides (`metadata::orders`). An order of
//! which nobody knows whether its cloud took it is looked for, and not made again for as long as it may still turn up.

use std::sync::Arc;
use std::time::Duration;

use boxgate_storage::clock::UnixMillis;
use boxgate_storage::error::{Error, chain};
use boxgate_storage::metadata::Metadata;
use boxgate_storage::metadata::orders::{Taken, Teller, Wanted};
use moka::sync::Cache;
use serde_json::Value;
use tokio_util::task::TaskTracker;

use super::Account;
use super::flight::Flights;
use crate::config::settings;
use crate::refusal::Refusal;

/// How long a node has an order: longer than looking for it and making it may take.
const LEASE: Duration = Duration::from_mins(3);
/// How long a caller waits for another node, and how often it looks.
const PATIENCE: Duration = Duration::from_secs(35);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// After which time it is worth asking again.
const SOON: Duration = Duration::from_secs(10);
/// Servers of which it is noted already how they stand.
const REMEMBERED: u64 = 10_000;

/// Why there is no server.
#[derive(Debug)]
pub struct NotMade {
    /// What the caller is told.
    pub refusal: Refusal,
    /// Whether there may be one all the same.
    pub is_doubtful: bool,
}

/// Ids of servers that may be what an order came to; `None` where the adapter cannot list servers.
pub type Candidates = Option<Vec<String>>;

/// The orders of all adapters at this node.
#[derive(Debug)]
pub struct Orders {
    rows: Rows,
    under_way: Flights<(Account, String), Arc<str>>,
    /// Whether they were noted as ready, or only as listed.
    settled: Cache<(Account, String), bool>,
    ordering_for: Duration,
}

/// The rows, and for how long they count.
#[derive(Debug, Clone)]
struct Rows {
    metadata: Metadata,
    kept: Duration,
    /// For how long an order may still turn up in a list, and where there is no list.
    doubted_for: [Duration; 2],
}

impl Orders {
    /// Orders in these rows; what is ordered goes on in `tasks`.
    pub fn new(metadata: Metadata, settings: &settings::Providers, tasks: TaskTracker) -> Self {
        Self {
            rows: Rows {
                metadata,
                kept: settings.orders_kept,
                doubted_for: [settings.ordering_for, settings.unknown_for],
            },
            under_way: Flights::new(tasks),
            settled: Cache::new(REMEMBERED),
            ordering_for: settings.ordering_for,
        }
    }

    /// The id of the server that an account ordered under a name: one order, however often it is asked for within
    /// `providers.orders_kept`, and whoever goes away meanwhile. `look` tells which servers of that name came since, where
    /// somebody may have made it before; `make` makes it.
    ///
    /// # Errors
    /// What `look` and `make` answer. When it is not known yet what became of one before, when another node is at it for too
    /// long, or the rows do not answer.
    pub async fn order<L, M>(
        &self,
        account: &Account,
        wanted: Wanted,
        teller: Teller,
        look: impl FnOnce(UnixMillis) -> L + Send + 'static,
        make: impl FnOnce() -> M + Send + 'static,
    ) -> Result<Arc<str>, Refusal>
    where
        L: Future<Output = Result<Candidates, Refusal>> + Send + 'static,
        M: Future<Output = Result<String, NotMade>> + Send + 'static,
    {
        let key = (account.clone(), wanted.name.clone());
        let rows = self.rows.clone();
        let work = || async move {
            let made = rows.once(wanted, teller, look, make).await;
            made.map(Arc::from)
        };
        self.under_way.join(key, work).await
    }

    /// Whether a server was ordered so short a time ago that its cloud may not list it yet.
    ///
    /// # Errors
    /// When the rows do not answer.
    pub async fn is_ordering(
        &self,
        account: &Account,
        id: &str,
        now: UnixMillis,
    ) -> Result<bool, Error> {
        let ordered = self.rows.metadata.ordered(&account.name(), id).await?;
        Ok(
            ordered
                .is_some_and(|server| !server.seen && server.since.plus(self.ordering_for) > now),
        )
    }

    /// A cloud lists a server: if it was ordered here, that is noted, and once told when it is ready.
    pub async fn is_seen(&self, account: &Account, id: &str, is_ready: bool, teller: Teller) {
        let key = (account.clone(), id.to_owned());
        if self
            .settled
            .get(&key)
            .is_some_and(|noted| noted || !is_ready)
        {
            return;
        }
        let account = account.name();
        let metadata = &self.rows.metadata;
        let told = async {
            let Some(server) = metadata.ordered(&account, id).await? else {
                return Ok(());
            };
            if !server.seen || (is_ready && !server.ready) {
                let of = (account.as_str(), id);
                metadata.server_is_seen(of, is_ready, teller).await?;
            }
            Ok(())
        };
        match told.await {
            Ok(()) => self.settled.insert(key, is_ready),
            Err(error) => untold("ready", &error),
        }
    }

    /// A server has another name: the one that it was ordered by is free.
    pub async fn is_renamed(&self, account: &Account, id: &str, name: &str) {
        let account = account.name();
        let metadata = &self.rows.metadata;
        let noted = metadata.server_is_renamed(&account, id, name);
        if let Err(error) = noted.await {
            untold("renamed", &error);
        }
    }

    /// A server is not there any more: its name may be ordered again.
    pub async fn is_gone(&self, account: &Account, id: &str) {
        let name = account.name();
        let noted = self.rows.metadata.server_is_gone(&name, id);
        if let Err(error) = noted.await {
            untold("gone", &error);
        }
        self.settled.invalidate(&(account.clone(), id.to_owned()));
    }

    /// A server was given up: that is told once, it is ordered no more, and its name may be ordered again.
    pub async fn gave_up(&self, account: &Account, id: &str, name: Option<Value>, teller: Teller) {
        let name_of_account = account.name();
        let of = (name_of_account.as_str(), id);
        let metadata = &self.rows.metadata;
        // What was done is done, whether that is told or not.
        if let Err(error) = metadata.server_is_cancelled(of, name, teller).await {
            untold("cancelled", &error);
        }
        self.settled.invalidate(&(account.clone(), id.to_owned()));
    }
}

fn untold(what: &str, error: &Error) {
    let error = chain(error);
    tracing::error!(error, what, "an event of an adapter is not told");
}

impl Rows {
    /// Takes the order, or what somebody else made of it.
    async fn once<L, M>(
        &self,
        wanted: Wanted,
        teller: Teller,
        look: impl FnOnce(UnixMillis) -> L + Send,
        make: impl FnOnce() -> M + Send,
    ) -> Result<String, Refusal>
    where
        L: Future<Output = Result<Candidates, Refusal>> + Send,
        M: Future<Output = Result<String, NotMade>> + Send,
    {
        let metadata = &self.metadata;
        let mut looks = PATIENCE.as_millis() / LOOK_EVERY.as_millis();
        let seq = loop {
            match metadata
                .take_order(wanted.clone(), (LEASE, self.kept))
                .await?
            {
                Taken::Made(server) => return Ok(server),
                Taken::Ours(seq) => break seq,
                Taken::Left { seq, since, age } => {
                    let found = match look(since).await {
                        Ok(candidates) => self.cleared_up(&wanted, candidates, age).await,
                        Err(refusal) => Err(refusal),
                    };
                    match found {
                        Ok(Some(server)) => {
                            Self::noted(&server, metadata.place_order(seq, &server, teller).await);
                            return Ok(server);
                        }
                        Ok(None) => metadata.order_anew(seq).await?,
                        Err(refusal) => {
                            Self::noted("", metadata.leave_order(seq).await);
                            return Err(refusal);
                        }
                    }
                    break seq;
                }
                Taken::UnderWay if looks == 0 => {
                    return Err(Refusal::busy("The same order is under way.", SOON));
                }
                Taken::UnderWay => {
                    looks -= 1;
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
        };
        let made = make().await;
        let noted = match &made {
            Ok(server) => metadata.place_order(seq, server, teller).await,
            Err(lost) if lost.is_doubtful => metadata.leave_order(seq).await,
            Err(_) => metadata.drop_order(seq).await,
        };
        Self::noted(made.as_deref().unwrap_or_default(), noted);
        made.map_err(|lost| lost.refusal)
    }

    /// The server that an order came to of which nobody knew; `None` once it will not turn up any more.
    async fn cleared_up(
        &self,
        wanted: &Wanted,
        candidates: Candidates,
        age: Duration,
    ) -> Result<Option<String>, Refusal> {
        let is_listed = candidates.is_some();
        for server in candidates.into_iter().flatten() {
            // One that is known is of another order.
            if !self.metadata.is_logged(&wanted.account, &server).await? {
                return Ok(Some(server));
            }
        }
        let [listed, unlisted] = self.doubted_for;
        let (whole, until) = if is_listed {
            (
                listed,
                "Until then each repeat looks for it (providers.ordering_for).",
            )
        } else {
            (
                unlisted,
                "The adapter cannot look for it (providers.unknown_for).",
            )
        };
        let left = whole.saturating_sub(age);
        if left.is_zero() {
            return Ok(None);
        }
        let text = format!(
            "Whether the order of '{}' was carried out is not known, for the cloud's answer was lost. It is not made again for \
             {} s. {until}",
            wanted.name,
            left.as_secs().max(1)
        );
        let again = if is_listed { left.min(SOON) } else { left };
        Err(Refusal::busy(text, again))
    }

    fn noted(server: &str, noted: Result<(), Error>) {
        if let Err(error) = noted {
            let error = chain(&error);
            tracing::error!(error, server, "what became of an order is not noted");
        }
    }
}
