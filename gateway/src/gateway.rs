//! What every request may reach: rows, stores, keys, settings, signals.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use boxgate_scripting::Scripts;
use boxgate_storage::blob::{BlobKey, UploadId};
use boxgate_storage::check::Stock;
use boxgate_storage::clock::Clock;
use boxgate_storage::digest::Blake3;
use boxgate_storage::layer::cache::BlockCache;
use boxgate_storage::layer::files::FileReads;
use boxgate_storage::metadata::Metadata;
use boxgate_storage::metadata::accounts::OrganizationId;
use boxgate_storage::metadata::catalog::{Counted, Page};
use boxgate_storage::metadata::recent::Recent;
use boxgate_storage::store::{Space, Store};
use boxgate_storage::upload::UploadEngine;
use boxgate_storage::{Error, ErrorKind};
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::admission::Admission;
use crate::auth::link_keys::LinkKeys;
use crate::boxitory::Boxitory;
use crate::config::settings::Settings;
use crate::door::page::Watch;
use crate::door::page::organization::Lines;
use crate::door::vagrant::Document;
use crate::door::vagrant::metadata::ComparedBy;
use crate::events::stragglers::{self, PassedOver};
use crate::hooks::Outside;
use crate::joiner::Joiner;
use crate::provider;
use crate::request::RequestFacts;
use crate::resumable::Limits;
use crate::route::Router;
use crate::runtime::Runtimes;
use crate::server::Certificate;
use crate::shortcut::Shortcuts;
use crate::telemetry::Telemetry;
use crate::upkeep::Upkeep;
use crate::webhook::inbox::Inbox;
use crate::webhook::outlet::Outlet;

/// Memory for metadata of boxes that is written already.
pub const DOCUMENTS_BYTES: u64 = 8 << 20;
/// Pages of listings that are kept.
pub const LISTINGS_BYTES: u64 = 4 << 20;

/// Metadata of boxes as Vagrant reads it, by box, by where its URLs lead, and by what their bytes are compared by.
pub type Documents = Recent<(OrganizationId, String, String, ComparedBy), Arc<Document>>;
/// Boxes of organizations, by the page that lists them and for whom.
pub type Listings = Recent<Page, Arc<Lines>>;
/// A store that needs longer to say whether it is there is not.
const DEPENDENCY_WAIT: Duration = Duration::from_secs(2);

/// Shared by all requests of a process.
#[derive(Debug)]
pub struct Gateway {
    /// Checked configuration.
    pub settings: Settings,
    /// Rows.
    pub metadata: Metadata,
    /// Uploads.
    pub engine: UploadEngine,
    /// Uploads that are joined of others.
    pub joiner: Joiner,
    /// Held while an upload in chunks is begun, which has no id that its chunks could name.
    pub chunk_sessions: tokio::sync::Mutex<()>,
    /// Stores by name.
    pub stores: BTreeMap<String, Store>,
    /// The route table, compiled.
    pub router: Router,
    /// The same for each listener, where that has not all doors.
    pub routers: Vec<Option<Router>>,
    /// The keys of download links.
    pub link_keys: Arc<LinkKeys>,
    /// Plugins.
    pub scripts: Arc<Scripts>,
    /// What plugins send requests by.
    pub outside: Arc<Outside>,
    /// Verified blocks in memory.
    pub cache: BlockCache,
    /// What was proved of files that the kernel sends; `None` where each byte is proved each time.
    pub files: Option<FileReads>,
    /// Metadata of boxes as Vagrant reads it, by box and by where its URLs lead.
    pub documents: Documents,
    /// Boxes of organizations, by the page that lists them and for whom.
    pub listings: Listings,
    /// Where targets that anybody may ask for led lately.
    pub shortcuts: Shortcuts,
    /// Permits.
    pub admission: Admission,
    /// Metrics.
    pub telemetry: Arc<Telemetry>,
    /// Current time.
    pub clock: Arc<dyn Clock>,
    /// Work that goes on behind answers: counting, quarantine. Stopping waits for it.
    pub background: TaskTracker,
    /// Where that is done which may outlive what began it.
    pub home: Handle,
    /// Webhooks that come in.
    pub inbox: Inbox,
    /// Webhooks that go out.
    pub outlet: Outlet,
    /// Events that plugins were passed over for.
    pub passed_over: PassedOver,
    /// What adapters to clouds remember.
    pub providers: provider::Desk,
    /// What stands in for Sanbox runtimes.
    pub runtimes: Runtimes,
    /// The tree of boxes that is served where it is, if any.
    pub boxitory: Option<Arc<Boxitory>>,
    /// Who looks after what is stored at this moment.
    pub upkeep: Upkeep,
    /// Where in its life the process is.
    pub lifecycle: Lifecycle,
    /// The certificate in use, where a listener needs one.
    pub certificate: Option<Arc<Certificate>>,
    /// What was counted while somebody looked at the page of operators.
    pub watch: Watch,
}

/// Where in its life a process is.
#[derive(Debug)]
pub struct Lifecycle {
    phase: AtomicU8,
    started: Instant,
}

/// One phase of a process's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Recovering what a former process left.
    Starting,
    /// Taking requests.
    Serving,
    /// Finishing what was begun.
    Draining,
}

impl Phase {
    /// A word for status answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Draining => "draining",
        }
    }
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self {
            phase: AtomicU8::new(0),
            started: Instant::now(),
        }
    }
}

/// Whether something the gateway stands on answers.
#[derive(Debug, Clone, Copy)]
pub struct Dependency {
    /// Whether it does.
    pub ok: bool,
    /// Whether it has less room than uploads need (`limits.min_free`).
    pub full: bool,
    /// Room on its volume, where it is a store.
    pub space: Option<Space>,
}

impl Dependency {
    /// `ok`, `full` (reads go on, uploads are refused) or `error`.
    pub fn word(self) -> &'static str {
        match (self.ok, self.full) {
            (false, _) => "error",
            (true, true) => "full",
            (true, false) => "ok",
        }
    }
}

impl Gateway {
    /// The phase.
    pub fn phase(&self) -> Phase {
        match self.lifecycle.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Serving,
            _ => Phase::Draining,
        }
    }

    /// Enters a phase.
    pub fn enter(&self, phase: Phase) {
        self.lifecycle.phase.store(phase as u8, Ordering::Release);
    }

    /// Time since the process started.
    pub fn uptime(&self) -> Duration {
        self.lifecycle.started.elapsed()
    }

    /// The routes at the listener that a request came to.
    pub fn router_at(&self, facts: &RequestFacts) -> &Router {
        let apart = self.routers.get(facts.listener()).and_then(Option::as_ref);
        apart.unwrap_or(&self.router)
    }

    /// The store of that name.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] for a name that a row holds and the configuration does not.
    pub fn store(&self, name: &str) -> Result<&Store, Error> {
        self.stores.get(name).ok_or_else(|| {
            Error::new(
                ErrorKind::Unavailable,
                "store.find",
                format!("store {name}"),
            )
        })
    }

    /// All that is stored.
    pub fn stock(&self) -> Stock {
        Stock::new(self.metadata.clone(), self.engine.clone())
    }

    /// Start of the URLs that answers hold: the entry of `public_url` for the request's authority,
    /// else the first; unset, the request's own authority, which framing has checked.
    pub fn base_url(&self, facts: &RequestFacts) -> String {
        let authority = facts.authority();
        let configured = &self.settings.public_url;
        let own = configured.iter().find(|url| {
            url.split_once("://").is_some_and(|(_, rest)| {
                rest.split('/')
                    .next()
                    .is_some_and(|a| a.eq_ignore_ascii_case(authority))
            })
        });
        own.or(configured.first())
            .cloned()
            .unwrap_or_else(|| format!("{}://{authority}", facts.scheme()))
    }

    /// The authorities that this server is known by: the request's own, and those of its URLs.
    pub fn authorities(&self, facts: &RequestFacts) -> Vec<String> {
        let settings = &self.settings;
        let configured = settings
            .public_url
            .iter()
            .chain(&settings.uploads.public_url);
        let of = |url: &String| url.split_once("://").map(|(_, rest)| rest.to_owned());
        let own = configured.filter_map(of);
        own.chain([facts.authority().to_owned()]).collect()
    }

    /// What resumable uploads may be.
    pub fn upload_limits(&self) -> Limits {
        Limits {
            max_size: self.settings.uploads.max_length_bytes,
            max_append_size: self.settings.uploads.max_append_bytes,
        }
    }

    /// Where an upload goes on. With no address configured it is a path alone: a client behind a proxy
    /// that ends TLS knows better than we how it came here.
    pub fn upload_url(&self, facts: &RequestFacts, id: UploadId) -> String {
        let base = match &self.settings.uploads.public_url {
            Some(url) => url.clone(),
            None if self.settings.public_url.is_empty() => String::new(),
            None => self.base_url(facts),
        };
        format!("{base}{}/files/{id}", self.settings.doors.files.prefix)
    }

    /// Where the bytes of that digest are, whatever names lead to them; `None` while that door is shut.
    pub fn blob_path(&self, digest: &Blake3) -> Option<String> {
        let door = &self.settings.doors.blobs;
        door.enabled
            .then(|| format!("{}/blobs/b3/{}", door.prefix, digest.to_hex()))
    }

    /// Whether operators call from that address: loopback and `operations.allow`.
    pub fn is_operator_network(&self, address: std::net::IpAddr) -> bool {
        address.is_loopback() || self.settings.operations.allow.contains(address)
    }

    /// Counts one download, behind the answer.
    pub fn count_download(&self, what: Counted) {
        let metadata = self.metadata.clone();
        let counting = async move {
            if let Err(error) = metadata.count_download(what).await {
                tracing::warn!(error = %boxgate_storage::error::chain(&error), "download not counted");
            }
        };
        self.background.spawn_on(counting, &self.home);
    }

    /// Where damage of a blob is reported to while it is served.
    pub fn damage_report(&self, key: BlobKey) -> DamageReport {
        DamageReport {
            key,
            metadata: self.metadata.clone(),
            telemetry: Arc::clone(&self.telemetry),
            background: self.background.clone(),
            home: self.home.clone(),
        }
    }

    /// What the gateway stands on, and whether it answers.
    pub async fn dependencies(&self) -> BTreeMap<String, Dependency> {
        let mut found = BTreeMap::new();
        let ok = self.metadata.ping().await.is_ok();
        found.insert(
            "database".to_owned(),
            Dependency {
                ok,
                full: false,
                space: None,
            },
        );
        for (name, store) in &self.stores {
            let answer = tokio::time::timeout(DEPENDENCY_WAIT, look_at(store)).await;
            let ok = matches!(answer, Ok(Ok(_)));
            let space = answer.ok().and_then(Result::ok).flatten();
            let min_free = self.settings.limits.min_free_bytes;
            let full = space.is_some_and(|space| space.free_bytes < min_free);
            let dependency = Dependency { ok, full, space };
            found.insert(format!("store.{name}"), dependency);
        }
        found
    }

    /// The metrics as text, with what is only known when asked.
    pub async fn metrics_text(&self) -> String {
        let metrics = &self.telemetry.metrics;
        let dependencies = self.dependencies().await;
        let rows = dependencies.get("database").is_some_and(|d| d.ok);
        for (name, dependency) in dependencies {
            metrics
                .dependency_state
                .with_label_values(&[&name])
                .set(i64::from(dependency.ok));
            if let (Some(store), Some(space)) = (name.strip_prefix("store."), dependency.space) {
                let free = i64::try_from(space.free_bytes).unwrap_or(i64::MAX);
                metrics
                    .store_free_bytes
                    .with_label_values(&[store])
                    .set(free);
            }
        }
        let uploads = i64::try_from(self.engine.in_progress()).unwrap_or(i64::MAX);
        metrics.uploads_in_progress.set(uploads);
        for (store, bytes) in self.engine.copied_bytes() {
            let copied = metrics.ingest_copied_bytes.with_label_values(&[store]);
            copied.inc_by(bytes.saturating_sub(copied.get()));
        }
        let cache = self.cache.stats();
        for (what, count) in [
            ("hit", cache.hits),
            ("miss", cache.misses),
            ("fill", cache.fills),
            ("eviction", cache.evictions),
        ] {
            let counter = metrics.cache_blocks.with_label_values(&[what]);
            counter.inc_by(count.saturating_sub(counter.get()));
        }
        for (policy, keys) in self.admission.rate_keys() {
            let keys = i64::try_from(keys).unwrap_or(i64::MAX);
            metrics
                .admission
                .rate_keys
                .with_label_values(&[&*policy])
                .set(keys);
        }
        let held = i64::try_from(cache.held_bytes).unwrap_or(i64::MAX);
        metrics.cache_held_bytes.set(held);
        let files = self
            .files
            .as_ref()
            .map(FileReads::stats)
            .unwrap_or_default();
        for (counter, total) in [
            (&metrics.file_blocks_proved, files.proved),
            (&metrics.file_sent_bytes, files.sent_bytes),
        ] {
            counter.inc_by(total.saturating_sub(counter.get()));
        }
        let stats = self.engine.stats();
        for (counter, total) in [
            (&metrics.upkeep.gc_removed, stats.blobs_removed),
            (&metrics.upkeep.gc_removed_bytes, stats.bytes_removed),
        ] {
            counter.inc_by(total.saturating_sub(counter.get()));
        }
        let mut text = self.telemetry.render();
        text.push_str(&crate::hooks::metrics(
            &self.scripts,
            &self.outside,
            &self.inbox,
        ));
        // What the rows know is left out while they do not answer: each would be waited for.
        if rows {
            text.push_str(&crate::webhook::signals::metrics(self).await);
            text.push_str(&stragglers::metrics(self).await);
        }
        text
    }
}

/// Tells of a blob that broke while it was served: counted, logged, quarantined.
#[derive(Debug, Clone)]
pub struct DamageReport {
    key: BlobKey,
    metadata: Metadata,
    telemetry: Arc<Telemetry>,
    background: TaskTracker,
    home: Handle,
}

impl DamageReport {
    /// Reports why a download broke; damage takes the blob out of service.
    pub fn report(&self, error: &Error) {
        // A file that is not there may come back with its volume; only bytes that differ condemn a blob.
        let damaged = error.kind() == ErrorKind::Damaged;
        let reason = if damaged { "damaged" } else { "store" };
        self.telemetry
            .metrics
            .downloads_broken
            .with_label_values(&[reason])
            .inc();
        tracing::error!(
            blob = %self.key, error = %boxgate_storage::error::chain(error), "download broken"
        );
        if damaged {
            let (metadata, key) = (self.metadata.clone(), self.key);
            let withdrawing = async move {
                if let Err(error) = metadata.quarantine_blob(&key).await {
                    tracing::error!(
                        blob = %key, error = %boxgate_storage::error::chain(&error), "blob not quarantined"
                    );
                }
            };
            self.background.spawn_on(withdrawing, &self.home);
        }
    }
}

/// How much room a store has, where it tells; of any other, that it answers.
async fn look_at(store: &Store) -> boxgate_storage::Result<Option<Space>> {
    match (&store.space, &store.list) {
        (Some(space), _) => space.free_space().await.map(Some),
        (None, Some(list)) => list.page(None, 1).await.map(|_page| None),
        (None, None) => Ok(None),
    }
}
