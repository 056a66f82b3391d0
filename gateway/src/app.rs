//! The composition root: settings to stores, rows, engine, listeners and drain. The one file that
//! names every part.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use boxgate_scripting::Scripts;
use boxgate_storage::backend::local::{self, LocalOptions};
use boxgate_storage::backend::s3;
use boxgate_storage::backend::s3::S3Options;
use boxgate_storage::buffer::BufferPool;
use boxgate_storage::check::Stock;
use boxgate_storage::clock::{Clock, SharedClock, SystemClock};
use boxgate_storage::durable;
use boxgate_storage::layer::cache::BlockCache;
use boxgate_storage::layer::files::FileReads;
use boxgate_storage::metadata::recent::Recent;
use boxgate_storage::metadata::{Metadata, MetadataOptions, transfer};
use boxgate_storage::store::Store;
use boxgate_storage::upload::{EngineOptions, Gatekeeping, Passage, UploadEngine, UploadLimits};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::admission::{Admission, shares};
use crate::auth::link_keys::{self, LinkKeys};
use crate::auth::master_key::{MasterKey, MasterKeyError};
use crate::ballast::Ballast;
use crate::boxitory::Boxitory;
use crate::config::settings::{Database, Listener, Speaks, StoreSettings};
use crate::config::{Secret, Settings};
use crate::door::page::Watch;
use crate::door::page::organization::Lines;
use crate::door::vagrant::Document;
use crate::events::stragglers::{self, PassedOver};
use crate::events::{self, ScriptOutbox};
use crate::gateway::{
    DOCUMENTS_BYTES, Documents, Gateway, LISTINGS_BYTES, Lifecycle, Listings, Phase,
};
use crate::hooks::{self, Outside, ScriptCatalog, ScriptLinks, UploadGate};
use crate::joiner::Joiner;
use crate::outbound::Outbound;
use crate::provider::{self, Desk};
use crate::route::{Door, DoorSet, Router};
use crate::runtime::{self, Runtimes};
use crate::schedule;
use crate::server::{
    Certificate, CertificateError, Drain, Ports, Remains, Respond, Server, Sockets,
};
use crate::shortcut::Shortcut;
use crate::telemetry::Telemetry;
use crate::telemetry::metrics::Images;
use crate::telemetry::otlp::{self, Exporter};
use crate::upkeep::{ENDED_UPLOADS_KEPT, Upkeep, background};
use crate::webhook;
use crate::webhook::inbox::Inbox;
use crate::webhook::outlet::Outlet;

/// How long a replaced or deleted blob stays readable: the longest download plus the life of a link.
const DOOMED_FOR: Duration = Duration::from_hours(24);
/// How long work behind answers is waited for when another process comes in the place of this one.
const LAST_WORK: Duration = Duration::from_secs(5);
/// How often leftovers are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be made or is in use.
    #[error("cannot use the data directory {path}: {reason} (data_dir)")]
    DataDir {
        /// Which.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// Another process holds the data directory.
    #[error(
        "cannot use the data directory {path}: another boxgate runs on it; stop that one or choose \
         another directory (data_dir)"
    )]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// A part of the storage does not work.
    #[error(transparent)]
    Storage(#[from] boxgate_storage::Error),
    /// The database of `metadata.url`.
    #[error(
        "cannot use the database of metadata.url: check that PostgreSQL runs, and the host, port, name, user and \
         password there"
    )]
    Database(#[source] boxgate_storage::Error),
    /// The rows of an embedded database, on their way to PostgreSQL.
    #[error("the rows were not taken over")]
    Transfer(#[source] boxgate_storage::Error),
    /// The store is not the one that the rows tell of.
    #[error(
        "{path} is not the directory that boxes were stored in: {reason}. Mount or restore it, or set \
         stores.{name}.path"
    )]
    Store {
        /// Name of the store.
        name: String,
        /// Where the store was expected.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// The bucket is not the one that the rows tell of.
    #[error(
        "{bucket} is not where boxes were stored in: that is {known}. Set stores.{name} as it was, name \
         the new store otherwise, or use another data_dir"
    )]
    Bucket {
        /// Name of the store.
        name: String,
        /// What the settings name.
        bucket: String,
        /// What the rows name.
        known: String,
    },
    /// The bucket is not there, or not as the settings say.
    #[error("cannot use the bucket: stores.{name}.{}", .source.subject())]
    OpenBucket {
        /// Name of the store.
        name: String,
        /// What is wrong.
        source: boxgate_storage::Error,
    },
    /// Another process stores there.
    #[error(
        "another gateway keeps boxes in {path}; one directory serves one of them (stores.{name}.path)"
    )]
    StoreInUse {
        /// Name of the store.
        name: String,
        /// Which directory.
        path: PathBuf,
    },
    /// The master key.
    #[error(transparent)]
    MasterKey(#[from] MasterKeyError),
    /// Two routes are in each other's way.
    #[error("the doors' prefixes are in each other's way: {0}")]
    Routes(String),
    /// The certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The plugins.
    #[error(transparent)]
    Scripts(#[from] boxgate_scripting::set::OpenError),
    /// The image of a runtime.
    #[error("a runtime's image cannot be kept there ({key})")]
    Runtime {
        /// The setting.
        key: String,
        /// What is wrong.
        source: std::io::Error,
    },
    /// A listener cannot be bound.
    #[error("a listener does not work (listeners.address or --listen)")]
    Listen(#[source] std::io::Error),
}

/// The data directory, held by this process alone until it ends.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    // Each holds its lock as long as it is open.
    locks: Vec<std::fs::File>,
}

impl DataDir {
    /// Makes the directory if missing and locks it.
    ///
    /// # Errors
    /// [`StartError::DataDir`]; [`StartError::InUse`] when another process holds it.
    pub fn open(path: &std::path::Path) -> Result<Self, StartError> {
        let lock = Self::make(path)?;
        // The kernel frees the lock with its holder, however it ends.
        lock.try_lock().map_err(|_held| StartError::InUse {
            path: path.to_owned(),
        })?;
        Ok(Self {
            path: path.to_owned(),
            locks: vec![lock],
        })
    }

    /// Makes the directory if missing, and the file that is to be locked.
    fn make(path: &std::path::Path) -> Result<std::fs::File, StartError> {
        let failed = |reason: String| StartError::DataDir {
            path: path.to_owned(),
            reason,
        };
        durable::make_directory(path, 0o750).map_err(|e| failed(e.to_string()))?;
        std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"))
            .map_err(|e| failed(e.to_string()))
    }

    /// Makes the directory of a store if missing, and opens it.
    fn make_store(name: &str, path: &std::path::Path) -> Result<std::fs::File, StartError> {
        let failed = |reason: String| StartError::Store {
            name: name.to_owned(),
            path: path.to_owned(),
            reason,
        };
        durable::make_directory(path, 0o700).map_err(|e| failed(e.to_string()))?;
        std::fs::File::open(path).map_err(|e| failed(e.to_string()))
    }

    /// Locks the directory of a store, too: a writer that another process fenced off may still have a
    /// write under way, which only its own process waits for.
    fn lock_store(&mut self, name: &str, path: &std::path::Path) -> Result<(), StartError> {
        let lock = Self::make_store(name, path)?;
        lock.try_lock().map_err(|_held| StartError::StoreInUse {
            name: name.to_owned(),
            path: path.to_owned(),
        })?;
        self.locks.push(lock);
        Ok(())
    }

    /// A name of this directory on this machine since it was booted: since its lock is ours, whoever had the name before is
    /// gone. Where the machine does not tell, nobody had it.
    fn node(&self) -> String {
        use std::os::unix::fs::MetadataExt as _;
        let booted = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let held = self.locks.first().map(std::fs::File::metadata);
        let (Ok(booted), Some(Ok(held))) = (booted, held) else {
            return crate::auth::credential::fresh();
        };
        let all = format!("{booted}{} {}", held.dev(), held.ino());
        blake3::hash(all.as_bytes()).to_hex().to_string()
    }

    /// Where it is.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }
}

/// Opens the rows of a data directory.
///
/// # Errors
/// When the database cannot be opened or another master key made it.
pub async fn open_metadata(
    settings: &Settings,
    clock: Arc<dyn Clock>,
) -> Result<(Metadata, MasterKey), StartError> {
    let configured = settings.master_key.as_ref().map(Secret::expose);
    let database = settings.data_dir.join("boxgate.db");
    let master_key = MasterKey::load(configured, &settings.data_dir, database.exists())?;
    let options = MetadataOptions {
        clock,
        doomed_for: DOOMED_FOR,
    };
    let metadata = match &settings.metadata {
        Database::Embedded => open_embedded(&database, options).await?,
        Database::Postgres(url) => Metadata::open_postgres(url.expose(), options)
            .await
            .map_err(StartError::Database)?,
    };
    master_key.prove(&metadata).await?;
    Ok((metadata, master_key))
}

/// Takes the rows of the embedded `database` over into the PostgreSQL database of `url`; tells each table.
///
/// # Errors
/// [`StartError::InUse`] while a gateway runs on the data directory; when the master key is not theirs; those of
/// [`transfer::transfer`]. Nothing was taken over then.
pub async fn migrate(
    settings: &Settings,
    database: &std::path::Path,
    url: &str,
    tell: impl FnMut(&transfer::Table) + Send,
) -> Result<(), StartError> {
    let _data_dir = DataDir::open(&settings.data_dir)?;
    let configured = settings.master_key.as_ref().map(Secret::expose);
    let master_key = MasterKey::load(configured, &settings.data_dir, true)?;
    let options = MetadataOptions {
        clock: Arc::new(SystemClock),
        doomed_for: DOOMED_FOR,
    };
    let rows = open_embedded(database, options).await?;
    let proved = master_key.prove(&rows).await;
    rows.close().await;
    proved?;
    let transferred = transfer::transfer(database, url, tell).await;
    transferred.map_err(StartError::Transfer)
}

async fn open_embedded(
    database: &std::path::Path,
    options: MetadataOptions,
) -> Result<Metadata, StartError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    // Made here, so that it and what SQLite keeps beside it are private.
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(database)
        .map_err(|e| StartError::DataDir {
            path: database.to_owned(),
            reason: e.to_string(),
        })?;
    Ok(Metadata::open_sqlite(database, options).await?)
}

/// A clock of a machine may be this far off before it is told of.
const OFF: Duration = Duration::from_secs(30);
/// The time is asked for so often.
const AGREE_EVERY: Duration = Duration::from_secs(10);

/// Sets our clock by the one that all nodes share.
async fn agree(clock: &dyn Clock, metadata: &Metadata) -> boxgate_storage::Result<()> {
    let Some(told) = metadata.shared_time().await? else {
        return Ok(());
    };
    let ahead = clock.agree(told);
    if u128::from(ahead.unsigned_abs()) > OFF.as_millis() {
        tracing::warn!(
            seconds = ahead / 1_000,
            "this machine's clock is ahead of the database's by so much (behind, where it is less than 0); the \
             database's counts for what expires. Set the clock: a bucket may refuse requests signed by it"
        );
    }
    Ok(())
}

/// Keeps our clock with the one that all nodes share.
async fn keep_time(gateway: Arc<Gateway>) {
    let mut every = tokio::time::interval(AGREE_EVERY);
    loop {
        every.tick().await;
        if let Err(error) = agree(&*gateway.clock, &gateway.metadata).await {
            tracing::debug!(
                error = boxgate_storage::error::chain(&error),
                "the time is not told"
            );
        }
    }
}

/// Has each commit of rows counted.
fn observe_commits(metadata: &Metadata, telemetry: &Arc<Telemetry>) {
    let telemetry = Arc::clone(telemetry);
    metadata.on_commit(Arc::new(move |took| {
        let seconds = &telemetry.metrics.metadata_commit_seconds;
        seconds.observe(took.as_secs_f64());
    }));
}

/// The key under which accounts at clouds are hashed, the same at all nodes.
async fn accounts_key(master_key: &MasterKey, metadata: &Metadata) -> Result<[u8; 32], StartError> {
    let (_, key) = master_key.key_for(metadata, provider::PURPOSE).await?;
    Ok(*blake3::hash(&key).as_bytes())
}

/// Warns where another node of the same database was started with other public addresses: all of them make links. The last
/// one that was started is believed, so that an address may change, node by node.
async fn compare_addresses(settings: &Settings, metadata: &Metadata) -> Result<(), StartError> {
    const PURPOSE: &str = "public-url";
    if !matches!(settings.metadata, Database::Postgres(_)) {
        return Ok(());
    }
    let ours = settings.public_url.join(" ");
    let noted = metadata.note(PURPOSE, ours.as_bytes()).await?;
    if let Some(theirs) = noted.filter(|theirs| theirs != ours.as_bytes()) {
        tracing::warn!(
            ours,
            theirs = %String::from_utf8_lossy(&theirs),
            "public_url differs from that of the node that was started before; it must be the same on each"
        );
    }
    Ok(())
}

/// Has spans taken and, once it runs, sent to the collector that is named, if one is.
fn open_exporter(
    settings: &Settings,
    outbound: &Outbound,
    telemetry: &Telemetry,
) -> Result<Option<Exporter>, StartError> {
    let Some(otlp) = &settings.otlp else {
        return Ok(None);
    };
    let metrics = &telemetry.metrics;
    let counted = (&metrics.spans_exported, &metrics.spans_lost);
    let (spans, exporter) = otlp::open(otlp, outbound, counted)?;
    telemetry.record(spans.clone());
    outbound.record(spans);
    Ok(Some(exporter))
}

/// Opens the images of all runtimes, and warns where their keys travel in the open.
fn open_runtimes(
    settings: &Settings,
    outbound: &Outbound,
    metrics: &Images,
) -> Result<Runtimes, StartError> {
    let in_the_open = settings.doors.runtime.enabled
        && settings.listeners.iter().any(|l| {
            let is_open = l.speaks == Speaks::Plain && !l.address.ip().is_loopback();
            is_open && l.doors.contains(Door::Runtime)
        });
    if in_the_open && settings.runtimes.values().any(|runtime| runtime.enabled) {
        tracing::warn!(
            "runtimes are reached by plain http, which shows their keys to the network: set tls = true for \
             listeners that are not on loopback, or let a proxy in front speak TLS"
        );
    }
    Runtimes::open(settings, outbound, metrics)
        .map_err(|(key, source)| StartError::Runtime { key, source })
}

/// The routes of all doors, and those of each listener that has not all of them.
fn compile_routes(settings: &Settings) -> Result<(Router, Vec<Option<Router>>), String> {
    let doors = &settings.doors;
    let of_listener = |listener: &Listener| {
        let apart = listener.doors != DoorSet::ALL;
        apart.then(|| Router::of(doors, listener.doors)).transpose()
    };
    let apart: Result<_, String> = settings.listeners.iter().map(of_listener).collect();
    Ok((Router::try_new(doors)?, apart?))
}

/// Binds the listeners, or takes the sockets that listen already.
async fn listen(sockets: Sockets, gateway: &Gateway) -> Result<Server, StartError> {
    let telemetry = Arc::clone(&gateway.telemetry);
    let certificate = gateway.certificate.clone();
    let bound = Server::bind_with(sockets, &gateway.settings, telemetry, certificate).await;
    bound.map_err(StartError::Listen)
}

/// Opens all stores of the settings.
async fn open_stores(
    metadata: &Metadata,
    settings: &Settings,
    data_dir: &mut DataDir,
) -> Result<BTreeMap<String, Store>, StartError> {
    let mut stores = BTreeMap::new();
    for (name, store) in &settings.stores {
        let opened = match store {
            StoreSettings::Local(store) => {
                data_dir.lock_store(name, &store.path)?;
                let open_files = settings.verify.open_files;
                open_store(metadata, name, &store.path, LocalOptions { open_files }).await?
            }
            StoreSettings::S3(options) => {
                open_bucket(metadata, name, options, settings.uploads.max_age).await?
            }
        };
        stores.insert(name.clone(), opened);
    }
    for name in metadata.stores_in_use().await? {
        if !stores.contains_key(&name) {
            tracing::error!(
                store = name,
                "boxes are in a store that is not configured: they cannot be read"
            );
        }
    }
    Ok(stores)
}

/// Opens the bucket, once it is sure to be the one that the rows tell of.
async fn open_bucket(
    metadata: &Metadata,
    name: &str,
    options: &S3Options,
    max_age: Duration,
) -> Result<Store, StartError> {
    let bucket = format!("s3 {}/{}", options.bucket, options.prefix);
    let purpose = purpose_of(name);
    if let Some(known) = metadata.keys(&purpose).await?.into_iter().next()
        && known.secret != bucket.as_bytes()
    {
        let known = String::from_utf8(known.secret);
        let known = known.ok().filter(|known| known.starts_with("s3 "));
        let known = known.unwrap_or_else(|| "a directory".to_owned());
        return Err(StartError::Bucket {
            name: name.to_owned(),
            bucket,
            known,
        });
    }
    // A call of the SDK is a large future.
    let opened = Box::pin(s3::open(options.clone())).await;
    let (store, found) = opened.map_err(|source| StartError::OpenBucket {
        name: name.to_owned(),
        source,
    })?;
    tracing::info!(
        store = name,
        bucket = options.bucket,
        checksum = found.checksum.name(),
        conditional_writes = found.conditional_writes,
        "bucket opened"
    );
    let days = found.rules.unfinished_after_days;
    if days.is_some_and(|days| Duration::from_hours(24 * u64::from(days)) < max_age + SPARE_AGE) {
        tracing::warn!(
            bucket = options.bucket,
            days,
            "a rule of the bucket removes unfinished uploads before uploads.max_age and two days are over: \
             uploads that rest will be lost"
        );
    }
    if found.rules.objects {
        tracing::warn!(
            bucket = options.bucket,
            "a rule of the bucket removes objects below stores.{name}.prefix: boxes will be lost"
        );
    }
    metadata.first_key(&purpose, bucket.as_bytes()).await?;
    Ok(store)
}

/// What a bucket's rule must leave beside the life of an upload: a part may be on its way at its end.
const SPARE_AGE: Duration = Duration::from_hours(48);
/// Under which the rows keep what tells the store of that name from any other.
fn purpose_of(name: &str) -> String {
    format!("store.{name}")
}

/// Opens the store, once it is sure to be the one that the rows tell of: a volume that is not mounted
/// looks like an empty directory, and must not become a second store.
async fn open_store(
    metadata: &Metadata,
    name: &str,
    path: &std::path::Path,
    options: LocalOptions,
) -> Result<Store, StartError> {
    let marker = path.join("store-id");
    let failed = |reason: String| StartError::Store {
        name: name.to_owned(),
        path: path.to_owned(),
        reason,
    };
    let purpose = purpose_of(name);
    let known = metadata.keys(&purpose).await?.into_iter().next();
    let found = std::fs::read(&marker).ok();
    match (&known, &found) {
        (Some(known), Some(found)) if known.secret == *found => {}
        (Some(_), Some(_)) => return Err(failed("its store-id is another one".into())),
        (Some(_), None) => return Err(failed("its file store-id is missing".into())),
        (None, _) => {
            let id = found.unwrap_or_else(|| crate::auth::credential::fresh().into_bytes());
            // Before its row: a row whose file was lost with the power would shut the store for good.
            durable::make_directory(path, 0o700)
                .and_then(|()| durable::write_file(&marker, &id, 0o600))
                .map_err(|e| failed(e.to_string()))?;
            metadata.first_key(&purpose, &id).await?;
        }
    }
    Ok(local::open_with(path, options).await?)
}

/// Made of rows, and kept until they change.
fn kept_lists(metadata: &Metadata) -> (Documents, Listings) {
    let documents = Recent::lists(metadata, DOCUMENTS_BYTES, |document: &Arc<Document>| {
        document.weight()
    });
    let listings = Recent::lists(metadata, LISTINGS_BYTES, |lines: &Arc<Lines>| {
        lines.weight()
    });
    (documents, listings)
}

fn joiner(
    settings: &Settings,
    metadata: &Metadata,
    engine: &UploadEngine,
    stores: &BTreeMap<String, Store>,
) -> Joiner {
    Joiner::new(
        metadata.clone(),
        engine.clone(),
        stores.clone(),
        settings.uploads.joins_in_progress,
        settings.uploads.joins_waiting,
    )
}

fn engine(
    settings: &Settings,
    metadata: &Metadata,
    stores: BTreeMap<String, Store>,
    (clock, passage): (Arc<dyn Clock>, Passage),
) -> UploadEngine {
    UploadEngine::new(EngineOptions {
        ledger: metadata.ledger(),
        stores,
        default_store: settings.uploads.store.clone(),
        shared: matches!(settings.metadata, Database::Postgres(_)),
        pool: BufferPool::new(settings.uploads.part_budget_bytes),
        clock,
        max_length_bytes: settings.uploads.max_length_bytes,
        min_free_bytes: settings.limits.min_free_bytes,
        parts_in_flight: settings.uploads.parts_in_flight,
        limits: UploadLimits {
            idle: settings.uploads.idle_timeout,
            age: settings.uploads.max_age,
            untargeted_ttl: settings.uploads.untargeted_ttl,
            quarantine: settings.uploads.quarantine_ttl,
            tail_commit: settings.uploads.tail_commit,
            open_per_account: settings.uploads.open_per_principal,
            open_per_organization: settings.uploads.open_per_organization,
        },
        sha256: settings.digests.sha256,
        passage,
    })
}

/// Plugins are asked about what is whole.
fn passage(settings: &Settings, scripts: &Arc<Scripts>, metadata: &Metadata) -> Passage {
    Passage::Gate(Gatekeeping {
        gate: Arc::new(UploadGate::new(Arc::clone(scripts), metadata.clone())),
        pauses: settings.uploads.held_pauses.clone(),
        patience: settings.uploads.held_wait,
    })
}

/// Makes or gives up the ballast, before the database is opened: on a full volume it could not be.
fn settle_ballast(data_dir: &DataDir) -> Result<Ballast, StartError> {
    let settled = Ballast::new(data_dir.path()).and_then(|b| b.settle().map(|()| b));
    settled.map_err(|e| StartError::DataDir {
        path: data_dir.path().to_owned(),
        reason: e.to_string(),
    })
}

/// Loads the plugins, off the reactor.
async fn open_scripts(
    settings: &Settings,
    (outside, links): (Arc<Outside>, Arc<ScriptLinks>),
    metadata: &Metadata,
) -> Result<Arc<Scripts>, StartError> {
    let mut options = hooks::options(settings);
    options.http = Some(outside);
    options.links = Some(links);
    options.pushed = hooks::pushed(metadata).await?;
    options.memory = Some(settings.data_dir.join("kv"));
    let handle = Handle::current();
    options.outbox = Some(Arc::new(ScriptOutbox::new(
        metadata.clone(),
        handle.clone(),
    )));
    options.catalog = Some(Arc::new(ScriptCatalog::new(metadata.clone(), handle)));
    for dir in &options.dirs {
        tracing::info!(dir = %dir.display(), "plugins are read from here");
    }
    let opened = tokio::task::spawn_blocking(move || Scripts::open(options)).await;
    let scripts =
        opened.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))?;
    for status in scripts.status() {
        let (plugin, hash) = (status.plugin, status.hash.unwrap_or_default());
        match status.error {
            None => tracing::info!(plugin, hash, "plugin loaded"),
            Some(error) => tracing::error!(
                plugin,
                in_force = hash,
                error,
                "a plugin does not work as it stands"
            ),
        }
    }
    Ok(Arc::new(scripts))
}

/// Rows and stores of a data directory that no gateway runs on, for commands that look after them.
#[derive(Debug)]
pub struct Premises {
    metadata: Metadata,
    engine: UploadEngine,
    _data_dir: DataDir,
}

impl Premises {
    /// Opens what a gateway made, and makes nothing; but for a database in the place of a `lost` one.
    ///
    /// # Errors
    /// [`StartError`]; [`StartError::InUse`] while a gateway runs on it.
    pub async fn open(settings: &Settings, lost: bool) -> Result<Self, StartError> {
        let database = settings.data_dir.join("boxgate.db");
        let is_there = database.exists() || lost && settings.data_dir.exists();
        if matches!(settings.metadata, Database::Embedded) && !is_there {
            return Err(StartError::DataDir {
                path: settings.data_dir.clone(),
                reason: "no gateway ever ran on it".into(),
            });
        }
        let mut data_dir = DataDir::open(&settings.data_dir)?;
        settle_ballast(&data_dir)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (metadata, _key) = open_metadata(settings, Arc::clone(&clock)).await?;
        let stores = open_stores(&metadata, settings, &mut data_dir).await?;
        // No plugin is here, and nothing may become visible past those that the gateway asks.
        let engine = engine(settings, &metadata, stores, (clock, Passage::Shut));
        Ok(Self {
            metadata,
            engine,
            _data_dir: data_dir,
        })
    }

    /// What is kept here.
    pub fn stock(&self) -> Stock {
        Stock::new(self.metadata.clone(), self.engine.clone()).at_rest()
    }

    /// Lets go of it.
    pub async fn close(self) {
        self.engine.settled().await;
        self.metadata.close().await;
    }
}

/// A gateway that has been put together and listens, but does not serve yet.
#[derive(Debug)]
pub struct App {
    gateway: Arc<Gateway>,
    server: Server,
    ports: Ports,
    drain: Drain,
    ballast: Arc<Ballast>,
    exporter: Option<Exporter>,
    /// What former processes claimed work under, too.
    node: String,
    _data_dir: DataDir,
}

impl App {
    /// Opens everything, binds the listeners.
    ///
    /// # Errors
    /// [`StartError`] names the part and the setting.
    pub async fn start(settings: Settings, telemetry: Arc<Telemetry>) -> Result<Self, StartError> {
        Box::pin(Self::start_with(Sockets::default(), settings, telemetry)).await
    }

    /// The same, at `sockets` that listen already.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(
        sockets: Sockets,
        settings: Settings,
        telemetry: Arc<Telemetry>,
    ) -> Result<Self, StartError> {
        let clock: Arc<dyn Clock> = match &settings.metadata {
            Database::Embedded => Arc::new(SystemClock),
            Database::Postgres(_) => Arc::new(SharedClock::default()),
        };
        Box::pin(Self::assemble(sockets, settings, telemetry, clock)).await
    }

    /// Finds out what can be found out before the data directory is free: whether certificate and routes are good, and whether the
    /// directories are there or can be made. Gives sockets for all listeners: `sockets`, and those that were missing.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn rehearse(sockets: Sockets, settings: &Settings) -> Result<Sockets, StartError> {
        let certificate = settings.tls.as_ref().map(Certificate::load).transpose()?;
        compile_routes(settings).map_err(StartError::Routes)?;
        // Their locks are another's still.
        DataDir::make(&settings.data_dir)?;
        for (name, store) in &settings.stores {
            if let StoreSettings::Local(store) = store {
                DataDir::make_store(name, &store.path)?;
            }
        }
        let all = Server::rehearse(sockets, settings, certificate.as_ref());
        all.map_err(StartError::Listen)
    }

    /// The same, by another clock.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_at(
        settings: Settings,
        telemetry: Arc<Telemetry>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        Box::pin(Self::assemble(
            Sockets::default(),
            settings,
            telemetry,
            clock,
        ))
        .await
    }

    async fn assemble(
        sockets: Sockets,
        settings: Settings,
        telemetry: Arc<Telemetry>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let certificate = settings.tls.as_ref().map(Certificate::load).transpose()?;
        let mut data_dir = DataDir::open(&settings.data_dir)?;
        let node = data_dir.node();
        let ballast = settle_ballast(&data_dir)?;
        let (metadata, master_key) = open_metadata(&settings, Arc::clone(&clock)).await?;
        agree(&*clock, &metadata).await?;
        observe_commits(&metadata, &telemetry);
        compare_addresses(&settings, &metadata).await?;
        master_key.key_for(&metadata, link_keys::PURPOSE).await?;
        let accounts_key = accounts_key(&master_key, &metadata).await?;
        let opened = LinkKeys::open(master_key.clone(), &metadata, clock.now()).await?;
        let link_keys = Arc::new(opened);
        let stores = open_stores(&metadata, &settings, &mut data_dir).await?;
        let outbound = Outbound::new(&settings.outbound);
        let exporter = open_exporter(&settings, &outbound, &telemetry)?;
        let outside = Arc::new(Outside::new(&outbound, &settings, Handle::current()));
        events::begin(&metadata, clock.now()).await?;
        let links = ScriptLinks {
            base: ScriptLinks::base(&settings),
            stores: stores.clone(),
            keys: Arc::clone(&link_keys),
            metadata: metadata.clone(),
            clock: Arc::clone(&clock),
            handle: Handle::current(),
        };
        let reach = (Arc::clone(&outside), Arc::new(links));
        let scripts = open_scripts(&settings, reach, &metadata).await?;
        let passage = passage(&settings, &scripts, &metadata);
        let engine = engine(
            &settings,
            &metadata,
            stores.clone(),
            (Arc::clone(&clock), passage),
        );
        let background = TaskTracker::new();
        let cache = BlockCache::new(settings.cache, background.clone());
        let files = settings.verify.local_max_age.map(FileReads::new);
        let (documents, listings) = kept_lists(&metadata);
        let shortcuts = Recent::answers(&metadata, settings.answers_bytes, Shortcut::weight);
        let (router, routers) = compile_routes(&settings).map_err(StartError::Routes)?;
        let drain = Drain::new(&settings.server);
        let joiner = joiner(&settings, &metadata, &engine, &stores);
        let runtimes = open_runtimes(&settings, &outbound, &telemetry.metrics.images)?;
        let boxitory = Boxitory::open(settings.boxitory.as_ref()).await;
        let rows = metadata.clone();
        let providers = Desk::new(&settings.providers, accounts_key, rows, &background);
        let gateway = Arc::new(Gateway {
            watch: Watch::default(),
            scripts,
            outside,
            upkeep: Upkeep::new(drain.begun(), &node),
            inbox: Inbox::new(settings.hooks.at_once),
            outlet: Outlet::new(&outbound, &settings.webhooks, master_key),
            passed_over: PassedOver::default(),
            providers,
            runtimes,
            admission: Admission::new(&settings),
            link_keys,
            settings,
            metadata,
            engine,
            joiner,
            chunk_sessions: tokio::sync::Mutex::default(),
            stores,
            router,
            routers,
            boxitory,
            telemetry,
            clock,
            background,
            cache,
            files,
            documents,
            listings,
            shortcuts,
            lifecycle: Lifecycle::default(),
            certificate,
        });
        let mut server = listen(sockets, &gateway).await?;
        outbound.listens_at(server.addresses().to_vec());
        Ok(Self {
            gateway,
            ports: server.take_ports(),
            server,
            drain,
            ballast: Arc::new(ballast),
            exporter,
            node,
            _data_dir: data_dir,
        })
    }

    /// What requests will reach.
    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// Its sockets, for a process that comes in the place of this one; given out once.
    pub fn take_ports(&mut self) -> Ports {
        std::mem::take(&mut self.ports)
    }

    /// The addresses that are bound.
    pub fn addresses(&self) -> &[SocketAddr] {
        self.server.addresses()
    }

    /// Where clients reach each of them.
    pub fn urls(&self) -> Vec<String> {
        let speaks = self.gateway.settings.listeners.iter().map(|l| l.speaks);
        self.addresses()
            .iter()
            .zip(speaks)
            .map(|(address, speaks)| format!("{}://{address}", speaks.scheme()))
            .collect()
    }

    /// Finishes or gives up what a former process left. Requests get 503 until [`Self::serve`].
    ///
    /// # Errors
    /// When the database or the store does not answer.
    pub async fn recover(&self) -> Result<(), StartError> {
        let recovered = self.gateway.engine.recover().await?;
        let swept = self.gateway.engine.sweep().await?;
        self.gateway.metadata.release_former(&self.node).await?;
        tracing::info!(
            finished = recovered.finished,
            aborted = recovered.aborted,
            swept = swept.removed,
            "recovered what was left"
        );
        Ok(())
    }

    /// What stops it.
    pub fn drain(&self) -> Drain {
        self.drain.clone()
    }

    /// Lets go of all that it holds, without having served.
    pub async fn close(self) {
        let gateway = self.gateway;
        gateway.engine.settled().await;
        gateway.background.close();
        gateway.background.wait().await;
        gateway.metadata.close().await;
    }

    /// Serves until [`Self::drain`] is signalled and gone through.
    pub async fn serve(self) {
        Box::pin(self.run()).await.finish().await;
    }

    /// Serves until all is over but, when another process comes in the place of this one, the answers that are on their
    /// way. The data directory is free from then on.
    pub async fn run(self) -> Remains {
        let gateway = Arc::clone(&self.gateway);
        gateway.enter(Phase::Serving);
        let sweeper = tokio::spawn(sweep(Arc::clone(&gateway), self.ballast));
        let timekeeper = tokio::spawn(keep_time(Arc::clone(&gateway)));
        let (draining, begun) = (Arc::clone(&gateway), self.drain.begun());
        let leaving = self.drain.handing_over();
        let plugins = tokio::spawn(hooks::watch(Arc::clone(&gateway)));
        let following = tokio::spawn(hooks::follow(Arc::clone(&gateway)));
        let work = Work::begin(&gateway);
        let following_tree = gateway
            .boxitory
            .clone()
            .map(|tree| tokio::spawn(tree.follow()));
        let remembering = tokio::spawn(hooks::remember(Arc::clone(&gateway)));
        let ended = CancellationToken::new();
        let exporting = self
            .exporter
            .map(|exporter| tokio::spawn(exporter.run(ended.clone())));
        let watcher = tokio::spawn(async move {
            begun.cancelled().await;
            // Who looks whether this node is there shall not look elsewhere: it stays.
            if !leaving.is_cancelled() {
                draining.enter(Phase::Draining);
            }
            draining.joiner.halt();
        });
        let responder: Arc<dyn Respond> = Arc::clone(&gateway) as _;
        let handing_over = self.drain.handing_over();
        let remains = self.server.run(responder, self.drain).await;
        sweeper.abort();
        timekeeper.abort();
        watcher.abort();
        plugins.abort();
        following.abort();
        gateway.runtimes.end();
        if let (Some(tree), Some(following)) = (&gateway.boxitory, following_tree) {
            tree.end();
            following.abort();
        }
        let over = async {
            gateway.joiner.stop().await;
            work.over().await;
            gateway.engine.settled().await;
        };
        if handing_over.is_cancelled() {
            // Nobody is served until it is over. What is cut is found as after a kill.
            if tokio::time::timeout(LAST_WORK, over).await.is_err() {
                tracing::warn!("handing over: work behind answers is cut");
            }
        } else {
            over.await;
        }
        remembering.abort();
        gateway.background.close();
        if handing_over.is_cancelled() {
            // Answers that go on may begin more of it all the time.
            let _cut = tokio::time::timeout(LAST_WORK, gateway.background.wait()).await;
            hooks::write_down(&gateway).await;
            let _cut = tokio::time::timeout(LAST_WORK, gateway.metadata.close()).await;
        } else {
            gateway.background.wait().await;
            hooks::write_down(&gateway).await;
            gateway.metadata.close().await;
        }
        // The last answers are told of, too; who comes in the place of this one does not wait for that.
        match exporting {
            Some(exporting) => remains.told_by(exporting, ended),
            None => remains,
        }
    }
}

/// What goes on by itself, and ends by itself once stopping begins, each at the next step where it may.
struct Work(Vec<(&'static str, AbortOnDropHandle<()>)>);

impl Work {
    fn begin(gateway: &Arc<Gateway>) -> Self {
        let mut all = Self(Vec::new());
        let gateway = || Arc::clone(gateway);
        all.add("looking after runtimes", runtime::run(gateway()));
        all.add("upkeep", background::run(gateway()));
        all.add("telling events", events::run(gateway()));
        all.add(
            "telling plugins that are behind",
            stragglers::run(gateway()),
        );
        all.add("schedules", schedule::run(gateway()));
        all.add("sharing rates", shares::run(gateway()));
        all.add("running webhooks", webhook::work::run(gateway()));
        all.add("sending webhooks", webhook::sender::run(gateway()));
        all.add("asking about held uploads", hooks::ask_again(gateway()));
        all
    }

    fn add(&mut self, what: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let task = AbortOnDropHandle::new(tokio::spawn(work));
        self.0.push((what, task));
    }

    /// Waits until all of it has ended. What has not is cut where this is dropped.
    async fn over(self) {
        for (what, task) in self.0 {
            if let Err(panicked) = task.await {
                tracing::error!(error = %panicked, what, "what went on by itself broke");
            }
        }
    }
}

async fn sweep(gateway: Arc<Gateway>, ballast: Arc<Ballast>) {
    let told = |what: &str, error: &boxgate_storage::Error| {
        tracing::warn!(error = %boxgate_storage::error::chain(error), "{what} failed");
    };
    let mut every = tokio::time::interval(SWEEP_EVERY);
    loop {
        every.tick().await;
        let settling = Arc::clone(&ballast);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || settling.settle()).await {
            tracing::warn!(%error, "ballast not settled");
        }
        if let Err(error) = gateway.engine.sweep().await {
            told("removing what is due", &error);
        }
        if let Err(error) = gateway.joiner.start_ready().await {
            told("joining what is ready", &error);
        }
        if let Err(error) = events::prune(&gateway).await {
            told("forgetting events", &error);
        }
        if let Err(error) = webhook::prune(&gateway).await {
            told("forgetting webhooks", &error);
        }
        if let Err(error) = provider::prune(&gateway).await {
            told("forgetting orders", &error);
        }
        if let Err(error) = gateway.metadata.purge_expired_tokens().await {
            told("forgetting expired tokens", &error);
        }
        let ended = gateway.clock.now().minus(ENDED_UPLOADS_KEPT);
        if let Err(error) = gateway.metadata.purge_uploads(ended).await {
            told("forgetting ended uploads", &error);
        }
    }
}
