//! What stands between Nanobox's adapter API and the plugins that serve it: whose credentials, what was ordered just
//! now, which catalogue is fresh enough. The wire is in `door::providers`, the shapes in `shape`.

pub mod description;
pub mod orders;
pub mod shape;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use boxgate_scripting::provider::Provider;
use boxgate_storage::clock::UnixMillis;
use http::HeaderMap;
use moka::sync::Cache;
use serde_json::Value;
use tokio::sync::Mutex;

use self::orders::Orders;
use crate::config::settings;
use crate::gateway::Gateway;
use crate::refusal::Refusal;

/// What the key is for under which accounts are hashed.
pub const PURPOSE: &str = "provider_accounts";
/// Refused credentials that are remembered.
const REFUSED: u64 = 10_000;
/// What stands before the key of a credential in a header's name.
const PREFIX: &str = "auth-";

/// Whose calls they are: an adapter, and credentials of it that are known by their hash alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Account {
    adapter: String,
    credentials: [u8; 32],
}

impl Account {
    /// What its rows are found by.
    pub fn name(&self) -> String {
        format!("{}:{}", self.adapter, hex::encode(self.credentials))
    }

    /// Of these credentials; the key is of this gateway, so that rows give no guess of them away.
    fn of(key: &[u8; 32], provider: &Provider, credentials: &BTreeMap<String, String>) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(key);
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

/// A catalogue, and since when it is there.
#[derive(Debug, Default)]
struct Shelf(Mutex<Option<(UnixMillis, Arc<Value>)>>);

/// Shared by all adapters of a process.
pub struct Desk {
    catalogs: Cache<(Account, String), Arc<Shelf>>,
    catalog_ttl: Duration,
    refused: Cache<Account, Arc<str>>,
    key: [u8; 32],
    /// Orders of servers.
    pub orders: Orders,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk")
            .field("orders", &self.orders)
            .finish_non_exhaustive()
    }
}

impl Desk {
    /// Remembers as much as the settings say; accounts are known by a hash under `key`.
    pub fn new(settings: &settings::Providers, key: [u8; 32], orders: Orders) -> Self {
        Self {
            catalogs: Cache::new(settings.catalogs),
            catalog_ttl: settings.catalog_ttl,
            refused: Cache::builder()
                .max_capacity(REFUSED)
                .time_to_live(settings.refused_for)
                .build(),
            key,
            orders,
        }
    }

    /// Whose credentials they are.
    pub fn account(&self, provider: &Provider, credentials: &BTreeMap<String, String>) -> Account {
        Account::of(&self.key, provider, credentials)
    }

    /// Why a cloud refused these credentials a moment ago, if it did: callers ask every second, and would go on doing so.
    pub fn refused(&self, account: &Account) -> Option<Arc<str>> {
        self.refused.get(account)
    }

    /// Remembers that a cloud refused these credentials, or that it took them.
    pub fn judged(&self, account: &Account, refused: Option<&str>) {
        match refused {
            Some(why) => self.refused.insert(account.clone(), why.into()),
            None => self.refused.invalidate(account),
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
}

/// Orders forgotten in one change of the rows: others write between them.
const PRUNED_AT_ONCE: u32 = 1_000;

/// Forgets orders that were made longer ago than the settings keep them.
///
/// # Errors
/// When the rows do not answer.
pub async fn prune(gateway: &Gateway) -> boxgate_storage::error::Result<()> {
    let kept = gateway.settings.providers.order_log_kept;
    let until = gateway.clock.now().minus(kept);
    let metadata = &gateway.metadata;
    while metadata.prune_orders(until, PRUNED_AT_ONCE).await? == u64::from(PRUNED_AT_ONCE) {}
    Ok(())
}
