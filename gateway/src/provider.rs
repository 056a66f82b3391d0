//! What stands between Nanobox's adapter API and the plugins that serve it: whose credentials, what was ordered just
//! now, which catalogue is fresh enough. The wire is in `door::providers`, the shapes in `shape`.

pub mod description;
pub mod shape;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use boxgate_scripting::provider::Provider;
use boxgate_storage::clock::UnixMillis;
use futures_util::future::{BoxFuture, Shared};
use futures_util::{FutureExt as _, TryFutureExt as _};
use http::HeaderMap;
use moka::sync::Cache;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio_util::task::TaskTracker;

use crate::config::settings;
use crate::refusal::Refusal;

/// What stands before the key of a credential in a header's name.
const PREFIX: &str = "auth-";

/// Whose calls they are: an adapter, and credentials of it that are known by their hash alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Account {
    adapter: String,
    credentials: [u8; 32],
}

impl Account {
    /// Of these credentials.
    pub fn of(provider: &Provider, credentials: &BTreeMap<String, String>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for (key, value) in credentials {
            for text in [key, value] {
                // Lengths keep one text apart from the next.
                hasher.update(&(text.len() as u64).to_le_bytes());
                hasher.update(text.as_bytes());
            }
        }
        Self {
            adapter: provider.meta.id.clone(),
            credentials: *hasher.finalize().as_bytes(),
        }
    }
}

/// The credentials that came, by the adapter's keys, and the header fields that are missing.
///
/// Capitals do not count, and `_` and `-` are the same. An empty field is none.
pub fn credentials(
    provider: &Provider,
    headers: &HeaderMap,
) -> (BTreeMap<String, String>, Vec<String>) {
    let plain = |name: &str| name.to_ascii_lowercase().replace('_', "-");
    let mut given = BTreeMap::new();
    for (name, value) in headers {
        let name = plain(name.as_str());
        if let Some(key) = name.strip_prefix(PREFIX)
            && let Ok(value) = value.to_str()
            && !value.trim().is_empty()
        {
            given.insert(key.to_owned(), value.trim().to_owned());
        }
    }
    let (mut known, mut missing) = (BTreeMap::new(), Vec::new());
    for key in &provider.meta.credentials {
        match given.remove(&plain(key)) {
            Some(value) => drop(known.insert(key.clone(), value)),
            None => missing.push(header_of(key)),
        }
    }
    (known, missing)
}

/// The header field of a credential, as callers write it: `Auth-Access-Token`.
pub fn header_of(key: &str) -> String {
    let mut name = String::from("Auth");
    for word in key.split(['-', '_']) {
        name.push('-');
        let mut letters = word.chars();
        name.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        name.extend(letters);
    }
    name
}

/// The outcome of an order, for as many as ask for the same.
type Ordering = Shared<BoxFuture<'static, Result<Arc<str>, Arc<Refusal>>>>;

/// A catalogue, and since when it is there.
#[derive(Debug, Default)]
struct Shelf(Mutex<Option<(UnixMillis, Arc<Value>)>>);

/// Shared by all adapters of a process.
pub struct Desk {
    catalogs: Cache<(Account, String), Arc<Shelf>>,
    catalog_ttl: Duration,
    orders: Cache<(Account, String), Ordering>,
    ordered: Cache<(Account, String), UnixMillis>,
    ordering_for: Duration,
    tasks: TaskTracker,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk")
            .field("orders", &self.orders.entry_count())
            .finish_non_exhaustive()
    }
}

impl Desk {
    /// Remembers as much as the settings say; what is ordered goes on in `tasks`.
    pub fn new(settings: &settings::Providers, tasks: TaskTracker) -> Self {
        Self {
            catalogs: Cache::new(settings.catalogs),
            catalog_ttl: settings.catalog_ttl,
            orders: remembered(settings.orders, settings.orders_kept),
            ordered: remembered(settings.orders, settings.ordering_for),
            ordering_for: settings.ordering_for,
            tasks,
        }
    }

    /// The catalogue of an account, no older than `providers.catalog_ttl`; an old one where there is no new one.
    /// However many ask, the adapter is asked once.
    ///
    /// # Errors
    /// What `fresh` answers, where there is none at all.
    pub async fn catalog(
        &self,
        (account, version): (Account, &str),
        now: UnixMillis,
        fresh: impl Future<Output = Result<Value, Refusal>>,
    ) -> Result<Arc<Value>, Refusal> {
        let key = (account, version.to_owned());
        let shelf = self.catalogs.get_with(key, Arc::default);
        let mut held = shelf.0.lock().await;
        if let Some((since, catalog)) = &*held
            && since.plus(self.catalog_ttl) > now
        {
            return Ok(Arc::clone(catalog));
        }
        match fresh.await {
            Ok(catalog) => {
                let catalog = Arc::new(catalog);
                *held = Some((now, Arc::clone(&catalog)));
                Ok(catalog)
            }
            // A bad credential gets no catalogue of better days.
            Err(refusal) if refusal.status.is_server_error() => match &*held {
                Some((_, old)) => {
                    tracing::warn!(why = refusal.message, "an old catalogue is served");
                    Ok(Arc::clone(old))
                }
                None => Err(refusal),
            },
            Err(refusal) => Err(refusal),
        }
    }

    /// The id of the server that an account ordered under a name: one order, however often it is asked for within
    /// `providers.orders_kept`, and whoever goes away meanwhile.
    ///
    /// # Errors
    /// What `order` answers; then the next one is made anew.
    pub async fn order(
        &self,
        (account, name): (&Account, &str),
        now: UnixMillis,
        order: impl Future<Output = Result<String, Refusal>> + Send + 'static,
    ) -> Result<Arc<str>, Refusal> {
        let key = (account.clone(), name.to_owned());
        let ordering = self.orders.get_with(key.clone(), || {
            let task = self.tasks.spawn(order);
            let done = task.map_err(|_panicked| shape::senseless());
            let done = done.and_then(std::future::ready);
            let done = done.map_ok(Arc::from).map_err(Arc::new);
            done.boxed().shared()
        });
        match ordering.await {
            Ok(id) => {
                self.ordered.insert((account.clone(), id.to_string()), now);
                Ok(id)
            }
            Err(refusal) => {
                self.orders.invalidate(&key);
                Err(refusal.again())
            }
        }
    }

    /// Whether a server was ordered so short a time ago that its cloud may not list it yet.
    pub fn is_ordering(&self, account: &Account, id: &str, now: UnixMillis) -> bool {
        let ordered = self.ordered.get(&(account.clone(), id.to_owned()));
        ordered.is_some_and(|since| since.plus(self.ordering_for) > now)
    }

    /// A server that was given up is ordered no more, and its name may be ordered again.
    pub fn gave_up(&self, account: &Account, id: &str) {
        self.ordered.invalidate(&(account.clone(), id.to_owned()));
        let of_it = self.orders.iter().find(|(key, ordering)| {
            key.0 == *account && matches!(ordering.peek(), Some(Ok(ordered)) if **ordered == *id)
        });
        if let Some((key, _)) = of_it {
            self.orders.invalidate(&*key);
        }
    }
}

/// As many as that at most, each for so long.
fn remembered<V: Clone + Send + Sync + 'static>(
    most: u64,
    time: Duration,
) -> Cache<(Account, String), V> {
    Cache::builder()
        .max_capacity(most)
        .time_to_live(time)
        .build()
}
