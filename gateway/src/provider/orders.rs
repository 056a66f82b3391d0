//! Orders of servers: one for one name, whoever asks how often and at which node, and what is told of what became of them.
//!
//! Those who ask for the same at one node wait for one task; between nodes the row decides (`metadata::orders`).

use std::sync::Arc;
use std::time::Duration;

use boxgate_storage::clock::UnixMillis;
use boxgate_storage::error::{Error, chain};
use boxgate_storage::metadata::Metadata;
use boxgate_storage::metadata::orders::{Taken, Teller, Wanted};
use futures_util::future::{BoxFuture, Shared};
use futures_util::{FutureExt as _, TryFutureExt as _};
use moka::sync::Cache;
use serde_json::Value;
use tokio_util::task::TaskTracker;

use super::{Account, shape};
use crate::config::settings;
use crate::refusal::Refusal;

/// How long a node has an order: longer than looking for it and making it may take.
const LEASE: Duration = Duration::from_mins(3);
/// How long a caller waits for another node, and how often it looks.
const PATIENCE: Duration = Duration::from_secs(35);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// After which time it is worth asking again.
const SOON: Duration = Duration::from_secs(10);
/// Orders that are under way, and servers whose being ready is told already.
const REMEMBERED: u64 = 10_000;

/// The outcome of an order, for as many as ask for the same.
type Ordering = Shared<BoxFuture<'static, Result<Arc<str>, Arc<Refusal>>>>;

/// The orders of all adapters at this node.
pub struct Orders {
    metadata: Metadata,
    under_way: Cache<(Account, String), Ordering>,
    settled: Cache<(Account, String), ()>,
    kept: Duration,
    ordering_for: Duration,
    tasks: TaskTracker,
}

impl std::fmt::Debug for Orders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Orders")
            .field("under_way", &self.under_way.entry_count())
            .finish_non_exhaustive()
    }
}

impl Orders {
    /// Orders in these rows; what is ordered goes on in `tasks`.
    pub fn new(metadata: Metadata, settings: &settings::Providers, tasks: TaskTracker) -> Self {
        Self {
            metadata,
            under_way: Cache::new(REMEMBERED),
            settled: Cache::new(REMEMBERED),
            kept: settings.orders_kept,
            ordering_for: settings.ordering_for,
            tasks,
        }
    }

    /// The id of the server that an account ordered under a name: one order, however often it is asked for within
    /// `providers.orders_kept`, and whoever goes away meanwhile. `make` is told whether somebody may have made it before.
    ///
    /// # Errors
    /// What `make` answers; then the next one is made anew. When another node is at it for too long, or the rows do not
    /// answer.
    pub async fn order<F>(
        &self,
        account: &Account,
        wanted: Wanted,
        teller: Teller,
        make: impl FnOnce(bool) -> F + Send + 'static,
    ) -> Result<Arc<str>, Refusal>
    where
        F: Future<Output = Result<String, Refusal>> + Send + 'static,
    {
        let key = (account.clone(), wanted.name.clone());
        let ordering = self.under_way.get_with(key.clone(), || {
            let rows = (self.metadata.clone(), self.kept);
            let task = self.tasks.spawn(once(rows, wanted, teller, make));
            let done = task.map_err(|_panicked| shape::senseless());
            let done = done.and_then(std::future::ready);
            let done = done.map_ok(Arc::from).map_err(Arc::new);
            done.boxed().shared()
        });
        let ended = ordering.await;
        // From now on the row tells.
        self.under_way.invalidate(&key);
        ended.map_err(|refusal| refusal.again())
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
        let ordered = self.metadata.ordered(&account.name(), id).await?;
        Ok(ordered.is_some_and(|(since, _)| since.plus(self.ordering_for) > now))
    }

    /// A server was seen to be ready: that is told once, if it was ordered here.
    pub async fn is_ready(&self, account: &Account, id: &str, teller: Teller) {
        let key = (account.clone(), id.to_owned());
        if self.settled.contains_key(&key) {
            return;
        }
        let account = account.name();
        let told = async {
            if let Some((_, false)) = self.metadata.ordered(&account, id).await? {
                self.metadata.server_is_ready(&account, id, teller).await?;
            }
            Ok(())
        };
        match told.await {
            Ok(()) => self.settled.insert(key, ()),
            Err(error) => untold("ready", &error),
        }
    }

    /// A server was given up: that is told, it is ordered no more, and its name may be ordered again.
    pub async fn gave_up(&self, account: &Account, id: &str, name: Value, teller: Teller) {
        let name_of_account = account.name();
        let of = (name_of_account.as_str(), id);
        // What was done is done, whether that is told or not.
        if let Err(error) = self.metadata.server_is_cancelled(of, name, teller).await {
            untold("cancelled", &error);
        }
        self.settled.invalidate(&(account.clone(), id.to_owned()));
    }
}

fn untold(what: &str, error: &Error) {
    let error = chain(error);
    tracing::error!(error, what, "an event of an adapter is not told");
}

/// Takes the order, or what somebody else made of it.
async fn once<F>(
    (metadata, kept): (Metadata, Duration),
    wanted: Wanted,
    teller: Teller,
    make: impl FnOnce(bool) -> F + Send,
) -> Result<String, Refusal>
where
    F: Future<Output = Result<String, Refusal>> + Send,
{
    let mut looks = PATIENCE.as_millis() / LOOK_EVERY.as_millis();
    let (seq, left) = loop {
        match metadata.take_order(wanted.clone(), (LEASE, kept)).await? {
            Taken::Made(server) => return Ok(server),
            Taken::Ours(seq) => break (seq, false),
            Taken::Left(seq) => break (seq, true),
            Taken::UnderWay if looks == 0 => {
                return Err(Refusal::busy("The same order is under way.", SOON));
            }
            Taken::UnderWay => {
                looks -= 1;
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    };
    let made = make(left).await;
    let noted = match &made {
        Ok(server) => metadata.place_order(seq, server, teller).await,
        Err(_) => metadata.drop_order(seq).await,
    };
    if let Err(error) = noted {
        let (error, server) = (chain(&error), made.as_deref().unwrap_or_default());
        tracing::error!(error, server, "what became of an order is not noted");
    }
    made
}
