//! What stands between Nanobox's adapter API and the plugins that serve it: whose credentials, what was ordered just
//! now, which catalogue is fresh enough. The wire is in `door::providers`, the shapes in `shape`.

pub mod description;
pub mod flight;
pub mod orders;
pub mod shape;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use boxgate_scripting::provider::Provider;
use boxgate_storage::clock::UnixMillis;
use boxgate_storage::metadata::Metadata;
use bytes::Bytes;
use http::HeaderMap;
use moka::sync::Cache;
use tokio::sync::Mutex;
use tokio_util::task::TaskTracker;

use self::flight::Flights;
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

/// What a request showed of the credentials that an adapter wants.
#[derive(Debug, Default)]
pub struct Shown {
    /// Those that came, by the adapter's keys.
    pub known: BTreeMap<String, String>,
    /// The header fields that are missing.
    pub missing: Vec<String>,
    /// Those that came and are no text in ASCII, which no cloud would be sent.
    pub unreadable: Vec<String>,
}

/// The credentials that came.
///
/// Capitals do not count, and `_` and `-` are the same. An empty field is none.
pub fn credentials(provider: &Provider, headers: &HeaderMap) -> Shown {
    let plain = |name: &str| name.to_ascii_lowercase().replace('_', "-");
    let mut given = BTreeMap::new();
    for (name, value) in headers {
        let name = name.as_str();
        // Most fields of a request are none of these.
        if name.len() <= PREFIX.len() || !name.is_char_boundary(PREFIX.len()) {
            continue;
        }
        let name = plain(name);
        if let Some(key) = name.strip_prefix(PREFIX)
            && !value.as_bytes().trim_ascii().is_empty()
        {
            given.insert(key.to_owned(), value);
        }
    }
    let mut shown = Shown::default();
    for key in &provider.meta.credentials {
        match given.remove(&plain(key)).map(|value| value.to_str()) {
            Some(Ok(value)) => drop(shown.known.insert(key.clone(), value.trim().to_owned())),
            Some(Err(_)) => shown.unreadable.push(header_of(key)),
            None => shown.missing.push(header_of(key)),
        }
    }
    shown
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

/// A catalogue as it is sent, since when it is there, and the version of the plugin that made it.
#[derive(Debug, Clone)]
struct Kept {
    since: UnixMillis,
    version: String,
    text: Bytes,
}

/// Where a catalogue is kept. Whoever asks a cloud for a new one has the turn.
#[derive(Debug, Default)]
struct Shelf {
    kept: RwLock<Option<Kept>>,
    turn: Mutex<()>,
}

impl Shelf {
    fn kept(&self) -> Option<Kept> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        kept.clone()
    }

    fn keep(&self, kept: Kept) {
        let mut place = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        *place = Some(kept);
    }
}

/// Shared by all adapters of a process.
pub struct Desk {
    catalogs: Cache<Account, Arc<Shelf>>,
    catalog_ttl: Duration,
    refused: Cache<Account, Arc<str>>,
    key: [u8; 32],
    /// Orders of servers.
    pub orders: Arc<Orders>,
    /// Keys that are just being kept, by what makes them the same.
    pub keys: Flights<(Account, String), Arc<str>>,
    /// Servers that are just being given up.
    pub ends: Flights<(Account, String), ()>,
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
    pub fn new(
        settings: &settings::Providers,
        key: [u8; 32],
        rows: Metadata,
        tasks: &TaskTracker,
    ) -> Self {
        Self {
            catalogs: Cache::new(settings.catalogs),
            catalog_ttl: settings.catalog_ttl,
            refused: Cache::builder()
                .max_capacity(REFUSED)
                .time_to_live(settings.refused_for)
                .build(),
            key,
            orders: Arc::new(Orders::new(rows, settings, tasks.clone())),
            keys: Flights::new(tasks.clone()),
            ends: Flights::new(tasks.clone()),
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

    /// The catalogue of an account as JSON, no older than `providers.catalog_ttl` and of this version of the plugin; an old one
    /// where there is no new one. However many ask, the adapter is asked once.
    ///
    /// # Errors
    /// What `fresh` answers, where there is none at all.
    pub async fn catalog(
        &self,
        (account, version): (&Account, &str),
        now: UnixMillis,
        fresh: impl Future<Output = Result<Bytes, Refusal>>,
    ) -> Result<Bytes, Refusal> {
        let shelf = self.catalogs.get_with_by_ref(account, Arc::default);
        let good = |kept: &Kept| kept.since.plus(self.catalog_ttl) > now && kept.version == version;
        if let Some(kept) = shelf.kept().filter(good) {
            return Ok(kept.text);
        }
        let _turn = shelf.turn.lock().await;
        let held = shelf.kept();
        if let Some(kept) = held.clone().filter(good) {
            return Ok(kept.text);
        }
        match fresh.await {
            Ok(text) => {
                shelf.keep(Kept {
                    since: now,
                    version: version.to_owned(),
                    text: text.clone(),
                });
                Ok(text)
            }
            // A bad credential gets no catalogue of better days.
            Err(refusal) if refusal.status.is_server_error() => match held {
                Some(old) => {
                    tracing::warn!(why = refusal.message, "an old catalogue is served");
                    Ok(old.text)
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
